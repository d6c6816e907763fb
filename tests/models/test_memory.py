"""Will it fit: what is counted, against the published models and against the real classes."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig

from pr1kit import LoRASettings, load_policy
from pr1kit.models.families import FAMILIES
from pr1kit.models.inputs import model_inputs
from pr1kit.models.memory import Geometry, check_fits, estimate_memory, estimate_run, largest_picture
from pr1kit.models.profiles import PROFILES
from pr1kit.models.published import PUBLISHED, published_config
from pr1kit.training.grpo_settings import TINY

# The sums over the released weight files.
WEIGHTS = {
    "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_as_many_weights_as_its_files(name):
    shape = Geometry(name)
    assert shape.parameters == WEIGHTS[name]
    assert shape.grid == FAMILIES[shape.model_type].grid
    assert estimate_memory(name, dtype="bfloat16").weights == 2 * WEIGHTS[name]


@pytest.mark.parametrize("kind", FAMILIES)
def test_geometry_is_that_of_the_loaded_model(small_policies, kind):
    lora = LoRASettings(r=2, vision=True, merger=True)
    policy = load_policy(small_policies[kind], lora=lora, verbose=False)
    shape = Geometry(policy.core.config)
    trained = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    assert shape.lora_parameters(lora) == trained
    assert shape.parameters == sum(p.numel() for p in policy.model.parameters()) - trained
    assert (shape.layers, shape.width, shape.inner) == (2, 64, 128)
    assert (shape.vision_layers, shape.vision_width, shape.vision_inner) == (2, 32, 64)


@torch.no_grad()
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_cache_is_as_large_as_the_models_own(small_policies, kind):
    policy = load_policy(small_policies[kind], verbose=False)
    rows, tokens = 3, 11
    outputs = policy.model(input_ids=torch.full((rows, tokens), 40))
    cache = outputs["cache" if "cache" in outputs else "past_key_values"]  # as before transformers 5.24
    shape = Geometry(policy.core.config)
    held = 0
    for layer in cache.layers:
        for value in vars(layer).values():
            for tensor in (
                value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else [value]
            ):
                held += tensor.numel() if isinstance(tensor, torch.Tensor) and tensor.dim() > 1 else 0
    assert held == rows * (tokens * shape.cached + shape.state)


def test_a_prompts_keys_are_held_once_where_its_branches_share_them():
    shape = Geometry("Qwen/Qwen2.5-VL-3B-Instruct")
    asked = {"image_tokens": 1000, "text_tokens": 60, "completion_tokens": 100, "num_generations": 8}
    shared, stock = (
        estimate_memory("Qwen/Qwen2.5-VL-3B-Instruct", **asked, prompts_at_once=2, shared_prefix=share)
        for share in (True, False)
    )
    assert shared.cache == (2 * 1060 + 16 * 100) * shape.cached * 2
    assert stock.cache == 16 * 1160 * shape.cached * 2


def test_an_unknown_shape_or_family_is_refused():
    with pytest.raises(ValueError, match=r"shape of 'Qwen/None' is not written down: known are Qwen/Qwen2-VL-2B"):
        Geometry("Qwen/None")
    with pytest.raises(ValueError, match="family 'llava' is not known"):
        Geometry(AutoConfig.for_model("llava"))
    for wrong in ({"dtype": "fp16"}, {"quantization": "3bit"}):
        (name,) = wrong.values()
        with pytest.raises(ValueError, match=f"Unknown .* '{name}': choose one of "):
            estimate_memory("Qwen/Qwen2-VL-2B-Instruct", **wrong)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_fits_its_own_model_into_what_it_is_named_for(profile):
    chosen = PROFILES[profile]
    shape = Geometry(chosen.model)
    estimate = estimate_memory(
        chosen.model,
        dtype=chosen.dtype,
        quantization=chosen.quantization,
        lora=chosen.lora,
        image_tokens=chosen.max_pixels // shape.grid**2,
        optimizer=chosen.optim,
    )
    assert estimate.total < 0.95 * chosen.memory, f"{profile}: {estimate}"


def test_what_cannot_fit_is_refused_and_what_may_not_is_warned_of():
    config = published_config("Qwen/Qwen2.5-VL-3B-Instruct")
    everything = estimate_memory(config, dtype="float32")
    with pytest.raises(ValueError, match=r"will not fit: .* need 69\.\d GiB, the GPU has 14\.9 GiB\. Use LoRA"):
        check_fits(everything, 16e9)
    tight = estimate_memory(config, lora=LoRASettings(), completion_tokens=8192)
    assert "lower in this order: micro_prompts=1, then gradient_checkpointing=True" in check_fits(tight, 16e9)
    assert check_fits(tight, 200e9) == " of 186.3 GiB"


def test_a_run_is_estimated_from_its_policy_and_settings(small_policies):
    policy = load_policy(small_policies["qwen2_vl"], lora=True, max_pixels=64 * 64)
    short = replace(TINY, steps=2, prompts_per_step=4, num_generations=4, max_completion_length=12)
    one, two = (estimate_run(policy, short, n) for n in (1, 2))
    assert one.cache == 2 * two.cache
    assert one.weights == two.weights
    assert one.optimizer == 8 * sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    assert "estimated peak" in str(one)


def test_a_video_has_the_tokens_of_every_second_frame():
    shape = Geometry("Qwen/Qwen2.5-VL-3B-Instruct")
    asked = {"text_tokens": 60, "completion_tokens": 100, "prompts_at_once": 1}
    image, video, odd = (estimate_memory(shape, image_tokens=300, frames=n, **asked) for n in (1, 8, 7))
    assert image.cache == (360 + 800) * shape.cached * 2
    assert video.cache == (1260 + 800) * shape.cached * 2
    assert video == odd == estimate_memory(shape, image_tokens=1200, **asked)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_no_video_has_more_tokens_than_the_estimate_takes_it_to_have(small_policies, videos, kind):
    """Qwen3-VL's bound of pixels is for the whole video, that of the others for a frame."""
    policy = load_policy(small_policies[kind], verbose=False)
    frames = 8
    videos_ = policy.processor.video_processor
    grid = FAMILIES[kind].grid
    videos_.size = {"shortest_edge": grid**2, "longest_edge": 24 * grid**2}
    (sample,) = videos(1, frames, sizes=((20 * grid,) * 2,))
    seen = model_inputs(policy, [sample])["video_grid_thw"].prod() // videos_.merge_size**2
    most = largest_picture(policy.processor, frames) * frames // 2
    assert 0.6 * most <= seen <= most


def test_a_run_on_videos_needs_more_than_one_on_images(small_policies):
    policy = load_policy(small_policies["qwen2_5_vl"], verbose=False)
    settings = replace(TINY, steps=2, prompts_per_step=4, num_generations=4, max_completion_length=12)
    image, short, long = (estimate_run(policy, settings, frames=frames) for frames in (1, 4, 8))
    assert image.fixed == short.fixed == long.fixed
    assert image.cache < short.cache < long.cache
    assert short.activations < long.activations
