"""In which convention are a file's boxes? Judged by their range against their images, and asked, never guessed.

Thousandths read as pixels, corners read as sizes: such a mistake trains or measures nonsense without a word. Where the
numbers of a file cannot be what they are taken for, `check` raises one sentence that names the option which says what
they are; an option that the user gave is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pr1kit.boxes import to_pixels
from pr1kit.datasets.records import Record, as_numbers
from pr1kit.sample import as_rows

FEW = 0.02  # a share of odd boxes up to this is annotators' slips, left out one by one
ENOUGH = 8  # places from which "none reaches beyond" says something
SMALL = ((1, "fractions", "(1, 1)"), (100, "percents", "(100, 100)"), (1000, "thousandths", '"norm1000"'))


def corners(values: Any, box_format: str) -> np.ndarray:
    """Boxes `(N, 4)` as x1, y1, x2, y2, from corners (`xyxy`) or corner, width and height (`xywh`).

    >>> corners([[10, 20, 5, 5]], "xywh").tolist()
    [[10.0, 20.0, 15.0, 25.0]]
    """
    boxes = as_rows(as_numbers(values), 4, "boxes").astype(float)
    if box_format == "xywh":
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return boxes


def check(records: Sequence[Record], sizes: Sequence[tuple[int, int]], source: str, frame: Any, box_format: str | None):
    """Raises ValueError where boxes or points cannot be in the convention they are taken for.

    `sizes` are the images' (width, height), one for each record; `frame` and `box_format` what the user said, or None.
    """
    places, owners = [], []
    for record, size in zip(records, sizes, strict=True):
        try:
            boxes = corners(record.boxes, "xyxy" if record.fixed else box_format or record.box_format)
            points = as_rows(as_numbers(record.points), 2, "points")
        except ValueError:
            continue  # left out by itself, with its reason
        rows = boxes if len(boxes) else np.tile(points, 2)
        places.append(rows)
        owners += [(*size, record.frame)] * len(rows)
    if not owners:
        return
    rows = np.concatenate([place for place in places if len(place)])
    sides, written = np.array([owner[:2] for owner in owners], float), owners[0][2]
    if not all(record.fixed for record in records):
        _check_format(rows, source, box_format)
    if frame is not None:
        return
    if written == "norm1000":
        beyond = (rows > 1001).any(1).mean()
        if beyond > FEW:
            raise ValueError(
                f"Coordinates of {source} reach {rows.max():g}, taken for thousandths of the image: "
                'if they are pixels, say frame="pixel" (--frame pixel).'
            )
        _check_twice(records, sizes, source)
    elif not any(record.fixed for record in records):
        _check_pixels(rows, sides, source)


def _check_format(rows: np.ndarray, source: str, box_format: str | None) -> None:
    inverted = (rows[:, 2:] < rows[:, :2]).any(1)
    if box_format is None and inverted.mean() > FEW:
        example = rows[inverted][0].tolist()
        raise ValueError(
            f"{inverted.sum()} of {len(rows)} boxes of {source} end before they begin (such as {example}): if they are "
            'x, y, width, height, say box_format="xywh" (--box-format xywh), else "xyxy".'
        )


def _check_pixels(rows: np.ndarray, sides: np.ndarray, source: str) -> None:
    outside = (rows > np.tile(sides, 2) + 1).any(1) | (rows < -1).any(1)
    if outside.mean() > FEW:
        row, (width, height) = rows[outside][0], sides[outside][0]
        guess = "thousandths of the image" if rows.max() <= 1001 else "pixels of an image of another size"
        say = '"norm1000" (--frame norm1000)' if rows.max() <= 1001 else "(width, height) (--frame WxH) of that image"
        raise ValueError(
            f"{outside.sum()} of {len(rows)} places of {source} lie outside their images (such as {row.tolist()} in "
            f'{width:g}x{height:g} pixels): if they are {guess}, say frame={say}, or frame="pixel" (--frame pixel) '
            "to leave those out."
        )
    for limit, name, frame in SMALL:
        if len(rows) >= ENOUGH and rows.max() <= limit and sides.min() > 1.2 * limit:
            raise ValueError(
                f"No place of {source} reaches beyond {limit}, though every image is larger: if they are {name} of the "
                f'image, say frame={frame}, or frame="pixel" (--frame pixel) if they are pixels.'
            )


def _check_twice(records: Sequence[Record], sizes: Sequence[tuple[int, int]], source: str) -> None:
    """Boxes that a file has both in pixels and in thousandths must say the same, to 1 % of a side."""
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
