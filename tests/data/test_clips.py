"""Clips: seeded, exact, disjoint; each question has its one answer in time."""

import numpy as np
import pytest

from pr1kit import make_clips
from pr1kit.data.clip_questions import KINDS
from pr1kit.data.clips import query_kind
from pr1kit.data.motion import Motion
from pr1kit.data.sample import VIDEO_TASKS
from pr1kit.data.scenes import COLOURS
from pr1kit.data.tracks import frames_in, spans_of

EVERY = [(task, kind) for task, kinds in KINDS.items() for kind in (*kinds, "proxy")]


def pixels(clip):
    return np.stack([np.asarray(frame) for frame in clip.frames])


@pytest.mark.parametrize("task", VIDEO_TASKS)
def test_the_same_seed_gives_the_same_clips_and_a_longer_list_begins_with_the_shorter(task):
    short, long = make_clips(task, 3, seed=5), make_clips(task, 6, seed=5)
    for a, b in zip(short, long, strict=False):
        assert (a.question, a.id, a.times) == (b.question, b.id, b.times)
        assert a.target.to_dict() == b.target.to_dict()
        assert (pixels(a) == pixels(b)).all()
    assert (pixels(make_clips(task, 2, seed=5, start=4)[0]) == pixels(long[4])).all()


def test_splits_and_seeds_share_no_frame():
    seen = set()
    for split in ("train", "validation", "test"):
        for seed in (0, 1):
            for clip in make_clips("tracking", 20, seed, split):
                for frame in clip.frames:
                    assert frame.tobytes() not in seen
                    seen.add(frame.tobytes())


@pytest.mark.parametrize(("task", "kind"), EVERY)
def test_every_kind_of_query_is_made_and_can_be_found(task, kind):
    for clip in make_clips(task, 6, kinds=(kind,), frames=10, size=80):
        assert query_kind(clip) == kind
        assert (len(clip.frames), clip.load_frames()[0].size, clip.target.image_size) == (10, (80, 80), (80, 80))
        assert clip.times == tuple(i / 2 for i in range(10))
        assert clip.question


def test_a_track_is_where_the_object_was_drawn():
    """The colour that the question names fills the box as far as nothing covers it, and is nowhere else nearby."""
    checked = 0
    for clip in make_clips("tracking", 40, kinds=("look",), distractors=0, occlusion=0, events=0, num_objects=(1, 1)):
        track, images = clip.target.tracks[0], pixels(clip)
        colour = COLOURS[track.label.split()[0]]
        for frame in np.flatnonzero(track.seen):
            rows, columns = np.nonzero((images[frame] == colour).all(-1))
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == track.boxes[frame].tolist()
            checked += 1
    assert checked > 200


def test_queries_in_time_need_time_and_the_proxy_does_not():
    for clip in make_clips("tracking", 40, seed=2):
        boxes = clip.target.tracks[0].boxes
        seen = boxes[~np.isnan(boxes[:, 0])]
        assert np.ptp(seen, axis=0).max() > 0 or len(seen) < len(boxes)
    for clip in make_clips("tracking", 20, seed=2, kinds=("proxy",)):
        assert np.ptp(clip.target.tracks[0].boxes, axis=0).max() == 0
    for clip in make_clips("when", 40, seed=2):
        assert 0 < frames_in(clip.target.spans, 8).sum() < 8
    for clip in make_clips("when", 20, seed=2, kinds="proxy"):
        assert frames_in(clip.target.spans, 8).all()


def test_hidden_is_when_the_object_is_covered():
    for clip in make_clips("when", 20, kinds=("hidden",)):
        seen = clip.target.tracks[0].seen
        assert clip.target.spans.tolist() == spans_of(~seen).tolist()
        assert seen[0]
        assert seen[-1]


def test_what_it_does_is_what_its_track_shows():
    for clip in make_clips("what", 40, kinds=("action",), turns=0):
        boxes = clip.target.tracks[0].boxes
        way = (boxes[~np.isnan(boxes[:, 0])][[0, -1], :2])[1] - boxes[~np.isnan(boxes[:, 0])][0, :2]
        axis = int(np.abs(way).argmax())
        direction = (("left", "right"), ("up", "down"))[axis][int(way[axis] > 0)]
        assert clip.target.text.split(", ")[0] == f"moves {direction}"


def test_knobs_change_the_world():
    slow, fast = (make_clips("tracking", 20, kinds=("look",), speed=(v, v), turns=0) for v in (1.0, 5.0))

    def way(clips):
        return np.mean(
            [
                np.nanmax(np.ptp(clip.target.tracks[0].boxes[~np.isnan(clip.target.tracks[0].boxes[:, 0])], axis=0))
                for clip in clips
            ]
        )

    assert way(fast) > 3 * way(slow)
    open_, hidden = (make_clips("tracking", 40, kinds=("look",), occlusion=p, events=0) for p in (0.0, 1.0))
    gaps = [np.mean([(~clip.target.tracks[0].seen).sum() for clip in clips]) for clips in (open_, hidden)]
    assert gaps[1] > gaps[0] + 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"task": "grounding"}, "clips have tracking, when, what"),
        ({"split": "dev"}, "Unknown split"),
        ({"kinds": ("hidden",)}, "Unknown kind hidden of tracking"),
        ({"colour": "red"}, "Unknown knob colour"),
        ({"frames": 2}, "3 to 1,000 frames"),
        ({"sides": (70, 80)}, "do not fit"),
        ({"speed": (3, 1)}, "range"),
        ({"fps": 0}, "fps"),
    ],
)
def test_bad_arguments_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        make_clips(**{"task": "tracking", "n": 1, **arguments})
    assert Motion().frames == 8
