"""How sure is a number? Intervals for shares, for means and for AP, whose coverage is measured, and for correlations.

`python tests/benchmarks/coverage.py` simulates how often each covers the population's value, and prints a table.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()


def share_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of the mean of S values in [0, 1].

    Where values lie between 0 and 1, S is the number of yes-or-no trials whose mean would vary as much as theirs does,
    and Student's t takes the place of the normal quantile. Twenty of twenty right is not certainty:

    >>> [round(v, 3) for v in share_interval(np.ones(20))]
    [0.839, 1.0]
    """
    n, mean = len(values), float(values.mean())
    z, trials = NORMAL.inv_cdf((1 + level) / 2), float(n)
    if not np.isin(values, (0, 1)).all():
        if n < 2:
            return 0.0, 1.0
        variance = float(values.var(ddof=1)) / n
        if variance < 1e-18:
            return mean, mean
        z, trials = _student(level, n), mean * (1 - mean) / variance
    middle, spread = mean + z * z / (2 * trials), z * math.sqrt(mean * (1 - mean) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def mean_interval(values: np.ndarray, drawn: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The BCa bootstrap interval (Efron 1987) of the mean of values `(S,)`, from the means `(B,)` of resamples.

    Limits are nan for fewer than two values, which tell nothing of their spread.

    >>> values = np.array([0.0, 1, 2, 7])
    >>> drawn = np.random.default_rng(0).choice(values, (2000, 4)).mean(1)
    >>> [round(v, 2) for v in mean_interval(values, drawn)]
    [0.25, 7.0]
    """
    if len(values) < 2:
        return math.nan, math.nan
    centred = values - values.mean()
    total = float((centred**2).sum())
    if total < 1e-18:
        return float(values.mean()), float(values.mean())
    below = ((drawn < values.mean()).mean() + (drawn <= values.mean()).mean()) / 2  # ties count half
    bias = NORMAL.inv_cdf(min(max(below, 0.5 / len(drawn)), 1 - 0.5 / len(drawn)))
    skew = float((centred**3).sum()) / (6 * total**1.5)
    z = _student(level, len(values))
    tails = [NORMAL.cdf(bias + (bias + side) / max(1 - skew * (bias + side), 1e-6)) for side in (-z, z)]
    low, high = np.quantile(drawn, tails)
    return float(low), float(high)


def numbered(groups: Sequence[Hashable] | None, count: int) -> np.ndarray:
    """The group of each of `count` samples as a number from 0; each its own where `groups` is None. Raises ValueError
    for another number of groups."""
    if groups is None:
        return np.arange(count)
    if len(groups) != count:
        raise ValueError(f"groups names the group of each sample, got {len(groups)} for {count} samples.")
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(group, len(number)) for group in groups])


def by_group(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Values `(C,)` of C groups whose mean is that of the samples' `values` `(S,)`, and varies as it does.

    A mean over groups of different sizes is a ratio: each group stands for its part in that ratio's first-order
    change (its influence).

    >>> by_group(np.array([1.0, 3, 5, 5]), np.array([0, 0, 1, 1])).tolist()
    [2.0, 5.0]
    """
    mean, sizes = values.mean(), np.bincount(group)
    return mean + (np.bincount(group, values) - mean * sizes) * len(sizes) / len(values)


def resampling_weights(group: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each sample counts in each of B bootstrap resamples of whole groups, `(B, S)`."""
    units = int(group.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=resamples)
    return drawn[:, group].astype(float)


def corrected_interval(value: float, drawn: np.ndarray, samples: int, level: float = 0.95) -> tuple[float, float]:
    """The normal bootstrap interval around `value` less its bootstrap bias: for statistics that are no means, as AP.

    >>> [round(v, 1) for v in corrected_interval(0.5, np.array([0.5, 0.6, 0.7]), samples=50)]
    [0.2, 0.6]
    """
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < 2:
        return math.nan, math.nan
    middle = 2 * value - float(drawn.mean())
    inflate = samples / (samples - 1) if samples > 1 else 1
    half = _student(level, samples) * float(drawn.std(ddof=1)) * math.sqrt(inflate)
    return middle - half, middle + half


def rank_correlation(
    x: Sequence[float],
    y: Sequence[float],
    *,
    groups: Sequence | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Spearman's rank correlation and its 95 % percentile bootstrap interval over pairs; nan where a side is constant.

    With `groups`, which name what pairs belong together, whole groups are drawn; of a few, the interval is too narrow.

    >>> rank_correlation([1, 2, 3, 4], [2, 4, 6, 9])[0]
    1.0
    """
    one, other = np.asarray(x, float), np.asarray(y, float)
    names = np.arange(len(one)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    members = [np.flatnonzero(names == name) for name in range(int(names.max()) + 1)]
    draws = np.random.default_rng(seed).integers(0, len(members), (resamples, len(members)))
    chosen = (np.concatenate([members[i] for i in draw]) for draw in draws)
    drawn = np.array([_spearman(one[pairs], other[pairs]) for pairs in chosen])
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return _spearman(one, other), float(low), float(high)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import rankdata

    a, b = rankdata(x), rankdata(y)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _student(level: float, samples: int) -> float:
    """How many standard errors a two-sided t-interval of the mean of so many samples reaches."""
    from scipy.special import stdtrit

    return float(stdtrit(max(samples - 1, 1), (1 + level) / 2))
