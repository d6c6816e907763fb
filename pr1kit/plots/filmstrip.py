"""A dialogue as a filmstrip: the picture once for each turn, with its boxes, its score and what the critic said."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from pr1kit.data.sample import Sample
from pr1kit.plots.drawing import BETTER, INK, WORSE, style
from pr1kit.plots.pictures import plot_boxes


@style()
def plot_filmstrip(
    sample: Sample, completions: Sequence[str], notes: Sequence[tuple[float | None, str]] = (), *, frame: Any = "pixel",
    truth: bool = True,
) -> np.ndarray:  # fmt: skip
    """The turns of one dialogue from left to right, in a new figure; returns the Axes `(T,)`.

    `completions` are the turns' answers, in `frame`; `notes` the critic's score (None where it gave none) and words on
    each. A score better than the turn before is green, a worse one vermillion. No turn: ValueError.

    >>> from pr1kit.data.scenes import make_scenes
    >>> sample, = make_scenes("grounding", 1, seed=0)
    >>> [ax.get_title("left") for ax in plot_filmstrip(sample, ["", "(1,1),(9,9)"], [(0.0, "Again."), (None, "")])]
    ['turn 1: 0.00', 'turn 2']
    """
    if not len(completions):
        raise ValueError("No turns to plot: a dialogue holds at least one.")
    notes = [*notes, *[(None, "")] * (len(completions) - len(notes))]
    if sample.is_video:
        raise ValueError(
            f"Sample {sample.id!r} is a video: a filmstrip has one picture a turn, draw each by plot_clip."
        )
    width, height = sample.load_image().size
    side = 2.3
    size = (side * len(completions), side * min(2.0, height / width) + 1.0)
    figure, axes = plt.subplots(1, len(completions), figsize=size, squeeze=False, layout="constrained")
    before: float | None = None
    for number, (ax, text, (score, words)) in enumerate(zip(axes[0], completions, notes, strict=True), 1):
        image = sample if truth else sample.load_image()
        plot_boxes(image, completion=text, task=sample.task, frame=frame, legend=False, ax=ax)
        rise = 0.0 if score is None or before is None else score - before
        colour = BETTER if rise > 0 else WORSE if rise < 0 else INK
        ax.set_title(f"turn {number}" + ("" if score is None else f": {score:.2f}"), color=colour, fontsize=9)
        lines = textwrap.wrap(textwrap.shorten(words, 130, placeholder=" …"), 34)
        pad = 20 if sample.task == "ocr" else 3
        ax.set_xlabel("\n".join(lines), fontsize=7, labelpad=pad)
        before = before if score is None else score
    if sample.question:
        figure.suptitle(textwrap.shorten(f"{sample.task}: {sample.question}", 60, placeholder=" …"), fontsize=9)
    return axes[0]
