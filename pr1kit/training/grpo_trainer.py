"""`PerceptionGRPOTrainer`: TRL's `GRPOTrainer`, with the image seen once per group and every group logged.

TRL trains; what is overridden of it (TRL 1.16; `tests/test_trl_contract.py` says when that is no longer true):

- `__init__`: checks at the door;
- `_prepare_inputs`: groups stay whole, where TRL shuffles rows across the micro-batches of a step;
- `_generate_and_score_completions`: which rows are one group, videos as images, other `advantages`, `redraw`, and
  the rollout log;
- `_tokenize_prompts`, `_generate_single_turn`: prompts and images processed once per group, branches decoded together;
- `_get_per_token_logps_and_entropies`: log-probabilities and entropies from packed rows (`shared_prefix`);
- `_get_train_sampler`: a run resumed after its first epoch sees the data in the order of one that was not cut off;
- `_compute_loss`: another estimator of the KL term than TRL's (`kl_estimator`);
- `_save_checkpoint`, `_get_output_dir`, `_load_from_checkpoint`: checkpoints count when they are whole, and are resumed
  from whole, see `resumable_run.WholeCheckpoints`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import pad

from pr1kit.models.adapters import cast_adapters_and_freeze_tower, is_quantized, kept_in_float32
from pr1kit.models.backends import check_trainable
from pr1kit.models.inputs import Video
from pr1kit.models.policy import check_padding
from pr1kit.models.vllm import require_vllm, send_prompts_whole
from pr1kit.rollouts.branch_attention import KeywordsNotPassed
from pr1kit.rollouts.branched_decoding import branches, can_branch
from pr1kit.rollouts.generate import to_end
from pr1kit.rollouts.log import log_groups
from pr1kit.training.advantages import set_advantages
from pr1kit.training.kl import IN_REWARD, kl_per_token
from pr1kit.training.redraw import redraw
from pr1kit.training.resumable_run import WholeCheckpoints
from pr1kit.training.shared_prefix.attention import unshare, unsupported_reason
from pr1kit.training.shared_prefix.groups import ProcessedOnce, gather_groups, micro_batches
from pr1kit.training.shared_prefix.logprobs import WORTHWHILE, LogProbs, vision_tokens
from pr1kit.training.shared_prefix.self_check import find_disagreement


class PerceptionGRPOTrainer(WholeCheckpoints, GRPOTrainer):
    """TRL's `GRPOTrainer` for vision-language policies: takes what it takes, and

    `shared_prefix`: encode image and prompt once per group, at rollout, for the policy and for the reference; the same
    numbers as TRL's own path (which `False` takes). The first group is computed both ways: where they differ by more
    than rounding, or the model, the data or an option does not allow sharing, a warning says why and TRL's path is
    taken. SDPA, FlashAttention and eager attention stay as they are.
    `rollout_log`: a file that gets one JSON line for each group, written before the update: `step`, `id`, `frame`,
    `prompt`, `completions` and their `token_ids`, `rewards`, `advantages`, and `parts` (name to G values).
    `reference`: weights to which the KL term is measured, by default the policy's own at this moment.
    `kl_estimator`: of the KL term, see `kl`; another than TRL's "k3" wants TRL's options `loss_type="grpo"` and
    `use_bias_correction_kl=False`.
    `scale_per_task`: divide advantages by the running spread of their task's rewards (the column `task`), in the place
    of TRL's `scale_rewards`; a resumed run goes on with the spreads of its checkpoint.
    `dynamic_sampling`: up to so many times, draw groups whose rewards are all equal again, see `redraw`.

    Raises ValueError where the processor pads on the right, the data lack a column that the rewards need, the rows of
    a group do not stand together, or an option does not go with another.
    """

    def __init__(
        self,
        *args,
        shared_prefix: bool = True,
        rollout_log: str | Path | None = None,
        kl_estimator: str = "k3",
        scale_per_task: bool = False,
        dynamic_sampling: int = 0,
        reference: Mapping[str, torch.Tensor] | None = None,
        **kwargs,
    ):
        if (options := kwargs.get("args")) is not None and options.use_vllm:
            require_vllm("4-bit or 8-bit" if is_quantized(kwargs["model"]) else None)
        if (processor := kwargs.get("processing_class")) is not None and hasattr(processor, "tokenizer"):
            check_padding(processor)
        _check_columns(kwargs.get("train_dataset"), kwargs.get("reward_funcs") or [])
        with kept_in_float32(kwargs.get("model", args[0] if args else None)):
            super().__init__(*args, **kwargs)
        if self.beta:
            self._set_reference(reference)
        self.kl_estimator, self.scale_per_task, self.dynamic_sampling = kl_estimator, scale_per_task, dynamic_sampling
        self._check_options()
        cast_adapters_and_freeze_tower(self.model, self._base(self.model))
        check_trainable(self.model)
        if self.use_vllm:
            send_prompts_whole(self.vllm_generation, self._base(self.model).config.image_token_id)
        self.rollout_log = Path(rollout_log) if rollout_log else None
        self.shared_prefix = shared_prefix
        self._checked, self._group_of_row, self._fields = False, None, {}
        self._seconds = None  # of each row's video, from one pair of frames to the next, where its family wants them
        if shared_prefix and (obstacle := self._unsupported_reason()):
            self._disable_shared_prefix(obstacle)

    def _check_options(self) -> None:
        kl_per_token(torch.zeros(1), self.kl_estimator)
        if self.kl_estimator != "k3" and (self.loss_type != "grpo" or self.args.use_bias_correction_kl):
            raise ValueError('A KL estimator other than "k3" needs loss_type="grpo" and use_bias_correction_kl=False.')
        own = self.scale_per_task or self.kl_estimator == IN_REWARD
        if own and self.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                'A scale per task and KL in the reward need multi_objective_aggregation="sum_then_normalize".'
            )
        indexed = hasattr(self.train_dataset, "__len__") and hasattr(self.train_dataset, "__getitem__")
        if self.dynamic_sampling and (self.accelerator.num_processes > 1 or not indexed):
            raise ValueError("Dynamic sampling needs one process and a dataset with a length.")

    @torch.no_grad()
    def _set_reference(self, weights: Mapping[str, torch.Tensor] | None) -> None:
        """What the KL term is measured to: `weights` (see `weights.trained_weights`), or the policy as it is now."""
        base = self._base(self.model)
        if self.ref_model is None:  # adapters: TRL copies the one that there is, or switches it off
            for name, value in self.model.named_parameters():
                if weights is not None and ".ref." in name:
                    value.copy_(weights[name.replace(".ref.", ".default.")])
        elif not self._sharded():  # TRL reads the model's path again, and that may hold other weights
            self._base(self.ref_model).load_state_dict(base.state_dict() if weights is None else weights)

    # What can be shared

    def _unsupported_reason(self) -> str:
        if self.tools or self.environment_factories or self.rollout_func is not None:
            return "tools, environments and custom rollouts make rows of their own"
        base = self._base(self.model)
        if self.aux_loss_enabled:
            return "a load-balancing loss counts the tokens of whole rows"
        if not (reason := unsupported_reason(base)) and not can_branch(base):
            return f"{type(base).__name__} does not tell M-RoPE positions (get_rope_index)"
        return reason

    def _disable_shared_prefix(self, why: str) -> None:
        self.shared_prefix = False
        for model in filter(None, (self.model, self.ref_model)):
            unshare(self._base(model))
        warnings.warn(
            f"Shared prefix is off: {why}. Each of the {self.num_generations} rows of a group now encodes image and "
            "prompt itself, which costs up to that many times more.",
            stacklevel=3,
        )

    def _base(self, model):
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "peft_config") else model

    # Groups

    def _prepare_inputs(self, generation_batch):
        steps = self.args.steps_per_generation
        if not (self.model.training and self.shared_prefix):
            return super()._prepare_inputs(generation_batch)
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = micro_batches(self._generate_and_score_completions(generation_batch), steps)
        return self._buffered_inputs[self._step % steps]

    def _generate_and_score_completions(self, inputs):
        batch = self.draw(inputs)
        return redraw(self, batch) if self.dynamic_sampling and self.model.training else batch

    def draw(self, inputs: list[dict]) -> dict:
        """A group of rollouts for each prompt of these rows, scored, logged and with their advantages."""
        self._group_of_row, processor = None, self.processing_class
        if self.shared_prefix:
            size = self.num_generations if self.model.training else self.num_generations_eval
            inputs, self._group_of_row = gather_groups(inputs, size, self.accelerator.process_index * len(inputs))
        if self.shared_prefix or isinstance(inputs[0].get("image"), Video):
            self.processing_class = ProcessedOnce(self)
        try:
            outputs = super()._generate_and_score_completions(inputs)
        finally:
            self.processing_class = processor
        if self._seconds is not None:
            outputs["second_per_grid_ts"] = torch.as_tensor(self._seconds, device=self.accelerator.device)
        if not self.model.training:
            return outputs
        # in the order of processes, as TRL's own logs
        about = [{"id": row.get("id", ""), "frame": row.get("frame"), "task": row.get("task", "")} for row in inputs]
        rows = gather_object(about)
        set_advantages(self, outputs, [row.pop("task") for row in rows])
        if self.rollout_log:
            answers = zip(outputs["completion_ids"], outputs["completion_mask"].bool(), strict=True)
            tokens = gather_object([row[answered].tolist() for row, answered in answers])
            if self.accelerator.is_main_process:
                step, name = self.state.global_step + 1, self.reward_func_names[0]
                log_groups(self.rollout_log, self._logs, name, self.num_generations, step, rows, tokens)
        return outputs

    # Rollouts

    def _tokenize_prompts(self, prompts):
        if self._group_of_row is None:
            return super()._tokenize_prompts(prompts)
        starts = np.unique(self._group_of_row, return_index=True)[1]
        prompt_ids, images, self._fields = super()._tokenize_prompts([prompts[i] for i in starts])
        if images is not None:  # the first row of a group brings its images, the others none
            brings = [[] for _ in prompts]
            for start, of_group in zip(starts, images, strict=True):
                brings[start] = of_group or []
            images = brings
        return [prompt_ids[group] for group in self._group_of_row], images, self._fields

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, *args, **kwargs):
        if "video_grid_thw" in multimodal_fields:  # a sampled video token would mismatch the features, as an image's
            self.generation_config.suppress_tokens = vision_tokens(self._base(self.model), multimodal_fields)
        if self._group_of_row is None or self.use_vllm:
            if self._group_of_row is not None:
                starts = np.unique(self._group_of_row, return_index=True)[1]
                images = images and [images[starts[group]] for group in self._group_of_row]
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, *args, **kwargs
            )
        starts, counts = np.unique(self._group_of_row, return_index=True, return_counts=True)[1:]
        prompts = [prompt_ids[i] for i in starts]
        inputs = {"input_ids": prompts, "attention_mask": [[1] * len(ids) for ids in prompts], **multimodal_fields}
        inputs = self._left_padded(inputs)
        length = inputs["input_ids"].shape[1]
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            options = inputs | {"generation_config": self.generation_config}
            try:
                decode = branches(counts.tolist(), synced=self._sharded())
                tokens = model.generate(**options, custom_generate=decode)
            except KeywordsNotPassed as error:
                self._disable_shared_prefix(str(error))
                tokens = model.generate(**options, num_return_sequences=int(counts.max()))
                tokens = tokens[torch.cat([torch.arange(n) + i * counts.max() for i, n in enumerate(counts)])]
        return [to_end(row, self.eos_token_ids) for row in tokens[:, length:].tolist()], None

    def _left_padded(self, fields: dict) -> dict:
        """What the processor made of the prompts as tensors on the device, lists of token lists padded on the left."""
        blank, device = {"input_ids": self._tokenizer.pad_token_id}, self.accelerator.device
        return {
            name: torch.as_tensor(value).to(device)
            if not isinstance(value, list) or not isinstance(value[0], list)
            else pad([torch.tensor(v) for v in value], padding_value=blank.get(name, 0), padding_side="left").to(device)
            for name, value in fields.items()
        }

    # Log-probabilities

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids,
        attention_mask,
        logits_to_keep,
        batch_size=None,
        compute_entropy=False,
        compute_aux_loss=False,
        **fields,
    ):
        if self._seconds is not None:
            fields["second_per_grid_ts"] = torch.as_tensor(self._seconds, device=input_ids.device)
        results = self._logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss, **fields
        )
        if self.kl_estimator != "k3":
            self._logps = results[0]
        return results

    def _logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss, **fields
    ):
        rows = LogProbs(self, model, input_ids, attention_mask, logits_to_keep, compute_entropy, fields)
        if self._group_of_row is None and rows.video:
            return rows.per_row(range(len(input_ids)), batch_size)
        if self._group_of_row is None:
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **fields,
            )
        if not self._checked:
            self._checked = True
            self._check(model, rows)
        # given up with a batch whose rows share their images, or answers so long that little is saved
        if not self.shared_prefix or rows.saving < WORTHWHILE:
            return rows.per_row(range(len(input_ids)), batch_size)
        size = batch_size or len(input_ids)
        parts = [rows.shared(range(i, min(i + size, len(input_ids)))) for i in range(0, len(input_ids), size)]
        logps, entropies = (torch.cat(part) if part[0] is not None else None for part in zip(*parts, strict=True))
        return logps, entropies, None

    def _compute_loss(self, model, inputs):
        self._seconds = inputs.get("second_per_grid_ts")
        loss = super()._compute_loss(model, inputs)
        if self.beta == 0.0 or self.kl_estimator == "k3":
            return loss
        log_ratio, mask = self._logps - inputs["ref_per_token_logps"], inputs["completion_mask"]
        other = kl_per_token(log_ratio, self.kl_estimator) - kl_per_token(log_ratio, "k3")
        per_answer = (other * mask).sum(-1) / mask.sum(-1).clamp(min=1)
        steps = self.current_gradient_accumulation_steps if self.model.training else 1
        return loss + self.beta * per_answer.mean() / steps

    def _check(self, model, rows) -> None:
        """Both paths on the first group: a model or a backend that reads packed rows otherwise is not trained so."""
        training = model.training
        model.eval()  # dropout would differ
        try:
            reason = find_disagreement(rows, exact=not self._sharded())
        finally:
            model.train(training)
        if reason:
            self._disable_shared_prefix(reason)

    # Checkpoints

    def _get_train_sampler(self, dataset=None):
        sampler = super()._get_train_sampler(dataset)

        def set_epoch(epoch):  # transformers calls it; TRL's own sampler draws a resumed run's first order again
            if sampler.shuffle:
                sampler.generator.manual_seed(sampler.seed)
                for _ in range(epoch):
                    torch.randperm(sampler.num_samples, generator=sampler.generator)

        sampler.set_epoch = set_epoch
        return sampler


def _check_columns(data, rewards) -> None:
    """Raises ValueError where training data lack a column that the prompt or a reward function needs."""
    if data is None or data.column_names is None:
        return
    rewards = rewards if isinstance(rewards, list) else [rewards]
    needed = [("prompt",), ("image", "images"), *(names for f in rewards for names in getattr(f, "columns", ()))]
    if missing := [" or ".join(names) for names in needed if not set(names) & set(data.column_names)]:
        has = ", ".join(data.column_names)
        raise ValueError(f"The training data lack the column {', '.join(missing)}: they have {has}.")
