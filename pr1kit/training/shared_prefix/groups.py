"""Which rows of a batch are one group, and how groups stay whole on their way through TRL.

A group's rows stand together. Only its first row brings images; the others bring none (`num_images` 0), which TRL's
own splitting of batches understands. TRL knows no videos: it carries one as an image whose grid is as long as it has
pairs of frames (`ProcessedOnce`), and only where the model is called it gets its own names again (`LogProbs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from pr1kit.models.inputs import AS_IMAGES, Video, process

IMAGE_FIELDS = ("pixel_values", "image_grid_thw")


def gather_groups(inputs: list[dict], size: int, offset: int) -> tuple[list[dict], list[int]]:
    """Rows whose prompt and images equal the row before share its images; returns the rows and each row's group.

    TRL takes every `size` rows of all processes for one group (`offset` rows stand before these). Raises ValueError
    where the prompt changes within one: advantages would compare answers to different questions.
    """
    rows, groups = [], []
    for i, row in enumerate(inputs):
        group = groups[-1] + 1 if groups else 0
        if rows and all(_same(row.get(name), rows[-1].get(name)) for name in ("prompt", "image", "images")):
            row = row | {name: rows[-1][name] for name in ("image", "images") if name in row}
            group = groups[-1]
        elif rows and (offset + i) % size:
            raise ValueError(
                f"The prompt changes within a group of {size} rows: the sampler must give each prompt "
                f"{size} times in a row (num_generations), as TRL's own does."
            )
        rows.append(row)
        groups.append(group)
    return rows, groups


def _same(one, other) -> bool:
    return one is other or one == other  # pictures compare pixel by pixel


def group_starts(prompt_ids: torch.Tensor, num_images: Sequence[int] | None) -> list[int]:
    """The rows at which groups begin, for prompts `(B, P)` and the images that each row brings.

    A row that brings no image and repeats the prompt of the row before belongs to that row's group.
    """
    same = (prompt_ids[1:] == prompt_ids[:-1]).all(1).tolist()
    brings = num_images if num_images is not None else [0] * len(prompt_ids)
    return [0, *(i for i in range(1, len(prompt_ids)) if brings[i] or not same[i - 1])]


def row_images(rows: Sequence[int], starts: Sequence[int], num_images: Sequence[int], grid: torch.Tensor):
    """Where the images of each of `rows` lie: `(image indices, patch indices, images per row)`.

    A row without images of its own finds those of its group's first row. `grid` (images, 3) is `image_grid_thw`.
    """
    owner = np.repeat(starts, np.diff([*starts, len(num_images)]))
    first_image = [0, *accumulate(num_images)]
    first_patch = [0, *accumulate(grid.prod(-1).tolist())]
    images = [i for row in rows for i in range(first_image[owner[row]], first_image[owner[row] + 1])]
    patches = [torch.arange(first_patch[i], first_patch[i + 1]) for i in images]
    counts = [num_images[owner[row]] for row in rows]
    return torch.tensor(images, dtype=torch.long), torch.cat(patches) if patches else torch.arange(0), counts


def micro_batches(batch: dict, count: int) -> list[dict]:
    """A generation batch cut into `count` micro-batches in order; one that begins inside a group gets its images."""
    rows = split_pixel_values_by_grid(batch)
    parts = split_tensor_dict(rows, count)
    if "image_grid_thw" in batch:
        starts = group_starts(batch["prompt_ids"], batch["num_images"])
        size = len(batch["prompt_ids"]) // count
        for i, part in enumerate(parts):
            owner = max(start for start in starts if start <= i * size)
            for name in (*IMAGE_FIELDS, "num_images"):
                part[name] = [rows[name][owner], *part[name][1:]]
    return [unsplit_pixel_values_by_grid(part) for part in parts]


class VideosToo:
    """A processor for TRL, whose conversations show images: a `Video` in an image's place is processed as a video."""

    def __init__(self, processor):
        self._processor = processor

    def __getattr__(self, name):
        return getattr(self._processor, name)

    def __call__(self, images=None, text=None, **options):
        if images is None:
            return self._processor(text=text, **options)
        return process(self._processor, text, [image for of_row in images for image in of_row or []], **options)

    def apply_chat_template(self, conversation, tokenize=False, return_dict=True, **options):
        render = self._processor.apply_chat_template
        chats = conversation if isinstance(conversation[0], list) else [conversation]
        parts = [part for chat in chats for message in chat for part in message["content"] if isinstance(part, dict)]
        pictures = [part["image"] for part in parts if "image" in part]
        if not any(isinstance(picture, Video) for picture in pictures):
            return render(conversation, tokenize=tokenize, return_dict=return_dict, **options)
        texts = [render([_shown(message) for message in chat], tokenize=False, **options) for chat in chats]
        if tokenize:
            return process(self._processor, texts, pictures)
        return texts if chats is conversation else texts[0]


def _shown(message: dict) -> dict:
    """The message with its videos called so."""
    parts = message["content"]
    return message | {
        "content": [{"type": "video"} if isinstance(part.get("image"), Video) else part for part in parts]
    }


class ProcessedOnce(VideosToo):
    """The trainer's processor, which hands out the images that the rollout has already processed, videos as images."""

    def __init__(self, trainer):
        super().__init__(trainer.processing_class)
        self._trainer = trainer

    def __call__(self, images=None, text=None, **options):
        if images is None:
            return super().__call__(text=text, **options)
        rows, fields = self._trainer._group_of_row, self._trainer._fields
        if rows is None:
            each = dict(super().__call__(images, text, **options))
        else:
            each = {k: [v[group] for group in rows] if isinstance(v, list) else v for k, v in fields.items()}
        self._trainer._seconds = each.get("second_per_grid_ts")
        return self._trainer._left_padded({AS_IMAGES.get(name, name): value for name, value in each.items()})
