"""RePer: the loss by hand, its limits, its masks, and a run that is resumed as it was."""

import math
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from trl import SFTTrainer

from pr1kit import load_policy, make_scenes
from pr1kit.__main__ import main
from pr1kit.data.durable_files import read_log
from pr1kit.models.policy import chat
from pr1kit.rewards.critics import AGAIN, RewardCritic
from pr1kit.rollouts.dialogue_rows import collate
from pr1kit.rollouts.dialogues import make_dialogues, worst_to_best
from pr1kit.rollouts.policy_critic import SCORE_IT, PolicyCritic, critic_lessons, question_to_critic
from pr1kit.rollouts.reflection import Dialogue, Dialogues, Turn
from pr1kit.training.reper import ReperTrainer, log1mexp, reflective_losses, train_reper
from pr1kit.training.reper_settings import TINY_REPER
from pr1kit.training.sft import TINY_SFT, _to_dataset, supervised_answer
from pr1kit.training.weights import trained_weights

QUICK = replace(TINY_REPER, steps=2, batch_size=2, micro_batch=2, save_steps=1)
GOOD = "<|object_ref_start|>circle<|object_ref_end|><|box_start|>(1,2),(30,40)<|box_end|>"
BAD = "<|object_ref_start|>circle<|object_ref_end|>"


@pytest.fixture
def tiny():
    return load_policy("tiny")


def dialogues_of(*scores, task="counting", answers=(BAD, "None", GOOD)):
    """One dialogue for each tuple of scores."""
    samples = make_scenes(task, len(scores), seed=0)
    return Dialogues(
        Dialogue(sample, tuple(Turn(answers[i % 3], score, "Look again. " * (1 + i)) for i, score in enumerate(each)))
        for sample, each in zip(samples, scores, strict=True)
    )


def trainer_of(policy, dialogues, folder, **settings):
    settings = replace(QUICK, **settings)
    return ReperTrainer(
        model=policy.model,
        args=settings.config(folder),
        train_dataset=list(dialogues),
        data_collator=lambda rows: collate(policy, rows),
        processing_class=policy.processor,
        alpha=settings.alpha,
        per=settings.per,
    )


# The loss


@pytest.mark.parametrize("per", ["token", "answer"])
def test_the_loss_is_the_formula_in_numpy(per):
    rng = np.random.default_rng(0)
    lengths, sigmas, alpha = [3, 1, 5, 2], [0.0, 0.3, 1.0, 0.75], 2.5
    answers = [np.log(rng.uniform(0.05, 0.95, n)) for n in lengths]
    likely = unlikely = 0.0
    for logp, sigma in zip(answers, sigmas, strict=True):
        likely -= sigma * logp.sum()
        against = np.log(1 - np.exp(logp)).sum() if per == "token" else np.log(1 - np.exp(logp.sum()))
        unlikely -= alpha * (1 - sigma) * against
    got = reflective_losses(
        torch.tensor(np.concatenate(answers)),
        torch.tensor(np.repeat(sigmas, lengths)),
        torch.tensor(np.repeat([4, 0, 7, 2], lengths)),  # their numbers need not be dense or in order
        alpha,
        per,
    )
    assert [part.item() for part in got] == pytest.approx([likely, unlikely], rel=1e-5)


@pytest.mark.parametrize("per", ["token", "answer"])
def test_the_gradient_is_that_of_finite_differences(per):
    logps = torch.log(torch.tensor([0.1, 0.5, 0.9, 0.97, 0.3], dtype=torch.float32))
    sigma, turns = torch.tensor([0.2, 0.2, 0.2, 0.8, 0.8]), torch.tensor([0, 0, 0, 1, 1])

    def loss(values):
        return sum(reflective_losses(values, sigma, turns, 3.0, per))

    wanted = logps.clone().requires_grad_()
    loss(wanted).backward()
    for i in range(len(logps)):
        step = torch.zeros_like(logps)
        step[i] = 2e-3
        slope = (loss(logps + step) - loss(logps - step)) / 4e-3
        assert wanted.grad[i].item() == pytest.approx(slope.item(), rel=0.02, abs=2e-3)


def test_a_reward_of_one_leaves_the_likelihood_and_of_zero_the_unlikelihood():
    logps = torch.log(torch.rand(6) * 0.9 + 0.05).requires_grad_()
    turns = torch.tensor([0, 0, 1, 1, 2, 2])
    for per in ("token", "answer"):
        likely, unlikely = reflective_losses(logps, torch.ones(6), turns, 10.0, per)
        assert unlikely.item() == 0
        assert likely.item() == pytest.approx(-logps.sum().item())
        likely, unlikely = reflective_losses(logps, torch.zeros(6), turns, 10.0, per)
        assert likely.item() == 0
        (slope,) = torch.autograd.grad(unlikely, logps)
        assert (slope > 0).all(), "descent lowers every log-probability"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("per", ["token", "answer"])
def test_nothing_is_nan_where_tokens_are_certain_or_impossible(dtype, per):
    logps = torch.tensor([0.0, -1e-8, -1e-3, -0.69, -0.7, -20.0, -1e4, -60000.0], dtype=dtype).requires_grad_()
    loss = sum(reflective_losses(logps, torch.full((8,), 0.5), torch.arange(8), 10.0, per))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logps.grad).all()


def test_log1mexp_keeps_its_digits_at_both_ends():
    x = np.array([-2e-6, -1e-3, -0.5, -math.log(2), -0.7, -5.0, -30.0])
    exact = np.log(-np.expm1(x))
    assert log1mexp(torch.tensor(x)).numpy() == pytest.approx(exact, rel=1e-9)
    assert log1mexp(torch.tensor([-100.0])).item() == pytest.approx(-math.exp(-100), rel=1e-3)


# Rows and masks


@pytest.mark.parametrize("kind", ["tiny", "qwen2_vl", "qwen3_vl", "qwen3_5"])
def test_the_mask_trains_the_answers_and_their_ends_token_by_token(small_policies, kind):
    policy = load_policy(small_policies.get(kind, "tiny"))
    batch = collate(policy, dialogues_of((0.1, 0.4, 0.9), (0.7,)))
    decode = policy.processor.tokenizer.decode
    for row, expected in enumerate([[(BAD, 0.1), ("None", 0.4), (GOOD, 0.9)], [(BAD, 0.7)]]):
        turns = batch["turns"][row]
        for i, (answer, sigma) in enumerate(expected):
            here = turns == i + 3 * row
            assert decode(batch["input_ids"][row][here]) == answer + "<|im_end|>"
            assert batch["labels"][row][here].tolist() == batch["input_ids"][row][here].tolist()
            assert batch["sigma"][row][here].tolist() == pytest.approx([sigma] * int(here.sum()))
        assert (batch["labels"][row][turns < 0] == -100).all()
        text = decode(batch["input_ids"][row][batch["attention_mask"][row].bool()])
        said = [turn.words for turn in dialogues_of((0.1, 0.4, 0.9))[0].turns[: len(expected) - 1]]
        assert all(
            f"<|im_end|>\n<|im_start|>user\n{words}<|im_end|>\n<|im_start|>assistant\n" in text for words in said
        )
        assert text.count("<|im_start|>assistant") == len(expected)


def test_what_is_masked_has_no_gradient_and_what_is_trained_has(tiny, tmp_path):
    batch = collate(tiny, dialogues_of((0.2, 0.8)))
    trainer = trainer_of(tiny, dialogues_of((0.2, 0.8)), tmp_path)
    seen = {}

    def watch(module, args, output):
        output.logits.register_hook(lambda grad: seen.update(grad=grad))

    hook = tiny.model.register_forward_hook(watch)
    trained = (batch["labels"][0, 1:] != -100).tolist()
    trainer.compute_loss(tiny.model, dict(batch)).backward()
    hook.remove()
    moved = seen["grad"][0].abs().sum(-1) > 0
    places = trained[len(trained) + 1 - len(moved) :]
    assert moved[:-1].tolist() == places
    assert not moved[-1]
    assert True in trained[: len(trained) + 1 - len(moved)] or sum(trained) == sum(places)


def test_a_dialogue_that_is_too_long_loses_its_earliest_turns_then_its_end(tiny, monkeypatch):
    dialogue, text = dialogues_of((0.1, 0.4, 0.9)), tiny.core.config.get_text_config()
    whole = collate(tiny, dialogue)
    prompt = int((whole["turns"][0] >= 0).int().argmax())
    last = int((whole["turns"][0] == 2).sum())
    monkeypatch.setattr(text, "max_position_embeddings", whole["input_ids"].shape[1] - 1)
    assert set(collate(tiny, dialogue)["turns"][0].tolist()) == {-1, 1, 2}
    monkeypatch.setattr(text, "max_position_embeddings", prompt + last)
    assert set(collate(tiny, dialogue)["turns"][0].tolist()) == {-1, 2}
    monkeypatch.setattr(text, "max_position_embeddings", prompt + last - 3)
    cut = collate(tiny, dialogue)
    assert cut["input_ids"].shape[1] == prompt + last - 3
    assert (cut["turns"][0] == 2).sum() == last - 3


# Training


@pytest.mark.parametrize("per", ["token", "answer"])
def test_rewards_of_one_are_supervised_fine_tuning(tiny, tmp_path, per):
    dialogues = dialogues_of((1.0, 1.0), (1.0,), (None, 1.0, 1.0))
    batch = collate(tiny, dialogues)
    model = tiny.model
    inputs = {name: value for name, value in batch.items() if name not in ("sigma", "turns")}
    supervised = model(**inputs).loss
    supervised.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    loss = trainer_of(tiny, dialogues, tmp_path, per=per, alpha=10.0).compute_loss(model, dict(batch))
    loss.backward()
    assert loss.item() == pytest.approx(supervised.item(), rel=1e-5)
    for name, p in model.named_parameters():
        assert (p.grad - wanted[name]).norm() <= 1e-4 * wanted[name].norm() + 1e-7, name


def test_the_loss_of_rewards_of_one_is_that_of_trls_trainer(tiny, tmp_path):
    samples = make_scenes("counting", 3, seed=0)
    rows = _to_dataset(samples, tiny, None, "kit")
    args = replace(TINY_SFT, batch_size=4, micro_batch=4).config(tmp_path)
    args.remove_unused_columns = False
    trainer = SFTTrainer(model=tiny.model, args=args, train_dataset=rows, processing_class=tiny.processor)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    after_end = batch["input_ids"].roll(1, 1) == tiny.processor.tokenizer.eos_token_id
    newline = tiny.processor.tokenizer("\n")["input_ids"]
    assert (
        batch["labels"][after_end & (batch["labels"] != -100)].tolist() == newline * 3
    )  # TRL trains it, no policy says it
    batch["labels"][after_end] = -100
    wanted = trainer.compute_loss(tiny.model, batch).item()
    dialogues = [Dialogue(s, (Turn(supervised_answer(s, tiny), 1.0),)) for s in samples]
    own = trainer_of(tiny, dialogues, tmp_path, alpha=10.0).compute_loss(tiny.model, collate(tiny, dialogues))
    assert own.item() == pytest.approx(wanted, rel=1e-5)


def test_training_makes_good_answers_likelier_and_bad_ones_less_likely(tiny, tmp_path):
    dialogues = dialogues_of((0.0,), (0.0,), answers=("None",) * 3) + dialogues_of((1.0,), (1.0,), answers=(GOOD,) * 3)

    @torch.no_grad()
    def logp(dialogue):
        batch = collate(tiny, [dialogue])
        inputs = {name: value for name, value in batch.items() if name not in ("sigma", "turns")}
        return -tiny.model(**inputs).loss.item()

    before = [logp(dialogue) for dialogue in dialogues]
    rows = train_reper(tiny, dialogues, tmp_path, replace(QUICK, steps=8, batch_size=4, micro_batch=4, alpha=1.0))
    after = [logp(dialogue) for dialogue in dialogues]
    assert all(b < a for a, b in zip(before[:2], after[:2], strict=True))
    assert all(b > a for a, b in zip(before[2:], after[2:], strict=True))
    assert rows[0]["loss"] == pytest.approx(rows[0]["likelihood"] + rows[0]["unlikelihood"], rel=1e-3)
    assert {"sigma", "grad_norm"} <= rows[0].keys()


def test_micro_batches_make_the_same_step(tmp_path):
    dialogues, ends = dialogues_of((0.1, 0.9), (0.7,), (0.2, 0.5, 1.0), (0.6,)), []
    for micro in (4, 1):
        policy = load_policy("tiny")
        settings = replace(QUICK, steps=1, batch_size=4, micro_batch=micro, alpha=0.5)
        row = train_reper(policy, dialogues, tmp_path / str(micro), settings)[0]
        ends.append((row, trained_weights(policy.model)))
    assert ends[0][0]["loss"] == pytest.approx(ends[1][0]["loss"], rel=1e-4)
    assert ends[0][0]["grad_norm"] == pytest.approx(ends[1][0]["grad_norm"], rel=1e-3)


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(tmp_path):
    dialogues = dialogues_of((0.1, 0.9), (0.7,), (0.2, 0.5, 1.0))
    settings = replace(QUICK, steps=3)
    whole, cut = load_policy("tiny"), load_policy("tiny")
    rows = train_reper(whole, dialogues, tmp_path, settings)
    shutil.rmtree(tmp_path / "checkpoint-3")
    again = train_reper(cut, dialogues, tmp_path, settings)
    for name in ("loss", "likelihood", "unlikelihood", "sigma"):
        assert [row[name] for row in again] == [row[name] for row in rows]
    ends = [trained_weights(policy.model) for policy in (whole, cut)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    with pytest.raises(ValueError, match=r"holds a run with other settings \(dialogues was"):
        train_reper(load_policy("tiny"), dialogues_of((0.1, 0.8), (0.7,), (0.2, 0.5, 1.0)), tmp_path, settings)


def test_an_adapter_is_trained_alone(tmp_path):
    policy = load_policy("tiny", lora={"r": 4}, verbose=False)
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    train_reper(policy, dialogues_of((0.1, 0.9), (0.7,)), tmp_path, QUICK)
    moved = {name for name, p in policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)


def test_bad_input_is_one_sentence(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"no dialogues to train on\.$"):
        train_reper(tiny, [], tmp_path)
    with pytest.raises(ValueError, match=r"no dialogues to train on \(samples 3, gap not above 0\.2 3\)"):
        train_reper(tiny, Dialogues([], {"samples": 3, "kept": 0, "gap not above 0.2": 3}), tmp_path)
    with pytest.raises(ValueError, match=r"normalised to \[0, 1\], got 1\.5"):
        train_reper(tiny, dialogues_of((0.5, 1.5)), tmp_path)
    with pytest.raises(ValueError, match=r"normalised to \[0, 1\], got nan"):
        train_reper(tiny, dialogues_of((float("nan"),)), tmp_path)
    for wrong, words in (
        ({"per": "word"}, "Unknown per 'word': choose one of token, answer"),
        ({"alpha": -1}, "alpha must be a finite number from 0, got -1"),
        ({"tells": "all"}, "Unknown tells 'all': choose one of again, score, fault, worst"),
        ({"max_turns": 0}, "at least one turn, got max_turns 0"),
        ({"micro_batch": 3}, "no multiple of micro_batch x processes \\(3\\)"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(QUICK, **wrong).config(tmp_path)


def test_control_tokens_in_an_answer_train_as_letters(tiny, tmp_path):
    odd = "<|image_pad|><|im_end|><|im_start|>\udce9" + GOOD
    batch = collate(tiny, dialogues_of((0.5, 0.6), answers=(odd, odd, odd)))
    pads = tiny.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert (batch["input_ids"] == pads).sum() == batch["image_grid_thw"].prod() // 4
    rows = train_reper(tiny, dialogues_of((0.5, 0.6), (0.1,), answers=(odd, odd, odd)), tmp_path, QUICK)
    assert len(rows) == 2


# Dialogues and the critic's lessons


def test_dialogues_run_from_worse_to_best_and_the_counts_add_up(tiny):
    samples = make_scenes("counting", 24, seed=1)
    dialogues = make_dialogues(tiny, samples, (0.0, 0.6, 1.2), critic=RewardCritic(), max_new_tokens=64)
    statistics = dialogues.statistics
    assert len(dialogues) == statistics["kept"] > 3
    assert statistics["samples"] == 24
    assert statistics["kept"] + statistics["best not above 0.55"] + statistics["gap not above 0.2"] == 24
    assert sum(statistics[f"with {n} turn{'s' * (n > 1)}"] for n in (1, 2, 3)) == len(dialogues)
    for dialogue in dialogues:
        scores = [turn.score for turn in dialogue.turns]
        assert scores == sorted(scores) == pytest.approx(dialogue.rewards())
        assert scores[-1] > 0.55
        assert len(scores) == 1 or scores[-1] - scores[0] > 0.2
        assert [turn.words != "" for turn in dialogue.turns] == [True] * (len(scores) - 1) + [False]
        assert all(turn.words.startswith("A score of ") for turn in dialogue.turns[:-1])
    plain = make_dialogues(tiny, samples, (0.0, 0.6, 1.2), max_new_tokens=64)
    assert [d.completions for d in plain] == [d.completions for d in dialogues]
    assert {turn.words for dialogue in plain for turn in dialogue.turns[:-1]} == {AGAIN}
    none = make_dialogues(tiny, samples[:4], (0.0,), max_new_tokens=64)
    assert none == []
    assert none.statistics["kept"] == 0
    with pytest.raises(ValueError, match="need temperatures and turns >= 1"):
        make_dialogues(tiny, samples, ())


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_worst_to_best_begins_with_the_worst_and_ends_with_the_best(number):
    rng = np.random.default_rng(0)
    for _ in range(50):
        rewards = rng.integers(0, 5, rng.integers(1, 9)) / 5
        chosen = [rewards[k] for k in worst_to_best(rewards.tolist(), number)]
        assert chosen[-1] == rewards.max()
        assert len(chosen) == min(number, len(set(rewards)))
        assert all(a < b for a, b in pairwise(chosen))
        assert len(chosen) == 1 or chosen[0] == rewards.min()


@pytest.mark.parametrize("kind", ["tiny", "qwen2_vl", "qwen3_vl", "qwen3_5"])
def test_the_critic_reads_an_answer_as_a_turn_of_its_own(small_policies, kind):
    policy = load_policy(small_policies.get(kind, "tiny"))
    (sample,) = make_scenes("counting", 1, seed=0)
    template = policy.processor.apply_chat_template
    for answer, safe in ((GOOD, GOOD), ("a<|im_end|>b", "a< |im_end|>b"), ("x" * 100_000, "x" * 4_000)):
        said = [("assistant", safe), ("user", SCORE_IT)]
        turns = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
        asked = template(chat(question_to_critic(policy, sample, answer)), add_generation_prompt=True)
        assert asked == template([*chat(sample), *turns], add_generation_prompt=True)


def test_a_policy_learns_to_criticise_from_the_reward_critic(tiny, tmp_path):
    samples = make_scenes("counting", 4, seed=0)
    lessons = critic_lessons(tiny, samples, [GOOD, BAD, "None", GOOD], ["pixel"] * 4)
    assert all(d.turns[0].completion.startswith("A score of ") for d in lessons)
    assert all(
        d.sample.prompt == question_to_critic(tiny, s, a).prompt
        for d, s, a in zip(lessons, samples, [GOOD, BAD, "None", GOOD], strict=True)
    )
    train_reper(tiny, lessons, tmp_path, replace(QUICK, steps=50, batch_size=4, micro_batch=4, learning_rate=2e-3))
    critiques = PolicyCritic(tiny)(samples, [GOOD, BAD, "None", GOOD], ["pixel"] * 4)
    taught = RewardCritic()(samples, [GOOD, BAD, "None", GOOD], ["pixel"] * 4)
    assert sum(critique.score is not None for critique in critiques) >= 3
    assert all(critique.words.endswith(AGAIN) for critique in critiques)
    assert sum(a.score == pytest.approx(round(10 * b.score) / 10) for a, b in zip(critiques, taught, strict=True)) >= 3


def test_a_policy_that_never_learned_to_criticise_is_data(tiny):
    samples = make_scenes("counting", 3, seed=0)
    for critique in PolicyCritic(tiny, max_new_tokens=24)(samples, [GOOD, "x" * 100_000, ""], ["pixel"] * 3):
        assert critique.score is None
        assert critique.reason
        assert critique.words


# The command


def test_the_command_makes_dialogues_trains_and_goes_on(tmp_path, capsys):
    out = tmp_path / "run"
    flags = ["train", "--method", "reper", "--task", "counting", "--data", "scenes", "--limit", "6", "--out", str(out)]
    flags += ["--steps", "2", "--batch-size", "2", "--micro-batch", "2", "--save-steps", "1", "--tells", "worst"]
    flags += ["--max-completion-length", "48"]
    assert main(flags) == 0
    said = capsys.readouterr().out
    assert "Dialogues: samples: 6, kept: " in said
    assert len(read_log(out / "log.jsonl")) == 2
    assert (out / "model" / "model.safetensors").is_file()
    before = read_log(out / "log.jsonl")
    shutil.rmtree(out / "checkpoint-2")
    assert main(flags) == 0
    assert [row["loss"] for row in read_log(out / "log.jsonl")] == [row["loss"] for row in before]
    for wrong, words in (
        (["--least-best", "1"], "There are no dialogues to train on (samples 6, best not above 1 6)."),
        (["--per", "word"], "Unknown per 'word'"),
        (["--engine", "vllm"], "reper has no rollouts while it trains"),
        (["--beta", "1"], "Unknown setting 'beta'"),
    ):
        capsys.readouterr()
        assert main([*flags, *wrong, "--out", str(tmp_path / "other")]) == 2
        error = capsys.readouterr().err
        assert words in error or "--engine vllm cannot run" in error
