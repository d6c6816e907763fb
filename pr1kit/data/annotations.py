"""What is true of a picture, as a person writes it down: JSON with the keys of `Target`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pr1kit.data.sample import Sample, Target


def read_annotations(written: str) -> Target:
    """A truth from JSON text, an object with keys of `Target`. Raises ValueError, one sentence.

    >>> read_annotations('{"boxes": [[1, 2, 3, 4]]}').boxes.tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """
    return Target.of(_object(written))


def load_sample(image: str | Path, annotations: str | Path) -> Sample:
    """A picture and a JSON file with what is true of it, in pixels: `boxes` and `labels`, `points`, or `text`.

    The file may also name the `task` and the `question`; without a task, a text is read as OCR, labels as detection,
    one box as grounding, all else as counting. Raises FileNotFoundError or ValueError, one sentence naming the file.
    """
    image, path = Path(image), Path(annotations)
    for each in (image, path):
        if not each.is_file():
            raise FileNotFoundError(f"{str(each)!r} does not exist or is no file.")
    try:
        value = _object(path.read_text(encoding="utf-8"))
        target = Target.of(value)
        guess = "detection" if target.labels else "grounding" if len(target.boxes) == 1 else "counting"
        task, question = value.get("task") or ("ocr" if target.text else guess), value.get("question") or ""
        sample = Sample(image, str(task), str(question), target, id=image.name)
        return replace(sample, target=replace(target, image_size=sample.load_image().size))
    except (ValueError, OSError) as problem:  # OSError: what PIL raises where a file is no picture
        raise ValueError(f"{str(path if isinstance(problem, ValueError) else image)!r}: {problem}") from None


def _object(written: str) -> dict:
    try:
        value = json.loads(written)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"The annotations are no JSON: {str(problem)[:80]}.") from None
    if not isinstance(value, dict):
        raise ValueError('The annotations must be an object like {"boxes": [[x1, y1, x2, y2]], "labels": ["cat"]}.')
    if not {"boxes", "points", "text"} & value.keys():
        raise ValueError(f"The annotations need boxes, points or text, got {', '.join(map(repr, value)) or 'nothing'}.")
    return value
