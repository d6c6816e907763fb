"""Will it fit? The GPU memory of a GRPO step on a model of a known family, before it is tried.

Two moments compete for the peak: the rollouts (key-value cache of prompts and branches) and the update (gradients,
activations, logits); weights, optimizer state and reference stand through both. Weights, gradients, optimizer and cache
are counted on the model's own class. Activations follow what transformers keeps for the backward pass (one layer's
input per layer with gradient checkpointing, and the inner tensors of one layer at a time); logits are TRL's tiles.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass

from pr1kit.models.families import family_of
from pr1kit.models.published import published_config

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes a weight of a quantized layer: NF4 in blocks of 64 with doubly quantized scales; LLM.int8 with a scale a row.
QUANTIZED = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}
# Bytes of optimizer state a trained weight; any other optimizer is taken for Adam: two numbers of the weight's type.
OPTIMIZERS = {"adamw_bnb_8bit": 2, "adamw_8bit": 2, "paged_adamw_8bit": 2, "sgd": 0}
TILE_TOKENS, TILE_WORDS = 4096, 32768  # TRL's fused head makes logits in tiles of this size


class Geometry:
    """What a model's memory depends on, counted on its real class without weights (on torch's meta device).

    `config` is a configuration of transformers' class, or the name of a `PUBLISHED` model. Raises ValueError for a
    family that `families` does not know.
    """

    def __init__(self, config):
        import torch
        from transformers import AutoModelForImageTextToText

        config = published_config(config) if isinstance(config, str) else copy.deepcopy(config)
        family_of(config.model_type)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
        text, vision = config.get_text_config(), config.vision_config
        tower = model.model.visual
        self.model_type, self.merge = config.model_type, vision.spatial_merge_size
        self.layers, self.width, self.inner = text.num_hidden_layers, text.hidden_size, text.intermediate_size
        self.vocabulary, self.grid = text.vocab_size, vision.patch_size * vision.spatial_merge_size
        self.vision_layers, self.frames_a_token = vision.depth, vision.temporal_patch_size
        self.linear = {
            name: (module.in_features, module.out_features)
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        block = [size for name, size in self.linear.items() if "visual.blocks.0." in name]
        self.vision_width, self.vision_inner = tower.blocks[0].norm1.weight.numel(), block[-1][0]
        self.parameters = sum(p.numel() for p in model.parameters())
        self.quantizable = sum(a * b for name, (a, b) in self.linear.items() if "language_model.layers." in name)
        # numbers in the cache for one token of one row, over all layers that attend
        self.cached = sum(b for name, (_, b) in self.linear.items() if name.endswith(("attn.k_proj", "attn.v_proj")))
        # and for one row whatever its length: the states of linear-attention layers
        recurrent = [m for m in model.modules() if hasattr(m, "conv1d") and hasattr(m, "num_v_heads")]
        self.state = sum(m.conv1d.weight.numel() + m.num_v_heads * m.head_k_dim * m.head_v_dim for m in recurrent)

    def lora_parameters(self, lora) -> int:
        """The number of weights of the adapters that `lora` (`adapters.LoRASettings`) asks for."""
        adapted = re.compile(lora.pattern(self.model_type))
        return lora.r * sum(a + b for name, (a, b) in self.linear.items() if adapted.fullmatch(name))


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by what they hold; `fixed` is there throughout, `total` the peak of a step."""

    weights: float
    optimizer: float
    reference: float
    gradients: float
    cache: float
    activations: float
    logits: float

    @property
    def fixed(self) -> float:
        return self.weights + self.optimizer + self.reference

    @property
    def total(self) -> float:
        return self.fixed + max(self.cache, self.gradients + self.activations + self.logits)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / GIB:.2f}" for name, value in vars(self).items() if value)
        return f"estimated peak {self.total / GIB:.1f} GiB ({parts})"


def estimate_memory(
    config,
    *,
    dtype: str = "bfloat16",
    quantization: str | None = None,
    lora=None,
    image_tokens: int = 1000,
    frames: int = 1,
    text_tokens: int = 60,
    completion_tokens: int = 768,
    num_generations: int = 8,
    prompts_at_once: int = 2,
    micro_prompts: int = 1,
    optimizer: str = "adamw_torch_fused",
    checkpointing: bool = True,
    reference: bool = True,
    shared_prefix: bool = True,
) -> MemoryEstimate:
    """The memory of one GRPO step on one GPU, every completion at its full length.

    `config` is the model's, its `Geometry`, or the name of a `PUBLISHED` model; a prompt shows an image, or `frames` of
    a video, of `image_tokens` each, two of which share their tokens; `prompts_at_once` prompts are answered in one
    rollout, `micro_prompts` go through the model in one update. Adapters are float32; their reference is a copy
    of the adapter, no second model. Raises ValueError for a dtype, a quantization or a shape that is not known.
    """
    for name, value, known in (("dtype", dtype, BYTES), ("quantization", quantization, (None, *QUANTIZED))):
        if value not in known:
            raise ValueError(f"Unknown {name} {value!r}: choose one of {', '.join(map(str, known))}.")
    shape, half = config if isinstance(config, Geometry) else Geometry(config), 2
    width, whole, linear = BYTES[dtype], shape.parameters, shape.quantizable
    weights = (whole - linear) * width + linear * (QUANTIZED[quantization] if quantization else width)
    adapters = 0
    if lora:
        adapters = shape.lora_parameters(lora)
        trained_width = 4
        weights += adapters * trained_width * (2 if reference else 1)  # the reference is a copy of the adapter
    else:
        trained_width = width
    trained = adapters or whole

    seen = image_tokens * -(-frames // shape.frames_a_token)
    prompt = seen + text_tokens
    branches = num_generations * prompts_at_once
    prompts = prompts_at_once if shared_prefix else branches  # branched decoding keeps a prompt's keys and values once
    cache = (prompts * prompt + branches * completion_tokens) * shape.cached * half
    cache += branches * shape.state * BYTES["float32"]

    rows = num_generations * micro_prompts
    tokens = micro_prompts * prompt + rows * completion_tokens if shared_prefix else rows * (prompt + completion_tokens)
    inner = 10 * shape.width + 5 * shape.inner  # normed inputs, q k v, attention, gate, up, their product, in one layer
    kept = shape.width if checkpointing else inner
    activations: float = tokens * half * (shape.layers * kept + (2 * inner if checkpointing else 0))
    patches = (micro_prompts if shared_prefix else rows) * seen * shape.merge**2
    vision_inner = 10 * shape.vision_width + 5 * shape.vision_inner
    sees = lora is None or lora.vision or lora.merger
    vision_kept = (shape.vision_width if checkpointing else vision_inner) if sees else 0
    activations += patches * half * (shape.vision_layers * vision_kept + (2 if sees else 1) * vision_inner)
    if shared_prefix:  # the prefix's keys and values once more for every branch, in one layer or in all
        expanded = rows * (prompt + completion_tokens) * shape.cached / shape.layers * half
        activations += expanded * (1 if checkpointing else shape.layers)
    if not lora and width == 4:
        activations += whole * half  # autocast's half-precision copies of float32 weights
    return MemoryEstimate(
        weights=weights,
        optimizer=trained * OPTIMIZERS.get(optimizer, 2 * trained_width),
        reference=whole * width if reference and not lora else 0,
        gradients=trained * trained_width,
        cache=cache,
        activations=activations,
        logits=min(tokens, TILE_TOKENS) * min(shape.vocabulary, TILE_WORDS) * half,
    )


# What helps against too little memory: first what leaves the result as it is.
REMEDIES = (
    "micro_prompts=1",
    "gradient_checkpointing=True",
    "an 8-bit optimizer (optim='adamw_bnb_8bit')",
    "max_completion_length",
    "max_pixels",
    "num_generations",
    "LoRA instead of all weights (lora=True)",
    "4-bit weights (quantization='4bit')",
)


def out_of_memory_advice() -> str:
    """In which order to save memory, in words."""
    return f"in this order: {', then '.join(REMEDIES)}"


def estimate_run(policy, settings, processes: int = 1, frames: int = 1) -> MemoryEstimate:
    """What one GPU of `processes` needs for `settings` (`GRPOSettings`) on a loaded policy, for the largest images, or
    videos of so many `frames`."""
    return estimate_step(
        policy,
        settings,
        frames=frames,
        num_generations=settings.num_generations,
        prompts_at_once=-(-settings.prompts_per_step // processes),
        micro_prompts=settings.micro_prompts,
        reference=settings.beta != 0,
    )


def largest_picture(processor, frames: int = 1) -> int:
    """The most tokens that a processor makes of an image, or of each of a video's `frames`."""
    from pr1kit.models.policy import whole_videos

    images = processor.image_processor
    pixels = images.size["longest_edge"]
    if frames > 1:
        pixels = processor.video_processor.size["longest_edge"]
        if whole_videos(processor.video_processor):
            pixels //= frames
    return pixels // (images.patch_size * images.merge_size) ** 2


def estimate_step(policy, settings, frames: int = 1, **step) -> MemoryEstimate:
    """`estimate_memory` of a `step` on a loaded policy, largest images, answers at their full length."""
    from pr1kit.models.adapters import lora_of

    return estimate_memory(
        policy.core.config,
        dtype=str(policy.core.dtype).removeprefix("torch."),
        quantization=policy.quantization,
        lora=lora_of(policy.model),
        image_tokens=largest_picture(policy.processor, frames),
        frames=frames,
        completion_tokens=settings.max_completion_length,
        optimizer=settings.optim,
        checkpointing=settings.gradient_checkpointing,
        shared_prefix=settings.shared_prefix,
        **step,
    )


def check_fits(estimate: MemoryEstimate, available: float) -> str:
    """What to say after the estimate: how many bytes are `available`, and a warning where its peak exceeds them.

    Raises ValueError where weights, optimizer, reference and gradients, which are certain, do so by themselves.
    """
    certain = estimate.fixed + estimate.gradients
    if certain > available:
        raise ValueError(
            f"This run will not fit: weights and what training adds to them need {certain / GIB:.1f} GiB, the GPU has "
            f"{available / GIB:.1f} GiB. Use LoRA (lora=True), then 4-bit weights (quantization='4bit'), then a "
            "smaller model."
        )
    if estimate.total <= available:
        return f" of {available / GIB:.1f} GiB"
    return f" of {available / GIB:.1f} GiB: it may run out of memory; if it does, lower {out_of_memory_advice()}."
