"""A video and what was said about it: frames as a strip, or as a moving picture, with true and answered boxes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from pr1kit.data.animation import animation_bytes
from pr1kit.data.boxes import box_iou
from pr1kit.data.durable_files import write_atomically
from pr1kit.data.sample import Sample
from pr1kit.data.tracks import frames_in
from pr1kit.plots import drawing
from pr1kit.plots.drawing import PREDICTION, TRUTH, style
from pr1kit.rewards.results import Answer
from pr1kit.rewards.score import read_answer

SIDE = 256  # pixels to which small frames are enlarged


@style()
def plot_clip(
    sample: Sample, completion: str | None = None, *, frame: Any = "pixel", truth: bool = True, columns: int = 8,
    most: int | None = None, ax=None,
) -> np.ndarray:  # fmt: skip
    """The frames of a video from left to right, `columns` to a row; returns the Axes `(F,)`. They fill a new figure, or
    the place of `ax`; of more than `most` frames so many are shown, evenly from the first to the last.

    True boxes are blue and dashed, those of the `completion`, whose numbers are in `frame`, orange, with their IoU. Of
    a `when` question a bar under a frame says that it is so there: blue by the truth, orange by the completion. Raises
    ValueError for a sample without frames.

    >>> from pr1kit.data.clips import make_clips
    >>> axes = plot_clip(make_clips("tracking", 1)[0], "Frame 1:[1,1,9,9]")
    >>> len(axes), axes[1].get_title()
    (8, '2: 0.5 s')
    """
    count = min(len(sample.frames), most or len(sample.frames))
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns)
    width, height = strip_size(sample, columns)
    figure = drawing.area_of(ax, (width, height * rows + 0.3))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.remove()
    draw_strip(axes[:count], sample, completion, frame=frame, truth=truth)
    words = f"{sample.task}: {sample.question}"
    if completion is not None and sample.task == "what":
        words += f": {completion}"
    figure.suptitle(textwrap.shorten(words, 90, placeholder=" …"), fontsize=9)
    return axes[:count]


def strip_size(sample: Sample, columns: int) -> tuple[float, float]:
    """Inches of one row of a strip. Raises as `plot_clip`."""
    _need_frames(sample)
    side, (width, height) = 1.35, sample.load_image().size
    return side * columns + 0.2, side * min(2.0, height / width) + 0.32


def draw_strip(
    axes: Sequence | np.ndarray, sample: Sample, completion: str | None, *, frame: Any = "pixel", truth: bool = True,
    titles: bool = True,
) -> None:  # fmt: skip
    """The frames of a video, as many as there are `axes`, with the boxes or bars of `plot_clip`."""
    images, answer = sample.load_frames(), _answer(sample, completion, frame)
    shown = np.linspace(0, len(images) - 1, len(axes)).round().astype(int).tolist()
    for ax, number in zip(axes, shown, strict=True):
        drawing.draw_picture(ax, images[number])
        if titles:
            ax.set_title(f"{number + 1}: {sample.times[number]:.3g} s", fontsize=7, loc="center", pad=2)
        said, true = _boxes(sample, answer, number, truth)
        tags = drawing.Tags(ax)
        for box in said:
            drawing.draw_box(ax, box, "prediction", 0.8)
            best = max((box_iou(box, other) for other in true), default=0.0)
            if truth:
                tags.add(f"{best:.2f}" if best else "✕", np.array(box), PREDICTION)
        for box in true:
            drawing.draw_box(ax, box, "truth", 0.8)
        for kind, colour, level in _bars(sample, answer, number, truth):
            ax.plot([0.04, 0.96], [level, level], color=colour, lw=3, transform=ax.transAxes, clip_on=False, gid=kind)


@dataclass(frozen=True)
class Animation:
    """A moving picture: a notebook shows it, `save` writes it. `frames` are PIL images, `times` their seconds."""

    frames: tuple[Image.Image, ...] = field(repr=False)
    times: tuple[float, ...]

    def save(self, path: str | Path) -> None:
        """Write it as GIF, or, to a name that ends in `.png`, as animated PNG."""
        kind = "PNG" if str(path).lower().endswith(".png") else "GIF"
        write_atomically(Path(path), self._bytes(kind))

    def _repr_png_(self) -> bytes:
        return self._bytes("PNG")

    def _bytes(self, kind: str) -> bytes:
        return animation_bytes(self.frames, self.times, kind, [ImageColor.getrgb(name) for name in (TRUTH, PREDICTION)])


def animate_clip(
    sample: Sample, completion: str | None = None, *, frame: Any = "pixel", truth: bool = True
) -> Animation:
    """The video as a moving picture with the boxes of `plot_clip`, small frames enlarged. Raises as `plot_clip`."""
    _need_frames(sample)
    images, answer = sample.load_frames(), _answer(sample, completion, frame)
    scale = max(1, SIDE // max(images[0].size))
    shown = []
    for number, image in enumerate(images):
        size = (image.width * scale, image.height * scale)
        page = image.resize(size, Image.Resampling.NEAREST) if scale > 1 else image.copy()
        pen = ImageDraw.Draw(page)
        said, true = _boxes(sample, answer, number, truth)
        for box in said:
            pen.rectangle(_inside(box, scale, size), outline=PREDICTION, width=3)
        for box in true:
            _dashes(pen, _inside(box, scale, size))
        for kind, colour, _ in _bars(sample, answer, number, truth):
            low = size[1] - (5 if kind == "truth" else 11)
            pen.rectangle((4, low, size[0] - 5, low + 4), fill=colour)
        shown.append(page)
    return Animation(tuple(shown), sample.times)


def _need_frames(sample: Sample) -> None:
    if not sample.is_video:
        raise ValueError(f"Sample {sample.id!r} has no frames: this is drawn of videos, of pictures see plot_boxes.")


def _answer(sample: Sample, completion: str | None, frame: Any) -> Answer | None:
    return None if completion is None else read_answer(sample.task, completion, sample.target, frame)


def _boxes(sample: Sample, answer: Answer | None, number: int, truth: bool) -> tuple[list, list]:
    """The answered and the true boxes of one frame."""
    said = answer.boxes[answer.frames == number].tolist() if answer is not None and len(answer.frames) else []
    true = [track.boxes[number].tolist() for track in sample.target.tracks if truth and track.seen[number]]
    return said, true


def _bars(sample: Sample, answer: Answer | None, number: int, truth: bool) -> list[tuple[str, str, float]]:
    """Kind, colour and height of the bars under one frame: it is so, or said to be so."""
    count, bars = len(sample.frames), []
    if truth and frames_in(sample.target.spans, count)[number]:
        bars.append(("truth", TRUTH, -0.05))
    if answer is not None and frames_in(answer.spans, count)[number]:
        bars.append(("prediction", PREDICTION, -0.12))
    return bars


def _inside(box: Sequence[float], scale: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (round(scale * value) for value in box)
    right, bottom = size[0] - 1, size[1] - 1
    x1, y1 = min(max(x1, 0), right), min(max(y1, 0), bottom)
    return x1, y1, min(max(x2 - 1, x1), right), min(max(y2 - 1, y1), bottom)


def _dashes(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], dash: int = 8) -> None:
    x1, y1, x2, y2 = box
    for x in range(x1, x2 + 1, 2 * dash):
        for y in (y1, y2):
            pen.line((x, y, min(x + dash, x2), y), fill=TRUTH, width=3)
    for y in range(y1, y2 + 1, 2 * dash):
        for x in (x1, x2):
            pen.line((x, y, x, min(y + dash, y2)), fill=TRUTH, width=3)
