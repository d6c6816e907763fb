"""Reflection by reinforcement: GRPO over dialogues, G of them to each prompt, each with one reward for all its turns.

With r_1 … r_T the rewards of the answers that stand after each turn (a dialogue that ends early keeps its last):

    last         r_T
    improvement  r_T − r_1: pays for a bad first answer ("sandbagging"), here to be measured
    every        the mean of r_1 … r_T: no turn's reward falls without loss, so nothing is gained by holding back

The critic's words are masked in the loss; an answer's end of turn is the policy's own. Beyond RePer (arXiv 2504.07165).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from trl.models import unwrap_model_for_generation

from pr1kit.data.sample import Sample
from pr1kit.models.policy import Policy
from pr1kit.rewards.critics import RewardCritic
from pr1kit.rollouts.conversation import Conversation
from pr1kit.rollouts.reflection import Dialogue, converse
from pr1kit.training.grpo import only_task, to_dataset
from pr1kit.training.grpo_settings import UNSEEN_OPTIONS
from pr1kit.training.grpo_trainer import PerceptionGRPOTrainer
from pr1kit.training.reflection_settings import TINY_REFLECTION, ReflectionSettings, dialogue_reward
from pr1kit.training.resumable_run import train_in_folder
from pr1kit.training.step_log import RunLog


class ReflectionGRPOTrainer(PerceptionGRPOTrainer):
    """`PerceptionGRPOTrainer` whose completions are dialogues with `critic`, of up to `turns` turns.

    The data need the column `id`, by which `samples` are found. Each step's mean reward of every turn is logged as
    `reward/turn_1`, `reward/turn_2`, …
    """

    def __init__(self, *args, policy: Policy, samples: Sequence[Sample], critic: Callable, turns: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.policy, self.critic, self.turns = policy, critic, turns
        self._sample_of = {sample.id: sample for sample in samples}
        self._rows: list[Sample] = []  # of the batch at hand, then its dialogues, and who wrote each token of them
        self._dialogues: list[Dialogue] = []
        self._wrote: list[list[int]] = []

    def _generate_and_score_completions(self, inputs):
        self._rows = [self._sample_of[row["id"]] for row in inputs]
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts):
        prompt_ids, completion_ids, _, completions, logps, extra, *images = super()._generate(prompts)
        rewards = [dialogue.rewards() for dialogue in self._dialogues]
        standing = np.array([row + row[-1:] * (self.turns - len(row)) for row in rewards])
        for turn, mean in enumerate(standing.mean(0), 1):
            self._metrics["train" if self.model.training else "eval"][f"reward/turn_{turn}"].append(float(mean))
        return prompt_ids, completion_ids, self._wrote, completions, logps, {**extra, "turn_rewards": rewards}, *images

    @torch.no_grad()
    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, *args, **kwargs):
        groups = self._group_of_row if self._group_of_row is not None else list(range(len(prompt_ids)))
        starts = np.unique(groups, return_index=True)[1]
        training = self.model.training
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            generation_kwargs=self.generation_kwargs,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ):
            self.model.eval()
            try:
                conversation = Conversation(self.policy, [self._rows[i] for i in starts])
                conversation.keep([int(group) for group in groups])
                first = self.accelerator.process_index * len(groups)
                numbers = [
                    np.random.default_rng([self.args.seed, self.state.global_step, first + i])
                    for i in range(len(groups))
                ]
                temperature, longest = self.args.temperature, self.args.max_completion_length
                self._dialogues, spoken = converse(
                    self.policy, conversation, self.critic, self._rows, self.turns, numbers, temperature, longest
                )
            finally:
                self.model.train(training)
        lengths = [len(ids) for ids in prompt_ids]
        self._wrote = [[int(w) for w in wrote[n:]] for (_, wrote), n in zip(spoken, lengths, strict=True)]
        return [tokens[n:] for (tokens, _), n in zip(spoken, lengths, strict=True)], None


def train_reflection(
    policy: Policy,
    samples: Sequence[Sample],
    folder: str | Path,
    settings: ReflectionSettings = TINY_REFLECTION,
    *,
    critic: Callable | None = None,
    resume: bool = True,
    bar=None,
    trl: Mapping = {},
) -> list[dict]:
    """Train `policy` in place by GRPO over dialogues on samples of one task; returns the log, one dict a step.

    `critic` says the words between turns (`rewards.critics`), by default the `RewardCritic` that tells what the
    settings say. Of `settings`, answers are drawn at `temperature` from all tokens, `max_completion_length` bounds one
    answer, and the reward is the `kit` recipe's. Errors as in `train_grpo`.
    """
    task, folder, critic = only_task(samples), Path(folder), critic or RewardCritic(settings.tells)
    named = [replace(sample, id=f"{i}:{sample.id}") for i, sample in enumerate(samples)]
    args = settings.config(folder, **trl)
    seen = {name: value for name, value in trl.items() if name not in UNSEEN_OPTIONS}
    identity = {"method": "reflection", "task": task, **asdict(settings), "trl": seen}
    words = repr(critic) if isinstance(critic, RewardCritic) else getattr(critic, "__name__", type(critic).__name__)
    identity["critic"] = words

    def reward(prompts, completions, turn_rewards, **_) -> list[float]:
        return [dialogue_reward(rewards, settings.turns, settings.pays) for rewards in turn_rewards]

    reward.__name__ = settings.pays

    def trainer(log: RunLog) -> ReflectionGRPOTrainer:
        return ReflectionGRPOTrainer(
            model=policy.model,
            reward_funcs=reward,
            args=args,
            train_dataset=to_dataset(named, policy),
            processing_class=policy.processor,
            callbacks=[log],
            shared_prefix=settings.shared_prefix,
            rollout_log=folder / "rollouts.jsonl",
            policy=policy,
            samples=named,
            critic=critic,
            turns=settings.turns,
        )

    return train_in_folder(policy, samples, identity, args, trainer, resume=resume, bar=bar)
