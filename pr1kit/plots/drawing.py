"""What the kit's pictures are made of: the house style, colours with fixed meanings, boxes, tags and transcripts.

Tags are placed when the figure is drawn, since only then the size of a picture in pixels and of a text is known: none
covers another, none leaves its picture.
"""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from pr1kit.data.sample import Target
from pr1kit.rewards.parsing import normalize_label
from pr1kit.rewards.results import Answer
from pr1kit.rewards.text_similarity import compare_texts, normalize

# Okabe-Ito; each colour means one thing in every plot of the kit.
TRUTH, PREDICTION, BETTER, WORSE = "#0072B2", "#E69F00", "#009E73", "#D55E00"
NEUTRAL, INK = "#8C8C8C", "#262626"
LEGEND: dict[str, tuple[str, Any, float]] = {"truth": (TRUTH, (0, (3, 1.6)), 1.9), "prediction": (PREDICTION, "-", 2.2)}
MISSING = "#CFE6F5"  # a pale truth blue, behind what an answer left out
IOU_NOTE = "(number: IoU, ✕: no partner)"
CROWDED = 0.2  # of a picture's area
COLOURS = 160  # of a compact figure, besides those above
LONGEST_TRANSCRIPT = 6  # lines
MONO_ADVANCE = 0.602  # width of a character of DejaVu Sans Mono, in font sizes


def style():
    """The house style as a context, for axes of your own: `with style(): figure, axes = plt.subplots(1, 3)`."""
    return plt.style.context(Path(__file__).with_name("pr1kit.mplstyle"))


def draw_picture(ax, image) -> None:
    """`image` (PIL or (H, W, 3) array), pixel edges on whole numbers, as xyxy boxes count them; small ones crisp."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    crisp = "nearest" if max(width, height) <= 256 else "auto"
    ax.imshow(pixels, extent=(0, width, height, 0), interpolation=crisp, cmap="gray" if pixels.ndim == 2 else None)
    ax.set_autoscale_on(False)  # a box that leaves the picture must not shrink it
    bare_frame(ax)


def bare_frame(ax) -> None:
    """No ticks, grid or spines: a picture's axis labels stay available as captions."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)


def draw_box(ax, box: np.ndarray, kind: str, thickness: float = 1.0) -> Rectangle:
    """One xyxy box as a `kind` ("truth" or "prediction"), cut at the picture's edge.

    A white line lies below each box, so that it shows on any ground; a truth's dashes lie over a prediction's line.
    """
    (left, right), (low, high) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    x1, y1, x2, y2 = np.clip(box, [left, low, left, low], [right, high, right, high])
    colour, dashes, width = LEGEND[kind]
    width *= thickness
    shape = {"xy": (x1, y1), "width": x2 - x1, "height": y2 - y1, "fill": False, "joinstyle": "miter", "clip_on": False}
    ax.add_patch(Rectangle(**shape, ec="white", lw=width + 1.4 * thickness, alpha=0.8, zorder=2.8, gid="halo"))
    order = 3.5 if kind == "truth" else 3
    return ax.add_patch(Rectangle(**shape, ec=colour, ls=dashes, lw=width, zorder=order, gid=kind))


def legend_handles(*kinds: str, note: str = "") -> list[Line2D]:
    """Legend lines for `kinds`; `note` follows the last one."""
    names = [*kinds[:-1], f"{kinds[-1]} {note}".strip()]
    return [
        Line2D([], [], color=LEGEND[kind][0], linestyle=LEGEND[kind][1], linewidth=LEGEND[kind][2], label=name)
        for kind, name in zip(kinds, names, strict=True)
    ]


def transcript_handles() -> list[Patch]:
    """What the marks of `write_transcript` mean, for a legend."""
    return [Patch(facecolor=WORSE, label="read wrongly"), Patch(facecolor=MISSING, label="not read")]


def legend_below(ax, handles: list | None = None, points: float = 2) -> None:
    """A legend `points` below the axes; axes narrower than 2.2 inches, which it would crush, get none."""
    inches = ax.get_window_extent().width / ax.get_figure(root=True).dpi
    if inches < 2.2:
        return
    lower = ax.transAxes + ScaledTranslation(0, -points / 72, ax.get_figure(root=True).dpi_scale_trans)
    where = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": lower}
    ax.legend(handles=handles, columnspacing=1.6, ncols=2 if inches > 3.5 else 1, **where)


class Tags(Artist):
    """The names on the boxes of one Axes. At each drawing a tag takes the free place nearest to its box: a corner
    outside or inside it, or, in a crowd, one further off with a thin leader. Tags that together would hide too much of
    a small picture (`CROWDED`) are left out."""

    axes: Axes

    def __init__(self, ax):
        super().__init__()
        self.items: list[tuple[Text, np.ndarray]] = []
        self.set(zorder=2.5, in_layout=False)
        ax.add_artist(self)

    def add(self, text: str, box: np.ndarray, colour: str) -> Text:
        """A tag with `text` for the xyxy `box`, filled with `colour`."""
        tag = self.axes.annotate(
            text, (box[0], box[1]), (box[0], box[1]), textcoords="data", annotation_clip=False, zorder=5, fontsize=8,
            color="white" if colour in (TRUTH, WORSE) else "black", ha="left", va="bottom",
            bbox={"boxstyle": "square,pad=0.14", "facecolor": colour, "edgecolor": "white", "linewidth": 0.5},
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
        tag.set_in_layout(False)
        self.items.append((tag, np.asarray(box, float)))
        return tag

    def draw(self, renderer) -> None:
        """Place all tags, those of small boxes first: they have the fewest places."""
        if not self.items:
            return
        frame = self.axes.get_window_extent(renderer)
        points = 72 / self.axes.figure.dpi
        size = np.clip(min(frame.width, 1.6 * frame.height) * points / 34, 6, 8.5)
        to_display = self.axes.transData.transform
        corners = np.array([to_display(box.reshape(2, 2)) for _, box in self.items])  # (N, 2, 2)
        boxes = np.concatenate([corners.min(1), corners.max(1)], 1)  # (N, 4) display pixels, y grows upwards
        pad, placed = 0.14 * size / points + 1, np.zeros((0, 4))
        for tag, _ in self.items:
            tag.set_fontsize(size)
        texts = [Text.get_window_extent(tag, renderer) for tag, _ in self.items]
        extents = np.array([(text.width, text.height) for text in texts]) + 2 * pad  # (N, 2)
        legible = bool(extents.prod(1).sum() < CROWDED * frame.width * frame.height)
        for i in np.argsort(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable"):
            tag = self.items[i][0]
            tag.set_visible(legible)
            spot, displaced = _free_place(boxes[i], extents[i], frame, placed, boxes)
            placed = np.vstack([placed, spot])
            anchor = np.clip((spot[:2] + spot[2:]) / 2, boxes[i, :2], boxes[i, 2:])
            inverse = self.axes.transData.inverted().transform
            tag.set_position(inverse(spot[:2] + pad))
            tag.xy = inverse(anchor)
            tag.arrow_patch.set_visible(displaced)


def _free_place(box, extent, frame, placed, boxes) -> tuple[np.ndarray, bool]:
    """The cheapest place `(x1, y1, x2, y2)` for a tag of `extent` at `box`, and whether it left the box."""
    (x1, y1, x2, y2), (w, h) = box, extent
    near = [(x1, y2), (x2 - w, y2), (x1, y1 - h), (x2 - w, y1 - h), (x1, y2 - h), (x2 - w, y2 - h)]
    near += [(x1, y1), (x2 - w, y1), (x2, y2 - h), (x1 - w, y2 - h), (x2, y1), (x1 - w, y1)]
    steps = np.array([(i, j) for i in range(-4, 5) for j in range(-8, 9)])
    far = (box[:2] + box[2:] - extent) / 2 + steps * extent * (0.6, 1.15)
    low, high = np.array([frame.x0, frame.y0]), np.array([frame.x1, frame.y1])
    corner = np.clip(np.vstack([near, far]), low, np.maximum(low, high - extent))
    spots = np.hstack([corner, corner + extent])  # (C, 4)

    def shared(others: np.ndarray) -> np.ndarray:
        """(C, K) area of each spot that each of `others` covers."""
        span = np.minimum(spots[:, None, 2:], others[None, :, 2:]) - np.maximum(spots[:, None, :2], others[None, :, :2])
        return np.prod(np.maximum(span, 0), axis=2)

    gap = np.maximum(0, np.maximum(spots[:, :2] - box[2:], box[:2] - spots[:, 2:])).max(1)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    cost = 40 * (shared(placed) / (w * h)).sum(1)  # never over another tag
    cost += 3 * (shared(boxes) / np.maximum(area, 0.5 * w * h)).sum(1)  # nor over what there is to see
    cost += np.r_[0.04 * np.arange(len(near)), np.full(len(far), 1.0)] + 0.15 * gap / h
    best = int(cost.argmin())
    return spots[best], bool(gap[best] > 2)


def area_of(ax, figsize: tuple[float, float]):
    """The figure that a plot of several axes fills: a new one of `figsize` inches, or one in the place of `ax`."""
    if ax is None:
        return plt.figure(figsize=figsize)
    if ax.get_subplotspec() is None:
        raise ValueError("ax must come from plt.subplots or add_subplot: its place is divided into several axes.")
    parent, place = ax.figure, ax.get_subplotspec()
    ax.remove()
    return parent.add_subfigure(place)


class Panel(NamedTuple):
    """One picture and what is drawn on it, all in pixels of the picture."""

    picture: Any
    target: Target | None
    answer: Answer | None
    matches: list[tuple[int, int, float]]  # (prediction, truth, IoU)


def draw_scene(ax, scene: Panel, *, names: bool = True) -> None:
    """Picture, boxes, points and tags; with `names` the labels stand on the tags, else the IoU alone."""
    picture, target, answer, matches = scene
    draw_picture(ax, picture)
    tags, partner, found = Tags(ax), {p: score for p, _, score in matches}, {t: p for p, t, _ in matches}
    unpaired = target is None or (len(target.points) and not len(target.boxes))  # no box that could be a partner
    crowd = sum(len(side.boxes) for side in (target, answer) if side is not None)
    thickness = 1.0 if crowd <= 12 else 0.6
    if answer is not None:
        for i, box in enumerate(answer.boxes):
            draw_box(ax, box, "prediction", thickness)
            name = answer.labels[i] if names and answer.labels else ""
            number = f"{partner[i]:.2f}" if i in partner else "" if unpaired else "✕"
            if text := f"{name} {number}".strip():
                tags.add(text, box, PREDICTION)
        ax.plot(*answer.points.T, "o", color=PREDICTION, mec="white", ms=6, gid="prediction", zorder=4)
    if target is None:
        return
    for j, box in enumerate(target.boxes):
        draw_box(ax, box, "truth", thickness)
        name = target.labels[j] if names and target.labels else ""
        said = answer.labels[found[j]] if answer is not None and j in found and answer.labels else None
        agreed = said is not None and normalize_label(said) == normalize_label(name)
        if name and not agreed:  # where they agree, the prediction's tag says it
            tags.add(name, box, TRUTH)
    if not len(target.boxes):
        ax.plot(*target.points.T, "o", mfc="none", mec=TRUTH, mew=1.8, ms=9, gid="truth", zorder=4)


def draw_transcript(ax, scene: Panel, *, size: float) -> float:
    """Picture and, under it, what was read (or the truth); returns the height in points that the text takes."""
    draw_picture(ax, scene.picture)
    truth = scene.target.text if scene.target else ""
    runs = [(normalize(truth), "same")] if scene.answer is None else compare_texts(truth, scene.answer.text)
    return write_transcript(ax, runs or [("(nothing)", "same")], size=size)


def compact_png(figure: Figure, *, dpi: int = 80) -> bytes:
    """A figure as a PNG of few colours: it looks the same, and a notebook that holds it stays fit for GitHub."""
    large, small = io.BytesIO(), io.BytesIO()
    figure.savefig(large, dpi=dpi, bbox_inches="tight")
    picture, palette = Image.open(large).convert("RGB"), Image.new("P", (1, 1))
    house = [round(255 * part) for colour in (TRUTH, PREDICTION, BETTER, WORSE, INK) for part in to_rgb(colour)]
    own = picture.quantize(COLOURS).getpalette() or []
    palette.putpalette(own[: 3 * COLOURS] + house)  # the house's colours keep their meaning
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def compact_figures(*, dpi: int = 80) -> None:
    """In a notebook: show figures by `compact_png`."""
    from IPython import get_ipython

    get_ipython().display_formatter.formatters["image/png"].for_type(Figure, partial(compact_png, dpi=dpi))


def write_transcript(ax, runs: list[tuple[str, str]], *, size: float) -> float:
    """Writes `runs` (of `compare_texts`) under the picture, wrapped to its width; returns the height in points."""
    ax.apply_aspect()
    width = ax.get_window_extent().width * 72 / ax.get_figure(root=True).dpi
    columns, advance, leading = max(12, int(width / (MONO_ADVANCE * size))), MONO_ADVANCE * size, 1.5 * size
    cells = [(letter, mark) for text, mark in runs for letter in text]
    if len(cells) > columns * LONGEST_TRANSCRIPT:
        cells = [*cells[: columns * LONGEST_TRANSCRIPT - 1], ("…", "same")]
    looks = {"same": (INK, "none"), "wrong": ("white", WORSE), "missing": (TRUTH, MISSING)}
    left = -min(len(cells), columns) * advance / 2
    for row in range(0, len(cells), columns):
        line, start = cells[row : row + columns], 0
        for end in range(1, len(line) + 1):
            if end < len(line) and line[end][1] == line[start][1]:
                continue
            mark, run = line[start][1], "".join(letter for letter, _ in line[start:end])
            at = (left + start * advance, -(row // columns + 1) * leading)
            if mark != "same":
                run = run.replace(" ", "\N{OPEN BOX}")
            ax.annotate(
                run, (0.5, 0), at, "axes fraction", "offset points", color=looks[mark][0], fontsize=size, gid=mark,
                family="monospace", bbox={"boxstyle": "square,pad=0.05", "linewidth": 0, "facecolor": looks[mark][1]},
            )  # fmt: skip
            start = end
    return leading * -(-len(cells) // columns)
