"""Log-probabilities of several answers to one prompt, from packed rows: for any model, and for TRL's batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from trl import GRPOTrainer

from pr1kit.models.adapters import base_of
from pr1kit.models.inputs import AS_IMAGES
from pr1kit.training.shared_prefix.attention import placeholder, share, unsupported_reason
from pr1kit.training.shared_prefix.groups import IMAGE_FIELDS, group_starts, row_images
from pr1kit.training.shared_prefix.packing import PackedRow, pack, unpack


def shared_logprobs(
    model: torch.nn.Module, prompt: Mapping, answers: Sequence, *, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probability of every token of G answers to one prompt, the prompt and its images read once; differentiable.

    `prompt` is what the processor (or a tokenizer) makes of one prompt: `input_ids` (1, P), `attention_mask`, and for
    images and videos `mm_token_type_ids`, their pixels and their grids. `answers` are G sequences of token ids, of any
    lengths, the end of sequence included where it is to count. Returns (G, R) float32, R the longest, 0 beyond an
    answer's end; logits are divided by `temperature`. With dropout off it equals a forward pass for each answer up to
    rounding. Raises ValueError for a model that cannot read packed rows (sliding windows, linear attention, …), for
    several prompts, and for no answers. Prefix Grouper (arXiv 2506.05433) computes attention the same way.

    >>> inputs = policy.processor(text=[text], images=[image], return_tensors="pt")  # doctest: +SKIP
    >>> shared_logprobs(policy.model, inputs, [[40, 11, 7], [40, 2]]).shape  # doctest: +SKIP
    torch.Size([2, 3])
    """
    base = base_of(extract_model_from_parallel(model, keep_torch_compile=False))
    if reason := unsupported_reason(base):
        raise ValueError(f"The prompt cannot be shared: {reason}.")
    ids, fields, rows, answered = _one_prompt(prompt, answers)
    packed = _pack(base, ids, fields, rows, answered)
    fields.pop("mm_token_type_ids", None)
    places = (packed.branch[0] > 0).nonzero()[:, 0]
    outputs = model(**packed_inputs(base, packed), **fields, logits_to_keep=places, use_cache=False)
    if 0 < packed.layout.calls < base.config.get_text_config().num_hidden_layers:  # compiled layers are not counted
        raise ValueError(f"The prompt cannot be shared: not every layer of {type(base).__name__} reads packed rows.")
    values = -F.cross_entropy(outputs.logits[0].float() / temperature, packed.labels[0, places], reduction="none")
    return torch.zeros(rows.shape, device=ids.device).masked_scatter(answered, values)


def pack_answers(model: torch.nn.Module, prompt: Mapping, answers: Sequence) -> PackedRow:
    """The row of one prompt and G answers to it that `shared_logprobs` reads, to be looked at.

    `prompt` and `answers` as there. `input_ids` and `branch` are (1, N): 0 where the prefix stands, then 1 to G;
    `position_ids` (3, 1, N) for M-RoPE, (1, N) for a model of text alone; `labels` the token that each place predicts.
    """
    base = base_of(extract_model_from_parallel(model, keep_torch_compile=False))
    return _pack(base, *_one_prompt(prompt, answers))


def _pack(base: torch.nn.Module, ids, fields: Mapping, rows, answered) -> PackedRow:
    plain = torch.ones_like(ids)
    return pack(
        torch.cat([ids.expand(len(rows), -1), rows], 1),
        torch.cat([plain.expand(len(rows), -1), answered.long()], 1),
        rows.shape[1],
        [0],
        prompt_positions(base, ids, plain, fields.get("mm_token_type_ids"), fields),
        vision_tokens(base, fields),
    )


def row_logprobs(
    model: torch.nn.Module, prompt: Mapping, answers: Sequence, *, temperature: float = 1.0
) -> torch.Tensor:
    """As `shared_logprobs`, from a whole row of prompt and answer for each of the G: for every model, at G times the
    cost of the prompt."""
    ids, fields, rows, answered = _one_prompt(prompt, answers)
    base = base_of(extract_model_from_parallel(model, keep_torch_compile=False))
    kinds = fields.pop("mm_token_type_ids", None)
    words = rows.masked_fill(torch.isin(rows, rows.new_tensor(vision_tokens(base, fields))), int(ids[0, -1]))
    fields = {name: value.repeat(len(rows), *[1] * (value.dim() - 1)) for name, value in fields.items()}
    if kinds is not None:
        fields["mm_token_type_ids"] = torch.cat([kinds.expand(len(rows), -1), torch.zeros_like(rows)], 1)
    outputs = model(
        input_ids=torch.cat([ids.expand(len(rows), -1), words], 1),
        attention_mask=torch.cat([torch.ones_like(ids).expand(len(rows), -1), answered.long()], 1),
        **fields,
        logits_to_keep=rows.shape[1] + 1,
        use_cache=False,
    )
    logits = outputs.logits[:, :-1].float() / temperature
    values = -F.cross_entropy(logits.flatten(0, 1), rows.flatten(), reduction="none").view(rows.shape)
    return values * answered


def _one_prompt(prompt: Mapping, answers: Sequence) -> tuple[torch.Tensor, dict, torch.Tensor, torch.Tensor]:
    """The prompt's ids (1, P) without padding, its other fields, the answers (G, R), and where they are not padding."""
    fields = dict(prompt)
    ids, mask = fields.pop("input_ids"), fields.pop("attention_mask", None)
    answers = [torch.as_tensor(answer, dtype=torch.long, device=ids.device).flatten() for answer in answers]
    if len(ids) != 1 or not answers:
        raise ValueError(f"One prompt and at least one answer are needed, got {len(ids)} and {len(answers)}.")
    if mask is not None and not mask.all():
        ids, fields = (
            ids[:, mask[0].bool()],
            {k: v[:, mask[0].bool()] if k == "mm_token_type_ids" else v for k, v in fields.items()},
        )
    rows = torch.nn.utils.rnn.pad_sequence(answers, batch_first=True)
    answered = torch.arange(rows.shape[1], device=ids.device) < torch.tensor([[len(a)] for a in answers]).to(ids.device)
    return ids, fields, rows, answered


def packed_inputs(base: torch.nn.Module, packed: PackedRow) -> dict:
    """What a model is called with to read a packed row; its language layers are made ready for it."""
    share(base)
    length = packed.input_ids.shape[1]
    return {
        "input_ids": packed.input_ids,
        "attention_mask": placeholder(length, packed.input_ids.device),
        "position_ids": packed.position_ids,
        "shared_prefix": packed.layout,
    }


def prompt_positions(base: torch.nn.Module, ids, mask, kinds, fields: Mapping) -> torch.Tensor:
    """Positions of prompts `(n, P)`, padded or not: (3, n, P) for M-RoPE, (n, P) for a model of text alone."""
    grids = {name: fields[name] for name in GRIDS if fields.get(name) is not None}
    plain = (mask.cumsum(-1) - 1).clamp(min=0)
    if not hasattr(base.base_model, "get_rope_index"):
        return plain
    if not grids:
        return plain.expand(3, -1, -1)
    return base.base_model.get_rope_index(ids, kinds, **grids, attention_mask=mask)[0]


def vision_tokens(base: torch.nn.Module, fields: Mapping) -> list[int]:
    """The tokens that stand for an image's patches, and a video's where there is one; none for a model of text."""
    names = ("image_token_id", *(["video_token_id"] if fields.get("video_grid_thw") is not None else []))
    return [token for name in names if (token := getattr(base.config, name, None)) is not None]


GRIDS = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")  # where positions come from, besides the tokens
WORTHWHILE = 1.05  # times fewer tokens: with less, a packed row's two attention calls cost what they save


class LogProbs:
    """One batch of TRL's rows, and the two ways to their log-probabilities: `per_row` and `shared`.

    `starts` are the rows at which groups begin, `completion_mask` (B, C) the tokens that were answered.
    """

    def __init__(self, trainer, model, input_ids, attention_mask, logits_to_keep, compute_entropy, fields):
        self.trainer, self.model, self.compute_entropy, self.fields = trainer, model, compute_entropy, fields
        self.input_ids, self.attention_mask, self.length = input_ids, attention_mask, logits_to_keep
        self.completion_mask = attention_mask[:, -logits_to_keep:]
        self.starts = group_starts(input_ids[:, :-logits_to_keep], fields.get("num_images"))

    @property
    def saving(self) -> float:
        """How many times fewer tokens packed rows have than TRL's, padding included."""
        prompts = self.attention_mask[self.starts, : -self.length].sum()
        return self.input_ids.numel() / int(prompts + self.completion_mask.sum())

    @classmethod
    def of_batch(cls, trainer, batch: dict) -> LogProbs:
        """The rows of a batch as the trainer's `_prepare_inputs` makes it, for its own model."""
        ids, mask = (
            torch.cat([batch[f"prompt_{kind}"], batch[f"completion_{kind}"]], dim=1) for kind in ("ids", "mask")
        )
        names = (*IMAGE_FIELDS, "num_images", "mm_token_type_ids", "second_per_grid_ts")
        fields = {name: batch.get(name) for name in names}
        return cls(trainer, trainer.model, ids, mask, batch["completion_ids"].shape[1], True, fields)

    @cached_property
    def video(self) -> bool:
        """Whether what TRL carries as images are videos: their tokens say so."""
        kinds = self.fields.get("mm_token_type_ids")
        return kinds is not None and bool((kinds == 2).any())

    def pictures(self, rows) -> dict:
        """The images or videos of these rows as the model takes them, each row with its own copy."""
        images, _ = self.images(rows)
        return self._as_videos(images, rows) if self.video else images

    def _as_videos(self, images: dict, rows) -> dict:
        fields = {video: images[name] for video, name in AS_IMAGES.items()}
        if (seconds := self.fields.get("second_per_grid_ts")) is not None:
            fields["second_per_grid_ts"] = seconds[list(rows)]
        return fields

    def images(self, rows) -> tuple[dict, list[int] | None]:
        """`pixel_values` and `image_grid_thw` of these rows, each with its own copy, and how many each has."""
        if self.fields.get("image_grid_thw") is None:
            return {}, self.fields.get("num_images")
        grid, pixels = self.fields["image_grid_thw"], self.fields["pixel_values"]
        images, patches, counts = row_images(rows, self.starts, self.fields["num_images"], grid)
        if not len(images):
            return {}, counts
        return {"pixel_values": pixels[patches.to(pixels.device)], "image_grid_thw": grid[images]}, counts

    def per_row(self, rows: range, batch_size=None):
        """TRL's own way, a whole row for each completion."""
        if self.video and batch_size and batch_size < len(rows):
            starts = range(rows.start, rows.stop, batch_size)
            parts = [self.per_row(range(start, min(start + batch_size, rows.stop))) for start in starts]
            return tuple(None if part[0] is None else torch.cat(part) for part in zip(*parts, strict=True))
        fields = {
            name: value[rows.start : rows.stop] if torch.is_tensor(value) and name not in IMAGE_FIELDS else value
            for name, value in self.fields.items()
            if name != "second_per_grid_ts"
        }

        def read(pixel_values, image_grid_thw, **inputs):
            images = {"pixel_values": pixel_values, "image_grid_thw": image_grid_thw}
            return self.model(**self._as_videos(images, rows), **inputs)

        if self.fields.get("num_images") is not None and self.fields.get("image_grid_thw") is not None:
            images, fields["num_images"] = self.images(rows)
            fields |= dict.fromkeys(IMAGE_FIELDS) | images
        return GRPOTrainer._get_per_token_logps_and_entropies(
            self.trainer,
            read if self.video else self.model,
            self.input_ids[rows.start : rows.stop],
            self.attention_mask[rows.start : rows.stop],
            self.length,
            batch_size=batch_size,
            compute_entropy=self.compute_entropy,
            **fields,
        )

    def pack(self, rows: range) -> tuple[PackedRow, dict]:
        """These rows in their groups, and the images of each group once."""
        starts = [rows.start, *(start for start in self.starts if rows.start < start < rows.stop)]
        images = self.pictures(starts)
        here = slice(rows.start, rows.stop)
        base, prompts = self.trainer._base(self.model), (starts, slice(None, -self.length))
        kinds = self.fields.get("mm_token_type_ids")
        kinds = None if kinds is None else kinds[prompts]
        packed = pack(
            self.input_ids[here],
            self.attention_mask[here],
            self.length,
            [start - rows.start for start in starts],
            prompt_positions(base, self.input_ids[prompts], self.attention_mask[prompts], kinds, images),
            vision_tokens(base, images),
        )
        return packed, images

    def shared(self, rows: range) -> tuple[torch.Tensor, torch.Tensor | None]:
        """From one packed row of all groups: `(log-probabilities, entropies or None)`, each (rows, C)."""
        packed, images = self.pack(rows)
        inputs = packed_inputs(self.trainer._base(self.model), packed)
        with self.trainer.accelerator.autocast():
            outputs = self.model(**inputs, **images, shift_labels=packed.labels, fused_lm_head=True)
        mask = self.completion_mask[rows.start : rows.stop]
        entropies = unpack(outputs.entropy, packed, mask) if self.compute_entropy else None
        return unpack(outputs.log_probs, packed, mask), entropies
