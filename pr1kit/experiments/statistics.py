"""What runs over several seeds say: means with intervals, paired differences, rank correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from pr1kit.experiments.runs import Run


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean over seeds and its t interval, `(mean, low, high)`; nan limits for fewer than two.

    Of three seeds, 95 % intervals cover 95 % of the time where seeds vary normally, and 88 to 90 % where they vary
    unevenly (`tests/benchmarks/coverage.py`).

    >>> [round(float(v), 3) for v in mean_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), np.nan, np.nan
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def seeds_needed(differences: Sequence[float], half: float = 0.02, level: float = 0.95) -> int | None:
    """How many seeds make the t interval of the mean at most ± `half`, if they vary as these; None for fewer than two.

    The spread of few seeds is itself uncertain: with 95 % confidence the true variance is 0.27 to 39 times that of
    three seeds, 0.36 to 8.3 times that of five.

    >>> seeds_needed([0.10, 0.12, 0.14]), seeds_needed([0.0, 0.1, 0.2])
    (7, 99)
    """
    differences = np.asarray(differences, float)
    if len(differences) < 2:
        return None
    spread, n = differences.std(ddof=1), 2
    while stats.t.ppf((1 + level) / 2, n - 1) * spread > half * np.sqrt(n):
        n += 1
    return n


def paired_difference(
    runs: Sequence[Run], one: Mapping[str, str], other: Mapping[str, str], value=lambda run: run.gain()
) -> tuple[float, float, float]:
    """Mean of `value` at the levels `one` less that at `other`, paired by seed and other factors, with its t interval.

    Raises ValueError where no pair of runs differs by these levels alone.
    """
    return mean_interval(paired_values(runs, one, other, value))


def paired_values(
    runs: Sequence[Run], one: Mapping[str, str], other: Mapping[str, str], value=lambda run: run.gain()
) -> list[float]:
    """The differences that `paired_difference` averages, one for each seed: the mean over its pairs."""

    def at(levels):
        return {
            (run.seed, *(v for k, v in sorted(run.factors.items()) if k not in levels)): value(run)
            for run in runs
            if all(run.factors[name] == level for name, level in levels.items())
        }

    ones, others = at(one), at(other)
    if not (pairs := sorted(set(ones) & set(others))):
        raise ValueError(f"No runs to pair: {dict(one)} with {dict(other)}.")
    return values_by_seed({pair: ones[pair] - others[pair] for pair in pairs})


def values_by_seed(values: Mapping[tuple, float]) -> list[float]:
    """The mean of the values of each seed, which their keys begin with: seeds are independent, what else differs not.

    >>> values_by_seed({(0, "ocr"): 1.0, (0, "counting"): 3.0, (1, "ocr"): 5.0})
    [2.0, 5.0]
    """
    by_seed: dict[int, list[float]] = {}
    for (seed, *_), value in values.items():
        by_seed.setdefault(seed, []).append(value)
    return [float(np.mean(by_seed[seed])) for seed in sorted(by_seed)]


def p_value(differences: Sequence[float]) -> float:
    """The two-sided p of Student's t-test that the mean difference is 0; 1 where it cannot be told (fewer than two).

    >>> round(p_value([1.0, 2.0, 3.0]), 3), p_value([0.0, 0.0])
    (0.074, 1.0)
    """
    differences = np.asarray(differences, float)
    if len(differences) < 2 or not differences.any():
        return 1.0
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return float(2 * stats.t.sf(abs(differences.mean()) / error, len(differences) - 1)) if error else 0.0


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values `(K,)` of K claims tested together, corrected (Holm 1979).

    Where those below 0.05 are taken to hold, the risk that any of them does not is at most 5 %.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(steps, 1)
    return corrected


def verdict(difference: tuple[float, float, float], margin: float = 0.02) -> str:
    """Whether a claim that the difference is above zero holds, by its interval; where that has zero and lies within ±
    `margin`, that the two are no further apart.

    >>> verdict((0.2, 0.1, 0.3)), verdict((0.2, -0.1, 0.5)), verdict((-0.2, -0.3, -0.1))
    ('holds', 'not shown', 'the opposite holds')
    >>> verdict((0.0, -0.01, 0.01))
    'less than 0.02 apart'
    """
    _, low, high = difference
    if low > 0 or high < 0:
        return "holds" if low > 0 else "the opposite holds"
    return f"less than {margin:g} apart" if -margin < low and high < margin else "not shown"
