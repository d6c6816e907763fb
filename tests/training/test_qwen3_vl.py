"""Qwen3-VL learns: a few steps of GRPO on a small random model of its real class raise the reward."""

from dataclasses import replace

import torch

from pr1kit import PerceptionGRPOTrainer, load_policy, make_scenes
from pr1kit.training.grpo import to_dataset
from pr1kit.training.grpo_settings import TINY


def share_of_digits(completions, **_) -> list[float]:
    """What a policy that knows nothing can be rewarded for: digits among the letters of its answer."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(letter.isdigit() for letter in text) / max(1, len(text)) for text in texts]


def test_grpo_raises_the_reward_of_a_small_qwen3_vl(small_policies, tmp_path):
    torch.manual_seed(0)
    policy = load_policy(small_policies["qwen3_vl"], verbose=False)
    settings = replace(
        TINY,
        steps=12,
        learning_rate=3e-3,
        prompts_per_step=4,
        micro_prompts=4,
        num_generations=8,
        max_completion_length=12,
    )
    trainer = PerceptionGRPOTrainer(
        model=policy.model,
        reward_funcs=share_of_digits,
        args=settings.config(tmp_path),
        train_dataset=to_dataset(make_scenes("grounding", 32), policy),
        processing_class=policy.processor,
    )
    trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1, rewards
