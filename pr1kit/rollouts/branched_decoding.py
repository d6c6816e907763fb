"""Decoding that reads each prompt once: prefill the prompts, branch their caches, decode the branches together.

Goes in by the door that transformers keeps for this, `model.generate(custom_generate=…)`: `generate` prepares logits
processors and stopping criteria from its generation config as ever, and only the loop is ours. A step waits for the
device nowhere: which branches have ended is asked every `CHECK` tokens, and only then are they taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicLayer

CHECK = 4  # tokens from one look at which branches have ended to the next
KEEP = 0.95  # a batch is made smaller when no more than this share of it still runs


def branches(counts: int | Sequence[int], synced: bool = False, draws: torch.Tensor | None = None):
    """A `custom_generate` that decodes `counts` branches of every prompt; needs a model with M-RoPE positions.

    `synced` where weights are sharded over processes: each calls the model until all have finished. `draws` (branches,
    steps) in [0, 1) are the random numbers that choose the tokens, drawn from torch's generator where there are none.
    Returns `(branches of all prompts, P + C)` tokens as `generate` does with `num_return_sequences`, a prompt's
    branches in consecutive rows, padded after their end.
    """

    def decode(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
        first = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
        outputs = model(**first, return_dict=True)
        device, length = input_ids.device, input_ids.shape[1]
        each = torch.as_tensor(counts, device=device).expand(len(input_ids))
        prompt = torch.arange(len(input_ids), device=device).repeat_interleave(each)
        steps, blank = generation_config.max_length - length, generation_config._pad_token_tensor
        name = "cache" if "cache" in outputs else "past_key_values"  # as it was called before transformers 5.24
        cache, mask = outputs[name], _Mask(model, first.get("attention_mask"), prompt, steps)
        cache.layers = [
            PreallocatedCacheLayer(layer) if type(layer) is DynamicLayer else layer for layer in cache.layers
        ]
        _keep(cache, prompt)
        _select(logits_processor, prompt)
        logits, positions = outputs.logits[prompt, -1], first["position_ids"][-3:, prompt, -1:]
        ids = input_ids.new_full((len(prompt), length + steps), 0 if blank is None else blank.item())
        ids[:, :length] = input_ids[prompt]
        result, rows = ids.clone(), torch.arange(len(prompt), device=device)  # where the branches in the batch belong
        running, lengths = torch.ones_like(rows, dtype=torch.bool), torch.zeros_like(rows)
        over = False
        for step in count():
            if not over:
                end = length + step + 1
                scores = logits_processor(ids[:, : end - 1], logits.float())
                if generation_config.do_sample:
                    uniform = torch.rand(len(result), device=device) if draws is None else draws[:, step].to(device)
                    token = draw(scores, uniform[rows])
                else:
                    token = scores.argmax(-1)
                ids[:, end - 1] = torch.where(running, token, ids[:, end - 1])
                lengths += running
                running = running & ~stopping_criteria(ids[:, :end], None)
                if (step + 1) % CHECK == 0 or step + 1 == steps:
                    left = running.nonzero()[:, 0]
                    over = len(left) == 0
                    if over or len(left) <= KEEP * len(ids):
                        result[rows], longest = ids, int(lengths.max())
                    if not over and len(left) <= KEEP * len(ids):
                        _keep(cache, left)
                        _select(logits_processor, left)
                        mask.select(left)
                        rows, ids, positions = rows[left], ids[left], positions[:, left]
                        running, lengths = running[left], lengths[left]
                positions = positions + 1
            if over and not synced:
                break
            if synced and (step + 1) % CHECK == 0 and not model._has_unfinished_sequences(over, True, device):
                break
            logits = model(
                input_ids=ids[:, end - 1 : end],
                position_ids=positions,
                attention_mask=None if over else mask.upto(end),
                use_cache=True,
                return_dict=True,
                **{name: cache},
            ).logits[:, -1]
        return result[:, : length + longest]

    return decode


class _Mask:
    """The mask of each step without a step's cost: none where no prompt is padded, else made once and cut."""

    def __init__(self, model, mask, prompt, steps):
        if mask is None or bool(mask.all()):
            self.whole = None
            return
        whole = pad(mask[prompt], (0, steps), value=1)
        plain = (model.config.get_text_config()._attn_implementation or "").rpartition(":")[2]
        self.whole = whole[:, None, None].bool() if plain == "sdpa" else whole

    def select(self, rows):
        self.whole = None if self.whole is None else self.whole[rows]

    def upto(self, length: int):
        return None if self.whole is None else self.whole[..., :length]


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


def _keep(cache, rows: torch.Tensor) -> None:
    """The past of these rows, in this order, a row as often as it is named: keys and values, or the state that a layer
    of linear attention carries along."""
    for layer in cache.layers:
        (layer.batch_select_indices if hasattr(layer, "batch_select_indices") else layer.reorder_cache)(rows)


def _select(processors, rows: torch.Tensor) -> None:
    """Keep these rows of what a processor remembers of each (the repetition penalty: where its prompt begins)."""
    for processor in processors:
        if torch.is_tensor(lengths := getattr(processor, "prompt_ignore_length", None)):
            processor.prompt_ignore_length = lengths.to(rows.device)[rows]


def draw(scores: torch.Tensor, uniform: torch.Tensor | None = None) -> torch.Tensor:
    """One token for each row of `scores` (B, V), from their softmax, by inversion of `uniform` (B) in [0, 1).

    `torch.multinomial` draws from the same distribution with V random numbers a row, this one with one.
    """
    cumulated = scores.softmax(-1).cumsum(-1)
    uniform = torch.rand(len(scores), device=scores.device) if uniform is None else uniform
    at = uniform[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, at, right=True)[:, 0].clamp(max=scores.shape[1] - 1)


def can_branch(model) -> bool:
    """Whether `model` (unwrapped) tells M-RoPE positions, as the Qwen-VL families and Qwen3.5 do."""
    return hasattr(getattr(model, "model", None), "get_rope_index")
