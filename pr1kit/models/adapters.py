"""LoRA adapters: which layers get one, and how a trained policy leaves the kit.

Low-rank adapters (arXiv 2106.09685) through peft, on the language model and by choice on the vision tower and the
merger between them; which layers those are in a model, `families` says.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from pr1kit.models.families import family_of


@dataclass(frozen=True)
class LoRASettings:
    """Rank `r`, scale `alpha / r`, and which parts of the model get adapters on all their linear layers."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    language: bool = True
    vision: bool = False
    merger: bool = False

    def __post_init__(self):
        if self.r < 1:
            raise ValueError(f"The rank r of LoRA must be at least 1, got {self.r}.")
        if not (self.language or self.vision or self.merger):
            raise ValueError("LoRA on no part of the model: set language, vision or merger.")

    def pattern(self, model_type: str) -> str:
        """The regular expression that the full name of an adapted layer matches in a model of this family."""
        return family_of(model_type).adapted(language=self.language, vision=self.vision, merger=self.merger)

    def config(self, model_type: str) -> LoraConfig:
        """These settings as peft's own configuration, for a model of this family."""
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.pattern(model_type),
            task_type="CAUSAL_LM",
        )

    def __str__(self) -> str:
        parts = [name for name in ("language", "vision", "merger") if getattr(self, name)]
        return f"LoRA r={self.r} on {' + '.join(parts)}"


def lora_settings(lora: bool | LoRASettings | dict | None) -> LoRASettings | None:
    """`True` for the defaults, a mapping for some of them, `None` or `False` for no adapter."""
    if lora is True:
        return LoRASettings()
    if isinstance(lora, dict):
        unknown = sorted(set(lora) - set(LoRASettings.__dataclass_fields__))
        if unknown:
            known = ", ".join(LoRASettings.__dataclass_fields__)
            raise ValueError(f"LoRA has no setting {unknown[0]!r}: it has {known}.")
        return LoRASettings(**lora)
    return lora or None


def add_lora(model: Any, settings: LoRASettings) -> PeftModel:
    """`model` with fresh adapters (which change nothing yet); all its other weights are frozen."""
    return get_peft_model(model, settings.config(model.config.model_type))


def base_of(model: torch.nn.Module) -> torch.nn.Module:
    """The model of transformers' class beneath adapters; the model itself where it has none."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def is_quantized(model: torch.nn.Module) -> bool:
    """Whether the weights are 4-bit or 8-bit."""
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))


def lora_of(model: torch.nn.Module) -> LoRASettings | None:
    """The settings of the model's adapter, None where it has none."""
    if not isinstance(model, PeftModel):
        return None
    config, names = model.peft_config["default"], " ".join(model.targeted_module_names)
    return LoRASettings(
        r=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        language="language_model." in names,
        vision="visual.blocks." in names,
        merger="visual.merger." in names,
    )


def adapter_base(folder: str | Path) -> str:
    """The name of the model that the adapter in `folder` was trained on."""
    return LoraConfig.from_pretrained(str(folder)).base_model_name_or_path


def load_adapter_weights(model: PeftModel, checkpoint: str | Path, name: str = "default") -> None:
    """Copy a checkpoint's adapter weights into the adapter of this name that `model` has."""
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    result = set_peft_model_state_dict(model, load_peft_weights(str(checkpoint), device="cpu"), name)
    lost = [name for name in result.unexpected_keys if "lora" in name]
    if lost:
        raise ValueError(f"The adapter in {str(checkpoint)!r} does not fit this model: it has {lost[0]}.")


@contextmanager
def kept_in_float32(model):
    """While TRL makes a trainer of it: the adapter of a quantized `model`, which TRL rounds, to the bit as it was."""
    quantized = isinstance(model, torch.nn.Module) and is_quantized(base_of(model))
    adapter = [p for p in model.parameters() if p.requires_grad] if quantized else []
    weights = [parameter.data for parameter in adapter]
    yield
    for parameter, weight in zip(adapter, weights, strict=True):
        parameter.data = weight


def cast_adapters_and_freeze_tower(model: torch.nn.Module, base: torch.nn.Module) -> None:
    """After TRL made `model` (`base` with its adapters) trainable: float32 for what is trained on quantized weights,
    and no gradients through a vision tower that is frozen."""
    if is_quantized(base):  # TRL makes it bfloat16, in which the steps of a small learning rate round to nothing
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    tower = getattr(getattr(base, "model", None), "visual", None)
    if tower is not None and not hasattr(tower, "_hooks_where_frozen"):
        # for gradient checkpointing TRL lets the inputs of every part require gradients, frozen or not
        before, after = _without_gradients_where_frozen()
        tower._hooks_where_frozen = (
            tower.register_forward_pre_hook(before),
            tower.register_forward_hook(after, always_call=True),
        )


def _without_gradients_where_frozen():
    """Hooks before and after the pass of a part that is computed without gradients where none of it is trained."""
    entered: list[bool] = []

    def before(part, _):
        entered.append(torch.is_grad_enabled())
        torch.set_grad_enabled(entered[-1] and any(parameter.requires_grad for parameter in part.parameters()))

    def after(*_):
        torch.set_grad_enabled(entered.pop())

    return before, after
