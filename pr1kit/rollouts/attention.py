"""Where does a policy look, turn by turn? The attention of an answer's tokens on the picture's (RePer, section 5)."""

from __future__ import annotations

import numpy as np
import torch

from pr1kit.models.policy import Policy
from pr1kit.rollouts.dialogue_rows import collate
from pr1kit.rollouts.reflection import Dialogue


@torch.no_grad()
def image_attention(policy: Policy, dialogue: Dialogue) -> list[np.ndarray]:
    """For each turn `(H, W)`: the attention with which the answer's tokens were written, on the picture's tokens.

    Mean over layers, heads and the answer's tokens; the grid is the picture's, its sum the share of all attention that
    the picture has, in [0, 1]. Raises ValueError for a model whose layers have no attention weights to show.
    """
    model, batch = policy.core, collate(policy, [dialogue])
    labels, turns = batch.pop("labels"), batch.pop("turns")[0, 1:]
    del batch["sigma"]
    attention = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation("eager")  # the only one that keeps its weights
    try:
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        layers = model(**inputs, output_attentions=True, use_cache=False, logits_to_keep=1).attentions
    finally:
        model.set_attn_implementation(attention)
    layers = [each for each in layers or () if each is not None and each.dim() == 4]
    if not layers:
        raise ValueError(f"{policy.name!r} ({type(model).__name__}) has no attention weights to show.")
    weights = torch.stack([layer[0].float().mean(0) for layer in layers]).mean(0).cpu()  # (L, L), rows look at columns
    pictures = batch["input_ids"][0] == model.config.image_token_id
    height, width = (batch["image_grid_thw"][0, 1:] // policy.processor.image_processor.merge_size).tolist()
    writes = labels[0, 1:] != -100  # the place before a token is where it is written from
    return [
        weights[:-1][writes & (turns == number)][:, pictures].mean(0).reshape(height, width).numpy()
        for number in range(len(dialogue.turns))
        if (turns == number).any()
    ]
