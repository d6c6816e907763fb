"""Which prediction answers which object?

Perception-R1's multi-subject reward matching (section 3.3): the assignment that maximises the summed score, by the
Hungarian algorithm. Its ablation pairs the i-th prediction with the i-th object; `greedy` takes the best pair first.
"""

from __future__ import annotations

import numpy as np

MATCHINGS = ("optimal", "greedy", "sequential")
AGGREGATES = ("max", "f1", "truth", "prediction")


def match(scores: np.ndarray, how: str = "optimal") -> list[tuple[int, int, float]]:
    """Pairs `(prediction, truth, score)` from scores `(N, M)` >= 0, each index at most once, none with score 0.

    >>> match(np.array([[0.5, 0.4], [0.6, 0.1]]))
    [(0, 1, 0.4), (1, 0, 0.6)]
    >>> match(np.array([[0.5, 0.4], [0.6, 0.1]]), "sequential")
    [(0, 0, 0.5), (1, 1, 0.1)]
    """
    if scores.size == 0:
        return []
    if how == "sequential":
        rows = columns = list(range(min(scores.shape)))
    elif how == "greedy":
        rows, columns = _greedy(scores)
    elif how != "optimal":
        raise ValueError(f"Unknown matching {how!r}: choose one of {', '.join(MATCHINGS)}.")
    elif scores.shape == (1, 1):
        rows = columns = [0]
    else:
        rows, columns = _optimal(scores)
    values = scores[rows, columns].tolist()
    return [pair for pair in zip(rows, columns, values, strict=True) if pair[2] > 0]


def _optimal(scores: np.ndarray) -> tuple[list[int], list[int]]:
    from scipy.optimize import linear_sum_assignment

    useful = np.flatnonzero(scores.any(1))  # a thousand guesses that hit nothing need no assignment
    rows, columns = linear_sum_assignment(scores[useful], maximize=True)
    return useful[rows].tolist(), columns.tolist()


def _greedy(scores: np.ndarray) -> tuple[list[int], list[int]]:
    """Best pair first; equal scores in reading order."""
    rows: list[int] = []
    columns: list[int] = []
    free = min(scores.shape)
    for flat in np.argsort(-scores, axis=None, kind="stable").tolist():
        row, column = divmod(flat, scores.shape[1])
        if len(rows) == free or scores[row, column] <= 0:
            break
        if row not in rows and column not in columns:
            rows.append(row)
            columns.append(column)
    return rows, columns


def aggregate(total: float, predictions: int, truths: int, how: str = "max") -> float:
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


def ignore_repeats(scores: np.ndarray, items: list, overlap: np.ndarray) -> np.ndarray:
    """`scores` `(N, M)` in which an item written k times earns no more than written once.

    Without this, one broad box repeated over a crowd would collect a little from each. Repeats count only where two
    objects lie on one spot: then every copy keeps the objects that it overlaps by 0.95 or more, and no others.

    >>> crowd = np.array([[0.6, 0.2], [0.6, 0.2]])
    >>> ignore_repeats(crowd, [(0, 0, 9, 9), (0, 0, 9, 9)], crowd).tolist()
    [[0.6, 0.2], [0.0, 0.0]]
    """
    if len(set(items)) == len(items):
        return scores
    index: dict = {}
    exact, kept = overlap >= 0.95, scores.copy()
    for i, item in enumerate(items):
        first = index.setdefault(item, i)
        if first != i:
            kept[i] = np.where(exact[i], scores[i], 0)
            if exact[i].any():
                kept[first] = kept[i]
    return kept
