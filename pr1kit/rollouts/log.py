"""What did the policy answer at step s? The rollouts that a training run logged, read where they are looked at.

`rollouts.jsonl` holds one line a group, in the order of steps, and may be gigabytes long. Nothing is read at opening
but its first and last line; a step is found by bisection over byte offsets, so a log opens at once whatever its length,
also while the run still writes it.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from pathlib import Path

import numpy as np

from pr1kit.data.clips import make_clips
from pr1kit.data.sample import IMAGE_TASKS, VIDEO_TASKS, Sample
from pr1kit.data.scenes import make_scenes
from pr1kit.data.shipped import shipped
from pr1kit.rewards.tasks import get_task

_STEP = re.compile(rb'\{"step": ?(\d+)')
WORLDS = {"scenes": (make_scenes, IMAGE_TASKS), "clips": (make_clips, VIDEO_TASKS)}
_SCENE = re.compile(r"(scenes|clips)/(\w+)/(train|validation|test)/(\d+)/(\d+)(?:/\w+)?")


class RolloutLog:
    """The groups of a run folder, `first_step` to `last_step`. Raises one sentence where there is no log to read.

    `settings` are those of the run (empty where the folder holds none).
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.path = folder if folder.is_file() else folder / "rollouts.jsonl"
        if not self.path.is_file():
            below = sorted(path.parent for path in folder.glob("**/rollouts.jsonl"))
            if len(below) != 1:
                hint = f"it holds {len(below)} runs, name one: {', '.join(map(str, below[:4]))}" if below else "no run"
                raise FileNotFoundError(f"{str(folder)!r} has no rollouts.jsonl: {hint}.")
            self.path = below[0] / "rollouts.jsonl"
        settings = self.path.parent / "settings.json"
        self.settings = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        first = self._step_at(0)
        if first is None:
            raise ValueError(f"{str(self.path)!r} holds no group of rollouts yet.")
        self.first_step: int = first

    @property
    def last_step(self) -> int:
        """The step of the last whole line, now: a run may be writing."""
        back = 1 << 16
        with self.path.open("rb") as file:
            size = self.path.stat().st_size
            while True:
                file.seek(max(size - back, 0))
                lines = [line for line in file.readlines() if line.endswith(b"\n")]
                steps = [int(found[1]) for line in lines if (found := _STEP.match(line))]
                if steps or back >= size:
                    return steps[-1] if steps else self.first_step
                back *= 4

    def groups(self, step: int) -> list[dict]:
        """The groups of one step, in the order logged; of the nearest later one where the log skips it.

        A group is a mapping with `step`, `id`, `frame`, `prompt`, `parts`, and G each of `completions`, `token_ids`,
        `rewards` and `advantages`.
        """
        found, rows = None, []
        with self.path.open("rb") as file:
            file.seek(self._start_of(step))
            for line in file:
                row = _row(line)
                if row is None:  # half written: the run was cut off, or writes it now
                    continue
                found = row["step"] if found is None else found
                if row["step"] != found:
                    break
                rows.append(row)
        return rows

    def groups_at(self, step: int) -> list[dict]:
        """As `groups`, of the first or last step for one before or after all. Raises ValueError where none is whole."""
        first, last = self.first_step, self.last_step
        rows = self.groups(min(max(int(step), first), last))
        if not rows:
            raise ValueError(f"{str(self.path)!r} holds no whole group at step {step} or later.")
        return rows

    def describe(self, rows: list[dict], index: int) -> dict:
        """What a page shows beside group `index` of `rows`, the groups of one step."""
        row = rows[index]
        return {
            "name": self.path.parent.name,
            "recipe": self.settings.get("recipe", ""),
            "first": self.first_step,
            "last": self.last_step,
            "step": row["step"],
            "index": index,
            "id": row["id"],
            "questions": [each["prompt"][:120] for each in rows],
            "rewards": row["rewards"],
            "advantages": row["advantages"],
        }

    def steps_with(self, sample_id: str, most: int = 12) -> list[int]:
        """At which steps the sample was asked, the first `most` of them; searches the whole file, unparsed."""
        wanted, at = b'"id": ' + json.dumps(sample_id, ensure_ascii=False).encode() + b",", 0
        steps: list[int] = []
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            while len(steps) < most and (at := content.find(wanted, at)) >= 0:
                line = content.rfind(b"\n", 0, at) + 1
                if (found := _STEP.match(content, line)) and int(found[1]) not in steps:
                    steps.append(int(found[1]))
                at += len(wanted)
        return steps

    def curve(self, points: int = 40) -> list[dict]:
        """How rewards move over training, at no more than `points` steps: `step`, `mean`, and `spread`.

        `spread` is the mean standard deviation within a group: without it, a group teaches nothing.
        """
        last = self.last_step
        count = min(points, last - self.first_step + 1)
        wanted = {self.first_step + round(i * (last - self.first_step) / max(count - 1, 1)) for i in range(count)}
        rows = {}
        for step in sorted(wanted):
            groups = self.groups(step)
            rewards = [np.array(group["rewards"]) for group in groups if group["rewards"]]
            if rewards:
                found = groups[0]["step"]
                mean, spread = np.mean([(r.mean(), r.std()) for r in rewards], axis=0).tolist()
                rows[found] = {"step": found, "mean": mean, "spread": spread}
        return list(rows.values())

    def _step_at(self, offset: int) -> int | None:
        """The step of the first line that begins at or after `offset`."""
        with self.path.open("rb") as file:
            if offset:
                file.seek(offset - 1)
                file.readline()
            while line := file.readline():
                if (found := _STEP.match(line)) and line.endswith(b"\n"):
                    return int(found[1])
        return None

    def _start_of(self, step: int) -> int:
        """An offset from which the next line is the first with `step` or a later one."""
        low, high = 0, self.path.stat().st_size
        while low < high:
            middle = (low + high) // 2
            there = self._step_at(middle)
            if there is None or there >= step:
                high = middle
            else:
                low = middle + 1
        with self.path.open("rb") as file:
            file.seek(max(low - 1, 0))
            if low:
                file.readline()
            return file.tell()


def example_run() -> Path:
    """The folder of a short log to try things on: whole steps of a counting run of the tiny policy."""
    return shipped("rollouts-counting")


def _row(line: bytes) -> dict | None:
    """One group, None where the line is no whole one."""
    try:
        row = json.loads(line)
        lengths = {len(row[name]) for name in ("completions", "rewards", "advantages")}
        texts = all(isinstance(completion, str) for completion in row["completions"])
        return row if len(lengths) == 1 and texts and isinstance(row["step"], int) else None
    except (ValueError, KeyError, TypeError):
        return None


def scene_of(sample_id: str, prompt: str = "") -> Sample:
    """The synthetic scene or clip that an id names, drawn again. Raises ValueError where `prompt`, or a clip's kind of
    query, tells that it is another one.

    >>> scene_of("scenes/grounding/test/0/3").id
    'scenes/grounding/test/0/3'
    """
    found = _SCENE.fullmatch(sample_id)
    if not found or found[2] not in WORLDS[found[1]][1]:
        raise ValueError(f"The sample {sample_id!r} is no synthetic scene: pass samples=, the ones you trained on.")
    world, task, split, seed, index = found.groups()
    sample = WORLDS[world][0](task, 1, int(seed), split=split, start=int(index))[0]
    if sample.id != sample_id or (prompt and get_task(task).prompt(sample.question) not in prompt):
        raise ValueError(f"The scene {sample_id!r} was drawn with other settings: pass samples=, those trained on.")
    return sample


def log_groups(
    path: Path, logs: dict, reward: str, group: int, step: int, rows: list[dict], tokens: list[list[int]]
) -> None:
    """Append one line for each group of `group` completions that TRL has just scored, from its `logs` of that batch.

    `reward` is the reward function whose values are logged; `rows` (each with its `id` and `frame`) and `tokens` (of
    the answers: their texts have lost the special ones) are those of the batch, of all processes; the logs may hold
    older batches before it.
    """
    columns = {name: list(logs[name])[-len(rows) :] for name in ("prompt", "completion", "advantages")}
    rewards, lines = list(logs["rewards"][reward])[-len(rows) :], []
    extra = {name: list(values)[-len(rows) :] for name, values in logs["extra"].items()}
    for start in range(0, len(rows), group):
        part = slice(start, start + group)
        line = {
            "step": step,
            **rows[start],
            "prompt": _words(columns["prompt"][start]),
            "completions": [_words(completion) for completion in columns["completion"][part]],
            "token_ids": tokens[part],
            "rewards": [round(value, 5) for value in rewards[part]],
            "advantages": [round(value, 5) for value in columns["advantages"][part]],
            "parts": {
                name: [round(float(value), 5) for value in values[part]]
                for name, values in extra.items()
                if not math.isnan(values[start])  # of another task
            },
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def _words(messages) -> str:
    """The text of a message list, images left out; a plain string is itself."""
    if isinstance(messages, str):
        return messages
    contents = [message["content"] for message in messages]
    return "".join(
        content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        for content in contents
    )
