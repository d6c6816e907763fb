"""Counting files: PixMo-Count as its authors give it, and the official Perception-R1 files made of it.

pixmo     {"image_url", "image_sha256", "label", "count", "points"}: parquet or csv; points in pixels, none in the
          validation and test splits; the pictures are yours to fetch, named by a digest (see `stored_names`)
counting  {"image_path", "question", "ground_truth"}: the official evaluation files, the question being the label
clicks    {"image", "problem", "clicks" or "solution"}: one point on each object, normalised to 0–1000
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from urllib.parse import unquote, urlparse

from pr1kit.data.records import Record, as_count, as_numbers, as_question, as_text, first_of, image_of, stated_size

HOW_MANY = re.compile(r"how many (.{1,200}) are there in (?:the|this) image\??", re.IGNORECASE)


def is_pixmo(row: Mapping) -> bool:
    """Whether a row is of PixMo-Count: a label and a count, its picture by url or in a column."""
    return "label" in row and ("count" in row or "points" in row) and ("image_url" in row or image_of(row) is not None)


def is_counting(row: Mapping) -> bool:
    """Whether a row is of the official counting evaluation."""
    return "question" in row and "ground_truth" in row


def is_clicks(row: Mapping) -> bool:
    """Whether a row is a class with one click on each object."""
    return "problem" in row and "clicks" in row


def read_pixmo(row: Mapping, name: str) -> Iterator[Record]:
    """One record; points where the row has them, else its count."""
    points, image = as_points(row.get("points")), image_of(row)
    count = None if row.get("count") is None else as_count(row["count"], "count")
    if points and count not in (None, len(points)):
        raise ValueError(f"it has {len(points)} points but the count {count}")
    yield Record(
        name,
        image if image is not None else stored_names(row),
        "counting",
        as_question(row["label"], "label"),
        points=points,
        count=None if points else count,
        size=stated_size(row),
    )


def read_counting(row: Mapping, name: str) -> Iterator[Record]:
    """One record; "How many X are there in the image?", as older files have it, asks for X."""
    words = as_question(row["question"], "question").strip()
    asked = HOW_MANY.fullmatch(words)
    count = as_count(row["ground_truth"], "ground_truth")
    yield Record(
        name, image_of(row), "counting", asked[1] if asked else words, count=count, size=stated_size(row)
    )  # fmt: skip


def read_clicks(row: Mapping, name: str) -> Iterator[Record]:
    """One record with points, or with boxes where the clicks have four numbers."""
    values = as_numbers(first_of(row, ("clicks", "solution")))
    places = values if isinstance(values, list | tuple) else [None]
    if not all(isinstance(place, list | tuple) and len(place) in (2, 4) for place in places):
        raise ValueError(f"{str(values)[:60]!r} is neither one box nor a list of points")
    kind = {"boxes" if places and len(places[0]) == 4 else "points": [list(place) for place in places]}
    question = as_question(row["problem"], "problem")
    yield Record(name, image_of(row), "counting", question, frame="norm1000", size=stated_size(row), **kind)


def as_points(value) -> list:
    """Points however a table holds them: `[{"x", "y"}]`, `{"x": […], "y": […]}`, `[[x, y]]`, or such as text.

    >>> as_points({"x": [1.0], "y": [2.0]}), as_points("[{'x': 1, 'y': 2}]"), as_points(None)
    ([[1.0, 2.0]], [[1, 2]], [])
    """
    value = as_numbers(value)
    if isinstance(value, Mapping):
        return [list(pair) for pair in zip(value["x"], value["y"], strict=True)]
    if not isinstance(value, list | tuple):
        return []
    return [[v["x"], v["y"]] if isinstance(v, Mapping) else list(v) for v in value]


def stored_names(row: Mapping) -> list[str]:
    """The names under which a fetched picture is looked for, best first; each also with `.jpg`, `.png`, `.webp`.

    Its own `image_sha256`, the sha256 and md5 of its url, and the last part of the url: many urls end alike, so that a
    file of that name is taken only if its sha256 is the row's.

    >>> stored_names({"image_url": "https://host/a%20b.jpg", "image_sha256": "9f2c"})[0::3]
    ['9f2c', 'a b.jpg']
    """
    url, own = as_text(row["image_url"], "image_url"), row.get("image_sha256")
    names = [hashlib.new(kind, url.encode()).hexdigest() for kind in ("sha256", "md5")]
    if not own:
        return names
    return [as_text(own, "image_sha256"), *names, PurePosixPath(unquote(urlparse(url).path)).name or names[0]]
