"""Tracks and spans: what a video's truth must be."""

import json

import numpy as np
import pytest

from pr1kit import Sample, Target, Track
from pr1kit.data.tracks import as_spans, frames_in, spans_of

BOXES = [[0, 0, 4, 4], None, [2, 0, 6, 4]]


def test_a_track_keeps_its_frames_through_json():
    target = Target(tracks=[{"boxes": BOXES, "label": "cat", "id": 3}], spans=[[0, 1]], image_size=(8, 8))
    again = Target.of(json.loads(json.dumps(target.to_dict())))
    assert again.tracks[0].seen.tolist() == [True, False, True]
    assert (again.tracks[0].label, again.tracks[0].id, len(again.tracks[0])) == ("cat", "3", 3)
    assert np.array_equal(again.tracks[0].boxes, target.tracks[0].boxes, equal_nan=True)
    assert again.to_dict() == target.to_dict()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tracks": [{"boxes": [[0, 0, 4, 4], [4, 0, 2, 4]]}]}, r"'' has the box .* in frame 1"),
        ({"tracks": [{"boxes": [[0, 0, float("nan"), 4]]}]}, "in frame 0"),
        ({"tracks": [{"boxes": [[0, 0, 1e300, 4]]}]}, "in frame 0"),
        ({"tracks": [{"boxes": [[0, 0, 4]], "label": "cat"}]}, "'cat' must have boxes of the shape"),
        ({"tracks": [{"boxes": [[0, 0, 4, 4], 7]}]}, "four numbers, or None"),
        ({"tracks": [{"boxes": BOXES}, {"boxes": BOXES[:2]}]}, "2 and 3"),
        ({"tracks": [{"boxes": BOXES}], "image_size": (4, 4)}, "leaves its frame of 4x4 pixels: its box in frame 2"),
        ({"tracks": {"boxes": BOXES}}, "list of tracks"),
        ({"tracks": [3]}, "mapping with `boxes`"),
        ({"spans": [[1, 0]]}, r"span \[1, 0\]"),
        ({"spans": [[0, 3]], "tracks": [{"boxes": BOXES}]}, "frames 0 to 2"),
        ({"spans": [[0.5, 1]]}, "whole numbers"),
        ({"spans": ["ab"]}, "whole numbers"),
    ],
)
def test_a_bad_truth_is_one_sentence(values, said):
    with pytest.raises(ValueError, match=said) as raised:
        Target(**values)
    assert "\n" not in str(raised.value)


def test_a_track_of_another_length_than_its_video_is_refused(tmp_path):
    target = Target(tracks=[Track(BOXES)])
    frames = ["a.png", "b.png"]
    with pytest.raises(ValueError, match="has 2 frames but tracks over 3"):
        Sample(None, "tracking", "the cat", target, "s", frames=frames, times=(0, 1))


def test_spans_and_frames_undo_each_other():
    rng = np.random.default_rng(0)
    for _ in range(50):
        holds = rng.random(9) < 0.5
        spans = as_spans(spans_of(holds).tolist(), 9)
        assert (frames_in(spans, 9) == holds).all()
        assert (np.diff(spans.ravel()) >= 0).all()
