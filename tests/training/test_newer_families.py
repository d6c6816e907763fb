"""Small random models of the real classes in GRPO: Qwen3-VL shares the prefix, Qwen3.5 goes TRL's way; both learn."""

import warnings
from dataclasses import replace

import pytest
import torch

from pr1kit import PerceptionGRPOTrainer, load_policy, make_scenes
from pr1kit.training.grpo import to_dataset
from pr1kit.training.grpo_settings import TINY


def share_of_digits(completions, **_) -> list[float]:
    """What a policy that knows nothing can be rewarded for: digits among the letters of its answer."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(letter.isdigit() for letter in text) / max(1, len(text)) for text in texts]


@pytest.mark.parametrize(("kind", "rate", "steps"), [("qwen3_vl", 3e-3, 12), ("qwen3_5", 1e-2, 24)])
def test_grpo_raises_the_reward(small_policies, tmp_path, kind, rate, steps):
    torch.manual_seed(0)
    policy = load_policy(small_policies[kind], verbose=False)
    settings = replace(
        TINY,
        steps=steps,
        learning_rate=rate,
        prompts_per_step=4,
        micro_prompts=4,
        num_generations=8,
        max_completion_length=12,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = PerceptionGRPOTrainer(
            model=policy.model,
            reward_funcs=share_of_digits,
            args=settings.config(tmp_path),
            train_dataset=to_dataset(make_scenes("grounding", 4 * steps), policy),
            processing_class=policy.processor,
            shared_prefix=True,
        )
        trainer.train()
    off = [str(each.message) for each in caught if "Shared prefix is off" in str(each.message)]
    assert len(off) == (kind == "qwen3_5")
    assert trainer.shared_prefix == (not off)
    if off:
        assert "has layers of linear attention, which carry a state along the row whatever the mask says" in off[0]
        assert "\n" not in off[0]
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1, rewards
