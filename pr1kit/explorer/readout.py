"""What does a completion say, how is it matched, what does it earn, and why? As plain numbers that a page can draw.

`read_out` is the whole of what the reward explorer shows; `rewrite` is the way back, from moved boxes to text. Both are
pure functions. Rewards are those of `pr1kit.score`, so what is shown is what training pays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from pr1kit.data.boxes import from_pixels, iou, pixels_per_unit
from pr1kit.data.sample import Sample, Target
from pr1kit.rewards.groups import group_advantages, pair_weights
from pr1kit.rewards.matching import MATCHINGS, match
from pr1kit.rewards.notations import find_fault, read_notation, write_place
from pr1kit.rewards.parsing import LONGEST, locate_answer, same_labels
from pr1kit.rewards.results import Answer
from pr1kit.rewards.score import read_answer, score
from pr1kit.rewards.tasks import get_task
from pr1kit.rewards.text_similarity import compare_texts

LARGEST_TABLE = 400  # pairs; a larger table is not read by anyone
LONGEST_DIFF = 4_000  # characters of a transcript that are compared letter by letter


def read_out(
    text: str,
    target: Target | Mapping,
    *,
    task: str,
    recipes: Sequence[str] = ("kit",),
    matching: str = "optimal",
    drop: Sequence[str] = (),
    frame: Any = "pixel",
    group: Sequence[str | float] = (),
    member: int | None = None,
) -> dict:
    """Everything about one completion: its items, its reward under each of `recipes`, its advantage in `group`.

    `group` holds the other answers' completions, or their rewards; with `member`, the completion stands in for that one
    of them, else it is one more. `drop` is applied where a recipe has the part. Returns plain lists and numbers, fit
    for JSON: `items` (pixels `values`, `label`, `fault`, `span` in characters, `prediction` index), `region`, `reason`,
    `overlap` (N, M) with the summed overlap of each matching in `sums`, and in `results`, one for each recipe, `total`,
    `parts`, `matches` (prediction, truth, score), `advantage` (None without a group), and PerPO's `pair_weights` of the
    group's answers. A completion never raises; an
    unknown switch, a bad target or a group that holds neither texts nor numbers raises ValueError.

    >>> seen = read_out("(0,0),(2,2)(4,4),(6,6)", {"boxes": [[0, 0, 2, 2]]}, task="counting", group=[0.0, 1.0])
    >>> seen["results"][0]["total"], seen["results"][0]["matches"], seen["results"][0]["advantage"]
    (0.5, [[0, 0, 1.0]], 0.0)
    """
    target = Target.of(target)
    for other in group:
        if not isinstance(other, str) and not (isinstance(other, int | float) and np.isfinite(other)):
            raise ValueError(f"A group holds completions (text) or finite rewards (numbers), got {other!r}.")
    region, span, reason = locate_answer(text)
    answer = read_answer(task, text, target, frame)
    items = _items(region, span, target, task, frame) if not reason and region == text[slice(*span)] else []
    overlap = _overlap(answer, target, task, "class" in drop)
    results = []
    for recipe in dict.fromkeys(recipes):
        parts = get_task(task).PARTS.get(recipe, ())
        written = tuple(frame) if isinstance(frame, list) else frame
        key = (recipe, written, matching, tuple(name for name in drop if name in parts))
        results.append(_result(text, target, task, key, list(group), member))
    runs = compare_texts(target.text[:LONGEST_DIFF], answer.text[:LONGEST_DIFF]) if task == "ocr" else []
    return {
        "text": text,
        "task": task,
        "region": list(span),
        "reason": answer.reason,
        "explicit": answer.explicit,
        "items": items,
        "predictions": len(overlap),
        "overlap": overlap.round(4).tolist() if overlap.size <= LARGEST_TABLE else [],
        "sums": {how: round(sum(pair[2] for pair in match(overlap, how)), 4) for how in MATCHINGS},
        "transcript": [list(run) for run in runs],
        "results": results,
    }


def rewrite(text: str, items: Sequence[Mapping], target: Target | Mapping, *, task: str, frame: Any = "pixel") -> str:
    """`text` with its boxes and points replaced by `items`, in the notation that it uses; all around them stays.

    An item is `values` (4 or 2 pixels), `label`, and `place`, its index among `read_out`'s items (None: a new one).
    What is not named any more goes; what could not be read stays as it was written. Raises ValueError for values that
    are no box or point.

    >>> rewrite("<think>hm</think>a cat(1,2),(3,4)", [{"values": [2, 2, 4, 4], "label": "a cat", "place": 0}], {},
    ...         task="grounding")
    '<think>hm</think>a cat(2,2),(4,4)'
    """
    target = Target.of(target)
    region, (start, end), reason = locate_answer(text)
    notation, places = read_notation(region[:LONGEST])
    notation = notation or ("json" if task == "detection" else "tokens")
    kept = {item.get("place"): item for item in items if item.get("place") is not None}
    pieces = []
    for i, place in sorted(enumerate(places), key=lambda pair: pair[1].span):
        if find_fault(place, task == "detection"):
            pieces.append(region[slice(*place.span)])
        elif i in kept:
            pieces.append(_written(kept[i], notation, frame, target.image_size))
    pieces += [_written(item, notation, frame, target.image_size) for item in items if item.get("place") is None]
    body = (", " if notation in ("json", "lists") else "").join(pieces)
    if not pieces:
        body = "[]" if notation == "json" else "None"
    elif places:
        spans = [place.span for place in places]
        body = region[: min(spans)[0]] + body + region[max(last for _, last in spans) :]
    elif notation == "json":
        body = f"[{body}]"
    closing = "</think>" if reason and text[start:end].lower().startswith("<think>") else ""
    return text[:end] + closing + body + text[end:] if reason else text[:start] + body + text[end:]


def perfect_answer(sample: Sample, frame: Any = "pixel") -> str:
    """The completion that says what is true of `sample`, its numbers in `frame`.

    >>> perfect_answer(Sample(None, "grounding", "cat", Target(boxes=[[0, 0, 4, 2]], image_size=(8, 4))), "norm1000")
    '<|object_ref_start|>cat<|object_ref_end|><|box_start|>(0,0),(500,500)<|box_end|>'
    """
    target = sample.target
    if sample.task == "counting" and not len(target.boxes) and len(target.points):
        points = from_pixels(target.points, frame, target.image_size).tolist()
        return f"[{', '.join(write_place('json', point, sample.question) for point in points)}]"
    boxes = from_pixels(target.boxes, frame, target.image_size)
    return get_task(sample.task).write_answer(replace(target, boxes=boxes, image_size=None), label=sample.question)


def _items(region: str, span: tuple[int, int], target: Target, task: str, frame: Any) -> list[dict]:
    """What is written in the answer, in its order. `prediction` is the index that the reward's matches use."""
    _, places = read_notation(region[:LONGEST])
    faults = [find_fault(place, task == "detection") for place in places]
    boxes = sum(not fault and len(place.values) == 4 for place, fault in zip(places, faults, strict=True))
    scale = pixels_per_unit(frame, target.image_size)
    items, seen = [], {4: 0, 2: boxes}  # predictions: the boxes first, then the points
    for place, fault in zip(places, faults, strict=True):
        size = len(place.values)
        items.append(
            {
                "values": [] if fault else [v * s for v, s in zip(place.values, scale * 2, strict=False)],
                "label": place.label,
                "fault": fault,
                "span": [span[0] + place.span[0], span[0] + place.span[1]],
                "prediction": None if fault else seen[size],
            }
        )
        if not fault:
            seen[size] += 1
    return items


def _written(item: Mapping, notation: str, frame: Any, image_size) -> str:
    values, label = item.get("values"), item.get("label") or ""
    if not isinstance(values, list) or len(values) not in (2, 4) or not isinstance(label, str):
        raise ValueError(f"A box is four numbers and a label, got {values!r} and {label!r}.")
    if not all(isinstance(value, int | float) and abs(value) < 1e6 for value in values):
        raise ValueError(f"A box is four finite numbers, got {values!r}.")
    return write_place(notation, from_pixels(np.array([values], float), frame, image_size)[0].tolist(), label)


def _overlap(answer: Answer, target: Target, task: str, any_label: bool) -> np.ndarray:
    """How well each prediction fits each object, (N, M) in [0, 1]: IoU or nearness to a point; 0 where names differ."""
    if task == "counting":
        points = np.tile(answer.points, 2)
        return get_task(task).closeness(np.concatenate([answer.boxes, points]), target)
    overlap = iou(answer.boxes, target.boxes)
    if task == "detection" and target.labels and answer.labels and not any_label:
        overlap = overlap * same_labels(answer.labels, target.labels)
    return overlap


def _result(text: str, target: Target, task: str, key: tuple, group: list, member: int | None) -> dict:
    """One recipe's verdict; in the group, every other answer is paid by the same rule."""
    recipe, frame, matching, drop = key
    result = score(task, text, target, recipe=recipe, frame=frame, matching=matching, drop=drop)
    totals = [_total(other, target, task, key) if isinstance(other, str) else float(other) for other in group]
    place = member if member is not None and 0 <= member < len(totals) else len(totals)
    totals[place : place + 1] = [result.total]
    advantages = group_advantages(np.array(totals)).tolist()
    perfect = get_task(task).write_answer(target, label="object", recipe=recipe)
    return {
        "recipe": recipe,
        "total": result.total,
        "top": max(_total(perfect, target, task, (recipe, "pixel", matching, drop)), 1.0),
        "parts": [
            {"name": name, "value": result.parts.get(name, 0.0), "dropped": name in drop}
            for name in get_task(task).PARTS[recipe]
        ],
        "matches": [list(pair) for pair in result.matches],
        "reason": result.reason,
        "place": place,
        "group": [{"total": r, "advantage": a} for r, a in zip(totals, advantages, strict=True)],
        "advantage": advantages[place] if len(totals) > 1 else None,
        "pair_weights": pair_weights(totals).round(4).tolist() if len(totals) ** 2 <= LARGEST_TABLE else [],
    }


@lru_cache(maxsize=256)
def _total(text: str, target: Target, task: str, key: tuple) -> float:
    """The reward of an answer that does not move while another one is dragged."""
    recipe, frame, matching, drop = key
    return score(task, text, target, recipe=recipe, frame=frame, matching=matching, drop=drop).total
