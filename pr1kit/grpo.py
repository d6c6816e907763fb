"""GRPO runs: settings, samples as TRL's rows, and a run in a folder that can be cut off and gone on with.

Under `accelerate launch` every process calls the same function; TRL and accelerate do the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig

from pr1kit.adapters import is_quantized, load_adapter_weights
from pr1kit.images import probe, upright_size
from pr1kit.memory import what_to_lower
from pr1kit.policy import Policy, chat
from pr1kit.rewards import reward_function
from pr1kit.run_log import RunLog, cut_log, quiet, read_log
from pr1kit.sample import Sample, Target
from pr1kit.settings import PAPER, TINY, GRPOSettings
from pr1kit.trainer import PerceptionGRPOTrainer, load_weights


def to_dataset(samples: Sequence[Sample], policy: Policy, *, thinking: bool = False) -> Dataset:
    """The samples as the rows that `GRPOTrainer` and `reward_function` take: prompt, image, the truth, its frame.

    An image is read when its row is asked for; here a file's header alone.
    """
    if not samples:
        raise ValueError("There are no samples to train on.")
    rows: dict[str, list] = {key: [] for key in ("prompt", "image", "id", "frame", *samples[0].target.to_dict())}
    for i, sample in enumerate(samples):
        size = upright_size(*probe(sample.image, decode=False))
        words = chat(sample, thinking)[0]["content"][1]["text"]
        frame = policy.frame(size)
        row = {
            **_checked(sample, size).to_dict(),
            "prompt": [{"role": "user", "content": words}],
            "image": i,
            "id": sample.id,
            "frame": frame if isinstance(frame, str) else list(frame),
        }
        for key, value in row.items():
            rows[key].append(value)

    def read(batch):
        return {"image": [samples[i].load_image() for i in batch["image"]]}

    return Dataset.from_dict(rows).with_transform(read, columns=["image"], output_all_columns=True)


def _checked(sample: Sample, image_size: tuple[int, int]) -> Target:
    """The sample's target against the image as it is. Raises ValueError that names the sample."""
    try:
        if sample.target.image_size not in (None, image_size):
            raise ValueError(f"the image has {image_size} pixels, its target says {sample.target.image_size}.")
        return replace(sample.target, image_size=image_size)
    except ValueError as error:
        raise ValueError(f"Sample {sample.id!r}: {error}") from None


__all__ = ["PAPER", "TINY", "GRPOSettings", "to_dataset", "train_grpo"]

# What a resumed run may change: it alters memory and disk, not the result.
FREE = ("micro_prompts", "gradient_checkpointing", "shared_prefix", "save_steps")


def train_grpo(
    policy: Policy,
    samples: Sequence[Sample],
    folder: str | Path,
    settings: GRPOSettings = TINY,
    *,
    resume: bool = True,
    bar=None,
    trl: Mapping = {},
) -> list[dict]:
    """Train `policy` in place on samples of one task; returns the log, one dict a step.

    `folder` gets `settings.json`, `log.jsonl`, `rollouts.jsonl` and checkpoints. With `resume`, a run that was cut off
    goes on from its newest checkpoint. An adapter is trained where the policy has one, else all weights. `trl` holds
    further options of TRL's `GRPOConfig` (`report_to`, `use_vllm`, …). Raises ValueError where the folder holds a run
    with other settings, MemoryError (what to lower, in which order) where the GPU's memory is not enough, and
    KeyboardInterrupt (after saving) when interrupted.
    """
    folder = Path(folder)
    tasks = {sample.task for sample in samples}
    if len(tasks) != 1:
        raise ValueError(f"A GRPO run trains one task, these samples hold {', '.join(sorted(tasks)) or 'none'}.")
    adapted = hasattr(policy.model, "peft_config")
    if is_quantized(policy.model) and not adapted:
        raise ValueError("4-bit and 8-bit weights cannot be trained themselves: load the policy with lora=True.")
    args = settings.config(folder, **trl)
    identity = {"task": tasks.pop(), "policy": policy.name, "samples": len(samples), **asdict(settings)}
    identity |= {"quantization": policy.quantization, "pixels": dict(policy.processor.image_processor.size)}
    identity |= {"lora": str(policy.model.peft_config["default"].target_modules)} if adapted else {}
    with args.main_process_first(desc="run folder"):
        _check_run(folder, identity)
        checkpoint = get_last_checkpoint(str(folder)) if resume and folder.is_dir() else None
        done = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
        if args.process_index == 0:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "settings.tmp").write_text(json.dumps(identity, indent=1))
            (folder / "settings.tmp").replace(folder / "settings.json")
            cut_log(folder / "log.jsonl", done)
            cut_log(folder / "rollouts.jsonl", done)
    log = RunLog(folder, bar)
    if done < settings.steps:
        try:
            _train(policy, samples, settings, args, log, checkpoint)
        except torch.OutOfMemoryError as error:
            saved = get_last_checkpoint(str(folder))
            where = f"step {saved.rsplit('-', 1)[1]}" if saved else "the start"
            raise MemoryError(
                f"The GPU's memory was not enough; {folder} is saved up to {where}. Lower {what_to_lower()}. The same "
                "folder goes on after the first two; the others make another run."
            ) from error
    elif adapted:
        load_adapter_weights(policy.model, checkpoint)
    else:
        load_weights(policy.model, checkpoint)
    policy.model.eval()
    if log.stop:
        raise KeyboardInterrupt(f"Stopped and saved in {folder}.")
    return read_log(folder / "log.jsonl")


def _check_run(folder: Path, identity: dict) -> None:
    """Raises ValueError where `folder` holds another run."""
    if (path := folder / "settings.json").exists():
        old, new = ({k: v for k, v in run.items() if k not in FREE} for run in (json.loads(path.read_text()), identity))
        if old != new:
            changed = next(key for key in {**old, **new} if old.get(key) != new.get(key))
            raise ValueError(
                f"{str(folder)!r} holds a run with other settings ({changed} was {old.get(changed)!r}): "
                "choose another folder or remove it."
            )


def _train(policy: Policy, samples, settings: GRPOSettings, args: GRPOConfig, log: RunLog, checkpoint) -> None:
    with quiet():
        trainer = PerceptionGRPOTrainer(
            model=policy.model,
            reward_funcs=reward_function(samples[0].task, settings.recipe),
            args=args,
            train_dataset=to_dataset(samples, policy, thinking=settings.thinking),
            processing_class=policy.processor,
            callbacks=[log],
            shared_prefix=settings.shared_prefix,
            rollout_log=Path(args.output_dir) / "rollouts.jsonl",
        )
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        finally:
            log.release_signals()
            if "ref" in getattr(policy.model, "peft_config", ()):
                policy.model.delete_adapter("ref")  # TRL's copy of the adapter at the start of the run
