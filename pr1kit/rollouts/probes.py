"""Probes: the same held-out questions, asked again and again while a policy learns. How they are written and read.

`probes.jsonl` of a run's folder holds one line for each question at each step at which it was asked:

    {"step": 8, "id": "scenes/counting/test/200/0", "task": "counting", "question": "circle", "image": "a.png" or null,
     "target": {"boxes": …}, "frame": "pixel", "completion": "circle(4,4),(18,18)"}

Step 0 is the policy before training. A video that lies on disk has `frames` and `times` in place of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pr1kit.data.durable_files import read_log
from pr1kit.data.sample import Sample, Target
from pr1kit.rollouts.log import scene_of

FILE = "probes.jsonl"
REMEDY = "train with train_grpo(…, probes=samples), or with --probes 6"


def probe_row(step: int, sample: Sample, frame: Any, completion: str) -> dict:
    """One line of the file: what `sample` was answered at `step`, its numbers in `frame`."""
    files = [str(each) for each in sample.frames or [sample.image] if isinstance(each, str | Path)]
    video = {"frames": files, "times": list(sample.times)} if 1 < len(files) == len(sample.frames) else {}
    return {
        "step": step,
        "id": sample.id,
        "task": sample.task,
        "question": sample.question,
        "image": files[0] if files and not sample.is_video else None,
        **video,
        "target": sample.target.to_dict(),
        "frame": frame if isinstance(frame, str) else list(frame),
        "completion": completion,
    }


def read_probes(folder: str | Path) -> dict[int, dict[str, dict]]:
    """The rows of a run by step and by the sample's id, steps rising; a step whose answers were cut short is left out.

    Raises FileNotFoundError where the policy was asked nothing, ValueError where a line is damaged.
    """
    path = Path(folder) / FILE
    if not path.is_file() or not path.stat().st_size:
        raise FileNotFoundError(f"{str(folder)!r} has no {FILE}, its policy was asked nothing on the way: {REMEDY}.")
    steps: dict[int, dict[str, dict]] = {}
    for number, row in enumerate(read_log(path), 1):
        if missing := [name for name in ("id", "task", "question", "target", "frame", "completion") if name not in row]:
            raise ValueError(f"Line {number} of {str(path)!r} has no {missing[0]!r}: it is no answer to a probe.")
        steps.setdefault(row["step"], {})[row["id"]] = row
    first = next(iter(steps.values()), {})
    return {
        step: {name: rows[name] for name in first}
        for step, rows in sorted(steps.items())
        if first.keys() <= rows.keys()
    }


def probed_sample(row: dict, samples: Sequence[Sample] = ()) -> Sample:
    """The question of a row: among `samples`, a synthetic scene drawn again, or the picture or video that it names.

    Raises ValueError where none of them is that question.
    """
    target = Target.of(row["target"])
    for sample in samples:
        if sample.id == row["id"]:
            return sample
    if row.get("frames"):
        video = {"frames": row["frames"], "times": row.get("times") or ()}
        return Sample(None, row["task"], row["question"], target, row["id"], **video)
    if row.get("image"):
        return Sample(row["image"], row["task"], row["question"], target, row["id"])
    scene = scene_of(row["id"])
    if scene.target.to_dict() != target.to_dict():
        raise ValueError(
            f"The scene {row['id']!r} was drawn with other settings: pass samples=, the probes of the run."
        )
    return scene
