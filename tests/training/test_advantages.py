"""Advantages that are not TRL's, and batches put together from groups of several draws."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pr1kit.rewards.groups import group_advantages
from pr1kit.training.advantages import scaled_advantages, update_spreads
from pr1kit.training.redraw import have_spread, join_groups, other_prompts, split_groups

REWARDS = st.lists(st.floats(0, 1), min_size=12, max_size=12)
TASKS = ["ocr", "counting", "ocr"] * 4


def test_a_spread_is_that_of_moving_averages_of_two_moments():
    moments = {}
    assert update_spreads(moments, [0.0, 1.0, 0.5], ["ocr", "ocr", "counting"]) == {"ocr": 0.5, "counting": 0.0}
    spreads = update_spreads(moments, [1.0, 1.0], ["ocr", "ocr"], decay=0.75)
    assert moments["ocr"] == [0.75 * 0.5 + 0.25, 0.75 * 0.5 + 0.25]
    assert spreads == {"ocr": pytest.approx((0.625 - 0.625**2) ** 0.5), "counting": 0.0}  # counting stays as it was
    assert update_spreads(moments, [float("nan"), 0.5], ["ocr", "counting"])["ocr"] == spreads["ocr"]


@given(REWARDS, st.floats(0.01, 100))
def test_a_task_that_pays_more_has_as_much_more_spread_and_others_keep_theirs(rewards, factor):
    one, other = {}, {}
    for part in (slice(0, 6), slice(6, 12)):
        plain = update_spreads(one, rewards[part], TASKS[part])
        larger = [r * (factor if task == "ocr" else 1) for r, task in zip(rewards, TASKS, strict=True)]
        scaled = update_spreads(other, larger[part], TASKS[part])
    assert scaled["counting"] == plain["counting"]
    assert scaled["ocr"] == pytest.approx(factor * plain["ocr"], rel=1e-3, abs=1e-6 * factor)


def test_a_spread_settles_at_that_of_its_rewards():
    moments, rng = {}, np.random.default_rng(0)
    for _ in range(600):
        spreads = update_spreads(moments, rng.random(64), ["ocr"] * 64)
    assert spreads["ocr"] == pytest.approx(12**-0.5, rel=0.02)  # of a uniform number


@given(REWARDS, st.sampled_from(["group", "batch", "none", "own"]))
def test_advantages_of_a_group_sum_to_zero_and_keep_the_order_of_rewards(rewards, scale):
    rewards = torch.tensor(rewards)
    scale = torch.full((12,), 0.3) if scale == "own" else scale
    advantages = scaled_advantages(rewards, 4, scale).view(3, 4)
    assert advantages.sum(1).abs().max() < 1e-2
    for of_group, own in zip(rewards.view(3, 4), advantages, strict=True):
        assert (own[of_group.argsort()].diff() >= -1e-5).all()


def test_advantages_by_hand():
    rewards = torch.tensor([0.0, 1.0, 0.2, 0.2, float("nan"), 0.4])
    assert scaled_advantages(rewards[:4], 2, "none").tolist() == pytest.approx([-0.5, 0.5, 0, 0])
    assert scaled_advantages(rewards, 2, "none").tolist()[4:] == [0, 0]
    spreads = torch.tensor([0.25, 0.25, 0.1, 0.1])
    assert scaled_advantages(rewards[:4], 2, spreads).tolist() == pytest.approx([-2, 2, 0, 0], rel=1e-3)
    assert scaled_advantages(rewards[:4], 2, "group").tolist() == pytest.approx(
        group_advantages(rewards[:4].view(2, 2).numpy()).ravel().tolist(), abs=1e-3
    )


@given(REWARDS, st.permutations(range(4)))
def test_a_group_has_a_spread_whatever_the_order_of_its_answers(rewards, order):
    shuffled = np.reshape(rewards, (3, 4))[:, list(order)].ravel()
    assert (have_spread(shuffled, 4) == have_spread(rewards, 4)).all()
    assert have_spread([*rewards[:4], 0.3, 0.3, 0.3, 0.3 + 1e-9], 4)[1] == np.False_


def test_other_prompts_are_drawn_anew_for_each_step_and_each_try():
    assert other_prompts(5, 100, 0, 7, 1) == other_prompts(5, 100, 0, 7, 1)
    assert len({tuple(other_prompts(5, 100, 0, step, attempt)) for step in range(4) for attempt in range(3)}) == 12
    assert sorted(other_prompts(5, 5, 0, 0, 0)) == [0, 1, 2, 3, 4]
    assert len(other_prompts(5, 2, 0, 0, 0)) == 5


def test_groups_of_two_draws_are_padded_on_the_side_where_they_end():
    def batch(prompt, answer, fill):
        both = {"prompt_ids": (4, prompt), "completion_ids": (4, answer), "mm_token_type_ids": (4, prompt + answer)}
        tokens = {name: torch.full(shape, fill) for name, shape in both.items()}
        masks = {f"{part}_mask": torch.ones_like(tokens[f"{part}_ids"]) for part in ("prompt", "completion")}
        logps = {"ref_per_token_logps": torch.full((4, answer), -0.5), "advantages": torch.arange(4.0)}
        return tokens | masks | logps | {"num_items_in_batch": torch.tensor(4 * answer), "num_images": [1, 0, 1, 0]}

    long, short = split_groups(batch(3, 4, 7), 2), split_groups(batch(2, 1, 8), 2)
    joined = join_groups([long[1], short[0]], blank=9)
    assert joined["prompt_ids"].tolist() == [[7, 7, 7]] * 2 + [[9, 8, 8]] * 2
    assert joined["prompt_mask"].tolist() == [[1, 1, 1]] * 2 + [[0, 1, 1]] * 2
    assert joined["completion_ids"].tolist() == [[7] * 4] * 2 + [[8, 9, 9, 9]] * 2
    assert joined["completion_mask"].tolist() == [[1] * 4] * 2 + [[1, 0, 0, 0]] * 2
    assert joined["mm_token_type_ids"].tolist() == [[7] * 7] * 2 + [[0, 8, 8, 8, 0, 0, 0]] * 2
    assert joined["ref_per_token_logps"].tolist() == [[-0.5] * 4] * 2 + [[-0.5, 0, 0, 0]] * 2
    assert joined["advantages"].tolist() == [2, 3, 0, 1]
    assert joined["num_items_in_batch"] == 10
    assert joined["num_images"] == [1, 0, 1, 0]
