"""The rows of any file or dataset that holds some, one by one, and only as many as are asked for.

They come from `.json` (a list), `.jsonl`, `.csv`, `.tsv`, `.parquet`, a folder saved by `datasets`, a hub id, or from
Python: a `datasets.Dataset` or any iterable of mappings.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pr1kit.data.records import StoredImage
from pr1kit.data.safe_files import MAX_RECORD, parse_json, stream_json

ROW_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")


class BadRow(str):
    """Why a row of a file is none."""


def read_rows(source: Any, split: str | None = None, limit: int | None = None) -> Iterator[dict | BadRow]:
    """The rows of `source`, at most `limit`: dicts, or what is wrong with a row that is none.

    Raises FileNotFoundError or ValueError, naming the file, where no rows can be read.
    """
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if not os.path.isfile(path):
            rows = _table_rows(_open_dataset(path, str(source), split, limit))
        elif path.suffix not in ROW_FILES:
            raise ValueError(f"{str(source)!r} is no annotation file: expected one of {', '.join(ROW_FILES)}.")
        else:
            rows = _table_rows(_parquet([path])) if path.suffix == ".parquet" else _text_rows(path)
    elif hasattr(source, "features"):
        rows = _table_rows(source)
    elif isinstance(source, Iterable) and not isinstance(source, Mapping):
        rows = source
    else:
        raise ValueError(f"Data are a file, a folder, a hub id, a table or rows, got {str(source)[:60]!r}.")
    return (_as_row(row) for row in islice(rows, limit))


def _as_row(row: Any) -> dict | BadRow:
    if isinstance(row, BadRow):
        return row
    return dict(row) if isinstance(row, Mapping) else BadRow(f"the row is {str(row)[:40]!r}, expected named fields")


def _read_json(path: Path) -> Iterator:
    """The items of a list; of an object, {"data": [...]} and the like, those of its one list of objects, or itself."""
    rest, found = {}, None
    for key, value in stream_json(path):
        if not isinstance(value, Iterator):
            rest[key] = value
            continue
        first = next(value, None)
        if key is not None and not isinstance(first, Mapping):
            rest[key] = [] if first is None else [first, *value]
        elif found is not None:
            raise ValueError(f"{str(path)!r} holds rows under {found!r} and under {key!r}: leave one.")
        else:
            found = key or "no name"
            if first is not None:
                yield first
            yield from value
    if found is None and rest:
        yield rest.get(None, rest)


def _read_jsonl(path: Path) -> Iterator:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_RECORD), ""), 1):
            if line.strip():
                try:
                    yield parse_json(line, f"line {number} is")
                except ValueError as error:
                    yield BadRow(str(error).rstrip("."))


def _read_csv(path: Path, delimiter: str = ",") -> Iterator:
    csv.field_size_limit(MAX_RECORD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, delimiter=delimiter)
        for row in table:
            too_long = None in row
            row = {key: value for key, value in row.items() if value not in ("", None)}
            yield BadRow(f"line {table.line_num} has more fields than the first") if too_long else row


def _text_rows(path: Path) -> Iterator:
    """The rows of a text file; what no single row is to blame for is raised in one sentence."""
    try:
        yield from _READERS[path.suffix](path)
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} is not written in UTF-8.") from None
    except csv.Error as error:
        raise ValueError(f"{str(path)!r} is no table of text: {error}.") from None


_READERS: dict[str, Callable[[Path], Iterator]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, delimiter="\t"),
}


def _parquet(paths: list[Path]):
    import datasets

    try:
        return datasets.load_dataset("parquet", data_files=[str(path) for path in paths], split="train")
    except Exception as error:  # a dozen kinds, from pyarrow up
        raise ValueError(f"{str(paths[0])!r} cannot be read as parquet: {_first_line(error)}.") from None


def _open_dataset(path: Path, name: str, split: str | None, limit: int | None):
    """A folder or a hub id as a `datasets.Dataset`, on disk and mapped, not read."""
    import datasets

    if os.path.isdir(path):
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _one_split(datasets.load_from_disk(str(path)), name, split)
        files = sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))
        if split is not None:
            files = [file for file in files if file.name.startswith(split)]
        if not files:
            raise ValueError(
                f"The folder {name!r} holds no annotations that the kit knows: a COCO instances file, parquet files"
                f"{f' whose names begin with {split!r}' if split else ''}, or what datasets.save_to_disk wrote."
            )
        return _parquet(files)
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or path.suffix in ROW_FILES:
        raise FileNotFoundError(f"{name[:200]!r} does not exist.")
    try:
        data = datasets.load_dataset(name, split=split, streaming=limit is not None)
    except Exception as error:  # offline, absent, gated: each library version has its own kinds
        reason = _first_line(error)
        raise FileNotFoundError(f"{name!r} is neither a file nor a dataset that the hub gives: {reason}.") from None
    return _one_split(data, name, split)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _one_split(data: Any, name: str, split: str | None):
    if not hasattr(data, "keys"):
        return data
    if split is None and len(data) > 1:
        raise ValueError(f"{name!r} has the splits {', '.join(data)}: name one with split=.")
    chosen = split or next(iter(data))
    if chosen not in data:
        raise ValueError(f"{name!r} has no split {chosen!r}: it has {', '.join(data)}.")
    return data[chosen]


def _table_rows(table: Any) -> Iterator[dict]:
    """Rows of a `datasets.Dataset`: image cells stay encoded where they are, class numbers become names."""
    import datasets

    features = table.features or {}  # a streamed table may not know them
    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    for name in pictures:
        table = table.cast_column(name, datasets.Image(decode=False))
    indexed = isinstance(table, datasets.Dataset)  # a streamed one gives its pictures with the row
    for index, row in enumerate(table.remove_columns(pictures) if indexed and len(pictures) else table):
        row = {name: _with_names(value, features.get(name)) for name, value in row.items()}
        for name in pictures:
            cell = (table, index) if indexed else (row[name], None)
            row[name] = StoredImage(f"{name} of row {index}", *cell, name)
        yield row


def _with_names(value: Any, feature: Any) -> Any:
    """`value` with the numbers of `ClassLabel` features, however deep, replaced by their names."""
    import datasets

    if isinstance(feature, datasets.ClassLabel) and isinstance(value, int):
        return feature.int2str(value) if value >= 0 else value
    if isinstance(feature, Mapping) and isinstance(value, Mapping):
        return {name: _with_names(each, feature.get(name)) for name, each in value.items()}
    inner = getattr(feature, "feature", None) if not isinstance(feature, list) else feature[0]
    if inner is not None and isinstance(value, list):
        return [_with_names(each, inner) for each in value]
    if inner is not None and isinstance(value, Mapping) and isinstance(inner, Mapping):  # a sequence of structs
        return {name: [_with_names(one, inner.get(name)) for one in each] for name, each in value.items()}
    return value
