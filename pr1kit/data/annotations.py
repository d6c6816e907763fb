"""What is true of a picture or a video, as a person writes it down: JSON with the keys of `Target`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pr1kit.data.images import image_size
from pr1kit.data.records import as_text
from pr1kit.data.safe_files import parse_json, read_text
from pr1kit.data.sample import Sample, Target
from pr1kit.data.video import read_video


def read_annotations(written: str) -> Target:
    """A truth from JSON text, an object with keys of `Target`. Raises ValueError, one sentence.

    >>> read_annotations('{"boxes": [[1, 2, 3, 4]]}').boxes.tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """
    return Target.of(_object(parse_json(written, "The annotations are")))


def load_sample(image: str | Path, annotations: str | Path) -> Sample:
    """A picture and a JSON file with what is true of it, in pixels: `boxes` and `labels`, `points`, or `text`; or a
    video (see `read_video`) and its `tracks`, which say how many frames of it, evenly spaced, are meant.

    The file may also name the `task` and the `question`; without a task, tracks are read as tracking, a text as OCR,
    labels as detection, one box as grounding, all else as counting. Raises FileNotFoundError or ValueError, one
    sentence naming the file.
    """
    image, path = Path(image), Path(annotations)
    if not image.exists():
        raise FileNotFoundError(f"{str(image)!r} does not exist.")
    value = parse_json(read_text(path), f"{str(path)!r}: The annotations are")
    with _named(path):
        target = Target.of(_object(value))
    frames, times = read_video(image, len(target.tracks[0])) if target.tracks else ((image,), ())
    size = image_size(frames[0])
    with _named(path):
        asked = as_text(value.get("task") or _guess(target), "task"), as_text(value.get("question") or "", "question")
        video = {"frames": frames, "times": times} if times else {}
        return Sample(frames[0], *asked, replace(target, image_size=size), image.name, **video)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as problem:
        raise ValueError(f"{str(path)!r}: {str(problem).rstrip('.')}.") from None


def _guess(target: Target) -> str:
    if target.tracks or target.text:
        return "tracking" if target.tracks else "ocr"
    return "detection" if target.labels else "grounding" if len(target.boxes) == 1 else "counting"


def _object(value: Any) -> dict:
    if not isinstance(value, dict):
        raise ValueError('The annotations must be an object like {"boxes": [[x1, y1, x2, y2]], "labels": ["cat"]}.')
    if not {"boxes", "points", "text", "tracks", "spans"} & value.keys():
        names = ", ".join(repr(name[:40]) for name in list(value)[:20]) or "nothing"
        raise ValueError(f"The annotations need boxes, points or text (of a video: tracks or spans), got {names}.")
    return value
