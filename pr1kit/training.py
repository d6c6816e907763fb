"""A training run in a folder: claimed by its settings, logged, resumed where it was cut off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from transformers import PrinterCallback, Trainer
from transformers.trainer_utils import get_last_checkpoint

from pr1kit.policy import Policy
from pr1kit.run_log import RunLog, cut_log, quiet, read_log


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
    folder: Path,
    identity: dict,
    steps: int,
    make_trainer: Callable[[RunLog], Trainer],
    *,
    resume: bool = True,
    bar=None,
) -> list[dict]:
    """Train `policy` in place up to `steps` with the trainer that is made for this log; returns the log's rows.

    `identity` is what makes this run another than its neighbours; it is kept in `folder/settings.json`. Raises
    ValueError where the folder holds a run with another identity, and KeyboardInterrupt (after saving) when
    interrupted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings, text = folder / "settings.json", json.dumps(identity, indent=1)
    if settings.exists() and json.loads(settings.read_text()) != json.loads(text):
        raise ValueError(f"{str(folder)!r} holds a run with other settings: choose another folder or remove it.")
    settings.write_text(text)
    checkpoint = get_last_checkpoint(str(folder)) if resume else None
    done = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    log = RunLog(folder, bar)
    for name in ("log.jsonl", "rollouts.jsonl"):
        cut_log(folder / name, done)
    if done < steps:
        with quiet():
            trainer = make_trainer(log)
            trainer.remove_callback(PrinterCallback)
            try:
                trainer.train(resume_from_checkpoint=checkpoint)
            finally:
                log.release_signals()
    else:
        load_weights(policy.model, checkpoint)
    policy.model.eval()
    if log.stop:
        raise KeyboardInterrupt(f"Stopped and saved in {folder}.")
    return read_log(folder / "log.jsonl")
