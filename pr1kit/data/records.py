"""One annotation as its file has it, before anything is converted; and how the cells of a row are read.

A cell is believed only if it is what it should be: null is no text, "3.5" no count, true no number.
"""

from __future__ import annotations

import ast
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False, slots=True)
class CocoNotes:
    """A COCO file's annotations of image `image_id`, crowds included.

    `boxes` (N, 4) x, y, width, height; `areas` (N,), NaN where the file gives none; `categories` N ids; `crowd` (N,)
    whether an annotation is of a crowd.
    """

    image_id: Any
    boxes: np.ndarray
    areas: np.ndarray
    categories: tuple
    crowd: np.ndarray


@dataclass(frozen=True, eq=False, slots=True)
class Record:
    """One question about one image, coordinates as written.

    `boxes` are written in `frame` (see `boxes`) and `box_format`. `pixel_boxes` are the same boxes once more in pixels,
    where the file has both. `size` is the `(width, height)` that the file states. `coco` has what more a COCO file says
    of these boxes.
    """

    id: str
    image: Any
    task: str
    question: str = ""
    boxes: Any = ()
    labels: tuple[str, ...] = ()
    points: Any = ()
    text: str = ""
    count: int | None = None
    size: tuple[int, int] | None = None
    frame: Any = "pixel"
    box_format: str = "xyxy"
    pixel_boxes: Any = None
    coco: CocoNotes | None = None


@dataclass(frozen=True, eq=False)
class StoredImage:
    """A picture in a table: row `index` of a `datasets.Dataset`, or its encoded bytes; decoded when opened."""

    name: str
    table: Any
    index: int | None = None
    column: str = "image"

    def content(self) -> bytes | str:
        """The encoded bytes, or the path of a file that holds them. Raises OSError where there are none."""
        cell = self.table if self.index is None else self.table[self.index][self.column]
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") or cell.get("path")
        if not isinstance(cell, bytes | str):
            raise OSError("the cell is empty")
        return cell

    def open(self):
        """The PIL image as stored. Raises OSError where it is none."""
        from PIL import Image

        cell = self.content()
        return Image.open(io.BytesIO(cell) if isinstance(cell, bytes) else cell)

    def __str__(self) -> str:
        return self.name


def as_numbers(value: Any) -> Any:
    """Numbers as a file may hold them: lists, or a list written as text, as the official training files do."""
    if isinstance(value, str):
        try:
            return ast.literal_eval(value.strip())  # literals only: nothing is executed
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(f"{value[:60]!r} is not a list of numbers") from None
    return value


def as_text(value: Any, what: str) -> str:
    """Words that a file holds, whole numbers as their digits. Raises ValueError, `what` they are, for anything else.

    >>> as_text("cat", "label"), as_text(7, "label")
    ('cat', '7')
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"its {what} is {str(value)[:40]}, expected text")
    value.encode()  # half a character, as JSON can write it, cannot be shown to anybody
    return value


def as_question(value: Any, what: str) -> str:
    """What is asked for: text with something in it. Raises ValueError as `as_text`."""
    words = as_text(value, what)
    if not words.strip() or len(words) > 1000:
        raise ValueError(f"its {what} has {len(words)} characters, expected 1 to 1000")
    return words


def as_count(value: Any, what: str) -> int:
    """A count of objects, also as text or as a float. Raises ValueError, `what` it is, for what is no count.

    >>> as_count("3", "count"), as_count(3.0, "count")
    (3, 3)
    """
    value = as_numbers(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**31 or value != int(value):
        raise ValueError(f"its {what} {str(value)[:40]} is no count")
    return int(value)


def first_of(row: Mapping, names: Iterable[str]) -> Any:
    """The first of `names` that the row has a value for, None if it has none."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def image_of(row: Mapping) -> Any:
    """The row's image: a path, a `StoredImage`, a PIL image."""
    image = first_of(row, ("image", "image_path", "file_name", "img", "path"))
    return StoredImage("an image in the row", image) if isinstance(image, bytes | Mapping) else image


def stated_size(row: Mapping) -> tuple[int, int] | None:
    """The `(width, height)` that the row states, if it does. Raises ValueError where that is no size.

    >>> stated_size({"width": 640, "height": "480"}), stated_size({"width": 640})
    ((640, 480), None)
    """
    width, height = (first_of(row, names) for names in (("width", "img_width"), ("height", "img_height")))
    if not width or not height:
        return None
    try:
        size = float(width), float(height)
    except (TypeError, ValueError, OverflowError):
        size = 0.0, 0.0
    if not (1 <= size[0] < 2**31 and 1 <= size[1] < 2**31 and size == (int(size[0]), int(size[1]))):
        raise ValueError(f"its width is {str(width)[:40]} and its height {str(height)[:40]}, expected whole pixels")
    return int(size[0]), int(size[1])
