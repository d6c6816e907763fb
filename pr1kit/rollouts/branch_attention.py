"""A decoding step's attention: the prompt's keys and values once for all of its branches, beside each branch's own.

    scores over the prompt    one matrix product for all queries of a prompt's branches     n of (G × P)
    scores over its own       one row for each branch                                       n·G of (1 × t)

and one softmax over both, as in Hydragen (arXiv 2402.05099): the prompt is kept and read once, not G times. The
function goes in by the name that a model's configuration gives its attention (`transformers.AttentionInterface`), for
the steps of one decoding; no class, module or method is changed.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

NAME = "branched_decoding"


class KeywordsNotPassed(ValueError):
    """A model that cannot decode branches; the text completes "Shared prefix is off: …"."""


class Prompts:
    """What `B` branches of `n` prompts share: keys and values `(n, H_kv, P, D)` of the layers in a prefilled cache that
    have some.

    `owner` (B), in ascending order, is each branch's prompt; `mask` (n, P) is 0 where a prompt is padded.
    """

    def __init__(self, cache: Cache, mask: torch.Tensor | None, owner: torch.Tensor):
        attention = {i: layer for i, layer in enumerate(cache.layers) if hasattr(layer, "keys")}
        self.layers = {i: (layer.keys, layer.values) for i, layer in attention.items()}
        self.count = len(owner.unique())
        self.padded = None if mask is None or bool(mask.all()) else mask[:, None, None, None] == 0
        self.keep(owner)

    def keep(self, owner: torch.Tensor) -> None:
        """Only these branches go on; a prompt without any is let go."""
        prompts, self.owner, counts = owner.unique_consecutive(return_inverse=True, return_counts=True)
        if len(prompts) < self.count:
            self.layers = {i: tuple(x.index_select(0, prompts) for x in pair) for i, pair in self.layers.items()}
            self.count = len(prompts)
            self.padded = None if self.padded is None else self.padded[prompts]
        self.shape = len(prompts), int(counts.max())
        first = torch.arange(len(prompts), device=owner.device) * self.shape[1] - counts.cumsum(0) + counts
        self.place = torch.arange(len(owner), device=owner.device) + first[self.owner]
        self.even = len(owner) == self.shape[0] * self.shape[1]

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of branches `(B, …)` prompt by prompt `(n, most, …)`; zeros where a prompt has fewer than the most."""
        if not self.even:
            x = x.new_zeros(self.shape[0] * self.shape[1], *x.shape[1:]).index_copy_(0, self.place, x)
        return x.unflatten(0, self.shape)

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `spread`."""
        x = x.flatten(0, 1)
        return x if self.even else x.index_select(0, self.place)


class OwnLayer(DynamicLayer):
    """Keys and values `(B, H_kv, t, D)` that grow by blocks: a step copies its own tokens alone. Begins with what
    `layer` holds, or with none."""

    block = 64
    room: tuple[torch.Tensor, ...] = ()

    def __init__(self, layer: DynamicLayer | None = None):
        super().__init__()
        self.length = 0
        if layer is not None:
            self.__dict__.update(vars(layer))
            self.room, self.length = (layer.keys, layer.values), layer.keys.shape[2]

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.length:
            self.lazy_initialization(key_states, value_states)
            self.room = (key_states[:, :, :0], value_states[:, :, :0])
        new = key_states.shape[2]
        if self.length + new > self.room[0].shape[2]:
            self._move(self.length + new - 1 + self.block)
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room.narrow(2, self.length, new).copy_(states)
        self.length += new
        self.keys, self.values = (room.narrow(2, 0, self.length) for room in self.room)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows alone, in this order."""
        if self.length:
            self._move(self.room[0].shape[2], beam_idx)
            self.keys, self.values = (room.narrow(2, 0, self.length) for room in self.room)

    batch_select_indices = reorder_cache

    def _move(self, size: int, rows: torch.Tensor | None = None) -> None:
        """Into new room for `size` tokens, of these rows alone."""
        used, self.room = [room.narrow(2, 0, self.length) for room in self.room], ()
        for old in used:
            new = old.new_empty(len(old) if rows is None else len(rows), old.shape[1], size, old.shape[3])
            if rows is None:
                new.narrow(2, 0, self.length).copy_(old)
            else:
                torch.index_select(old, 0, rows, out=new.narrow(2, 0, self.length))
            self.room += (new,)


def attend(module, query, key, value, attention_mask, prompts=None, scaling=None, **_):
    """query (B, H, 1, D), the branches' own key and value (B, H_kv, t, D) → (B, 1, H, D), in transformers' form."""
    if prompts is None:
        raise KeywordsNotPassed(f"the layers of {type(module).__name__} do not pass keyword arguments on")
    (batch, heads, _, width), kv_heads = query.shape, key.shape[1]
    keys, values = (x.flatten(0, 1) for x in prompts.layers[module.layer_idx])  # (n·H_kv, P, D)
    query = (query * (width**-0.5 if scaling is None else scaling)).view(batch, kv_heads, -1, width)
    own = query.flatten(0, 1).bmm(key.flatten(0, 1).transpose(1, 2)).view(batch, kv_heads, -1, key.shape[2])
    together = prompts.spread(query).transpose(1, 2)  # (n, H_kv, most, queries of a key's head, D)
    shared = together.reshape(len(keys), -1, width).bmm(keys.transpose(1, 2))
    shared = shared.view(*together.shape[:4], -1).transpose(1, 2)
    if prompts.padded is not None:
        shared = shared.masked_fill(prompts.padded, torch.finfo(shared.dtype).min)
    weights = torch.cat([shared, prompts.spread(own)], -1).softmax(-1, dtype=torch.float32).to(query.dtype)
    shared, own = weights.split([shared.shape[-1], own.shape[-1]], -1)
    shared = shared.transpose(1, 2).reshape(len(keys), -1, shared.shape[-1]).bmm(values)
    own = prompts.gather(own).flatten(0, 1).bmm(value.flatten(0, 1)).view(batch, kv_heads, -1, width)
    out = own + prompts.gather(shared.view(together.shape).transpose(1, 2))
    return out.view(batch, 1, heads, width), None


AttentionInterface.register(NAME, attend)


@contextmanager
def branched_attention(model):
    """While open, the language layers of `model` attend as `attend`; transformers makes no mask for this name."""
    text = model.config.get_text_config()
    name = text._attn_implementation
    text._attn_implementation = NAME
    try:
        yield
    finally:
        text._attn_implementation = name
