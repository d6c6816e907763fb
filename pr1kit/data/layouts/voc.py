"""Pascal VOC folders: an XML file of objects for each picture, as VOC has them and tools like LabelImg write them.

    Annotations/0001.xml          <filename>, <size>, and for each <object> its <name>, <bndbox>, <difficult>
    JPEGImages/0001.jpg           or beside the XML file
    ImageSets/Main/train.txt      a picture's name in each line: the splits

Corners are edges in pixels, as LabelImg writes them; the challenge's own files count pixels from 1, so that left and
top are off by one there. Objects marked difficult are treated as COCO's crowds: no objects, but part of the truth that
AP is measured on. An XML file with an entity of its own is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from pr1kit.data.layouts.coco import class_records
from pr1kit.data.records import CocoNotes, Record, as_question, stated_size
from pr1kit.data.safe_files import read_text

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def is_voc(folder: Path) -> bool:
    """Whether a folder has XML files in its `Annotations`, or in itself."""
    return next(_home(folder).glob("*.xml"), None) is not None


def read_voc(
    folder: Path, task: str, split: str | None, skipped: list[tuple[str, str]]
) -> tuple[Iterator[Record], list[dict]]:
    """A record for each picture (detection), or for each picture and class in it (counting), and the classes.

    A file that cannot be read goes to `skipped`, (id, reason). Raises ValueError for a split that is not there.
    """
    read, classes = [], {}
    for path in _files(folder, split, skipped):
        try:
            read.append((path, *_read(path)))
        except (ValueError, FileNotFoundError) as error:
            skipped.append((path.stem, str(error).rstrip(".")))
    for label in (label for *_, labels, _ in read for label in labels):
        classes.setdefault(label, len(classes) + 1)
    return _records(task, read, classes), [{"id": kind, "name": name} for name, kind in classes.items()]


def _records(task: str, read: list, classes: dict[str, int]) -> Iterator[Record]:
    for path, images, size, boxes, labels, crowd in read:
        about = (path.stem, images, task)
        if task == "counting":
            yield from class_records(about, boxes, labels, crowd, size, "xyxy")
            continue
        kinds = tuple(classes[label] for label in labels)
        notes = CocoNotes(path.stem, boxes, np.full(len(boxes), np.nan), kinds, crowd)
        yield Record(*about, ", ".join(classes), boxes, labels, size=size, coco=notes)


def _home(folder: Path) -> Path:
    return folder / "Annotations" if (folder / "Annotations").is_dir() else folder


def _files(folder: Path, split: str | None, skipped: list) -> list[Path]:
    home = _home(folder)
    if split is None:
        return sorted(home.glob("*.xml"))
    lists = [path for at in ("ImageSets/Main", "ImageSets") for path in sorted((folder / at).glob("*.txt"))]
    listed = next((path for path in lists if path.stem == split), None)
    if listed is None:
        known = ", ".join(path.stem for path in lists) or "none"
        raise ValueError(f"{str(folder)!r} has no split {split!r} in its ImageSets: there are {known}.")
    names = [line.split()[0] for line in read_text(listed).splitlines() if line.strip()]
    skipped += [(name, "its XML file is missing") for name in names if not (home / f"{name}.xml").is_file()]
    return [home / f"{name}.xml" for name in names if (home / f"{name}.xml").is_file()]


def _read(path: Path) -> tuple[list[str], tuple[int, int] | None, np.ndarray, tuple[str, ...], np.ndarray]:
    """Where the picture may be, its stated size, boxes `(N, 4)` xyxy, N labels, and `(N,)` which are difficult."""
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("its XML defines entities, which the kit does not read")
    try:
        tree = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"its XML is malformed ({error})") from None
    boxes, labels, difficult = [], [], []
    for i, each in enumerate(tree.iter("object")):
        labels.append(as_question(each.findtext("name"), f"object {i}'s name").strip())
        boxes.append([_number(each.findtext(f"bndbox/{corner}"), f"object {i}'s {corner}") for corner in CORNERS])
        difficult.append((each.findtext("difficult") or "").strip() == "1")
    size = stated_size({side: tree.findtext(f"size/{side}") for side in ("width", "height")})
    name = (tree.findtext("filename") or "").strip() or path.stem
    images = [f"JPEGImages/{name}", f"JPEGImages/{path.stem}", name]
    return images, size, np.array(boxes, float).reshape(-1, 4), tuple(labels), np.array(difficult, bool)


def _number(text: str | None, what: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        raise ValueError(f"its {what} is {str(text)[:40]!r}, expected a number") from None
