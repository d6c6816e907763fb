"""Can a critic be trusted? Its scores against the rewards that the answers truly earn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pr1kit.evaluation.intervals import rank_correlation


@dataclass(frozen=True)
class Calibration:
    """How a critic's scores relate to true rewards, over the answers that it gave a score.

    `answered` is the share of answers with a score; `rank_correlation` Spearman's, with its 95 % bootstrap `interval`
    (nan where either is constant); `error` the mean |score − reward|, `bias` the mean score minus reward.
    """

    answered: float
    rank_correlation: float
    interval: tuple[float, float]
    error: float
    bias: float


def calibrate(
    scores: Sequence[float | None], rewards: Sequence[float], *, seed: int = 0, draws: int = 1000
) -> Calibration:
    """The calibration of N scores, None where a critic gave none, against N rewards, all in [0, 1].

    Raises ValueError where the lengths differ or no answer was given a score.

    >>> calibrate([0.1, 0.5, None, 0.9], [0.0, 0.6, 0.2, 1.0]).rank_correlation
    1.0
    """
    if len(scores) != len(rewards):
        raise ValueError(f"{len(scores)} scores need as many rewards, got {len(rewards)}.")
    known = [(score, reward) for score, reward in zip(scores, rewards, strict=True) if score is not None]
    if not known:
        raise ValueError(f"The critic gave none of {len(scores)} answers a score.")
    said, true = np.array(known, float).T  # (N,) each
    correlation, *interval = rank_correlation(said, true, resamples=draws, seed=seed)
    return Calibration(
        len(known) / len(scores),
        correlation,
        (interval[0], interval[1]),
        float(np.abs(said - true).mean()),
        float((said - true).mean()),
    )
