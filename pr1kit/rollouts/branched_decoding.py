"""Decoding that reads each prompt once: prefill the prompts, then decode all their branches together.

Goes in by the door that transformers keeps for this, `model.generate(custom_generate=…)`: `generate` prepares logits
processors and stopping criteria from its generation config as ever, and only the loop is ours. A step waits for the
device nowhere: which branches have ended is asked every `CHECK` tokens, and only then are they taken out. What they
attend to is in `branch_attention`.

Positions go on from the prompt's last word, as a forward pass over prompt and answer has them. transformers' own loop
goes on behind the largest position of the prompt, which frames late in a long video have: there training would read an
answer at other positions than those at which it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from transformers.cache_utils import DynamicLayer

from pr1kit.rollouts.branch_attention import OwnLayer, Prompts, branched_attention

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
        length = input_ids.shape[1]
        owner = torch.arange(len(input_ids), device=input_ids.device)
        owner = owner.repeat_interleave(torch.as_tensor(counts, device=input_ids.device).expand(len(input_ids)))
        steps, blank = generation_config.max_length - length, generation_config._pad_token_tensor
        ids = input_ids.new_full((len(owner), length + steps), 0 if blank is None else blank.item())
        ids[:, :length] = input_ids[owner]
        _select(logits_processor, owner)
        name = "cache" if "cache" in outputs else "past_key_values"  # as it was called before transformers 5.24
        chances = torch.empty(0)

        def choose(ids, logits, step, rows):
            nonlocal chances
            scores = logits_processor(ids, logits.float())
            if not generation_config.do_sample:
                return scores.argmax(-1)
            if step % CHECK == 0:
                chances = _chances(draws, step, min(step + CHECK, steps), len(owner), ids.device)
            return draw(scores, chances[step % CHECK, rows])

        with torch.inference_mode(not synced):
            return decode_branches(
                model,
                {name: outputs[name]},
                first.get("attention_mask"),
                owner,
                outputs.logits[owner, -1],
                first["position_ids"][-3:, owner, -1:] + 1,
                ids,
                steps,
                choose,
                lambda ids: stopping_criteria(ids, None),
                lambda left: _select(logits_processor, left),
                synced,
            )

    return decode


def decode_branches(model, caches, mask, owner, logits, positions, ids, steps, choose, ends, select=None, synced=False):
    """Go on from what a prefilled cache holds, each branch for itself; what its attention layers hold stays as it is.

    `caches`: the cache under the name that the model gives it; `mask` (n, P): which places of the n prompts hold a
    token (None: all); `owner` (B), ascending: each branch's prompt; `logits` (B, V) and `positions` (3, B, 1) of its
    first token; `ids` (B, L + steps): L tokens that are there, then padding. `choose(ids, logits, step, rows)` gives
    the next token of each branch that runs, `rows` their places among the B; `ends(ids)` says which have ended;
    `select(left)` is told which go on. Returns ids as far as the longest.
    """
    length, device = ids.shape[1] - steps, ids.device
    (cache,) = caches.values()
    prompts = Prompts(cache, mask, owner)
    for layer in cache.layers:  # of linear attention: each branch goes on from a copy of its prompt's state
        if not isinstance(layer, DynamicLayer):
            layer.reorder_cache(owner)
    cache.layers = [OwnLayer() if isinstance(layer, DynamicLayer) else layer for layer in cache.layers]
    result, rows = ids.clone(), torch.arange(len(owner), device=device)  # where the branches in the batch belong
    running, lengths = torch.ones_like(rows, dtype=torch.bool), torch.zeros_like(rows)
    check = 1 if device.type == "cpu" else CHECK  # to ask a CPU costs nothing
    over = False
    with branched_attention(model):
        for step in count():
            looks = (step + 1) % check == 0 or step + 1 == steps
            if not over:
                end = length + step + 1
                token = choose(ids[:, : end - 1], logits, step, rows)
                ids[:, end - 1] = torch.where(running, token, ids[:, end - 1])
                lengths += running
                running = running & ~ends(ids[:, :end])
                if looks:
                    left = running.nonzero()[:, 0]
                    over = len(left) == 0 or step + 1 == steps
                    if over or len(left) <= KEEP * len(ids):
                        result[rows], longest = ids, int(lengths.max())
                    if not over and len(left) <= KEEP * len(ids):
                        for layer in cache.layers:
                            layer.reorder_cache(left)
                        if select:
                            select(left)
                        prompts.keep(prompts.owner[left])
                        rows, ids, positions = rows[left], ids[left], positions[:, left]
                        running, lengths = running[left], lengths[left]
            if over and not synced:
                break
            if synced and looks and not model._has_unfinished_sequences(over, True, device):
                break
            logits = model(
                input_ids=ids[:, end - 1 : end],
                position_ids=positions,
                use_cache=True,
                return_dict=True,
                prompts=prompts,
                **caches,
            ).logits[:, -1]
            positions = positions + 1
    return result[:, : length + longest]


def _select(processors, rows: torch.Tensor) -> None:
    """Keep these rows of what a processor remembers of each (the repetition penalty: where its prompt begins)."""
    for processor in processors:
        if torch.is_tensor(lengths := getattr(processor, "prompt_ignore_length", None)):
            processor.prompt_ignore_length = lengths.to(rows.device)[rows]


def _chances(draws: torch.Tensor | None, start: int, end: int, branches: int, device) -> torch.Tensor:
    """Random numbers in [0, 1) for these steps, `(end − start, branches)`."""
    if draws is None:
        return torch.rand(end - start, branches, device=device)
    return draws[:, start:end].T.to(device)


def draw(scores: torch.Tensor, uniform: torch.Tensor | None = None) -> torch.Tensor:
    """One token for each row of `scores` (B, V), from their softmax, by inversion of `uniform` (B) in [0, 1).

    `torch.multinomial` draws from the same distribution with V random numbers a row, this one with one.
    """
    cumulated = scores.softmax(-1).cumsum(-1)
    uniform = torch.rand(len(scores), device=scores.device) if uniform is None else uniform
    at = uniform[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, at, right=True)[:, 0].clamp(max=scores.shape[1] - 1)


def can_branch(model) -> bool:
    """Whether `model` (unwrapped) tells M-RoPE positions, as the Qwen-VL families and Qwen3.5 do, and each of its
    layers attends to the whole prompt, or carries a state along (linear attention): no sliding windows."""
    text = model.config.get_text_config()
    kinds = getattr(text, "layer_types", None) or [
        "sliding_attention" if getattr(text, "sliding_window", None) else "full_attention"
    ]
    return hasattr(getattr(model, "model", None), "get_rope_index") and set(kinds) <= {
        "full_attention",
        "linear_attention",
    }
