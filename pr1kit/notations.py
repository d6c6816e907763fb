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

_NUMBER = r"[-+]?(?:[0-9]{1,9}+(?:\.[0-9]{0,20}+)?|\.[0-9]{1,20}+)(?:[eE][-+]?[0-9]{1,2}+)?"
_COUPLE = rf"({_NUMBER})\s*+,\s*+({_NUMBER})"
_PAIR = re.compile(rf"\(\s*+{_COUPLE}\s*+\)\s*+,?\s*+\(\s*+{_COUPLE}\s*+\)")
_HALF = re.compile(rf"\(\s*+{_NUMBER}\s*+(?:,|$)")
_LIST = re.compile(r"\[([^\[\]]*+)(\]|$)")
_INSIDE = re.compile(rf"[\s(\[]*+{_COUPLE}(?:[\s)\]]*+,?[\s(\[]*+{_COUPLE})?[\s)\]]*+")
_OBJECT = re.compile(r"\{([^{}]*+)(\}|$)")
_FIELDS = re.compile(
    r"(bbox_2d|bbox|point_2d|point)[\"']?\s*+:\s*+(\[[^\[\]]{0,200}+\])|label[\"']?\s*+:\s*+[\"']([^\"']*+)[\"']"
)


class Place(NamedTuple):
    """One item as written: its four (box) or two (point) numbers, its label, and what is wrong with it."""

    values: list[float]
    label: str = ""
    fault: str = ""


def find_places(text: str) -> list[Place]:
    """The items of `text`, in the first notation that occurs in it.

    >>> find_places("a cat (1,2),(3,4)")
    [Place(values=[1.0, 2.0, 3.0, 4.0], label='a cat', fault='')]
    """
    return next(filter(None, (read(text) for read in (_objects, _tokens, _pairs, _lists))), [])


def find_fault(place: Place, labelled: bool) -> str:
    """What is wrong with an item, "" if nothing. A comparison with NaN is false, so NaN is never in range."""
    values, label, fault = place
    if fault or len(values) not in (2, 4):
        return fault or "not two or four numbers"
    x1, y1, x2, y2 = values if len(values) == 4 else values * 2
    if not (-LARGEST <= x1 <= x2 <= LARGEST and -LARGEST <= y1 <= y2 <= LARGEST):
        inside = all(-LARGEST <= value <= LARGEST for value in values)
        return "swapped corners" if inside else "a number beyond any image"
    return "no label" if labelled and not label.strip() else ""


def _numbers(text: str) -> list[float]:
    """The four or two numbers of one box or point, brackets and commas around them; else the empty list."""
    found = _INSIDE.fullmatch(text) if len(text) < 500 else None
    return [float(value) for value in found.groups() if value] if found else []


def _objects(text: str) -> list[Place]:
    """JSON objects that hold a box or a point; complete ones count even where the list around them is broken."""
    if "{" not in text:
        return []
    places, known = [], False
    for found in _OBJECT.finditer(text):
        if not found[2]:
            places.append(Place([], fault="cut short"))
            known |= "bbox" in found[1] or "point" in found[1]
            continue
        item = _fields(found[0])
        known |= not item.keys().isdisjoint(("bbox_2d", "bbox", "point_2d", "point", "label"))
        values = next((item[key] for key in ("bbox_2d", "bbox", "point_2d", "point") if key in item), None)
        if isinstance(values, list) and len(values) == 1 and isinstance(values[0], list):
            values = values[0]
        label = item.get("label")
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            places.append(Place([], fault="no box"))
        else:
            values = [float(value) if abs(value) <= LARGEST else math.nan for value in values]
            places.append(Place(values, label if isinstance(label, str) else ""))
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
    places, label = [], ""
    before, *pieces = text.split("<|box_start|>")
    for piece in pieces:
        if "<|object_ref_start|>" in before:
            label = before.rpartition("<|object_ref_start|>")[2].partition("<|object_ref_end|>")[0]
        inside, closed, rest = piece.partition("<|box_end|>")
        places.append(Place(_numbers(inside), label, "" if closed else "cut short"))
        before = rest if closed else inside
    return places


def _pairs(text: str) -> list[Place]:
    """`(x1,y1),(x2,y2)`: how box tokens look once a tokenizer has stripped them. The words before are the label."""
    places, end = [], 0
    for found in _PAIR.finditer(text):
        label = text[max(end, found.start() - 100) : found.start()]
        places.append(Place([float(value) for value in found.groups()], label.strip(" \t\r\n,;:.")))
        end = found.end()
    if places:
        halves = sum(1 for _ in _HALF.finditer(text)) - 2 * len(places)
        places += [Place([], fault="cut short")] * ((halves + 1) // 2)
    return places


def _lists(text: str) -> list[Place]:
    """`[x1, y1, x2, y2]`, nested or not; lists that do not begin with a number are prose."""
    return [
        Place(_numbers(inside), fault="" if closed else "cut short")
        for inside, closed in _LIST.findall(text)
        if re.match(r"\s*+[-+.]?[0-9]", inside)
    ]
