"""The settings of a run on ranked answers (`perpo`), with PerPO's values and the tiny policy's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pr1kit.data.options import option
from pr1kit.training.grpo_settings import training_arguments

METHODS = ("perpo", "lipo", "dpo", "best_of_n")  # of learning from ranked answers, see `preference_loss`


@dataclass(frozen=True)
class PerPOSettings:
    """One run on ranked answers. The defaults are PerPO's for grounding (arXiv 2502.04371), but for `temperature` and
    the bounds on answers, which it does not tell.

    `prompts_per_step` is batch 2 there, and counts the lists of all processes; one at a time goes through the model.
    """

    method: str = option("perpo", "the loss: perpo, lipo, dpo or best_of_n")
    beta: float = option(0.1, "how sharply the policy may depart from its start")
    gamma: float = option(0.5, "of PerPO's weights |r_i - r_j|^gamma; 0 weighs all pairs alike")
    per_token: bool = option(False, "log-probabilities per token instead of summed over an answer")
    num_candidates: int = option(20, "answers to a prompt, N: sampled, or at most kept of a file's")
    min_gap: float = option(0.8, "prompts are kept whose best and worst rewards are this far apart")
    truth: bool = option(False, "the true answer is a candidate too")
    steps: int = option(0, "training steps; 0 is one pass over the kept candidates")
    learning_rate: float = option(5e-6, "at its peak")
    vision_learning_rate: float | None = option(None, "of the vision tower's trained weights, if another")
    prompts_per_step: int = option(2, "prompts of a step, of all processes together")
    temperature: float = option(1.0, "of the candidates")
    max_completion_length: int = option(768, "tokens of a candidate")
    recipe: str = option("kit", "of the reward, see pr1kit.score")
    thinking: bool = option(False, "ask to think first")
    lr_scheduler: str = option("cosine", "of the learning rate, as transformers names it")
    optim: str = option("adamw_torch_fused", "as transformers names it")
    gradient_checkpointing: bool = option(True, "less memory, a third more time")
    shared_prefix: bool = option(True, "see image and prompt once for all answers")
    save_steps: int = option(50, "steps between checkpoints")
    seed: int = option(0, "of everything that is drawn")

    def config(self, output_dir: str | Path, **options) -> Any:
        """These settings as transformers' `TrainingArguments`, for a run in `output_dir`; `options` adds some.

        Raises ValueError where the step cannot be shared evenly by the processes.
        """
        processes = int(os.environ.get("WORLD_SIZE", 1))
        if self.prompts_per_step % processes:
            raise ValueError(f"{self.prompts_per_step} prompts in a step cannot be shared by {processes} processes.")
        return training_arguments(self, output_dir, 1, self.prompts_per_step // processes, options)


# What the tiny policy needs; learning rate and gap from validation scenes.
TINY_PERPO = PerPOSettings(
    min_gap=0.2,
    learning_rate=3e-5,
    prompts_per_step=4,
    max_completion_length=96,
    lr_scheduler="constant",
    gradient_checkpointing=False,
    save_steps=50,
)
