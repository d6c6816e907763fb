"""Which prediction answers which object?

Perception-R1's multi-subject reward matching (section 3.3): the assignment that maximises the summed score, by the
Hungarian algorithm. Its ablation pairs the i-th prediction with the i-th object; `greedy` takes the best pair first.
"""

from __future__ import annotations

import numpy as np

from pr1kit.data.boxes import iou

MATCHINGS = ("optimal", "greedy", "sequential")
AGGREGATES = ("max", "f1", "truth", "prediction")
FULL, NONE = 0.6, 0.9  # the rival's share of a prediction's overlap up to which, and from which, it counts in full, not


def match(scores: np.ndarray, how: str = "optimal") -> list[tuple[int, int, float]]:
    """Pairs `(prediction, truth, score)` from scores `(N, M)` >= 0, each index at most once, none with score 0.

    >>> match(np.array([[0.5, 0.4], [0.6, 0.1]]))
    [(0, 1, 0.4), (1, 0, 0.6)]
    >>> match(np.array([[0.5, 0.4], [0.6, 0.1]]), "sequential")
    [(0, 0, 0.5), (1, 1, 0.1)]
    """
    useful = np.arange(len(scores))
    if how == "optimal" and scores.size > 1:  # a thousand guesses that hit nothing need no assignment
        useful = np.flatnonzero(scores.any(1))
    picked, columns = assign(scores[useful], how)
    rows = useful[picked].tolist()
    values = scores[rows, columns].tolist() if len(rows) else []
    return [pair for pair in zip(rows, columns, values, strict=True) if pair[2] > 0]


def assign(scores: np.ndarray, how: str = "optimal") -> tuple[list[int], list[int]]:
    """Rows and columns of min(N, M) pairs of the greatest summed score `(N, M)`, of whatever sign.

    >>> assign(np.array([[-5.0, -1.0], [-1.0, -9.0]]))
    ([0, 1], [1, 0])
    """
    if how not in MATCHINGS:
        raise ValueError(f"Unknown matching {how!r}: choose one of {', '.join(MATCHINGS)}.")
    if how == "sequential" or scores.size < 2:
        pairs = list(range(min(scores.shape)))
        return pairs, pairs
    if how == "greedy":
        return _greedy(scores)
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(scores, maximize=True)
    return rows.tolist(), columns.tolist()


def _greedy(scores: np.ndarray) -> tuple[list[int], list[int]]:
    """Best pair first; equal scores in reading order."""
    rows: list[int] = []
    columns: list[int] = []
    free = min(scores.shape)
    for flat in np.argsort(-scores, axis=None, kind="stable").tolist():
        row, column = divmod(flat, scores.shape[1])
        if len(rows) == free:
            break
        if row not in rows and column not in columns:
            rows.append(row)
            columns.append(column)
    return rows, columns


def aggregate(total: float, predictions: float, truths: float, how: str = "max") -> float:
    """The summed score of matched pairs as a share: 1 where every object is answered perfectly and nothing is extra.

    `max` divides by the larger count: an extra costs as a miss does. `f1` divides by the mean count. `truth` forgives
    extras and `prediction` forgives misses: ablations, open to guessing and to silence.

    >>> aggregate(3.0, predictions=4, truths=3), aggregate(3.0, 4, 3, "truth")
    (0.75, 1.0)
    """
    if how == "max":
        count: float = max(predictions, truths)
    elif how == "f1":
        count = (predictions + truths) / 2
    elif how in ("truth", "prediction"):
        count = truths if how == "truth" else predictions
    else:
        raise ValueError(f"Unknown aggregate {how!r}: choose one of {', '.join(AGGREGATES)}.")
    return min(total / count, 1.0) if count else 0.0


def own_share(overlap: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """How far each prediction answers each object rather than another one: `(N, M)` in [0, 1].

    `overlap` `(N, M)` is the IoU with the objects' `boxes` `(M, 4)`. With r the largest overlap with another object, as
    a share of the overlap with the object itself, the share is 1 up to r = 0.6 and falls linearly to 0 at r = 0.9. So a
    box over a crowd answers none of it, however often and however slightly moved it is written. Where two objects
    overlap by more than 0.6 themselves, the rest is taken off r: the exact box of either answers it in full.

    >>> row = np.array([[0, 0, 4, 4], [4, 0, 8, 4.0]])
    >>> own_share(np.array([[0.8, 0.2], [0.4, 0.4], [0.4, 0.3]]), row).round(2).tolist()
    [[1.0, 0.0], [0.0, 0.0], [0.5, 0.0]]
    """
    if overlap.shape[1] < 2 or not len(overlap):
        return np.ones(overlap.shape)
    second, best = np.partition(overlap, -2, axis=1)[:, -2:].T
    share = (overlap >= best[:, None]).astype(float)  # where one object stands out, the answer is to it alone
    unclear = (second > FULL * best).nonzero()[0]
    if len(unclear):
        here = overlap[unclear]  # (K, M)
        ratio = here[:, None, :] / np.maximum(here, 1e-9)[:, :, None] - np.maximum(iou(boxes, boxes) - FULL, 0)
        ratio[:, range(len(boxes)), range(len(boxes))] = 0
        share[unclear] = _fall(ratio.max(2))
    return share


def nearest_share(distance: np.ndarray) -> np.ndarray:
    """`own_share` for points: r is the distance to the object over that to the nearest other one; `(N, M)` in [0, 1].

    >>> nearest_share(np.array([[1.0, 4.0], [2.0, 2.0], [0.0, 0.0]])).tolist()
    [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    """
    if distance.shape[1] < 2 or not len(distance):
        return np.ones(distance.shape)
    nearest, second = np.partition(distance, 1, axis=1)[:, :2].T[..., None]  # (N, 1) each
    other = np.where(distance > nearest, nearest, second)
    return _fall(distance / np.maximum(other, 1e-9))


def _fall(ratio: np.ndarray) -> np.ndarray:
    return np.clip((NONE - ratio) / (NONE - FULL), 0, 1)


def surplus(overlap: np.ndarray) -> float:
    """How many predictions answer an object that another one answers already, whatever their labels: at least 0.

    A prediction answers an object fully from an IoU of 0.5 and not at all up to 0.3. Those that the best assignment
    leaves without an object of their own are surplus: two of three labels tried on one box.

    >>> surplus(np.array([[1.0, 0.0], [1.0, 0.0], [0.9, 0.0], [0.0, 0.4]])), surplus(np.eye(3))
    (2.0, 0.0)
    """
    if (np.count_nonzero(overlap > 0.3, axis=0) < 2).all():
        return 0.0  # no object is answered twice
    answers = np.clip((overlap - 0.3) / 0.2, 0, 1)
    rows, columns = assign(answers)
    return max(0.0, float(answers.max(1).sum() - answers[rows, columns].sum()))
