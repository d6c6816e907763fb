"""In which convention are a file's boxes? Judged by their range against their images, and asked, never guessed.

Normalised coordinates read as pixels, corners read as sizes: such a mistake trains or measures nonsense without a word.
Where the numbers of a file cannot be what they are taken for, `check` raises one sentence that names the option which
says what they are; an option that the user gave is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pr1kit.data.boxes import smart_resize, to_pixels
from pr1kit.data.records import Record, as_numbers
from pr1kit.data.sample import as_rows

FEW = 0.02  # a share of odd boxes up to this is annotators' slips, left out one by one
ENOUGH = 8  # places from which "none reaches beyond" says something
SMALL = (  # the largest coordinate, what it then may be, how to say so
    (1, "fractions", "(1, 1) (--frame 1x1)"),
    (100, "percents", "(100, 100) (--frame 100x100)"),
    (1000, "normalised to 0–1000", '"norm1000" (--frame norm1000)'),
)


def corners(values: Any, box_format: str) -> np.ndarray:
    """Boxes `(N, 4)` as x1, y1, x2, y2, from corners (`xyxy`) or corner, width and height (`xywh`).

    >>> corners([[10, 20, 5, 5]], "xywh").tolist()
    [[10.0, 20.0, 15.0, 25.0]]
    """
    boxes = np.array(as_rows(as_numbers(values), 4, "boxes"))
    if box_format == "xywh":
        boxes[:, 2:] += boxes[:, :2]
    return boxes


def check(records: Sequence[Record], sizes: Sequence[tuple[int, int]], source: str, frame: Any, box_format: str | None):
    """Raises ValueError where boxes or points cannot be in the convention they are taken for.

    `sizes` are the (width, height) of the images that were annotated, one for each record; `frame` and `box_format`
    what the user said, or None: what was said is not asked again.
    """
    found: dict[tuple, list] = {}  # (frame, format, whether boxes) -> places (N, 4), sides of their images (N, 2)
    for record, size in zip(records, sizes, strict=True):
        try:
            places = as_rows(as_numbers(record.boxes), 4, "boxes")
            points = as_rows(as_numbers(record.points), 2, "points")
        except ValueError:
            continue  # left out by itself, with its reason
        boxed = len(places) > 0
        rows = places if boxed else np.concatenate([points, points], axis=1)
        if len(rows):
            found.setdefault((str(record.frame), record.box_format, boxed), []).append((rows, size))
    for (written, form, boxed), parts in found.items():
        rows = np.concatenate([rows for rows, _ in parts])
        sides = np.repeat(np.array([size for _, size in parts], float), [len(rows) for rows, _ in parts], axis=0)
        if boxed and box_format is None:
            _check_format(rows, sides, source, form, written)
        if frame is None:
            rows = corners(rows, form) if boxed else rows
            _check_norm1000(rows, source) if written == "norm1000" else _check_pixels(rows, sides, source)
    if frame is None:
        _check_twice(records, sizes, source)


def _check_format(rows: np.ndarray, sides: np.ndarray, source: str, form: str, written: str) -> None:
    if form == "xyxy":
        odd = (rows[:, 2:] < rows[:, :2]).any(1)
        what, other, say = "end before they begin", "x, y, width, height", "xywh"
    else:
        limits = np.full_like(sides, 1000) if written == "norm1000" else sides
        fits = (rows[:, 2:] <= limits + 1).all(1) & (rows[:, 2:] >= rows[:, :2]).all(1)
        odd = (rows[:, :2] + rows[:, 2:] > limits + 1).any(1) & fits
        what, other, say = "leave their images if they are x, y, width, height", "corners", "xyxy"
    if odd.mean() > FEW:
        raise ValueError(
            f"{odd.sum()} of {len(rows)} boxes of {source} {what} (such as {rows[odd][0].tolist()}): if they are "
            f'{other}, say box_format="{say}" (--box-format {say}), else "{form}".'
        )


def _check_norm1000(rows: np.ndarray, source: str) -> None:
    if (rows > 1001).any(1).mean() > FEW:
        raise ValueError(
            f"Coordinates of {source} reach {rows.max():g}, taken for normalised 0–1000: "
            'if they are pixels, say frame="pixel" (--frame pixel).'
        )


def _check_pixels(rows: np.ndarray, sides: np.ndarray, source: str) -> None:
    outside = (rows > np.tile(sides, 2) + 1).any(1) | (rows < -1).any(1)
    if outside.mean() > FEW:
        row, (width, height) = rows[outside][0].tolist(), sides[outside][0]
        such = f"(such as {row} in {width:g}x{height:g} pixels)"
        found = f"{outside.sum()} of {len(rows)} places of {source} lie outside their images {such}"
        resized = np.array([smart_resize((int(w), int(h))) for w, h in sides[outside].tolist()])
        if (rows[outside] <= np.tile(resized, 2) + 1).all() and (rows >= -1).all():
            raise ValueError(
                f"{found} but within what Qwen-VL's processor makes of them, multiples of 28: if they are pixels of "
                'the resized images, say frame="resized" (--frame resized), else frame="pixel" (--frame pixel) to '
                "leave those out."
            )
        guess, say = "pixels of an image of another size", "(width, height) (--frame WxH) of that image"
        if rows.max() <= 1001:
            guess, say = "normalised to 0–1000", '"norm1000" (--frame norm1000)'
        raise ValueError(
            f'{found}: if they are {guess}, say frame={say}, or frame="pixel" (--frame pixel) to leave those out.'
        )
    for limit, name, frame in SMALL:
        if len(rows) >= ENOUGH and rows.max() <= limit and sides.min() > 1.2 * limit:
            raise ValueError(
                f"No place of {source} reaches beyond {limit}, though every image is larger: if they are {name} of the "
                f'image, say frame={frame}, or frame="pixel" (--frame pixel) if they are pixels.'
            )


def _check_twice(records: Sequence[Record], sizes: Sequence[tuple[int, int]], source: str) -> None:
    """Boxes that a file has both in pixels and normalised to 0–1000 must say the same, to 1 % of a side."""
    apart, pairs = [], 0
    for record, size in zip(records, sizes, strict=True):
        if record.pixel_boxes is not None:
            pairs += 1
            there = to_pixels(corners(record.boxes, "xyxy"), record.frame, size)
            if (np.abs(there - corners(record.pixel_boxes, "xyxy")) > 1 + 0.01 * np.array(size * 2)).any():
                apart.append(record.id)
    if pairs and len(apart) > FEW * pairs:
        raise ValueError(
            f"solution and normalized_solution disagree in {len(apart)} of {pairs} rows of {source}, "
            f"{apart[0]} the first: "
            'are these the images that were annotated? Say frame="norm1000" (--frame norm1000) to read the second, or '
            'frame="pixel" (--frame pixel) to read the first.'
        )
