"""Every raw completion is kept: a JSON line each, keyed by the sample's id, whole after a crash, never asked for twice.

    name.jsonl              {"id": …, "completion": …, "frame": …}, in the order of the samples
    name.part-1-of-4.jsonl  what a process has added since; joined to `name.jsonl` when all have finished
    name.settings.json      what produced them: model, protocol, engine

`frame` says how the completion's numbers are to be read (see `boxes`), so that scoring needs no model.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def read_completions(path: str | Path) -> dict[str, dict]:
    """The rows of a completions file by id; a line that a crash cut short is dropped.

    Raises FileNotFoundError, and ValueError for a line that is something else.
    """
    path, rows = Path(path), {}
    if not path.is_file():
        raise FileNotFoundError(f"There are no completions at {str(path)!r}.")
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            rows[row["id"]] = {"id": row["id"], "completion": row["completion"], "frame": _frame(row.get("frame"))}
        except (ValueError, KeyError, TypeError):
            if number < len(lines):  # a whole line ends with a line break
                raise ValueError(f'Line {number} of {str(path)!r} is no {{"id", "completion", "frame"}} row.') from None
    return rows


class CompletionStore:
    """The kept completions of one benchmark, `folder/name.jsonl`, shared by `processes`, of which this is `rank`."""

    def __init__(self, folder: str | Path, name: str, rank: int = 0, processes: int = 1):
        self.folder, self.name = Path(folder), name
        self.path = self.folder / f"{name}.jsonl"
        self.part = self.folder / f"{name}.part-{rank + 1}-of-{processes}.jsonl"

    def check_same_run(self, made_by: dict) -> None:
        """Write down what makes these completions. Raises ValueError where others were made otherwise."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.name}.settings.json"
        if path.exists() and (other := json.loads(path.read_text(encoding="utf-8"))) != made_by:
            names = [name for name in {**made_by, **other} if made_by.get(name) != other.get(name)]
            raise ValueError(
                f"{str(path)!r} tells of completions with another {' and '.join(names)}: name another --out."
            )
        write_atomically(path, json.dumps(made_by, indent=1, ensure_ascii=False))

    def kept(self) -> dict[str, dict]:
        """All rows by id, those of unfinished parts included."""
        rows: dict[str, dict] = {}
        for path in [*([self.path] if self.path.exists() else []), *self._parts()]:
            rows |= read_completions(path)
        return rows

    def append(self, rows: Sequence[dict]) -> None:
        """Add rows to this process's part: on disk when this returns."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with self.part.open("a+b") as file:
            if end := file.tell():
                file.seek(end - 1)
                if file.read() != b"\n":  # cut short by a crash
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def join(self, order: Iterable[str]) -> list[dict]:
        """All parts as one file, the samples of `order` first; returns their rows. One process does it, after all."""
        rows, order = self.kept(), list(order)
        names = [name for name in dict.fromkeys([*order, *rows]) if name in rows]
        write_atomically(self.path, "".join(json.dumps(rows[name], ensure_ascii=False) + "\n" for name in names))
        for part in self._parts():
            part.unlink()
        return [rows[name] for name in order if name in rows]

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"{glob.escape(self.name)}.part-*-of-*.jsonl"))


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is either the old one or the new one, never half."""
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _frame(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
