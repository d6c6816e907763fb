"""JSON and YAML as people and programs leave them: read under limits, every error one sentence that names the file.

Nothing here is executed, and no file can take unbounded time or memory: texts are limited in size, values in depth,
YAML in aliases too (ten lines of aliases of aliases stand for billions of values). Files of many records are streamed:
memory for one record, and time only for those that are asked for.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_JSON = 2**26  # bytes of a JSON file that is read whole
MAX_RECORD = 2**25  # characters of one record of a file that is streamed
MAX_YAML, MAX_DEPTH, MAX_ALIASES = 2**20, 50, 10  # bytes; levels; uses of anchors
CHUNK = 2**20
_SPACE, _COMMA = re.compile(r"[ \t\n\r]*"), re.compile(r"[ \t\n\r]*,[ \t\n\r]*")


def read_text(path: str | Path, most: int = MAX_JSON) -> str:
    """The text of a UTF-8 file of at most `most` bytes. Raises FileNotFoundError or ValueError that names it."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist or is no file.")
    if path.stat().st_size > most:
        raise ValueError(f"{str(path)!r} has {path.stat().st_size:,} bytes, more than the {most:,} that are read.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ValueError(f"{str(path)!r} is no text: {_words(problem)}.") from None


def parse_json(text: str, name: str) -> Any:
    """The value of a JSON text; the ValueError for what is none, or is nested too deeply, reads `name` "no JSON: …".

    >>> parse_json('{"a": [1, Infinity]}', "The text is")
    {'a': [1, inf]}
    """
    try:
        return _decode(json.loads, text)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"{name} no JSON: {_words(problem)}.") from None


def read_json(path: str | Path) -> Any:
    """The value in a JSON file of at most `MAX_JSON` bytes. Raises FileNotFoundError or ValueError that names it."""
    return parse_json(read_text(path), f"{str(path)!r} is")


def stream_json(path: str | Path, drop: str = "") -> Iterator[tuple[str | None, Any]]:
    """(key, value) pairs of the object in a JSON file, (None, value) of any other; a list is an iterator of its items.

    One item is in memory at a time; what the caller leaves of a list is passed over. Lists of numbers under the name
    `drop` are read as 0, which saves their time. Raises ValueError that names the file: no JSON, nested too deeply, an
    item of more than `MAX_RECORD` characters.
    """
    with Path(path).open(encoding="utf-8-sig") as file:
        reader = _Reader(file, drop)
        if reader.peek() == "{":
            for _ in reader.items("}"):
                key = reader.value()
                if not isinstance(key, str) or reader.peek() != ":":
                    raise reader.bad("expected a name and a colon")
                reader.at += 1
                yield from _passed_over(key, reader)
        else:
            yield from _passed_over(None, reader)
        if reader.peek():
            raise reader.bad("something stands after its end")


def read_yaml(path: str | Path) -> Any:
    """The value in a YAML file, as `parse_yaml`. Raises FileNotFoundError or ValueError that names it."""
    return parse_yaml(read_text(path, MAX_YAML), f"{str(path)!r} is")


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML text of plain values, at most `MAX_DEPTH` deep, with at most `MAX_ALIASES` aliases.

    The ValueError for what is none, or goes beyond a limit, reads `name` "no YAML that the kit reads: …".
    """
    import yaml

    try:
        open_anchors, aliases = [], 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                open_anchors.append(event.anchor)
            elif isinstance(event, yaml.CollectionEndEvent):
                open_anchors.pop()
            elif isinstance(event, yaml.AliasEvent):
                aliases += 1
                if event.anchor in open_anchors:
                    raise ValueError(f"its anchor {event.anchor!r} holds itself")
            if len(open_anchors) > MAX_DEPTH or aliases > MAX_ALIASES:
                raise ValueError(f"it has more than {MAX_DEPTH} levels or {MAX_ALIASES} aliases")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise ValueError(f"{name} no YAML that the kit reads: {_words(problem)}.") from None


class _Reader:
    """A JSON text that is read on as its values are asked for: `text[at:]` is what is not yet used of it."""

    def __init__(self, file: Any, drop: str):
        self.file, self.drop, self.text, self.at = file, f'"{drop}":', "", 0
        # What follows shows that the list was read to its end. Within a text the name would stand between \\".
        self.dropped = re.compile(re.escape(self.drop) + r'\s*\[[^"{}]*\](?=\s*(?:\}|,\s*"))') if drop else None

    def bad(self, problem: str | Exception) -> ValueError:
        where = f" at {self.text[self.at :][:30]!r}" if self.text[self.at :] else ""
        return ValueError(f"{self.file.name!r} is no JSON: {_words(problem)}{where}.")

    def more(self) -> bool:
        rest = self.text[self.at :]
        if len(rest) > MAX_RECORD:
            raise self.bad(f"one value goes on for more than {MAX_RECORD:,} characters")
        try:
            # twice as much each time: no long value is parsed over and over
            read = self.file.read(max(CHUNK, len(rest)))
        except UnicodeDecodeError as problem:
            raise self.bad(problem) from None
        self.text, self.at = rest + read, 0
        if self.dropped:
            self.text = self.dropped.sub(f"{self.drop}0", self.text)
        return bool(read)

    def peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = _decode(_DECODER.raw_decode, self.text, self.at)
            except json.JSONDecodeError as problem:
                cut = problem.pos > len(self.text) - 10 or problem.msg.startswith("Unterminated string")
                if cut and self.more():
                    continue
                raise self.bad(problem.msg) from None
            except RecursionError as problem:
                raise self.bad(problem) from None
            size = end - self.at
            if end < len(self.text) - 3 or not self.more():  # of 1.5e-3 the beginnings 1, 1.5 and 1.5e- give a number
                self.at += size
                return value

    def listed(self) -> Iterator:
        """The items of the list that begins here."""
        for _ in self.items("]"):
            yield self.value()
            while comma := _COMMA.match(self.text, self.at):  # quickly over those that were read whole
                try:
                    value, end = _DECODER.scan_once(self.text, comma.end())
                except (StopIteration, ValueError, RecursionError):
                    break
                if end >= len(self.text) - 3:
                    break
                self.at = end
                yield value

    def items(self, closing: str) -> Iterator[None]:
        """Stops before each item of the list or object that begins here; the caller reads it."""
        self.at += 1
        while self.peek() != closing:
            yield
            if self.peek() == ",":
                self.at += 1
                if self.peek() != closing:
                    continue
            elif self.peek() == closing:
                break
            raise self.bad(f"expected a comma or {closing}")
        self.at += 1


_DECODER = json.JSONDecoder()


def _passed_over(key: str | None, reader: _Reader) -> Iterator[tuple[str | None, Any]]:
    if reader.peek() != "[":
        yield key, reader.value()
        return
    items = reader.listed()
    yield key, items
    deque(items, 0)


def _decode(decode: Any, text: str, *at: int) -> Any:
    try:
        return decode(text, *at)
    except json.JSONDecodeError:
        raise
    except ValueError:  # a whole number of more digits than Python converts: infinite, as 1e999 is
        exact = {"parse_int": lambda digits: int(digits) if len(digits) < 1000 else float(digits)}
        return json.JSONDecoder(**exact).raw_decode(text, *at) if at else json.loads(text, **exact)


def _words(problem: str | Exception) -> str:
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    if isinstance(problem, UnicodeDecodeError):
        return "it is not written in UTF-8"
    if isinstance(problem, json.JSONDecodeError):
        return f"{problem.msg} (line {problem.lineno}, column {problem.colno})"
    return " ".join(str(problem).split())[:200].rstrip(".")
