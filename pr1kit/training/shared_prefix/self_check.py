"""Does this model read packed rows as TRL's? Both ways on the first group, in float32 and as they will be trained."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import chain

import torch
import torch.nn.functional as F

from pr1kit.training.shared_prefix.attention import PackedRowError, unshare
from pr1kit.training.shared_prefix.logprobs import LogProbs, packed_inputs

EXACT = 1e-4  # mean difference of log-probabilities that rounding in float32 explains
NOISE = 3.0  # how much farther from the reference than the stock path the shared one may be
LOW = (torch.bfloat16, torch.float16)


def find_disagreement(rows: LogProbs, exact: bool = True) -> str:
    """Why this model's packed rows cannot be trusted, "" where they can; the same on every process.

    `exact` as in `differences`; weights in 8 bits are never compared in float32. Raises torch.OutOfMemoryError.
    """
    base, accelerator, reason = rows.trainer._base(rows.model), rows.trainer.accelerator, ""
    exact = exact and not getattr(base, "is_loaded_in_8bit", False)
    try:
        try:
            difference, allowed = differences(rows, exact)
        except torch.OutOfMemoryError:  # float32 takes twice the memory
            difference, allowed = differences(rows, exact=False)
    except torch.OutOfMemoryError:
        raise
    except PackedRowError as error:
        difference, allowed, reason = float("inf"), 1.0, str(error)
    except Exception as error:  # whatever a foreign model or kernel makes of a packed row
        difference, allowed, first_line = float("inf"), 1.0, str(error).partition("\n")[0]
        reason = f"{type(base).__name__} cannot read packed rows ({type(error).__name__}: {first_line})"
    pairs = torch.tensor([[difference, allowed]], device=accelerator.device)
    difference, allowed = max(accelerator.gather(pairs).tolist(), key=lambda pair: pair[0] / pair[1])
    if difference <= allowed:
        return ""
    return reason or (
        f"on the first group its log-probabilities differ from TRL's by {difference:.2g} on average "
        f"(rounding explains {allowed:.2g})"
    )


@torch.no_grad()
def differences(rows: LogProbs, exact: bool = True) -> tuple[float, float]:
    """How far packed rows are from TRL's on the first group: `(mean absolute difference, what is allowed)`.

    Where the weights can be float32 for a moment (`exact`), a difference in positions or in what is seen is compared
    in float32. Then, where training runs in fewer bits, the packed row may be as far from the float32 values as the
    stock path is, `NOISE` times; without float32 (8-bit or sharded weights), as far as the stock path is from itself
    with the embeddings changed in their last bit. The worse of the two is returned. No tokens: no difference.
    """
    first = range([*rows.starts, len(rows.input_ids)][1])
    mask = rows.completion_mask[: len(first)].bool()
    base, results = rows.trainer._base(rows.model), [(0.0, EXACT)]
    if not mask.any():
        return results[0]

    def mean(one, other):
        return (one - other)[mask].abs().float().mean().item()

    low = rows.trainer.args.bf16 or rows.trainer.args.fp16 or base.dtype in LOW
    if exact:
        with in_float32(base):
            reference = _stock_float32(rows, base, first)
            results.append((mean(_shared_float32(rows, base, first), reference), EXACT))
    if low or not exact:
        stock, shared = rows.per_row(first)[0], rows.shared(first)[0]
        if not exact:
            with last_bits_changed(base):
                reference, stock = stock, rows.per_row(first)[0]
        results.append((mean(shared, reference), EXACT + NOISE * mean(stock, reference)))
    return max(results, key=lambda pair: pair[0] / pair[1] if pair[0] == pair[0] else float("inf"))


def _stock_float32(rows: LogProbs, base, which: range) -> torch.Tensor:
    images = rows.pictures(which)
    kinds = rows.fields.get("mm_token_type_ids")
    fields = images if kinds is None else images | {"mm_token_type_ids": kinds[which.start : which.stop]}
    ids, mask = (x[which.start : which.stop] for x in (rows.input_ids, rows.attention_mask))
    hidden = base.base_model(input_ids=ids, attention_mask=mask, **fields, use_cache=False).last_hidden_state
    return torch.stack(
        [_score(base, h, i[-rows.length :]) for h, i in zip(hidden[:, -rows.length - 1 : -1], ids, strict=True)]
    )


def _shared_float32(rows: LogProbs, base, which: range) -> torch.Tensor:
    packed, images = rows.pack(which)
    hidden = base.base_model(**packed_inputs(base, packed), **images, use_cache=False).last_hidden_state[0]
    values = torch.zeros_like(rows.completion_mask[: len(which)], dtype=torch.float32)
    for j in range(len(which)):  # an answer at a time: its logits are as wide as the vocabulary
        here = packed.branch[0] == j + 1
        values[j, : here.sum()] = _score(base, hidden[here], packed.labels[0, here])
    return values


def _score(base, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability of each of `tokens` (N) from the hidden state before it (N, D)."""
    return -F.cross_entropy(base.get_output_embeddings()(hidden).float(), tokens, reduction="none")


@contextmanager
def last_bits_changed(base):
    """The embeddings of the tokens one last bit up and down in turn: what rounding alone may do to any value."""

    def change(_, __, out):
        signs = torch.arange(out.shape[-1], device=out.device) % 2 * 2 - 1
        return out * (1 + signs * torch.finfo(low_dtype).eps).to(out.dtype)

    autocast = torch.get_autocast_dtype(base.device.type)
    low_dtype = base.dtype if base.dtype in LOW else autocast
    handle = base.get_input_embeddings().register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def in_float32(model):
    """The model's floating-point weights in float32, on kernels that take them, and afterwards to the bit as before."""
    low = [t for t in chain(model.parameters(), model.buffers()) if t.dtype in LOW]
    kinds = [t.dtype for t in low]
    layers = [m for m in model.modules() if getattr(m, "compute_dtype", None) in LOW]  # 4-bit: what they multiply in
    multiplied = [m.compute_dtype for m in layers]
    configs = [c for c in (model.config.get_text_config(), getattr(model.config, "vision_config", None)) if c]
    names, precision = [c._attn_implementation for c in configs], torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        for tensor in low:
            tensor.data = tensor.data.float()
        for layer in layers:
            layer.compute_dtype = torch.float32
        if any("flash" in name for name in names):  # FlashAttention has no float32
            unshare(model)
            for config in configs:
                config._attn_implementation = "sdpa"
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for tensor, dtype in zip(low, kinds, strict=True):
            tensor.data = tensor.data.to(dtype)
        for layer, dtype in zip(layers, multiplied, strict=True):
            layer.compute_dtype = dtype
        for config, name in zip(configs, names, strict=True):
            config._attn_implementation = name
