"""YAML that is read under limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def parse_yaml(text: str, name: str = "the text") -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {' '.join(str(error).split())}.") from None


def read_yaml(path: Path) -> Any:
    return parse_yaml(path.read_text(encoding="utf-8"), repr(str(path)))
