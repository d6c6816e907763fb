"""One annotation as its file has it, before anything is converted; and the rows of any file or dataset that holds some.

Rows come from `.json` (a list), `.jsonl`, `.csv`, `.tsv`, `.parquet`, a folder saved by `datasets`, a hub id, or from
Python: a `datasets.Dataset` or any iterable of mappings. They are read one by one, and only as many as are asked for.
"""

from __future__ import annotations

import ast
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

ROW_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, eq=False)
class Record:
    """One question about one image, coordinates as written.

    `boxes` are written in `frame` (see `boxes`) and `box_format`. `pixel_boxes` are the same boxes once more in pixels,
    where the file has both. `size` is the
    `(width, height)` that the file states. `notes` are a COCO file's annotations of image `coco_id`, one for each box.
    """

    id: str
    image: Any
    task: str
    question: str = ""
    boxes: Any = ()
    labels: tuple[str, ...] = ()
    points: Any = ()
    text: str = ""
    count: int | None = None
    size: tuple[int, int] | None = None
    frame: Any = "pixel"
    box_format: str = "xyxy"
    pixel_boxes: Any = None
    notes: tuple[dict, ...] = ()
    coco_id: Any = None


@dataclass(frozen=True, eq=False)
class StoredImage:
    """A picture in a table: row `index` of a `datasets.Dataset`, or its encoded bytes; decoded when opened."""

    name: str
    table: Any
    index: int | None = None
    column: str = "image"

    def content(self) -> bytes | str:
        """The encoded bytes, or the path of a file that holds them. Raises OSError where there are none."""
        cell = self.table if self.index is None else self.table[self.index][self.column]
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") or cell.get("path")
        if not isinstance(cell, bytes | str):
            raise OSError("the cell is empty")
        return cell

    def open(self):
        """The PIL image as stored. Raises OSError where it is none."""
        from PIL import Image

        cell = self.content()
        return Image.open(io.BytesIO(cell) if isinstance(cell, bytes) else cell)

    def __str__(self) -> str:
        return self.name


def read_rows(source: Any, split: str | None = None, limit: int | None = None) -> Iterator[dict]:
    """The rows of `source` as dicts, at most `limit`. Raises FileNotFoundError or ValueError, naming file and line."""
    if not isinstance(source, str | Path):
        rows = _table_rows(source) if hasattr(source, "features") else iter(source)
        return islice((_as_row(row, "the given rows", i) for i, row in enumerate(rows)), limit)
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix not in ROW_FILES:
            raise ValueError(f"{str(source)!r} is no annotation file: expected one of {', '.join(ROW_FILES)}.")
        rows = _table_rows(_parquet([path])) if path.suffix == ".parquet" else _READERS[path.suffix](path)
    else:
        rows = _table_rows(_open_dataset(path, str(source), split, limit))
    return islice((_as_row(row, str(source), i) for i, row in enumerate(rows)), limit)


def load_json(path: Path) -> Any:
    """A JSON file; a COCO file's segmentations, most of its size, are dropped while it is read."""
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, object_hook=lambda item: (item.pop("segmentation", None), item)[1])
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not valid JSON: {error}.") from None


def as_numbers(value: Any) -> Any:
    """Numbers as a file may hold them: lists, or a list written as text, as the official training files do."""
    if isinstance(value, str):
        try:
            return ast.literal_eval(value.strip())  # literals only: nothing is executed
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(f"{value[:60]!r} is not a list of numbers") from None
    return value.tolist() if hasattr(value, "tolist") else value


def first_of(row: Mapping, names: Iterable[str]) -> Any:
    """The first of `names` that the row has a value for, None if it has none."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def image_of(row: Mapping) -> Any:
    """The row's image: a path, a `StoredImage`, a PIL image."""
    image = first_of(row, ("image", "image_path", "file_name", "img", "path"))
    return StoredImage("an image in the row", image) if isinstance(image, bytes | Mapping) else image


def stated_size(row: Mapping) -> tuple[int, int] | None:
    """The `(width, height)` that the row states, if it does."""
    width, height = (first_of(row, names) for names in (("width", "img_width"), ("height", "img_height")))
    return (int(width), int(height)) if width and height else None


def _as_row(row: Any, source: str, index: int) -> dict:
    if not isinstance(row, Mapping):
        raise ValueError(f"Row {index} of {source!r} is {str(row)[:40]!r}, expected named fields.")
    return dict(row)


def _read_json(path: Path) -> Iterator:
    rows = load_json(path)
    if isinstance(rows, dict):  # {"data": [...]} and the like: one list under one name
        lists = [value for value in rows.values() if isinstance(value, list)]
        rows = lists[0] if len(lists) == 1 else [rows]
    return iter(rows if isinstance(rows, list) else [rows])


def _read_jsonl(path: Path) -> Iterator:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ValueError(f"Line {number} of {str(path)!r} is not valid JSON: {error}.") from None


def _read_csv(path: Path, delimiter: str = ",") -> Iterator:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter=delimiter):
            yield {key: value for key, value in row.items() if value not in ("", None)}


_READERS = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": lambda path: _read_csv(path, "\t"),
}


def _parquet(paths: list[Path]):
    import datasets

    try:
        return datasets.load_dataset("parquet", data_files=[str(path) for path in paths], split="train")
    except Exception as error:  # a dozen kinds, from pyarrow up
        raise ValueError(f"{str(paths[0])!r} cannot be read as parquet: {str(error).splitlines()[0]}.") from None


def _open_dataset(path: Path, name: str, split: str | None, limit: int | None):
    """A folder or a hub id as a `datasets.Dataset`, on disk and mapped, not read."""
    import datasets

    if path.is_dir():
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
        raise FileNotFoundError(f"{name!r} does not exist.")
    try:
        return _one_split(datasets.load_dataset(name, split=split, streaming=limit is not None), name, split)
    except Exception as error:  # offline, absent, gated: each library version has its own kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileNotFoundError(f"{name!r} is neither a file nor a dataset that the hub gives: {reason}.") from None


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
