"""`python -m pr1kit train`: a GRPO run from a YAML file, from flags, or from both.

    python -m pr1kit train --config grounding --data refcoco_train.json --profile 24GB --out runs/grounding
    accelerate launch -m pr1kit train --config my.yaml          # the same run on several GPUs

What is said later wins: defaults, a shipped configuration (the paper's), the profile, your own YAML, flags. Every key
of a YAML file is a flag, with hyphens for underscores.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pr1kit.data.sample import TASKS
from pr1kit.training.config import CONFIGS, KEYS, RunConfig, read_run
from pr1kit.training.grpo_settings import GRPOSettings

ROLLOUT_ENGINES = ("hf", "vllm")
TRACKERS = ("tensorboard", "wandb", "trackio")


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
    for field in (*fields(RunConfig), *fields(GRPOSettings)):
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

    from pr1kit.models.export import export_adapter, export_model
    from pr1kit.models.policy import load_policy
    from pr1kit.training.grpo import train_grpo

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


def trl_options(run: RunConfig) -> dict[str, Any]:
    """What the run says to TRL directly. Raises ValueError where an engine or a tracker is not installed."""
    if run.engine not in ROLLOUT_ENGINES:
        raise ValueError(f"Unknown engine {run.engine!r}: choose one of {', '.join(ROLLOUT_ENGINES)}.")
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


def load_samples(run: RunConfig, settings: GRPOSettings) -> list:
    """The samples to train on: scenes, one for each prompt of the run, or the data, or a random part of them."""
    from pr1kit.data.load import load_dataset

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

    from pr1kit.models.memory import check_fits, estimate_run

    if policy.core.device.type != "cuda":
        return ""
    estimate = estimate_run(policy, settings, int(os.environ.get("WORLD_SIZE", 1)))
    available = torch.cuda.get_device_properties(policy.core.device).total_memory
    return f"{estimate}{check_fits(estimate, available)}"


def _mean(rows: list[dict]) -> float:
    return sum(row["reward"] for row in rows) / len(rows)
