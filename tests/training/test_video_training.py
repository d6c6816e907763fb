"""Videos in training: the same log-probabilities, gradients and tokens from a shared prefix as from whole rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pr1kit import PerceptionGRPOTrainer, load_policy, make_scenes, shared_logprobs
from pr1kit.models.answers import answer_ids
from pr1kit.models.inputs import model_inputs
from pr1kit.rollouts.branched_decoding import branches
from pr1kit.rollouts.generate import generate_tokens
from pr1kit.training.candidates import Candidates
from pr1kit.training.grpo import to_dataset, train_grpo
from pr1kit.training.grpo_settings import TINY
from pr1kit.training.perpo import train_perpo
from pr1kit.training.preference_settings import TINY_PERPO
from pr1kit.training.sft import TINY_SFT, train_sft
from pr1kit.training.shared_prefix.logprobs import LogProbs, row_logprobs
from pr1kit.training.shared_prefix.self_check import differences

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def answers_of(policy) -> list[list[int]]:
    """Four answers of unlike lengths; one says the tokens of videos and images, as mere words."""
    said = policy.processor.tokenizer(["1", "square(3,4)", "a b c d e f", "<|video_pad|>x<|image_pad|>"])["input_ids"]
    return [[*ids, policy.processor.tokenizer.eos_token_id] for ids in said]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("frames", [3, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_shared_log_probabilities_and_gradients_are_those_of_whole_rows(
    small_policies, videos, kind, frames, attention
):
    policy = load_policy(small_policies[kind], dtype="float32", attn=attention, verbose=False)
    inputs, answers = model_inputs(policy, videos(1, frames)), answers_of(policy)
    results = []
    for logprobs in (shared_logprobs, row_logprobs):
        policy.model.zero_grad()
        values = logprobs(policy.model, inputs, answers)
        (values * torch.linspace(-1, 1, values.numel()).view(values.shape)).sum().backward()
        results.append((values.detach(), {n: p.grad.clone() for n, p in policy.model.named_parameters()}))
    (shared, grads), (rows, expected) = results
    torch.testing.assert_close(shared, rows, atol=1e-5, rtol=1e-5)
    assert any(grad.abs().max() > 0 for name, grad in grads.items() if "visual" in name)
    for name, grad in expected.items():
        torch.testing.assert_close(grads[name], grad, atol=1e-4 * max(1, float(grad.abs().max())), rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_branches_are_what_generate_gives_and_the_likeliest_tokens(small_policies, videos, kind):
    policy = load_policy(small_policies[kind], dtype="float32", verbose=False)
    samples = videos(3, 4)
    inputs = model_inputs(policy, samples)
    options = {"max_new_tokens": 8, "do_sample": False}
    own = policy.model.generate(**inputs, **options, custom_generate=branches([2, 1, 3]))
    plain = policy.model.generate(**inputs, **options)[[0, 0, 1, 2, 2, 2]]
    assert own.shape[1] > inputs["input_ids"].shape[1] + 3
    assert torch.equal(own, plain)


def test_branches_go_on_where_the_prompt_ends_in_a_long_video_too(small_policies, videos):
    """Minutes of video reach farther in time than the prompt is long. A forward pass, which training reads, has words
    follow words; transformers' own decoding would go on behind the last frame."""
    policy = load_policy(small_policies["qwen2_5_vl"], dtype="float32", verbose=False)
    (sample,) = videos(1, 4, seconds=60.0)
    (((*answer,),),) = generate_tokens(policy, [sample], max_new_tokens=8)
    assert len(answer) > 3
    inputs = model_inputs(policy, [sample])
    at = inputs["input_ids"].shape[1] - 1
    kinds = torch.nn.functional.pad(inputs.pop("mm_token_type_ids"), (0, len(answer)))
    ids = torch.cat([inputs.pop("input_ids"), torch.tensor([answer])], 1)
    del inputs["attention_mask"]
    with torch.no_grad():
        logits = policy.model(input_ids=ids, mm_token_type_ids=kinds, **inputs).logits[0, at:-1]
    assert logits.argmax(-1).tolist() == answer


def test_times_matter_where_the_family_reads_them(small_policies, videos):
    """Twice as far apart: another log-probability, but for Qwen2-VL, which is told no times."""
    for kind, told in zip(KINDS, (False, True, True), strict=True):
        policy = load_policy(small_policies[kind], dtype="float32", verbose=False)
        slow, fast = (model_inputs(policy, videos(1, 8, seconds)) for seconds in (2.0, 1.0))
        with torch.no_grad():
            one, other = (shared_logprobs(policy.model, each, answers_of(policy)) for each in (slow, fast))
        assert torch.allclose(one, other, atol=1e-6) == (not told), kind


def share_of_digits(completions, **_) -> list[float]:
    """What a policy that knows nothing can be rewarded for."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(letter.isdigit() for letter in text) / max(1, len(text)) for text in texts]


def grpo_trainer(folder, out, samples, **options):
    policy = load_policy(folder, dtype="float32", verbose=False)
    settings = replace(
        TINY, steps=1, prompts_per_step=4, micro_prompts=2, num_generations=4, max_completion_length=8, beta=0.04
    )
    return PerceptionGRPOTrainer(
        model=policy.model,
        reward_funcs=share_of_digits,
        args=settings.config(out),
        train_dataset=to_dataset(samples, policy),
        processing_class=policy.processor,
        **options,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_trl_trains_on_videos_once_per_group_as_on_whole_rows(small_policies, tmp_path, videos, kind, recwarn):
    t = grpo_trainer(small_policies[kind], tmp_path, videos(4, 3))
    t.model.train()
    t.current_gradient_accumulation_steps = 1
    torch.manual_seed(0)
    batch = t._prepare_inputs(next(iter(t.get_train_dataloader())))
    assert t.shared_prefix
    assert not [w for w in recwarn if "Shared prefix" in str(w.message)]
    assert batch["num_images"] == [1, 0, 0, 0, 1, 0, 0, 0]
    rows = LogProbs.of_batch(t, batch)
    assert rows.video
    (shared, entropy), (plain, expected, _) = rows.shared(range(8)), rows.per_row(range(8), 3)
    mask = batch["completion_mask"].bool()
    torch.testing.assert_close(shared[mask], plain[mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy[mask], expected[mask], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batch["ref_per_token_logps"][mask], plain[mask], atol=1e-5, rtol=1e-5)
    difference, allowed = differences(rows)
    assert difference <= allowed
    rows.fields["pixel_values"] = rows.fields["pixel_values"].flip(0)  # other videos: not what was seen before
    assert (rows.shared(range(8))[0][mask] - shared[mask]).abs().max() > 1e-3


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_grpo_on_videos_raises_the_reward(small_policies, tmp_path, videos, shared_prefix):
    torch.manual_seed(0)
    policy = load_policy(small_policies["qwen2_5_vl"], verbose=False)
    settings = replace(
        TINY, steps=14, learning_rate=1e-2, prompts_per_step=4, micro_prompts=4, num_generations=8,
        max_completion_length=8, shared_prefix=shared_prefix,
    )  # fmt: skip
    trainer = PerceptionGRPOTrainer(
        model=policy.model,
        reward_funcs=share_of_digits,
        args=settings.config(tmp_path),
        train_dataset=to_dataset(videos(6, 2), policy),
        processing_class=policy.processor,
        shared_prefix=shared_prefix,
    )
    trainer.train()
    assert trainer.shared_prefix == shared_prefix
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.1, rewards


def test_a_run_in_a_folder_takes_videos_and_refuses_a_mixture(tmp_path, videos):
    policy = load_policy("tiny")
    settings = replace(TINY, steps=1, prompts_per_step=2, micro_prompts=2, num_generations=2, max_completion_length=8)
    (row,) = train_grpo(policy, videos(2, 2), tmp_path / "run", settings)
    assert row["step"] == 1
    with pytest.raises(ValueError, match="from images or from videos"):
        train_grpo(policy, [*videos(1), *make_scenes("grounding", 1)], tmp_path / "mixed", settings)
    with pytest.raises(ValueError, match="vLLM takes images only, sample 'video-0' is a video"):
        train_grpo(policy, videos(1), tmp_path / "vllm", settings, trl={"use_vllm": True})


def test_ranked_answers_to_a_video_share_it(tmp_path, videos, recwarn):
    policy, said = load_policy("tiny"), ["square(4,8),(20,24)", "None"]
    ids = [answer_ids(policy, text) for text in said]
    candidates = [Candidates(sample, said, [1.0, 0.0], ids) for sample in videos(2)]
    settings = replace(TINY_PERPO, steps=2, prompts_per_step=2, num_candidates=2)
    log = train_perpo(policy, candidates, tmp_path, settings)
    assert [row["step"] for row in log] == [1, 2]
    assert log[1]["loss"] < log[0]["loss"]
    assert not [each for each in recwarn if "Shared prefix is off" in str(each.message)]


def test_supervision_teaches_what_is_said_of_videos(tmp_path, videos):
    policy, samples = load_policy("tiny"), videos(2, 4)
    settings = replace(TINY_SFT, steps=12, batch_size=2, micro_batch=2)
    log = train_sft(policy, samples, tmp_path, settings)
    assert log[-1]["loss"] < 0.3 * log[0]["loss"]
