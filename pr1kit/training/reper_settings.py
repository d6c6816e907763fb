"""The settings of a run that learns reflection (`reper`), with RePer's values and the tiny policy's."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pr1kit.data.options import option
from pr1kit.rewards.critics import TELLS
from pr1kit.training.grpo_settings import training_arguments

PER = ("token", "answer")


@dataclass(frozen=True)
class ReperSettings:
    """One run on dialogues. The defaults are RePer's (arXiv 2504.07165), but for `per` and `max_completion_length`,
    which it does not tell.

    `batch_size` counts the dialogues of all processes, `micro_batch` of which go through the model at once. What stands
    after `seed` is for the dialogues that `python -m pr1kit train` makes, see `make_dialogues`.
    """

    steps: int = option(0, "training steps; 0 is one pass over the dialogues")
    learning_rate: float = option(1e-6, "at its peak")
    batch_size: int = option(8, "dialogues of a step, of all processes together")
    micro_batch: int = option(1, "dialogues that go through the model at once")
    alpha: float = option(10.0, "weight of the unlikelihood of what earned little; 0 leaves the likelihood alone")
    per: str = option("token", "log(1 - pi) of each token, or of the whole answer")
    lr_scheduler: str = option("cosine", "of the learning rate, as transformers names it")
    optim: str = option("adamw_torch_fused", "as transformers names it")
    thinking: bool = option(False, "ask to think first")
    gradient_checkpointing: bool = option(True, "less memory, a third more time")
    save_steps: int = option(50, "steps between checkpoints")
    seed: int = option(0, "of everything that is drawn")
    max_turns: int = option(3, "dialogues have so many turns at most")
    least_best: float = option(0.55, "samples are kept whose best answer earns more")
    least_gap: float = option(0.2, "and whose worst earns less than the best by more than this")
    tells: str = option("again", f"what is said between turns, of the reward: {', '.join(TELLS)}")
    max_completion_length: int = option(768, "tokens of an answer")

    def __post_init__(self):
        if self.per not in PER:
            raise ValueError(f"Unknown per {self.per!r}: choose one of {', '.join(PER)}.")
        if self.tells not in TELLS:
            raise ValueError(f"Unknown tells {self.tells!r}: choose one of {', '.join(TELLS)}.")
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha must be a finite number from 0, got {self.alpha!r}.")
        if self.max_turns < 1:
            raise ValueError(f"A dialogue has at least one turn, got max_turns {self.max_turns}.")

    def config(self, output_dir: str | Path, **options) -> Any:
        """These settings as transformers' `TrainingArguments`, for a run in `output_dir`; `options` adds some.

        Raises ValueError where the step cannot be shared evenly.
        """
        at_once = self.micro_batch * int(os.environ.get("WORLD_SIZE", 1))
        if self.batch_size % at_once:
            raise ValueError(f"batch_size ({self.batch_size}) is no multiple of micro_batch x processes ({at_once}).")
        return training_arguments(self, output_dir, self.micro_batch, self.batch_size // at_once, options)


# What the tiny policy needs, see `grpo.TINY`.
TINY_REPER = ReperSettings(
    steps=60,
    learning_rate=4e-4,
    batch_size=32,
    micro_batch=32,
    alpha=0.1,
    lr_scheduler="constant",
    gradient_checkpointing=False,
    max_completion_length=96,
)
