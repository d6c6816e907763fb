"""Where samples come from: the seeded synthetic world (`scenes`), and files of people's data through one front door.

    load_dataset("refcoco_val.json", images="coco/")        the official Perception-R1 files, RefCOCO-style REC
    load_dataset("pixmo_count_test540….jsonl", images=…)    PixMo-Count, parquet and csv too
    load_dataset("en_page_ocr.json", images=…)              PageOCR
    load_dataset("instances_val2017.json", images=…)        COCO, or a folder of images with a COCO file in it
    load_dataset("VOC2012/", split="train")                 a Pascal VOC folder: Annotations/*.xml, JPEGImages/
    load_dataset("owner/name", split="train")               a hub dataset, or a saved one, with an image column
    load_dataset("scenes", task="counting", limit=300)      the synthetic world; of a video task its clips
    load_dataset("MOT17/train", task="tracking")            tracks of videos, see `load_videos`

A layout is known by the names of a row's fields (see `LAYOUTS`); each is told in the file of its task.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pr1kit.data.assemble import Samples, assemble
from pr1kit.data.boxes import parse_frame
from pr1kit.data.clips import make_clips
from pr1kit.data.crops import crop_samples
from pr1kit.data.layouts import coco, pageocr, pixmo, refcoco, voc
from pr1kit.data.load_videos import load_videos
from pr1kit.data.rows import read_rows
from pr1kit.data.sample import TASKS, VIDEO_TASKS
from pr1kit.data.scenes import make_scenes

# Layout: (whether a row is of it, how such a row is read); the first that knows a row reads the file.
LAYOUTS: dict[str, tuple[Callable, Callable]] = {
    "grounding": (refcoco.is_official, refcoco.read_official),
    "rec": (refcoco.is_rec, refcoco.read_rec),
    "counting": (pixmo.is_counting, pixmo.read_counting),
    "clicks": (pixmo.is_clicks, pixmo.read_clicks),
    "pixmo": (pixmo.is_pixmo, pixmo.read_pixmo),
    "ocr": (pageocr.is_ocr, pageocr.read_ocr),
    "objects": (coco.is_objects, coco.read_objects),
    "text": (pageocr.is_text, pageocr.read_text),
}

# What a reader raises where a row is not what it should be.
BAD = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)
TRIED = 100  # rows of no layout, after which a file is of none


def load_dataset(
    path: Any,
    task: str | None = None,
    layout: str = "auto",
    split: str | None = None,
    limit: int | None = None,
    frame: Any = None,
    *,
    images: str | Path | None = None,
    box_format: str | None = None,
    verify: bool = True,
    seed: int = 0,
    shuffle_seed: int | None = None,
    crops: int | tuple[int, int] | None = None,
    frames: int = 8,
    fps: float | None = 2.0,
) -> Samples:
    """The samples of a file, folder, hub id, table or `"scenes"`: a list of `Sample`, truth in pixels, images lazy.

    `path` also takes a `datasets.Dataset` or a list of dicts. `task` is the layout's own unless a COCO file or a VOC
    folder is to be counted (`"counting"`: one sample for each class in each image); for scenes it must be given.
    `layout` is one of `LAYOUTS`, `"coco"`, `"voc"`, or `"auto"`. `split` names a dataset's, a folder's, or the scenes'
    split; `limit` reads the first so many, or with `shuffle_seed` a random part of so many, in the order of the file,
    others in place of those that cannot be read; no image outside that part is opened. `seed` is that of the scenes.
    `images` is the folder of the pictures, by default that of the file. `frame` and `box_format` (`"xyxy"`, `"xywh"`)
    say how boxes are written, where a layout leaves that open: `"norm1000"` for normalised to 0–1000, `"pixel"`, or
    pixels of another size `(width, height)` or `"WxH"`, `(1, 1)` for fractions. `crops` cuts the pictures into tiles of
    so many pixels, each with the truth inside it: for random ones, and what is kept, see `crop_samples`. `frames` and
    `fps` are those of a video's clips.

    Boxes follow the image: EXIF turns it upright and its boxes with it, an image stored in another size than its file
    states scales them. Images that are missing or broken (`verify` decodes each once) and annotations that cannot be
    true are left out, with a warning that counts and names them, and in `.skipped`. Raises FileNotFoundError or
    ValueError, one sentence: no such file, an unknown layout, boxes in another convention, nothing left.

    >>> len(load_dataset("scenes", task="counting", limit=3, split="test"))
    3
    """
    if box_format not in (None, "xyxy", "xywh"):
        raise ValueError(f'Unknown box_format {box_format!r}: choose "xyxy" or "xywh".')
    if layout not in ("auto", "coco", "voc", *LAYOUTS):
        raise ValueError(f"Unknown layout {layout!r}: choose auto, coco, voc, {', '.join(LAYOUTS)}.")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit is how many samples to read, at least 1, got {limit!r}.")
    if isinstance(path, str) and path == "scenes":
        if task is None:
            raise ValueError(f"The scenes need a task: say task=, one of {', '.join(TASKS)}.")
        if task in VIDEO_TASKS:
            clips = make_clips(task, 100 if limit is None else limit, seed, split or "train", frames=frames)
            return Samples(clips, "scenes")
        scenes = make_scenes(task, 100 if limit is None else limit, seed, split=split or "train")
        return _cropped(Samples(scenes, "scenes"), crops)
    if task in VIDEO_TASKS:
        if not isinstance(path, str | Path):
            raise ValueError(f"Videos are read from files and folders, got {type(path).__name__}.")
        many = {"limit": limit, "shuffle_seed": shuffle_seed}
        return load_videos(path, task, frames=frames, fps=fps, images=images, **many)
    source, skipped = str(path) if isinstance(path, str | Path) else type(path).__name__, []
    first, folder = limit if shuffle_seed is None else None, _voc_folder(path, split, layout)
    file = None if folder else _file(path, split)
    if folder:
        found = voc.read_voc(folder, "counting" if task == "counting" else "detection", split, skipped)
        frame, box_format = frame or "pixel", box_format or "xyxy"  # VOC names its corners
    else:
        found = _coco(file, task, skipped) if layout in ("auto", "coco") else None
    if found is None and layout == "coco":
        raise ValueError(f"{source} is no COCO instances file: it lacks images, annotations or categories.")
    if found is not None and task not in (None, "detection", "counting"):
        raise ValueError(
            f"The {'VOC folder' if folder else 'COCO file'} {source} gives detection or counting samples, not {task}."
        )
    records, categories = found or (_records(file or path, source, layout, split, first, skipped), ())
    records = list(islice(records, first))
    if task is not None and any(record.task != task for record in records):
        raise ValueError(f"{source} holds {records[0].task} samples, not {task}.")
    home = folder or (file.parent if file is not None else Path())
    samples = assemble(
        records,
        source,
        folders=[Path(images).expanduser()] if images is not None else [home, home / "images"],
        frame=parse_frame(frame) if isinstance(frame, str) else frame,
        box_format=box_format,
        verify=verify,
        skipped=skipped,
        categories=categories,
        draw=None if limit is None or shuffle_seed is None else (limit, shuffle_seed),
    )
    return _cropped(samples, crops)


def _cropped(samples: Samples, crops: int | tuple[int, int] | None) -> Samples:
    return samples if crops is None else crop_samples(samples, crops, how="tiled")


def _voc_folder(path: Any, split: str | None, layout: str) -> Path | None:
    """The folder at `path` where it is read as VOC: asked for, or without a COCO file. Raises ValueError."""
    folder = Path(path).expanduser() if isinstance(path, str | Path) else None
    if folder is None or layout not in ("auto", "voc") or not os.path.isdir(folder):
        if layout == "voc":
            raise ValueError(f"{path} is no folder, as the layout voc is.")
        return None
    if layout == "auto" and coco.find_coco_file(folder, split):
        return None
    if not voc.is_voc(folder) and layout == "voc":
        raise ValueError(f"{path} is no VOC folder: neither it nor its Annotations holds an XML file.")
    return folder if voc.is_voc(folder) else None


def _file(path: Any, split: str | None) -> Path | None:
    """The annotation file at `path`, or the COCO file in the folder `path`; None for what is no file."""
    if not isinstance(path, str | Path):
        return None
    path = Path(path).expanduser()
    if os.path.isdir(path):  # os.path: False, not an error, for names that no system takes
        return coco.find_coco_file(path, split)
    return path if os.path.isfile(path) else None


def _coco(file: Path | None, task: str | None, skipped: list) -> tuple[Iterator, list[dict]] | None:
    """The records and the categories of a COCO instances file, None for any other."""
    if file is None or file.suffix != ".json" or file.stat().st_size == 0:
        return None
    with file.open("rb") as start:
        if start.read(200).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{":
            return None
    return coco.read_coco(file, "counting" if task == "counting" else "detection", skipped)


def _records(path, source: str, layout: str, split: str | None, limit: int | None, skipped: list) -> Iterator:
    """The records of a row file; rows that cannot be read go to `skipped`. The first row that is known says how."""
    name = Path(source).stem if isinstance(path, str | Path) else "row"
    reader, unknown = None, []
    for index, row in enumerate(read_rows(path, split, limit)):
        try:
            if not isinstance(row, dict):
                raise ValueError(row)
            reader = reader or _reader(row, layout)
            if reader is None:
                unknown.append(row)
                raise ValueError(f"its fields {_fields(row)} are of no layout that the kit knows")
            yield from reader(row, f"{name}/{index}")
        except BAD as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            skipped.append((f"{name}/{index}", reason))
        if reader is None and len(unknown) == TRIED:
            break
    if reader is None and unknown:
        fields = _fields(unknown[0])
        raise ValueError(f"{source} is in no layout that the kit knows, its rows have {fields}: name one with layout=.")


def _reader(row: Mapping, layout: str) -> Callable | None:
    if layout in LAYOUTS:
        return LAYOUTS[layout][1]
    return next((read for knows, read in LAYOUTS.values() if knows(row)), None)


def _fields(row: Mapping) -> str:
    return json.dumps(sorted(str(name)[:40] for name in row)[:20])
