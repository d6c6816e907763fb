"""Strips and moving pictures of videos: which boxes, in which frame, in which colour."""

import base64
import io
import re

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from pr1kit import (
    animate_clip,
    make_clips,
    make_scenes,
    plot_before_after,
    plot_boxes,
    plot_clip,
    plot_filmstrip,
    plot_matching,
    plot_rollout_group,
    score,
)
from pr1kit.data.animation import animation_bytes
from pr1kit.data.tracks import frames_in
from pr1kit.plots.drawing import BETTER, PREDICTION, TRUTH
from pr1kit.rewards.results import Rollout
from pr1kit.rewards.tasks import get_task


@pytest.fixture(autouse=True)
def close_figures():
    matplotlib.use("Agg")
    yield
    plt.close("all")


def drawn(ax, kind):
    patches = [patch for patch in ax.patches if patch.get_gid() == kind]
    return [[*p.get_xy(), p.get_x() + p.get_width(), p.get_y() + p.get_height()] for p in patches]


def test_each_frame_wears_its_own_boxes_and_their_overlap():
    clip = make_clips("tracking", 8, seed=2, kinds="place", occlusion=1.0)[0]
    track = clip.target.tracks[0]
    box = track.boxes[track.seen][0]
    axes = plot_clip(clip, "Frame 2:[1,1,9,9];Frame 3:[1,1,9,9]", columns=3)
    assert len(axes) == 8
    for number, ax in enumerate(axes):
        assert drawn(ax, "truth") == ([track.boxes[number].tolist()] if track.seen[number] else [])
        assert len(drawn(ax, "prediction")) == (number in (1, 2))
    assert [ax.get_title() for ax in axes[:2]] == ["1: 0 s", "2: 0.5 s"]
    first = int(np.flatnonzero(track.seen)[0])
    exact = plot_clip(clip, f"Frame {first + 1}:[{','.join(f'{v:g}' for v in box)}]")
    assert [text.get_text() for text in exact[first].texts] == ["1.00"]
    assert drawn(plot_clip(clip, truth=False)[first], "truth") == []


def test_a_bar_says_when():
    clip = make_clips("when", 1, kinds="colour")[0]
    axes = plot_clip(clip, "Frame 1-2")
    bars = [{line.get_gid() for line in ax.lines} for ax in axes]
    truth = frames_in(clip.target.spans, 8)
    assert ["truth" in each for each in bars] == truth.tolist()
    assert ["prediction" in each for each in bars] == [True, True] + [False] * 6


@pytest.mark.parametrize("name", ["clip.gif", "clip.png"])
def test_a_moving_picture_keeps_frames_times_and_boxes(tmp_path, name):
    clip = make_clips("tracking", 1, fps=4.0)[0]
    moving = animate_clip(clip, "Frame 1:[2,2,30,30]")
    moving.save(tmp_path / name)
    with Image.open(tmp_path / name) as film:
        assert (film.n_frames, film.size, film.info["duration"]) == (8, (256, 256), 250)
        shown = []
        for number in range(8):
            film.seek(number)
            shown.append(np.asarray(film.convert("RGB"), float))
    colours = {kind: 255 * np.array(to_rgb(colour)) for kind, colour in (("truth", TRUTH), ("said", PREDICTION))}

    def count(pixels, kind):
        return int((np.abs(pixels - colours[kind]).max(-1) < 24).sum())

    seen = clip.target.tracks[0].seen
    assert all((count(pixels, "truth") > 100) == seen[number] for number, pixels in enumerate(shown))
    assert count(shown[0], "said") > count(shown[1], "said") + 100
    assert moving._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_video_shows_itself_moving():
    clip = make_clips("tracking", 1)[0]
    found = re.search(r"data:image/gif;base64,([^\"]+)", clip._repr_html_())
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as film:
        assert (film.n_frames, film.size) == (8, (64, 64))
    assert "8 frames 64x64" in repr(clip)
    assert "data:image/png" in make_scenes("grounding", 1)[0]._repr_html_()


def test_frames_of_a_moving_picture_are_shown_until_the_next():
    frames = [Image.new("RGB", (900, 300), colour) for colour in ("red", "green", "blue")]
    with Image.open(io.BytesIO(animation_bytes(frames, [0, 0.1, 1.1]))) as film:
        assert film.size == (480, 160)
        pauses = []
        for number in range(3):
            film.seek(number)
            pauses.append(film.info["duration"])
    assert pauses == [100, 1000, 1000]


def test_pictures_are_no_videos():
    scene = make_scenes("grounding", 1)[0]
    for draw in (plot_clip, animate_clip):
        with pytest.raises(ValueError, match="has no frames"):
            draw(scene)


def test_a_group_of_answers_about_a_video_is_a_strip_each():
    (clip,) = make_clips("tracking", 1, seed=3)
    texts = ["Frame 2:[1,1,9,9]", "None", "Frame 1:[1,1,9"]
    group = [Rollout(text, score("tracking", text, clip.target), a) for text, a in zip(texts, (1, -1, 0), strict=True)]
    axes = plot_rollout_group(clip, group, best_first=False)
    assert axes.shape == (3, 8)
    for row, text in zip(axes, texts, strict=True):
        assert [len(drawn(ax, "prediction")) for ax in row] == [0, int(text == texts[0])] + [0] * 6
        assert drawn(row[4], "truth") == [clip.target.tracks[0].boxes[4].tolist()]
    assert axes[0, 0].get_ylabel() == "reward 0.00\nA +1.00"
    assert "cut short" in axes[2, 0].get_ylabel()
    assert axes[0, 0].yaxis.label.get_color() == BETTER


def test_videos_before_and_after_have_two_strips_each():
    clips = [*make_clips("tracking", 1, seed=3), *make_clips("when", 1, seed=3, frames=6)]
    after = [supervised("tracking", clips[0]), supervised("when", clips[1])]
    axes = plot_before_after(clips, ["None", "None"], after)
    assert axes.shape == (2, 2, 8)
    assert [ax is None for ax in axes[1, 1]] == [False] * 6 + [True] * 2
    for i in range(2):
        assert axes[1, i, 0].get_ylabel() == "after RL\nreward 1.00"
        assert axes[1, i, 0].yaxis.label.get_color() == BETTER
    assert len(drawn(axes[1, 0, 7], "prediction")) == 1
    assert not drawn(axes[0, 0, 7], "prediction")
    with pytest.raises(ValueError, match="Videos and pictures do not go into one plot_before_after"):
        plot_before_after([clips[0], *make_scenes("grounding", 1)], ["", ""], ["", ""])


def supervised(task, clip):
    return get_task(task).write_answer(clip.target)


def test_one_picture_is_not_a_video():
    (clip,) = make_clips("tracking", 1, frames=20)
    axes = plot_boxes(clip, completion="Frame 3:[1,1,9,9]")
    assert [len(drawn(ax, "prediction")) for ax in axes] == [0, 0, 1] + [0] * 17
    shown = plot_clip(clip, most=5, ax=plt.figure().subplots())
    assert [ax.get_title().partition(":")[0] for ax in shown] == ["1", "6", "11", "15", "20"]
    for draw in (lambda: plot_matching(clip, [[1, 1, 9, 9]], []), lambda: plot_boxes(clip, predictions=[[1, 1, 9, 9]])):
        with pytest.raises(ValueError, match="is a video of 20 frames and this draws one picture: see plot_clip"):
            draw()
    with pytest.raises(ValueError, match="is a video: a filmstrip has one picture a turn"):
        plot_filmstrip(clip, ["None"])
