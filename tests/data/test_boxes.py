"""Geometry: properties, parity with torchvision and with the model's processor, and the coordinate round trip."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pr1kit.data.boxes import (
    area,
    box_iou,
    clip,
    from_pixels,
    giou,
    iou,
    is_valid,
    parse_frame,
    pixels_per_unit,
    smart_resize,
    to_pixels,
)


def boxes(rng, n, size=100):
    corner = rng.integers(0, size, (n, 2))
    return np.concatenate([corner, corner + rng.integers(0, size // 2, (n, 2))], axis=1).astype(float)


def test_iou_by_hand():
    a = np.array([[0, 0, 4, 4.0]])
    b = np.array([[0, 0, 4, 4], [2, 2, 6, 6], [4, 0, 8, 4], [1, 1, 3, 3.0]])
    assert iou(a, b)[0] == pytest.approx([1, 4 / 28, 0, 4 / 16])


def test_iou_is_symmetric_and_between_0_and_1():
    rng = np.random.default_rng(0)
    a, b = boxes(rng, 50), boxes(rng, 40)
    overlap = iou(a, b)
    assert overlap.shape == (50, 40)
    assert np.array_equal(overlap, iou(b, a).T)
    assert ((overlap >= 0) & (overlap <= 1)).all()
    assert overlap.max() > 0


def test_flat_boxes_overlap_nothing_not_even_themselves():
    flat = np.array([[3, 3, 3, 9], [0, 0, 0, 0.0]])
    assert not iou(flat, flat).any()
    assert not iou(flat[1:], flat[1:]).any()
    assert np.isfinite(giou(flat, flat)).all()


def test_one_box_and_many_agree():
    rng = np.random.default_rng(1)
    a, b = boxes(rng, 9), boxes(rng, 7)
    singly = [[iou(x[None], y[None])[0, 0] for y in b] for x in a]
    assert iou(a, b) == pytest.approx(np.array(singly))
    assert box_iou(a[0].tolist(), b[0].tolist()) == pytest.approx(iou(a, b)[0, 0])


def test_iou_and_giou_agree_with_torchvision():
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(2)
    a, b = boxes(rng, 30), boxes(rng, 30)
    a, b = a[area(a) > 0], b[area(b) > 0]
    assert iou(a, b) == pytest.approx(ops.box_iou(torch.tensor(a), torch.tensor(b)).numpy(), abs=1e-12)
    assert giou(a, b) == pytest.approx(ops.generalized_box_iou(torch.tensor(a), torch.tensor(b)).numpy(), abs=1e-12)


def test_no_boxes_give_empty_matrices():
    none, one = np.zeros((0, 4)), np.array([[0, 0, 1, 1.0]])
    assert iou(none, one).shape == (0, 1)
    assert giou(one, none).shape == (1, 0)
    assert iou(none, none).shape == (0, 0)


def test_clip_and_validity():
    assert clip(np.array([[-3, 5, 99, 99.0]]), (20, 10)).tolist() == [[0, 5, 20, 10]]
    assert is_valid(np.array([[0, 0, 1, 1], [2, 0, 1, 1], [0, 0, np.inf, 1]])).tolist() == [True, False, False]


@settings(max_examples=60, deadline=None)
@given(width=st.integers(29, 2500), height=st.integers(29, 2500), seed=st.integers(0, 1000))
def test_truth_in_pixels_meets_answers_in_every_frame(width, height, seed):
    """Odd sizes: written in the resized image's pixels or normalised to 0–1000 and read back, a box is where it was."""
    resized = smart_resize((width, height))
    assert resized[0] % 28 == resized[1] % 28 == 0
    truth = np.random.default_rng(seed).uniform(0, 1, (3, 4)) * [width, height, width, height]
    for frame in ("pixel", "norm1000", resized):
        written = from_pixels(truth, frame, (width, height))
        assert to_pixels(written, frame, (width, height)) == pytest.approx(truth)
        rounded = to_pixels(np.round(written), frame, (width, height))
        unit = np.tile(pixels_per_unit(frame, (width, height)), 2)
        assert (np.abs(rounded - truth) <= unit / 2 + 1e-9).all(), "rounding moves an edge by half a unit at most"


def test_points_convert_too():
    assert to_pixels(np.array([[500, 250.0]]), "norm1000", (200, 400)).tolist() == [[100, 100]]


def test_smart_resize_agrees_with_the_processor():
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl")
    rng = np.random.default_rng(3)
    for width, height in rng.integers(20, 4000, (200, 2)).tolist():
        for most in (14 * 14 * 4 * 1280, 1_000_000):
            expected = module.smart_resize(height, width, 28, 56 * 56, most)
            assert smart_resize((width, height), max_pixels=most) == tuple(expected)[::-1]


@pytest.mark.parametrize("frame", ["norm", "1000", None, (0, 5), (1, 2, 3), ("a", "b"), (float("nan"), 3), -4])
def test_an_unknown_frame_is_one_clear_sentence(frame):
    with pytest.raises(ValueError, match="Unknown frame"):
        pixels_per_unit(frame, (10, 10))


def test_a_frame_without_image_size_is_one_clear_sentence():
    with pytest.raises(ValueError, match="image_size"):
        to_pixels(np.zeros((1, 4)), "norm1000", None)


def test_an_impossible_image_cannot_be_resized():
    with pytest.raises(ValueError, match="200:1"):
        smart_resize((1000, 2))


@pytest.mark.parametrize("text", ["pixel", "norm1000"])
def test_a_frame_that_has_a_name_is_that_name(text):
    assert parse_frame(text) == text


def test_a_frame_of_another_size_is_its_sides():
    assert parse_frame("640x480") == (640, 480)
    assert parse_frame("1X1") == (1, 1)


@pytest.mark.parametrize("text", ["", "percent", "640", "640x", "x480", "0x5", "-1x5", "infx5", "nanxnan", "1x2x3"])
def test_any_other_frame_is_one_sentence(text):
    with pytest.raises(ValueError, match=re.escape(f"Unknown frame {text!r}: choose pixel, norm1000 or WxH")):
        parse_frame(text)
