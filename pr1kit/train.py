"""`python -m pr1kit train`: a GRPO run from a YAML file, from flags, or from both.

    python -m pr1kit train --config grounding --data refcoco_train.json --profile 24GB --out runs/grounding
    accelerate launch -m pr1kit train --config my.yaml          # the same run on several GPUs

What is said later wins: defaults, a shipped configuration (the paper's), the profile, your own YAML, flags. Every key
of a YAML file is a flag, with hyphens for underscores.
"""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pr1kit.sample import TASKS
from pr1kit.settings import PAPER, TINY, GRPOSettings

CONFIGS = Path(__file__).resolve().parent / "configs"
ENGINES = ("hf", "vllm")
TRACKERS = ("tensorboard", "wandb", "trackio")


@dataclass(frozen=True)
class Run:
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


HELP = {
    "task": f"one of {', '.join(TASKS)}",
    "policy": "tiny, a folder, or a hub id",
    "data": "scenes, or what pr1kit.load_dataset reads",
    "layout": "how --data is laid out, where that does not show",
    "split": "which split of --data",
    "images": "the folder of the pictures, where it is not that of --data",
    "frame": "how --data writes boxes: pixel, norm1000, or WIDTHxHEIGHT",
    "box_format": "xyxy or xywh, where the layout leaves it open",
    "limit": "take a random part of the data, of this size, drawn with the seed; 0 takes all",
    "out": "the run's folder (default: runs/<task>)",
    "profile": "choices for a GPU of this size: 16GB, 24GB, 80GB, or auto",
    "quantization": "4bit or 8bit",
    "drop": "parts of the reward to leave out",
    "lora": "train adapters instead of all weights; in YAML also a mapping: r, alpha, vision, merger, …",
    "engine": "what writes the rollouts: hf or vllm",
    "report_to": f"{', '.join(TRACKERS)}, several with commas, or none",
    "merge": "at the end also export the adapter merged into its base",
    "trl": "further options of TRL's GRPOConfig, as key=value",
}


def add_command(commands) -> None:
    """Add `train` to the subcommands of `python -m pr1kit`."""
    parser = commands.add_parser("train", help="train a policy with GRPO on your data", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    shipped = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    parser.add_argument("--config", help=f"a YAML file, or one of the paper's: {shipped}")
    parser.add_argument("--dry-run", action="store_true", help="print the settings as YAML and end")
    for field in (*fields(Run), *fields(GRPOSettings)):
        flag, words = f"--{field.name.replace('_', '-')}", HELP.get(field.name)
        how: dict[str, Any] = {"default": argparse.SUPPRESS, "help": words, "dest": field.name}
        if field.type.startswith("bool"):
            how |= {"action": argparse.BooleanOptionalAction}
        elif field.name == "trl":
            how |= {"nargs": "+", "metavar": "KEY=VALUE"}
        elif field.type.startswith("tuple"):
            how |= {"nargs": "+", "metavar": "NAME"}
        else:
            how |= {"metavar": field.type.split(" ")[0].upper()}
        parser.add_argument(flag, **how)
    parser.set_defaults(run=train)


def train(arguments: argparse.Namespace) -> int:
    """The subcommand: settings, samples, policy, training, export."""
    flags = {key: value for key, value in vars(arguments).items() if key in KEYS}
    run, settings = read_run(arguments.config, flags)
    if arguments.dry_run:
        import yaml

        print(yaml.safe_dump(asdict(run) | asdict(settings), sort_keys=False), end="")
        return 0
    options = trl_options(run)
    samples = load_samples(run, settings)

    import torch

    from pr1kit.adapters import export_adapter, export_model
    from pr1kit.grpo import train_grpo
    from pr1kit.policy import load_policy

    sharded = "true" in (os.environ.get("ACCELERATE_USE_FSDP"), os.environ.get("ACCELERATE_USE_DEEPSPEED"))
    torch.manual_seed(settings.seed)  # every process draws the same fresh adapters
    policy = load_policy(
        run.policy,
        dtype=run.dtype,
        device="cpu" if sharded else run.device,
        attn=run.attn,
        lora=run.lora,
        quantization=run.quantization,
        min_pixels=run.min_pixels,
        max_pixels=run.max_pixels,
        profile=run.profile,
    )
    main = int(os.environ.get("RANK", 0)) == 0
    out = Path(run.out)
    say = print if main else lambda *words: None
    say(f"{settings.steps} steps of {settings.prompts_per_step * settings.num_generations} completions on "
        f"{len(samples)} {run.task} samples, recipe {settings.recipe}, in {out}")  # fmt: skip
    if note := _memory(policy, settings):
        say(note)
    from tqdm.auto import tqdm

    with tqdm(total=settings.steps, desc="GRPO", unit="step", disable=not main) as bar:
        log = train_grpo(policy, samples, out, settings, bar=bar, trl=options)
    if not main or sharded:
        say(f"The newest checkpoint in {out} holds the trained weights.")
        return 0
    adapted = hasattr(policy.model, "peft_config")
    saved = export_adapter(policy, out / "adapter") if adapted else export_model(policy, out / "model")
    say(f"Reward {_mean(log[: len(log) // 5 or 1]):.3f} in the first fifth of the steps, "
        f"{_mean(log[-(len(log) // 5 or 1) :]):.3f} in the last. Saved: {saved}")  # fmt: skip
    if adapted and run.merge:
        say(f"Merged: {export_model(policy, out / 'merged')}")
    return 0


KEYS = {field.name: field.type for field in (*fields(Run), *fields(GRPOSettings))}


def read_run(config: str | None, flags: Mapping[str, Any]) -> tuple[Run, GRPOSettings]:
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
        from pr1kit.profiles import get_profile

        _, profile = get_profile(values["profile"])
        rate = {"learning_rate": profile.learning_rate} if values.get("lora") is not False else {}
        values = paper | rate | {"optim": profile.optim} | own
    run = Run(**{key: value for key, value in values.items() if key in Run.__dataclass_fields__})
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


def trl_options(run: Run) -> dict[str, Any]:
    """What the run says to TRL directly. Raises ValueError where an engine or a tracker is not installed."""
    if run.engine not in ENGINES:
        raise ValueError(f"Unknown engine {run.engine!r}: choose one of {', '.join(ENGINES)}.")
    if run.engine == "vllm" and find_spec("vllm") is None:
        raise ValueError("--engine vllm needs vLLM and a GPU: pip install 'trl[vllm]', or use --engine hf.")
    trackers = [name for name in run.report_to.replace(" ", "").split(",") if name not in ("", "none")]
    for name in trackers:
        if name not in TRACKERS:
            raise ValueError(f"Unknown tracker {name!r}: choose among {', '.join(TRACKERS)}, or none.")
        if find_spec(name) is None:
            raise ValueError(f"--report-to {name} needs its package: pip install {name}.")
    vllm = {"use_vllm": True} if run.engine == "vllm" else {}
    return {**vllm, "report_to": trackers or "none", **(run.trl or {})}


def load_samples(run: Run, settings: GRPOSettings) -> list:
    """The samples to train on: scenes, one for each prompt of the run, or the data, or a random part of them."""
    from pr1kit.datasets import load_dataset

    if run.data == "scenes":
        count = run.limit or settings.steps * settings.prompts_per_step
        return list(load_dataset("scenes", run.task, limit=count, split=run.split, seed=settings.seed))
    frame: Any = run.frame
    if frame and "x" in frame:
        width, _, height = frame.partition("x")
        frame = (int(width), int(height)) if width.isdigit() and height.isdigit() else frame
    samples = load_dataset(
        run.data,
        run.task,
        run.layout,
        run.split,
        frame=frame,
        images=run.images,
        box_format=run.box_format,
    )
    if not run.limit or run.limit >= len(samples):
        return list(samples)
    import numpy as np

    chosen = np.random.default_rng(settings.seed).choice(len(samples), run.limit, replace=False)
    return [samples[i] for i in sorted(chosen.tolist())]


def _memory(policy, settings: GRPOSettings) -> str:
    """The estimate for this run on this GPU, with a warning where it may not fit; "" on the CPU.

    Raises ValueError where the weights and what training adds to them alone are too much.
    """
    import torch

    from pr1kit.memory import check_fits, estimate_run

    if policy.core.device.type != "cuda":
        return ""
    estimate = estimate_run(policy, settings, int(os.environ.get("WORLD_SIZE", 1)))
    available = torch.cuda.get_device_properties(policy.core.device).total_memory
    return f"{estimate}{check_fits(estimate, available)}"


def _mean(rows: list[dict]) -> float:
    return sum(row["reward"] for row in rows) / len(rows)
