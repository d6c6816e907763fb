"""Tracks as people keep them: MOT challenge sequences, and COCO-style video JSON (YouTube-VIS).

mot   a folder with `seqinfo.ini`, `img1/` and `gt/gt.txt`, or one that holds such folders; rows are frame, id, left,
      top, width, height, consider, class, visibility, frames and pixels counted from 1. Without a truth its
      `det/det.txt` is taken, detections with a confidence, and made into tracks (see `make_tracks`)
vis   {"videos": [{"id", "file_names", "width", "height"}], "annotations": [{"video_id", "category_id", "bboxes"}],
      "categories"}; `bboxes` has x, y, width, height, or null, for each frame
"""

from __future__ import annotations

import configparser
import csv
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pr1kit.data.make_tracks import make_tracks
from pr1kit.data.safe_files import read_json, read_text

MOT_CLASSES = {1: "person", 2: "person on vehicle", 3: "car", 4: "bicycle", 5: "motorbike", 6: "vehicle", 7: "person"}
IGNORED = range(8, 14)  # distractors, occluders, reflections and crowds of MOT16 to MOT20
MOST_ROWS = 5_000_000


@dataclass(frozen=True, eq=False)
class TrackedVideo:
    """A video as its file has it: the paths of its T `files`, frames a second, `size`, and its objects' boxes.

    `objects` are (label, id, boxes (T, 4) xyxy, NaN where there is none).
    """

    name: str
    files: tuple[str, ...]
    fps: float
    size: tuple[int, int]
    objects: tuple[tuple[str, str, np.ndarray], ...]


def find_sequences(folder: Path) -> list[Path]:
    """The MOT sequences in `folder`, itself included, by their `seqinfo.ini`."""
    found = [folder] if (folder / "seqinfo.ini").is_file() else []
    return found + sorted(path.parent for path in folder.glob("*/seqinfo.ini"))


def read_mot(folder: Path) -> TrackedVideo:
    """One MOT challenge sequence. Raises FileNotFoundError or ValueError that names the file.

    Rows that say not to consider them, and classes that are no objects to follow, are left out; boxes are cut at the
    edges of the picture.
    """
    info = configparser.ConfigParser(interpolation=None)
    try:
        info.read_string(read_text(folder / "seqinfo.ini"))
        about = info["Sequence"]
        count, fps = about.getint("seqLength", 0), about.getfloat("frameRate", 0.0)
        size = about.getint("imWidth", 0), about.getint("imHeight", 0)
        pictures, ending = about.get("imDir", "img1"), about.get("imExt", ".jpg")
    except (configparser.Error, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{str(folder / 'seqinfo.ini')!r} is no sequence of the MOT challenge: {reason}.") from None
    if count < 1 or not 0 < fps < math.inf or min(size) < 1 or count > 1_000_000:
        raise ValueError(
            f"{str(folder / 'seqinfo.ini')!r} must say seqLength, frameRate, imWidth and imHeight above 0, got "
            f"{count}, {fps:g}, {size[0]} and {size[1]}."
        )
    files = tuple(str(folder / pictures / f"{i:06d}{ending}") for i in range(1, count + 1))
    if not (folder / "gt" / "gt.txt").is_file() and (folder / "det" / "det.txt").is_file():
        return TrackedVideo(folder.name, files, fps, size, _tracked(folder / "det" / "det.txt", count, size, fps))
    rows = _mot_rows(folder / "gt" / "gt.txt")
    objects: dict[tuple[str, str], np.ndarray] = {}
    for number, (frame, owner, x, y, width, height, consider, kind) in enumerate(rows, 1):
        if not consider or kind in IGNORED:
            continue
        if not 1 <= frame <= count:
            raise ValueError(f"Row {number} of {str(folder / 'gt' / 'gt.txt')!r} is of frame {frame:g} of {count}.")
        label = MOT_CLASSES.get(max(1, int(kind)), f"object of class {int(kind)}")  # MOT15 has people alone, written -1
        boxes = objects.setdefault((label, str(int(owner))), np.full((count, 4), np.nan))
        boxes[int(frame) - 1] = _cut([x - 1, y - 1, x - 1 + width, y - 1 + height], size)
    return TrackedVideo(folder.name, files, fps, size, tuple((*key, boxes) for key, boxes in objects.items()))


def _tracked(path: Path, count: int, size: tuple[int, int], fps: float) -> tuple[tuple[str, str, np.ndarray], ...]:
    """Objects from a file of detections, whose rows have a confidence in place of a flag, followed by `make_tracks`."""
    boxes: list[list] = [[] for _ in range(count)]
    sure: list[list] = [[] for _ in range(count)]
    for number, (frame, _, x, y, width, height, score, _) in enumerate(_mot_rows(path), 1):
        if not 1 <= frame <= count:
            raise ValueError(f"Row {number} of {str(path)!r} is of frame {frame:g} of {count}.")
        box = _cut([x - 1, y - 1, x - 1 + width, y - 1 + height], size)
        if not math.isnan(box[0]):
            boxes[int(frame) - 1].append(box)
            sure[int(frame) - 1].append(score)
    likely = all(0 <= score <= 1 for each in sure for score in each)  # some detectors write scores without bounds
    tracks = make_tracks(boxes, scores=sure if likely else (), fps=fps)
    return tuple(("object", track.id, track.boxes) for track in tracks)


def _mot_rows(path: Path) -> Iterator[tuple[float, ...]]:
    for number, row in enumerate(csv.reader(read_text(path, 2**29).splitlines()), 1):
        if not row:
            continue
        try:
            values = [float(value) for value in row[:8]]
        except ValueError:
            values = []
        if len(values) < 6 or not all(map(math.isfinite, values)) or number > MOST_ROWS:
            raise ValueError(
                f"Row {number} of {str(path)!r} is {','.join(row)[:60]!r}, expected frame, id, left, top, width and "
                "height."
            )
        yield (*values[:6], values[6] if len(values) > 6 else 1.0, values[7] if len(values) > 7 else 1.0)


def _cut(box: list[float], size: tuple[int, int]) -> list[float]:
    """A box cut at the edges of the picture; NaN where nothing of it is inside."""
    (x1, y1, x2, y2), (width, height) = box, size
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
    return [x1, y1, x2, y2] if x1 < x2 and y1 < y2 else [math.nan] * 4


def is_vis(value: Any) -> bool:
    """Whether a JSON value is a COCO-style file of videos."""
    return isinstance(value, dict) and all(isinstance(value.get(k), list) for k in ("videos", "annotations"))


def read_vis(path: Path, fps: float, skipped: list[tuple[str, str]]) -> list[TrackedVideo]:
    """The videos of a COCO-style file, at `fps` frames a second, which such files do not say.

    A damaged track goes to `skipped`. Raises ValueError where the file is none, or a video is damaged.
    """
    value = read_json(path)
    if not is_vis(value):
        raise ValueError(f"{str(path)!r} is no COCO-style file of videos: it lacks the lists videos and annotations.")
    names = {each.get("id"): str(each.get("name")) for each in value.get("categories") or () if isinstance(each, dict)}
    videos: dict[Any, tuple[list, tuple[int, int], list]] = {}
    for number, video in enumerate(value["videos"]):
        try:
            files, size = [str(name) for name in video["file_names"]], (int(video["width"]), int(video["height"]))
            if not files or min(size) < 1:
                raise ValueError
            videos[video["id"]] = (files, size, [])
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"Video {number} of {str(path)!r} needs id, file_names, width and height, got {str(video)[:80]}."
            ) from None
    for number, note in enumerate(value["annotations"]):
        name = f"{path.stem}/annotation {number}"
        try:
            files, size, objects = videos[note["video_id"]]
            if len(note["bboxes"]) != len(files):
                raise ValueError(f"it has {len(note['bboxes'])} boxes for {len(files)} frames")
            boxes = [
                [math.nan] * 4 if not box else _cut([box[0], box[1], box[0] + box[2], box[1] + box[3]], size)
                for box in note["bboxes"]
            ]
            label = names.get(note.get("category_id"), "object")
            objects.append((label, str(note.get("id", number)), np.array(boxes, float).reshape(-1, 4)))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            skipped.append((name, reason))
    return [
        TrackedVideo(f"{path.stem}/{name}", tuple(files), fps, size, tuple(objects))
        for name, (files, size, objects) in videos.items()
    ]


def find_file(name: str, folders: list[Path]) -> str | None:
    """Where a frame lies: as it is named, or below one of `folders`."""
    return next((str(at / name) for at in [Path(), *folders] if os.path.isfile(at / name)), None)
