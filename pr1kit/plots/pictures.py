"""What was in the picture, what was answered, what was it worth? Every plot of the kit, as `plot_x(data, *, ax=None)`.

Truth is blue and dashed, a prediction orange and solid, better green, worse vermillion (Okabe-Ito). Each function
draws into `ax`, or into a new figure where it is None, and returns what it drew into; nothing is shown and no global
setting is touched. Pictures are here; charts of numbers, in `charts.py`, are reached from here too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.patheffects import withStroke

from pr1kit.data.boxes import centers, iou, is_valid, to_pixels
from pr1kit.data.sample import Sample, Target, as_rows
from pr1kit.plots import drawing
from pr1kit.plots.charts import plot_metric_intervals, plot_pass_at_k, plot_reward_curves, plot_reward_histogram
from pr1kit.plots.drawing import BETTER, INK, NEUTRAL, PREDICTION, TRUTH, WORSE, Panel, style
from pr1kit.rewards.groups import pass_at_k
from pr1kit.rewards.matching import aggregate, match
from pr1kit.rewards.parsing import normalize_label
from pr1kit.rewards.results import Answer, Rollout
from pr1kit.rewards.score import parse
from pr1kit.rewards.text_similarity import normalize

__all__ = [
    "pass_at_k", "plot_before_after", "plot_boxes", "plot_matching", "plot_metric_intervals", "plot_pass_at_k",
    "plot_reward_curves", "plot_reward_histogram", "plot_rollout_group", "style",
]  # fmt: skip
IOU_NOTE = "(number: IoU, ✕: no partner)"


def _open(image: Any) -> Any:
    """A PIL image or an array from a sample, a path, a PIL image or an array."""
    if isinstance(image, str | Path):
        image = Sample(image, "grounding", "", Target(), id=str(image))
    return image.load_image() if isinstance(image, Sample) else image


def _to_picture(answer: Answer, frame: Any, picture: Any) -> Answer:
    """`answer` with its places in pixels of `picture`."""
    height, width = np.shape(picture)[:2]
    boxes, points = (to_pixels(places, frame, (width, height)) for places in (answer.boxes, answer.points))
    return replace(answer, boxes=boxes, points=points)


def _as_answer(predictions: Any, labels: Sequence[str]) -> Answer:
    boxes, labels = as_rows(predictions, 4, "Predictions"), tuple(labels)
    if not is_valid(boxes).all():
        raise ValueError(f"Prediction {boxes[~is_valid(boxes)][0].tolist()} is not x1 <= x2, y1 <= y2, finite.")
    if labels and len(labels) != len(boxes):
        raise ValueError(f"There are {len(boxes)} predictions but {len(labels)} labels.")
    return Answer(boxes, labels)


def _scene_of(sample: Sample, completion: str, frame: Any) -> Panel:
    picture = _open(sample)
    answer = _to_picture(parse(sample.task, completion), frame, picture)
    return Panel(picture, sample.target, answer, match(_overlap(answer, sample.target, sample.task)))


def _overlap(answer: Answer, target: Target, task: str | None) -> np.ndarray:
    """IoU `(N, M)`; in detection 0 where the labels differ, as its reward has it."""
    overlap = iou(answer.boxes, target.boxes)
    if task == "detection" and target.labels and answer.labels:
        overlap = overlap * [
            [normalize_label(said) == normalize_label(name) for name in target.labels] for said in answer.labels
        ]
    return overlap


@style()
def plot_boxes(
    image, *, truth=None, predictions=None, truth_labels: Sequence[str] = (), labels: Sequence[str] = (),
    matches=None, completion: str | None = None, task: str | None = None, frame: Any = "pixel", legend: bool = True,
    ax=None,
):  # fmt: skip
    """A picture with its true boxes and an answer's, each with its label, each pair with its IoU; returns the Axes.

    `image`: a `Sample` (which brings its truth), a path, a PIL image or an (H, W, 3) array. `truth`: a `Target` or
    boxes (M, 4) xyxy pixels. `predictions`: an `Answer` or boxes (N, 4) in `frame`; or give a raw `completion`, parsed
    as one of `task` (the sample's, if there is one). `matches`: pairs `(prediction, truth, …)`; without them the
    optimal ones by IoU. A prediction without a partner wears ✕. For OCR the answer stands under the picture, wrong
    characters on vermillion, missing ones on blue.

    >>> ax = plot_boxes(np.zeros((40, 40, 3)), truth=[[0, 0, 20, 20]], predictions=[[0, 0, 20, 10]])
    >>> [text.get_text() for text in ax.texts], sum(patch.get_gid() == "truth" for patch in ax.patches)
    (['0.50'], 1)
    """
    picture, sample = _open(image), image if isinstance(image, Sample) else None
    task = task or (sample.task if sample else None)
    if sample is not None and truth is None:
        truth = sample.target
    if truth is not None and not isinstance(truth, Target):
        truth = Target.of(truth) if isinstance(truth, dict) else Target(boxes=truth, labels=tuple(truth_labels))
    if completion is not None and task is None:
        raise ValueError("A completion can only be read as an answer to a task: give task= or a Sample.")
    answer = parse(str(task), completion) if completion is not None else predictions
    if answer is not None:
        answer = _to_picture(answer if isinstance(answer, Answer) else _as_answer(answer, labels), frame, picture)
    pairs: list[tuple[int, int, float]] = []
    if answer is not None and truth is not None:
        overlap = _overlap(answer, truth, task)
        pairs = match(overlap) if matches is None else [(p, t, float(overlap[p, t])) for p, t, *_ in matches]
    scene = Panel(picture, truth, answer, pairs)

    if ax is None:
        height, width = np.shape(picture)[:2]
        ax = plt.subplots(figsize=(7.2, 7.2 * height / width + 0.5) if width > 1.2 * height else (4.2, 4.6))[1]
    if task == "ocr":
        below = drawing.draw_transcript(ax, scene, size=10)
        if legend and answer is not None:
            drawing.legend_below(ax, drawing.transcript_handles(), below + 4)
        return ax
    drawing.draw_scene(ax, scene)
    kinds = [kind for kind, given in (("truth", truth), ("prediction", answer)) if given is not None]
    if legend and kinds:
        drawing.legend_below(ax, drawing.legend_handles(*kinds, note=IOU_NOTE if len(kinds) == 2 else ""))
    if sample is not None and sample.question:
        ax.set_title(textwrap.shorten(f"{sample.task}: {sample.question}", 70, placeholder=" …"))
    return ax


@style()
def plot_matching(image, predictions, matches, *, truth=None, frame: Any = "pixel", ax=None):
    """Which prediction answers which object: a line from centre to centre with the pair's score; returns the Axes.

    `image`: a `Sample`, a picture with `truth`, or the true boxes (M, 4) alone (drawn on an empty page).
    `predictions`: boxes (N, 4) in `frame`; `matches`: triples `(prediction, truth, score)` of `rewards.matching.match`.
    Boxes carry their numbers, `t0` or `p0`; those without a partner are marked ✕.

    >>> ax = plot_matching([[0, 0, 9, 9]], [[0, 0, 9, 3], [5, 5, 6, 6]], [(0, 0, 0.33)])
    >>> sorted(text.get_text() for text in ax.texts)
    ['0.33', 'p0', 'p1 ✕', 't0']
    """
    page = truth is None and not isinstance(image, Sample)
    if page:
        truth = as_rows(image, 4, "True boxes")
    elif truth is None:
        truth = image.target.boxes
    truth = truth.boxes if isinstance(truth, Target) else as_rows(truth, 4, "True boxes")
    picture = None if page else _open(image)
    answer = _as_answer(predictions, ())
    boxes = answer.boxes if page else _to_picture(answer, frame, picture).boxes
    ax = ax or plt.subplots(figsize=(4.6, 4.8))[1]
    if page:
        every = np.concatenate([truth, boxes])
        corners = every.reshape(-1, 2) if len(every) else np.eye(2)
        low, high = corners.min(0), corners.max(0)
        pad = 0.08 * max(*(high - low), 1)
        ax.set(xlim=(low[0] - pad, high[0] + pad), ylim=(high[1] + pad, low[1] - pad), aspect="equal")
        drawing.bare_frame(ax)
    else:
        drawing.draw_picture(ax, picture)
    tags = drawing.Tags(ax)
    for kind, colour, places, column in (("prediction", PREDICTION, boxes, 0), ("truth", TRUTH, truth, 1)):
        paired = {pair[column] for pair in matches}
        for i, box in enumerate(places):
            drawing.draw_box(ax, box, kind)
            tags.add(f"{kind[0]}{i}" + ("" if i in paired else " ✕"), box, colour)
    for p, t, score in matches:
        line = np.stack([centers(boxes)[p], centers(truth)[t]])  # (2, 2)
        halo = [withStroke(linewidth=3.6, foreground="white")]
        ax.plot(*line.T, "-o", color=INK, lw=1.5, ms=4, path_effects=halo, zorder=4, gid="pair")
        middle = np.tile(line.mean(0), 2)
        tag = tags.add(f"{score:.2f}", middle, "white")
        if patch := tag.get_bbox_patch():
            patch.set(edgecolor=INK, linewidth=0.8)
    drawing.legend_below(ax, drawing.legend_handles("truth", "prediction", note="(number: score, ✕: no partner)"))
    return ax


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


def _quality(sample: Sample, scene: Panel) -> tuple[str, float]:
    """What stands under a panel, and a number that is larger for a better answer."""
    answer, target = scene.answer or Answer(), scene.target or Target()
    if sample.task == "ocr":
        runs = drawing.compare_texts(target.text, answer.text)
        wrong = sum(len(text) for text, mark in runs if mark != "same")
        length = max(len(normalize(target.text)), len(normalize(answer.text)), 1)
        return f"{wrong} of {length} characters off", -wrong / length
    n, m = len(answer.boxes), len(target.boxes) or len(target.points)
    if m and not len(target.boxes):
        return f"counted {n}, true {m}", -float(abs(n - m))
    share = aggregate(sum(score for *_, score in scene.matches), n, m) if n or m else float(answer.explicit)
    if sample.task == "grounding":
        return f"IoU {share:.2f}" if n else "no box", share
    said = f"counted {n}, true {m}" if sample.task == "counting" else f"found {n}, true {m}"
    return f"{said}\nIoU {share:.2f}", share + (n == m if sample.task == "counting" else 0)


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

    `before`, `after`: N completions each, in `frame`. Under each panel stands what it is worth (matched IoU over the
    larger count, as the reward aggregates), green where the second row is better and vermillion where worse.
    `ax` gives its place away. Raises ValueError where the lengths differ or nothing is given.

    >>> from pr1kit.data.scenes import make_scenes
    >>> samples = make_scenes("grounding", 2, seed=0)
    >>> plot_before_after(samples, ["", ""], ["(1,1),(9,9)", ""]).shape
    (2, 2)
    """
    if not len(samples) or not len(samples) == len(before) == len(after):
        counts = f"{len(samples)} samples, {len(before)} answers before and {len(after)} after"
        raise ValueError(f"One answer before and one after for each of at least one sample, got {counts}.")
    scenes = [[_scene_of(*pair, frame) for pair in zip(samples, said, strict=True)] for said in (before, after)]
    width, height = _panel_size(scenes[0], 1.75)
    figure = drawing.area_of(ax, (width * len(samples) + 0.5, 2 * height + 1.15))
    axes = figure.subplots(2, len(samples), squeeze=False)
    for column, sample in enumerate(samples):
        last = None
        for row in (0, 1):
            panel, scene = axes[row, column], scenes[row][column]
            below = _draw_panel(panel, sample, scene)
            caption, quality = _quality(sample, scene)
            colour = INK if last is None or quality == last else BETTER if quality > last else WORSE
            panel.set_xlabel(caption, color=colour, weight="bold" if row else "normal", fontsize=8, labelpad=3 + below)
            last = quality
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
    figure, or the place of `ax`. The bars' tracks end at the largest reward, at least 1. No rollout: ValueError.

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
    scenes = [_scene_of(sample, rollout.completion, frame) for rollout in rollouts]
    columns = min(columns, len(rollouts))
    lines = -(-len(rollouts) // columns)
    width, height = _panel_size(scenes, 1.8)
    figure = drawing.area_of(ax, (width * columns + 0.2, (height + 0.45) * lines + 0.7))
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    top = max([1.0, *(r.total for r in rollouts)])
    for panel, rollout, scene in zip(grid, rollouts, scenes, strict=False):
        below = _draw_panel(panel, sample, scene)
        colour = BETTER if rollout.advantage > 1e-6 else WORSE if rollout.advantage < -1e-6 else NEUTRAL
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
    rewards = np.array([r.total for r in rollouts])
    asked = textwrap.shorten(f"{sample.task}: {sample.question}".rstrip(": "), 48, placeholder=" …")
    facts = [asked, f"G = {len(rewards)}", f"mean reward {rewards.mean():.2f}", "A: advantage"]
    figure.suptitle("   ·   ".join(facts), fontsize=10)
    _finish(figure, {sample.task})
    return grid[: len(rollouts)]
