"""TRL's rows and two ways to their log-probabilities: TRL's own, and packed rows that share their prefix."""

from __future__ import annotations

import torch
from trl import GRPOTrainer

from pr1kit.training.shared_prefix.groups import IMAGE_FIELDS, group_starts, row_images
from pr1kit.training.shared_prefix.packing import PackedRows, pack, unpack


class LogProbs:
    """One batch of TRL's rows, and the two ways to their log-probabilities: `per_row` and `shared`.

    `starts` are the rows at which groups begin, `completion_mask` (B, C) the tokens that were answered.
    """

    def __init__(self, trainer, model, input_ids, attention_mask, logits_to_keep, compute_entropy, fields):
        self.trainer, self.model, self.compute_entropy, self.fields = trainer, model, compute_entropy, fields
        self.input_ids, self.attention_mask, self.length = input_ids, attention_mask, logits_to_keep
        self.completion_mask = attention_mask[:, -logits_to_keep:]
        self.starts = group_starts(input_ids[:, :-logits_to_keep], fields.get("num_images"))

    @classmethod
    def of_batch(cls, trainer, batch: dict) -> LogProbs:
        """The rows of a batch as the trainer's `_prepare_inputs` makes it, for its own model."""
        ids, mask = (
            torch.cat([batch[f"prompt_{kind}"], batch[f"completion_{kind}"]], dim=1) for kind in ("ids", "mask")
        )
        fields = {name: batch.get(name) for name in (*IMAGE_FIELDS, "num_images", "mm_token_type_ids")}
        return cls(trainer, trainer.model, ids, mask, batch["completion_ids"].shape[1], True, fields)

    def _images(self, rows) -> tuple[dict, list[int] | None]:
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
        fields = {
            name: value[rows.start : rows.stop] if torch.is_tensor(value) and name not in IMAGE_FIELDS else value
            for name, value in self.fields.items()
        }
        if self.fields.get("num_images") is not None and self.fields.get("image_grid_thw") is not None:
            images, fields["num_images"] = self._images(rows)
            fields |= dict.fromkeys(IMAGE_FIELDS) | images
        return GRPOTrainer._get_per_token_logps_and_entropies(
            self.trainer,
            self.model,
            self.input_ids[rows.start : rows.stop],
            self.attention_mask[rows.start : rows.stop],
            self.length,
            batch_size=batch_size,
            compute_entropy=self.compute_entropy,
            **fields,
        )

    def pack(self, rows: range) -> tuple[PackedRows, dict]:
        """These rows in their groups, and the images of each group once."""
        starts = [rows.start, *(start for start in self.starts if rows.start < start < rows.stop)]
        images, _ = self._images(starts)
        here = slice(rows.start, rows.stop)
        base = self.trainer._base(self.model)
        packed = pack(
            self.input_ids[here],
            self.attention_mask[here],
            self.length,
            [start - rows.start for start in starts],
            self._prompt_positions(base, starts, images),
            [base.config.image_token_id],
        )
        return packed, images

    def shared(self, rows: range) -> tuple[torch.Tensor, torch.Tensor | None]:
        """From a packed row for each group: `(log-probabilities, entropies or None)`, each (rows, C)."""
        packed, images = self.pack(rows)
        base = self.trainer._base(self.model)
        attention = base.config.get_text_config()._attn_implementation
        with self.trainer.accelerator.autocast():
            outputs = self.model(
                input_ids=packed.input_ids,
                attention_mask=packed.mask(attention, base.dtype),
                position_ids=packed.position_ids,
                shift_labels=packed.labels,
                fused_lm_head=True,
                **images,
            )
        mask = self.completion_mask[rows.start : rows.stop]
        entropies = unpack(outputs.entropy, packed, mask) if self.compute_entropy else None
        return unpack(outputs.log_probs, packed, mask), entropies

    def difference(self) -> torch.Tensor:
        """Mean absolute difference of both ways' log-probabilities on the first group, a scalar; 0 without tokens."""
        first = range([*self.starts, len(self.input_ids)][1])
        mask = self.completion_mask[: len(first)].bool()
        packed, stock = (path(first)[0][mask] for path in (self.shared, self.per_row))
        return (packed - stock).abs().float().mean() if mask.any() else torch.zeros((), device=mask.device)

    def _prompt_positions(self, base, starts, images) -> torch.Tensor:
        prompts, mask = self.input_ids[starts, : -self.length], self.attention_mask[starts, : -self.length]
        if not images:
            return (mask.cumsum(-1) - 1).clamp(min=0).expand(3, -1, -1)
        kinds = self.fields["mm_token_type_ids"][starts, : -self.length]
        return base.model.get_rope_index(prompts, kinds, image_grid_thw=images["image_grid_thw"], attention_mask=mask)[
            0
        ]
