"""What does a completion say? One parser for training and for evaluation.

A completion goes through two sieves. `locate_answer` finds the text that counts: thoughts are cut away, the last closed
`<answer>` wins. `read_places` (boxes and points, in the notations of `notations`) or `read_text` then makes the answer.
A bad item drops itself and lowers the format score; its neighbours count. No text can stall, crash or run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pr1kit.rewards.notations import find_fault, read_notation, read_spans, read_tracks
from pr1kit.rewards.results import Answer

THINK_FIRST = "Think first inside <think>…</think>, then answer inside <answer>…</answer>."
LONGEST = 16_384  # characters in which boxes are looked for: some 300 objects; no honest answer is longer

_STATED = re.compile(r"(?<![\w.,-])[0-9]{1,9}+(?:\.[0-9]{1,9}+)?(?!\w|[.,][0-9])")
_SENTENCE = re.compile(r"\n|[.!?。](?=\s)")
_TAG = re.compile(r"<(/?)(think|answer)>", re.IGNORECASE)
END = re.compile(r"<\|(?:im_end|endoftext)\|>|<｜end▁of▁sentence｜>")
_FENCE = re.compile(r"```[a-zA-Z]{0,12}+")
_NOTHING = re.compile(
    r"(?:\[\s*+\]|null|(?:none|nothing|no|there (?:is|are|were) (?:no|none|nothing))\b[^0-9]{0,120})", re.I
)


def build_prompt(question: str, thinking: bool = False) -> str:
    """The user's words, with the request to think first where wanted.

    >>> build_prompt("OCR this image.")
    'OCR this image.'
    """
    return f"{question} {THINK_FIRST}" if thinking else question


def whole(box: np.ndarray) -> list[int]:
    """The coordinates of one box rounded to integers.

    >>> whole(np.array([0.6, 1.0, 7.2, 9.9]))
    [1, 1, 7, 10]
    """
    return [round(float(value)) for value in box]


def boxed(label: str, box: np.ndarray) -> str:
    """One object in Qwen2-VL's box tokens.

    >>> boxed("cat", np.array([1, 2, 3, 4.0]))
    '<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>'
    """
    x1, y1, x2, y2 = whole(box)
    return f"<|object_ref_start|>{label}<|object_ref_end|><|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"


def normalize_label(label: str) -> str:
    """A label as it is compared: trimmed, single blanks, case folded.

    >>> normalize_label("  Traffic  LIGHT ")
    'traffic light'
    """
    return " ".join(label.split()).casefold()


def same_labels(said: Sequence[str], truth: Sequence[str]) -> np.ndarray:
    """Which labels agree as they are compared, `(N, M)` bool.

    >>> same_labels(["Cat", "dog"], ["cat"]).tolist()
    [[True], [False]]
    """
    names = list(map(normalize_label, truth))
    rows = [[label == name for name in names] for label in map(normalize_label, said)]
    return np.array(rows, bool).reshape(len(said), len(truth))


def is_tagged(completion: Any) -> bool:
    """Whether a completion is one closed thought followed by one closed answer, as the thinking prompt asks.

    >>> is_tagged("<think>hm</think><answer>[]</answer>"), is_tagged("[]")
    (True, False)
    """
    if not isinstance(completion, str):
        return False
    text = END.split(completion, maxsplit=1)[0].strip()
    tags = [tag.group().lower() for tag in _TAG.finditer(text)]
    return (
        tags == ["<think>", "</think>", "<answer>", "</answer>"]
        and text[:7].lower() == "<think>"
        and text[-9:].lower() == "</answer>"
    )


def locate_answer(completion: Any) -> tuple[str, tuple[int, int], str]:
    """The part of a completion that counts, where it stands, and why there is none: `(text, (start, end), reason)`.

    Everything after the end-of-turn token and every thought goes. A thought closed but never opened began in the
    prompt; one never closed is no answer. The last closed `<answer>` is the answer; one cut short counts if alone.
    Without an answer, `(start, end)` is where the fault is.

    >>> locate_answer("<think>(1,1),(2,2)</think> <answer>None</answer> done")
    ('None', (35, 39), '')
    >>> locate_answer("so <think>hm")
    ('', (3, 12), 'the thought is not closed')
    """
    if not isinstance(completion, str):
        return "", (0, 0), "no text"
    text = END.split(completion, maxsplit=1)[0]
    pieces = [(0, len(text))]  # what is no thought
    first, last = 0, len(text)  # the answer, in what is no thought
    if _TAG.search(text):
        pieces, start, thinking = [], 0, None
        for tag in _TAG.finditer(text):
            if tag[2].lower() != "think":
                continue
            if tag[1]:
                if thinking is None:
                    pieces.clear()  # its opening tag stood in the prompt, or within the thought before
                start, thinking = tag.end(), None
            elif thinking is None:
                pieces.append((start, tag.start()))
                thinking = tag.start()
        if thinking is not None:
            return "", (thinking, len(text)), "the thought is not closed"
        pieces.append((start, len(text)))
        text = "".join(text[a:b] for a, b in pieces)
        first, last = _last_answer(text)
    answer = text[first:last]
    first += len(answer) - len(answer.lstrip())
    answer = answer.strip()
    span = (_origin(pieces, first, 1), _origin(pieces, first + len(answer), 0))
    return answer, span, "" if answer else "no text"


def _last_answer(text: str) -> tuple[int, int]:
    """What stands between the last pair of answer tags, or after a lone opening one; else all of `text`."""
    answer, start = None, None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            answer, start = (start, tag.start()), None
    return answer or (start or 0, len(text))


def _origin(pieces: list[tuple[int, int]], position: int, beyond: int) -> int:
    """Where a position in the joined `pieces` stood; one on a seam ends a piece, or with `beyond` 1 begins the next."""
    for a, b in pieces:
        if position + beyond <= b - a:
            return a + position
        position -= b - a
    return pieces[-1][1]


def read_text(completion: Any) -> Answer:
    """The answer as plain text: for tasks whose answer is words. A fence around the whole answer is taken off.

    >>> read_text("<answer>STOP</answer>").text
    'STOP'
    """
    text, _, reason = locate_answer(completion)
    if text.startswith("```") and text.endswith("```") and len(text) >= 6:
        text = _FENCE.sub("", text, count=1)[:-3].strip()
    return Answer(text=text, reason=reason, format_score=float(not reason), explicit=not reason)


def is_nothing(text: str) -> bool:
    """Whether an answer says in so many words that there is nothing: `[]`, `null`, `None`, "No objects", …

    >>> is_nothing("[]"), is_nothing("There are no cats."), is_nothing(""), is_nothing("0")
    (True, True, False, False)
    """
    return len(text) < 200 and _NOTHING.fullmatch(_FENCE.sub("", text).strip().strip("\"'.")) is not None


def read_number(text: str) -> int | None:
    """The whole number that an answer states: the one in its last sentence or line with a number; None where that has
    several different ones, or a fraction.

    >>> read_number("1. a cube\\n2. a cone\\nSo there are 2 things."), read_number("3 or 4"), read_number("4.5")
    (2, None, None)
    """
    for sentence in reversed(_SENTENCE.split(text[:LONGEST])):
        if found := {float(number) for number in _STATED.findall(sentence)}:
            number = found.pop() if len(found) == 1 else math.nan
            return int(number) if number.is_integer() else None
    return None


def _read_items(completion: Any, read: Callable[[str], list], what: str) -> tuple[str, list, Answer | None]:
    """The text that counts and the items that `read` finds in it; the `Answer` where there is none, else None."""
    text, _, reason = locate_answer(completion)
    if reason:
        return "", [], Answer(reason=reason, explicit=False)
    text = text[:LONGEST]
    if items := read(text):
        return text, items, None
    nothing = is_nothing(text)
    reason = "" if nothing else f"no {what} in the answer"
    return text, [], Answer(text=text, reason=reason, format_score=float(nothing))


def read_places(completion: Any, *, labelled: bool = False) -> Answer:
    """Boxes `(N, 4)` and points `(N', 2)` of a completion, in its own frame; `labelled`: an item needs a label.

    `format_score` is the share of well-formed items, 1 for an explicit "nothing" and 0 where nothing can be read.

    >>> read_places("a cat(1,2),(3,4) a dog(9,9),(5,5)").reason
    '1 of 2 items dropped: swapped corners'
    """
    text, places, without = _read_items(completion, lambda text: read_notation(text)[1], "box")
    if without is not None:
        return without
    boxes, labels, points, faults = [], [], [], []
    for place in places:
        if fault := find_fault(place, labelled):
            faults.append(fault)
        elif len(place.values) == 4:
            boxes.append(place.values)
            labels.append(place.label)
        else:
            points.append(place.values)
    return Answer(
        boxes=np.array(boxes, float).reshape(-1, 4),
        labels=tuple(labels),
        points=np.array(points, float).reshape(-1, 2),
        text=text,
        reason=f"{len(faults)} of {len(places)} items dropped: {faults[0]}" if faults else "",
        format_score=1 - len(faults) / len(places),
        malformed=len(faults),
    )


def read_steps(completion: Any) -> Answer:
    """The boxes `(N, 4)` of tracks, in the completion's own frame of numbers, each with its video frame and its track.

    >>> answer = read_steps("Frame 1:[1,2,3,4];Frame 3:[2,2,4,4]")
    >>> answer.frames.tolist(), answer.owners.tolist(), answer.format_score
    ([0, 2], [0, 0], 1.0)
    """
    text, steps, without = _read_items(completion, read_tracks, "frame")
    if without is not None:
        return without
    faults = [find_fault(step.place, False) for step in steps]
    good = [step for step, fault in zip(steps, faults, strict=True) if not fault]
    dropped = len(steps) - len(good)
    return Answer(
        boxes=np.array([step.place.values for step in good], float).reshape(-1, 4),
        labels=tuple(step.place.label for step in good),
        text=text,
        reason=f"{dropped} of {len(steps)} frames dropped: {next(filter(None, faults))}" if dropped else "",
        format_score=1 - dropped / len(steps),
        malformed=dropped,
        frames=np.array([step.frame for step in good], int),
        owners=np.array([step.owner for step in good], int),
    )


def read_frames(completion: Any) -> Answer:
    """The spans `(K, 2)` of frames, from 0, that an answer names.

    >>> read_frames("Frame 2-5").spans.tolist()
    [[1, 4]]
    """
    text, spans, without = _read_items(completion, read_spans, "frame")
    if without is not None:
        return without
    faults = [fault for *_, fault in spans if fault]
    return Answer(
        text=text,
        reason=f"{len(faults)} of {len(spans)} spans dropped: {faults[0]}" if faults else "",
        format_score=1 - len(faults) / len(spans),
        malformed=len(faults),
        spans=np.array([span[:2] for span in spans if not span[2]], int).reshape(-1, 2),
    )
