"""Calibration of a critic: Spearman's correlation as SciPy has it, errors by hand, and what cannot be told."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from pr1kit.evaluation.calibration import calibrate


def test_the_numbers_are_scipys_and_those_by_hand():
    rng = np.random.default_rng(0)
    rewards = rng.uniform(0, 1, 60).round(1)  # with ties
    scores = np.clip(rewards + rng.normal(0, 0.2, 60), 0, 1).round(1)
    found = calibrate([*scores, None, None], [*rewards, 0.5, 0.5])
    assert found.answered == pytest.approx(60 / 62)
    assert found.rank_correlation == pytest.approx(spearmanr(scores, rewards).statistic)
    assert found.interval[0] < found.rank_correlation < found.interval[1]
    assert found.error == pytest.approx(np.abs(scores - rewards).mean())
    assert found.bias == pytest.approx((scores - rewards).mean())


def test_what_cannot_be_told():
    assert math.isnan(calibrate([0.5, 0.5], [0.1, 0.9]).rank_correlation)
    with pytest.raises(ValueError, match="gave none of 2 answers a score"):
        calibrate([None, None], [0.1, 0.9])
    with pytest.raises(ValueError, match="1 scores need as many rewards, got 2"):
        calibrate([0.5], [0.1, 0.9])
