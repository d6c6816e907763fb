"""What a training run is told: a YAML file, one of the paper's configurations, a profile, flags; what is later wins."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pr1kit.data.sample import TASKS
from pr1kit.training.grpo_settings import PAPER, TINY, GRPOSettings

CONFIGS = Path(__file__).resolve().parent / "configs"


@dataclass(frozen=True)
class RunConfig:
    """What a run is, beside the settings of GRPO (`settings.GRPOSettings`); each field is a YAML key and a flag."""

    task: str = ""
    policy: str = "tiny"
    data: str = ""
    layout: str = "auto"
    split: str | None = None
    images: str | None = None
    frame: str | None = None
    box_format: str | None = None
    limit: int = 0
    out: str = ""
    profile: str | None = None
    attn: str = "auto"
    dtype: str = "auto"
    device: str | None = None
    quantization: str | None = None
    lora: bool | dict | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    engine: str = "hf"
    report_to: str = "none"
    merge: bool = False
    trl: dict | None = None


KEYS = {field.name: field.type for field in (*fields(RunConfig), *fields(GRPOSettings))}


def read_run(config: str | None, flags: Mapping[str, Any]) -> tuple[RunConfig, GRPOSettings]:
    """The run that a configuration (a shipped name or a YAML file, or None) and flags make.

    Raises ValueError for unknown keys and values of the wrong kind, FileNotFoundError where there is no such file.
    """
    file = CONFIGS / f"{config}.yaml"
    shipped = config is not None and file.is_file()
    written = {} if config is None else read_yaml(file if shipped else Path(config))
    paper, own = (written, {}) if shipped else ({}, written)
    own = own | {key: _value(key, value) for key, value in flags.items()}
    values = paper | own
    if values.get("profile"):
        from pr1kit.models.profiles import get_profile

        _, profile = get_profile(values["profile"])
        rate = {"learning_rate": profile.learning_rate} if values.get("lora") is not False else {}
        values = paper | rate | {"optim": profile.optim} | own
    run = RunConfig(**{key: value for key, value in values.items() if key in RunConfig.__dataclass_fields__})
    tiny = run.policy == "tiny" and not shipped
    rest = {key: value for key, value in values.items() if key in GRPOSettings.__dataclass_fields__}
    settings = replace(TINY if tiny else PAPER, **rest)
    if run.task not in TASKS:
        raise ValueError(f"Say which task to train with --task or --config: one of {', '.join(TASKS)}.")
    if not run.data:
        raise ValueError("Say what to train on with --data: scenes (the kit's own), or a file or folder of yours.")
    return replace(run, out=run.out or f"runs/{run.task}"), settings


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, each of its kind. Raises as `read_run`."""
    import yaml

    if not path.is_file():
        names = ", ".join(sorted(each.stem for each in CONFIGS.glob("*.yaml")))
        raise FileNotFoundError(f"There is no configuration {str(path)!r}: name a YAML file, or one of {names}.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{str(path)!r} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{str(path)!r} must hold settings as key: value.")
    return {key: _value(key, value, f" in {str(path)!r}") for key, value in values.items()}


def _value(key: str, value: Any, where: str = "") -> Any:
    """`value` as the kind that setting `key` wants: YAML reads 1e-6 as text, and a flag is always text."""
    if key not in KEYS:
        near = difflib.get_close_matches(str(key), KEYS, n=1)
        raise ValueError(f"Unknown setting {key!r}{where}{f': did you mean {near[0]!r}?' if near else '.'}")
    kinds = KEYS[key].split(" | ")
    if value is None and "None" in kinds:
        return None
    if key == "trl" and isinstance(value, list):
        return _pairs(value)
    try:
        if kinds[0].startswith("tuple"):
            return (value,) if isinstance(value, str) else tuple(map(str, value))
        if isinstance(value, dict) and "dict" in kinds:
            return value
        if "bool" in kinds:
            if not isinstance(value, bool):
                raise ValueError
            return value
        if "int" in kinds:
            if isinstance(value, bool) or int(value) != float(value):
                raise ValueError
            return int(value)
        if "float" in kinds and not isinstance(value, bool):
            return float(value)
        if "str" in kinds and not isinstance(value, dict | list | bool):
            return str(value)
        raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"The setting {key!r}{where} must be {' or '.join(kinds)}, got {value!r}.") from None


def _pairs(items: list[str]) -> dict[str, Any]:
    import yaml

    if bad := [item for item in items if "=" not in str(item)]:
        raise ValueError(f"--trl takes key=value, got {bad[0]!r}.")
    return {key: yaml.safe_load(value) for key, value in (item.split("=", 1) for item in items)}
