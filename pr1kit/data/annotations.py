"""What is true of a picture, as a person writes it down: JSON with the keys of `Target`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pr1kit.data.images import image_size
from pr1kit.data.records import as_text
from pr1kit.data.safe_files import parse_json, read_text
from pr1kit.data.sample import Sample, Target


def read_annotations(written: str) -> Target:
    """A truth from JSON text, an object with keys of `Target`. Raises ValueError, one sentence.

    >>> read_annotations('{"boxes": [[1, 2, 3, 4]]}').boxes.tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """
    return Target.of(_object(parse_json(written, "The annotations are")))


def load_sample(image: str | Path, annotations: str | Path) -> Sample:
    """A picture and a JSON file with what is true of it, in pixels: `boxes` and `labels`, `points`, or `text`.

    The file may also name the `task` and the `question`; without a task, a text is read as OCR, labels as detection,
    one box as grounding, all else as counting. Raises FileNotFoundError or ValueError, one sentence naming the file.
    """
    image, path = Path(image), Path(annotations)
    if not image.is_file():
        raise FileNotFoundError(f"{str(image)!r} does not exist or is no file.")
    value = parse_json(read_text(path), f"{str(path)!r}: The annotations are")
    size = image_size(image)
    try:
        target = replace(Target.of(_object(value)), image_size=size)
        guess = "detection" if target.labels else "grounding" if len(target.boxes) == 1 else "counting"
        task, question = value.get("task") or ("ocr" if target.text else guess), value.get("question") or ""
        return Sample(image, as_text(task, "task"), as_text(question, "question"), target, id=image.name)
    except ValueError as problem:
        raise ValueError(f"{str(path)!r}: {str(problem).rstrip('.')}.") from None


def _object(value: Any) -> dict:
    if not isinstance(value, dict):
        raise ValueError('The annotations must be an object like {"boxes": [[x1, y1, x2, y2]], "labels": ["cat"]}.')
    if not {"boxes", "points", "text", "tracks", "spans"} & value.keys():
        names = ", ".join(repr(name[:40]) for name in list(value)[:20]) or "nothing"
        raise ValueError(f"The annotations need boxes, points or text (of a video tracks or spans), got {names}.")
    return value
