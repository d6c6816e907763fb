"""How a trained policy leaves the kit: as an adapter of some megabytes, or as a whole model."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from peft import PeftModel

from pr1kit.models.adapters import is_quantized
from pr1kit.models.backends import quiet
from pr1kit.models.policy import load_policy


def export_adapter(policy, folder: str | Path) -> Path:
    """Save the policy's adapter (some megabytes) and its processor; `load_policy(folder)` puts it on its base again.

    Raises ValueError where the policy has no adapter.
    """
    if not isinstance(policy.model, PeftModel):
        raise ValueError(f"The policy {policy.name!r} has no adapter to export: export_model saves all its weights.")
    folder = Path(folder)
    policy.model.peft_config["default"].base_model_name_or_path = policy.base or policy.name
    policy.model.save_pretrained(str(folder), selected_adapters=["default"])
    policy.processor.save_pretrained(folder)
    return folder


def export_model(policy, folder: str | Path, dtype: str | torch.dtype = "auto") -> Path:
    """Save the policy as a whole model that needs neither peft nor the kit; the policy itself stays as it is.

    An adapter is merged into its base, which is read again in `dtype` ("auto": as published), on the CPU: a 4-bit
    policy too becomes a model of full precision. Its logits differ by as much as 4 bits had changed the base.
    """
    folder = Path(folder)
    if isinstance(policy.model, PeftModel):
        with tempfile.TemporaryDirectory() as kept:
            export_adapter(policy, kept)
            merged = load_policy(kept, dtype=dtype, device="cpu", verbose=False).model
            with quiet():
                merged.merge_and_unload(safe_merge=True).save_pretrained(folder)
    elif is_quantized(policy.model):
        raise ValueError(f"The policy {policy.name!r} has 4-bit or 8-bit weights and no adapter: nothing was learned.")
    else:
        model = policy.model if dtype == "auto" else policy.model.to(dtype)
        with quiet():
            model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return folder
