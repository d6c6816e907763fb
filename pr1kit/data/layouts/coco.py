"""Detection files: COCO instances, and detection datasets as the hub has them.

coco     {"images", "annotations", "categories"}: every category of the file is asked for in every image; crowd
         regions are no objects, but stay in the truth that COCO AP is measured on
objects  {"image", "objects": {"bbox": [...], "category": [...]}}, rows of a table
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from pr1kit.data.records import Record, as_numbers, first_of, image_of, stated_size


def is_coco(content: object) -> bool:
    """Whether a JSON file's content is a COCO instances file."""
    return isinstance(content, Mapping) and {"images", "annotations", "categories"} <= content.keys()


def is_objects(row: Mapping) -> bool:
    """Whether a row is an image with its objects."""
    return isinstance(row.get("objects"), Mapping) and "bbox" in row["objects"]


def read_coco(content: Mapping, name: str, task: str = "detection") -> Iterator[Record]:
    """A record for each image (detection), or for each image and category in it (counting).

    Images without annotations are asked about too: saying nothing is right there. A class with a crowd region cannot
    be counted and is left out. Raises ValueError where an annotation names no category of the file.
    """
    names = {category["id"]: category["name"] for category in content["categories"]}
    notes = defaultdict(list)
    for note in content["annotations"]:
        if note["category_id"] not in names:
            raise ValueError(
                f"Annotation {note.get('id')} of {name!r} has the unknown category {note['category_id']!r}."
            )
        notes[note["image_id"]].append(note)
    everything = ", ".join(names.values())
    for image in content["images"]:
        own, about = notes[image["id"]], (f"{name}/{image['id']}", image["file_name"], task)
        size = stated_size(image)
        if task == "detection":
            yield Record(*about, everything, **_objects(own, names), size=size, coco_id=image["id"])
            continue
        for category in dict.fromkeys(note["category_id"] for note in own):
            kind = [note for note in own if note["category_id"] == category]
            if not any(note.get("iscrowd") for note in kind):
                asked = (f"{about[0]}/{names[category]}", *about[1:], names[category])
                yield Record(*asked, **_objects(kind, names), size=size)


def read_objects(row: Mapping, name: str) -> Iterator[Record]:
    """One detection record that asks for every class met in the file (filled in when all are known)."""
    objects = row["objects"]
    labels = first_of(objects, ("category", "categories", "label", "labels", "name"))
    if labels is None:
        raise ValueError("the objects have no category")
    labels = tuple(str(label) for label in labels)
    yield Record(
        name,
        image_of(row),
        "detection",
        boxes=[list(as_numbers(box)) for box in objects["bbox"]],
        labels=labels,
        size=stated_size(row),
    )


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


def _objects(notes: list[dict], names: Mapping) -> dict:
    return {
        "boxes": [note["bbox"] for note in notes],
        "labels": tuple(names[note["category_id"]] for note in notes),
        "notes": tuple(notes),
        "box_format": "xywh",
    }
