"""What the vision tower learns of frames in motion: for every cell of two frames, what stands there and the box of it.

A visual token of a video covers two frames, which a tower that has seen single images takes for one. A linear head on
its merged tokens asks each frame's 8×8 cells for themselves; the head is thrown away afterwards.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pr1kit.data.motion import Thing
from pr1kit.data.scenes import COLOURS, SHAPES
from pr1kit.models.tiny import MERGE, PATCH, WIDTH

PAIR = 2  # frames of a visual token


class ClipHead(nn.Module):
    """From merged video tokens `(N, width)` to each of their cells in each of two frames: shape, colour and a box."""

    sizes = (len(SHAPES) + 1, len(COLOURS), 4)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, MERGE * MERGE * PAIR * sum(self.sizes))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.linear(tokens).view(-1, sum(self.sizes)).split(self.sizes, dim=-1)  # each [cells · 2, size]


def clip_truth(things: list[Thing], front: np.ndarray) -> np.ndarray:
    """`(tokens · cells · 2, 6)`: shape (0 none), colour, and the object's box over the image's side, for the centre of
    every cell, in the order of the vision tower: pairs of frames, 2×2 blocks in raster order, frames of the pair.

    `front` (F, H, W) is the index of the foremost object at each pixel.
    """
    count, size = front.shape[:2]
    seen = front[:, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]  # [F, cells, cells]
    looks = np.array([[list(COLOURS).index(name) for name in thing.colours] for thing in things])  # [N, F]
    boxes = np.array([thing.boxes for thing in things]) / size  # [N, F, 4]
    shapes = np.array([SHAPES.index(thing.shape) + 1 for thing in things])
    frame = np.arange(count)[:, None, None]
    truth = np.zeros((*seen.shape, 6), np.float32)
    truth[..., 0] = np.where(seen >= 0, shapes[seen], 0)
    truth[..., 1] = looks[seen, frame]
    truth[..., 2:] = boxes[seen, frame]
    cells = seen.shape[1] // MERGE
    blocks = truth.reshape(count // PAIR, PAIR, cells, MERGE, cells, MERGE, 6)
    return blocks.transpose(0, 2, 4, 3, 5, 1, 6).reshape(-1, 6)


def clip_loss(head: ClipHead, tokens: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    shape, colour, box = head(tokens)
    seen = truth[:, 0] > 0
    return (
        F.cross_entropy(shape, truth[:, 0].long())
        + F.cross_entropy(colour[seen], truth[seen, 1].long())
        + 4 * F.l1_loss(box[seen], truth[seen, 2:])
    )
