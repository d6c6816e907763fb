"""Every raw completion is kept: a JSON line each, keyed by the sample's id, whole after a crash, never asked for twice.

    name.jsonl              {"id": …, "completion": …, "frame": …, "of": …}, in the order of the samples
    name.part-1-of-4.jsonl  what a process has added since; joined to `name.jsonl` when all have finished
    name.settings.json      what produced them: model, protocol, engine

`frame` says how the completion's numbers are to be read (see `boxes`), so that scoring needs no model; `of` is a digest
of question, picture, model and protocol: a completion that no longer fits is asked for again.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from pr1kit.data.durable_files import append_lines, write_atomically
from pr1kit.data.fingerprint import fingerprint, folder_fingerprint
from pr1kit.data.run_folder import RunFolder
from pr1kit.data.safe_files import read_json
from pr1kit.data.sample import Sample
from pr1kit.data.shipped import policy_folder


def read_completions(path: str | Path) -> dict[str, dict]:
    """The rows of a completions file by id; a line that a crash cut short is dropped.

    Raises FileNotFoundError, and ValueError for a line that is something else.
    """
    path, rows = Path(path), {}
    if not path.is_file():
        raise FileNotFoundError(f"There are no completions at {str(path)!r}.")
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            needed = {name: row[name] for name in ("id", "completion")}
            needed["frame"] = tuple(row["frame"]) if isinstance(row.get("frame"), list) else row.get("frame")
            rows[row["id"]] = needed | ({"of": row["of"]} if "of" in row else {})
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
        other = RunFolder(self.folder).read(path.name) if path.exists() else made_by
        names = [name for name in {**made_by, **other} if name != "weights" and made_by.get(name) != other.get(name)]
        if names:
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

    def fitting(self, digests: Mapping[str, str]) -> tuple[dict[str, dict], list[str]]:
        """The kept rows of these samples by id whose digest is as it must be, and the ids of those where it is not."""
        kept = {name: row for name, row in self.kept().items() if name in digests}
        stale = [name for name, row in kept.items() if row.get("of") != digests[name]]
        return {name: row for name, row in kept.items() if name not in set(stale)}, stale

    def append(self, rows: Sequence[dict]) -> None:
        """Add rows to this process's part: on disk when this returns."""
        append_lines(self.part, rows)

    def join(self, order: Iterable[str]) -> None:
        """All parts as one file, the samples of `order` first. One process does it, after all have finished."""
        rows = self.kept()
        names = [name for name in dict.fromkeys([*order, *rows]) if name in rows]
        write_atomically(self.path, "".join(json.dumps(rows[name], ensure_ascii=False) + "\n" for name in names))
        for part in self._parts():
            part.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"{glob.escape(self.name)}.part-*-of-*.jsonl"))


def completion_digests(samples: Sequence[Sample], made_by: Mapping) -> dict[str, str]:
    """For each sample's id a digest of all that its completion depends on: question, picture, model, protocol."""
    about = json.dumps(made_by, sort_keys=True, default=str)
    parts = fingerprint(samples)["samples"]
    return {
        name: sha256(f"{about} {own.get('questions')} {own.get('pictures')}".encode()).hexdigest()[:16]
        for name, own in parts.items()
    }


def model_digest(name: str) -> str:
    """A digest of the files of a model, its processor, and an adapter's base; of a hub id the commit that is cached."""
    folder = policy_folder(name) or Path(name).expanduser()
    if not folder.is_dir():
        from transformers import AutoConfig

        return str(getattr(AutoConfig.from_pretrained(name), "_commit_hash", None))
    files = folder_fingerprint(folder, ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.txt"))
    adapter = folder / "adapter_config.json"
    base = read_json(adapter)["base_model_name_or_path"] if adapter.is_file() else None
    return sha256(f"{sorted(files.items())} {base and model_digest(base)}".encode()).hexdigest()[:16]
