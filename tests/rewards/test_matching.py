"""Matching: optimal equals brute force, beats greedy; each index once; repeats earn nothing new."""

from itertools import permutations

import numpy as np
import pytest

from pr1kit.data.boxes import iou
from pr1kit.rewards.matching import aggregate, match, nearest_share, own_share, surplus


def total(pairs):
    return sum(score for *_, score in pairs)


def brute_force(scores):
    n, m = scores.shape
    if n > m:
        return brute_force(scores.T)
    return max(sum(scores[i, j] for i, j in enumerate(columns)) for columns in permutations(range(m), n))


@pytest.mark.parametrize("seed", range(40))
def test_optimal_equals_brute_force_and_is_at_least_greedy(seed):
    rng = np.random.default_rng(seed)
    scores = rng.random((rng.integers(1, 7), rng.integers(1, 7))) * (rng.random() < 0.8)
    scores[rng.random(scores.shape) < 0.3] = 0
    optimal, greedy, sequential = (total(match(scores, how)) for how in ("optimal", "greedy", "sequential"))
    assert optimal == pytest.approx(brute_force(scores))
    assert optimal >= greedy - 1e-12
    assert optimal >= sequential - 1e-12
    assert greedy >= 0


@pytest.mark.parametrize("how", ["optimal", "greedy", "sequential"])
def test_each_index_once_and_no_empty_pairs(how):
    scores = np.random.default_rng(0).random((9, 6)).round(1)
    pairs = match(scores, how)
    assert len({p for p, *_ in pairs}) == len({t for _, t, _ in pairs}) == len(pairs) > 0
    assert all(score > 0 and scores[p, t] == score for p, t, score in pairs)


def test_greedy_falls_where_optimal_does_not():
    scores = np.array([[0.9, 0.8], [0.7, 0.0]])
    assert match(scores, "greedy") == [(0, 0, 0.9)]
    assert total(match(scores)) == pytest.approx(1.5)


def test_sequential_depends_on_the_order_and_optimal_does_not():
    scores = np.eye(4)
    assert total(match(scores[::-1], "sequential")) == 0
    assert total(match(scores[::-1])) == 4


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_matches_nothing(shape):
    assert match(np.zeros(shape)) == []


def test_unknown_names_are_one_clear_sentence():
    with pytest.raises(ValueError, match="Unknown matching 'best': choose one of optimal, greedy, sequential"):
        match(np.ones((1, 1)), "best")
    with pytest.raises(ValueError, match="Unknown aggregate"):
        aggregate(1.0, 1, 1, "mean")


def test_aggregates_by_hand():
    assert aggregate(2.0, 4, 2) == 0.5
    assert aggregate(2.0, 4, 2, "f1") == pytest.approx(2 / 3)
    assert aggregate(2.0, 4, 2, "truth") == 1
    assert aggregate(2.0, 4, 2, "prediction") == 0.5
    assert aggregate(0.0, 0, 0) == 0


APART = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9.0]])


def test_a_box_answers_the_object_that_it_overlaps_most():
    crowd = np.array([[0.3, 0.3, 0.3], [0.6, 0.3, 0.0], [0.6, 0.45, 0.1], [0.0, 0.0, 0.2]])
    assert own_share(crowd, APART).round(3).tolist() == [[0, 0, 0], [1, 0, 0], [0.5, 0, 0], [0, 0, 1]]
    twins = APART[[0, 0, 2]]
    assert own_share(iou(twins, twins), twins)[:2, :2].min() == 1, "two objects on one spot take either's box"


def test_the_exact_boxes_of_any_objects_are_their_own():
    rng = np.random.default_rng(0)
    for _ in range(300):
        corner = rng.integers(0, 20, (6, 2))
        boxes = np.concatenate([corner, corner + rng.integers(1, 20, (6, 2))], axis=1).astype(float)
        alike = iou(boxes, boxes)
        assert np.diag(own_share(alike, boxes)).min() == pytest.approx(1)
        assert surplus(alike) == pytest.approx(0)


def test_a_point_between_two_objects_answers_neither():
    distance = np.array([[0.0, 5, 9], [2, 3, 9], [4, 4, 4]])
    assert nearest_share(distance).round(3).tolist() == [[1, 0, 0], [0.778, 0, 0], [0, 0, 0]]
    assert nearest_share(np.ones((2, 1))).tolist() == [[1], [1]]


def test_surplus_counts_those_without_an_object_of_their_own():
    assert surplus(np.array([[1.0, 0], [1, 0], [0, 1]])) == 1
    assert surplus(np.array([[0.4, 0], [1, 0]])) == pytest.approx(0.5), "half an answer"
    assert surplus(np.array([[0.6, 0.5], [0.6, 0]])) == 0, "the first answers the second object"
    assert surplus(np.zeros((3, 2))) == surplus(np.zeros((0, 2))) == 0
