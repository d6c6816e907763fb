"""`python -m pr1kit train`: settings, samples, policy, training, export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pr1kit.models.vllm import require_vllm
from pr1kit.training.config import RunConfig, read_run
from pr1kit.training.grpo_settings import GRPOSettings

TRACKERS = ("tensorboard", "wandb", "trackio")


def main(flags: Sequence[str]) -> int:
    """The subcommand, from its flags."""
    run, settings, dry = read_run(flags)
    if dry:
        import yaml

        values = asdict(run) | asdict(settings)
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        print(yaml.safe_dump(plain, sort_keys=False), end="")
        return 0
    options = trl_options(run)
    samples = load_samples(run, settings)

    import torch

    from pr1kit.models.export import export_adapter, export_model
    from pr1kit.models.policy import load_policy
    from pr1kit.training.grpo import train_grpo
    from pr1kit.training.resumable_run import is_sharded

    sharded = is_sharded()
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
    if run.engine == "vllm":
        require_vllm(run.quantization)
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
    samples = load_dataset(
        run.data,
        run.task,
        run.layout,
        run.split,
        limit=run.limit or None,
        frame=run.frame,
        images=run.images,
        box_format=run.box_format,
        shuffle_seed=settings.seed,
    )
    return list(samples)


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
