"""A training run in a folder (`data.run_folder`): claimed by what decides its result, logged, resumed where it was cut.

A resumed run ends as one that was not cut off, or is refused: another setting, other samples, pictures or weights, a
checkpoint without its optimizer or its random state.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from pr1kit.data.durable_files import read_log
from pr1kit.data.fingerprint import differences, fingerprint
from pr1kit.data.run_folder import RunFolder, checkpoint_notes, checkpoint_step
from pr1kit.data.sample import Sample
from pr1kit.models.backends import check_trainable, quiet
from pr1kit.models.memory import out_of_memory_advice
from pr1kit.models.policy import Policy
from pr1kit.rollouts.probes import FILE as PROBES
from pr1kit.training.step_log import RunLog, log_row
from pr1kit.training.weights import load_weights, weights_fingerprint

# What a resumed run may change: it alters memory and disk, not the result.
RESUME_SAFE_FIELDS = ("micro_prompts", "micro_batch", "gradient_checkpointing", "shared_prefix", "save_steps")
FINISHED = "finished.json"  # written when the last step is done: a log of all steps without it was cut off
NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt")


class WholeCheckpoints:
    """Mixed into a `Trainer`: a checkpoint is written aside, signed, and only then takes its name.

    And it is resumed from whole: transformers 5.23 resumes a Qwen2(.5)-VL run from weights whose names it does not
    find, and versions up to at least 5.17 load the reference's copy of an adapter in the place of the adapter; both
    go on from the starting weights without an error.
    """

    _aside: Path | None = None

    def _get_output_dir(self, trial):
        return str(self._aside) if self._aside else super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial):
        folder, main = RunFolder(self.args.output_dir), self.accelerator.is_main_process
        aside, step = folder.path / ".saving", self.state.global_step
        if main:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self._aside = aside
            super()._save_checkpoint(model, trial)
            self._aside = None
            self.accelerator.wait_for_everyone()
            if main:
                weights = None if self._sharded() else weights_fingerprint(self.accelerator.unwrap_model(model))
                folder.finish_checkpoint(aside, step=step, weights=weights)
                folder.keep_newest(self.args.save_total_limit or step)
        except Exception as error:  # safetensors, torch and the file system each have their own for a full disk
            raise OSError(f"The checkpoint of step {step} could not be written ({error}).") from error
        finally:
            self._aside = None
            if main:
                shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        model = model or self.model
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_weights(model, resume_from_checkpoint)

    def _sharded(self) -> bool:
        zero3 = self.is_deepspeed_enabled and self.accelerator.deepspeed_plugin.zero_stage == 3
        return self.accelerator.num_processes > 1 and (self.is_fsdp_enabled or zero3)


def is_sharded() -> bool:
    """Whether `accelerate launch` was told to shard the model over processes (FSDP, DeepSpeed)."""
    return "true" in (os.environ.get("ACCELERATE_USE_FSDP"), os.environ.get("ACCELERATE_USE_DEEPSPEED"))


def train_in_folder(
    policy: Policy,
    samples: Sequence[Sample],
    identity: Mapping,
    args: TrainingArguments,
    make_trainer: Callable[[RunLog], Trainer],
    *,
    resume: bool = True,
    bar=None,
    advice: str = "",
) -> list[dict]:
    """Train `policy` in place in `args.output_dir` with the trainer that is made for this log; returns the log's rows.

    `identity` holds the settings that make this run another than its neighbours; policy and samples add their own.
    Raises ValueError where the folder holds another run, is being written by another process, or cannot be resumed
    equally, or where its weights cannot be trained; MemoryError where the memory is not enough, with `advice` (by
    default what to lower, in which order); OSError where the disk is full; KeyboardInterrupt (after saving) when
    interrupted.
    """
    check_trainable(policy.model)
    folder, log = RunFolder(args.output_dir), RunLog(Path(args.output_dir), bar)
    if args.process_index:
        return _run(folder, policy, samples, identity, args, make_trainer, log, resume, advice)
    with folder.lock():
        return _run(folder, policy, samples, identity, args, make_trainer, log, resume, advice)


def _run(folder, policy, samples, identity, args, make_trainer, log, resume, advice) -> list[dict]:
    with args.main_process_first(desc="run folder"):
        checkpoint = _open(folder, policy, samples, identity, args, resume)
    done = checkpoint_step(checkpoint) if checkpoint else 0
    if done < args.max_steps:
        try:
            _train(policy, make_trainer, log, checkpoint)
        except RuntimeError as error:  # on the CPU torch has no class of its own for it
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            advice = advice or (
                f"Lower {out_of_memory_advice()}. The same folder goes on after the first two; the others make another "
                "run."
            )
            raise MemoryError(f"The memory was not enough; {folder.path} {_saved(folder)}. {advice}") from error
        except OSError as error:
            raise OSError(f"{error} {folder.path} {_saved(folder)}: the same command goes on from there.") from error
    else:
        load_weights(policy.model, checkpoint)
    policy.model.eval()
    if log.stop:
        raise KeyboardInterrupt(f"Stopped and saved in {folder.path}.")
    if args.process_index == 0:
        folder.write(FINISHED, json.dumps({"steps": args.max_steps}))
    return read_log(folder.path / "log.jsonl")


def _open(folder: RunFolder, policy, samples, identity, args, resume: bool) -> Path | None:
    """Claim the folder for this run, or find the checkpoint from which it goes on, the logs cut to it."""
    identity, data = _identity(policy, samples, identity, args), fingerprint(samples)
    start = weights_fingerprint(policy.model)
    known = folder.check(identity, (*RESUME_SAFE_FIELDS, "data", "weights"))
    if known and (words := _changes(folder, data)):
        raise ValueError(f"{str(folder.path)!r} holds a run on other samples ({words}): choose another folder.")
    checkpoint = None
    if known and resume:
        began = folder.settings()
        checkpoint = _resumable(folder, began["weights"], start, bool(identity.get("beta")), args)
        start = began["weights"]
        if began["kit"] != version("pr1kit"):
            warnings.warn(
                f"{folder.path} was begun with pr1kit {began['kit']}, and goes on with another.", stacklevel=2
            )
    if args.process_index == 0:
        if checkpoint is None:
            folder.keep_newest(0)
            (folder.path / FINISHED).unlink(missing_ok=True)
        folder.write("samples.json", json.dumps(data))
        folder.claim(identity | {"data": data["digest"], "weights": start, "kit": version("pr1kit")})
        _cut_logs(folder, checkpoint)
    return checkpoint


def _changes(folder: RunFolder, data: Mapping) -> str:
    """How the samples differ from those that the run began on, "" where they do not."""
    if folder.settings()["data"] == data["digest"]:
        return ""
    try:
        return "; ".join(differences(folder.read("samples.json"), data))
    except ValueError:  # damaged: the digest of all has told enough
        return "which ones cannot be told, samples.json is damaged"


def _identity(policy: Policy, samples, identity: Mapping, args) -> dict:
    """What decides the result of a run: settings, policy, data."""
    processor, adapter = policy.processor, getattr(policy.model, "peft_config", {}).get("default")
    reads = json.dumps([processor.chat_template, processor.image_processor.to_dict()], default=str, sort_keys=True)
    lora = {name: getattr(adapter, name, None) for name in ("r", "lora_alpha", "lora_dropout", "target_modules")}
    own = {
        "policy": policy.name,
        "samples": len(samples),
        "dtype": str(policy.core.dtype).removeprefix("torch."),
        "quantization": policy.quantization,
        "lora": {k: sorted(v) if isinstance(v, set) else v for k, v in lora.items()} if adapter else None,
        "pixels": dict(processor.image_processor.size),
        "processor": hashlib.sha256(reads.encode()).hexdigest()[:16],
        "processes": args.world_size,
    }
    return json.loads(json.dumps({**identity, **own}, default=str))


def _resumable(folder: RunFolder, began: str, now: str, to_start: bool, args) -> Path | None:
    """The newest whole checkpoint. Raises ValueError where going on from it would not be equal.

    `began` and `now` are fingerprints of the policy's weights at the run's start and now: they must agree, or, unless a
    KL term is measured `to_start`, `now` be one that the run itself has saved.
    """
    had, checkpoint = folder.checkpoints(), folder.newest_checkpoint()
    where = str(folder.path)
    if checkpoint is None:
        if had:
            raise ValueError(f"No checkpoint in {where!r} is whole: all are set aside; the same command begins anew.")
        if (folder.path / FINISHED).exists():
            raise ValueError(
                f"{where!r} holds a finished run whose checkpoints are gone: load what it exported, or choose another "
                "folder to run it again."
            )
    if now != began and (to_start or now not in [checkpoint_notes(path)["weights"] for path in folder.checkpoints()]):
        raise ValueError(
            f"{where!r} holds a run that began with other weights than this policy has now: load the policy again, or "
            "choose another folder."
        )
    if checkpoint and not is_sharded():
        random = "rng_state.pth" if args.world_size == 1 else f"rng_state_{args.process_index}.pth"
        if missing := [name for name in (*NEEDED, random) if not (checkpoint / name).exists()]:
            raise ValueError(f"{checkpoint} has no {missing[0]}: going on from it would be another run.")
    return checkpoint


def _cut_logs(folder: RunFolder, checkpoint: Path | None) -> None:
    """`log.jsonl` as the checkpoint remembers it, the others cut to its step; what is dropped stays in a copy."""
    done = checkpoint_step(checkpoint) if checkpoint else 0
    sizes = checkpoint_notes(checkpoint)["logs"] if checkpoint else {}
    folder.cut("log.jsonl", done)
    folder.cut(PROBES, done if checkpoint else -1)  # step 0, too, was answered by the policy of another start
    for fault in folder.cut("rollouts.jsonl", done, sizes.get("rollouts.jsonl", 0)):
        print(fault)
    if checkpoint:
        history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        rows = [row for logs in history if (row := log_row(logs["step"], logs))]
        if rows != _rows(folder):
            folder.write("log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _rows(folder: RunFolder) -> list[dict]:
    try:
        return read_log(folder.path / "log.jsonl")
    except (OSError, ValueError):
        return []


def _saved(folder: RunFolder) -> str:
    newest = next(iter(folder.checkpoints()), None)
    return f"is saved up to step {checkpoint_step(newest)}" if newest else "has no checkpoint yet"


def _train(policy: Policy, make_trainer: Callable[[RunLog], Trainer], log: RunLog, checkpoint: Path | None) -> None:
    with quiet():
        trainer = make_trainer(log)
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            log.release_signals()
            if "ref" in getattr(policy.model, "peft_config", ()):
                policy.model.delete_adapter("ref")  # TRL's copy of the adapter at the start of the run
