"""Detection: every object of every class asked for, as a JSON list of boxes with labels.

With n items answered, m objects, a pair matched where its labels agree (after trimming and case folding):

    kit       Σ (½ IoU + ½ [IoU >= 0.5]) / max(n, m + s) over matched pairs, s the boxes on an object that another box
              answers already, whatever their labels (`matching.surplus`): trying labels costs; a box answers the object
              of its class that it overlaps most (`matching.own_share`)
              location is the IoU half, recall the hit half; `drop` takes a rule away: class (labels need not agree),
              missing (divide by n alone), format (malformed items do not count in n)
    paper     format + location + class + recall − missing: shares of well-formed items, IoU and right labels over hits,
              F1 of hits, and the share of objects missed                       (Perception-R1, section 4.2, table 6)
    released  0.25 format + 0.75 recall + class + location − 0.5 missing, in [0, 3], missing = fp/n + fn/m (off in the
              official training script: drop="missing"), a hit at IoU > 0.5; no hit: format alone. Matched by
              5·L1 − 2·GIoU − p in pixels of the completion's frame, L1 of (cx, cy, w, h), p the softmax over 90
              classes of a one-hot label: e / (e + 89) where labels agree, else 1 / (e + 89)
    released-strict  the same, read as the official code reads it, see `official`
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from pr1kit.data.boxes import centers, giou, iou
from pr1kit.data.sample import Target
from pr1kit.rewards.matching import aggregate, assign, match, own_share, surplus
from pr1kit.rewards.parsing import build_prompt, normalize_label, read_places, same_labels, whole
from pr1kit.rewards.results import Answer, RewardResult
from pr1kit.rewards.tasks import Options, says_nothing

COLUMNS = (("boxes",), ("labels",))
_PARTS = ("format", "location", "class", "recall", "missing")
PARTS = dict.fromkeys(("kit", "paper", "released", "released-strict"), _PARTS)
HIT = 0.5
SAME, OTHER = math.e / (math.e + 89), 1 / (math.e + 89)  # the official probability of a right and of a wrong class


def prompt(question: str, thinking: bool = False) -> str:
    """The user's words for the category list `question`, as text.

    >>> prompt("circle, star")
    'Please output bbox coordinates and names of circle, star.'
    """
    return build_prompt(f"Please output bbox coordinates and names of {question}.", thinking)


def write_answer(target: Target, *, label: str = "", recipe: str = "kit") -> str:
    """The supervised answer: one JSON list on one line; `label` names the boxes of a target without labels.

    Every `recipe` pays this layout.

    >>> write_answer({"boxes": [[1, 2, 3, 4]], "labels": ["star"]})
    '[{"bbox_2d": [1, 2, 3, 4], "label": "star"}]'
    """
    target = Target.of(target)
    labels = target.labels or (label,) * len(target.boxes)
    items = [{"bbox_2d": whole(box), "label": name} for box, name in zip(target.boxes, labels, strict=True)]
    return json.dumps(items, ensure_ascii=False)


def parse(completion: Any) -> Answer:
    """Labelled boxes `(N, 4)` of a completion, in its own frame; a box without a label is malformed."""
    return read_places(completion, labelled=True)


def kit(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 1]: overlap and hits of boxes with the right label, shared among max(n, m)."""
    m = len(target.boxes)
    if not m:
        return RewardResult(float(says_nothing(answer)), {"format": answer.format_score}, reason=answer.reason)
    n = len(answer.boxes) + len(answer.points) + (answer.malformed if "format" not in options.drop else 0)
    how = "prediction" if "missing" in options.drop else options.aggregate
    overlap, same = iou(answer.boxes, target.boxes), _same_label(answer, target)
    hit = overlap >= (options.threshold or HIT)  # (N, M)
    objects = m + surplus(overlap) if how in ("max", "f1") else m  # one answered three times is three to answer
    named = np.ones_like(same) if "class" in options.drop else same
    right = own_share(overlap * named, target.boxes) * named
    pair_scores = options.mean({"location": overlap * right, "recall": hit * right})
    if isinstance(pair_scores, float):  # both dropped: the format alone
        return RewardResult(answer.format_score, {"format": answer.format_score}, reason=answer.reason)
    pairs = match(pair_scores, options.matching)
    location, hits = (sum(float(part[p, t]) for p, t, _ in pairs) for part in (overlap * right, hit * right))
    touching = hit.any(1)
    parts = {
        "format": answer.format_score,
        "location": aggregate(location, n, objects, how),
        "class": float((hit & same).any(1).sum() / max(touching.sum(), 1)),  # of boxes on an object, named rightly
        "recall": aggregate(hits, n, objects, how),
        "missing": (hits - m) / m,
    }
    total = aggregate(sum(score for *_, score in pairs), n, objects, how)
    return RewardResult(total, parts, tuple(pairs), answer.reason)


def paper(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [-1, 4]: the sum of the parts; `missing` is negative."""
    overlap = iou(answer.boxes, target.boxes)
    hits = _hits(match(overlap, options.matching), overlap, options.threshold or HIT)
    return _sum_up(answer, target, options, hits, missing=len(hits) / max(len(target.boxes), 1) - 1)


def released(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 3]: weights and matching cost as found in the official code."""
    n, m = len(answer.boxes), len(target.boxes)
    if not n or not m:
        return _sum_up(answer, target, options, [], weights=RELEASED_WEIGHTS)
    unit = np.tile(answer.scale, 2)  # pixels of the original image to those of the frame
    a, b = ((boxes / unit).astype(np.float32) for boxes in (answer.boxes, target.boxes))
    distance = np.abs(_cxcywh(a)[:, None] - _cxcywh(b)[None]).sum(2)  # L1, (N, M)
    probability = np.where(_same_label(answer, target), np.float32(SAME), np.float32(OTHER))
    cost = np.float32(5) * distance - probability - 2 * giou(a, b).astype(np.float32)
    overlap = iou(a, b).astype(np.float32)  # single precision as in the official code: ties fall as they do there
    pairs = [(p, t, 0) for p, t in zip(*assign(-cost, options.matching), strict=True)]
    hits = _hits(pairs, overlap, np.nextafter(np.float32(options.threshold or HIT), np.float32(1)))
    missing = -(n - len(hits)) / n - (m - len(hits)) / m
    return _sum_up(answer, target, options, hits, missing, RELEASED_WEIGHTS)


RECIPES = {"kit": kit, "paper": paper, "released": released, "released-strict": released}
RELEASED_WEIGHTS = {"format": 0.25, "location": 1.0, "class": 1.0, "recall": 0.75, "missing": 0.5}


def _same_label(answer: Answer, target: Target) -> np.ndarray:
    n, m = len(target.labels), len(target.boxes)
    if n != m:
        raise ValueError(f"Detection needs a label for each true box, got {n} for {m} boxes.")
    return same_labels(answer.labels, target.labels)


def _hits(pairs: list, overlap: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
    return [(p, t, float(overlap[p, t])) for p, t, _ in pairs if overlap[p, t] >= threshold]


def _sum_up(answer, target, options, hits, missing=0.0, weights=None) -> RewardResult:
    """The weighted sum of the parts of `hits`; with weights (released): without a hit the format alone, in [0, 3]."""
    n, m, k = len(answer.boxes), len(target.boxes), max(len(hits), 1)
    parts = {
        "format": answer.format_score,
        "location": sum(score for *_, score in hits) / k,
        "class": sum(normalize_label(answer.labels[p]) == normalize_label(target.labels[t]) for p, t, _ in hits) / k,
        "recall": 2 * len(hits) / (n + m) if n + m else float(says_nothing(answer)),
        "missing": missing if m else 0.0,
    }
    used = [name for name in parts if name not in options.drop]
    if weights is None:
        total = sum(parts[name] for name in used)
    else:
        total = sum(weights[name] * parts[name] for name in used if hits or name == "format")
        total = min(max(total, 0.0), 3.0)
    return RewardResult(float(total), parts, tuple(hits), answer.reason)


def _cxcywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([centers(boxes), boxes[:, 2:] - boxes[:, :2]], axis=1)
