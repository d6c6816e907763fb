"""What a young vision tower learns from: for every cell of the picture, what stands there and the box of it.

Coordinate digits alone give a tower with relative positions hardly a gradient. A linear head on its merged tokens asks
each 8×8 cell directly; the head is thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pr1kit.data.boxes import area
from pr1kit.data.sample import Target
from pr1kit.data.scenes import COLOURS, CONSONANTS, SHAPES, VOWELS, Scene
from pr1kit.models.tiny import IMAGE_SIZE, MERGE, PATCH, WIDTH

LETTERS = sorted(CONSONANTS + VOWELS)
CELLS = IMAGE_SIZE // PATCH


SCENE_SIZES = (len(SHAPES) + 1, len(COLOURS), len(LETTERS) + 1, 4)  # shape, colour, letter logits and a box


class DenseHead(nn.Module):
    """From merged image tokens `(N, width)` to each of its 8×8 cells: logits of so many classes, and the box last."""

    def __init__(self, sizes: tuple[int, ...] = SCENE_SIZES):
        super().__init__()
        self.sizes = sizes
        self.linear = nn.Linear(WIDTH, MERGE * MERGE * sum(sizes))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.linear(tokens).view(-1, sum(self.sizes)).split(self.sizes, dim=-1)  # each [cells, size]


def dense_truth(scene: Scene) -> np.ndarray:
    """`(cells, 7)`: shape (0 none), colour, letter (0 none), and the object's box over the image's side, for the
    centre of every cell, in the order of the vision tower (2×2 blocks in raster order)."""
    truth = np.zeros((CELLS, CELLS, 7), np.float32)
    centre = (np.arange(CELLS) + 0.5) * PATCH
    for box, colour, shape in zip(scene.boxes, scene.colours, scene.shapes, strict=True):
        columns = (centre > box[0]) & (centre < box[2])
        rows = (centre > box[1]) & (centre < box[3])
        truth[np.ix_(rows, columns)] = [SHAPES.index(shape) + 1, list(COLOURS).index(colour), 0, *(box / IMAGE_SIZE)]
    for x1, y1, x2, y2, code in scene.glyphs if scene.glyphs is not None else ():
        columns = (centre >= x1) & (centre < x2)
        rows = (centre >= y1) & (centre < y2)
        truth[np.ix_(rows, columns)] = [0, 0, LETTERS.index(chr(int(code))) + 1, 0, 0, 0, 0]
    return _in_blocks(truth)


def dense_truth_of(target: Target, classes: Sequence[str]) -> np.ndarray:
    """`(cells, 5)`: class (0 none) and box over the image's sides, for the centre of every cell, in the tower's order.

    Where objects overlap the smallest is seen.
    """
    truth, sides = np.zeros((CELLS, CELLS, 5), np.float32), np.array(target.image_size * 2, float)
    centre = (np.arange(CELLS) + 0.5) / CELLS
    for i in np.argsort(-area(target.boxes), kind="stable"):
        box = target.boxes[i] / sides
        columns, rows = ((centre > box[k]) & (centre < box[k + 2]) for k in (0, 1))
        truth[np.ix_(rows, columns)] = [classes.index(target.labels[i]) + 1, *box]
    return _in_blocks(truth)


def _in_blocks(truth: np.ndarray) -> np.ndarray:
    """Rows of a picture's cells `(CELLS, CELLS, D)` as the tower has them, `(cells, D)`."""
    blocks = truth.reshape(CELLS // MERGE, MERGE, CELLS // MERGE, MERGE, -1)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(-1, truth.shape[-1])


def dense_loss(head: DenseHead, tokens: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    shape, colour, letter, box = head(tokens)
    seen = truth[:, 0] > 0
    return (
        F.cross_entropy(shape, truth[:, 0].long())
        + F.cross_entropy(letter, truth[:, 2].long())
        + F.cross_entropy(colour[seen], truth[seen, 1].long())
        + 4 * F.l1_loss(box[seen], truth[seen, 3:])
    )


def object_loss(head: DenseHead, tokens: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The loss of a head of `(classes + 1, 4)` on `dense_truth_of`."""
    kind, box = head(tokens)
    seen = truth[:, 0] > 0
    return F.cross_entropy(kind, truth[:, 0].long()) + 4 * F.l1_loss(box[seen], truth[seen, 1:])
