"""What does a completion say, how is it matched, what does it earn, and why? As plain numbers that a page can draw.

`read_out`, a pure function, is the whole of what the reward explorer shows; the way back, from moved boxes to text, is
`rewrite`. Rewards are those of `pr1kit.score`, so what is shown is what training pays. A picture is a video of one
frame: what has a place stands `at` a frame, counted from 0.
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
from pr1kit.rewards.notations import MOST_FRAMES, Step, find_fault, read_notation, read_tracks, write_place
from pr1kit.rewards.parsing import LONGEST, locate_answer, same_labels
from pr1kit.rewards.results import Answer
from pr1kit.rewards.score import read_answer, score
from pr1kit.rewards.tasks import get_task
from pr1kit.rewards.text_similarity import compare_texts
from pr1kit.rewards.tracking import overlaps, true_tracks

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
    for JSON: `items` (pixels `values`, `label`, `fault`, `span` in characters, `prediction` index, `at` which frame),
    `spans` of frames, `region`, `reason`, `overlap` (N, M) with the summed overlap of each matching in `sums`, and in
    `results`, one for each recipe, `total`, `parts`, `matches` (prediction, truth, score), `advantage` (None without a
    group), and PerPO's `pair_weights` of the group's answers. In tracking, predictions and truths are whole tracks;
    `frames` has the matches and their overlap in each frame, `shares` their sum over the larger number of boxes there
    (None without any). A completion never raises; an unknown switch, a bad target or a group that holds neither texts
    nor numbers raises ValueError.

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
    overlap = _overlap(answer, target, task, "class" in drop)  # (N, M), of tracks (N, M, F)
    seen = ~np.isnan(true_tracks(target)[..., 0]) if overlap.ndim == 3 else np.zeros((0, 0), bool)  # (M, F)
    table = overlap.sum(2) / seen.sum(1) if len(seen) else overlap
    results = []
    for recipe in dict.fromkeys(recipes):
        parts = get_task(task).PARTS.get(recipe, ())
        written = tuple(frame) if isinstance(frame, list) else frame
        key = (recipe, written, matching, tuple(name for name in drop if name in parts))
        result = _result(text, target, task, key, list(group), member)
        results.append({**result, **_by_frame(result["matches"], overlap, seen, items)})
    words = task in ("ocr", "what")
    runs = compare_texts(target.text[:LONGEST_DIFF], answer.text[:LONGEST_DIFF]) if words else []
    return {
        "text": text,
        "task": task,
        "region": list(span),
        "reason": answer.reason,
        "explicit": answer.explicit,
        "items": items,
        "spans": answer.spans.tolist(),
        "predictions": len(table),
        "overlap": table.round(4).tolist() if table.size <= LARGEST_TABLE else [],
        "sums": {how: round(sum(pair[2] for pair in match(table, how)), 4) for how in MATCHINGS},
        "transcript": [list(run) for run in runs],
        "results": results,
    }


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
    tracks = tuple(replace(t, boxes=from_pixels(t.boxes, frame, target.image_size)) for t in target.tracks)
    target = replace(target, boxes=boxes, tracks=tracks, image_size=None)
    return get_task(sample.task).write_answer(target, label=sample.question)


def true_objects(target: Target, frames: int) -> list[list[dict]]:
    """What there is in each of `frames` frames: `values`, `label`, and the `index` that the reward's matches use.

    >>> true_objects(Target(tracks=[{"boxes": [[1, 2, 3, 4], None], "label": "cat"}]), 2)
    [[{'index': 0, 'values': [1.0, 2.0, 3.0, 4.0], 'label': 'cat'}], []]
    """
    there: list[list[dict]] = [[] for _ in range(frames)]
    labels = target.labels or [""] * max(len(target.boxes), len(target.points))
    for i, values in enumerate((target.boxes if len(target.boxes) else target.points).tolist()):
        there[0].append({"index": i, "values": values, "label": labels[i]})
    for i, track in enumerate(track for track in target.tracks if track.seen.any()):
        for at in np.flatnonzero(track.seen)[:frames].tolist():
            there[at].append({"index": i, "values": track.boxes[at].tolist(), "label": track.label})
    return there


def _items(region: str, span: tuple[int, int], target: Target, task: str, frame: Any) -> list[dict]:
    """What is written in the answer, in its order. `prediction` is the index that the reward's matches use."""
    if task in ("when", "what"):
        return []
    if task == "tracking":
        steps = read_tracks(region[:LONGEST])
    else:
        steps = [Step(place, 0, -1) for place in read_notation(region[:LONGEST])[1]]
    faults = [find_fault(step.place, task == "detection") for step in steps]
    good = [step for step, fault in zip(steps, faults, strict=True) if not fault]
    owners = sorted({step.owner for step in good})
    last = len(target.tracks[0]) if target.tracks else MOST_FRAMES
    scale = pixels_per_unit(frame, target.image_size)
    items, seen = [], {4: 0, 2: sum(len(step.place.values) == 4 for step in good)}  # the boxes first, then the points
    for (place, at, owner), fault in zip(steps, faults, strict=True):
        size = len(place.values)
        number = None if fault else seen[size] if owner < 0 else owners.index(owner)
        fault = fault or ("" if at < last else f"the video has {last} frames")
        items.append(
            {
                "values": [] if fault else [v * s for v, s in zip(place.values, scale * 2, strict=False)],
                "label": place.label,
                "fault": fault,
                "span": [span[0] + place.span[0], span[0] + place.span[1]],
                "prediction": number,
                "at": at,
            }
        )
        if number is not None:
            seen[size] += 1
    return items


def _overlap(answer: Answer, target: Target, task: str, any_label: bool) -> np.ndarray:
    """How well each prediction fits each object, (N, M) in [0, 1]: IoU or nearness to a point; 0 where names differ.
    Of tracks (N, M, F), frame by frame."""
    if task == "tracking" and len(truth := true_tracks(target)):
        return overlaps(answer, truth)[0]
    if task == "counting":
        points = np.tile(answer.points, 2)
        return get_task(task).closeness(np.concatenate([answer.boxes, points]), target)
    overlap = iou(answer.boxes, target.boxes)
    if task == "detection" and target.labels and answer.labels and not any_label:
        overlap = overlap * same_labels(answer.labels, target.labels)
    return overlap


def _by_frame(matches: list, overlap: np.ndarray, seen: np.ndarray, items: list[dict]) -> dict:
    """`frames`, the matches in each of them, and `shares`, how much of what is true or answered there they overlap."""
    if not len(seen):
        return {"frames": [matches], "shares": []}
    said = {(item["at"], item["prediction"]) for item in items if not item["fault"]}
    frames, shares = [], []
    for at, there in enumerate(seen.T):
        pairs = [[p, t, float(overlap[p, t, at])] for p, t, _ in matches if there[t] and (at, p) in said]
        most = max(int(there.sum()), sum(when == at for when, _ in said))
        frames.append(pairs)
        shares.append(sum(pair[2] for pair in pairs) / most if most else None)
    return {"frames": frames, "shares": shares}


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
