"""Whose weights are these, and back into the model with them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from pr1kit.models.adapters import load_adapter_weights
from pr1kit.models.backends import quiet

SAMPLED = 4096  # numbers of each tensor that the fingerprint looks at


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A digest of the model's weights, from evenly spaced numbers of every tensor: what training or another file
    changes, it changes nearly everywhere. An adapter that changes nothing yet (B = 0) counts as absent.

    >>> layer = torch.nn.Linear(2, 2)
    >>> before = weights_fingerprint(layer)
    >>> layer.weight.data += 1
    >>> before == weights_fingerprint(layer)
    False
    """
    named = {  # peft wraps names, and TRL keeps a copy of the adapter
        name.replace("base_model.model.", "", 1).replace(".base_layer", ""): value
        for name, value in model.named_parameters()
        if ".ref." not in name
    }
    if not any("lora_B" in name and value.any() for name, value in named.items()):
        named = {name: value for name, value in named.items() if "lora_" not in name}
    digest = hashlib.sha256()
    for name, value in sorted(named.items()):
        flat = value.detach().flatten()
        chosen = flat[:: max(1, len(flat) // SAMPLED)].cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(chosen.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def load_weights(model: torch.nn.Module, checkpoint: str | Path) -> None:
    """Copy a saved checkpoint's weights into `model` of the same class, every one of them; of an adapted model those of
    its adapters."""
    if hasattr(model, "peft_config"):
        for name in model.peft_config:  # PEFT gives all but the first a folder of their own
            load_adapter_weights(model, Path(checkpoint) / ("" if name == "default" else name), name)
        return
    with quiet():
        model.load_state_dict(type(model).from_pretrained(checkpoint, dtype=model.dtype).state_dict())


def trained_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of what training changes: the adapter where there is one, else all weights."""
    adapted = hasattr(model, "peft_config")
    named = dict(model.named_parameters()) if adapted else model.state_dict()
    return {name: value.detach().clone() for name, value in named.items() if not adapted or ".default." in name}
