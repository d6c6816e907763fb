"""From records as written to samples with truth in pixels of the image that the model sees.

Images that cannot be read, and annotations that cannot be true, are named, counted and left out; boxes turn with images
that EXIF turns. Images themselves stay where they are until a sample is asked for its own.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pr1kit.data.boxes import area, is_resized, smart_resize, to_pixels
from pr1kit.data.conventions import check, corners
from pr1kit.data.fingerprint import file_fingerprint
from pr1kit.data.images import in_threads, probe, upright_boxes, upright_points, upright_size
from pr1kit.data.records import CocoNotes, Record, as_numbers
from pr1kit.data.sample import Sample, Target, as_rows

ENDINGS = ("", ".jpg", ".png", ".jpeg", ".webp")
NAMED = 3  # how many left-out samples a warning names


class Samples(list):
    """A list of `Sample`s from the file `source`, that knows what it left out: `skipped`, (id, reason) pairs."""

    def __init__(self, samples=(), source: str = "", skipped=(), notes=(), categories=()):
        super().__init__(samples)
        self.source, self.skipped, self._notes, self._categories = source, list(skipped), notes, list(categories)

    @cached_property
    def coco(self) -> dict | None:
        """The COCO truth of these images, crowds included; None where the file has none."""
        images, annotations = [{"id": own.image_id} for own in self._notes], []
        for own in self._notes:
            columns = (own.boxes.tolist(), own.areas.tolist(), own.categories, own.crowd.tolist())
            for box, size, category, crowd in zip(*columns, strict=True):
                note = {"id": len(annotations) + 1, "image_id": own.image_id}  # pycocotools takes the id 0 for no match
                annotations.append({**note, "category_id": category, "bbox": box, "area": size, "iscrowd": int(crowd)})
        return {"images": images, "annotations": annotations, "categories": self._categories} if images else None

    def __str__(self) -> str:
        tasks = ", ".join(sorted({sample.task for sample in self}))
        return ", ".join(filter(None, (f"{self.source}: {len(self)} {tasks} samples", self.left_out())))

    def left_out(self) -> str:
        """What is missing and why, "" where nothing is."""
        if not self.skipped:
            return ""
        named = "; ".join(f"{name}: {reason}" for name, reason in self.skipped[:NAMED])
        more = "; …" if len(self.skipped) > NAMED else ""
        return f"{len(self.skipped)} left out ({named}{more})"


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
    draw: tuple[int, int] | None = None,
) -> Samples:
    """Samples of `records`; images are looked for in `folders`, in their order.

    `frame` and `box_format` overrule what the layout takes for granted. With `verify` every image is decoded once, so
    that a broken one is found now. `categories` are a COCO file's. `draw`, (number, seed), takes so many at random, in
    their order; only those are looked at, and others drawn in place of those left out. Raises ValueError where boxes
    are in another convention (see `conventions`) or nothing is left.
    """
    labels = ", ".join(sorted({label for record in records if not record.question for label in record.labels}))
    wanted, seed = draw if draw and draw[0] < len(records) else (len(records), None)
    rng, left = np.random.default_rng(seed), np.arange(len(records))
    skipped, samples, notes = list(skipped), {}, {}
    seen: dict[Any, tuple] = {}  # image: it, its path found, and how it is stored, or why it cannot be used
    found: dict[int, tuple] = {}
    while len(samples) < wanted and len(left):
        need = wanted - len(samples)
        chosen = (left if seed is None else np.sort(rng.choice(left, min(need, len(left)), replace=False))).tolist()
        left = np.setdiff1d(left, chosen, assume_unique=True)
        new = {_key(records[i].image): records[i].image for i in chosen}
        new = [image for key, image in new.items() if key not in seen]
        looked = in_threads(lambda image: _look(image, folders, verify), new)
        seen.update(zip(map(_key, new), looked, strict=True))
        for i in chosen:
            image, answer = seen[_key(records[i].image)]
            if isinstance(answer, str):
                skipped.append((records[i].id, answer))
            else:
                found[i] = (_reframed(records[i], frame, box_format), image, *answer)
        sizes = [_written(record, size, turn)[0] for record, _, size, turn in found.values()]
        check([record for record, *_ in found.values()], sizes, source, frame, box_format)
        for i in [i for i in chosen if i in found]:
            record, image, size, turn = found[i]
            question = labels if record.task == "detection" and not record.question else record.question
            try:
                target, notes[i] = _target(record, image, size, turn)
                samples[i] = Sample(image, record.task, question, target, record.id)
            except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
                skipped.append((record.id, str(error).rstrip(".")))
    if not samples:
        raise ValueError(_nothing(source, skipped))
    order = sorted(samples)
    own = [notes[i] for i in order if notes[i] is not None]
    result = Samples([samples[i] for i in order], source, skipped, own, categories)
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


def _look(image: Any, folders: Sequence[Path], verify: bool) -> tuple[Any, tuple | str]:
    """The image, its path found, and `(size, orientation)` of it as stored, or why it cannot be used."""
    if image is None:
        return None, "the row names no image"
    if isinstance(image, str | Path | list):
        path = _find(image, folders)
        if path is None:
            name = str(image[0] if isinstance(image, list) else image)
            looked = " or ".join(str(folder) for folder in folders)
            way = ": fetch it and name its file" if "://" in name else ""
            return image, f"its image {name[:100]!r} is not in {looked}{way}"
        image = path
    elif not hasattr(image, "open") and not hasattr(image, "getexif"):
        return image, f"its image is {str(image)[:40]!r}, expected the name of a file"
    try:
        return image, probe(image, verify)
    except (ValueError, FileNotFoundError) as error:
        return image, str(error).rstrip(".")


def _find(image: str | Path | list, folders: Sequence[Path]) -> Path | None:
    """The file of an image by its path within a folder; of a list of names, by the first that is there.

    A path may begin with folders that the given one ends with: `train2014/a.jpg` in `coco/train2014`. A bare name is
    not enough: `train/a.jpg` and `val/a.jpg` are two pictures.
    """
    names = [str(name) for name in image] if isinstance(image, list) else [str(image)]
    for name in names:
        for path in _places(name, folders):
            # os.path says False, where Path.is_file raises, of names that no system takes
            if os.path.isfile(path) and (len(names) < 4 or name != names[-1] or file_fingerprint(path) == names[0]):
                return Path(path)
    return None


def _places(name: str, folders: Sequence[Path]) -> Iterator[str]:
    for folder in folders:
        yield from (f"{folder / name}{ending}" for ending in ENDINGS)
    parts = Path(name).parts
    for folder in folders:
        at = Path(os.path.abspath(folder)).parts
        for i in range(1, len(parts)):
            if at[-i:] == parts[:i]:
                yield from (f"{folder.joinpath(*parts[i:])}{ending}" for ending in ENDINGS)


def _reframed(record: Record, frame: Any, box_format: str | None) -> Record:
    """The record, its places read as the user says."""
    said = {"frame": frame, "box_format": box_format}
    changes = {name: value for name, value in said.items() if value is not None}
    if frame == "pixel" and record.pixel_boxes is not None:
        changes["boxes"] = record.pixel_boxes
    return replace(record, **changes) if changes else record


def _written(record: Record, stored: tuple[int, int], turn: int) -> tuple[tuple[int, int], bool]:
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


def _target(record: Record, image: Any, stored: tuple[int, int], turn: int) -> tuple[Target, CocoNotes | None]:
    """The truth in pixels of the upright image, and a COCO file's annotations in the same."""
    upright, (size, unturned) = upright_size(stored, turn), _written(record, stored, turn)
    off = abs(size[0] * upright[1] / (size[1] * upright[0]) - 1)
    if not unturned and off > 0.02 and not is_resized(size, upright):
        raise ValueError(f"the file says {size[0]}x{size[1]} pixels, {image} has {upright[0]}x{upright[1]}")
    frame = smart_resize(upright) if record.frame == "resized" else record.frame
    boxes = to_pixels(corners(record.boxes, record.box_format), frame, size)
    points = to_pixels(as_rows(as_numbers(record.points), 2, "points"), frame, size)
    if unturned:
        boxes, points = upright_boxes(boxes, turn, stored), upright_points(points, turn, stored)
    elif size != upright:
        boxes, points = to_pixels(boxes, size, upright), to_pixels(points, size, upright)
    labels = (record.question,) * len(boxes) if record.task == "grounding" else record.labels
    coco, own = record.coco, boxes
    if coco is not None and coco.crowd.any():
        own, labels = boxes[~coco.crowd], tuple(np.array(labels, object)[~coco.crowd])
    target = Target(own, labels, points, record.text, upright, record.count)
    if record.task == "grounding" and (boxes[:, 2:] <= boxes[:, :2]).any():
        raise ValueError(f"its box {boxes[0].tolist()} has no area")
    return target, None if coco is None else _moved(record, boxes, size, upright)


def _moved(record: Record, boxes: np.ndarray, size: tuple[int, int], upright: tuple[int, int]) -> CocoNotes:
    """A COCO file's annotations in pixels of the upright image, an area that the file does not give that of the box."""
    coco, areas = record.coco, area(boxes)
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    if record.frame == "pixel" and record.box_format == "xywh":
        given = coco.areas * (upright[0] * upright[1] / (size[0] * size[1]))
        areas = np.where(np.isnan(given), areas, given)
        sides = coco.boxes if size == upright else sides  # to the last bit as the file has them
    return replace(coco, boxes=sides, areas=areas)
