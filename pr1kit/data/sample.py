"""The nouns of the kit: what is asked and what is true.

Boxes are `(N, 4)` float arrays `x1, y1, x2, y2`; points are `(N, 2)` float arrays `x, y`; both in pixels of the
original image unless a name says otherwise. `image_size` is `(width, height)` as PIL has it.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np

from pr1kit.data.animation import animation_url
from pr1kit.data.images import load_image, picture_url
from pr1kit.data.tracks import Track, as_spans, as_tracks

IMAGE_TASKS = ("grounding", "counting", "ocr", "detection")
VIDEO_TASKS = ("tracking", "when", "what")
TASKS = IMAGE_TASKS + VIDEO_TASKS
MOST = sys.float_info.max
MOST_FRAMES = 1000  # of one video: Qwen's processors take 768


def as_rows(values: Any, width: int, what: str) -> np.ndarray:
    """`values` as a float array `(N, width)`; an empty or missing value gives `(0, width)`. Raises ValueError."""
    if isinstance(values, np.ndarray) and values.dtype == float and values.shape[1:] == (width,):
        return values
    if values is None or (isinstance(values, list | tuple) and not values):
        return np.zeros((0, width))
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{what} must be numbers in rows of {width}, got {str(values)[:60]}.") from None
    if array.size == 0:
        return np.zeros((0, width))
    if array.shape == (width,):
        array = array[None]
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"{what} must have the shape (N, {width}), got {array.shape}.")
    return array


def _as_size(value: Any) -> tuple[int, int]:
    try:
        width, height = map(int, value)
    except (TypeError, ValueError, OverflowError):
        width = height = 0
    if width < 1 or height < 1:
        raise ValueError(f"image_size is (width, height) in whole pixels, got {value!r}.")
    return width, height


@dataclass(frozen=True, eq=False)
class Target:
    """The truth about one image or video: what a perfect answer would say.

    Shapes: `boxes` (M, 4) xyxy pixels, `labels` M names or empty, `points` (M, 2), `text` the transcript or the
    attributes, `image_size` (width, height), `count` how many objects there are where nobody knows their places (None
    otherwise). Of a video: `tracks`, the objects to follow, and `spans` (K, 2), first and last frame, from 0, of what
    was asked for. Raises ValueError where a box is inverted, not finite, or outside its image, and where tracks or
    spans do not fit the frames.
    """

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    labels: tuple[str, ...] = ()
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    text: str = ""
    image_size: tuple[int, int] | None = None
    count: int | None = None
    tracks: tuple[Track, ...] = ()
    spans: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), int))

    def __post_init__(self):
        boxes, points = as_rows(self.boxes, 4, "Target boxes"), as_rows(self.points, 2, "Target points")
        if isinstance(self.labels, str):
            raise ValueError(f"Target labels must be a list of names, got the string {self.labels!r}.")
        labels = tuple(() if self.labels is None else self.labels)
        words = (*labels, "" if self.text is None else self.text)
        odd = [word for word in words if type(word) is not str and not isinstance(word, str | Integral)]
        if odd:
            raise ValueError(f"Target labels and text must be text, got {str(odd[0])[:60]}.")
        labels = tuple(map(str, labels))
        if labels and len(labels) != len(boxes):
            raise ValueError(f"Target has {len(boxes)} boxes but {len(labels)} labels.")
        size = None if self.image_size is None else _as_size(self.image_size)
        low, right, bottom = (-1, size[0] + 1, size[1] + 1) if size else (-MOST, MOST, MOST)
        for x1, y1, x2, y2 in boxes.tolist():
            if low <= x1 <= x2 <= right and low <= y1 <= y2 <= bottom:  # never true of NaN
                continue
            if not (-MOST <= x1 <= x2 <= MOST and -MOST <= y1 <= y2 <= MOST):
                raise ValueError(f"Target box {[x1, y1, x2, y2]} is not x1 <= x2, y1 <= y2 with finite numbers.")
            raise ValueError(
                f"Target box {[x1, y1, x2, y2]} lies outside its image of {size[0]}x{size[1]} pixels: "
                "are its coordinates in another frame?"
            )
        places = len(boxes) or len(points)
        if self.count is not None and not (isinstance(self.count, Integral) and self.count >= 0):
            raise ValueError(f"Target count must be a whole number from 0, got {self.count!r}.")
        if self.count is not None and places not in (0, self.count):
            raise ValueError(f"Target has {places} places but the count {self.count!r}.")
        self.__dict__.update(boxes=boxes, labels=labels, points=points, image_size=size)
        self.__dict__["text"] = "" if self.text is None else str(self.text)
        tracks = as_tracks(self.tracks)
        for track in tracks if size else ():
            outside = (track.boxes < low) | (track.boxes > np.array([right, bottom] * 2))  # never true of NaN
            for frame in np.flatnonzero(outside.any(1))[:1].tolist():
                raise ValueError(
                    f"Track {track.label!r} leaves its frame of {size[0]}x{size[1]} pixels: its box in frame {frame} "
                    f"is {track.boxes[frame].tolist()}."
                )
        spans = as_spans(self.spans, len(tracks[0]) if tracks else None)
        self.__dict__.update(tracks=tracks, spans=spans)

    @classmethod
    def of(cls, value: Target | Mapping) -> Target:
        """A `Target` from a `Target` or from a mapping with its keys (others are ignored); never evaluates text."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"A target is a Target or a mapping with its keys, got {type(value).__name__}.")
        return cls(**{key: value[key] for key in cls.__dataclass_fields__ if value.get(key) is not None})

    def to_dict(self) -> dict:
        """Plain lists under the same keys, fit for JSON and for a `datasets` row."""
        return {
            "boxes": self.boxes.tolist(),
            "labels": list(self.labels),
            "points": self.points.tolist(),
            "text": self.text,
            "image_size": list(self.image_size) if self.image_size else None,
            "count": self.count,
            "tracks": [track.to_dict() for track in self.tracks],
            "spans": self.spans.tolist(),
        }


def _in_brief(target: Target) -> str:
    if len(target.spans):
        return ", ".join(f"frames {first + 1} to {last + 1}" for first, last in target.spans.tolist()[:8])
    count = len(target.boxes) or len(target.points) or len(target.tracks)
    return target.text[:100] or f"{count} {'track' if target.tracks else 'object'}{'s' * (count != 1)}"


@dataclass(frozen=True, eq=False, repr=False)
class Sample:
    """One question about one image or one video, and its truth.

    `image` is a PIL image, a path, or what has `.open()` giving a PIL image; `question` what is asked for; `prompt` the
    user's words, where they are not the task's own. A video is `frames`, two or more pictures of one size as `image`
    has them, each seen at its second in `times`; its `image` is the first of them. Raises ValueError where frames and
    times do not fit each other, or times do not rise.
    """

    image: Any
    task: str
    question: str
    target: Target
    id: str = ""
    prompt: str = ""
    frames: tuple = ()
    times: tuple[float, ...] = ()

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"Unknown task {self.task!r}: choose one of {', '.join(TASKS)}.")
        self.__dict__.update(frames=tuple(self.frames), times=tuple(map(float, self.times)))
        if not self.frames and not self.times:
            return
        if len(self.frames) < 2 or len(self.frames) != len(self.times):
            raise ValueError(
                f"A video has two frames or more and as many times: sample {self.id!r} has frames {len(self.frames)}, "
                f"times {len(self.times)}."
            )
        if len(self.frames) > MOST_FRAMES:
            raise ValueError(
                f"Sample {self.id!r} has {len(self.frames):,} frames, more than the {MOST_FRAMES:,} of a video that "
                "can be asked about: sample fewer."
            )
        if not all(0 <= a < b < MOST for a, b in pairwise(self.times)):
            raise ValueError(f"Times of sample {self.id!r} must rise from 0 on, got {str(self.times)[:80]}.")
        for track in self.target.tracks[:1]:
            if len(track) != len(self.frames):
                raise ValueError(
                    f"Sample {self.id!r} has {len(self.frames)} frames but tracks over {len(track)}: give each track "
                    "a box, or None, for every frame."
                )
        if self.image is None:
            self.__dict__["image"] = self.frames[0]

    @property
    def is_video(self) -> bool:
        """Whether the question is about frames."""
        return bool(self.frames)

    def load_image(self):
        """The PIL image upright and in RGB (see `images`). Raises FileNotFoundError or ValueError that names it."""
        return load_image(self.image, f"Image {str(self.image)[:200]!r} of sample {self.id!r}")

    def load_frames(self) -> list:
        """The PIL images of a video in RGB. Raises as `load_image`, and ValueError where their sizes differ."""
        what = f"of sample {self.id!r}"
        frames = [load_image(frame, f"Frame {i} {what}") for i, frame in enumerate(self.frames)]
        for i, frame in enumerate(frames):
            if frame.size != frames[0].size:
                raise ValueError(
                    f"Frames {what} must have one size: frame 0 has {frames[0].size}, frame {i} {frame.size}."
                )
        return frames

    def __repr__(self) -> str:
        size, truth = getattr(self.image, "size", None), _in_brief(self.target)
        image = "x".join(map(str, size)) if isinstance(size, tuple) else repr(self.image)[:80]
        image = f"{len(self.frames)} frames {image}" if self.is_video else f"image {image}"
        return f"Sample({self.task} {self.question!r}, {image}, truth {truth!r}, id {self.id!r})"

    def _repr_html_(self) -> str:
        image, truth = self.load_image(), _in_brief(self.target)
        shown = animation_url(self.load_frames(), self.times) if self.is_video else picture_url(image)
        return (
            f'<img src="{shown}" width="{max(192, min(image.width, 480))}" '
            f'style="image-rendering:pixelated"><br><b>{html.escape(self.task)}</b>: '
            f"{html.escape(self.question)} <small>(truth: {html.escape(truth)})</small>"
        )
