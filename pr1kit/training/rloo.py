"""RLOO (arXiv 2402.14740) through TRL's own trainer: an answer against the mean of its group's other answers.

TRL's `RLOOTrainer` has no shared prefix: every rollout pays for its image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from trl import RLOOConfig, RLOOTrainer

from pr1kit.data.sample import Sample
from pr1kit.models.policy import Policy
from pr1kit.training.grpo import only_task, reward_of, to_dataset
from pr1kit.training.grpo_settings import TINY, GRPOSettings
from pr1kit.training.resumable_run import WholeCheckpoints, train_in_folder
from pr1kit.training.step_log import RunLog


class _RLOOTrainer(WholeCheckpoints, RLOOTrainer):
    """TRL's trainer, resumed from all of its weights."""


def train_rloo(
    policy: Policy,
    samples: Sequence[Sample],
    folder: str | Path,
    settings: GRPOSettings = TINY,
    *,
    resume: bool = True,
    bar=None,
) -> list[dict]:
    """As `train_grpo`, with RLOO's advantages and loss; settings that only GRPO has are not looked at."""
    task, options = only_task(samples), settings.options(folder)
    args = RLOOConfig(**{name: options[name] for name in options if name in RLOOConfig.__dataclass_fields__})
    identity = {"method": "rloo", "task": task, **asdict(settings)}

    def trainer(log: RunLog) -> RLOOTrainer:
        return _RLOOTrainer(
            model=policy.model,
            reward_funcs=reward_of(task, settings, policy.processor),
            args=args,
            train_dataset=to_dataset(samples, policy, thinking=settings.thinking),
            processing_class=policy.processor,
            callbacks=[log],
        )

    return train_in_folder(policy, samples, identity, args, trainer, resume=resume, bar=bar)
