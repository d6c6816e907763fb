"""The losses on ranked answers: by hand, by properties, against finite differences and TRL's `DPOTrainer`."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import DPOConfig, DPOTrainer

from pr1kit import load_policy, make_scenes, pair_weights
from pr1kit.rewards.groups import extreme_weights, group_advantages
from pr1kit.training.candidates import Candidates
from pr1kit.training.perpo import PreferenceTrainer
from pr1kit.training.preference_loss import compared, method_weights, preference_loss, preference_statistics
from pr1kit.training.preference_settings import METHODS, TINY_PERPO

REWARDS = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.50001, 0.9, 1.0]), min_size=2, max_size=8)


def numbers(n, seed=0):
    """Log-probabilities, the reference's, lengths, and rewards of n answers, in float64."""
    rng = np.random.default_rng(seed)
    logps, lengths = -rng.random(n) * 20, rng.integers(1, 30, n)
    return torch.tensor(logps), torch.tensor(logps + rng.normal(0, 2, n)), torch.tensor(lengths), rng.random(n).round(2)


def loss_of(method, logps, reference, lengths, rewards, gamma=0.5, **options):
    weights = torch.tensor(method_weights(method, rewards, gamma))
    return preference_loss(method, logps, reference, lengths, weights, **options)


def by_hand(logps, reference, rewards, beta, gamma):
    """PerPO as the paper writes it, one pair at a time, over a list sorted by reward."""
    order = sorted(range(len(rewards)), key=lambda i: -rewards[i])
    s, r = [float(logps[i] - reference[i]) for i in order], [rewards[i] for i in order]
    pairs = [(i, j) for i in range(len(r)) for j in range(i + 1, len(r)) if r[i] > r[j]]
    total = sum(abs(r[i] - r[j]) ** gamma for i, j in pairs)
    return sum(abs(r[i] - r[j]) ** gamma / total * np.log1p(np.exp(-beta * (s[i] - s[j]))) for i, j in pairs)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_perpo_is_the_papers_formula(beta, gamma):
    logps, reference, lengths, rewards = numbers(6)
    rewards[2] = rewards[4]  # a tie
    ours = loss_of("perpo", logps, reference, lengths, rewards, gamma, beta=beta)
    assert float(ours) == pytest.approx(by_hand(logps, reference, rewards, beta, gamma), rel=1e-12)


def test_a_small_case_by_hand():
    """Rewards 1, 0, 0.75: gaps 1, 0.25, 0.75, their roots 1, 0.5, 0.866; s = 1, 0, -1; beta 1."""
    logps, reference = torch.tensor([1.0, 0.0, -1.0]), torch.zeros(3)
    one, two, half = 1 / 2.3660254, 0.5 / 2.3660254, 0.8660254 / 2.3660254
    expected = one * 0.3132617 + two * 0.1269280 + half * 1.3132617  # softplus of -1, -2 and 1
    rewards = [1.0, 0.0, 0.75]
    assert float(loss_of("perpo", logps, reference, torch.ones(3), rewards, beta=1)) == pytest.approx(
        expected, abs=1e-6
    )
    lipo = (0.3132617 + 0.1269280 + 1.3132617) / 3
    assert float(loss_of("lipo", logps, reference, torch.ones(3), rewards, beta=1)) == pytest.approx(lipo, abs=1e-6)
    assert float(loss_of("dpo", logps, reference, torch.ones(3), rewards, beta=1)) == pytest.approx(0.3132617, abs=1e-6)
    lengths = torch.tensor([4.0, 2.0, 2.0])
    assert float(loss_of("best_of_n", logps, reference, lengths, rewards)) == pytest.approx(-0.25)
    per_token = loss_of("dpo", logps, reference, lengths, rewards, beta=1, per_token=True)
    assert float(per_token) == pytest.approx(np.log1p(np.exp(-0.25)))


def test_gamma_0_is_lipo_and_two_answers_are_dpo():
    logps, reference, lengths, rewards = numbers(7)
    lists = (
        loss_of("perpo", logps, reference, lengths, rewards, gamma=0.0),
        loss_of("lipo", logps, reference, lengths, rewards, gamma=0.5),
    )
    assert torch.equal(*lists)
    two = numbers(2, 3)
    assert torch.equal(loss_of("perpo", *two), loss_of("dpo", *two))


@given(REWARDS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_answers_does_not_matter(rewards, random):
    n = len(rewards)
    logps, reference, lengths, _ = numbers(n, n)
    order = random.sample(range(n), n)
    for method in METHODS:
        one = loss_of(method, logps, reference, lengths, rewards)
        other = loss_of(method, logps[order], reference[order], lengths[order], [rewards[i] for i in order])
        assert float(one) == pytest.approx(float(other), rel=1e-12)


@given(REWARDS)
@settings(max_examples=60, deadline=None)
def test_weights_are_those_of_a_distribution_over_pairs_with_a_gap(rewards):
    for method in METHODS:
        weights, gap = method_weights(method, rewards), np.subtract.outer(rewards, rewards)
        assert (weights >= 0).all()
        assert (weights[gap <= 1e-6] == 0).all()
        assert weights.sum() == pytest.approx(float(max(rewards) - min(rewards) > 1e-6))
        kept = compared(method, rewards)
        assert weights[np.ix_(kept, kept)].sum() == pytest.approx(weights.sum())
        if kept:  # what is left out changes nothing
            assert method_weights(method, [rewards[i] for i in kept]) == pytest.approx(weights[np.ix_(kept, kept)])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rewards", [[0.5] * 4, [0.0] * 4, [0.1 + 0.2, 0.3, 0.3, 0.3]])
def test_equal_rewards_give_exactly_no_loss_and_no_gradient(method, rewards):
    logps, reference, lengths, _ = numbers(4)
    logps.requires_grad_()
    loss = loss_of(method, logps, reference, lengths, rewards)
    loss.backward()
    assert loss.item() == 0.0
    assert (logps.grad == 0).all()


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_that_of_finite_differences(method, per_token):
    logps, reference, lengths, rewards = numbers(5)
    logps.requires_grad_()

    def loss(values):
        return loss_of(method, values, reference, lengths, rewards, per_token=per_token)

    assert torch.autograd.gradcheck(loss, logps, eps=1e-6, atol=1e-8)
    loss(logps).backward()
    assert (logps.grad != 0).any()


def test_scores_of_any_size_are_finite():
    logps = torch.tensor([-1e5, 0.0, 1e5], requires_grad=True)
    loss = loss_of("perpo", logps, torch.zeros(3), torch.ones(3), [1.0, 0.5, 0.0])
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logps.grad).all()
    assert loss.item() > 1e3


def test_at_the_start_the_gradient_is_a_group_advantage():
    """-beta/2 (weight of the pairs that an answer wins, less that of those it loses); of the sign of GRPO's."""
    _, reference, lengths, _ = numbers(5)
    rewards, beta = [0.0, 0.2, 0.5, 0.6, 1.0], 0.3
    logps = reference.clone().requires_grad_()
    loss_of("perpo", logps, reference, lengths, rewards, beta=beta).backward()
    weights = pair_weights(rewards)
    assert logps.grad.tolist() == pytest.approx((-beta / 2 * (weights.sum(1) - weights.sum(0))).tolist())
    assert np.corrcoef(-logps.grad, group_advantages(np.array(rewards)))[0, 1] > 0.99


def test_ties_share_the_weight_and_bad_rewards_are_refused():
    assert extreme_weights([1.0, 0.0, 1.0, 0.5]).tolist() == [[0, 0.5, 0, 0], [0] * 4, [0, 0.5, 0, 0], [0] * 4]
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Answer 1 has the reward"):
            pair_weights([0.0, bad])
    with pytest.raises(ValueError, match="Unknown method 'ppo': choose one of perpo"):
        method_weights("ppo", [0.0, 1.0])


def test_statistics_tell_how_a_list_is_ranked():
    weights = torch.tensor(method_weights("lipo", [1.0, 0.5, 0.0]))
    found = preference_statistics(torch.tensor([2.0, 3.0, 1.0]), torch.ones(3), weights)
    assert found == pytest.approx({"accuracy": 2 / 3, "margin": (-1 + 1 + 2) / 3, "log_ratio": 1.0})


# Against TRL


@pytest.fixture
def scene_and_pair(small_policies):
    """A scene, two answers to it of different lengths, and a policy away from its reference."""
    policy = load_policy(small_policies["qwen2_5_vl"], verbose=False)
    tokens = [policy.processor.tokenizer(text)["input_ids"] for text in ("cross(1,2),(30,44)<|im_end|>", "a(3,4)")]
    return policy, make_scenes("grounding", 1, 5)[0], tokens


def test_dpo_is_the_loss_of_trls_dpo_trainer_on_the_same_pair(scene_and_pair, tmp_path):
    policy, scene, tokens = scene_and_pair
    candidates = Candidates(scene, ["", ""], [0.9, 0.1], tokens)
    args = TINY_PERPO.config(tmp_path / "ours")
    settings = TINY_PERPO.__class__(method="dpo", steps=1, gradient_checkpointing=False)
    ours = PreferenceTrainer(policy, [candidates], settings, tmp_path / "ours", args=args)
    rows = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": "Where?"}],
                "chosen": [{"role": "assistant", "content": "a"}],
                "rejected": [{"role": "assistant", "content": "b"}],
                "images": [scene.load_image()],
            }
        ]
    )
    config = DPOConfig(str(tmp_path / "trl"), beta=0.1, use_cpu=True, report_to="none", bf16=False, max_length=None)
    other = load_policy(policy.name, verbose=False)
    theirs = DPOTrainer(other.model, args=config, train_dataset=rows, processing_class=other.processor)
    for model in (policy.model, other.model):  # away from the reference
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)

    inputs = ours._prepare_inputs(ours._collate(ours.train_dataset))
    loss = ours.compute_loss(policy.model, inputs)
    loss.backward()

    prompt, longest = inputs["prompt"], max(map(len, tokens))
    pads = [ids + [0] * (longest - len(ids)) for ids in tokens]
    known = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in tokens])
    ids, zeros = prompt["input_ids"].expand(2, -1), torch.zeros_like(known)
    batch = {
        "input_ids": torch.cat([ids, torch.tensor(pads)], 1),
        "attention_mask": torch.cat([torch.ones_like(ids), known], 1),
        "completion_mask": torch.cat([torch.zeros_like(ids), known], 1),
        "pixel_values": prompt["pixel_values"].repeat(2, 1),
        "image_grid_thw": prompt["image_grid_thw"].repeat(2, 1),
        "mm_token_type_ids": torch.cat([prompt["mm_token_type_ids"].expand(2, -1), zeros], 1),
    }
    expected = theirs.compute_loss(other.model, batch)
    expected.backward()
    assert abs(loss.item() - np.log(2)) > 0.01
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for (name, one), two in zip(policy.model.named_parameters(), other.model.parameters(), strict=True):
        assert (one.grad - two.grad).norm() <= 1e-3 * two.grad.norm() + 1e-6, name


def test_each_list_is_weighed_by_its_own_rewards(scene_and_pair, tmp_path):
    """The released code weighs every sample by the rewards of one."""
    policy, scene, tokens = scene_and_pair
    lists = [Candidates(scene, [""] * 3, rewards, [*tokens, tokens[0]]) for rewards in ([0, 1, 0.5], [0.9, 0.1, 0.2])]
    args = TINY_PERPO.config(tmp_path)
    trainer = PreferenceTrainer(policy, lists, TINY_PERPO, tmp_path, args=args)
    for each in lists:
        collated = trainer._collate([each])
        assert collated["weights"].numpy() == pytest.approx(pair_weights(each.rewards), abs=1e-6)
    assert SimpleNamespace(**trainer._collate(lists[:1])).lengths.tolist() == [*map(len, tokens), len(tokens[0])]
