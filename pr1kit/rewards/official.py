"""What does Perception-R1's released code read in a completion? Its parsers and format gates, for `released-strict`.

The official parsers are stricter than ours in places and laxer in others, and they decide most of what an answer earns:

    grounding  the format test passes whatever begins with `<` (an alternation in its expression is not escaped); the
               box is the first of [a,b,c,d], (a,b,c,d), (a,b),(c,d); without `<|box_start|>` it is multiplied by 1000
    counting   the completion must begin with ONE label, then boxes, then `<|im_end|>`; a box that cannot be read is
               left out without a word
    detection  the whole completion is one JSON list; classes are COCO's, letter for letter; one inverted box, one
               box of other than four numbers, or no item at all, and the answer earns 0

Two things are not repeated: the official code evaluates box text as Python (here only literals are read), and it raises
where areas cancel (here such an answer earns 0). Its class table has an index fault, mended here.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from typing import Any

import numpy as np

from pr1kit.data.sample import Target
from pr1kit.rewards.parsing import END
from pr1kit.rewards.results import Answer

LONGEST_LITERAL = 200  # characters between two box tokens; a longer one is no box
COCO_CLASSES = frozenset(
    """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,
    bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,
    snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,
    fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,
    potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,
    refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush""".replace("\n    ", "").split(",")
)

_OPENINGS = ("<", ">", "object_ref_start", "object_ref_end", "box_start", "box_end", "im_end")
_NUMBER = r"\s*+(-?\d++(?:\.\d++)?)"
_FOUR = [
    re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\s*+\]"),
    re.compile(rf"\({_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\s*+\)"),
    re.compile(rf"\({_NUMBER},{_NUMBER}\),\s*+\({_NUMBER},{_NUMBER}\)"),
]
_COUNTED = re.compile(
    r"<\|object_ref_start\|>[^<]*+<\|object_ref_end\|>(?:<\|box_start\|>[^<]*+<\|box_end\|>)++<\|im_end\|>"
)
_PLAIN = re.compile(r"\((0|[1-9][0-9]{0,8}),(0|[1-9][0-9]{0,8})\),\((0|[1-9][0-9]{0,8}),(0|[1-9][0-9]{0,8})\)")
_START, _END = "<|box_start|>", "<|box_end|>"


def grounding(completion: Any, target: Target) -> Answer:
    """At most one box, maybe inverted, in the completion's frame; `format_score` 1 where the format test passes.

    >>> grounding("<the cat is at [1, 2, 3, 4], or not", Target()).format_score
    1.0
    """
    text = completion.replace("<|endoftext|>", "") if isinstance(completion, str) else ""
    passes = text.startswith(_OPENINGS)
    found = next((match for match in (one.search(text) for one in _FOUR) if match), None)
    box = [float(value) for value in found.groups()] if found else []
    if box and _START not in text:
        box = [float(math.trunc(value * 1000)) for value in box] if all(map(math.isfinite, box)) else []
    reason = "" if passes and box else "no box in the answer" if passes else "the official format test fails"
    return _answer([box] if box and all(map(math.isfinite, box)) else [], text, float(passes), reason)


def counting(completion: Any, target: Target) -> Answer:
    """The boxes between box tokens, corners in any order; none where the official format test fails.

    >>> counting("<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>", Target()).reason
    'the official format test fails'
    """
    text = completion if isinstance(completion, str) else ""
    if not _COUNTED.match(text):
        return _answer([], text, 0.0, "the official format test fails")
    return counted_boxes(completion, target)


def counted_boxes(completion: Any, target: Target) -> Answer:
    """The boxes between box tokens, without the format test: what the official evaluation of counting reads."""
    text = completion.replace("<|endoftext|>", "") if isinstance(completion, str) else ""
    boxes = [box for box in map(_literal_box, _between_tokens(text)) if box]
    return _answer(boxes, text, 1.0, "" if boxes else "no box in the answer")


def listed_boxes(completion: Any, target: Target) -> Answer:
    """The items of a JSON list up to the first faulty one, of any label: what the official evaluation of AP reads."""
    text = completion if isinstance(completion, str) else ""
    if "<answer>" in text:
        text = text.split("<answer>")[1].split("</answer>")[0]
    boxes, labels = [], []
    try:
        for item in json.loads(text.replace("```json", "").replace("```", "")):
            x1, y1, x2, y2 = map(float, item["bbox_2d"])
            boxes.append([x1, y1, x2, y2])
            labels.append(str(item["label"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        pass
    return _answer(boxes[: len(labels)], text, float(bool(boxes)), "" if boxes else "no JSON", tuple(labels))


def whole_text(completion: Any, target: Target) -> Answer:
    """All of a completion, up to its end token."""
    text = END.split(completion, maxsplit=1)[0] if isinstance(completion, str) else ""
    return Answer(text=text, explicit=False)


def detection(completion: Any, target: Target) -> Answer:
    """The boxes of a JSON list of COCO's classes, or of the target's where those are others.

    >>> detection('[{"bbox_2d": [1, 2, 3, 4], "label": "Cat"}]', Target()).reason
    'no item of a known class'
    """
    text = completion if isinstance(completion, str) else ""
    try:
        items = json.loads(text.replace("```json", "").replace("```", ""))
    except (ValueError, RecursionError):
        return _answer([], text, 0.0, "not JSON as a whole")
    known, boxes, labels = COCO_CLASSES | set(target.labels), [], []
    for item in items if isinstance(items, list) else []:
        label = item.get("label") if isinstance(item, dict) else None
        if isinstance(label, str) and label in known and "bbox_2d" in item:
            boxes.append(item["bbox_2d"])
            labels.append(label)
    if not boxes:
        return _answer([], text, 0.0, "no item of a known class")
    numbers = all(isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) for box in boxes)
    if not numbers or any(not (box[0] <= box[2] and box[1] <= box[3]) for box in boxes):
        return _answer([], text, 0.0, "a box that is not x1 <= x2, y1 <= y2")
    dropped = len(items) - len(boxes)
    reason = f"{dropped} of {len(items)} items dropped" if dropped else ""
    return _answer(boxes, text, 1 - dropped / len(items), reason, tuple(labels), dropped)


PARSERS = {"grounding": grounding, "counting": counting, "detection": detection, "ocr": whole_text}
EVALUATED = {"counting": counted_boxes, "detection": listed_boxes, "ocr": whole_text}


def _answer(boxes: list, text: str, format_score: float, reason: str, labels: tuple = (), malformed=0) -> Answer:
    rows = np.array(boxes, float).reshape(-1, 4)
    labels = labels or ("",) * len(rows)
    return Answer(
        boxes=rows, labels=labels, text=text, reason=reason, format_score=format_score,
        explicit=False, malformed=malformed,
    )  # fmt: skip


def _between_tokens(text: str) -> list[str]:
    """What stands on one line between a box's opening token and the next closing one, in linear time."""
    found, at = [], 0
    while (start := text.find(_START, at)) >= 0 and (end := text.find(_END, start)) >= 0:
        start += len(_START)
        line_end = text.find("\n", start, end)
        if line_end < 0:
            found.append(text[start:end])
        at = end + len(_END) if line_end < 0 else line_end
    return found


def _literal_box(text: str) -> list[float]:
    """Two pairs of numbers written as a Python literal; else the empty list. Nothing is evaluated."""
    if plain := _PLAIN.fullmatch(text):
        return [float(value) for value in plain.groups()]
    if len(text) > LONGEST_LITERAL:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of "(1,2)(3,4)", which is no literal
            (x1, y1), (x2, y2) = ast.literal_eval(text)
        values = [x1, y1, x2, y2]
        return [float(value) for value in values] if all(map(_is_number, values)) else []
    except (ValueError, SyntaxError, TypeError, ArithmeticError, MemoryError, RecursionError):
        return []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and (abs(value) < 1e30)
