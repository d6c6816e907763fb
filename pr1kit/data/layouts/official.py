"""Samples of one's own written as the official evaluation files, to be read, shared and measured like them.

jsons/grounding/NAME.json    [{"image", "problem", "solution", "normalized_solution"}]       images/coco/
jsons/counting/NAME.jsonl    {"image_path", "question", "ground_truth"}                      images/
jsons/ocr/NAME.json          [{"image", "conversations"}]                                    images/ocr/en_pdf_png/
jsons/detection/NAME.json    COCO instances                                                  images/coco/val2017/
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pr1kit.data.boxes import from_pixels
from pr1kit.data.durable_files import write_atomically
from pr1kit.data.sample import Sample

PICTURES = {"grounding": "coco", "counting": "", "ocr": "ocr/en_pdf_png", "detection": "coco/val2017"}


def save_official(samples: Sequence[Sample], folder: str | Path, name: str) -> Path:
    """Write samples of one task under `folder` as the benchmark file `name`; returns the annotation file.

    Pictures are written as PNG, so nothing of them is lost; `normalized_solution` is rounded to whole numbers, as
    the official one is. Raises ValueError for samples of several tasks, or a grounding sample without its one box.
    """
    tasks = {sample.task for sample in samples}
    if len(tasks) != 1:
        raise ValueError(f"A benchmark file holds one task, these samples hold {', '.join(sorted(tasks)) or 'none'}.")
    (task,), folder = tasks, Path(folder)
    pictures = folder / "images" / PICTURES[task] / name
    pictures.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, sample in enumerate(samples):
        file, image = f"{name}/{index:06d}.png", sample.load_image()
        image.save(pictures.parent / file)
        rows.append(_ROWS[task](sample, file, image.size))
    path = folder / "jsons" / task / (f"{name}.jsonl" if task == "counting" else f"{name}.json")
    if task == "counting":
        return write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return write_atomically(path, json.dumps(_coco(samples, rows) if task == "detection" else rows, ensure_ascii=False))


def _grounding(sample: Sample, file: str, size: tuple[int, int]) -> dict:
    if len(sample.target.boxes) != 1:
        raise ValueError(f"Sample {sample.id!r} has {len(sample.target.boxes)} boxes, the grounding layout holds one.")
    (box,) = sample.target.boxes
    norm1000 = [round(value) for value in from_pixels(box[None], "norm1000", size)[0].tolist()]
    return {"image": file, "problem": sample.question, "solution": box.tolist(), "normalized_solution": norm1000}


def _counting(sample: Sample, file: str, size: tuple[int, int]) -> dict:
    target = sample.target
    count = target.count if target.count is not None else len(target.boxes) or len(target.points)
    return {"image_path": file, "question": sample.question, "ground_truth": count}


def _ocr(sample: Sample, file: str, size: tuple[int, int]) -> dict:
    asked = {"from": "human", "value": "<image>\nOCR this image: "}
    return {"image": file, "conversations": [asked, {"from": "gpt", "value": sample.target.text}]}


def _detection(sample: Sample, file: str, size: tuple[int, int]) -> dict:
    return {"file_name": file, "width": size[0], "height": size[1]}


_ROWS = {"grounding": _grounding, "counting": _counting, "ocr": _ocr, "detection": _detection}


def _coco(samples: Sequence[Sample], images: list[dict]) -> dict:
    """The COCO instances file; its categories are the classes asked for, in their order."""
    names = list(dict.fromkeys(name for s in samples for name in [*s.question.split(", "), *s.target.labels] if name))
    ids = {name: i for i, name in enumerate(names, 1)}
    notes = []
    for image, sample in enumerate(samples, 1):
        for (x1, y1, x2, y2), label in zip(sample.target.boxes.tolist(), sample.target.labels, strict=True):
            box, own = [x1, y1, x2 - x1, y2 - y1], {"id": len(notes) + 1, "image_id": image, "category_id": ids[label]}
            notes.append({**own, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    return {
        "images": [{"id": i, **image} for i, image in enumerate(images, 1)],
        "annotations": notes,
        "categories": [{"id": i, "name": name} for name, i in ids.items()],
    }
