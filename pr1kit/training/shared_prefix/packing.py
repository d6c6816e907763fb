"""A packed row: one row for each batch of groups instead of a whole row per completion.

In perception the prompt, most of it image, dwarfs the answer. Groups of completions become one row

    [ prefix 1 | … | prefix n | branch 1 of group 1 | … | branch G of group n ]

where a prefix is a prompt without its last token and a branch that token, then a completion. A branch sees its prefix
and itself, and its positions go on from the prompt's (M-RoPE: all three axes). As the last prompt token stands at the
head of every branch, each branch position predicts exactly one token. Nothing is padded, and the vision tower sees each
image once.

Rows are those of TRL: `input_ids` (B, P + C), prompts padded on the left, completions on the right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

QUERIES = 256  # rows of the mask where a kernel needs one: longer branches are read in blocks


class Layout:
    """Where the prefixes and the branches of several groups stand in one row of `length` tokens.

    First all prefixes, then all branches, group by group; `prefixes` (n) and `branches` (n lists) are their lengths.
    `buckets` are groups of one shape, which one call computes; a branch shorter than the longest of its bucket is
    padded at the end, where causality hides it. `index` (N) takes the row to the padded pieces, `inverse` (length)
    takes them back, both None where that changes nothing.
    """

    def __init__(self, prefixes: Sequence[int], branches: Sequence[Sequence[int]], device):
        self.prefixes, self.branches, self.device, self.calls = list(prefixes), [list(b) for b in branches], device, 0
        lengths = [*self.prefixes, *(r for group in self.branches for r in group)]
        self.length = sum(lengths)
        self._starts = [0, *accumulate(lengths)]
        self._first_branch = [len(self.prefixes), *(len(self.prefixes) + i for i in accumulate(map(len, branches)))]
        by_shape = defaultdict(list)
        for group, (prefix, own) in enumerate(zip(self.prefixes, self.branches, strict=True)):
            by_shape[prefix, len(own)].append(group)
        self.buckets = []  # (groups, P, G, R)
        pieces = []
        for (prefix, count), groups in by_shape.items():
            longest = max(r for group in groups for r in self.branches[group])
            self.buckets.append((len(groups), prefix, count, longest))
            pieces += [(group, prefix) for group in groups]
            pieces += [
                (self._first_branch[group] + j, longest) for group in groups for j in range(len(self.branches[group]))
            ]
        places = [
            torch.arange(width).where(torch.arange(width) < lengths[i], -1 - self._starts[i]) + self._starts[i]
            for i, width in pieces
        ]
        index = torch.cat(places)  # −1 where padded
        kept = index >= 0
        inverse = torch.empty(self.length, dtype=torch.long)
        inverse[index[kept]] = torch.arange(len(index))[kept]
        same = len(index) == self.length and bool((index == torch.arange(len(index))).all())
        self.index = None if same else index.clamp(min=0).to(device)
        self.inverse = None if same else inverse.to(device)
        self.kept = None if same else kept.to(device)
        self._masks: dict = {}
        self._varlen: tuple | None = None

    def mask(self, prefix: int, steps: int, dtype: torch.dtype) -> torch.Tensor:
        """What is added to the scores of the last `steps` queries, `(rows, prefix + steps)`: 0 or the least number."""
        rows = min(steps, QUERIES)
        if (prefix, steps, dtype) not in self._masks:
            full = torch.full((rows, prefix + steps), torch.finfo(dtype).min, dtype=dtype, device=self.device)
            self._masks[prefix, steps, dtype] = full.triu(prefix + steps - rows + 1)
        return self._masks[prefix, steps, dtype]

    def varlen(self) -> tuple[torch.Tensor, dict]:
        """For kernels of sequences without padding: which keys stand behind one another, and where each begins.

        Queries need no index: the row is already the prefixes, then the branches.
        """
        if self._varlen is None:
            queries, keys, places = [], [], []
            owners = [(g, None) for g in range(len(self.prefixes))]
            owners += [(g, self._first_branch[g] + j) for g, own in enumerate(self.branches) for j in range(len(own))]
            for group, branch in owners:
                prefix = torch.arange(self.prefixes[group]) + self._starts[group]
                own = prefix[:0] if branch is None else torch.arange(*self._starts[branch : branch + 2])
                count = len(prefix) if branch is None else len(own)
                if count:  # nothing is asked of an empty prefix or branch
                    queries.append(count)
                    places.append(torch.cat([prefix, own]))
                    keys.append(len(places[-1]))
            ends = [
                torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=self.device)
                for lengths in (queries, keys)
            ]
            lengths = {"max_length_q": max(queries), "max_length_k": max(keys)}
            lengths |= {"cu_seq_lens_q": ends[0], "cu_seq_lens_k": ends[1]}
            self._varlen = torch.cat(places).to(self.device), lengths
        return self._varlen


@dataclass(frozen=True)
class PackedRow:
    """Groups packed for one forward pass, `L` tokens.

    `input_ids` (1, L); `position_ids` (3, 1, L), or (1, L) where positions have one axis; `branch` (1, L): 0 prefix,
    1…B the completion; `labels` (1, L): the token that a branch position predicts, −100 elsewhere.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    branch: torch.Tensor
    labels: torch.Tensor
    layout: Layout


def pack(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    completion_length: int,
    starts: Sequence[int],
    prompt_positions: torch.Tensor,
    vision_tokens: Sequence[int] = (),
) -> PackedRow:
    """Pack rows `(B, P + C)` into one; `prompt_positions` ([3,] groups, P) are those of the groups' prompts.

    `vision_tokens` stand for images in a prompt. In a completion they are mere words, which the model would take for
    images without pixels: as inputs they are replaced there, as labels they stay.
    """
    end, device = input_ids.shape[1] - completion_length, input_ids.device
    answered = attention_mask[:, end:].sum(1).tolist()
    prefixes = [n - 1 for n in attention_mask[list(starts), :end].sum(1).tolist()]
    sizes = np.diff([*starts, len(input_ids)])
    group = np.concatenate(
        [
            np.repeat(np.arange(len(starts)), prefixes),
            np.repeat(np.arange(len(starts)), [sum(answered[a : a + n]) for a, n in zip(starts, sizes, strict=True)]),
        ]
    )
    branch = np.concatenate([np.zeros(sum(prefixes), int), np.repeat(np.arange(1, len(input_ids) + 1), answered)])
    step = np.concatenate([np.zeros(sum(prefixes), int), *map(np.arange, answered)]).astype(int)
    column = np.concatenate([*(np.arange(end - 1 - n, end - 1) for n in prefixes), end - 1 + step[sum(prefixes) :]])
    row = np.where(branch > 0, branch - 1, np.asarray(starts)[group])
    row, column, branch, step, group = (
        torch.from_numpy(x.astype(int)).to(device) for x in (row, column, branch, step, group)
    )
    packed = input_ids[row, column]
    labels = input_ids[row, (column + 1).clamp(max=input_ids.shape[1] - 1)].masked_fill(branch == 0, -100)
    word = (branch > 0) & torch.isin(packed, packed.new_tensor(vision_tokens))
    return PackedRow(
        input_ids=torch.where(word, input_ids[0, end - 1], packed)[None],
        position_ids=(prompt_positions[..., group, column.clamp(max=end - 1)] + step).unsqueeze(-2),
        branch=branch[None],
        labels=labels[None],
        layout=Layout(prefixes, [answered[a : a + n] for a, n in zip(starts, sizes, strict=True)], device),
    )


def unpack(values: torch.Tensor, packed: PackedRow, completion_mask: torch.Tensor) -> torch.Tensor:
    """Values at branch positions `(1, L)` back to completions `(B, C)`, 0 where `completion_mask` is 0."""
    zeros = torch.zeros(completion_mask.shape, dtype=values.dtype, device=values.device)
    return zeros.masked_scatter(completion_mask.bool(), values[packed.branch > 0])
