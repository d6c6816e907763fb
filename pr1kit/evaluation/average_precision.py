"""How good is a detector? The twelve COCO numbers by pycocotools, with the protocol they were computed under.

Published numbers of the same model differ with the prompt, the score given to a box, the categories asked for, the
coordinate frame and the number of detections kept: `DetectionProtocol` says them, and is printed with the result.
pycocotools gives the numbers; only their bootstrap is ours: images are matched once and accumulated again with weights,
where pycocotools would match every resample anew.

AP as pycocotools has it is too high on few images: it orders equal scores by image, so that precision wanders at random
at low recall, and then takes the best precision from there on. Every box of a generated answer scores 1.0: the excess
is some hundredths (`data/benchmarks/interval_coverage.md`). Intervals are therefore of the `stable` number, which takes
equal scores together and does not interpolate: the same in a large population, and nearly free of that excess.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pr1kit.data.sample import Target
from pr1kit.rewards.parsing import normalize_label
from pr1kit.rewards.results import Answer

# name: (precision or recall, index of the IoU threshold or None for their mean, area range, which max_detections)
COCO_METRICS = {
    "ap": ("precision", None, 0, 2),
    "ap50": ("precision", 0, 0, 2),
    "ap75": ("precision", 5, 0, 2),
    "ap_small": ("precision", None, 1, 2),
    "ap_medium": ("precision", None, 2, 2),
    "ap_large": ("precision", None, 3, 2),
    "ar1": ("recall", None, 0, 0),
    "ar10": ("recall", None, 0, 1),
    "ar100": ("recall", None, 0, 2),
    "ar_small": ("recall", None, 1, 2),
    "ar_medium": ("recall", None, 2, 2),
    "ar_large": ("recall", None, 3, 2),
}


@dataclass(frozen=True)
class DetectionProtocol:
    """What a detection number depends on besides the model.

    `prompt` as asked; `box_score` given to every box (a generated box has none of its own; ties keep the order of
    images and of the answer); `categories` that count, None for those of the truth (boxes of others are dropped, as
    COCO does); `frame` of the answers; `max_detections` kept per image and category, for AR1, AR10 and the rest.
    """

    prompt: str = "Please output bbox coordinates and names of {category list}."
    box_score: float = 1.0
    categories: tuple[str, ...] | None = None
    frame: Any = "pixel"
    max_detections: tuple[int, int, int] = (1, 10, 100)

    def __str__(self) -> str:
        asked = "those of the truth" if self.categories is None else ", ".join(self.categories)
        return (
            f'prompt "{self.prompt}"; every box scored {self.box_score:g}; categories: {asked}; '
            f"frame {self.frame}; at most {'/'.join(map(str, self.max_detections))} detections"
        )


class CocoTable:
    """The twelve numbers in `values` (nan where there is no truth to measure on), and their value under weights."""

    def __init__(self, evaluator: Any):
        self.params, self._images = evaluator.params, evaluator.evalImgs
        self.values = {
            # `precision` is (T, R, K, A, M), `recall` (T, K, A, M)
            name: _mean(evaluator.eval[kind][slice(None) if threshold is None else threshold, ..., area, depth])
            for name, (kind, threshold, area, depth) in COCO_METRICS.items()
        }
        self._curves: dict = {}
        self._means: dict = {}

    def weighted(self, name: str, weights: np.ndarray, *, stable: bool = False) -> float:
        """The number `name` had image s occurred `weights[s]` times; `weights` (S,), images in order of their ids.

        `stable`: of AP with equal scores taken together and without interpolation; recalls are the same.
        """
        kind, threshold, area, depth = COCO_METRICS[name]
        if stable and kind == "precision":
            kind = "stable"
        drawn = (kind, area, depth, weights.tobytes())
        if drawn not in self._means:  # AP, AP50 and AP75 are read off the same curves
            self._means[drawn] = self._mean_per_threshold(kind, area, depth, weights)
        values = self._means[drawn] if threshold is None else self._means[drawn][[threshold]]
        return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan

    def _mean_per_threshold(self, kind: str, area: int, depth: int, weights: np.ndarray) -> np.ndarray:
        if (area, depth) not in self._curves:
            classes = range(len(self.params.catIds))
            curves = (self._sorted(category, area, self.params.maxDets[depth]) for category in classes)
            self._curves[area, depth] = [curve for curve in curves if curve is not None]
        per_class = [MEASURES[kind](*curve, weights) for curve in self._curves[area, depth]]  # (T,), nan without truth
        values = np.array(per_class).reshape(-1, len(self.params.iouThrs))
        with np.errstate(invalid="ignore"):
            return np.nansum(values, 0) / np.isfinite(values).sum(0)  # (T,), nan where no class has truth

    def _sorted(self, category: int, area: int, depth: int):
        """One class: image and score (D,) of each detection, hits and misses (T, D), best first; objects (S,)."""
        images, areas = len(self.params.imgIds), len(self.params.areaRng)
        start = (category * areas + area) * images
        found = [(i, image) for i, image in enumerate(self._images[start : start + images]) if image is not None]
        objects = np.zeros(images)
        for i, image in found:
            objects[i] = np.count_nonzero(image["gtIgnore"] == 0)
        if not objects.any():
            return None
        owner = np.concatenate([np.full(len(image["dtScores"][:depth]), i) for i, image in found])
        scores = np.concatenate([image["dtScores"][:depth] for _, image in found])
        order = np.argsort(-scores, kind="mergesort")
        matched = np.concatenate([image["dtMatches"][:, :depth] for _, image in found], axis=1)[:, order] > 0
        counted = ~np.concatenate([image["dtIgnore"][:, :depth] for _, image in found], axis=1)[:, order].astype(bool)
        return owner[order].astype(int), scores[order], matched & counted, ~matched & counted, objects


def _recall(owner, scores, hits, misses, objects, weights) -> np.ndarray:
    total = objects @ weights
    return hits @ weights[owner] / total if total else np.full(len(hits), np.nan)


def stable_precision(owner, scores, hits, misses, objects, weights) -> np.ndarray:
    """The mean precision (T,) at which objects are found, equal scores taken together; 0 for those not found.

    `owner` and `scores` (D,), `hits` and `misses` (T, D), best score first; `objects` and `weights` of images (S,).
    """
    total, each = objects @ weights, weights[owner]
    if not total:
        return np.full(len(hits), np.nan)
    if not len(owner):
        return np.zeros(len(hits))
    starts = np.append(0, np.flatnonzero(np.diff(scores)) + 1)
    true, false = (np.add.reduceat(part * each, starts, axis=1) for part in (hits, misses))  # (T, groups)
    found = np.cumsum(true, axis=1)
    return (true * found / np.maximum(found + np.cumsum(false, axis=1), 1e-12)).sum(1) / total


def _average_precision(owner, scores, hits, misses, objects, weights) -> np.ndarray:
    """Precision (T,) averaged over 101 recalls, its curve made non-increasing, as COCO does."""
    total, each = objects @ weights, weights[owner]
    if not total:
        return np.full(len(hits), np.nan)
    result = np.zeros(len(hits))
    if not len(owner):
        return result
    true, false = np.cumsum(hits * each, axis=1), np.cumsum(misses * each, axis=1)  # (T, D)
    precision = true / (true + false + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    for t, recall in enumerate(true / total):
        at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        result[t] = np.where(at < recall.size, precision[t, np.minimum(at, recall.size - 1)], 0).mean()
    return result


MEASURES: dict[str, Callable[..., np.ndarray]] = {
    "precision": _average_precision,
    "stable": stable_precision,
    "recall": _recall,
}


def coco_table(truth: dict, detections: Sequence[dict], protocol: DetectionProtocol | None = None) -> CocoTable:
    """The numbers of `detections` (COCO results: image_id, category_id, bbox xywh, score) on `truth` (COCO instances).

    Without detections every AP is 0. Neither argument is changed.

    >>> image, box = [{"id": 1, "width": 9, "height": 9}], {"image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}
    >>> note = box | {"id": 1, "area": 16, "iscrowd": 0}
    >>> truth = {"images": image, "annotations": [note], "categories": [{"id": 1, "name": "cat"}]}
    >>> [round(coco_table(truth, found).values["ap"], 3) for found in ([], [box | {"score": 1.0}])]
    [0.0, 1.0]
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    protocol = protocol or DetectionProtocol()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        expected = _index(COCO(), truth, truth["annotations"])
        found = [row | {"id": i, "area": row["bbox"][2] * row["bbox"][3]} for i, row in enumerate(detections, 1)]
        evaluator = COCOeval(expected, _index(COCO(), truth, found), "bbox")
        evaluator.params.maxDets = list(protocol.max_detections)
        evaluator.evaluate()
        evaluator.accumulate()
    return CocoTable(evaluator)


def answers_table(
    answers: Sequence[Answer], targets: Sequence[Target], protocol: DetectionProtocol | None = None
) -> CocoTable:
    """The numbers of parsed answers in pixels; an object's size class is that of its box."""
    protocol = protocol or DetectionProtocol()
    names = protocol.categories or [label for target in targets for label in target.labels]
    ids = {name: i for i, name in enumerate(sorted(set(map(normalize_label, names))), 1)}
    rows: tuple[list, list] = [], []
    for image, (target, answer) in enumerate(zip(targets, answers, strict=True), 1):
        sides: tuple[Target | Answer, ...] = (target, answer)
        for where, side in zip(rows, sides, strict=True):
            for (x1, y1, x2, y2), label in zip(side.boxes.tolist(), map(normalize_label, side.labels), strict=True):
                if label in ids:
                    box, size = [x1, y1, x2 - x1, y2 - y1], (x2 - x1) * (y2 - y1)
                    where.append({"image_id": image, "category_id": ids[label], "bbox": box, "area": size})
    truth = {
        "images": [{"id": image} for image in range(1, len(targets) + 1)],
        "categories": [{"id": i, "name": name} for name, i in ids.items()],
        "annotations": [dict(row, id=i, iscrowd=0) for i, row in enumerate(rows[0], 1)],  # id 0 would read as unmatched
    }
    return coco_table(truth, [dict(row, score=protocol.box_score) for row in rows[1]], protocol)


def coco_detections(answers: Sequence[Answer], truth: dict, box_score: float = 1.0) -> list[dict]:
    """Parsed answers in pixels, one for each of the truth's images, as COCO results; unknown classes are dropped."""
    ids = {normalize_label(category["name"]): category["id"] for category in truth["categories"]}
    return [
        {"image_id": image["id"], "category_id": ids[label], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": box_score}
        for image, answer in zip(truth["images"], answers, strict=True)
        for (x1, y1, x2, y2), label in zip(answer.boxes.tolist(), map(normalize_label, answer.labels), strict=True)
        if label in ids
    ]


def _index(coco: Any, truth: dict, annotations: Sequence[dict]) -> Any:
    coco.dataset = {**truth, "annotations": [dict(row) for row in annotations]}
    coco.createIndex()
    return coco


def _mean(values: np.ndarray) -> float:
    """The mean of what was measured; pycocotools writes -1 where there was no truth."""
    return float(values[values > -1].mean()) if (values > -1).any() else math.nan
