"""Rollouts: the policy's own tokens, drawn by seed and sample alone, as many at once as the memory holds."""

from types import SimpleNamespace

import pytest
import torch

from pr1kit import load_policy, make_scenes, sample_rollouts
from pr1kit.models.policy import chat
from pr1kit.rollouts.generate import answers_at_once, generate_completions


@pytest.fixture
def policy():
    return load_policy("tiny")


def inputs_of(policy, sample):
    text = policy.processor.apply_chat_template(chat(sample), add_generation_prompt=True)
    return dict(policy.processor(text=[text], images=[sample.load_image()], return_tensors="pt"))


def test_greedy_rollouts_are_the_likeliest_tokens(policy):
    """Each token of an answer against a plain forward pass over prompt and answer."""
    for sample in make_scenes("grounding", 3, split="test"):
        inputs = inputs_of(policy, sample)
        (text,) = generate_completions(policy, [sample], keep_special_tokens=True)[0]
        answer = torch.tensor([policy.processor.tokenizer(text)["input_ids"]])
        assert answer.numel() > 3
        with torch.no_grad():
            inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, answer.shape[1]))
            inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            likeliest = policy.model(**inputs).logits[0, -answer.shape[1] - 1 :].argmax(-1)
        assert likeliest[:-1].tolist() == answer[0].tolist()
        assert policy.processor.decode(likeliest[-1:]) == "<|im_end|>"


def test_sampled_rollouts_follow_the_seed_and_not_the_batch(policy):
    scenes = make_scenes("grounding", 3, split="test")

    def sample(seed, batch_size=None):
        options = {"num_generations": 4, "temperature": 1.0, "seed": seed, "batch_size": batch_size}
        return generate_completions(policy, scenes, **options)

    one, other = sample(1), sample(2)
    assert one == sample(1) == sample(1, 4)
    assert one != other
    groups = sample_rollouts(policy, scenes, num_generations=4, seed=1)
    assert [[rollout.completion for rollout in group] for group in groups] == one
    for group in groups:
        assert sum(rollout.advantage for rollout in group) == pytest.approx(0, abs=1e-6)


def test_sampling_describes_the_policy_that_is_trained_not_the_checkpoints_penalty(policy):
    """Qwen2.5-VL files set a repetition penalty of 1.05; TRL trains at 1."""
    scenes = make_scenes("counting", 2, split="test")
    plain = generate_completions(policy, scenes)
    policy.model.generation_config.repetition_penalty = 2.0
    assert generate_completions(policy, scenes) == plain
    assert generate_completions(policy, scenes, repetition_penalty=2.0) != plain


def test_the_batch_is_chosen_by_memory(policy, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**34))
    assert answers_at_once(policy, 128) == 256
    few = 2**20 * 40
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=few))
    text = policy.core.config.text_config
    tokens = 128 + 64 * 64 // 16**2 + 128
    tokens += policy.processor.image_processor.size["longest_edge"] // 16**2 - 64 * 64 // 16**2
    each = 2 * 2 * 4 * text.num_hidden_layers * text.num_key_value_heads * 32 * tokens + 16 * text.vocab_size
    assert answers_at_once(policy, 128) == few // 2 // each
    assert 1 <= few // 2 // each < 256
    shared = each - 2 * 2 * 4 * text.num_hidden_layers * text.num_key_value_heads * 32 * (tokens - 128) * 7 / 8
    assert answers_at_once(policy, 128, 8) == int(few / 2 // shared) > few // 2 // each
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=0))
    assert answers_at_once(policy, 128) == 1
