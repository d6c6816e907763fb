"""PerPO (arXiv 2502.04371): learn from ranked answers, with the reward as the margin; the offline sister of GRPO.

No rollouts while training: one pass over kept candidates. The N answers to a prompt go through the model as one packed
row, so that the image is seen once; the reference's log-probabilities are computed once, before the first step, and
kept with the candidates in the run's folder. For the losses see `preference_loss`. The released code weighs every
sample of a run by the rewards of one, and divides by zero where all are equal; here each list has its own weights.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate.utils import gather_object
from transformers import Trainer

from pr1kit.models.adapters import base_of, cast_adapters_and_freeze_tower, kept_in_float32
from pr1kit.models.inputs import model_inputs
from pr1kit.models.memory import MemoryEstimate, estimate_step
from pr1kit.models.policy import Policy
from pr1kit.training.candidates import Candidates, read_candidates, save_candidates, select_candidates
from pr1kit.training.preference_loss import compared, method_weights, preference_loss, preference_statistics
from pr1kit.training.preference_settings import TINY_PERPO, PerPOSettings
from pr1kit.training.resumable_run import WholeCheckpoints, train_in_folder
from pr1kit.training.shared_prefix.attention import unshare, unsupported_reason
from pr1kit.training.shared_prefix.logprobs import row_logprobs, shared_logprobs
from pr1kit.training.shared_prefix.self_check import EXACT, in_float32
from pr1kit.training.step_log import RunLog
from pr1kit.training.weights import weights_fingerprint

ADVICE = (
    "In this order: gradient_checkpointing=True (the same folder goes on), then lower num_candidates, max_pixels, LoRA "
    "instead of all weights (lora=True), 4-bit weights (quantization='4bit'): these make another run."
)


class PreferenceTrainer(WholeCheckpoints, Trainer):
    """transformers' `Trainer` over lists of candidates: the loss of a list from one packed row."""

    def __init__(self, policy: Policy, candidates: list[Candidates], settings: PerPOSettings, folder: Path, **kwargs):
        with kept_in_float32(policy.model):
            super().__init__(
                model=policy.model, train_dataset=candidates, data_collator=self._collate,
                processing_class=policy.processor, **kwargs,
            )  # fmt: skip
        cast_adapters_and_freeze_tower(policy.model, base_of(policy.model))
        self.policy, self.settings = policy, settings
        self._statistics: dict[str, list[float]] = defaultdict(list)
        self._shared = settings.shared_prefix and self._can_share(candidates[0])
        if settings.method != "best_of_n":
            self.train_dataset = self._with_reference(candidates, folder / "candidates.jsonl")

    def _collate(self, batch: list[Candidates]) -> dict:
        (candidates,) = batch
        lengths = [len(ids) for ids in candidates.token_ids]
        weights = method_weights(self.settings.method, candidates.rewards, self.settings.gamma)
        return {
            "prompt": dict(model_inputs(self.policy, [candidates.sample], candidates.thinking)),
            "answers": [torch.tensor(list(ids)) for ids in candidates.token_ids],
            "lengths": torch.tensor(lengths),
            "weights": torch.tensor(weights, dtype=torch.float32),
            "reference": torch.tensor(candidates.reference or [0.0] * len(lengths)),
        }

    def _logps(self, model, prompt, answers) -> torch.Tensor:
        """Log-probabilities of the answers, (N)."""
        return (shared_logprobs if self._shared else row_logprobs)(model, prompt, answers).sum(1)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        logps = self._logps(model, inputs["prompt"], inputs["answers"])
        reference, lengths, weights = inputs["reference"], inputs["lengths"], inputs["weights"]
        options = {"beta": self.settings.beta, "per_token": self.settings.per_token}
        loss = preference_loss(self.settings.method, logps, reference, lengths, weights, **options)
        if self.settings.method != "best_of_n":
            for name, value in preference_statistics(logps.detach(), reference, weights).items():
                self._statistics[name].append(value)
        return (loss, logps) if return_outputs else loss

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:  # every process is here
            for name, values in self._statistics.items():
                values = gather_object(values)
                logs[name] = sum(values) / len(values)
            self._statistics.clear()
        super().log(logs, *args, **kwargs)

    def create_optimizer(self, *args, **kwargs):
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.settings.vision_learning_rate is not None:
            tower = {id(weight) for name, weight in self.model.named_parameters() if "visual.blocks." in name}
            for group in list(optimizer.param_groups):
                own = [weight for weight in group["params"] if id(weight) in tower]
                group["params"] = [weight for weight in group["params"] if id(weight) not in tower]
                if own:
                    rate = self.settings.vision_learning_rate
                    optimizer.add_param_group({**group, "params": own, "lr": rate})
        return optimizer

    # Before the first step

    @torch.no_grad()
    def _logps_of(self, candidates: Candidates) -> torch.Tensor:
        """Log-probabilities (N) of the candidates, dropout off."""
        inputs, training = self._prepare_inputs(self._collate([candidates])), self.model.training
        self.model.eval()
        logps = self._logps(self.model, inputs["prompt"], inputs["answers"])
        self.model.train(training)
        return logps

    def _with_reference(self, candidates: list[Candidates], path: Path) -> list[Candidates]:
        """The candidates with the log-probabilities of the policy as it is now, kept in `path`.

        A run is resumed from the weights that it began with, or refused (`resumable_run`): this is its start.
        """
        weights, known = weights_fingerprint(self.model), candidates
        if path.exists():
            known = read_candidates(path, self.policy, [each.sample for each in candidates])
        if [_key(each) for each in known] != [_key(each) for each in candidates] or any(
            each.reference_weights != weights for each in known
        ):
            with self.accelerator.autocast():
                own = [(i, self._logps_of(candidates[i]).tolist()) for i in range(len(candidates))[self._share()]]
            found = dict(gather_object(own))
            known = [replace(each, reference=found[i]) for i, each in enumerate(candidates)]
        known = [
            replace(each, reference=one.reference, reference_weights=weights)
            for each, one in zip(candidates, known, strict=True)
        ]
        if self.is_world_process_zero():
            save_candidates(self.policy, known, path)
        return known

    def _share(self) -> slice:
        """Which of a list this process is to do."""
        return slice(self.accelerator.process_index, None, self.accelerator.num_processes)

    def _can_share(self, candidates: Candidates) -> bool:
        """Whether packed rows say what whole rows say, on two answers of a list; a warning says why not."""
        base = base_of(self.model)
        reason = unsupported_reason(base)
        if not reason:
            two, exact = candidates.only([0, 1]), not getattr(base, "is_loaded_in_8bit", False) and not self._sharded()
            with in_float32(base) if exact else nullcontext():
                self._shared = False
                rows = self._logps_of(two)
                self._shared = True
                difference = float((self._logps_of(two) - rows).abs().sum()) / sum(map(len, two.token_ids))
            if not difference <= (EXACT if exact else 0.1):
                reason = f"its log-probabilities differ by {difference:.2g} a token from those of whole rows"
        if reason:
            unshare(base)
            warnings.warn(f"Shared prefix is off: {reason}. Each answer encodes image and prompt itself.", stacklevel=3)
        return not reason


def _key(candidates: Candidates) -> tuple:
    return candidates.sample.id, _tokens(candidates)


def _tokens(candidates: Candidates) -> list[list[int]]:
    return [list(ids) for ids in candidates.token_ids]


def train_perpo(
    policy: Policy,
    candidates: Sequence[Candidates],
    folder: str | Path,
    settings: PerPOSettings = TINY_PERPO,
    *,
    resume: bool = True,
    bar=None,
    options: Mapping = {},
) -> list[dict]:
    """Train `policy` in place on ranked answers (see `candidates`); returns the log, one dict a step.

    `folder` gets `settings.json` (with how many lists were kept, and why others were not), `log.jsonl` (`loss`, and
    what `preference_statistics` tells), `candidates.jsonl` with the reference's log-probabilities, and checkpoints. The
    reference is the policy as it is: with fresh adapters, the adapters off. `options` are further ones of transformers'
    `TrainingArguments` (`report_to`, …). Raises ValueError where no list has a gap, and as `train_in_folder`.
    """
    kept, counts = select_candidates(candidates, min_gap=settings.min_gap, n=settings.num_candidates)
    if not kept:
        why = ", ".join(f"{name}: {count}" for name, count in counts.items() if count)
        raise ValueError(f"None of {len(candidates)} lists of candidates teaches anything ({why or 'there are none'}).")
    kept = [each.only(compared(settings.method, each.rewards)) for each in kept]
    settings = replace(settings, steps=settings.steps or -(-len(kept) // settings.prompts_per_step))
    folder, args = Path(folder), settings.config(folder, **options)
    digest = hashlib.sha256(json.dumps([[c.sample.id, list(c.rewards), _tokens(c)] for c in kept]).encode())
    identity = {**asdict(settings), "candidates": digest.hexdigest()[:16], "lists": counts}
    if settings.method == "best_of_n":
        identity["beta"] = 0.0  # nothing is measured to the start

    def trainer(log: RunLog) -> PreferenceTrainer:
        return PreferenceTrainer(policy, kept, settings, folder, args=args, callbacks=[log])

    samples = [each.sample for each in kept]
    return train_in_folder(policy, samples, identity, args, trainer, resume=resume, bar=bar, advice=ADVICE)


def estimate_perpo(policy: Policy, settings: PerPOSettings, frames: int = 1) -> MemoryEstimate:
    """The memory of one step on a loaded policy, largest images, or videos of so many `frames`, every candidate at its
    full length."""
    group = settings.num_candidates
    # the reference's log-probabilities are on disk
    return estimate_step(policy, settings, frames, num_generations=group, prompts_at_once=1, reference=False)
