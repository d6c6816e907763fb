"""Shared prefix: the same log-probabilities, gradients, steps and tokens as TRL and transformers give, or a warning."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from datasets import Sequence as SequenceFeature
from peft import LoraConfig
from PIL import Image
from scipy.stats import chisquare
from trl import GRPOConfig, GRPOTrainer
from trl.data_utils import prepare_multimodal_messages

from pr1kit import PerceptionGRPOTrainer, make_scenes, reward_function
from pr1kit.models.adapters import cast_adapters_and_freeze_tower
from pr1kit.models.policy import load_policy
from pr1kit.rollouts.branched_decoding import branches, can_branch, draw
from pr1kit.rollouts.generate import generate_completions
from pr1kit.training.grpo import to_dataset
from pr1kit.training.grpo_settings import TINY
from pr1kit.training.shared_prefix.attention import share
from pr1kit.training.shared_prefix.groups import gather_groups, group_starts
from pr1kit.training.shared_prefix.logprobs import LogProbs
from pr1kit.training.shared_prefix.packing import pack, unpack
from pr1kit.training.shared_prefix.self_check import differences

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SIZES = ((64, 64), (48, 80), (96, 32))
TEXT_LORA = r".*language_model.*(q|k|v|o|up|down)_proj"
ALL_LORA = r".*(language_model.*(q|v|up)_proj|visual.*(qkv|fc1|up_proj|proj))"


def data(n=6, images=1) -> Dataset:
    """Prompts of different lengths over images of different sizes, some with several images."""
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        shown = [
            Image.fromarray(rng.integers(0, 255, (*SIZES[(i + k) % len(SIZES)], 3), np.uint8)) for k in range(images)
        ]
        words = "Where is it? " * (1 + i % 3)
        rows.append({"prompt": [{"role": "user", "content": words}], "images": shown, "number": i})
    return Dataset.from_list(rows).cast_column("images", SequenceFeature(ImageFeature()))


def length_reward(completions, number, **_):
    """Differs within a group and between prompts."""
    return [len(c[0]["content"]) % 7 / 7 + n / 10 for c, n in zip(completions, number, strict=True)]


class Drawn:
    """Completions drawn from the step and the row alone: what makes two trainers comparable."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, *_):
        vocabulary = self._tokenizer.convert_tokens_to_ids(["a", "b", "0", "1"])
        first, out = self.accelerator.process_index * len(prompt_ids), []
        for row in range(first, first + len(prompt_ids)):
            rng = np.random.default_rng([self._step, row])
            words = rng.choice(vocabulary, rng.integers(1, 9)).tolist()
            out.append(words if row % 4 == 3 else [*words, self._tokenizer.eos_token_id])
        return out, None


class SharedDrawn(Drawn, PerceptionGRPOTrainer):
    pass


class StockDrawn(Drawn, GRPOTrainer):
    pass


def trainer(cls, folder, out, dataset=None, peft=None, **settings):
    policy = load_policy(folder, dtype="float32")
    defaults = dict(
        output_dir=str(out),
        per_device_train_batch_size=8,
        num_generations=4,
        max_steps=1,
        learning_rate=1e-2,
        max_completion_length=10,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        optim="sgd",  # a step of Adam has the size of the learning rate wherever a gradient is not quite zero
    )
    return cls(
        model=policy.model,
        reward_funcs=length_reward,
        args=GRPOConfig(**defaults | settings),
        train_dataset=dataset or data(),
        processing_class=policy.processor,
        peft_config=peft,
    )


def generated(t, per_step=None):
    """The first generation batch of a trainer."""
    t.model.train()
    rows = next(iter(t.get_train_dataloader()))
    t.current_gradient_accumulation_steps = 1
    return t._prepare_inputs(rows)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_and_gradients_are_trls(small_policies, tmp_path, kind, images, attention):
    t = trainer(SharedDrawn, small_policies[kind], tmp_path, data(images=images))
    t.model.set_attn_implementation(attention)
    batch = generated(t)
    rows = LogProbs.of_batch(t, batch)
    assert rows.starts == [0, 4]
    everything = range(len(rows.input_ids))
    results = []
    for path in (rows.shared, rows.per_row):
        t.model.zero_grad()
        logps, entropies = path(everything)[:2]
        weights = torch.linspace(-1, 1, logps.numel()).view_as(logps)
        (logps * weights * rows.completion_mask).sum().backward()
        results.append((logps, entropies, {n: p.grad.clone() for n, p in t.model.named_parameters()}))
    (logps, entropies, grads), (stock_logps, stock_entropies, stock_grads) = results
    assert logps.shape == stock_logps.shape
    assert (logps != 0).any()
    assert (logps - stock_logps).abs().max() < 1e-5
    assert (entropies - stock_entropies).abs().max() < 1e-5
    for name, grad in stock_grads.items():
        assert (grads[name] - grad).norm() <= 1e-4 * grad.norm() + 1e-7, name


OPTIONS = {
    "plain": {},
    "accumulated": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "two generations": {"num_generations": 2},
    "checkpointed": {"gradient_checkpointing": True},
    "iterations": {"num_iterations": 3, "max_steps": 3},
    "several steps of one batch": {"steps_per_generation": 2, "max_steps": 2, "shuffle_dataset": False},
    "reference": {"beta": 0.1, "max_steps": 2},
    "truncated masked": {"mask_truncated_completions": True},
    "high entropy": {"top_entropy_quantile": 0.5},
    **{loss: {"loss_type": loss} for loss in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_ends_at_trls_weights(small_policies, tmp_path, kind, option):
    if kind == "qwen2_vl" and option not in ("plain", "accumulated", "reference"):
        pytest.skip("the options are TRL's own: tried on Qwen2.5-VL")
    ends, logs = [], []
    for cls in (SharedDrawn, StockDrawn):
        t = trainer(cls, small_policies[kind], tmp_path, **OPTIONS[option])
        t.train()
        ends.append({name: value.detach() for name, value in t.model.named_parameters()})
        logs.append([row for row in t.state.log_history if "loss" in row])
        if cls is SharedDrawn:
            assert t.shared_prefix, "it fell back"
    if option != "several steps of one batch":  # TRL shuffles the rows over the steps, we keep groups whole
        for name, value in ends[1].items():
            assert (ends[0][name] - value).norm() <= 1e-5 * value.norm() + 1e-7, name
    for mine, stock in zip(*logs, strict=True):
        assert mine.get("reward") == pytest.approx(stock.get("reward"), abs=1e-6)  # none where a batch is used again
        if option not in ("accumulated", "several steps of one batch"):  # a mean over micro-batches, whose rows differ
            assert mine["entropy"] == pytest.approx(stock["entropy"], abs=1e-4)


@pytest.mark.parametrize("target", [TEXT_LORA, ALL_LORA], ids=["text", "text and vision"])
def test_adapters_train_as_in_trl_with_the_adapter_off_as_reference(small_policies, tmp_path, target):
    peft = LoraConfig(r=4, target_modules=target)
    ends = []
    for cls in (SharedDrawn, StockDrawn):
        torch.manual_seed(0)
        t = trainer(
            cls, small_policies["qwen2_5_vl"], tmp_path, peft=peft, beta=0.1, max_steps=2, gradient_checkpointing=True
        )
        t.train()
        ends.append({n: p.detach() for n, p in t.model.named_parameters() if "lora" in n})
    moved = [name for name, value in ends[0].items() if "lora_B" in name and value.any()]
    assert len(moved) == sum("lora_B" in name for name in ends[0])
    if target is ALL_LORA:
        assert any("visual" in name for name in moved)
    for name, value in ends[1].items():
        assert (ends[0][name] - value).norm() <= 1e-4 * value.norm() + 1e-7, name


def test_bf16_stays_within_what_rounding_explains(small_policies, tmp_path):
    t = trainer(SharedDrawn, small_policies["qwen2_5_vl"], tmp_path, bf16=True, max_steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        t.train()
    assert t.shared_prefix


def test_a_twenty_step_run_follows_the_stock_run(tmp_path):
    """TRL's own trainer on the tiny policy, with the same random draws of completions: loss and reward coincide."""

    class SameDraws:
        def _generate_single_turn(self, prompt_ids, images, fields, num_generations, *_):
            torch.manual_seed(self._step)
            if getattr(self, "_group_of_row", None) is not None:
                return PerceptionGRPOTrainer._generate_single_turn(self, prompt_ids, images, fields, num_generations)
            few = self.num_generations
            grid = torch.as_tensor(fields["image_grid_thw"])
            pixels = torch.as_tensor(fields["pixel_values"]).view(len(prompt_ids), -1, fields["pixel_values"].shape[1])
            self._group_of_row = [i for i in range(len(prompt_ids) // few) for _ in range(few)]
            fields = {
                "pixel_values": pixels[::few].flatten(0, 1),
                "image_grid_thw": grid[::few],
                "mm_token_type_ids": fields["mm_token_type_ids"][::few],
            }
            try:
                return PerceptionGRPOTrainer._generate_single_turn(self, prompt_ids, images, fields, num_generations)
            finally:
                self._group_of_row = None

    class Stock(SameDraws, GRPOTrainer):
        _left_padded, _sharded = PerceptionGRPOTrainer._left_padded, PerceptionGRPOTrainer._sharded

    class Shared(SameDraws, PerceptionGRPOTrainer):
        pass

    settings = replace(TINY, steps=20, prompts_per_step=4, micro_prompts=4, max_completion_length=64, save_steps=1000)
    logs = []
    for cls in (Stock, Shared):
        policy = load_policy("tiny")
        t = cls(
            model=policy.model,
            reward_funcs=reward_function("counting"),
            args=settings.config(tmp_path),
            train_dataset=to_dataset(make_scenes("counting", 80, 3), policy),
            processing_class=policy.processor,
        )
        t.train()
        logs.append([row for row in t.state.log_history if "loss" in row])
    stock, shared = logs
    assert len(stock) == 20
    for key, tolerance in (("reward", 1e-6), ("loss", 1e-4), ("entropy", 1e-3), ("grad_norm", 1e-2)):
        theirs, ours = ([row[key] for row in log] for log in (stock, shared))
        assert ours == pytest.approx(theirs, abs=tolerance, rel=1e-3), key
    assert len({row["reward"] for row in stock}) > 10


# Rollouts


def prompts_of(policy, n=5):
    rows = data(n, images=1)
    messages = [
        prepare_multimodal_messages(list(p), images=i) for p, i in zip(rows["prompt"], rows["images"], strict=True)
    ]
    texts = [policy.processor.apply_chat_template(m, add_generation_prompt=True) for m in messages]
    return policy.processor(text=texts, images=list(rows["images"]), padding=True, return_tensors="pt")


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("kind", [*KINDS, "qwen3_5", "tiny"])
def test_greedy_decoding_gives_the_tokens_of_generate(small_policies, kind, penalty):
    policy = load_policy(small_policies.get(kind, "tiny"))
    inputs = prompts_of(policy)
    settings = {"max_new_tokens": 40, "do_sample": False, "repetition_penalty": penalty}
    stock = policy.model.generate(**inputs, **settings)
    mine = policy.model.generate(**inputs, **settings, custom_generate=branches(3))
    assert mine.shape == (15, stock.shape[1])
    assert torch.equal(mine, stock.repeat_interleave(3, 0))


def test_groups_may_have_unequal_sizes():
    policy = load_policy("tiny")
    inputs = prompts_of(policy, 2)
    settings = {"max_new_tokens": 20, "do_sample": False}
    stock = policy.model.generate(**inputs, **settings)
    mine = policy.model.generate(**inputs, **settings, custom_generate=branches([1, 3]))
    assert torch.equal(mine, stock[[0, 1, 1, 1]])


def fits(counts, probabilities) -> bool:
    """Whether counts are such as these probabilities give, at the 0.1 % level."""
    counts, probabilities = counts.double().numpy(), probabilities.double().numpy()
    return chisquare(counts, probabilities / probabilities.sum() * counts.sum()).pvalue > 1e-3


def test_draws_follow_the_softmax():
    torch.manual_seed(0)
    scores = torch.tensor([0.0, 1.0, -1.0, -float("inf"), 2.0])
    counts = torch.bincount(draw(scores.expand(20000, 5)), minlength=5)
    assert counts[3] == 0
    seen = [0, 1, 2, 4]
    assert fits(counts[seen], scores.softmax(0)[seen])


def test_sampled_branches_have_the_models_distribution():
    """First two tokens of 4,000 branches against the exact probabilities from plain forward passes."""
    policy = load_policy("tiny")
    inputs = prompts_of(policy, 1)
    torch.manual_seed(0)
    sampled = policy.model.generate(
        **inputs, max_new_tokens=2, do_sample=True, temperature=3.0, top_k=0, top_p=1.0, custom_generate=branches(4000)
    )[:, -2:]
    with torch.no_grad():
        first = (policy.model(**inputs).logits[0, -1] / 3).softmax(-1)
        best = int(first.argmax())
        more = dict(inputs)
        more["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[best]])], 1)
        more["attention_mask"] = torch.ones_like(more["input_ids"])
        more["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros(1, 1, dtype=torch.long)], 1)
        second = (policy.model(**more).logits[0, -1] / 3).softmax(-1)
    after_best = sampled[sampled[:, 0] == best, 1]
    for tokens, probabilities in ((sampled[:, 0], first), (after_best, second)):
        common = probabilities.topk(8).indices
        counts = torch.bincount(tokens, minlength=len(probabilities))[common]
        assert counts.sum() < len(tokens)
        rest = 1 - probabilities[common].sum()
        assert fits(
            torch.cat([counts, (len(tokens) - counts.sum())[None]]), torch.cat([probabilities[common], rest[None]])
        )


def test_given_random_numbers_choose_the_tokens_of_plain_passes():
    """Two answers to a prompt, token by token from the whole row's own pass and the same numbers in [0, 1)."""
    policy = load_policy("tiny")
    inputs = prompts_of(policy, 1)
    draws = torch.rand(2, 6, generator=torch.Generator().manual_seed(5))
    settings = {"max_new_tokens": 6, "do_sample": True, "temperature": 2.0, "top_k": 0, "top_p": 1.0}
    mine = policy.model.generate(**inputs, **settings, custom_generate=branches(2, draws=draws))[:, -6:]
    for answer, chances in zip(mine, draws, strict=True):
        row = dict(inputs)
        for token, chance in zip(answer, chances, strict=True):
            with torch.no_grad():
                scores = policy.model(**row).logits[:, -1] / 2
            assert draw(scores, chance[None]) == token
            row["input_ids"] = torch.cat([row["input_ids"], token.view(1, 1)], 1)
            row["attention_mask"] = torch.ones_like(row["input_ids"])
            row["mm_token_type_ids"] = torch.nn.functional.pad(row["mm_token_type_ids"], (0, 1))


def deaf(monkeypatch, model):
    """The layers of `model` keep what a decoding step is told to themselves."""
    layer = type(model.model.language_model.layers[0])
    forward = layer.forward

    def other(self, *args, prompts=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", other)


def test_layers_that_keep_keyword_arguments_answer_by_generate(small_policies, tmp_path, monkeypatch):
    policy = load_policy(small_policies["qwen2_5_vl"])
    scenes, settings = make_scenes("counting", 3), {"num_generations": 2, "max_new_tokens": 12}
    expected = generate_completions(policy, scenes, **settings)
    t = trainer(PerceptionGRPOTrainer, small_policies["qwen2_5_vl"], tmp_path)
    deaf(monkeypatch, policy.model)
    assert generate_completions(policy, scenes, **settings) == expected
    assert policy.model.config.text_config._attn_implementation == "sdpa"
    with pytest.warns(UserWarning, match="Shared prefix is off: the layers of .* do not pass keyword arguments on"):
        t.train()
    assert np.isfinite(t.state.log_history[0]["loss"])


def test_sampling_follows_the_seed():
    policy = load_policy("tiny")
    inputs = prompts_of(policy, 2)

    def sample(seed):
        torch.manual_seed(seed)
        return policy.model.generate(**inputs, max_new_tokens=20, do_sample=True, custom_generate=branches(4))

    assert torch.equal(sample(1), sample(1))
    one, other = sample(1), sample(2)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_images_are_processed_and_seen_once(small_policies, tmp_path, monkeypatch):
    t = trainer(PerceptionGRPOTrainer, small_policies["qwen2_5_vl"], tmp_path, beta=0.1)
    processed, seen = [], []
    image_processor = type(t.processing_class.image_processor)
    preprocess = image_processor.preprocess
    monkeypatch.setattr(
        image_processor, "preprocess", lambda self, i, *a, **k: processed.append(len(i)) or preprocess(self, i, *a, **k)
    )
    for model in (t.model, t.ref_model):
        model.model.visual.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(len(kwargs.get("grid_thw", args[-1]))), with_kwargs=True
        )
    t._checked = True  # the first-use check looks twice, by design
    t.train()
    assert processed == [2]  # two prompts a step
    assert seen == [2, 2, 2]  # rollout, reference, policy


# What cannot be shared, and says so


def test_the_first_group_is_checked_and_a_difference_falls_back(small_policies, tmp_path, monkeypatch):
    t = trainer(SharedDrawn, small_policies["qwen2_5_vl"], tmp_path / "a", max_steps=2)
    real = pack

    def broken(*args, **kwargs):
        packed = real(*args, **kwargs)
        return replace(packed, position_ids=packed.position_ids + 3 * (packed.branch > 0))

    monkeypatch.setattr("pr1kit.training.shared_prefix.logprobs.pack", broken)
    with pytest.warns(UserWarning, match="Shared prefix is off: on the first group its log-probabilities differ"):
        t.train()
    stock = trainer(StockDrawn, small_policies["qwen2_5_vl"], tmp_path / "b", max_steps=2)
    stock.train()
    for (name, mine), theirs in zip(t.model.named_parameters(), stock.model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6), name


def test_a_position_fault_does_not_hide_in_bfloat16(tmp_path, monkeypatch):
    """Answers that begin one place late: less than the mean difference of 0.1 that once was allowed."""
    t = trainer(PerceptionGRPOTrainer, "tiny", tmp_path, to_dataset(make_scenes("counting", 2), load_policy("tiny")),
                bf16=True, max_completion_length=48)  # fmt: skip
    t.reward_funcs = [lambda completions, **_: [0.0] * len(completions)]
    rows = LogProbs.of_batch(t, generated(t))
    t.model.eval()
    assert np.less_equal(*differences(rows))

    def late(*args, **kwargs):
        packed = pack(*args, **kwargs)
        return replace(packed, position_ids=packed.position_ids + (packed.branch > 0))

    monkeypatch.setattr("pr1kit.training.shared_prefix.logprobs.pack", late)
    assert np.greater(*differences(rows))
    first, mask = range(4), rows.completion_mask[:4].bool()
    with torch.no_grad():
        assert (rows.shared(first)[0] - rows.per_row(first)[0])[mask].abs().mean() < 0.1


@pytest.mark.parametrize("exact", [True, False])
def test_weights_of_few_bits_pass_the_check_and_come_back_to_the_bit(small_policies, tmp_path, exact):
    t = trainer(SharedDrawn, small_policies["qwen2_5_vl"], tmp_path)
    t.model.to(torch.bfloat16)
    before = {name: value.clone() for name, value in t.model.state_dict().items()}
    rows = LogProbs.of_batch(t, generated(t))
    t.model.eval()
    assert np.less_equal(*differences(rows, exact))
    for name, value in t.model.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, before[name]), name


def test_refused_sharing_leaves_flash_attention_as_it_was(small_policies, tmp_path, monkeypatch):
    monkeypatch.setattr("pr1kit.training.shared_prefix.logprobs.pack", lambda *_: 1 / 0)
    t = trainer(SharedDrawn, small_policies["qwen2_5_vl"], tmp_path)
    text = t.model.config.text_config
    share(t.model)
    assert text._attn_implementation == "shared_prefix:sdpa"
    with pytest.warns(UserWarning, match=r"cannot read packed rows .ZeroDivisionError: division by zero.*times more"):
        t.train()
    assert text._attn_implementation == "sdpa"
    text._attn_implementation = "flash_attention_2"
    t = trainer(SharedDrawn, small_policies["qwen2_5_vl"], tmp_path)
    t.model.config.text_config._attn_implementation = "flash_attention_2"
    share(t.model)
    with pytest.warns(UserWarning, match="Shared prefix is off: so"):
        t._disable_shared_prefix("so")
    assert t.model.config.text_config._attn_implementation == "flash_attention_2"


@pytest.mark.parametrize("fault", ["layers keep keyword arguments", "not a number"])
def test_what_a_model_makes_of_a_packed_row_is_seen_before_it_trains(small_policies, tmp_path, monkeypatch, fault):
    t = trainer(SharedDrawn, small_policies["qwen2_5_vl"], tmp_path)
    layer = type(t.model.model.language_model.layers[0])
    forward = layer.forward

    def other(self, hidden_states, *args, shared_prefix=None, **kwargs):
        if fault == "not a number" and shared_prefix is not None:
            return forward(self, hidden_states, *args, shared_prefix=shared_prefix, **kwargs) * float("nan")
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", other)
    reason = "do not pass keyword arguments on" if fault != "not a number" else "log-probabilities differ"
    with pytest.warns(UserWarning, match=reason):
        t.train()
    assert np.isfinite(t.state.log_history[0]["loss"])


def test_a_frozen_tower_is_hooked_once_and_nothing_is_patched(small_policies, tmp_path):
    policy = load_policy(small_policies["qwen2_5_vl"], lora={"r": 2}, verbose=False)
    tower = policy.core.model.visual
    for _ in range(3):
        cast_adapters_and_freeze_tower(policy.model, policy.core)
    assert "forward" not in vars(tower)
    assert (len(tower._forward_pre_hooks), len(tower._forward_hooks)) == (1, 1)
    policy.model.enable_input_require_grads()
    pixels = torch.randn(16, 3 * 2 * 8 * 8)
    assert not tower(pixels, torch.tensor([[1, 4, 4]])).pooler_output.requires_grad
    assert torch.is_grad_enabled()
    with pytest.raises((RuntimeError, ValueError)):
        tower(pixels[:3], torch.tensor([[1, 4, 4]]))
    assert torch.is_grad_enabled()
    next(tower.parameters()).requires_grad_(True)
    assert tower(pixels, torch.tensor([[1, 4, 4]])).pooler_output.requires_grad


def test_the_adapter_of_a_quantized_policy_keeps_its_bits(small_policies, tmp_path):
    """TRL rounds it to bfloat16 where a trainer is made: each stage of a curriculum would lose some."""
    pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes")
    policy = load_policy(small_policies["qwen2_5_vl"], device="cpu", quantization="4bit", lora={"r": 2}, verbose=False)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters() if "lora" in n}
    assert any((value.bfloat16() != value).any() for value in before.values())
    for beta in (0.0, 0.1):
        SharedDrawn(
            model=policy.model,
            reward_funcs=length_reward,
            args=GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", beta=beta),
            train_dataset=data(),
            processing_class=policy.processor,
        )
        for name, value in before.items():
            assert torch.equal(policy.model.get_parameter(name), value), name


def test_a_model_without_positions_takes_trls_path_and_says_so(small_policies, tmp_path, monkeypatch):
    monkeypatch.setattr("pr1kit.training.grpo_trainer.can_branch", lambda model: False)
    with pytest.warns(UserWarning, match="does not tell M-RoPE positions .* costs up to that many times more"):
        t = trainer(PerceptionGRPOTrainer, small_policies["qwen2_5_vl"], tmp_path)
    t.train()
    assert "loss" in t.state.log_history[0]


def test_sliding_windows_take_trls_path_and_say_so(small_policies, tmp_path):
    """A window shorter than the prompt: no layer may see the whole prefix, in decoding neither."""
    policy = load_policy(small_policies["qwen2_5_vl"], verbose=False)
    assert can_branch(policy.model)
    config = policy.model.config
    config.text_config.use_sliding_window, config.text_config.sliding_window = True, 8
    config.text_config.layer_types = ["sliding_attention"] * config.text_config.num_hidden_layers
    policy.model.save_pretrained(tmp_path / "sliding")
    policy.processor.save_pretrained(tmp_path / "sliding")
    with pytest.warns(UserWarning, match="Shared prefix is off: .* has layers of sliding attention, which do not see"):
        t = trainer(PerceptionGRPOTrainer, str(tmp_path / "sliding"), tmp_path)
    assert not can_branch(t.model)
    inputs, whole = prompts_of(policy, 2), load_policy(small_policies["qwen2_5_vl"], verbose=False)
    assert not torch.allclose(t.model(**inputs).logits, whole.model(**inputs).logits, atol=1e-4)
    t.train()
    assert np.isfinite(t.state.log_history[0]["loss"])


def test_a_broken_group_is_refused(small_policies, tmp_path):
    class Shuffled(PerceptionGRPOTrainer):
        def _get_train_sampler(self, dataset=None):
            order = list(super()._get_train_sampler(dataset))
            return np.random.default_rng(0).permutation(order).tolist()

    t = trainer(Shuffled, small_policies["qwen2_5_vl"], tmp_path)
    with pytest.raises(ValueError, match="prompt changes within a group of 4 rows"):
        t.train()


def test_one_generation_is_no_group(small_policies, tmp_path):
    with pytest.raises(ValueError, match="at least 2 generations"):
        trainer(PerceptionGRPOTrainer, small_policies["qwen2_5_vl"], tmp_path, num_generations=1)


def test_an_image_token_in_an_answer_is_a_word_like_any_other(small_policies, tmp_path):
    t = trainer(SharedDrawn, small_policies["qwen2_5_vl"], tmp_path)
    batch = generated(t)
    batch["completion_ids"][1, 0] = t.model.config.image_token_id
    logps, _ = LogProbs.of_batch(t, batch).shared(range(8))
    assert torch.isfinite(logps).all()


def test_a_video_token_in_an_answer_is_the_word_that_it_is_for_trl(small_policies, tmp_path):
    t = trainer(SharedDrawn, small_policies["qwen2_5_vl"], tmp_path)
    batch = generated(t)
    batch["completion_ids"][1, 0] = t.model.config.video_token_id
    rows = LogProbs.of_batch(t, batch)
    with torch.no_grad():
        packed, stock = (path(range(8))[0] for path in (rows.shared, rows.per_row))
    assert (packed - stock).abs().max() < 1e-5


def test_rows_that_packing_hardly_shortens_go_trls_way(small_policies, tmp_path, monkeypatch):
    t = trainer(SharedDrawn, small_policies["qwen2_5_vl"], tmp_path)
    batch = generated(t)
    rows = LogProbs.of_batch(t, batch)
    prompts, answered = batch["prompt_mask"].sum(1), batch["completion_mask"].sum()
    assert rows.saving == pytest.approx(rows.input_ids.numel() / float(prompts[0] + prompts[4] + answered))
    assert rows.saving > 2
    monkeypatch.setattr(LogProbs, "saving", 1.04)
    monkeypatch.setattr(LogProbs, "shared", lambda *_: pytest.fail("packed all the same"))
    t.train()
    assert t.shared_prefix


# The pieces


def test_a_packed_row_is_prefixes_then_branches():
    ids = torch.tensor([[0, 5, 6, 7, 11, 12, 0], [0, 5, 6, 7, 21, 0, 0], [8, 9, 6, 7, 31, 32, 33]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    starts = group_starts(ids[:, :4], [1, 0, 1])
    assert starts == [0, 2]
    positions = torch.tensor([[0, 0, 1, 2], [0, 1, 2, 3]]).expand(3, -1, -1)
    packed = pack(ids, mask, 3, starts, positions)
    assert packed.input_ids[0].tolist() == [5, 6, 8, 9, 6, 7, 11, 7, 7, 31, 32]
    assert packed.labels[0].tolist() == [-100] * 5 + [11, 12, 21, 31, 32, 33]
    assert packed.branch[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 3]
    assert packed.position_ids[0, 0].tolist() == [0, 1, 0, 1, 2, 2, 3, 2, 3, 4, 5]
    assert (packed.layout.prefixes, packed.layout.branches) == ([2, 3], [[2, 1], [3]])
    values = torch.arange(11.0)[None]
    assert unpack(values, packed, mask[:, 4:]).tolist() == [[5, 6, 0], [7, 0, 0], [8, 9, 10]]


def test_rows_share_what_they_repeat():
    image, same, other = (Image.new("RGB", (4, 4), c) for c in ("red", "red", "blue"))
    inputs = [{"prompt": "p", "image": i} for i in (image, same, other, other)]
    rows, groups = gather_groups(inputs, 2, 0)
    assert groups == [0, 0, 1, 1]
    assert rows[1]["image"] is image
    with pytest.raises(ValueError, match="prompt changes within a group of 4"):
        gather_groups(inputs, 4, 0)
    assert gather_groups(inputs[1:], 2, 1)[1] == [0, 1, 1]  # a process that begins inside a group


SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, "tests/training")
from test_shared_prefix import SharedDrawn, StockDrawn, data, trainer
cls = {"shared": SharedDrawn, "stock": StockDrawn}[sys.argv[1]]
size, group = int(sys.argv[4]), int(sys.argv[5])
rows = data(6)
rows = rows.add_column("id", [f"row {n}" for n in rows["number"]])
t = trainer(
    cls, sys.argv[2], sys.argv[3], rows, per_device_train_batch_size=size, num_generations=group, beta=0.1, max_steps=2
)
t.rollout_log = Path(sys.argv[3]) / "rollouts.jsonl"
t.train()
if t.accelerator.is_main_process:
    model = t.accelerator.unwrap_model(t.model)
    sums = {n: p.double().sum().item() for n, p in model.named_parameters()}
    count = t.accelerator.num_processes
    json.dump({"sums": sums, "shared": t.shared_prefix, "processes": count}, open(sys.argv[3] + "/out.json", "w"))
"""


@pytest.mark.parametrize("group", [4, 8], ids=["a group on each", "a group across both"])
def test_two_processes_end_where_one_does(small_policies, tmp_path, group):
    """`accelerate launch` with two processes on the CPU, through gloo."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    results = []
    for name, command, rows in (("one", [], "8"), ("two", launch, "4")):
        out = tmp_path / name
        out.mkdir()
        done = subprocess.run(
            [sys.executable, *command, script, "shared", small_policies["qwen2_5_vl"], out, rows, str(group)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
            timeout=600,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(json.loads((out / "out.json").read_text()))
    one, two = results
    assert one["shared"]
    assert two["shared"]
    assert two["processes"] == 2
    for name, value in one["sums"].items():
        assert two["sums"][name] == pytest.approx(value, abs=1e-4), name
    logs = [(tmp_path / name / "rollouts.jsonl").read_text().split("\n")[:-1] for name in ("one", "two")]
    ids = [[json.loads(line)["id"] for line in log] for log in logs]
    assert len(ids[0]) == 2 * 8 // group
    assert ids[1] == ids[0]
    assert all(name.startswith("row ") for name in ids[0])
