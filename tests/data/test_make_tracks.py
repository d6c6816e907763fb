"""Detections become tracks: who is who is found again, and the truth of the synthetic clips is what is compared to."""

import builtins

import numpy as np
import pytest

from pr1kit.data.make_tracks import make_tracks


def walk(x, y, step, frames=10):
    return np.array([[x + step * t, y, x + step * t + 20, y + 20] for t in range(frames)], float)


@pytest.fixture
def detections():
    """Two that cross, far enough apart in height, in an order that changes from frame to frame."""
    pytest.importorskip("trackers")
    right, left = walk(0, 0, 5), walk(60, 30, -5)
    rng = np.random.default_rng(0)
    return right, left, [np.stack([right[t], left[t]])[rng.permutation(2)] for t in range(10)]


def test_each_object_is_followed_whatever_the_order_of_its_detections(detections):
    right, left, boxes = detections
    tracks = make_tracks(boxes, fps=10)
    assert len(tracks) == 2
    for truth in (right, left):
        assert any(np.allclose(track.boxes, truth) for track in tracks)


def test_a_missed_detection_leaves_a_gap_and_no_guess(detections):
    right, _, _ = detections
    boxes = [right[t : t + 1] if t != 4 else np.zeros((0, 4)) for t in range(10)]
    (track,) = make_tracks(boxes, [["cat"] * len(each) for each in boxes], fps=10)
    assert track.seen.tolist() == [t != 4 for t in range(10)]
    assert track.label == "cat"


def test_labels_are_tracked_for_themselves(detections):
    right, _, _ = detections
    boxes = [np.stack([right[t], right[t]]) for t in range(10)]
    tracks = make_tracks(boxes, [["cat", "dog"]] * 10, [[0.9, 0.8]] * 10, fps=10)
    assert sorted(track.label for track in tracks) == ["cat", "dog"]
    assert all(track.seen.all() for track in tracks)
    assert make_tracks([right[:1], *[np.zeros((0, 4))] * 9]) == (), "seen once"


def test_what_does_not_fit_is_one_sentence(detections):
    right, _, _ = detections
    with pytest.raises(ValueError, match="as many labels as boxes"):
        make_tracks([right[:1]], [["cat", "dog"]])
    with pytest.raises(ValueError, match="frame 1 is not x1 <= x2"):
        make_tracks([right[:1], [[9, 9, 1, 1]]])
    with pytest.raises(ValueError, match=r"frame 0 must lie in \[0, 1\]"):
        make_tracks([right[:1]], scores=[[1.5]])


def test_without_the_library_the_remedy_is_named(monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name in ("trackers", "supervision"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"pr1kit\[tracking\]"):
        make_tracks([])
