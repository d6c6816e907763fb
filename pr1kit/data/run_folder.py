"""A run's folder: whose run it is, who writes it now, and what in it is whole.

    settings.json         what makes this run another than its neighbours (`RunFolder.claim`)
    samples.json          a digest of each sample's question, truth and picture, see `fingerprint`
    *.jsonl               logs, a line a step or a group, appended
    checkpoint-12/        counts only with its `whole.json`, written last: the size and CRC-32 of each file
    damaged-checkpoint-9/ a checkpoint that was found damaged: set aside, never deleted
    .lock, .holder        the process that writes; the lock dies with it

Used by training, evaluation, experiments and the making of the tiny policy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pr1kit.data.durable_files import cut_log, write_atomically

FORMAT = 2  # of the folder; folders of format 1 held no such number
MANIFEST = "whole.json"
_STEP = re.compile(r"checkpoint-(\d+)")


class RunFolder:
    """The folder of one run; it is made when something is first written."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that writes here. Raises ValueError that names the holder where there is one."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise ValueError(
                f"{str(self.path)!r} is being written by {self._holder()}: wait for it, or stop it."
            ) from None
        except OSError as error:
            raise ValueError(f"{str(self.path)!r} cannot be written: {error.strerror}.") from None
        try:
            self.write(
                ".holder", f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
            )
            yield
        finally:
            (self.path / ".holder").unlink(missing_ok=True)
            lock.release()

    def _holder(self) -> str:
        try:
            return (self.path / ".holder").read_text(encoding="utf-8") or "another process"
        except OSError:
            return "another process"

    # Whose run it is

    def check(self, identity: Mapping, safe: Sequence[str] = ()) -> bool:
        """Whether the folder holds this run already; False for a folder without a run.

        `identity` is plain values, fit for JSON; a resumed run may change those named in `safe`. Raises ValueError that
        names what differs where it holds another run, or one of an earlier version of the kit.
        """
        old, where = self.settings(), f"{str(self.path)!r} holds a run"
        remedy = "choose another folder, or remove it"
        if old is None:
            return False
        if not isinstance(old, dict) or old.get("format") != FORMAT:
            raise ValueError(f"{where} of an earlier version of the kit: finish it with that version; else {remedy}.")
        new = json.loads(json.dumps(identity))
        changed = [
            key for key in {**old, **new} if key not in ("format", "kit", *safe) and old.get(key) != new.get(key)
        ]
        if changed:
            words = "; ".join(f"{key} was {_brief(old.get(key))}, is {_brief(new.get(key))}" for key in changed[:3])
            raise ValueError(f"{where} with other settings ({words}): {remedy}.")
        return True

    def settings(self) -> Any:
        """Whose run this is, as it was claimed; None in a folder without a run.

        Where `settings.json` is missing or damaged, the newest checkpoint remembers it; else ValueError.
        """
        path = self.path / "settings.json"
        try:
            return self.read(path.name)
        except ValueError as error:
            for checkpoint in self.checkpoints():
                if not find_damage(checkpoint) and (known := checkpoint_notes(checkpoint)["settings"]):
                    return known
            if path.exists():
                raise
            if self.checkpoints():
                raise ValueError(
                    f"{str(self.path)!r} holds checkpoints of an unknown run: choose another folder."
                ) from error
            return None

    def _settings_file(self) -> Any:
        try:
            return self.read("settings.json")
        except ValueError:
            return None  # a trainer of one's own, which claims no folder

    def claim(self, identity: Mapping) -> None:
        """Write down whose run this is."""
        self.write("settings.json", json.dumps({"format": FORMAT, **identity}, indent=1, ensure_ascii=False) + "\n")

    def begin(self, identity: Mapping) -> None:
        """Claim an empty folder for this run, or find that it is this run's. Raises ValueError where it is not."""
        if self.check(identity):
            return
        if any(path.name not in (".lock", ".holder") for path in self.path.glob("*")):
            raise ValueError(
                f"{str(self.path)!r} is not empty and holds no run of this version: choose another folder."
            )
        self.claim(identity)

    # Files

    def write(self, name: str, text: str) -> Path:
        """Write a file that is either the old one or the new one, never half."""
        return write_atomically(self.path / name, text)

    def read(self, name: str):
        """The content of a JSON file. Raises ValueError that names it where it is damaged."""
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{str(path)!r} is damaged ({str(error)[:80]}): remove the folder, or choose another."
            ) from None

    def cut(self, name: str, last_step: int, size: int = 0) -> list[str]:
        """Drop a log's rows past `last_step`, which a resumed run writes again; what was there stays in a copy beside.

        A torn last line is dropped. Lines that cannot be read are dropped too; returns a sentence for each, and one
        where the log is left shorter than the `size` in bytes that it once had.
        """
        path = self.path / name
        faults = cut_log(path, last_step) if path.exists() else []
        left = path.stat().st_size if path.exists() else 0
        if left < size and not faults:
            faults = [
                f"{path} has {left:,} of the {size:,} bytes that it had at step {last_step}: rows of it are lost."
            ]
        return faults

    # Checkpoints

    def finish_checkpoint(self, aside: Path, **notes) -> Path:
        """Sign the checkpoint written in `aside`, with settings and `notes`, and give it its name."""
        (draft,) = aside.glob("checkpoint-*")
        logs = {file.name: file.stat().st_size for file in self.path.glob("*.jsonl")}
        files = {str(file.relative_to(draft)): _sum(file) for file in sorted(draft.rglob("*")) if file.is_file()}
        write_atomically(
            draft / MANIFEST, json.dumps({"files": files, "settings": self._settings_file(), "logs": logs, **notes})
        )
        goal = self.path / draft.name
        if goal.exists():
            shutil.rmtree(goal, ignore_errors=True)
        draft.rename(goal)
        aside.rmdir()
        return goal

    def checkpoints(self) -> list[Path]:
        """The signed checkpoints, newest first; whether they are whole is not looked at."""
        found = [path for path in self.path.glob("checkpoint-*") if _STEP.fullmatch(path.name)]
        return sorted(found, key=checkpoint_step, reverse=True)

    def newest_checkpoint(self, say: Callable[[str], None] = print) -> Path | None:
        """The newest checkpoint that is whole; damaged newer ones are set aside, each named with `say`."""
        for path in self.checkpoints():
            fault = find_damage(path)
            if not fault:
                return path
            aside = path.with_name(f"damaged-{path.name}")
            while aside.exists():
                aside = aside.with_name(f"{aside.name}-again")
            path.rename(aside)
            say(f"{path} is damaged ({fault}): set aside as {aside.name}, the one before is taken.")
        return None

    def keep_newest(self, count: int) -> None:
        """Remove all but the `count` newest checkpoints."""
        for path in self.checkpoints()[count:]:
            shutil.rmtree(path, ignore_errors=True)


def checkpoint_step(path: str | Path) -> int:
    """The step at which a checkpoint was written, from its name."""
    return int(_STEP.fullmatch(Path(path).name)[1])


def checkpoint_notes(path: Path) -> dict:
    """What was noted when the checkpoint was signed."""
    return json.loads((path / MANIFEST).read_text(encoding="utf-8"))


def find_damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, "" where it is whole: every file as it was when it was signed."""
    try:
        files = checkpoint_notes(checkpoint)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return "it was not written to its end"
    for name, written in files.items():
        try:
            if _sum(checkpoint / name) != written:
                return f"{name} is not as it was written"
        except OSError:
            return f"{name} is missing"
    return ""


def _sum(path: Path) -> list[int]:
    """Size and CRC-32 of a file: enough to notice an accident."""
    total = 0
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            total = zlib.crc32(part, total)
        return [file.tell(), total]


def _brief(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
