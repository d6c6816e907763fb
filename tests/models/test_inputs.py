"""Samples as a model reads them: every frame once, its time in its family's way, images and videos in one batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pr1kit import load_policy, make_scenes
from pr1kit.models.inputs import model_inputs, picture, process

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def policies(small_policies):
    return {kind: load_policy(small_policies[kind], verbose=False) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [2, 3, 8])
def test_every_frame_is_seen_and_an_odd_last_one_twice(policies, videos, kind, frames):
    (sample,) = videos(1, frames)
    inputs = model_inputs(policies[kind], [sample])
    assert inputs["video_grid_thw"][0, 0] == -(-frames // 2)
    if frames % 2:
        even = replace(sample, frames=(*sample.frames, sample.frames[-1]), times=(*sample.times, 9.0))
        assert torch.equal(inputs["pixel_values_videos"], model_inputs(policies[kind], [even])["pixel_values_videos"])
    pixels = inputs["pixel_values_videos"].unflatten(0, (-(-frames // 2), -1))
    assert len({pair.numpy().tobytes() for pair in pixels}) == len(pixels)


def test_times_reach_each_family_in_its_way(policies, videos):
    (sample,) = videos(1, 4)
    uneven = replace(sample, times=(0.0, 0.25, 3.0, 6.0))
    assert model_inputs(policies["qwen2_5_vl"], [sample])["second_per_grid_ts"].tolist() == [1.0]
    assert model_inputs(policies["qwen2_5_vl"], [uneven])["second_per_grid_ts"].tolist() == [4.0]  # 6 s over 3 steps
    words = policies["qwen3_vl"].processor.decode(model_inputs(policies["qwen3_vl"], [uneven])["input_ids"][0])
    assert [part.rpartition("<")[2] for part in words.split(" seconds>")[:-1]] == ["0.1", "4.5"]
    assert "second_per_grid_ts" not in model_inputs(policies["qwen2_vl"], [uneven])
    model = policies["qwen2_5_vl"].core.model
    steps = []
    for each in (sample, uneven):
        inputs = model_inputs(policies["qwen2_5_vl"], [each])
        del inputs["pixel_values_videos"]
        times = model.get_rope_index(**inputs)[0][0, 0][inputs["mm_token_type_ids"][0] == 2]
        steps.append(int(times[-1] - times[0]))
    assert steps == [4, 16]  # one pair later: 1 s and 4 s at 4 positions a second


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_videos_go_together_and_the_order_is_kept(policies, videos, kind):
    (scene,), two = make_scenes("grounding", 1), videos(2)
    inputs = model_inputs(policies[kind], [two[0], scene, two[1]])
    kinds = [set(row.tolist()) - {0} for row in inputs["mm_token_type_ids"]]
    assert kinds == [{2}, {1}, {2}]
    apart = [model_inputs(policies[kind], [each])["pixel_values_videos"] for each in two]
    assert torch.equal(inputs["pixel_values_videos"], torch.cat(apart))
    assert torch.equal(inputs["pixel_values"], model_inputs(policies[kind], [scene])["pixel_values"])


@pytest.mark.parametrize("kind", KINDS)
def test_one_frame_that_stands_still_is_seen_as_the_image(policies, videos, kind):
    """A pair of equal frames and an image have the same patches where their sizes are bounded alike."""
    policy, (sample,) = policies[kind], videos(1, 2)
    if kind == "qwen3_vl":  # its images and its videos are bounded and normalised otherwise
        return
    still = replace(sample, frames=(sample.frames[0],) * 2)
    image = replace(sample, frames=(), times=(), image=sample.frames[0])
    video, seen = model_inputs(policy, [still]), model_inputs(policy, [image])
    np.testing.assert_allclose(video["pixel_values_videos"], seen["pixel_values"], atol=0.02)
    assert policy.frame_of(still) == policy.frame_of(image)


def test_a_processor_without_videos_refuses_in_one_sentence(policies, videos):
    class Images:
        video_processor = None

    with pytest.raises(ValueError, match="takes no videos"):
        process(Images(), ["<|video_pad|>"], [picture(videos(1)[0])])
