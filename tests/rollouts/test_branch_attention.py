"""A decoding step's attention over shared and own keys gives what one over each branch's whole row gives."""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pr1kit.rollouts.branch_attention import OwnLayer, Prompts, attend


def cache_of(keys, values):
    return SimpleNamespace(layers=[SimpleNamespace(keys=keys, values=values)])


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    lengths=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    padded=st.booleans(),
    left=st.randoms(use_true_random=False),
)
def test_it_is_attention_over_the_whole_row_of_each_branch(counts, heads, lengths, padded, left):
    """Unequal groups, grouped heads, padded prompts, and after branches and whole prompts have gone."""
    torch.manual_seed(0)
    (h, h_kv), (p, t) = heads, lengths
    keys, values = torch.randn(2, len(counts), h_kv, p, 8, dtype=torch.float64)
    mask = torch.ones(len(counts), p, dtype=torch.long)
    if padded and p > 1:
        mask[0, : p // 2] = 0
    owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    query = torch.randn(len(owner), h, 1, 8, dtype=torch.float64)
    own_keys, own_values = torch.randn(2, len(owner), h_kv, t, 8, dtype=torch.float64)
    prompts = Prompts(cache_of(keys, values), mask, owner)

    def compare(rows):
        mine, _ = attend(
            SimpleNamespace(layer_idx=0), query[rows], own_keys[rows], own_values[rows], None, prompts, 8**-0.5
        )
        whole = [torch.cat([x[owner[rows]], own[rows]], 2) for x, own in ((keys, own_keys), (values, own_values))]
        sees = F.pad(mask[owner[rows]], (0, t), value=1).bool()[:, None, None]
        theirs = F.scaled_dot_product_attention(query[rows], *whole, attn_mask=sees, enable_gqa=True)
        assert torch.allclose(mine, theirs.transpose(1, 2), atol=1e-6)  # the softmax is float32

    rows = torch.arange(len(owner))
    compare(rows)
    while len(rows) > 1:
        kept = torch.tensor(sorted(left.sample(range(len(rows)), math.ceil(len(rows) / 2))))
        rows = rows[kept]
        prompts.keep(prompts.owner[kept])
        assert len(prompts.layers[0][0]) == len(owner[rows].unique())  # a prompt without branches is let go
        compare(rows)


def test_own_keys_grow_past_their_room_and_rows_are_taken_out():
    layer, steps, rows = OwnLayer(), torch.randn(2, 150, 3, 2, 1, 4), torch.arange(3)
    for step in range(150):
        if step == 70:
            rows = rows[[0, 2]]
            layer.batch_select_indices(torch.tensor([0, 2]))
        keys, values = layer.update(*steps[:, step, rows])
        for mine, expected in ((keys, steps[0]), (values, steps[1])):
            assert torch.equal(mine, expected[: step + 1, rows].squeeze(3).permute(1, 2, 0, 3))
