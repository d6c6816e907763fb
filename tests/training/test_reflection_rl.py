"""GRPO over dialogues: what is trained, what is paid, and that holding back is paid only where it is asked for."""

import re
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pr1kit import load_policy, make_scenes
from pr1kit.__main__ import main
from pr1kit.data.durable_files import read_log
from pr1kit.rewards.critics import AGAIN
from pr1kit.training.reflection_rl import ReflectionGRPOTrainer, train_reflection
from pr1kit.training.reflection_settings import TINY_REFLECTION, ReflectionSettings, dialogue_reward
from pr1kit.training.weights import trained_weights

QUICK = replace(
    TINY_REFLECTION,
    steps=2,
    prompts_per_step=2,
    micro_prompts=2,
    num_generations=4,
    max_completion_length=24,
    save_steps=1,
)
share = st.floats(0, 1)


@given(st.lists(share, min_size=1, max_size=4), st.integers(0, 3), share)
def test_a_better_turn_never_costs_but_under_improvement(rewards, turn, better):
    turn %= len(rewards)
    raised = [max(r, better) if i == turn else r for i, r in enumerate(rewards)]
    for pays in ("last", "every"):
        assert dialogue_reward(raised, 4, pays) >= dialogue_reward(rewards, 4, pays) - 1e-12
    if turn == 0 and len(rewards) > 1:  # a better first answer is what it pays less for
        assert dialogue_reward(raised, 4, "improvement") <= dialogue_reward(rewards, 4, "improvement") + 1e-12


def test_what_is_paid_by_hand():
    assert dialogue_reward([0.2, 0.5, 0.9], 3) == pytest.approx(1.6 / 3)
    assert dialogue_reward([1.0], 3) == 1.0, "who is right at once loses nothing by ending"
    assert dialogue_reward([0.0, 1.0], 2, "improvement") > dialogue_reward([0.9, 1.0], 2, "improvement")
    assert dialogue_reward([0.0, 1.0], 2) < dialogue_reward([0.9, 1.0], 2)
    with pytest.raises(ValueError, match="Unknown pays 'first': choose one of last, improvement, every"):
        dialogue_reward([0.0], 1, "first")


def watched(monkeypatch):
    """The batches that the trainer generates, and the trainer."""
    seen = []
    real = ReflectionGRPOTrainer._generate_and_score_completions

    def watch(self, inputs):
        outputs = real(self, inputs)
        seen.append((self, outputs, list(self._dialogues)))
        return outputs

    monkeypatch.setattr(ReflectionGRPOTrainer, "_generate_and_score_completions", watch)
    return seen


def test_the_policys_own_tokens_are_trained_and_no_others(tmp_path, monkeypatch):
    seen, policy = watched(monkeypatch), load_policy("tiny")
    pictures = []
    policy.core.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: pictures.append(len(kwargs.get("grid_thw", args[-1]))), with_kwargs=True
    )
    train_reflection(policy, make_scenes("counting", 4, seed=0), tmp_path, replace(QUICK, steps=1, turns=3))
    assert pictures[0] == 2, "the pictures of two groups, once for all turns of all dialogues"
    trainer, batch, dialogues = seen[0]
    assert trainer.shared_prefix, "it fell back"
    decode, end = policy.processor.tokenizer.decode, policy.processor.tokenizer.eos_token_id
    assert len(dialogues) == 8
    for ids, mask, own, dialogue in zip(
        batch["completion_ids"], batch["completion_mask"].bool(), batch["tool_mask"].bool(), dialogues, strict=True
    ):
        tokens = ids[mask & own].tolist()
        assert decode([t for t in tokens if t != end]) == "".join(dialogue.completions)
        others = decode(ids[mask & ~own])
        assert others.count(AGAIN) == len(dialogue.turns) - 1
        assert others.count("<|im_start|>assistant") == len(dialogue.turns) - 1
    rewards = [dialogue_reward(d.rewards(), 3) for d in dialogues]
    assert read_log(tmp_path / "rollouts.jsonl")[0]["rewards"] == pytest.approx(rewards[:4], abs=1e-4)
    row = read_log(tmp_path / "log.jsonl")[0]
    assert row["reward/turn_1"] == pytest.approx(sum(d.rewards()[0] for d in dialogues) / 8, abs=1e-4)
    assert row["reward"] == pytest.approx(sum(rewards) / 8, abs=1e-4)


def test_the_shared_prefix_makes_the_step_of_whole_rows(tmp_path):
    ends = []
    for shared in (True, False):
        policy = load_policy("tiny")
        settings = replace(QUICK, steps=1, shared_prefix=shared)
        rows = train_reflection(policy, make_scenes("counting", 2, seed=0), tmp_path / str(shared), settings)
        ends.append((rows[0], trained_weights(policy.model)))
    for name in ("reward", "reward/turn_2", "grad_norm"):
        assert ends[0][0][name] == pytest.approx(ends[1][0][name], rel=1e-3), name


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(tmp_path, lora):
    samples = make_scenes("counting", 4, seed=0)
    torch.manual_seed(0)
    whole = load_policy("tiny", lora=lora, verbose=False)
    torch.manual_seed(0)
    cut = load_policy("tiny", lora=lora, verbose=False)
    rows = train_reflection(whole, samples, tmp_path, QUICK)
    shutil.rmtree(tmp_path / "checkpoint-2")
    again = train_reflection(cut, samples, tmp_path, QUICK)
    assert [row["reward"] for row in again] == [row["reward"] for row in rows]
    ends = [trained_weights(policy.model) for policy in (whole, cut)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    with pytest.raises(ValueError, match="pays was 'every', is 'last'"):
        train_reflection(whole, samples, tmp_path, replace(QUICK, pays="last"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"pays": "all"}, "Unknown pays 'all': choose one of last, improvement, every."),
        ({"turns": 0}, "A dialogue has at least one turn, got turns=0."),
        ({"tells": "all"}, "Unknown tells 'all': choose one of again, score, fault, worst."),
        ({"top_p": 0.9}, "GRPO over dialogues has top_p=1.0 alone, got top_p=0.9."),
        ({"recipe": "paper"}, "GRPO over dialogues has recipe='kit' alone, got recipe='paper'."),
        ({"drop": "count"}, "GRPO over dialogues has drop=() alone, got drop=('count',)."),
    ],
)
def test_settings_that_dialogues_do_not_have_are_one_sentence(wrong, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        ReflectionSettings(**wrong)


def test_a_critic_that_leaves_answers_out_is_one_sentence(tmp_path):
    policy, samples = load_policy("tiny"), make_scenes("counting", 2, seed=0)
    with pytest.raises(ValueError, match="one critique for each of its 8 answers, got 1"):
        train_reflection(policy, samples, tmp_path, QUICK, critic=lambda s, c, f: ["Again."])


def test_the_command_trains_over_dialogues_and_goes_on(tmp_path, capsys):
    out = tmp_path / "run"
    flags = ["train", "--method", "reflection", "--task", "counting", "--data", "scenes", "--out", str(out)]
    flags += ["--steps", "2", "--prompts-per-step", "2", "--micro-prompts", "2", "--num-generations", "4"]
    flags += [
        "--max-completion-length",
        "24",
        "--save-steps",
        "1",
        "--turns",
        "3",
        "--pays",
        "last",
        "--tells",
        "again",
    ]
    assert main(flags) == 0
    said = capsys.readouterr().out
    assert "2 steps of 8 dialogues of up to 3 turns on 4 counting samples, paid for last" in said
    assert (out / "model" / "model.safetensors").is_file()
    rows = read_log(out / "log.jsonl")
    assert [row["reward"] for row in rows] == pytest.approx([row["reward/turn_3"] for row in rows], abs=1e-4)
    shutil.rmtree(out / "checkpoint-2")
    assert main(flags) == 0
    assert [row["reward"] for row in read_log(out / "log.jsonl")] == [row["reward"] for row in rows]
    for wrong, words in (
        (["--pays", "first"], "Unknown pays 'first'"),
        (["--top-p", "0.5"], "GRPO over dialogues has top_p=1.0 alone"),
        (["--alpha", "1"], "Unknown setting 'alpha'"),
        (["--turns", "2"], "turns was 3, is 2"),
    ):
        capsys.readouterr()
        assert main([*flags, *wrong]) == 2
        assert words in capsys.readouterr().err
