"""Faults of one kind and a known size in the truth."""

import numpy as np
import pytest

from pr1kit import make_scenes
from pr1kit.data.label_noise import FAULTS, with_fault
from pr1kit.data.sample import Sample, Target

SCENES = make_scenes("detection", 300, 0)


def boxes_of(samples):
    return np.concatenate([sample.target.boxes for sample in samples])


def sides_of(samples):
    boxes = boxes_of(samples)
    return boxes[:, 2:] - boxes[:, :2]


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_drawn_from_its_seed_stays_in_the_image_and_of_size_0_is_none(kind):
    for size in (0.0, 0.15, 1.0):
        faulty = with_fault(SCENES[:50], kind, size, seed=3)
        again = with_fault(SCENES[:50], kind, size, seed=3)
        assert [sample.target.to_dict() for sample in faulty] == [sample.target.to_dict() for sample in again]
        assert boxes_of(faulty).min(initial=0) >= 0
        assert boxes_of(faulty).max(initial=0) <= 64
        same = [one.target.to_dict() == other.target.to_dict() for one, other in zip(faulty, SCENES, strict=False)]
        assert all(same) == (size == 0)
        assert all(one.image is other.image for one, other in zip(faulty, SCENES, strict=False))
    one, other = ([s.target.to_dict() for s in with_fault(SCENES[:50], kind, 0.5, seed)] for seed in (3, 4))
    assert (one == other) == (kind == "loose")  # which is not drawn


def test_each_fault_has_its_size():
    moved = boxes_of(with_fault(SCENES, "jitter", 0.1)) - boxes_of(SCENES)
    inside = ((boxes_of(SCENES) > 12) & (boxes_of(SCENES) < 52)).all(1)
    assert (moved / np.tile(sides_of(SCENES), 2))[inside].std() == pytest.approx(0.1, rel=0.1)
    assert moved.mean() == pytest.approx(0, abs=0.1)
    loose = with_fault([Sample(None, "detection", "a", Target([[20, 20, 30, 40]], ["a"], image_size=(64, 64)))],
                       "loose", 0.3)  # fmt: skip
    assert loose[0].target.boxes.tolist() == [[18.5, 17, 31.5, 43]]
    left = len(boxes_of(with_fault(SCENES, "missing", 0.3))) / len(boxes_of(SCENES))
    assert left == pytest.approx(0.7, abs=0.06)
    labels = [label for sample in SCENES for label in sample.target.labels]
    wrong = [label for sample in with_fault(SCENES, "labels", 0.3) for label in sample.target.labels]
    assert np.mean([one != other for one, other in zip(labels, wrong, strict=True)]) == pytest.approx(0.3, abs=0.06)
    assert set(wrong) == set(labels)
    for one, other in zip(SCENES, with_fault(SCENES, "order", 1.0), strict=True):
        pairs = [sorted(zip(s.target.boxes.tolist(), s.target.labels, strict=True)) for s in (one, other)]
        assert pairs[0] == pairs[1]


def test_what_is_missing_at_a_small_size_is_missing_at_a_larger_one():
    few, many = (with_fault(SCENES, "missing", size) for size in (0.15, 0.3))
    for one, other in zip(few, many, strict=True):
        assert {tuple(box) for box in other.target.boxes} <= {tuple(box) for box in one.target.boxes}


def test_points_and_counts_follow_the_boxes():
    scenes = make_scenes("counting", 20, 0)
    for kind in ("jitter", "missing", "order"):
        for sample in with_fault(scenes, kind, 0.5):
            boxes = sample.target.boxes
            assert sample.target.points == pytest.approx((boxes[:, :2] + boxes[:, 2:]) / 2)
            assert len(sample.target.labels) == len(boxes)
    counted = Sample(None, "counting", "a", Target([[0, 0, 1, 1]] * 4, count=4, image_size=(8, 8)))
    assert with_fault([counted], "missing", 1.0)[0].target.count == 0


def test_what_cannot_be_is_one_clear_sentence():
    for bad, words in {
        ("blur", 0.1): "Unknown fault 'blur': choose one of jitter, loose",
        ("jitter", 1.5): "from 0 to 1, got 1.5",
    }.items():
        with pytest.raises(ValueError, match=words):
            with_fault(SCENES[:2], *bad)
    with pytest.raises(ValueError, match="'missing' does not fit samples of grounding"):
        with_fault(make_scenes("grounding", 2), "missing", 0.1)
    with pytest.raises(ValueError, match="'jitter' does not fit samples of ocr"):
        with_fault(make_scenes("ocr", 2), "jitter", 0.1)
    one = Sample(None, "detection", "a", Target([[0, 0, 1, 1]], ["a"], image_size=(8, 8)))
    with pytest.raises(ValueError, match=r"need two names .* have \['a'\]"):
        with_fault([one], "labels", 0.1)
