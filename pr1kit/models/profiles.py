"""What to choose on a GPU of a given size: model, precision, adapters, image size, optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pr1kit.models.adapters import LoRASettings


@dataclass(frozen=True)
class Profile:
    """Choices for a GPU with `memory` bytes.

    `model` is the one to begin with on such a card; the largest profile trains a model of the paper, all weights.
    `max_pixels` is Perception-R1's (its released scripts). The paper's learning rate of 1e-6 trains all weights in
    float32; adapters want about ten times that of full training (Schulman et al., "LoRA Without Regret", 2025).
    """

    memory: float
    model: str
    dtype: str
    quantization: str | None
    lora: LoRASettings | None
    learning_rate: float
    optim: str
    max_pixels: int = 1_000_000


PROFILES = {
    "16GB": Profile(16e9, "Qwen/Qwen3-VL-2B-Instruct", "bfloat16", "4bit", LoRASettings(), 1e-5, "adamw_torch_fused"),
    "24GB": Profile(24e9, "Qwen/Qwen3-VL-4B-Instruct", "bfloat16", None, LoRASettings(), 1e-5, "adamw_torch_fused"),
    "80GB": Profile(80e9, "Qwen/Qwen2.5-VL-3B-Instruct", "float32", None, None, 1e-6, "adamw_bnb_8bit"),
}


def get_profile(name: str | None) -> tuple[str | None, Profile | None]:
    """`(name, profile)`; "auto" takes the largest that the first GPU's memory allows. Raises ValueError.

    A GPU counts as large enough from nine tenths of the name, since makers count the memory that the driver keeps.
    """
    if name is None:
        return None, None
    if name == "auto":
        if not torch.cuda.is_available():
            raise ValueError('profile="auto" looks at the GPU\'s memory, and there is no CUDA GPU here.')
        memory = torch.cuda.get_device_properties(0).total_memory
        fitting = [each for each, profile in PROFILES.items() if profile.memory * 0.9 <= memory]
        name = fitting[-1] if fitting else "16GB"
    if name not in PROFILES:
        raise ValueError(f"Unknown profile {name!r}: choose one of {', '.join(PROFILES)} or auto.")
    return name, PROFILES[name]
