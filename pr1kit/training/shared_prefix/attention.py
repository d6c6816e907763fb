"""Attention over a packed row in two ordinary calls and no mask of the row's square.

    prefix queries:  causal over the prefix                                  P²/2 pairs of query and key
    branch queries:  the prefix's keys, then the own branch's, causal        G·R·(P + R/2)

as in Prefix Grouper (arXiv 2506.05433). The linear layers see one row without padding. The function goes in by the
name that a model's configuration gives its attention (`transformers.AttentionInterface`): `shared_prefix:sdpa`
computes packed rows as here and everything else as `sdpa` does. No class, module or method is changed.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_flash_attention_utils import flash_attn_supports_top_left_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pr1kit.training.shared_prefix.packing import QUERIES, Layout

NAME = "shared_prefix:"
# torch 2.8's attention on the CPU reads keys that several heads of queries share only by way of the whole matrix of
# scores, 2.11's does not need to.
GROUPS_ON_CPU = torch.__version__ >= (2, 11)
NOT_IN_SDPA = ("softcap", "s_aux", "position_bias")  # what a model may ask of its attention and this one does not do


class PackedRowError(ValueError):
    """A model that cannot read packed rows; the text completes "Shared prefix is off: …"."""


class _Rearrange(torch.autograd.Function):
    """`x[:, :, index]`; its gradient goes back by `inverse` without a sum: a place is used once, or is padding."""

    @staticmethod
    def forward(ctx, x, index, inverse, kept):
        ctx.save_for_backward(inverse, kept)
        return x.index_select(2, index)

    @staticmethod
    def backward(ctx, grad):
        inverse, kept = ctx.saved_tensors
        grad = grad.index_select(2, inverse)
        return grad if kept is None else grad * kept[:, None], None, None, None


def packed_attention(module, query, key, value, layout: Layout, call, **options) -> torch.Tensor:
    """query (1, H, L, D), key and value (1, H_kv, L, D) → (1, L, H, D); `call` computes one rectangle, see `_sdpa`."""
    if layout.index is not None:
        query, key, value = (_Rearrange.apply(x, layout.index, layout.inverse, None) for x in (query, key, value))
    outputs, at = [], 0
    for groups, prefix, count, steps in layout.buckets:
        middle, end = at + groups * prefix, at + groups * (prefix + count * steps)
        q0, k0, v0 = (x[0, :, at:middle].unflatten(1, (groups, prefix)).transpose(0, 1) for x in (query, key, value))
        if prefix:
            outputs.append(call(module, q0, k0, v0, layout, 0, prefix, **options).transpose(0, 1).flatten(1, 2))
        if steps:
            q, k, v = (
                x[0, :, middle:end].unflatten(1, (groups * count, steps)).transpose(0, 1) for x in (query, key, value)
            )
            k, v = (
                torch.cat([shared[:, None].expand(-1, count, -1, -1, -1), own.unflatten(0, (groups, count))], 3)
                for shared, own in ((k0, k), (v0, v))
            )
            out = call(module, q, k.flatten(0, 1), v.flatten(0, 1), layout, prefix, steps, **options)
            outputs.append(out.transpose(0, 1).flatten(1, 2))
        at = end
    out = torch.cat(outputs, 1)[None]
    if layout.index is not None:
        out = _Rearrange.apply(out, layout.inverse, layout.index, layout.kept)
    return out.transpose(1, 2).contiguous()


def _sdpa(module, query, key, value, layout, prefix, steps, *, scaling, dropout, **_):
    """query (N, H, R, D), key and value (N, H_kv, P + R, D) → (N, H, R, D): a query sees `prefix` keys and its own."""
    options = {"scale": scaling, "dropout_p": dropout}
    if query.shape[1] != key.shape[1]:
        options["enable_gqa"] = True
    if query.is_cuda and torch.is_autocast_enabled("cuda"):  # the call below is not on autocast's list
        query, key, value = (x.to(torch.get_autocast_dtype("cuda")) for x in (query, key, value))
    if "enable_gqa" in options and not _takes_groups(query, key, value, dropout):
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
        del options["enable_gqa"]
    if prefix == 0:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, **options)
    if query.is_cuda:
        bias = causal_lower_right(steps, prefix + steps)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, **options)
    mask, outputs = layout.mask(prefix, steps, query.dtype), []
    for start in range(0, steps, QUERIES):
        end = min(start + QUERIES, steps)
        outputs.append(
            F.scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, : prefix + end],
                value[:, :, : prefix + end],
                attn_mask=mask[len(mask) - (end - start) :, steps - end :],
                **options,
            )
        )
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)


def _takes_groups(query, key, value, dropout) -> bool:
    """Whether a kernel that keeps no matrix of scores reads keys that several heads of queries share."""
    if not query.is_cuda:
        return GROUPS_ON_CPU or query.device.type != "cpu"
    cuda = torch.backends.cuda
    return cuda.can_use_flash_attention(cuda.SDPAParams(query, key, value, None, dropout, True, True))


def _eager(module, query, key, value, layout, prefix, steps, **options):
    """The model's own matrix products and softmax, under the mask of one rectangle."""
    dtype, outputs = query.dtype, []
    mask = layout.mask(prefix, steps, dtype)
    for start in range(0, steps, QUERIES):
        end = min(start + QUERIES, steps)
        sees = mask[len(mask) - (end - start) :, steps - end :][None, None]
        keys = slice(prefix + end)
        part = _own_eager(module)(module, query[:, :, start:end], key[:, :, keys], value[:, :, keys], sees, **options)
        outputs.append(part[0])
    return torch.cat(outputs, 1).transpose(1, 2)


def _own_eager(module):
    return sys.modules[type(module).__module__].eager_attention_forward


def _attend(plain: str):
    """The attention function of transformers' form that reads packed rows, and all others as `plain` does."""
    flash = "flash" in plain

    def attend(module, query, key, value, attention_mask, shared_prefix=None, scaling=None, dropout=0.0, **kwargs):
        layout = shared_prefix
        if layout is None and attention_mask is not None and attention_mask.shape[-1] == 0:
            raise PackedRowError(f"the layers of {type(module).__name__} do not pass keyword arguments on")
        options = {"scaling": scaling, "dropout": dropout, **kwargs}
        if layout is None or flash:
            if layout is not None:
                index, lengths = layout.varlen()
                key, value, attention_mask = key[:, :, index], value[:, :, index], None
                options |= {**lengths, "is_causal": True, "position_ids": None}
                layout.calls += 1
            with _named(module.config, plain) if flash else nullcontext():
                function = _own_eager(module) if plain == "eager" else ALL_ATTENTION_FUNCTIONS[plain]
                return function(module, query, key, value, attention_mask, **options)
        if kwargs.get("sliding_window") is not None:
            raise PackedRowError("its layers see a sliding window")
        if plain == "sdpa" and (asked := [name for name in NOT_IN_SDPA if kwargs.get(name) is not None]):
            raise PackedRowError(f"its attention asks for {asked[0]}")
        if not torch.compiler.is_compiling():
            layout.calls += 1
        call = _eager if plain == "eager" else _sdpa
        return packed_attention(module, query, key, value, layout, call, **options), None

    return attend


@contextmanager
def _named(config, plain: str):
    """FlashAttention's function looks up its kernel by the configuration's name: for the call, the plain one."""
    name, config._attn_implementation_internal = config._attn_implementation_internal, plain
    try:
        yield
    finally:
        config._attn_implementation_internal = name


def unsupported_reason(model) -> str:
    """Why `model` (without wrappers) cannot read packed rows, "" where nothing speaks against it."""
    text, name = model.config.get_text_config(), type(model).__name__
    plain = (text._attn_implementation or "").removeprefix(NAME)
    other = sorted(set(getattr(text, "layer_types", None) or []) - {"full_attention"})
    if "linear_attention" in other:
        return f"{name} has layers of linear attention, which carry a state along the row whatever the mask says"
    if other:
        return f"{name} has layers of {other[0].replace('_', ' ')}, which do not see the whole prefix"
    if not getattr(text, "layer_types", None) and getattr(text, "sliding_window", None):
        return f"{name} sees a sliding window of {text.sliding_window} tokens"
    if plain not in ("sdpa", "eager") and "flash" not in plain:
        return f"its attention {plain!r} takes no packed row: load the model with sdpa, eager or FlashAttention"
    if "flash" in plain and flash_attn_supports_top_left_mask():
        return "this version of flash-attn aligns its mask at the top left: install flash-attn 2.1 or newer"
    if not model._can_set_attn_implementation():
        return f"{name} does not look its attention up by name"
    return ""


def share(model) -> None:
    """Let the language layers of `model` (without wrappers) read packed rows; all else they compute as before."""
    text = model.config.get_text_config()
    plain = text._attn_implementation
    if not plain.startswith(NAME):
        AttentionInterface.register(NAME + plain, _attend(plain))
        AttentionMaskInterface.register(NAME + plain, ALL_MASK_ATTENTION_FUNCTIONS[plain])
        text._attn_implementation = NAME + plain


def unshare(model) -> None:
    """Give the language layers the name of their attention back."""
    text = model.config.get_text_config()
    text._attn_implementation = text._attn_implementation.removeprefix(NAME)


def placeholder(length: int, device) -> torch.Tensor:
    """In a mask's place: what no kernel can broadcast, so that one that is not told of a packed row fails at once."""
    return torch.empty(1, 1, length, 0, device=device)
