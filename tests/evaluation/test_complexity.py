"""Perplexity is exact whatever its size; headroom says what a group's rewards say."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pr1kit.evaluation.complexity import log10_matchings, matchings, perceptual_perplexity, rl_headroom
from pr1kit.rewards.results import RewardResult, Rollout

VAL2017 = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco" / "val2017_boxes.txt"


def test_hand_counted_perplexities():
    assert [matchings(n) for n in (0, 1, 2, 3, 10)] == [1, 1, 2, 6, 3628800]
    perplexity = perceptual_perplexity([0, 1, 2, 4])
    assert perplexity.mean == Fraction(1 + 1 + 2 + 24, 4)
    assert perplexity.largest_share == pytest.approx(24 / 28)
    assert perplexity.quantiles[1.0] == pytest.approx(math.log10(24))
    assert perceptual_perplexity([1] * 50).mean == 1


def test_no_float_overflows():
    perplexity = perceptual_perplexity([2000, 1])
    assert perplexity.log10_mean == pytest.approx(log10_matchings(2000) - math.log10(2), abs=1e-9)
    assert perplexity.largest_share == 1.0
    assert "2000 objects" in str(perplexity)


def test_one_image_rules_coco_val2017():
    if not VAL2017.is_file():
        pytest.skip(f"COCO val2017's boxes are not at {VAL2017}")
    images = [line.split() for line in VAL2017.read_text().splitlines() if line.strip()]
    counts = [len(boxes) for _, *boxes in images]
    counts += [0] * (5000 - len(counts))
    perplexity = perceptual_perplexity(counts)
    assert sum(counts) == 36781
    assert str(perplexity).startswith("3.965e+83 over 5000 images, 100.0%")
    without = perceptual_perplexity([len(b) for name, *b in images if "435081" not in name] + [0] * 48)
    assert str(without).startswith("2.8")
    assert math.floor(without.log10_mean) == 71


@pytest.mark.parametrize("counts", [[], [3, -1]])
def test_counts_are_checked(counts):
    with pytest.raises(ValueError, match="number of objects"):
        perceptual_perplexity(counts)


def group(*answers):
    return [Rollout(text, RewardResult(reward, {}), 0.0) for text, reward in answers]


def test_headroom_by_hand():
    groups = [
        group(("a", 0.0), ("a", 0.0), ("b", 1.0), ("b", 1.0)),
        group(("c", 0.5), ("c", 0.5), ("c", 0.5), ("c ", 0.5)),
    ]
    headroom = rl_headroom(groups, threshold=0.8)
    assert headroom.k == 4
    assert headroom.reward == 0.5
    assert headroom.best_of_k == 0.75
    assert headroom.gap == 0.25
    assert headroom.pass_at_k == 0.5
    assert headroom.no_signal == 0.5
    assert headroom.spread == pytest.approx(np.std([0, 0, 1, 1], ddof=1) / 2)
    assert headroom.answer_entropy == pytest.approx(math.log(2) / 2)
    assert headroom.agreement == pytest.approx((1 / 3 + 1) / 2)


def test_groups_are_checked():
    with pytest.raises(ValueError, match="groups of one size"):
        rl_headroom([group(("a", 1.0), ("b", 0.0)), group(("a", 1.0))])
