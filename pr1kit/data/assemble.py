"""From records as written to samples with truth in pixels of the image that the model sees.

Images that cannot be read, and annotations that cannot be true, are named, counted and left out; boxes turn with images
that EXIF turns. Images themselves stay where they are until a sample is asked for its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from pr1kit.data.boxes import is_resized, smart_resize, to_pixels
from pr1kit.data.conventions import check, corners
from pr1kit.data.images import probe, upright_boxes, upright_points, upright_size
from pr1kit.data.records import Record, as_numbers
from pr1kit.data.sample import Sample, Target, as_rows

ENDINGS = ("", ".jpg", ".png", ".jpeg", ".webp")
NAMED = 3  # how many left-out samples a warning names


class Samples(list):
    """A list of `Sample`s from the file `source`, that knows what it left out: `skipped`, (id, reason) pairs.

    `coco` is the COCO truth of these images, crowds included, where the file has one.
    """

    def __init__(self, samples=(), source: str = "", skipped=(), coco: dict | None = None):
        super().__init__(samples)
        self.source, self.skipped, self.coco = source, list(skipped), coco

    def __str__(self) -> str:
        tasks = ", ".join(sorted({sample.task for sample in self}))
        return f"{self.source}: {len(self)} {tasks} samples{self.left_out()}"

    def left_out(self) -> str:
        """What is missing and why, "" where nothing is."""
        if not self.skipped:
            return ""
        named = "; ".join(f"{name}: {reason}" for name, reason in self.skipped[:NAMED])
        more = "; …" if len(self.skipped) > NAMED else ""
        return f", {len(self.skipped)} left out ({named}{more})"


def assemble(
    records: Sequence[Record],
    source: str,
    *,
    folders: Sequence[Path],
    frame: Any = None,
    box_format: str | None = None,
    verify: bool = True,
    skipped: Sequence[tuple[str, str]] = (),
    categories: Sequence[dict] = (),
) -> Samples:
    """Samples of `records`; images are looked for in `folders`, in their order.

    `frame` and `box_format` overrule what the layout takes for granted. With `verify` every image is decoded once, so
    that a broken one is found now. `categories` are a COCO file's. Raises ValueError where boxes are in another
    convention (see `conventions`) or nothing is left.
    """
    skipped, found = list(skipped), []
    with ThreadPoolExecutor(8) as pool:  # decoding leaves the interpreter lock
        seen = dict(pool.map(lambda image: (_key(image), _look(image, folders, verify)), _distinct(records)))
    for record in records:
        image, answer = seen[_key(record.image)]
        if isinstance(answer, str):
            skipped.append((record.id, answer))
        else:
            found.append((_reframed(record, frame, box_format), image, *answer))
    if not found:
        raise ValueError(_nothing(source, skipped))
    check([record for record, *_ in found], [_written(*one)[0] for one in found], source, frame, box_format)
    samples, coco = [], {"images": [], "annotations": [], "categories": list(categories)}
    labels = ", ".join(sorted({label for record in records for label in record.labels}))
    for record, image, size, turn in found:
        if record.task == "detection" and not record.question:
            record = replace(record, question=labels)
        try:
            target, notes = _target(record, image, size, turn)
            samples.append(Sample(image, record.task, record.question, target, record.id))
        except (ValueError, TypeError, KeyError, IndexError) as error:
            skipped.append((record.id, str(error).rstrip(".")))
            continue
        if record.coco_id is not None:
            coco["images"].append({"id": record.coco_id})
            start = len(coco["annotations"]) + 1  # pycocotools takes the id 0 for no match
            coco["annotations"] += [note | {"id": i} for i, note in enumerate(notes, start)]
    if not samples:
        raise ValueError(_nothing(source, skipped))
    result = Samples(samples, source, skipped, coco if coco["images"] else None)
    if skipped:
        warnings.warn(str(result), stacklevel=3)
    return result


def _nothing(source: str, skipped: Sequence[tuple[str, str]]) -> str:
    if not skipped:
        return f"{source} holds no rows."
    name, reason = skipped[0]
    return f"{source} gives no sample: all {len(skipped)} were left out, the first ({name}) as {reason}."


def _key(image: Any) -> Any:
    """What tells two images apart."""
    if isinstance(image, list):
        return tuple(image)
    return str(image) if isinstance(image, str | Path) else id(image)


def _distinct(records: Sequence[Record]) -> list:
    return list({_key(record.image): record.image for record in records}.values())


def _look(image: Any, folders: Sequence[Path], verify: bool) -> tuple[Any, tuple | str]:
    """The image, its path found, and `(size, orientation)` of it as stored, or why it cannot be used."""
    if image is None:
        return None, "the row names no image"
    if isinstance(image, str | Path | list):
        names = image if isinstance(image, list) else [str(image)]
        path = next((path for name in names for path in _places(name, folders) if path.is_file()), None)
        if path is None:
            looked = " or ".join(str(folder) for folder in folders)
            return image, f"its image {names[0]!r} is not in {looked}"
        image = path
    try:
        return image, probe(image, verify)
    except (ValueError, FileNotFoundError) as error:
        return image, str(error)


def _places(name: str, folders: Sequence[Path]):
    """Where an image may lie: at its path, at its path within each folder, under its bare name in each folder."""
    for within in dict.fromkeys((name, Path(name).name)):
        for folder in folders:
            for ending in ENDINGS:
                yield folder / f"{within}{ending}"


def _reframed(record: Record, frame: Any, box_format: str | None) -> Record:
    """The record, its places read as the user says."""
    if frame == "pixel" and record.pixel_boxes is not None:
        record = replace(record, boxes=record.pixel_boxes)
    changes = {} if frame is None else {"frame": frame}
    if box_format is not None:
        changes["box_format"] = box_format
    return replace(record, **changes)


def _written(record: Record, image: Any, stored: tuple[int, int], turn: int) -> tuple[tuple[int, int], bool]:
    """The `(width, height)` of the image that was annotated, and whether that was the stored one, not yet turned.

    A file that states the size of the stored image means that one. Where size cannot tell (none stated, a half turn),
    the upright image is meant: the one that viewers and annotation tools show.
    """
    upright = upright_size(stored, turn)
    if record.size is None or tuple(record.size) == upright:
        return upright, False
    if tuple(record.size) == tuple(stored):
        return stored, True
    return tuple(record.size), False


def _target(record: Record, image: Any, stored: tuple[int, int], turn: int) -> tuple[Target, list[dict]]:
    """The truth in pixels of the upright image, and a COCO file's annotations in the same."""
    upright, (size, unturned) = upright_size(stored, turn), _written(record, image, stored, turn)
    off = abs(size[0] * upright[1] / (size[1] * upright[0]) - 1)
    if not unturned and off > 0.02 and not is_resized(size, upright):
        raise ValueError(f"the file says {size[0]}x{size[1]} pixels, {image} has {upright[0]}x{upright[1]}")
    scale = upright[0] * upright[1] / (size[0] * size[1])
    frame = smart_resize(upright) if record.frame == "resized" else record.frame
    boxes = to_pixels(corners(record.boxes, record.box_format), frame, size)
    points = to_pixels(as_rows(as_numbers(record.points), 2, "points"), frame, size)
    if unturned:
        boxes, points = upright_boxes(boxes, turn, stored), upright_points(points, turn, stored)
    elif size != upright:
        boxes, points = to_pixels(boxes, size, upright), to_pixels(points, size, upright)
    notes = []
    as_coco = record.frame == "pixel" and record.box_format == "xywh"
    for note, (x1, y1, x2, y2) in zip(record.notes, boxes.tolist(), strict=bool(record.notes)):
        area = note["area"] * scale if as_coco and note.get("area") else (x2 - x1) * (y2 - y1)
        moved = {} if as_coco and size == upright else {"bbox": [x1, y1, x2 - x1, y2 - y1]}
        notes.append({**note, **moved, "area": area, "iscrowd": note.get("iscrowd", 0)})
    keep = [i for i in range(len(boxes)) if not (notes and notes[i]["iscrowd"])]
    labels = tuple(record.labels[i] for i in keep) if record.labels else ()
    if record.task == "grounding":
        labels = (record.question,) * len(keep)
    target = Target(boxes[keep], labels, points, record.text, upright, record.count)
    if record.task == "grounding" and (boxes[:, 2:] <= boxes[:, :2]).any():
        raise ValueError(f"its box {boxes[0].tolist()} has no area")
    return target, notes
