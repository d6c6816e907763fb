"""What a training run is told: a YAML file, one of the paper's configurations, a profile, flags; what is later wins."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pr1kit.data.options import make_parser, of_kind, option, read_flags, read_settings
from pr1kit.data.sample import TASKS
from pr1kit.data.shipped import POLICIES
from pr1kit.training.grpo_settings import TINY, GRPOSettings
from pr1kit.training.preference_settings import METHODS, TINY_PERPO, PerPOSettings
from pr1kit.training.reflection_settings import TINY_REFLECTION, ReflectionSettings
from pr1kit.training.reper_settings import TINY_REPER, ReperSettings

CONFIGS = Path(__file__).resolve().parent / "configs"
DESCRIPTION = """A run of GRPO, on ranked answers, or on dialogues, from a YAML file, from flags, or from both.

    python -m pr1kit train --config grounding --data refcoco_train.json --profile 24GB --out runs/grounding
    python -m pr1kit train --config perpo-grounding --data refcoco_train.json --profile 16GB
    accelerate launch -m pr1kit train --config my.yaml          # the same run on several GPUs

What is said later wins: defaults, a shipped configuration (the paper's), the profile, your own YAML, flags. Every key
of a YAML file is a flag, with hyphens for underscores."""


@dataclass(frozen=True)
class RunConfig:
    """What a run is, beside the settings of its method (`GRPOSettings`, `PerPOSettings`, `ReperSettings`,
    `ReflectionSettings`); each field is a YAML key and a flag."""

    method: Literal["grpo", "perpo", "lipo", "dpo", "best_of_n", "reper", "reflection"] = option(
        "grpo",
        "grpo, on ranked answers (perpo, lipo, dpo, best_of_n), on dialogues (reper), grpo over them (reflection)",
    )
    task: str = option("", f"one of {', '.join(TASKS)}")
    policy: str = option("tiny", "tiny, a folder, or a hub id")
    data: str = option("", "scenes, or what pr1kit.load_dataset reads")
    layout: str = option("auto", "how --data is laid out, where that does not show")
    split: str | None = option(None, "which split of --data")
    images: str | None = option(None, "the folder of the pictures, where it is not that of --data")
    frame: str | None = option(None, "how --data writes boxes: pixel, norm1000, or WIDTHxHEIGHT")
    box_format: str | None = option(None, "xyxy or xywh, where the layout leaves it open")
    limit: int = option(0, "take a random part of the data, of this size, drawn with the seed; 0 takes all")
    probes: int = option(
        0, "hold out so many pictures, asked along a GRPO run; pr1kit explore --export shows their answers"
    )
    frames: int = option(8, "of a clip, where --data are videos")
    fps: float | None = option(2.0, "frames a second to take of videos")
    out: str = option("", "the run's folder (default: runs/<task>, with another method runs/<method>-<task>)")
    candidates: str | None = option(
        None, "ranked answers: a JSON Lines file or the folder of a GRPO run (default: sampled from the policy)"
    )
    profile: str | None = option(None, "choices for a GPU of this size: 16GB, 24GB, 80GB, or auto")
    attn: str = option("auto", "attention of transformers: auto takes the fastest that runs here")
    dtype: str = option("auto", "of the weights, such as bfloat16 (auto: the checkpoint's)")
    device: str | None = option(None, "cpu or cuda:1, for example")
    quantization: str | None = option(None, "4bit or 8bit")
    lora: dict | str | None = option(
        None, 'train adapters instead of all weights; also a mapping: {"r": 8, "vision": true}', nargs="?", const="true"
    )
    min_pixels: int | None = option(None, "smallest image that the model sees")
    max_pixels: int | None = option(None, "largest image that the model sees")
    engine: Literal["hf", "vllm"] = option("hf", "what writes the rollouts: hf or vllm")
    report_to: str = option("none", "tensorboard, wandb, trackio, several with commas, or none")
    merge: bool = option(False, "at the end also export the adapter merged into its base")
    trl: dict | str | None = option(None, "further options of TRL's GRPOConfig: key=value", nargs="+")

    def __post_init__(self):
        object.__setattr__(self, "lora", _value(self.lora))
        if isinstance(self.trl, list):
            object.__setattr__(self, "trl", _pairs(self.trl))


def read_run(flags: Sequence[str]) -> tuple[RunConfig, GRPOSettings | PerPOSettings | ReperSettings, bool]:
    """The run that flags make, `--config` (a shipped name or a YAML file) among them; whether it is a dry run.

    Raises ValueError for unknown keys and values of the wrong kind, FileNotFoundError where there is no such file.
    """
    shipped = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    kind, small = _kind_of(_method(flags, shipped))
    parser = make_parser((kind, RunConfig), "python -m pr1kit train", DESCRIPTION)
    parser.add_argument("--config", help=f"a YAML file, or one of the paper's: {', '.join(shipped)}")
    parser.add_argument("--dry-run", action="store_true", help="print the settings as YAML and end")
    parser.add_argument("--no-lora", dest="lora", action="store_const", const="false", default=argparse.SUPPRESS)
    said = read_flags(parser, flags)
    config, dry = said.pop("config"), said.pop("dry_run")
    paper: dict[str, Any] = {}
    if config in shipped:
        paper = read_settings(parser, CONFIGS / f"{config}.yaml")
    elif config is not None:
        if not Path(config).is_file():
            names = ", ".join(shipped)
            raise FileNotFoundError(f"There is no configuration {config!r}: name a YAML file, or one of {names}.")
        said = read_settings(parser, Path(config)) | said
    values = paper | said
    if values.get("profile"):
        from pr1kit.models.profiles import get_profile

        _, profile = get_profile(values["profile"])
        rate = {"learning_rate": profile.learning_rate} if _value(values.get("lora")) is not False else {}
        values = {"policy": profile.model} | paper | rate | {"optim": profile.optim} | said
    run = RunConfig(**of_kind(RunConfig, values))
    tiny = run.policy in POLICIES and config not in shipped
    base = small if tiny else kind()
    settings = replace(base, **of_kind(kind, values))
    if run.task not in TASKS:
        raise ValueError(f"Say which task to train with --task or --config: one of {', '.join(TASKS)}.")
    if not run.data:
        raise ValueError("Say what to train on with --data: scenes (the kit's own), or a file or folder of yours.")
    name = run.task if run.method == "grpo" else f"{run.method}-{run.task}"
    return replace(run, out=run.out or f"runs/{name}"), settings, dry


def _kind_of(method: str | None) -> tuple[type, Any]:
    """The class of a method's settings, and what the tiny policy needs of them."""
    if method in METHODS:
        return PerPOSettings, TINY_PERPO
    if method == "reflection":
        return ReflectionSettings, TINY_REFLECTION
    return (ReperSettings, TINY_REPER) if method == "reper" else (GRPOSettings, TINY)


def _method(flags: Sequence[str], shipped: Sequence[str]) -> str | None:
    """The method that flags or their YAML file say: it decides which settings there are."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method")
    first.add_argument("--config")
    try:
        said = first.parse_known_args(flags)[0]
    except SystemExit:  # a flag without its value: the whole parser says so
        return None
    path = CONFIGS / f"{said.config}.yaml" if said.config in shipped else Path(said.config or "")
    if said.method or not path.is_file():
        return said.method
    from pr1kit.data.safe_files import read_yaml

    values = read_yaml(path)
    return values.get("method") if isinstance(values, dict) else None


def _value(text: Any) -> Any:
    """A flag's text as the value that YAML reads in it."""
    if not isinstance(text, str):
        return text
    from pr1kit.data.safe_files import parse_yaml

    return parse_yaml(text, f"{text[:60]!r} is")


def _pairs(items: Sequence[str]) -> dict[str, Any]:
    if len(items) == 1 and items[0].startswith("{"):
        return _value(items[0])
    if bad := [item for item in items if "=" not in item]:
        raise ValueError(f"--trl takes key=value, got {bad[0]!r}.")
    return {key: _value(value) for key, value in (item.split("=", 1) for item in items)}
