"""What was in the picture, what was answered, which answers which object: one picture with its boxes or transcript."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke

from pr1kit.data.boxes import centers, iou, is_valid, to_pixels
from pr1kit.data.images import load_image
from pr1kit.data.sample import Sample, Target, as_rows
from pr1kit.plots import drawing
from pr1kit.plots.clips import plot_clip
from pr1kit.plots.drawing import INK, IOU_NOTE, PREDICTION, TRUTH, Panel, style
from pr1kit.rewards.matching import match
from pr1kit.rewards.parsing import same_labels
from pr1kit.rewards.results import Answer
from pr1kit.rewards.score import parse


def _open(image: Any) -> Any:
    """A PIL image or an array from a sample, a path, a PIL image or an array."""
    if isinstance(image, Sample):
        if image.is_video:
            raise ValueError(
                f"Sample {image.id!r} is a video of {len(image.frames)} frames and this draws one picture: "
                "see plot_clip."
            )
        return image.load_image()
    return load_image(image) if isinstance(image, str | Path) else image


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


def panel_of(sample: Sample, completion: str, frame: Any) -> Panel:
    """A sample's picture with what `completion`, its numbers in `frame`, answers."""
    picture = _open(sample)
    answer = _to_picture(parse(sample.task, completion), frame, picture)
    return Panel(picture, sample.target, answer, match(_overlap(answer, sample.target, sample.task)))


def _overlap(answer: Answer, target: Target, task: str | None) -> np.ndarray:
    """IoU `(N, M)`; in detection 0 where the labels differ, as its reward has it."""
    overlap = iou(answer.boxes, target.boxes)
    if task == "detection" and target.labels and answer.labels:
        overlap = overlap * same_labels(answer.labels, target.labels)
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
    characters on vermillion, missing ones on blue. A video, alone or with a `completion`, is drawn by `plot_clip`,
    whose Axes are returned.

    >>> ax = plot_boxes(np.zeros((40, 40, 3)), truth=[[0, 0, 20, 20]], predictions=[[0, 0, 20, 10]])
    >>> [text.get_text() for text in ax.texts], sum(patch.get_gid() == "truth" for patch in ax.patches)
    (['0.50'], 1)
    """
    if isinstance(image, Sample) and image.is_video and predictions is None and matches is None:
        return plot_clip(image, completion, frame=frame, ax=ax)
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
