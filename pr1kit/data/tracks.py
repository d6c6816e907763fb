"""Where is one object in each frame of a video, and in which frames does something hold?

A track has a box for every sampled frame, NaN where the object is not seen. Frames are counted from 0 here, as Python
counts; in words, questions and answers alike, they are counted from 1 (`Frame 1`), as Merlin's notation has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LIMIT = 1e6  # a coordinate beyond any image is no coordinate


@dataclass(frozen=True, eq=False)
class Track:
    """One object's boxes over the F sampled frames: `boxes` (F, 4) xyxy pixels, a row of NaN where it is not seen.

    `label` is what it is, `id` which of its kind. Rows may be given as None where it is not seen. Raises ValueError for
    boxes that are inverted or not finite, and for a row that is NaN in part.
    """

    boxes: np.ndarray
    label: str = ""
    id: str = ""

    def __post_init__(self):
        boxes = _rows(self.boxes, self.label)
        for frame, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            if x1 != x1 and np.isnan(boxes[frame]).all():
                continue
            if not (-LIMIT <= x1 <= x2 <= LIMIT and -LIMIT <= y1 <= y2 <= LIMIT):
                raise ValueError(
                    f"Track {self.label!r} has the box {[x1, y1, x2, y2]} in frame {frame}: expected x1 <= x2, "
                    "y1 <= y2 with finite numbers, or none where the object is not seen."
                )
        self.__dict__.update(boxes=boxes, label=str(self.label or ""), id=str("" if self.id is None else self.id))

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def seen(self) -> np.ndarray:
        """In which frames there is a box, `(F,)` bool."""
        return ~np.isnan(self.boxes[:, 0])

    @classmethod
    def of(cls, value: Track | Mapping) -> Track:
        """A `Track` from a `Track` or from a mapping with its keys; others are ignored."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping) or value.get("boxes") is None:
            raise ValueError(f"A track is a Track or a mapping with `boxes`, got {str(value)[:60]!r}.")
        return cls(value["boxes"], value.get("label") or "", "" if value.get("id") is None else value["id"])

    def to_dict(self) -> dict:
        """Plain lists, fit for JSON: None for a frame in which the object is not seen."""
        rows = [box if seen else None for box, seen in zip(self.boxes.tolist(), self.seen.tolist(), strict=True)]
        return {"boxes": rows, "label": self.label, "id": self.id}


def _rows(boxes: Any, label: str) -> np.ndarray:
    if not isinstance(boxes, np.ndarray):
        try:
            boxes = [[np.nan] * 4 if row is None else row for row in boxes]
            boxes = np.array(boxes, float)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                f"Track {label!r} must have a box of four numbers, or None, for every frame, got {str(boxes)[:60]}."
            ) from None
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes):
        raise ValueError(f"Track {label!r} must have boxes of the shape (frames, 4), got {boxes.shape}.")
    return boxes.astype(float)


def as_tracks(values: Any) -> tuple[Track, ...]:
    """Tracks of one length. Raises ValueError where they differ.

    >>> len(as_tracks([{"boxes": [[0, 0, 1, 1], None], "label": "cat"}])[0])
    2
    """
    if values is None:
        return ()
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"Target tracks must be a list of tracks, got {str(values)[:60]!r}.")
    tracks = tuple(map(Track.of, values))
    if len(lengths := sorted({len(track) for track in tracks})) > 1:
        raise ValueError(f"Tracks of one target must have as many frames each, got {lengths[0]} and {lengths[-1]}.")
    return tracks


def as_spans(values: Any, frames: int | None = None) -> np.ndarray:
    """First and last frame of spans `(K, 2)`, both included, counted from 0. Raises ValueError.

    `frames` is how many there are, None where nobody says. None and an empty list give `(0, 2)`.
    """
    if values is None or len(values) == 0:
        return np.zeros((0, 2), int)
    try:
        spans = np.asarray(values, float)
    except (TypeError, ValueError):
        spans = np.zeros((0, 0))
    if spans.ndim != 2 or spans.shape[1] != 2 or not (spans == np.floor(spans)).all():
        raise ValueError(f"Target spans must be pairs of whole numbers, first and last frame, got {str(values)[:60]}.")
    for first, last in spans.tolist():
        if not 0 <= first <= last < (frames or LIMIT):
            raise ValueError(
                f"Target span {[int(first), int(last)]} does not lie in frames 0 to {(frames or int(LIMIT)) - 1}, "
                "the first before the last."
            )
    return spans.astype(int)


def spans_of(holds: np.ndarray) -> np.ndarray:
    """The spans `(K, 2)` of frames in which `holds` `(F,)` is true.

    >>> spans_of(np.array([True, True, False, True])).tolist()
    [[0, 1], [3, 3]]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(holds, int), [0]])))
    return np.stack([edges[::2], edges[1::2] - 1], axis=1)


def frames_in(spans: np.ndarray, frames: int) -> np.ndarray:
    """Which of `frames` frames lie in any of `spans` `(K, 2)`: undoes `spans_of`; `(F,)` bool.

    >>> frames_in(np.array([[0, 1], [3, 3]]), 5).tolist()
    [True, True, False, True, False]
    """
    holds = np.zeros(frames, bool)
    for first, last in spans.tolist():
        holds[first : last + 1] = True
    return holds
