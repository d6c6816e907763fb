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
    if how == "optimal" and scores.size > 1:
        useful = scores.any(1).nonzero()[0]  # a thousand guesses that hit nothing need no assignment
        rows, columns = assign(scores[useful], how)
        rows = useful[rows].tolist()
    else:
        rows, columns = assign(scores, how)
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
    rows, columns, free = [], [], min(scores.shape)
    for flat in np.argsort(-scores, axis=None, kind="stable").tolist():
        row, column = divmod(flat, scores.shape[1])
        if len(rows) == free:
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
        count = max(predictions, truths)
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
    index, exact, kept = {}, overlap >= 0.95, scores.copy()
    for i, item in enumerate(items):
        first = index.setdefault(item, i)
        if first != i:
            kept[i] = np.where(exact[i], scores[i], 0)
            if exact[i].any():
                kept[first] = kept[i]
    return kept
