"""Large photographs for a policy that sees small ones: random or tiled crops, each with the truth that is inside it.

A 3B model sees a microscope slide or a satellite picture, and a tiny policy a photograph, one crop at a time. Crops of
one photograph are no independent evidence: split by photograph (`split_by_image`), and give `evaluate` their
`photographs` as groups.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pr1kit.data.assemble import Samples
from pr1kit.data.boxes import area
from pr1kit.data.images import image_size, load_image
from pr1kit.data.sample import Sample, Target

HOW = ("random", "tiled")
PLACED = ("grounding", "counting", "detection")  # tasks whose truth has places in one picture


@dataclass(frozen=True)
class Crop:
    """A part of a picture, cut when opened: `box` is x1, y1, x2, y2 in whole pixels of the upright `image`."""

    image: Any
    box: tuple[int, int, int, int]

    def open(self):
        """The PIL image of the crop, RGB. Raises as `images.load_image`."""
        return load_image(self.image).crop(self.box)

    def __str__(self) -> str:
        return f"{self.image} [{', '.join(map(str, self.box))}]"


def crop_samples(
    samples: Sequence[Sample],
    size: int | tuple[int, int] = 256,
    *,
    how: str = "random",
    each: int = 4,
    stride: int | None = None,
    keep: float = 0.5,
    empty: bool = False,
    seed: int = 0,
) -> Samples:
    """Crops of `size` pixels (a side, or width and height) of the samples' pictures, as samples with their own truth.

    `how` "random" draws `each` crops of a picture, from `seed`; "tiled" covers it from edge to edge with crops that
    begin at most `stride` (by default their own side) apart. All samples of one picture get the same crops. A box
    stays, clipped, where at least the share `keep` of its area is inside; a point where it is inside. Crops without any
    object are left out, unless `empty`, which grounding does not take. Pictures smaller than a crop are left out, with
    a warning that counts them, and in `.skipped`. Raises ValueError, one sentence with counts: no picture is large
    enough, no object in any crop, a truth that cannot be cut (a text, a bare count, a video).

    >>> from pr1kit.data.scenes import make_scenes
    >>> crops = crop_samples(make_scenes("counting", 2, seed=7), 32, how="tiled")
    >>> crops[0].id, crops[0].load_image().size
    ('scenes/counting/train/7/0@0,0', (32, 32))
    """
    width, height = _checked(size, how, each, stride, keep)
    places: dict[Hashable, list[tuple[int, int]]] = {}
    found, small, crops = [], [], 0
    for sample in samples:
        _check_cut(sample)
        full = sample.target.image_size or image_size(sample.image)
        if full[0] < width or full[1] < height:
            small.append((sample.id, f"its picture of {full[0]}x{full[1]} pixels is smaller than a crop"))
            continue
        key = picture_of(sample.image)
        if key not in places:
            rng = np.random.default_rng([seed, len(places)])
            room = full[0] - width, full[1] - height
            places[key] = (
                _tiles(room, (stride or width, stride or height)) if how == "tiled" else _random(room, each, rng)
            )
        for x, y in places[key]:
            target = cut(sample.target, (x, y, x + width, y + height), keep)
            crops += 1
            if len(target.boxes) or len(target.points) or (empty and sample.task != "grounding"):
                image = Crop(sample.image, (x, y, x + width, y + height))
                found.append(replace(sample, image=image, target=target, id=f"{sample.id}@{x},{y}"))
    if not samples:
        raise ValueError("There are no samples to crop.")
    if not crops:
        raise ValueError(
            f"None of {len(samples)} samples has a picture as large as a crop of {width}x{height} pixels, the first "
            f"({small[0][0]}) as {small[0][1]}: choose smaller crops."
        )
    if not found:
        objects = sum(len(sample.target.boxes) or len(sample.target.points) for sample in samples)
        raise ValueError(
            f"None of {crops} crops of {width}x{height} pixels from {len(places)} pictures holds {keep:.0%} of any of "
            f"their {objects} objects: choose larger crops, or a smaller keep."
        )
    result = Samples(found, f"crops of {getattr(samples, 'source', '') or 'samples'}", small)
    if small:
        warnings.warn(str(result), stacklevel=2)
    return result


def cut(target: Target, box: tuple[int, int, int, int], keep: float = 0.5) -> Target:
    """The truth of the part `box` of a picture, in pixels of the part; see `crop_samples`.

    >>> cut(Target(boxes=[[0, 0, 10, 10], [8, 0, 28, 10]], labels=["a", "b"]), (0, 0, 16, 16)).boxes.tolist()
    [[0.0, 0.0, 10.0, 10.0]]
    """
    x1, y1, x2, y2 = box
    boxes = np.clip(target.boxes, [x1, y1, x1, y1], [x2, y2, x2, y2]) - [x1, y1, x1, y1]
    whole, left = area(target.boxes), area(boxes)
    middle = (target.boxes[:, :2] + target.boxes[:, 2:]) / 2
    flat = ((middle >= [x1, y1]) & (middle <= [x2, y2])).all(1)  # a box without area is where its middle is
    inside = np.where(whole > 0, left >= keep * whole, flat) & ((left > 0) | (whole <= 0))
    points = target.points[((target.points >= [x1, y1]) & (target.points <= [x2, y2])).all(1)] - [x1, y1]
    labels = tuple(label for label, here in zip(target.labels, inside, strict=False) if here)
    return Target(boxes[inside], labels, points, image_size=(x2 - x1, y2 - y1))


def picture_of(image: Any) -> Hashable:
    """What tells the photograph of an image or of a crop apart: its path, else the object itself."""
    while isinstance(image, Crop):
        image = image.image
    return str(image) if isinstance(image, str | Path) else id(image)


def photographs(samples: Sequence[Sample]) -> list[Hashable]:
    """The photograph of each sample, fit for `evaluate(groups=)`: crops of one picture share it."""
    return [picture_of(sample.image) for sample in samples]


def split_by_image(samples: Sequence[Sample], share: float = 0.2, seed: int = 0) -> tuple[Samples, Samples]:
    """The samples in two parts, `(rest, held_out)`, no picture in both; `share` of the pictures is held out.

    Raises ValueError where there are fewer than two pictures.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is the part of the pictures to hold out, between 0 and 1, got {share!r}.")
    keys = photographs(samples)
    pictures = list(dict.fromkeys(keys))
    if len(pictures) < 2:
        raise ValueError(
            f"{len(samples)} samples of {len(pictures)} picture{'s' * (len(pictures) != 1)} cannot be split by "
            "picture: two pictures are the least."
        )
    count = min(max(1, round(share * len(pictures))), len(pictures) - 1)
    held = {pictures[i] for i in np.random.default_rng(seed).permutation(len(pictures))[:count]}
    source, parts = getattr(samples, "source", ""), ([], [])
    for key, sample in zip(keys, samples, strict=True):
        parts[key in held].append(sample)
    return Samples(parts[0], source), Samples(parts[1], source)


def _checked(size: Any, how: str, each: int, stride: int | None, keep: float) -> tuple[int, int]:
    """The width and height of a crop. Raises ValueError for options that cannot be."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"The size of a crop is a side or (width, height) in whole pixels, got {size!r}.")
    if how not in HOW:
        raise ValueError(f"Unknown how {how!r}: choose one of {', '.join(HOW)}.")
    if not 0 < keep <= 1:
        raise ValueError(f"keep is the share of a box that must be inside, above 0 and at most 1, got {keep!r}.")
    for name, value in (("each", each), ("stride", stride)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number from 1, got {value!r}.")
    return sides


def _check_cut(sample: Sample) -> None:
    target, why = sample.target, ""
    if sample.is_video or sample.task not in PLACED:
        why = f"its {'frames' if sample.is_video else 'task, ' + sample.task + ','} cannot be cut"
    elif target.count and not len(target.boxes) and not len(target.points):
        why = "its truth is a count without places"
    if why:
        raise ValueError(f"Sample {sample.id!r} cannot be cropped: {why}.")


def _random(room: tuple[int, int], each: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in rng.integers(0, np.add(room, 1), (each, 2))]


def _tiles(room: tuple[int, int], stride: tuple[int, int]) -> list[tuple[int, int]]:
    """The corners of crops that cover a picture with `room` pixels more than a crop has, evenly apart."""
    columns, rows = (
        np.linspace(0, left, math.ceil(left / step) + 1).round().astype(int).tolist()
        for left, step in zip(room, stride, strict=True)
    )
    return [(x, y) for y in rows for x in columns]
