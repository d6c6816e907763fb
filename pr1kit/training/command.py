"""`python -m pr1kit train`: settings, samples, policy, training, export."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pr1kit.data.load import load_dataset
from pr1kit.data.sample import Sample
from pr1kit.models.vllm import require_vllm
from pr1kit.training.config import RunConfig, read_run
from pr1kit.training.grpo_settings import GRPOSettings
from pr1kit.training.preference_settings import PerPOSettings
from pr1kit.training.reflection_settings import ReflectionSettings
from pr1kit.training.reper_settings import ReperSettings

ANY = GRPOSettings | PerPOSettings | ReperSettings

SCENES = 1000  # of a run that says neither how many samples nor how many steps
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
    options = trainer_options(run)
    samples, probes = hold_out(load_samples(run, settings), run, settings.seed)

    import torch

    from pr1kit.models.export import export_adapter, export_model
    from pr1kit.models.policy import load_policy
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
    ways = {
        GRPOSettings: partial(_train_grpo, probes=probes),
        PerPOSettings: _train_on_ranked_answers,
        ReperSettings: _train_on_dialogues,
        ReflectionSettings: _train_over_dialogues,
    }
    train: Any = ways[type(settings)]
    result = train(policy, samples, out, run, settings, options, say)
    if not main or sharded:
        say(f"The newest checkpoint in {out} holds the trained weights.")
        return 0
    adapted = hasattr(policy.model, "peft_config")
    saved = export_adapter(policy, out / "adapter") if adapted else export_model(policy, out / "model")
    say(f"{result} Saved: {saved}")
    if adapted and run.merge:
        say(f"Merged: {export_model(policy, out / 'merged')}")
    return 0


def _train_grpo(policy, samples, out: Path, run: RunConfig, settings: GRPOSettings, options, say, *, probes=()) -> str:
    from tqdm.auto import tqdm

    from pr1kit.training.grpo import train_grpo

    say(f"{settings.steps} steps of {settings.prompts_per_step * settings.num_generations} completions on "
        f"{len(samples)} {run.task} samples, recipe {settings.recipe}, in {out}")  # fmt: skip
    if note := _memory(policy, settings, samples):
        say(note)
    with tqdm(total=settings.steps, desc="GRPO", unit="step", disable=say is not print) as bar:
        log = train_grpo(policy, samples, out, settings, bar=bar, trl=options, probes=probes)
    first, last = _fifths(log, "reward")
    return f"Reward {first:.3f} in the first fifth of the steps, {last:.3f} in the last."


def _train_on_ranked_answers(policy, samples, out: Path, run: RunConfig, settings: PerPOSettings, options, say) -> str:
    """Candidates as the run names them, or sampled, each process a share of the samples; then training on them."""
    from tqdm.auto import tqdm

    from pr1kit.training.candidates import make_candidates, read_candidates
    from pr1kit.training.perpo import train_perpo

    if note := _memory(policy, settings, samples):
        say(note)
    if run.candidates:
        candidates = read_candidates(run.candidates, policy, samples)
    else:
        args = settings.config(out)  # joins the processes
        share, n = -(-len(samples) // args.world_size), settings.num_candidates
        start = share * args.process_index
        say(f"{n} candidates of each of {len(samples)} {run.task} samples, recipe {settings.recipe}, in {out}")
        with tqdm(total=share, desc="candidates", unit="prompt", disable=say is not print) as bar:
            make_candidates(
                policy,
                samples[start : start + share],
                n,
                temperature=settings.temperature,
                seed=settings.seed,
                recipe=settings.recipe,
                truth=settings.truth,
                path=out / f"sampled-{args.process_index}.jsonl",
                first=start,
                bar=bar,
                thinking=settings.thinking,
                max_new_tokens=settings.max_completion_length,
            )
        args.distributed_state.wait_for_everyone()
        files = [out / f"sampled-{i}.jsonl" for i in range(args.world_size)]
        candidates = [each for file in files if file.exists() for each in read_candidates(file, policy, samples)]
    with tqdm(desc=settings.method, unit="step", disable=say is not print) as bar:
        log = train_perpo(policy, candidates, out, settings, bar=bar, options=options)
    counts = json.loads((out / "settings.json").read_text(encoding="utf-8"))["lists"]
    said = ", ".join(f"{name}: {count}" for name, count in counts.items())
    first, last = _fifths(log, "loss")
    return f"Lists of candidates: {said}. Loss {first:.3f} in the first fifth of the steps, {last:.3f} in the last."


def _train_on_dialogues(policy, samples, out: Path, run: RunConfig, settings: ReperSettings, options, say) -> str:
    from tqdm.auto import tqdm

    from pr1kit.rewards.critics import RewardCritic
    from pr1kit.rollouts.dialogues import make_dialogues
    from pr1kit.training.reper import train_reper

    say(f"Dialogues from {len(samples)} {run.task} samples, then training on them, in {out}")
    dialogues = make_dialogues(
        policy,
        samples,
        turns=range(1, settings.max_turns + 1),
        least_best=settings.least_best,
        least_gap=settings.least_gap,
        critic=RewardCritic(settings.tells),
        seed=settings.seed,
        thinking=settings.thinking,
        max_new_tokens=settings.max_completion_length,
        progress="answers" if say is print else "",
    )
    with tqdm(desc="reper", unit="step", disable=say is not print) as bar:
        log = train_reper(policy, dialogues, out, settings, bar=bar, options=options)
    counts = ", ".join(f"{name}: {count}" for name, count in dialogues.statistics.items())
    first, last = _fifths(log, "loss")
    return f"Dialogues: {counts}. Loss {first:.3f} in the first fifth of the steps, {last:.3f} in the last."


def _train_over_dialogues(
    policy, samples, out: Path, run: RunConfig, settings: ReflectionSettings, options, say
) -> str:
    from tqdm.auto import tqdm

    from pr1kit.training.reflection_rl import train_reflection

    say(f"{settings.steps} steps of {settings.prompts_per_step * settings.num_generations} dialogues of up to "
        f"{settings.turns} turns on {len(samples)} {run.task} samples, paid for {settings.pays}, in {out}")  # fmt: skip
    if note := _memory(
        policy, replace(settings, max_completion_length=settings.turns * settings.max_completion_length), samples
    ):
        say(note)
    with tqdm(total=settings.steps, desc="reflection", unit="step", disable=say is not print) as bar:
        log = train_reflection(policy, samples, out, settings, bar=bar, trl=options)
    turns = [_fifths(log, f"reward/turn_{turn}") for turn in range(1, settings.turns + 1)]
    first, last = ([f"{ends[i]:.3f}" for ends in turns] for i in (0, 1))
    return f"Reward by turn {', '.join(first)} in the first fifth of the steps, {', '.join(last)} in the last."


def trainer_options(run: RunConfig) -> dict[str, Any]:
    """What the run says to the trainer directly. Raises ValueError where an engine or a tracker is not installed."""
    if run.engine == "vllm":
        require_vllm(run.quantization)
    trackers = [name for name in run.report_to.replace(" ", "").split(",") if name not in ("", "none")]
    for name in trackers:
        if name not in TRACKERS:
            raise ValueError(f"Unknown tracker {name!r}: choose among {', '.join(TRACKERS)}, or none.")
        if find_spec(name) is None:
            raise ValueError(f"--report-to {name} needs its package: pip install {name}.")
    if run.method not in ("grpo", "reflection") and (run.engine == "vllm" or run.trl):
        raise ValueError(f"--engine vllm and --trl are GRPO's: {run.method} has no rollouts while it trains.")
    if run.method == "reflection" and run.engine == "vllm":
        raise ValueError("--engine vllm cannot write dialogues: their turns go on in the trainer's own cache.")
    vllm = {"use_vllm": True} if run.engine == "vllm" else {}
    return {**vllm, "report_to": trackers or "none", **(run.trl or {})}


def load_samples(run: RunConfig, settings: ANY) -> list:
    """The samples to train on: scenes, one for each prompt of the run, or the data, or a random part of them.

    Where the candidates are named and the data are scenes, none: a scene is drawn again from its id.
    """
    if run.data == "scenes":
        if run.candidates:
            return []
        prompts = 0 if isinstance(settings, ReperSettings) else settings.steps * settings.prompts_per_step
        count = run.limit or prompts or SCENES
        known = {"limit": count, "split": run.split, "seed": settings.seed, "frames": run.frames}
        return list(load_dataset("scenes", run.task, **known))
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
        frames=run.frames,
        fps=run.fps,
    )
    return list(samples)


def hold_out(samples: list[Sample], run: RunConfig, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """The samples to train on, and `run.probes` to ask along the way, a picture each: of scenes more are drawn, of data
    the last are taken, and all else that is asked of their pictures with them.

    Raises ValueError where nothing is left to train on, or the method has no probes.
    """
    if not run.probes:
        return samples, []
    if run.method != "grpo":
        raise ValueError(f"--probes are asked along a GRPO run: {run.method} has none.")
    if run.data == "scenes":
        other = "validation" if run.split == "test" else "test"
        return samples, list(load_dataset("scenes", run.task, limit=run.probes, split=other, seed=seed))
    pictures = [str(sample.image) for sample in samples]
    held = {picture: i for i, picture in reversed(list(enumerate(pictures)))}
    held = dict(sorted(held.items(), key=lambda pair: -pair[1])[: run.probes])
    kept = [sample for sample, picture in zip(samples, pictures, strict=True) if picture not in held]
    if not kept or len(held) < run.probes:
        count = len(set(pictures))
        raise ValueError(f"--probes {run.probes} leaves nothing to train on: the data hold {count} pictures.")
    return kept, [samples[i] for i in held.values()]


def _memory(policy, settings: ANY, samples) -> str:
    """The estimate for this run on this GPU, with a warning where it may not fit; "" on the CPU.

    Raises ValueError where the weights and what training adds to them alone are too much.
    """
    import torch

    from pr1kit.models.memory import check_fits, estimate_run

    if policy.core.device.type != "cuda" or isinstance(settings, ReperSettings):
        return ""
    frames = max(len(sample.frames) or 1 for sample in samples)
    if isinstance(settings, PerPOSettings):
        from pr1kit.training.perpo import estimate_perpo

        estimate = estimate_perpo(policy, settings, frames)
    else:
        estimate = estimate_run(policy, settings, int(os.environ.get("WORLD_SIZE", 1)), frames)
    available = torch.cuda.get_device_properties(policy.core.device).total_memory
    return f"{estimate}{check_fits(estimate, available)}"


def _fifths(rows: list[dict], name: str) -> tuple[float, float]:
    """The mean of a logged number in the first and in the last fifth of the steps."""
    count = len(rows) // 5 or 1
    first, last = ([row[name] for row in part] for part in (rows[:count], rows[-count:]))
    return sum(first) / len(first), sum(last) / len(last)
