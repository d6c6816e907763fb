"""A training run in a folder: claimed by its settings, logged, resumed where it was cut off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from pr1kit.models.adapters import is_quantized, load_adapter_weights
from pr1kit.models.backends import quiet
from pr1kit.models.memory import out_of_memory_advice
from pr1kit.models.policy import Policy
from pr1kit.training.step_log import RunLog, cut_log, read_log

# What a resumed run may change: it alters memory and disk, not the result.
RESUME_SAFE_FIELDS = ("micro_prompts", "micro_batch", "gradient_checkpointing", "shared_prefix", "save_steps")


class ResumesWhole:
    """Mixed into a `Trainer`: transformers 5.23 resumes a Qwen2(.5)-VL run from weights whose names it does not find,
    and goes on from the starting weights without an error."""

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        model = model or self.model
        if hasattr(model, "peft_config") or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_weights(model, resume_from_checkpoint)


def load_weights(model, checkpoint: str | Path) -> None:
    """Copy a saved checkpoint's weights into `model` of the same class, every one of them."""
    model.load_state_dict(type(model).from_pretrained(checkpoint, dtype=model.dtype).state_dict())


def train_in_folder(
    policy: Policy,
    identity: dict,
    args: TrainingArguments,
    make_trainer: Callable[[RunLog], Trainer],
    *,
    resume: bool = True,
    bar=None,
) -> list[dict]:
    """Train `policy` in place in `args.output_dir` with the trainer that is made for this log; returns the log's rows.

    `identity` is what makes this run another than its neighbours; it is kept in `settings.json`. Raises ValueError
    where the folder holds a run with another identity, or quantized weights have no adapter; MemoryError (what to
    lower, in which order) where the GPU's memory is not enough; KeyboardInterrupt (after saving) when interrupted.
    """
    adapted, folder = hasattr(policy.model, "peft_config"), Path(args.output_dir)
    if is_quantized(policy.model) and not adapted:
        raise ValueError("4-bit and 8-bit weights cannot be trained themselves: load the policy with lora=True.")
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
    if done < args.max_steps:
        try:
            _train(policy, make_trainer, log, checkpoint)
        except torch.OutOfMemoryError as error:
            saved = get_last_checkpoint(str(folder))
            where = f"step {saved.rsplit('-', 1)[1]}" if saved else "the start"
            raise MemoryError(
                f"The GPU's memory was not enough; {folder} is saved up to {where}. Lower {out_of_memory_advice()}. "
                "The same folder goes on after the first two; the others make another run."
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
        runs = json.loads(path.read_text()), json.loads(json.dumps(identity))
        old, new = ({k: v for k, v in run.items() if k not in RESUME_SAFE_FIELDS} for run in runs)
        if old != new:
            changed = next(key for key in {**old, **new} if old.get(key) != new.get(key))
            raise ValueError(
                f"{str(folder)!r} holds a run with other settings ({changed} was {old.get(changed)!r}): "
                "choose another folder or remove it."
            )


def _train(policy: Policy, make_trainer: Callable[[RunLog], Trainer], log: RunLog, checkpoint: str | None) -> None:
    with quiet():
        trainer = make_trainer(log)
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        finally:
            log.release_signals()
            if "ref" in getattr(policy.model, "peft_config", ()):
                policy.model.delete_adapter("ref")  # TRL's copy of the adapter at the start of the run
