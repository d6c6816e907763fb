"""Dynamic sampling: groups whose answers earn the same teach nothing, and are drawn again from other prompts.

DAPO (arXiv 2503.14476, section 3.2) draws until a batch is full of groups with a spread; here that is tried a bounded
number of times, and what is still without a spread then stays in the batch with its advantages of 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import pad
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from pr1kit.rewards.groups import EQUAL


def have_spread(rewards: Sequence[float], size: int) -> np.ndarray:
    """`(N / size,)` bool: which groups of `size` rewards, one after another, are not all equal.

    >>> have_spread([0.5, 0.5, 0.0, 1.0], 2).tolist()
    [False, True]
    """
    groups = np.asarray(rewards, float).reshape(-1, size)
    return np.nanmax(groups, 1) - np.nanmin(groups, 1) > EQUAL


def other_prompts(count: int, size: int, *seed: int) -> list[int]:
    """`count` of the indices below `size`, the same for the same `seed`; none twice where there are enough."""
    return np.random.default_rng(seed).choice(size, count, replace=count > size).tolist()


def split_groups(batch: dict, size: int) -> list[dict]:
    """A batch as TRL's trainer has scored it, cut into its groups of `size` rows."""
    return split_tensor_dict(split_pixel_values_by_grid(batch), len(batch["prompt_ids"]) // size)


def join_groups(groups: Sequence[dict], blank: int) -> dict:
    """Groups of one or several batches as one batch; prompts are padded with `blank` on the left, answers on the right.

    >>> one, two = (
    ...     {f"{part}_{kind}": torch.tensor([tokens]) for part in ("prompt", "completion") for kind in ("ids", "mask")}
    ...     for tokens in ([5], [7, 8])
    ... )
    >>> joined = join_groups([one, two], 0)
    >>> joined["prompt_ids"].tolist(), joined["completion_ids"].tolist()
    ([[0, 5], [7, 8]], [[5, 0], [7, 8]])
    """
    widths = [max(group[name].shape[1] for group in groups) for name in ("prompt_ids", "completion_ids")]
    fitted = [_fit(group, *widths, blank) for group in groups]
    joined: dict = {}
    for name, value in fitted[0].items():
        values = [group[name] for group in fitted]
        if isinstance(value, list):
            joined[name] = [row for rows in values for row in rows]
        elif isinstance(value, torch.Tensor) and value.ndim:
            joined[name] = torch.cat(values)
    joined["num_items_in_batch"] = joined["completion_mask"].sum()
    return unsplit_pixel_values_by_grid(joined)


def _fit(group: dict, prompt: int, completion: int, blank: int) -> dict:
    """The group's rows with prompts of `prompt` tokens and answers of `completion`."""
    own, answers = (group[name].shape[1] for name in ("prompt_ids", "completion_ids"))
    left, right = (prompt - own, 0), (0, completion - answers)
    fitted = {}
    for name, value in group.items():
        if isinstance(value, torch.Tensor) and value.ndim == 2:
            fill = blank if name in ("prompt_ids", "completion_ids") else 0
            if name.startswith("prompt_"):
                value = pad(value, left, value=fill)
            elif name.endswith("token_type_ids"):  # of prompt and answer
                value = torch.cat([pad(value[:, :own], left), pad(value[:, own:], right)], 1)
            elif value.shape[1] == answers:  # not: one number for an answer
                value = pad(value, right, value=fill)
        fitted[name] = value
    return fitted


def redraw(trainer, batch: dict) -> dict:
    """`batch`, as `trainer` has just drawn and scored it, with its groups without a spread replaced.

    Up to `trainer.dynamic_sampling` times. The step's metrics stay those of the first draw, which alone says how good
    the policy is; added are `redrawn`, the groups drawn again, and `without_spread`, those of the batch that still are.
    """
    metrics, size, redrawn = trainer._metrics["train"], trainer.num_generations, 0
    lengths = {name: len(values) for name, values in metrics.items()}
    groups, live = split_groups(batch, size), have_spread(trainer.drawn_rewards, size)
    for attempt in range(trainer.dynamic_sampling):
        dead = np.flatnonzero(~live)
        given_up = trainer.shared_prefix != (trainer._group_of_row is not None)  # since: rows of two kinds do not mix
        if not len(dead) or given_up:
            break
        data, redrawn = trainer.train_dataset, redrawn + len(dead)
        chosen = other_prompts(len(dead), len(data), trainer.args.seed, trainer.state.global_step, attempt)
        fresh = split_groups(trainer.draw([row for i in chosen for row in [data[i]] * size]), size)
        good = np.flatnonzero(have_spread(trainer.drawn_rewards, size))
        for place, new in zip(dead, good, strict=False):
            groups[place], live[place] = fresh[new], True
    for name, values in metrics.items():
        del values[lengths.get(name, 0) :]
    metrics["redrawn"].append(redrawn)
    metrics["without_spread"].append(int((~live).sum()))
    return join_groups(groups, trainer._tokenizer.pad_token_id)
