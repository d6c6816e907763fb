"""Files that a crash cannot halve: written whole or not at all, and logs of JSON lines whose torn end is known."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write a file that is either the old one or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return path


def append_lines(path: Path, rows: Sequence[Mapping]) -> None:
    """Add rows to a JSON Lines file, after its last whole line; on disk when this returns."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if end := file.tell():
            file.seek(end - 1)
            if file.read() != b"\n":  # cut short by a crash
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(text.encode("utf-8", "surrogatepass"))
        file.flush()
        os.fsync(file.fileno())


def read_log(path: str | Path) -> list[dict]:
    """The rows of a `log.jsonl` or `rollouts.jsonl`; a last line that a crash cut short is left out.

    Raises FileNotFoundError, and ValueError that names a line that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no log {str(path)!r}.")
    lines = _lines(path)
    rows = [_row(line) for line in lines]
    if broken := [i for i, row in enumerate(rows[:-1], 1) if row is None]:
        raise ValueError(f"Line {broken[0]} of the log {str(path)!r} cannot be read.")
    return [row for row in rows if row is not None]


def cut_log(path: Path, last_step: int) -> list[str]:
    """Drop a log's rows past `last_step`, a torn last line, and unreadable lines; returns a sentence for each of these.

    Where rows or unreadable lines go, a copy of the log as it was stays beside it.
    """
    lines = _lines(path)
    read = [_row(line) for line in lines]
    keep = [line for line, row in zip(lines, read, strict=True) if row is not None and row["step"] <= last_step]
    broken = [i for i, row in enumerate(read, 1) if row is None and i < len(lines)]
    if keep == lines:
        return []
    last = max((row["step"] for row in read if row is not None), default=0)
    copy = path.with_name(f"{path.stem}.until-{last}{path.suffix}")
    if any(row is not None for line, row in zip(lines, read, strict=True) if line not in keep) or broken:
        write_atomically(copy, path.read_bytes())
    write_atomically(path, b"".join(line + b"\n" for line in keep))
    return [f"Line {i} of {path} cannot be read and was left out; {copy.name} keeps the log as it was." for i in broken]


def _lines(path: Path) -> list[bytes]:
    """The lines of a file, which end at \\n alone: texts may hold U+2028 or U+0085."""
    lines = path.read_bytes().split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines


def _row(line: bytes) -> dict | None:
    try:
        row = json.loads(line)
        return row if isinstance(row, dict) and isinstance(row["step"], int) else None
    except (ValueError, KeyError, RecursionError):
        return None
