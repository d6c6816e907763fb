"""Where is a box, how large is it, how much do two overlap, and in which coordinates was it written?

Boxes are `(N, 4)` float arrays `x1, y1, x2, y2`, continuous coordinates (no `+1`). Three frames occur: `"pixel"` of the
original image; `"norm1000"`, normalised to 0–1000 (Qwen2-VL); and `(width, height)`, pixels of the resized
image that the model saw (Qwen2.5-VL, sized by `smart_resize`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

EPS = 1e-300  # in place of a union of 0, whose intersection is 0 too


def area(boxes: np.ndarray) -> np.ndarray:
    """Areas `(N,)` of boxes `(N, 4)`; an inverted or flat box has area 0.

    >>> area(np.array([[0, 0, 4, 2], [5, 5, 5, 9]])).tolist()
    [8, 0]
    """
    return np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)


def centers(boxes: np.ndarray) -> np.ndarray:
    """Centres `(N, 2)` of boxes `(N, 4)`.

    >>> centers(np.array([[0, 0, 4, 2]])).tolist()
    [[2.0, 1.0]]
    """
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def is_valid(boxes: np.ndarray) -> np.ndarray:
    """Which boxes `(N,)` are finite with `x1 <= x2` and `y1 <= y2`; a flat box is valid, and overlaps nothing.

    >>> is_valid(np.array([[0, 0, 4, 2], [4, 0, 0, 2], [0, 0, np.nan, 1]])).tolist()
    [True, False, False]
    """
    return np.isfinite(boxes).all(1) & (boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])


def clip(boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Boxes `(N, 4)` cut at the edges of an image of `(width, height)`.

    >>> clip(np.array([[-5.0, 2, 30, 40]]), (20, 10)).tolist()
    [[0.0, 2.0, 20.0, 10.0]]
    """
    width, height = image_size
    return np.clip(boxes, 0, np.array([width, height, width, height]))


def _overlap(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union areas, each `(N, M)`."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])  # (N, M, 2)
    np.maximum(sides, 0, out=sides)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection, area(a)[:, None] + area(b)[None] - intersection


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union `(N, M)` in [0, 1] of boxes `(N, 4)` and `(M, 4)`; two flat boxes give 0.

    >>> iou(np.array([[0, 0, 2, 2.0]]), np.array([[0, 0, 2, 2], [1, 0, 3, 2], [7, 7, 7, 7.0]])).round(3).tolist()
    [[1.0, 0.333, 0.0]]
    """
    if len(a) == 1 and len(b) == 1:  # one box against one: plain arithmetic is faster than arrays of one
        return np.array([[box_iou(a[0].tolist(), b[0].tolist())]])
    intersection, union = _overlap(np.asarray(a, float), np.asarray(b, float))
    return intersection / np.maximum(union, EPS)


def box_iou(a: list[float], b: list[float]) -> float:
    """The overlap of one box with one other, as `iou` has it.

    >>> box_iou([0, 0, 2, 2], [0, 0, 2, 1])
    0.5
    """
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def giou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Generalised IoU `(N, M)` in [-1, 1] (Rezatofighi et al. 2019, algorithm 1): IoU minus the hull's empty share.

    >>> giou(np.array([[0, 0, 1, 1.0]]), np.array([[0, 0, 1, 1], [3, 0, 4, 1.0]])).tolist()
    [[1.0, -0.5]]
    """
    intersection, union = _overlap(np.asarray(a, float), np.asarray(b, float))
    sides = np.maximum(a[:, None, 2:], b[None, :, 2:]) - np.minimum(a[:, None, :2], b[None, :, :2])
    hull = sides[..., 0] * sides[..., 1]
    return intersection / np.maximum(union, EPS) - (hull - union) / np.maximum(hull, EPS)


def parse_frame(text: str) -> str | tuple[float, float]:
    """A frame as people write it: `pixel`, `norm1000`, `WxH`, pixels of the resized image, or for data `resized`, where
    each image's size follows from `smart_resize`. Raises ValueError.

    >>> parse_frame("norm1000"), parse_frame("1x1")
    ('norm1000', (1.0, 1.0))
    """
    if text in ("pixel", "norm1000", "resized"):
        return text
    if (sides := _sides(text.lower().split("x"))) is None:
        raise ValueError(f"Unknown frame {text!r}: choose pixel, norm1000 or WxH, such as 640x480.")
    return sides


def pixels_per_unit(frame: Any, image_size: tuple[int, int] | None) -> tuple[float, float]:
    """How many pixels of the original image one unit of `frame` is, in x and in y. Raises ValueError.

    >>> pixels_per_unit("norm1000", (640, 480)), pixels_per_unit((320, 240), (640, 480))
    ((0.64, 0.48), (2.0, 2.0))
    """
    if isinstance(frame, str) and frame == "pixel":
        return 1.0, 1.0
    if isinstance(frame, str):
        sides = (1000.0, 1000.0) if frame == "norm1000" else None
    else:
        sides = _sides(frame)
    if sides is None:
        raise ValueError(
            f'Unknown frame {frame!r}: choose "pixel", "norm1000" or (width, height) of the resized image.'
        )
    if image_size is None:
        raise ValueError(f"The frame {frame!r} needs the target's image_size (width, height) to be read in pixels.")
    return image_size[0] / sides[0], image_size[1] / sides[1]


def _sides(values: Any) -> tuple[float, float] | None:
    """A width and a height, None for what is not two finite positive numbers."""
    try:
        width, height = (float(side) for side in values)
    except (TypeError, ValueError):
        return None
    return (width, height) if 0 < width < math.inf and 0 < height < math.inf else None


def to_pixels(coordinates: np.ndarray, frame: Any, image_size: tuple[int, int] | None) -> np.ndarray:
    """Boxes `(N, 4)` or points `(N, 2)` written in `frame`, in pixels of the original image.

    >>> to_pixels(np.array([[500, 500, 1000, 1000.0]]), "norm1000", (640, 480)).tolist()
    [[320.0, 240.0, 640.0, 480.0]]
    """
    if isinstance(frame, str) and frame == "pixel":
        return np.asarray(coordinates, float)
    scale = pixels_per_unit(frame, image_size)
    return np.asarray(coordinates, float) * np.tile(scale, np.shape(coordinates)[1] // 2)


def from_pixels(coordinates: np.ndarray, frame: Any, image_size: tuple[int, int] | None) -> np.ndarray:
    """Boxes `(N, 4)` or points `(N, 2)` in pixels of the original image, written in `frame`: undoes `to_pixels`.

    >>> from_pixels(np.array([[320, 240, 640, 480.0]]), "norm1000", (640, 480)).tolist()
    [[500.0, 500.0, 1000.0, 1000.0]]
    """
    scale = pixels_per_unit(frame, image_size)
    return np.asarray(coordinates, float) / np.tile(scale, np.shape(coordinates)[1] // 2)


def smart_resize(
    image_size: tuple[int, int], *, factor: int = 28, min_pixels: int = 56 * 56, max_pixels: int = 14 * 14 * 4 * 1280
) -> tuple[int, int]:
    """The `(width, height)` to which Qwen2-VL's processor resizes an image of `(width, height)`.

    Each side becomes a multiple of `factor`; the area is brought between `min_pixels` and `max_pixels`, the shape kept
    as nearly as the multiples allow. Raises ValueError for sides below 1 or a shape beyond 200:1.

    >>> smart_resize((640, 480)), smart_resize((31, 77))
    ((644, 476), (56, 112))
    """
    width, height = image_size
    if min(width, height) < 1 or max(width, height) > 200 * min(width, height):
        raise ValueError(f"An image of {width}x{height} pixels cannot be resized: sides >= 1, at most 200:1.")
    sides = [max(factor, round(side / factor) * factor) for side in (width, height)]
    if sides[0] * sides[1] > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        sides = [max(factor, math.floor(side / shrink / factor) * factor) for side in (width, height)]
    elif sides[0] * sides[1] < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        sides = [math.ceil(side * grow / factor) * factor for side in (width, height)]
    return sides[0], sides[1]


def is_resized(size: tuple[int, int], original: tuple[int, int]) -> bool:
    """Whether `size` may be what a Qwen-VL processor makes of an `original`: multiples of 28 or 32, the shape kept.

    The shape is kept to one multiple a side, so that it may be off by some percent.

    >>> is_resized((644, 420), (640, 427)), is_resized((640, 420), (640, 427)), is_resized((1288, 420), (640, 427))
    (True, False, False)
    """
    scale = math.sqrt(size[0] * size[1] / (original[0] * original[1]))
    return any(
        all(a % factor == 0 and abs(a - b * scale) <= factor for a, b in zip(size, original, strict=True))
        for factor in (28, 32)
    )
