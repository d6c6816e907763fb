"""Settings as dataclasses, filled from YAML files and flags by transformers' `HfArgumentParser`.

Each field is a YAML key and a flag; its help stands in its metadata (`option`). A field whose type the parser does not
know (a mapping, a frame) is text on the command line and turned into what it means by its class's `__post_init__`.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Sequence
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any


def option(default: Any, help: str, **how: Any) -> Any:
    """A dataclass field with its help; `how` are further arguments of argparse's `add_argument`."""
    kinds = {"default_factory": lambda: list(default)} if isinstance(default, list) else {"default": default}
    return field(metadata={"help": help, **how}, **kinds)


def make_parser(kinds: Sequence[type], prog: str, description: str | None = None) -> argparse.ArgumentParser:
    """A parser with a flag for each field of the dataclasses `kinds`; it gives what was said, no defaults.

    Raises ValueError, one sentence, for a flag or a value that cannot be read.
    """
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str):
            raise ValueError(f"{message[:1].upper()}{message[1:]}.")

    parser = Parser(
        kinds,
        prog=prog,
        description=description,
        allow_abbrev=False,
        conflict_handler="resolve",  # a field that two of them have is one setting
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return parser


def read_flags(parser: argparse.ArgumentParser, flags: Sequence[str]) -> dict[str, Any]:
    """What the flags say, each value of its kind."""
    said, unknown = parser.parse_known_args(flags)
    if unknown:
        raise ValueError(_unknown(parser, unknown[0]))
    return vars(said)


def read_settings(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    """The settings in a YAML file, each of the kind that its flag has. Raises ValueError that names the file."""
    from pr1kit.data.safe_files import read_yaml

    values, flags = read_yaml(path) or {}, []
    if not isinstance(values, dict):
        raise ValueError(f"{str(path)!r} must hold settings as key: value.")
    for key, value in values.items():
        if value not in (None, []):
            words = value if isinstance(value, list) else [value]
            flags += [f"--{key}", *(w if isinstance(w, str) else json.dumps(w) for w in words)]
    try:
        said = read_flags(parser, flags)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from None
    return said | {key: value for key, value in values.items() if value in (None, [])}


def of_kind(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Those of `values` that are fields of the dataclass `kind`."""
    names: list[Field] = list(fields(kind))
    return {each.name: values[each.name] for each in names if each.name in values}


def _unknown(parser: argparse.ArgumentParser, flag: str) -> str:
    known = [name for action in parser._actions for name in action.option_strings]
    near = difflib.get_close_matches(flag.replace("_", "-"), known, n=1)
    return f"Unknown setting {flag.lstrip('-')!r}{f': did you mean {near[0]!r}?' if near else '.'}"
