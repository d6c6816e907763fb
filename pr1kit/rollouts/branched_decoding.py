"""Decoding that reads each prompt once: prefill the prompts, branch their caches, decode the branches together.

Goes in by the door that transformers keeps for this, `model.generate(custom_generate=…)`: `generate` prepares logits
processors and stopping criteria from its generation config as ever, and only the loop is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicLayer


def branches(counts: int | Sequence[int], synced: bool = False):
    """A `custom_generate` that decodes `counts` branches of every prompt; needs a model with M-RoPE positions.

    `synced` where weights are sharded over processes: each calls the model until all have finished. Returns
    `(branches of all prompts, P + C)` tokens as `generate` does with `num_return_sequences`, a prompt's branches in
    consecutive rows, padded after their end.
    """

    def decode(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
        first = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
        outputs = model(**first, return_dict=True)
        cache = outputs.past_key_values
        each = torch.as_tensor(counts, device=input_ids.device).expand(len(input_ids))
        prompt = torch.arange(len(input_ids), device=input_ids.device).repeat_interleave(each)
        cache.layers = [
            PreallocatedCacheLayer(layer) if type(layer) is DynamicLayer else layer for layer in cache.layers
        ]
        cache.batch_select_indices(prompt)
        _select(logits_processor, prompt)
        logits, ids = outputs.logits[prompt, -1], input_ids[prompt]
        positions = first["position_ids"][-3:, prompt, -1:]
        mask = first.get("attention_mask")
        mask = None if mask is None else mask[prompt]
        rows = torch.arange(len(ids), device=ids.device)  # where the branches still in the batch belong
        done: list = [None] * len(ids)
        over = False
        while model._has_unfinished_sequences(over, synced, ids.device):
            if not over:
                scores = logits_processor(ids, logits.float())
                token = draw(scores) if generation_config.do_sample else scores.argmax(-1)
                ids = torch.cat([ids, token[:, None]], 1)
                finished = stopping_criteria(ids, None)
                for row, tokens in zip(rows[finished].tolist(), ids[finished], strict=True):
                    done[row] = tokens
                left = (~finished).nonzero()[:, 0]
                over = len(left) == 0
                if 0 < len(left) < len(ids):
                    cache.batch_select_indices(left)
                    _select(logits_processor, left)
                    rows, ids, positions = rows[left], ids[left], positions[:, left]
                    mask = None if mask is None else mask[left]
                positions = positions + 1
                mask = None if mask is None else torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            if not over or synced:
                logits = model(
                    input_ids=ids[:, -1:],
                    position_ids=positions,
                    attention_mask=mask,
                    past_key_values=cache,
                    use_cache=True,
                    return_dict=True,
                ).logits[:, -1]
        blank = generation_config._pad_token_tensor
        return torch.nn.utils.rnn.pad_sequence(
            done, batch_first=True, padding_value=0 if blank is None else blank.item()
        )

    return decode


class PreallocatedCacheLayer(DynamicLayer):
    """A cache layer `(rows, heads, length, width)` that grows by blocks: a step copies its token and no other."""

    block = 64

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        self.__dict__.update(vars(layer))
        self.room = (self.keys, self.values)

    def update(self, key_states, value_states, *args, **kwargs):
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self.room[0].shape[-2]:
            self.room = tuple(pad(states, (0, 0, 0, end - start + self.block)) for states in (self.keys, self.values))
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        length = self.keys.shape[-2]
        self.room = tuple(room[indices] for room in self.room)
        self.keys, self.values = (room[:, :, :length] for room in self.room)


def _select(processors, rows: torch.Tensor) -> None:
    """Keep these rows of what a processor remembers of each (the repetition penalty: where its prompt begins)."""
    for processor in processors:
        if torch.is_tensor(lengths := getattr(processor, "prompt_ignore_length", None)):
            processor.prompt_ignore_length = lengths.to(rows.device)[rows]


def draw(scores: torch.Tensor) -> torch.Tensor:
    """One token for each row of `scores` (B, V), from their softmax, by inversion.

    `torch.multinomial` draws from the same distribution with V random numbers a row, this one with one.
    """
    cumulated = scores.softmax(-1).cumsum(-1)
    at = torch.rand(len(scores), 1, device=scores.device) * cumulated[:, -1:]
    return torch.searchsorted(cumulated, at, right=True)[:, 0].clamp(max=scores.shape[1] - 1)


def can_branch(model) -> bool:
    """Whether `model` (unwrapped) tells M-RoPE positions, as Qwen2-VL and Qwen2.5-VL do."""
    return hasattr(getattr(model, "model", None), "get_rope_index")
