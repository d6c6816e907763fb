"""Temporal perplexity: known log-probabilities, batches equal to single rows, 0 where one frame tells everything."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pr1kit import TemporalPerplexity, load_policy, make_clips, make_scenes, temporal_perplexity
from pr1kit.data.clips import query_kind
from pr1kit.models.answers import answer_ids, supervised_answer
from pr1kit.models.inputs import model_inputs
from pr1kit.rollouts.likelihood import answer_logprobs

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def test_the_readings_by_hand():
    """Gains of 1 nat on an answer of one token, and of 0 on one of three."""
    found = TemporalPerplexity(
        all_frames=np.array([-1.0, -6.0]),
        one_frame=np.array([-2.0, -6.0]),
        tokens=np.array([1, 3]),
        frame=np.array([0, 2]),
        kinds=("when", "what"),
    )
    assert found.per_answer.tolist() == [1, 0]
    assert found.per_token.tolist() == [1, 0]
    assert found.mean == 0.5
    assert found.paper == 0.25  # losses over all tokens: 8 / 4 with one frame, 7 / 4 with all
    assert found.of_kind("when").mean == 1
    low, high = found.interval()
    assert 0 <= low <= 0.5 <= high <= 1
    assert [row[0] for row in found.rows().values()] == [2, 1, 1]
    assert found._repr_html_().count("<tr>") == 4
    with pytest.raises(ValueError, match="No sample is of the kind 'where'"):
        found.of_kind("where")


def test_what_is_asked_about_one_clip_counts_as_one_piece_of_evidence():
    """Three clips, each asked four times with nearly the same gain."""
    gains = np.repeat([0.0, 1.0, 2.0], 4) + np.tile([0, 0.01, 0.02, 0.03], 3)
    arrays = {"all_frames": gains, "one_frame": np.zeros(12), "tokens": np.ones(12, int), "frame": np.zeros(12, int)}
    apart = TemporalPerplexity(**arrays, kinds=("a", "b") * 6)
    together = TemporalPerplexity(**arrays, kinds=("a", "b") * 6, groups=np.repeat([0, 1, 2], 4))
    once = TemporalPerplexity(
        **{name: values.reshape(3, 4).mean(1) for name, values in arrays.items()}, kinds=("a",) * 3
    )
    assert together.mean == apart.mean == pytest.approx(once.mean)
    assert together.interval() == pytest.approx(once.interval())
    assert np.diff(together.interval()) > 1.5 * np.diff(apart.interval())
    assert together.of_kind("a").groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert repr(together).endswith("12 samples of 3 clips)")
    assert repr(apart).endswith("12 samples)")


def test_samples_of_the_same_frames_are_told_to_be_one_clip(videos):
    one, other = videos(2)
    samples = [one, replace(one, question="triangle"), other]
    assert temporal_perplexity(load_policy("tiny"), samples).groups.tolist() == [0, 0, 1]
    assert temporal_perplexity(load_policy("tiny"), samples, groups="aba").groups.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="got 2 for 3 samples"):
        temporal_perplexity(load_policy("tiny"), samples, groups="ab")


def test_a_policy_that_finds_every_token_as_likely(videos):
    policy = load_policy("tiny")
    with torch.no_grad():
        policy.core.lm_head.weight.zero_()
    samples = videos(2)
    found = temporal_perplexity(policy, samples)
    vocabulary = policy.core.config.text_config.vocab_size
    lengths = [len(answer_ids(policy, supervised_answer(sample, policy))) for sample in samples]
    assert found.tokens.tolist() == lengths
    np.testing.assert_allclose(found.all_frames, [-n * math.log(vocabulary) for n in lengths], rtol=1e-6)
    assert found.per_answer.tolist() == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_say_what_single_rows_and_a_plain_forward_pass_say(small_policies, videos, kind):
    policy = load_policy(small_policies[kind], dtype="float32", verbose=False)
    samples = [*videos(3), *make_scenes("grounding", 1)]
    answers = [answer_ids(policy, text) for text in ("a", "square(1,2),(3,4) and more", "<|video_pad|>b", "c d")]
    together = answer_logprobs(policy, samples, answers, batch_size=4)
    for sample, answer, row in zip(samples, answers, together, strict=True):
        (single,) = answer_logprobs(policy, [sample], [answer])
        np.testing.assert_allclose(row, single, atol=1e-5)
        if policy.core.config.video_token_id in answer:
            continue
        inputs = model_inputs(policy, [sample])
        at = inputs["input_ids"].shape[1] - 1
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(answer)))
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer])], 1)
        del inputs["attention_mask"]
        with torch.no_grad():
            logps = policy.core(**inputs).logits[0, at:-1].log_softmax(-1)
        np.testing.assert_allclose(row, logps[range(len(answer)), answer], atol=1e-5)


def test_a_still_video_needs_no_second_frame_and_a_moving_one_is_another_question(small_policies, videos):
    policy = load_policy(small_policies["qwen2_5_vl"], dtype="float32", verbose=False)
    moving = videos(4)
    still = [replace(sample, frames=(sample.frames[0],) * len(sample.frames)) for sample in moving]
    np.testing.assert_allclose(temporal_perplexity(policy, still).per_answer, 0, atol=1e-4)
    assert np.abs(temporal_perplexity(policy, moving).per_answer).min() > 1e-2
    assert np.abs(temporal_perplexity(policy, still, shown="image").per_answer).min() > 1e-4


def test_the_frame_is_chosen_by_seed_and_place_or_given(videos):
    policy, samples = load_policy("tiny"), videos(4, 8)
    one, same, other = (temporal_perplexity(policy, samples, seed=seed, batch_size=3) for seed in (1, 1, 2))
    assert one.frame.tolist() == same.frame.tolist() != other.frame.tolist()
    np.testing.assert_array_equal(one.per_answer, same.per_answer)
    assert temporal_perplexity(policy, samples, "key").frame.tolist() == [4, 4, 5, 5]
    given = temporal_perplexity(policy, samples, one.frame.tolist(), batch_size=1)
    np.testing.assert_allclose(given.per_answer, one.per_answer, atol=1e-4)
    assert temporal_perplexity(policy, samples, kind=lambda sample: sample.id).kinds[3] == "video-3"
    assert set(given.kinds) == {"grounding"}


def test_clips_are_told_by_their_kind_of_query():
    clips = [*make_clips("tracking", 2, kinds=("look", "proxy")), *make_clips("what", 1, kinds="actor")]
    kinds = temporal_perplexity(load_policy("tiny"), clips).kinds
    assert kinds == tuple(f"{clip.task}, {query_kind(clip)}" for clip in clips)
    assert kinds[2] == "what, actor"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"frames": "first"}, "'random', 'key' or an index for each sample, got 'first'"),
        ({"frames": [0]}, "2 samples need as many frame indices, got 1"),
        ({"frames": [0, 5]}, "'video-1' has 5 frames, counted from 0, and no frame 5"),
        ({"shown": "gif"}, "'still' or as an 'image', got 'gif'"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_sentence(videos, options, says):
    with pytest.raises(ValueError, match=says):
        temporal_perplexity(load_policy("tiny"), videos(2), **options)


def test_images_and_nothing_are_refused():
    policy = load_policy("tiny")
    with pytest.raises(ValueError, match="is an image"):
        temporal_perplexity(policy, make_scenes("grounding", 1))
    with pytest.raises(ValueError, match="at least one sample"):
        temporal_perplexity(policy, [])
