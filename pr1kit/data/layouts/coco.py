"""Detection files: COCO instances, and detection datasets as the hub has them.

coco     {"images", "annotations", "categories"}: every category of the file is asked for in every image; crowd
         regions are no objects, but stay in the truth that COCO AP is measured on
objects  {"image", "objects": {"bbox": [...], "category": [...]}}, rows of a table

A COCO file is read once, in any order of its lists, and kept as numbers: a million annotations are 60 MB. An image is
left out where its truth is not whole (one of its annotations is damaged) or not its own (two images of one id).
"""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import Any

import numpy as np

from pr1kit.data.records import CocoNotes, Record, as_numbers, as_question, first_of, image_of, stated_size
from pr1kit.data.safe_files import stream_json

LISTS = ("images", "annotations", "categories")
COLUMNS = 8  # x, y, width, height, area, image, category, crowd
CROWD = {None: 0, 0: 0, 1: 1, "": 0, "0": 0, "1": 1}  # true and false are 1 and 0


def is_objects(row: Mapping) -> bool:
    """Whether a row is an image with its objects."""
    return isinstance(row.get("objects"), Mapping) and "bbox" in row["objects"]


def read_objects(row: Mapping, name: str) -> Iterator[Record]:
    """One detection record that asks for every class met in the file (filled in when all are known)."""
    objects = row["objects"]
    labels = first_of(objects, ("category", "categories", "label", "labels", "name"))
    if labels is None:
        raise ValueError("the objects have no category")
    labels = tuple(as_question(label, "category") for label in labels)
    boxes = [list(as_numbers(box)) for box in objects["bbox"]]
    yield Record(name, image_of(row), "detection", boxes=boxes, labels=labels, size=stated_size(row))


def find_coco_file(folder: Path, split: str | None) -> Path | None:
    """The COCO file of a folder of images: in it, or in its `annotations/`. Raises ValueError where several fit."""
    found = [file for at in (folder, folder / "annotations") for file in sorted(at.glob("*.json"))]
    found = [file for file in found if "instances" in file.name or "annotations" in file.name or "coco" in file.name]
    if split is not None:
        found = [file for file in found if split in file.stem]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ValueError(f"{str(folder)!r} holds several COCO files ({names}): name one, or its split.")
    return found[0] if found else None


def read_coco(path: Path, task: str, skipped: list[tuple[str, str]]) -> tuple[Iterator[Record], list[dict]] | None:
    """A record for each image (detection), or for each image and category in it (counting), and the categories.

    None where the file has not all three lists. Images without annotations are asked about too: saying nothing is right
    there. A class with a crowd region cannot be counted and is left out. What is damaged goes to `skipped`, (id,
    reason), as the records are drawn. Raises ValueError where a list is none, two categories have one id, or there is
    no annotation to count.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        if not all(text.find(b'"%s"' % key.encode()) >= 0 for key in LISTS):  # far faster than reading
            return None
    images, categories, notes, seen = [], [], _Notes(), set()
    read = {"images": images.extend, "annotations": notes.extend, "categories": categories.extend}
    for key, value in stream_json(path, drop="segmentation"):  # polygons: most of such a file, and not used here
        if key in LISTS:
            if not isinstance(value, Iterator):
                raise ValueError(f"{key!r} of {str(path)!r} is {str(value)[:40]!r}, expected a list.")
            read[key](value)
            seen.add(key)
    if len(seen) < len(LISTS):
        return None
    names = _names(categories, path, skipped)
    first: dict[str, Any] = {}
    for kind, name in names.items():
        first.setdefault(name, kind)  # two ids of one name are one class
    notes.sort(names)
    found, known = _images(images, path.stem, skipped)
    if task == "counting" and found and not any(notes.counts()) and not notes.lost:
        raise ValueError(f"{str(path)!r} has {len(found)} images and no annotation: there is nothing to count.")
    skipped += [(f"{path.stem}/annotation {place}", reason) for place, reason in notes.lost]
    for owner, count in notes.counts():
        if owner not in known:
            skipped.append(
                (f"{path.stem}/{str(owner)[:60]}", f"of its image, not in the file, are {count} annotations")
            )
    return _records(path.stem, task, found, notes, names, first, skipped), [
        {"id": kind, "name": name} for name, kind in first.items()
    ]


def _records(stem: str, task: str, images: dict, notes: _Notes, names: dict, first: dict, skipped: list) -> Iterator:
    everything = ", ".join(first)
    for owner, (file, size) in images.items():
        about = (f"{stem}/{owner}", file, task)
        at, reason = notes.of(owner)
        if reason:
            skipped.append((about[0], reason))
            continue
        labels = tuple(names[kind] for kind in notes.kinds_of(at))
        boxes, crowd = notes.boxes[at], notes.crowd[at]
        if task == "detection":
            coco = CocoNotes(owner, boxes, notes.areas[at], tuple(first[label] for label in labels), crowd)
            yield Record(*about, everything, boxes, labels, size=size, box_format="xywh", coco=coco)
            continue
        yield from class_records(about, boxes, labels, crowd, size, "xywh")


def class_records(about: tuple, boxes, labels: tuple[str, ...], crowd, size, box_format: str) -> Iterator[Record]:
    """A counting record for each class among `labels` that has no crowd region; `about`: id, image, task."""
    for label in dict.fromkeys(labels):
        mine = np.array([each == label for each in labels])
        if not crowd[mine].any():
            asked = (f"{about[0]}/{label}", *about[1:], label, boxes[mine], (label,) * int(mine.sum()))
            yield Record(*asked, size=size, box_format=box_format)


class _Notes:
    """The annotations of a file as columns: `extend` takes them as they come, `sort` puts an image's together."""

    def __init__(self):
        self._rows = bytearray()  # of COLUMNS numbers each
        self._owner_of: dict[Any, int] = {}  # image id: its running number here
        self._kind_of: dict[Any, int] = {}  # category id: likewise
        self._damaged: dict[int, str] = {}  # running number of an image: why its truth is not whole
        self.lost: list[tuple[int, str]] = []  # annotations that name no image: (place, reason)

    def extend(self, notes: Iterator) -> None:
        """Reads annotations; a damaged one is remembered with its image."""
        rows, owners, kinds, pack = self._rows, self._owner_of, self._kind_of, Struct(f"{COLUMNS}d").pack
        for place, note in enumerate(notes):
            owner = None
            try:
                owner = owners.setdefault(note["image_id"], len(owners))
                x, y, width, height = note["bbox"]
                area, crowd = note.get("area"), CROWD[note.get("iscrowd")]
                area = area if type(area) in (int, float) and 0 < area < 1e300 else math.nan
                kind = kinds.setdefault(note["category_id"], len(kinds))
                rows += pack(x, y, width, height, area, owner, kind, crowd)
            except (TypeError, ValueError, KeyError, OverflowError, AttributeError, StructError):
                fault = f"its annotation {place} {_fault(note)}" if owner is not None else _fault(note)
                self.lost.append((place, fault)) if owner is None else self._damaged.setdefault(owner, fault)

    def sort(self, names: Mapping) -> None:
        """Orders the annotations by image; those of a category not in `names`, or not finite, damage their image."""
        rows = np.frombuffer(self._rows, float).reshape(-1, COLUMNS)
        order = np.argsort(rows[:, 5], kind="stable")
        owners, self._sorted = rows[order, 5], rows[order, 6].astype(int)
        self.boxes, self.areas, self.crowd = rows[order, :4], rows[order, 4], rows[order, 7] == 1
        self._ends = np.searchsorted(owners, np.arange(len(self._owner_of) + 1))
        self._categories, self._rows = list(self._kind_of), None
        unknown = np.array([kind not in names for kind in self._categories], bool)[self._sorted]
        for at in np.flatnonzero(unknown).tolist():
            kind = str(self._categories[self._sorted[at]])[:40]
            self._damaged.setdefault(int(owners[at]), f"one of its annotations has the unknown category {kind!r}")
        for at in np.flatnonzero(~np.isfinite(self.boxes).all(1)).tolist():
            self._damaged.setdefault(int(owners[at]), f"one of its boxes is {self.boxes[at].tolist()}")

    def of(self, image: Any) -> tuple[slice, str]:
        """Where the annotations of an image id are, and why they are not whole, "" where they are."""
        number = self._owner_of.get(image)
        if number is None:
            return slice(0, 0), ""
        return slice(*self._ends[number : number + 2].tolist()), self._damaged.get(number, "")

    def kinds_of(self, at: slice) -> list:
        """The category ids of the annotations in `at`."""
        return [self._categories[number] for number in self._sorted[at].tolist()]

    def counts(self) -> Iterator[tuple[Any, int]]:
        """How many annotations each image id has."""
        for image, number in self._owner_of.items():
            yield image, int(self._ends[number + 1] - self._ends[number]) + (number in self._damaged)


def _fault(note: Any) -> str:
    """What is wrong with an annotation that cannot be read."""
    if not isinstance(note, Mapping):
        return f"is {str(note)[:40]!r}, expected named fields"
    for field in ("image_id", "bbox", "category_id"):
        if note.get(field) is None:
            return f"lacks {field}"
    for field in ("image_id", "category_id"):
        if not isinstance(note[field], int | float | str):
            return f"has the {field} {str(note[field])[:40]}"
    crowd = note.get("iscrowd")
    if isinstance(crowd, list | dict) or crowd not in CROWD:
        return f"has the iscrowd {str(crowd)[:40]!r}, expected 0 or 1"
    return f"has the bbox {str(note['bbox'])[:60]}, expected four numbers"


def _names(categories: list, path: Path, skipped: list) -> dict[Any, str]:
    """Category id: its name, in the order of the file."""
    names: dict[Any, str] = {}
    for place, category in enumerate(categories):
        try:
            kind, name = _identity(category), as_question(category.get("name"), "name")
        except ValueError as error:
            skipped.append((f"{path.stem}/category {place}", str(error)))
            continue
        if names.setdefault(kind, name) != name:
            two = f"{names[kind][:40]!r} and {name[:40]!r}"
            raise ValueError(f"The categories {two} of {str(path)!r} both have the id {kind!r}: give each its own.")
    return names


def _images(images: list, stem: str, skipped: list) -> tuple[dict[Any, tuple[str, Any]], set]:
    """Image id: its file and stated size, in the order of the file; and all ids, those of damaged images too."""
    found, known = {}, set()
    often = Counter(str(image.get("id")) for image in images if isinstance(image, Mapping))
    for place, image in enumerate(images):
        try:
            owner = _identity(image)
            known.add(owner)
            if often[str(owner)] > 1:
                raise ValueError(f"it is one of {often[str(owner)]} images with the id {str(owner)[:40]}")
            if not isinstance(image.get("file_name"), str):
                raise ValueError(f"its file_name is {str(image.get('file_name'))[:40]}, expected text")
            found[owner] = (image["file_name"], stated_size(image))
        except ValueError as error:
            skipped.append((f"{stem}/image {place}", str(error)))
    return found, known


def _identity(item: Any) -> int | str:
    if not isinstance(item, Mapping):
        raise ValueError(f"it is {str(item)[:40]!r}, expected named fields")
    if item.get("id") is None or not isinstance(item["id"], int | float | str):
        raise ValueError(f"its id is {str(item.get('id'))[:40]}, expected a number or a name")
    return item["id"]
