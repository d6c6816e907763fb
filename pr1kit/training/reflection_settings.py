"""The settings of a run that learns reflection by reinforcement (`reflection`): GRPO's, and what a dialogue is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from pr1kit.data.options import option
from pr1kit.rewards.critics import TELLS
from pr1kit.training.grpo_settings import TINY, GRPOSettings

PAYS = ("last", "improvement", "every")
# What dialogues do not have otherwise: they draw from all tokens, are paid by the kit's reward, see `kl`, and `chat`.
FIXED = {
    "recipe": "kit",
    "matching": "optimal",
    "drop": (),
    "top_p": 1.0,
    "top_k": 0,
    "kl_estimator": "k3",
    "thinking": False,
}


@dataclass(frozen=True)
class ReflectionSettings(GRPOSettings):
    """One GRPO run over dialogues. A rollout is a dialogue of up to `turns` answers, each of `max_completion_length`
    tokens at most; `pays` is what it earns, see `reflection_rl`. `tells` is for the critic that a run has by default.

    Raises ValueError for settings that dialogues do not have.
    """

    top_p: float = option(1.0, "answers are drawn from all tokens")
    top_k: int = option(0, "answers are drawn from all tokens")
    turns: int = option(2, "answers of a dialogue at most")
    pays: str = option("every", f"what a dialogue earns by the rewards of its turns: {', '.join(PAYS)}")
    tells: str = option("worst", f"what is said between turns, of the reward: {', '.join(TELLS)}")

    def __post_init__(self):
        super().__post_init__()
        if self.turns < 1:
            raise ValueError(f"A dialogue has at least one turn, got turns={self.turns}.")
        if self.tells not in TELLS:
            raise ValueError(f"Unknown tells {self.tells!r}: choose one of {', '.join(TELLS)}.")
        dialogue_reward([0.0], self.turns, self.pays)
        for name, value in FIXED.items():
            if (got := getattr(self, name)) != value:
                raise ValueError(f"GRPO over dialogues has {name}={value!r} alone, got {name}={got!r}.")


def dialogue_reward(rewards: Sequence[float], turns: int, pays: str = "every") -> float:
    """What a dialogue earns whose answers earned `rewards`, one to `turns` of them, the last of which stands.

    >>> dialogue_reward([0.2, 0.8], 4), dialogue_reward([0.2, 0.8], 4, "improvement"), dialogue_reward([0.5], 3, "last")
    (0.65, 0.6000000000000001, 0.5)
    """
    if pays not in PAYS:
        raise ValueError(f"Unknown pays {pays!r}: choose one of {', '.join(PAYS)}.")
    if pays == "every":
        return float(np.mean([*rewards, *rewards[-1:] * (turns - len(rewards))]))
    return float(rewards[-1] - (rewards[0] if pays == "improvement" else 0))


# What the tiny policy needs, see `grpo.TINY`.
TINY_REFLECTION = ReflectionSettings(**{each.name: getattr(TINY, each.name) for each in fields(GRPOSettings)})
