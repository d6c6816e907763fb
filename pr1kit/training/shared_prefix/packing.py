"""Shared-prefix log-probabilities: one packed row per group instead of a whole row per completion.

In perception the prompt, most of it image, dwarfs the answer. A group of G completions of one prompt becomes one row

    [ prompt without its last token | branch 1 | … | branch G ],    branch j = last prompt token, then completion j

in which a branch sees the prompt and itself, and its positions go on from the prompt's (M-RoPE: all three axes). The
last prompt token stands at the head of every branch, so that each branch position predicts exactly one token. Nothing
is padded between branches, and the vision tower sees each image once.

Rows are those of TRL: `input_ids` (B, P + C), prompts padded on the left, completions on the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class PackedRows:
    """Groups packed for one forward pass; `n` groups, `L` the longest packed row.

    `input_ids` (n, L); `position_ids` (3, n, L); `branch` (n, L): 0 prompt, 1…G a completion, −1 padding at the end;
    `labels` (n, L): the token that a branch position predicts, −100 elsewhere.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    branch: torch.Tensor
    labels: torch.Tensor

    def mask(self, attention: str, dtype: torch.dtype):
        """Who sees whom, `(n, 1, L, L)`, in the form that this attention implementation of transformers takes."""
        if attention == "flex_attention":
            return self._block_mask()
        branch = self.branch
        causal = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril()
        sees = causal & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
        if attention == "sdpa":
            return sees[:, None]
        unseen = torch.zeros(sees.shape, dtype=dtype, device=branch.device)
        return unseen.masked_fill(~sees, torch.finfo(dtype).min)[:, None]

    def _block_mask(self):
        from torch.nn.attention.flex_attention import create_block_mask

        branch = self.branch

        def sees(row, _head, query, key):
            return (query >= key) & ((branch[row, key] == 0) | (branch[row, key] == branch[row, query]))

        n, length = branch.shape
        return create_block_mask(sees, n, None, length, length, device=branch.device)


def pack(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    completion_length: int,
    starts: Sequence[int],
    prompt_positions: torch.Tensor,
    vision_tokens: Sequence[int] = (),
) -> PackedRows:
    """Pack rows `(B, P + C)` into their groups; `prompt_positions` (3, groups, P) are those of the groups' prompts.

    `vision_tokens` stand for images in a prompt. In a completion they are mere words, which the model would take for
    images without pixels: as inputs they are replaced there, as labels they stay.
    """
    prompt_length = input_ids.shape[1] - completion_length
    answered = attention_mask[:, prompt_length:].sum(1).tolist()
    prompts = attention_mask[list(starts), :prompt_length].sum(1).tolist()
    ends = [*starts[1:], len(input_ids)]
    lengths = [p - 1 + sum(answered[a:b]) for p, a, b in zip(prompts, starts, ends, strict=True)]
    shape = (len(starts), max(lengths))
    row, column, branch, step = (np.zeros(shape, np.int64) for _ in range(4))
    branch -= 1
    for group, (start, end, prompt) in enumerate(zip(starts, ends, prompts, strict=True)):
        row[group, : prompt - 1] = start
        column[group, : prompt - 1] = np.arange(prompt_length - prompt, prompt_length - 1)
        branch[group, : prompt - 1] = 0
        at = prompt - 1
        for j in range(start, end):
            here = slice(at, at + answered[j])
            row[group, here] = j
            step[group, here] = np.arange(answered[j])
            column[group, here] = prompt_length - 1 + step[group, here]
            branch[group, here] = j - start + 1
            at += answered[j]
    row, column, branch, step = (torch.from_numpy(a).to(input_ids.device) for a in (row, column, branch, step))
    labels = input_ids[row, (column + 1).clamp(max=input_ids.shape[1] - 1)].masked_fill(branch <= 0, -100)
    groups = torch.arange(len(starts), device=input_ids.device)[:, None]
    packed = input_ids[row, column]
    no_image = (branch < 0) | ((branch > 0) & torch.isin(packed, packed.new_tensor(vision_tokens)))
    return PackedRows(
        input_ids=torch.where(no_image, input_ids[0, prompt_length - 1], packed),
        position_ids=prompt_positions[:, groups, column.clamp(max=prompt_length - 1)] + step,
        branch=branch,
        labels=labels,
    )


def unpack(values: torch.Tensor, packed: PackedRows, completion_mask: torch.Tensor) -> torch.Tensor:
    """Values at branch positions `(n, L)` back to completions `(B, C)`, 0 where `completion_mask` is 0."""
    zeros = torch.zeros(completion_mask.shape, dtype=values.dtype, device=values.device)
    return zeros.masked_scatter(completion_mask.bool(), values[packed.branch > 0])
