"""Advantages that TRL's trainer does not have: divided by the running spread of a task's rewards, or with KL in them.

Tasks pay on scales of their own: dividing by the spread within a group (GRPO) makes a group of near-equal answers as
loud as one of very unequal ones, and dividing by nothing (Dr. GRPO) lets the task with the widest rewards decide. In
between stands one divisor for each task, from exponential moving averages of its rewards' first two moments, after
OneThinker's EMA-GRPO (arXiv 2512.03043, equations 9 to 11). OneThinker clips advantages to ±5 until a spread has
settled; here the averages begin with a task's first batch, whose spread is right at once.

The KL of a whole answer, `sum(log π − log π_ref)` over its tokens, may be taken off its reward before answers are
compared, as in TRL's RLOO; unlike k1 as a term of the loss it then pulls to the reference, see `kl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature

import numpy as np
import torch
from accelerate.utils import gather
from trl import GRPOTrainer
from trl.trainer.utils import nanstd

from pr1kit.training.kl import IN_REWARD

DECAY = 0.99  # of the moving averages, from step to step
EPSILON = 1e-4  # added to a spread, as TRL does
# What the model is called with besides tokens, where a scored batch has it, is among these names.
FORWARD_FIELDS = tuple(signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)


def update_spreads(
    moments: dict[str, list[float]], rewards: Sequence[float], tasks: Sequence[str], decay: float = DECAY
) -> dict[str, float]:
    """The running spread of each task's rewards, after those of one more batch went into `moments` (changed in place).

    `moments` holds for each task the moving averages of its rewards and of their squares; a task begins with those of
    its first batch. Rewards that are not numbers (nan) are left out.

    >>> moments = {}
    >>> update_spreads(moments, [0.0, 1.0], ["ocr", "ocr"]), moments
    ({'ocr': 0.5}, {'ocr': [0.5, 0.5]})
    >>> update_spreads(moments, [1.0, 1.0], ["ocr", "ocr"], decay=0.5), moments
    ({'ocr': 0.4330127018922193}, {'ocr': [0.75, 0.75]})
    """
    values = np.asarray(rewards, float)
    for task in sorted(set(tasks)):
        own = values[np.array([each == task for each in tasks]) & np.isfinite(values)]
        if len(own):
            now = [float(own.mean()), float((own**2).mean())]
            old = moments.get(task, now)
            moments[task] = [decay * a + (1 - decay) * b for a, b in zip(old, now, strict=True)]
    return {task: max(second - first**2, 0.0) ** 0.5 for task, (first, second) in moments.items()}


def scaled_advantages(rewards: torch.Tensor, size: int, scale: str | torch.Tensor) -> torch.Tensor:
    """`(N,)` rewards, groups of `size` one after another, to advantages: less the group's mean, divided by a spread.

    `scale`: the spread of the "group", of the "batch", "none" for none, or `(N,)` one for each reward. A reward that is
    not a number (nan: no reward function paid) has the advantage 0 and is left out of mean and spread, as in TRL.

    >>> scaled_advantages(torch.tensor([0.0, 1.0, 1.0, 1.0]), 2, torch.full((4,), 0.5)).round(decimals=2).tolist()
    [-1.0, 1.0, 0.0, 0.0]
    """
    groups = rewards.view(-1, size)
    centred = (groups - torch.nanmean(groups, dim=1, keepdim=True)).flatten()
    if isinstance(scale, str):
        if scale == "none":
            return torch.nan_to_num(centred, nan=0.0)
        scale = nanstd(groups, dim=1).repeat_interleave(size) if scale == "group" else nanstd(rewards)
    return torch.nan_to_num(centred / (scale + EPSILON), nan=0.0)


def set_advantages(trainer, batch: dict, tasks: Sequence[str]) -> None:
    """Advantages of the batch that `trainer` has just scored, where they are not TRL's, into it and into TRL's logs.

    `tasks` are those of the rows of all processes. The running moments are kept in the trainer's state, and with it in
    checkpoints; `trainer.drawn_rewards` are the batch's rewards, without a KL.
    """
    logs, count, local = trainer._logs, len(tasks), len(batch["advantages"])
    paid = torch.tensor([list(logs["rewards"][name])[-count:] for name in trainer.reward_func_names]).T
    rewards = (paid * trainer.reward_weights.cpu()).nansum(1)
    rewards[paid.isnan().all(1)] = torch.nan
    trainer.drawn_rewards, scale = rewards.tolist(), trainer.scale_rewards
    in_reward = trainer.kl_estimator == IN_REWARD and trainer.beta
    if not (trainer.scale_per_task or in_reward):
        return
    if trainer.scale_per_task:
        moments = trainer.state.stateful_callbacks.setdefault("reward_moments", {})
        spreads = update_spreads(moments, trainer.drawn_rewards, tasks)
        for task in sorted(set(tasks)):
            trainer._metrics["train"][f"reward_spread/{task}"].append(spreads[task])
        scale = torch.tensor([spreads[task] for task in tasks])
    if in_reward:
        rewards = rewards - trainer.beta * gather(_kl_of_answers(trainer, batch)).cpu()
    advantages = scaled_advantages(rewards, trainer.num_generations, scale)
    for _ in range(count):
        logs["advantages"].pop()
    logs["advantages"].extend(advantages.tolist())
    start = trainer.accelerator.process_index * local
    batch["advantages"] = advantages[start : start + local].to(batch["advantages"])


@torch.no_grad()
def _kl_of_answers(trainer, batch: dict) -> torch.Tensor:
    """`(B,)` the log-probability of each answer less that under the reference."""
    logps, mask = batch.get("old_per_token_logps"), batch["completion_mask"]
    if logps is None:
        tokens, seen = (
            torch.cat([batch[f"prompt_{kind}"], batch[f"completion_{kind}"]], 1) for kind in ("ids", "mask")
        )
        fields = {name: batch[name] for name in FORWARD_FIELDS if name in batch}
        size = trainer.args.per_device_train_batch_size
        model, width = trainer.model, mask.shape[1]
        logps = trainer._get_per_token_logps_and_entropies(model, tokens, seen, width, batch_size=size, **fields)[0]
    return ((logps - batch["ref_per_token_logps"]) * mask).sum(1)
