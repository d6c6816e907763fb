"""In which notations do models write boxes and points, and what is wrong with an item?

Four occur: JSON objects (`bbox_2d`, `point_2d`), Qwen's box tokens, `(x1,y1),(x2,y2)` pairs (the same, once a tokenizer
has stripped them), `[x1,y1,x2,y2]` lists. Each reader gives every item it finds, good or bad, and none where the text
is not in its notation. Every expression runs in linear time: repeats are bounded or possessive (`*+`), so none
backtracks far. Nothing is ever evaluated.
"""

from __future__ import annotations

import json
import math
import re
from typing import NamedTuple

LARGEST = 1e6  # a coordinate beyond any image is no coordinate
MOST_FRAMES = 10_000  # a frame beyond any video is no frame

_NUMBER = r"[-+]?(?:[0-9]{1,9}+(?:\.[0-9]{0,20}+)?|\.[0-9]{1,20}+)(?:[eE][-+]?[0-9]{1,2}+)?"
_COUPLE = rf"({_NUMBER})\s*+,\s*+({_NUMBER})"
_PAIR = re.compile(rf"\(\s*+{_COUPLE}\s*+\)\s*+,?\s*+\(\s*+{_COUPLE}\s*+\)")
_HALF = re.compile(rf"\(\s*+{_NUMBER}\s*+(?:,|$)")
_LIST = re.compile(r"\[([^\[\]]*+)(\]|$)")
_INSIDE = re.compile(rf"[\s(\[]*+{_COUPLE}(?:[\s)\]]*+,?[\s(\[]*+{_COUPLE})?[\s)\]]*+")
_USUAL = re.compile(r"\(([0-9]{1,4}),([0-9]{1,4})\),\(([0-9]{1,4}),([0-9]{1,4})\)")
_TRACK = re.compile(
    r"(?P<head>\btrack\s{0,9}+(?P<number>[0-9]{1,6}+)\s{0,9}+:)|<(?P<close>/?)id(?P<id>[0-9]{1,6}+)>"
    r"|frame\s{0,9}+(?P<frame>[0-9]{1,12}+)\s{0,9}+:(?P<box>\s{0,9}+[\[(][^;\n<\]A-Za-z]{0,200}+\]?)?",
    re.IGNORECASE,
)
_SPAN = r"[0-9]{1,12}+(?:\s{0,9}+(?:-|–|to)\s{0,9}+[0-9]{1,12}+)?"
_SPANS = rf"{_SPAN}(?:\s{{0,9}}+(?:,|;|and)\s{{0,9}}+{_SPAN})*+"
_FRAMES = re.compile(rf"\bframes?\s{{0,9}}+({_SPANS})", re.IGNORECASE)
_NUMBERS = re.compile(_SPANS)
_FROM_TO = re.compile(r"([0-9]{1,12}+)(?:\s{0,9}+(?:-|–|to)\s{0,9}+([0-9]{1,12}+))?")
_OBJECT = re.compile(r"\{([^{}]*+)(\}|$)")
_FIELDS = re.compile(
    r"(bbox_2d|bbox|point_2d|point)[\"']?\s*+:\s*+(\[[^\[\]]{0,200}+\])|label[\"']?\s*+:\s*+[\"']([^\"']*+)[\"']"
)


class Place(NamedTuple):
    """One item as written: its four (box) or two (point) numbers, its label, what is wrong with it, and its place.

    `span` is `(start, end)` in the text that was read, label included.
    """

    values: list[float]
    label: str = ""
    fault: str = ""
    span: tuple[int, int] = (0, 0)


def read_notation(text: str) -> tuple[str, list[Place]]:
    """The name of the first notation that occurs in `text` ("json", "tokens", "pairs", "lists", or ""), and its items.

    >>> read_notation("a cat (1,2),(3,4)")
    ('pairs', [Place(values=[1.0, 2.0, 3.0, 4.0], label='a cat', fault='', span=(0, 17))])
    """
    for name, read in (("json", _objects), ("tokens", _tokens), ("pairs", _pairs), ("lists", _lists)):
        if places := read(text):
            return name, places
    return "", []


def write_place(notation: str, values: list[float], label: str = "") -> str:
    """One item in `notation`: what `read_notation` reads back. Four numbers make a box, two a point.

    >>> write_place("pairs", [1, 2.5, 3, 4], "cat"), write_place("json", [5, 6])
    ('cat(1,2.5),(3,4)', '{"point_2d": [5, 6]}')
    """
    numbers = [f"{value:.2f}".rstrip("0").rstrip(".") for value in values]
    if notation == "json":
        key = "bbox_2d" if len(values) == 4 else "point_2d"
        named = f', "label": {json.dumps(label, ensure_ascii=False)}' if label else ""
        return f'{{"{key}": [{", ".join(numbers)}]{named}}}'
    if notation == "lists":
        return f"[{', '.join(numbers)}]"
    couples = ",".join(f"({','.join(numbers[i : i + 2])})" for i in range(0, len(numbers), 2))
    if notation == "pairs":
        return label + couples
    named = f"<|object_ref_start|>{label}<|object_ref_end|>" if label else ""
    return f"{named}<|box_start|>{couples}<|box_end|>"


def find_fault(place: Place, labelled: bool) -> str:
    """What is wrong with an item, "" if nothing. A comparison with NaN is false, so NaN is never in range."""
    values, label, fault, _ = place
    if fault or len(values) not in (2, 4):
        return fault or "not two or four numbers"
    x1, y1, x2, y2 = values if len(values) == 4 else values * 2
    if not (-LARGEST <= x1 <= x2 <= LARGEST and -LARGEST <= y1 <= y2 <= LARGEST):
        inside = all(-LARGEST <= value <= LARGEST for value in values)
        return "swapped corners" if inside else "a number beyond any image"
    return "no label" if labelled and not label.strip() else ""


class Step(NamedTuple):
    """One frame of one track as written: `place` is its box, `owner` the track's number in the order of the text.

    `frame` counts from 0; it is -1 where the text names no frame that a video can have.
    """

    place: Place
    frame: int
    owner: int


def read_tracks(text: str) -> list[Step]:
    """The boxes that follow `Frame t:`, each with its frame and its track; a track begins with `Track n:` or `<Idn>`.

    As Merlin writes them, `Track1: <name><Id1>Frame 1:[x1,y1,x2,y2];…</Id1>`, or without names where there is one. A
    frame given twice in a track is a fault, its second box dropped.

    >>> step = read_tracks("Track1: <cat><Id1>Frame 2:[1,2,3,4]</Id1>")[0]
    >>> step.frame, step.owner, step.place.label
    (1, 0, 'cat')
    """
    steps: list[Step] = []
    owners: dict[str, int] = {}
    known: set[tuple[int, int]] = set()
    name, label, begun = "", "", 0  # the track's, its words, where these begin
    for found in _TRACK.finditer(text):
        if found["head"]:
            name, label, begun = found["number"], "", found.end()
        elif found["id"]:
            if begun:
                label, begun = _words(text[begun : found.start()]), 0
            name = "" if found["close"] else found["id"]
            label = "" if found["close"] else label
        else:
            if begun:
                label, begun = _words(text[begun : found.start()]), 0
            owner = owners.setdefault(name, len(owners))
            frame = int(found["frame"]) - 1
            written = (found["box"] or "").strip(" \t,")
            fault = "" if written else "no box"
            if written and written[-1] not in "])":
                fault = "cut short"
            elif not 0 <= frame < MOST_FRAMES:
                fault, frame = "no such frame", -1
            elif (owner, frame) in known:
                fault = "a frame given twice"
            known.add((owner, frame))
            values = _numbers(written)
            fault = fault or ("" if len(values) == 4 else "not four numbers")
            steps.append(Step(Place(values, label, fault, found.span()), frame, owner))
    return steps


def _words(text: str) -> str:
    return text[-200:].strip(" \t\r\n<>:;,.")


def read_spans(text: str) -> list[tuple[int, int, str]]:
    """First and last frame, from 0, and what is wrong with it, of each span in an answer such as `Frame 2-5;Frame 8`.

    Frames stand behind the word, or are all that the text holds.

    >>> read_spans("Frame 2-5; 8"), read_spans("3 to 2"), read_spans("two of 8")
    ([(1, 4, ''), (7, 7, '')], [(2, 1, 'last frame before the first')], [])
    """
    bare = text.strip(" \t\r\n.;[]")
    listed = [bare] if _NUMBERS.fullmatch(bare) else _FRAMES.findall(text)
    spans = []
    for first, last in _FROM_TO.findall(";".join(listed)):
        a, b = int(first) - 1, int(last or first) - 1
        fault = "last frame before the first" if b < a else ""
        spans.append((a, b, fault if 0 <= min(a, b) and max(a, b) < MOST_FRAMES else "no such frame"))
    return spans


def _numbers(text: str) -> list[float]:
    """The four or two numbers of one box or point, brackets and commas around them; else the empty list."""
    if plain := _USUAL.fullmatch(text):  # as nearly all are, and faster
        return list(map(float, plain.groups()))
    found = _INSIDE.fullmatch(text) if len(text) < 500 else None
    return [float(value) for value in found.groups() if value] if found else []


def _objects(text: str) -> list[Place]:
    """JSON objects that hold a box or a point; complete ones count even where the list around them is broken."""
    if "{" not in text:
        return []
    places, known = [], False
    for found in _OBJECT.finditer(text):
        if not found[2]:
            places.append(Place([], fault="cut short", span=found.span()))
            known |= "bbox" in found[1] or "point" in found[1]
            continue
        item = _fields(found[0])
        known |= not item.keys().isdisjoint(("bbox_2d", "bbox", "point_2d", "point", "label"))
        values = next((item[key] for key in ("bbox_2d", "bbox", "point_2d", "point") if key in item), None)
        if isinstance(values, list) and len(values) == 1 and isinstance(values[0], list):
            values = values[0]
        label = item.get("label")
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            places.append(Place([], fault="no box", span=found.span()))
        else:
            values = [float(value) if abs(value) <= LARGEST else math.nan for value in values]
            places.append(Place(values, label if isinstance(label, str) else "", span=found.span()))
    return places if known else []


def _fields(text: str) -> dict:
    """One flat JSON object; where it is not quite JSON (single quotes, a stray comma) its fields one by one."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        item: dict = {}
        for key, values, label in _FIELDS.findall(text):
            if key:
                item.setdefault(key, _numbers(values) or None)
            else:
                item.setdefault("label", label)
        return item


def _tokens(text: str) -> list[Place]:
    """Qwen's `<|box_start|>(x1,y1),(x2,y2)<|box_end|>`; an `<|object_ref_start|>` label holds until the next."""
    places, label, end = [], "", 0
    before, *pieces = text.split("<|box_start|>")
    at = len(before)  # where the box's opening token stands
    for piece in pieces:
        start = at
        if "<|object_ref_start|>" in before:
            label = before.rpartition("<|object_ref_start|>")[2].partition("<|object_ref_end|>")[0]
            start = end + before.rindex("<|object_ref_start|>")
        inside, closed, rest = piece.partition("<|box_end|>")
        inner = at + len("<|box_start|>")
        end = inner + len(inside) + len(closed) if closed else inner
        shown = end if closed else inner + len(inside.rstrip())
        places.append(Place(_numbers(inside), label, "" if closed else "cut short", (start, shown)))
        before, at = rest if closed else inside, inner + len(piece)
    return places


def _pairs(text: str) -> list[Place]:
    """`(x1,y1),(x2,y2)`: how box tokens look once a tokenizer has stripped them. The words before are the label."""
    places, end, opened = [], 0, set()
    for found in _PAIR.finditer(text):
        before = text[max(end, found.start() - 100) : found.start()]
        label = before.strip(" \t\r\n,;:.")
        start = found.start() - len(before) + before.find(label) if label else found.start()
        places.append(Place([float(value) for value in found.groups()], label, span=(start, found.end())))
        opened |= {found.start(), text.rindex("(", 0, found.start(3))}
        end = found.end()
    if places:
        halves = [half.span() for half in _HALF.finditer(text)]
        missing = (len(halves) - 2 * len(places) + 1) // 2
        broken = [span for span in halves if span[0] not in opened][::2] if missing else []
        places += [Place([], fault="cut short", span=span) for span in broken[:missing]]
    return places


def _lists(text: str) -> list[Place]:
    """`[x1, y1, x2, y2]`, nested or not; lists that do not begin with a number are prose."""
    return [
        Place(_numbers(found[1]), fault="" if found[2] else "cut short", span=found.span())
        for found in _LIST.finditer(text)
        if re.match(r"\s*+[-+.]?[0-9]", found[1])
    ]
