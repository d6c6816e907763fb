"""The same questions answered before and after, one question answered many times: many small pictures, compared."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist

from pr1kit.data.sample import Sample, Target
from pr1kit.plots import drawing
from pr1kit.plots.clips import draw_strip, strip_size
from pr1kit.plots.drawing import BETTER, INK, IOU_NOTE, NEUTRAL, WORSE, Panel, style
from pr1kit.plots.pictures import panel_of
from pr1kit.rewards.matching import aggregate
from pr1kit.rewards.results import Answer, Rollout
from pr1kit.rewards.score import score
from pr1kit.rewards.text_similarity import compare_texts, normalize

STRIP = 8  # frames of a video in a row; of more so many are shown


def _draw_panel(ax, sample: Sample, scene: Panel) -> float:
    """One small picture among many; returns the height in points that text takes under it."""
    if sample.task == "ocr":
        return drawing.draw_transcript(ax, scene, size=7.5)
    drawing.draw_scene(ax, scene, names=sample.task == "detection")
    return 0.0


def _panel_size(scenes: Sequence[Panel], side: float) -> tuple[float, float]:
    """Width and height in inches of each panel: as the tallest picture, `side` wide where that is square."""
    aspect = min(2.0, max(np.shape(scene.picture)[0] / np.shape(scene.picture)[1] for scene in scenes))
    width = side * min(1.5, max(1.0, 1 / aspect))
    return width, width * aspect


def _quality(sample: Sample, scene: Panel) -> list[tuple[str, float]]:
    """The lines under a panel, each with a number that is larger for a better answer."""
    answer, target = scene.answer or Answer(), scene.target or Target()
    if sample.task == "ocr":
        runs = compare_texts(target.text, answer.text)
        wrong = sum(len(text) for text, mark in runs if mark != "same")
        length = max(len(normalize(target.text)), len(normalize(answer.text)), 1)
        return [(f"{wrong} of {length} characters off", -wrong / length)]
    n, m = len(answer.boxes), len(target.boxes) or len(target.points)
    if m and not len(target.boxes):
        return [(f"counted {n}, true {m}", -float(abs(n - m)))]
    share = aggregate(sum(score for *_, score in scene.matches), n, m) if n or m else float(answer.explicit)
    if sample.task == "grounding":
        return [(f"IoU {share:.2f}" if n else "no box", share)]
    said = f"counted {n}, true {m}" if sample.task == "counting" else f"boxes {n}, true {m}"
    return [(said, -float(abs(n - m))), (f"IoU {share:.2f}", share)]


def _write_captions(ax, lines, before, below: float, *, bold: bool) -> None:
    """`lines` under a panel, `below` points lower, each in the colour of its own change since `before`."""
    for i, ((text, quality), (_, last)) in enumerate(zip(lines, before, strict=True)):
        colour = INK if quality == last else BETTER if quality > last else WORSE
        ax.annotate(
            text, (0.5, 0), (0, -6.5 - below - 10.5 * i), "axes fraction", "offset points", color=colour, fontsize=8,
            weight="bold" if bold else "normal", ha="center", va="top", gid="caption", annotation_clip=False,
        )  # fmt: skip


def _finish(figure, tasks: set[str]) -> None:
    """One legend under all panels, and a first layout: constrained layout settles at the second."""
    handles: list[Artist] = []
    handles += drawing.legend_handles("truth", "prediction", note=IOU_NOTE) if tasks != {"ocr"} else []
    handles += drawing.transcript_handles() if "ocr" in tasks else []
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8.5)
    figure.get_figure(root=True).draw_without_rendering()


@style()
def plot_before_after(
    samples: Sequence[Sample], before: Sequence[str], after: Sequence[str], *, frame: Any = "pixel",
    rows: tuple[str, str] = ("before RL", "after RL"), ax=None,
) -> np.ndarray:  # fmt: skip
    """The same questions answered by two policies: a column per sample, a row per policy; returns Axes (2, N).

    `before`, `after`: N completions each, in `frame`. Under each panel stand its count and its matched IoU over the
    larger count (as the reward aggregates), each green where the second row is better in it, vermillion where worse.
    Of videos, each has two rows of frames with its reward under `kit` beside them: Axes (2, N, `STRIP`), None where one
    has fewer frames. `ax` gives its place away. Raises ValueError where the lengths differ, nothing is given, or videos
    and pictures are mixed.

    >>> from pr1kit.data.scenes import make_scenes
    >>> samples = make_scenes("grounding", 2, seed=0)
    >>> plot_before_after(samples, ["", ""], ["(1,1),(9,9)", ""]).shape
    (2, 2)
    """
    if not len(samples) or not len(samples) == len(before) == len(after):
        counts = f"{len(samples)} samples, {len(before)} answers before and {len(after)} after"
        raise ValueError(f"One answer before and one after for each of at least one sample, got {counts}.")
    if any(sample.is_video for sample in samples):
        return _videos_before_after(samples, (before, after), rows, frame, ax)
    scenes = [[panel_of(*pair, frame) for pair in zip(samples, said, strict=True)] for said in (before, after)]
    width, height = _panel_size(scenes[0], 1.75)
    figure = drawing.area_of(ax, (width * len(samples) + 0.5, 2 * height + 1.15))
    axes = figure.subplots(2, len(samples), squeeze=False)
    for column, sample in enumerate(samples):
        old = [_quality(sample, scenes[0][column])] * 2
        for row in (0, 1):
            panel, scene = axes[row, column], scenes[row][column]
            below = _draw_panel(panel, sample, scene)
            _write_captions(panel, _quality(sample, scene), old[row], below, bold=bool(row))
        title = textwrap.wrap(sample.question or "read the text", 22) if sample.task != "detection" else ["detection"]
        axes[0, column].set_title("\n".join(title[:2]), loc="center", fontsize=9)
    for row in (0, 1):
        axes[row, 0].set_ylabel(rows[row], fontsize=11, weight="bold", color=INK if row else NEUTRAL, labelpad=7)
    _finish(figure, {sample.task for sample in samples})
    return axes


@style()
def plot_rollout_group(
    sample: Sample, rollouts: Sequence[Rollout], *, frame: Any = "pixel", best_first: bool = True, columns: int = 4,
    ax=None,
) -> np.ndarray:  # fmt: skip
    """The G answers to one prompt, each with its reward as a bar, green above its group's mean and vermillion below.

    Returns the G panels' Axes `(G,)` in the order drawn: by reward (`best_first`) or as sampled. They fill a new
    figure, or the place of `ax`. The bars' tracks end at the largest reward, at least 1. Answers about a video have a
    row of frames each: Axes (G, F), F at most `STRIP`. No rollout: ValueError.

    >>> from pr1kit.data.scenes import make_scenes
    >>> from pr1kit.rewards.results import RewardResult
    >>> sample, = make_scenes("grounding", 1, seed=0)
    >>> group = [Rollout("(1,1),(9,9)", RewardResult(r, {}), a) for r, a in ((0.2, -1), (0.4, 1))]
    >>> plot_rollout_group(sample, group)[0].get_title("left")
    'reward 0.40'
    """
    if not len(rollouts):
        raise ValueError("No rollouts to plot: a group holds at least one.")
    rollouts = sorted(rollouts, key=lambda rollout: -rollout.total) if best_first else rollouts
    rewards = np.array([r.total for r in rollouts])
    asked = textwrap.shorten(f"{sample.task}: {sample.question}".rstrip(": "), 48, placeholder=" …")
    title = "   ·   ".join([asked, f"G = {len(rewards)}", f"mean reward {rewards.mean():.2f}", "A: advantage"])
    if sample.is_video:
        return _video_group(sample, rollouts, frame, title, ax)
    scenes = [panel_of(sample, rollout.completion, frame) for rollout in rollouts]
    columns = min(columns, len(rollouts))
    lines = -(-len(rollouts) // columns)
    width, height = _panel_size(scenes, 1.8)
    figure = drawing.area_of(ax, (width * columns + 0.2, (height + 0.45) * lines + 0.7))
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    top = max([1.0, *(r.total for r in rollouts)])
    for panel, rollout, scene in zip(grid, rollouts, scenes, strict=False):
        below = _draw_panel(panel, sample, scene)
        colour = _tone(rollout.advantage)
        bar = panel.inset_axes([0, 1.03, 1, 0.055])
        bar.barh(0, top, height=1, color="#EAEAEA")
        bar.barh(0, rollout.total, height=1, color=colour)
        bar.set(xlim=(0, top), ylim=(-0.5, 0.5))
        drawing.bare_frame(bar)
        for text, place in ((f"reward {rollout.total:.2f}", "left"), (f"A {rollout.advantage:+.2f}", "right")):
            panel.set_title(text.replace("-", "−"), color=colour, fontsize=8.5, pad=13, loc=place)
        if reason := rollout.reward.reason:
            reason = textwrap.shorten(reason, 30, placeholder=" …")
            panel.set_xlabel(reason, fontsize=7, color=NEUTRAL, labelpad=3 + below)
    for spare in grid[len(rollouts) :]:
        spare.remove()
    figure.suptitle(title, fontsize=10)
    _finish(figure, {sample.task})
    return grid[: len(rollouts)]


def _video_group(sample: Sample, rollouts: Sequence[Rollout], frame: Any, title: str, ax) -> np.ndarray:
    """A row of frames for each answer, its reward, advantage and reason beside it."""
    count = min(len(sample.frames), STRIP)
    width, height = strip_size(sample, count)
    figure = drawing.area_of(ax, (width + 1.3, (height - 0.2) * len(rollouts) + 0.9))
    grid = figure.subplots(len(rollouts), count, squeeze=False)
    for i, (row, rollout) in enumerate(zip(grid, rollouts, strict=True)):
        draw_strip(row, sample, rollout.completion, frame=frame, titles=not i)
        said = rollout.completion if sample.task == "what" else rollout.reward.reason
        words = [f"reward {rollout.total:.2f}", f"A {rollout.advantage:+.2f}", *textwrap.wrap(said, 24)[:3]]
        _write_beside(row[0], "\n".join(words).replace("-", "−"), _tone(rollout.advantage))
    figure.suptitle(title, fontsize=10)
    _finish(figure, {sample.task})
    return grid


def _videos_before_after(samples: Sequence[Sample], answers: Sequence, rows: tuple, frame: Any, ax) -> np.ndarray:
    """Two rows of frames for each video."""
    if not all(sample.is_video for sample in samples):
        raise ValueError("Videos and pictures do not go into one plot_before_after: draw them in two.")
    sizes = [strip_size(sample, min(len(sample.frames), STRIP)) for sample in samples]
    figure = drawing.area_of(ax, (max(width for width, _ in sizes) + 1.3, sum(2 * h + 0.15 for _, h in sizes) + 0.4))
    axes = np.full((2, len(samples), STRIP), None)
    parts = figure.subfigures(len(samples), 1, squeeze=False, height_ratios=[height for _, height in sizes])[:, 0]
    for i, (part, sample) in enumerate(zip(parts, samples, strict=True)):
        count = min(len(sample.frames), STRIP)
        axes[:, i, :count] = part.subplots(2, count, squeeze=False)
        paid = [score(sample.task, said[i], sample.target, frame=frame).total for said in answers]
        for row, said in enumerate(answers):
            draw_strip(axes[row, i, :count], sample, said[i], frame=frame, titles=not row)
            words = [rows[row], f"reward {paid[row]:.2f}", *(textwrap.wrap(said[i], 24)[:2] * (sample.task == "what"))]
            colour = _tone(paid[1] - paid[0]) if row else NEUTRAL
            _write_beside(axes[row, i, 0], "\n".join(words), colour)
        part.suptitle(textwrap.shorten(f"{sample.task}: {sample.question}", 90, placeholder=" …"), fontsize=9)
    _finish(figure, {sample.task for sample in samples})
    return axes


def _write_beside(ax, words: str, colour: str) -> None:
    ax.set_ylabel(words, rotation=0, ha="right", va="center", fontsize=8, color=colour, labelpad=6)


def _tone(change: float) -> str:
    return BETTER if change > 1e-6 else WORSE if change < -1e-6 else NEUTRAL
