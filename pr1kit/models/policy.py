"""The policy: a vision-language model and its processor, tiny or real, behind one name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from pr1kit.data.images import image_size
from pr1kit.data.motion import Motion
from pr1kit.data.sample import VIDEO_TASKS, Sample
from pr1kit.data.scenes import DEFAULTS
from pr1kit.data.shipped import POLICIES, policy_folder
from pr1kit.models.adapters import LoRASettings, adapter_base, add_lora, base_of, lora_settings
from pr1kit.models.backends import (
    choose_attention,
    choose_device,
    choose_dtype,
    explain_hub_error,
    quantization_config,
    quiet,
    time_limit,
)
from pr1kit.models.families import FAMILIES, family_of
from pr1kit.models.profiles import get_profile
from pr1kit.rewards.tasks import get_task

TEMPLATE_SECONDS = 10  # for a template that is rendered in a millisecond


@dataclass(frozen=True, eq=False)
class Policy:
    """A `model` with its `processor`, and the coordinate frame in which it writes boxes.

    `name` is what was asked for, `base` the model beneath its adapter (the same where there is none).
    """

    model: Any  # of a transformers class, perhaps inside a PEFT model
    processor: Any
    name: str
    base: str = ""
    quantization: str | None = None

    @property
    def core(self) -> Any:
        """The model of transformers' class, its adapters in place."""
        return base_of(self.model)

    def frame(self, image_size: tuple[int, int], video: bool = False):
        """How this model's numbers are to be read for an image, or the frames of a video, of `(width, height)` pixels,
        by its family.

        Raises ValueError for a family that `families` does not know.
        """
        resizes = self.processor.video_processor if video else self.processor.image_processor
        return family_of(self.model.config.model_type).frame_of(image_size, resizes)

    def frame_of(self, sample: Sample):
        """How this model's numbers about the sample's image or video are to be read; of a file the header is enough."""
        return self.frame(image_size(sample.image), sample.is_video)


def scene_knobs(policy: Policy | str, task: str) -> dict:
    """What `make_scenes(task, …)`, or `make_clips`, is told so that `policy` can see it: 16 × 16 of its visual tokens.

    The tiny policy's 64 × 64 pixels would be four tokens of a real model. Objects and letters grow with the image, as
    does the speed in clips. {} for a policy whose visual token has 16 pixels or fewer, which sees scenes as they are,
    and clips as it was taught them where its configuration says how (`clip_knobs`). Of a name only the configuration is
    read.
    """
    config = policy.core.config if isinstance(policy, Policy) else _configuration(policy)
    grid = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    if task in VIDEO_TASKS:
        knobs = getattr(config, "clip_knobs", {})
        knobs = {name: tuple(value) if isinstance(value, list) else value for name, value in knobs.items()}
        return knobs if grid <= 16 else knobs | _larger_clips(16 * grid)
    if grid <= 16:
        return {}
    side, default = 16 * grid, DEFAULTS[task]
    size, height = (np.multiply(each, side / default.image_size) for each in (default.size, default.text_height))
    return {"image_size": side, "size": tuple(map(round, size)), "text_height": round(height)}


def _larger_clips(side: int) -> dict:
    default = Motion()
    sides, speed = (np.multiply(each, side / default.size) for each in (default.sides, default.speed))
    return {"size": side, "sides": tuple(map(round, sides)), "speed": tuple(speed.tolist())}


def _configuration(name: str):
    """The configuration of the model called `name`, or of the base of an adapter. Raises ValueError."""
    source = _source(name)
    if os.path.isfile(os.path.join(source, "adapter_config.json")):
        source = _source(adapter_base(source))
    try:
        return AutoConfig.from_pretrained(source)
    except OSError as error:
        raise explain_hub_error(name, error) from error


def chat(sample: Sample, thinking: bool = False) -> list[dict]:
    """The sample's prompt as one user turn, image or video first, as transformers' and TRL's conversations have it."""
    shown = {"type": "video" if sample.is_video else "image"}
    return [{"role": "user", "content": [shown, {"type": "text", "text": prompt_words(sample, thinking)}]}]


def prompt_words(sample: Sample, thinking: bool = False) -> str:
    """The words of the sample's prompt."""
    return sample.prompt or get_task(sample.task).prompt(sample.question, thinking)


def load_policy(
    name: str = "tiny",
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    attn: str = "auto",
    lora: bool | LoRASettings | dict | None = None,
    quantization: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    profile: str | None = None,
    verbose: bool = True,
) -> Policy:
    """Load a shipped policy (`"tiny"`, `"tiny-demo"`, `"tiny-video"`, `"tiny-cells"`), a folder or a hub id.

    A folder holds a whole model, or an adapter saved by `export_adapter` or training, whose base is then loaded too.
    `lora` adds fresh adapters, drawn from torch's generator (True, or `LoRASettings`; False keeps a profile from it);
    `quantization` is "4bit", "8bit" or None; `attn` "auto" takes FlashAttention-2 where it can run, else SDPA.
    `min_pixels` and `max_pixels` bound the image that the model sees. `profile` ("16GB", "24GB", "80GB", or "auto" for
    this GPU) chooses what is not given. What was chosen is said in one line, unless `verbose` is False or the policy
    ships with the kit and has no options.

    Raises FileNotFoundError where a folder holds no checkpoint; ValueError for what is not a vision-language model, a
    family that `families` does not know, a processor of another patch size, an endless chat template, a hub id that is
    absent or gated, a missing GPU or package; MemoryError, which says what to lower, where it does not fit.
    """
    source = _source(name)
    adapter = source if os.path.isfile(os.path.join(source, "adapter_config.json")) else None
    if adapter and lora:
        raise ValueError(f"{name!r} is an adapter already: load it without lora=, or export it merged first.")
    profile, chosen = get_profile(profile)
    if chosen:
        dtype = chosen.dtype if dtype == "auto" else dtype
        lora = chosen.lora if lora is None and not adapter else lora
        quantization = quantization or chosen.quantization
        max_pixels = max_pixels or chosen.max_pixels
    lora, device = lora_settings(lora), choose_device(device)
    base = adapter_base(adapter) if adapter else name
    source = _source(base)
    try:
        config = AutoConfig.from_pretrained(source)
        if not hasattr(config, "vision_config"):
            raise ValueError(
                f"{name!r} ({config.model_type}) is not a vision-language model, it has no vision tower: choose one of "
                f"the families {', '.join(family.name for family in FAMILIES.values())}."
            )
        family_of(config.model_type)
        processor = AutoProcessor.from_pretrained(adapter or source)
        check_grid(processor, config, str(name))
        dtype = choose_dtype(dtype, config, device)
        attn, why = choose_attention(attn, device, dtype)
        quantized = quantization_config(quantization, dtype)
        with quiet():
            model = AutoModelForImageTextToText.from_pretrained(
                source,
                dtype=dtype,
                attn_implementation=attn,
                **({"quantization_config": quantized, "device_map": {"": device}} if quantized else {}),
            )
            model = model if quantized else model.to(device)
            for module in model.modules() if quantized else ():
                # on the CPU bitsandbytes would repack weights when it first evaluates: no gradient passes them then
                if hasattr(module, "support_avx512bf16_for_cpu"):
                    module.support_avx512bf16_for_cpu = False
            if adapter:
                model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
            elif lora:
                model = add_lora(model, lora)
    except OSError as error:
        if os.path.isdir(source):
            raise ValueError(f"The checkpoint in {source!r} cannot be read: {error}") from error
        raise explain_hub_error(base, error) from error
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"{name!r} does not fit into the memory of {device}: close what else runs there, then choose, in this "
            'order, dtype="bfloat16", quantization="8bit", quantization="4bit", or the 2B model.'
        ) from error
    processor.tokenizer.padding_side = "left"  # completions follow their prompts; Qwen2.5-VL's files do not say so
    bound_pixels(processor, min_pixels, max_pixels)
    if name not in POLICIES and processor.chat_template:
        endless = f"The chat template of {name!r} did not come to its end in {TEMPLATE_SECONDS} s."
        with time_limit(TEMPLATE_SECONDS, endless):
            words = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
            processor.apply_chat_template([{"role": "user", "content": words}], add_generation_prompt=True)
    policy = Policy(model.eval(), processor, str(name), str(base), quantization)
    if verbose and (name not in POLICIES or profile or adapter or lora or quantization):
        _say(policy, device, attn, why, profile, lora)
    return policy


def _source(name: str) -> str:
    """The folder or hub id that `name` means. Raises FileNotFoundError where a folder holds no checkpoint."""
    source = os.path.expanduser(str(policy_folder(name) or name))
    looks_local = os.path.exists(source) or source.startswith((".", "/", "~")) or source.count("/") != 1
    if looks_local and not any(
        os.path.isfile(os.path.join(source, file)) for file in ("config.json", "adapter_config.json")
    ):
        raise FileNotFoundError(f"{source!r} is no checkpoint: it holds no config.json.")
    return source


def whole_videos(video_processor) -> bool:
    """Whether its bounds of pixels are for a whole video, not for a frame."""
    return isinstance(video_processor, Qwen3VLVideoProcessor)


def bound_pixels(processor, least: int | None, most: int | None) -> None:
    """Set the least and the most pixels that the processor makes of an image; None leaves a bound as it is.

    A frame of a video has no more either, where its own bounds are for a frame: Qwen3-VL's are for the whole video.
    """
    size = dict(processor.image_processor.size)
    size |= {key: value for key, value in (("shortest_edge", least), ("longest_edge", most)) if value}
    if size["shortest_edge"] > size["longest_edge"]:
        raise ValueError(f"min_pixels ({size['shortest_edge']}) exceeds max_pixels ({size['longest_edge']}).")
    processor.image_processor.size = size
    videos = getattr(processor, "video_processor", None)
    if videos is not None and getattr(videos, "cap_pixels_per_frame", True) is None:
        videos.cap_pixels_per_frame = False  # the default until transformers 5.24, which warns that it will change
    if videos is not None and most and not whole_videos(videos):
        videos.size = {name: min(edge, most) for name, edge in dict(videos.size).items() if edge}


def _say(policy: Policy, device, attn: str, why: str, profile: str | None, lora: LoRASettings | None) -> None:
    if int(os.environ.get("RANK", 0)):
        return
    images = policy.processor.image_processor
    tokens = images.size["longest_edge"] // (images.patch_size * images.merge_size) ** 2
    trained = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    parts = [
        f"{policy.name}: {type(policy.core).__name__}",
        policy.quantization or str(policy.core.dtype).removeprefix("torch."),
        f"{attn}{f' ({why})' if why else ''}",
        f"{lora} ({trained:,} weights)" if lora else "",
        f"images up to {images.size['longest_edge']:,} pixels ({tokens:,} tokens)",
        f"on {device}{f', profile {profile}' if profile else ''}",
    ]
    print(", ".join(part for part in parts if part))


def check_grid(processor, config, name: str) -> None:
    """Raises ValueError where the processor cuts images into other patches than the model was made for."""
    images, tower = processor.image_processor, config.vision_config
    cuts, takes = (images.patch_size, images.merge_size), (tower.patch_size, tower.spatial_merge_size)
    if cuts != takes:
        raise ValueError(
            f"The processor of {name!r} cuts images into patches of {cuts[0]} pixels, merged {cuts[1]} by {cuts[1]}, "
            f"its model takes {takes[0]}, merged {takes[1]} by {takes[1]}: save the processor of the model's own base "
            "beside it."
        )


def check_padding(processor) -> None:
    """Raises ValueError where the processor's tokenizer pads on the right."""
    side = processor.tokenizer.padding_side
    if side != "left":
        raise ValueError(
            f"The processor pads on the {side}: prompts must end where completions begin; "
            'load it with padding_side="left".'
        )
