"""Reflective Perceptual Learning: dialogues from worse to better, taught by likelihood and unlikelihood at once.

The loss of RePer (arXiv 2504.07165, section 3): for the answer y_t of each turn, σ_t in [0, 1] its normalised reward,

    L = − Σ_t  σ_t · log π(y_t | o_t)  +  α · (1 − σ_t) · log(1 − π(y_t | o_t))

What the user says is masked. The paper leaves open whether log(1 − π) is taken of each token or of the whole answer:

    token   Σ over tokens k of log(1 − π(y_tk)): every token of a bad answer becomes less likely, its brackets as well
    answer  log(1 − Π over tokens k of π(y_tk)): nearly 0, with its gradient, unless the whole answer is likely

Both are divided by the number of trained tokens, so that σ = 1 is supervised fine-tuning exactly.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import Trainer

from pr1kit.models.adapters import kept_in_float32
from pr1kit.models.policy import Policy
from pr1kit.rollouts.dialogue_rows import collate
from pr1kit.rollouts.reflection import Dialogue
from pr1kit.training.reper_settings import TINY_REPER, ReperSettings
from pr1kit.training.resumable_run import WholeCheckpoints, train_in_folder
from pr1kit.training.step_log import RunLog

CLOSEST = 1e-6  # a log-probability nearer to 0 counts as −1e-6: float32 cannot tell such tokens from certain ones


def reflective_losses(
    logps: torch.Tensor, sigma: torch.Tensor, turns: torch.Tensor, alpha: float = 10.0, per: str = "token"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two parts of the loss, summed: (− Σ σ log π, − α Σ (1 − σ) log(1 − π)); both are at least 0.

    Shapes: `logps` (N,) log-probabilities of the trained tokens, `sigma` (N,) the reward in [0, 1] of the answer to
    which each belongs, `turns` (N,) the number of that answer, from 0. Computed in float32, finite for log π <= 0.

    >>> half = torch.tensor([0.5, 0.25]).log()
    >>> likely, unlikely = reflective_losses(half, torch.tensor([1.0, 0.0]), torch.tensor([0, 1]), alpha=2.0)
    >>> round(likely.item(), 4), round(unlikely.item(), 4)  # −log 0.5, −2 log 0.75
    (0.6931, 0.5754)
    """
    logps, sigma = logps.float(), sigma.float()
    likelihood = -(sigma * logps).sum()
    if per == "answer":
        answers, turns = turns.unique(return_inverse=True)
        zeros = logps.new_zeros(len(answers))
        logps, sigma = zeros.index_add(0, turns, logps), zeros.scatter(0, turns, sigma)
    return likelihood, -alpha * ((1 - sigma) * log1mexp(logps)).sum()


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 − e^x) for x <= 0, without loss of digits at either end (Mächler, 2012); x nearer to 0 than 1e-6 is −1e-6.

    >>> [round(value, 4) for value in log1mexp(torch.tensor([math.log(0.25), -1.0, 0.0])).tolist()]
    [-0.2877, -0.4587, -13.8155]
    """
    x = x.clamp(max=-CLOSEST)
    near = x > -math.log(2)
    # each branch sees numbers at which it and its gradient are finite, also where the other is taken
    close = torch.log(-torch.expm1(torch.where(near, x, -1.0)))
    return torch.where(near, close, torch.log1p(-torch.exp(torch.where(near, -1.0, x))))


class ReperTrainer(WholeCheckpoints, Trainer):
    """transformers' trainer with the reflective loss; logs both of its parts and the mean σ of the trained tokens."""

    def __init__(self, *args, alpha: float, per: str, **kwargs):
        super().__init__(*args, **kwargs)
        self.alpha, self.per = alpha, per
        self.model_accepts_loss_kwargs = True  # the loss is divided by the tokens of all micro-batches of a step
        self._sums = torch.zeros(4)  # likelihood, unlikelihood, σ, tokens since the last log

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        sigma, turns, labels = (inputs.pop(name)[:, 1:] for name in ("sigma", "turns", "labels"))
        trained = labels != -100  # (B, L - 1), whether the next token is one that the policy wrote
        first = int(trained.any(0).int().argmax())
        outputs = model(**inputs, logits_to_keep=trained.shape[1] + 1 - first, use_cache=False)
        logits = outputs.logits[:, :-1][trained[:, first:]]  # (N, V)
        logps = -F.cross_entropy(logits.float(), labels[trained], reduction="none")
        parts = reflective_losses(logps, sigma[trained], turns[trained], self.alpha, self.per)
        tokens = trained.sum() if num_items_in_batch is None else num_items_in_batch
        with torch.no_grad():
            self._sums += torch.stack([*parts, sigma[trained].sum(), trained.sum()]).float().cpu()
        loss = sum(parts) / tokens
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            likelihood, unlikelihood, sigma, tokens = self._sums.tolist()
            tokens = max(tokens, 1)
            logs |= {"likelihood": likelihood / tokens, "unlikelihood": unlikelihood / tokens, "sigma": sigma / tokens}
            self._sums.zero_()
        super().log(logs, *args, **kwargs)


def train_reper(
    policy: Policy,
    dialogues: Sequence[Dialogue],
    folder: str | Path,
    settings: ReperSettings = TINY_REPER,
    *,
    resume: bool = True,
    bar=None,
    options: Mapping = {},
) -> list[dict]:
    """Train `policy` in place on `dialogues` (see `make_dialogues`), each turn by its `score`; returns the log.

    A turn without a score counts as 1: it is taught. A dialogue that is longer than the model's context loses its
    earliest turns, then the end of its only one. `options` are further ones of transformers' `TrainingArguments`.
    `folder`, `resume` and errors as in `train_grpo`; no dialogue at all is a ValueError that says what became of them,
    where `dialogues.statistics` know.
    """
    if not dialogues:
        counts = getattr(dialogues, "statistics", {})
        words = ", ".join(f"{name} {value}" for name, value in counts.items() if value)
        raise ValueError(f"There are no dialogues to train on{f' ({words})' if words else ''}.")
    if bad := [t.score for d in dialogues for t in d.turns if t.score is not None and not 0 <= t.score <= 1]:
        raise ValueError(f"The score of a turn is a reward normalised to [0, 1], got {bad[0]!r}.")
    settings = replace(settings, steps=settings.steps or -(-len(dialogues) // settings.batch_size))
    args = settings.config(folder, **options)
    samples = [dialogue.sample for dialogue in dialogues]
    said = json.dumps([[(t.completion, t.score, t.words) for t in d.turns] for d in dialogues])
    identity = {
        "method": "reper",
        "task": sorted({sample.task for sample in samples}),
        "dialogues": hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        **asdict(settings),
    }

    def trainer(log: RunLog) -> ReperTrainer:
        with kept_in_float32(policy.model):
            return ReperTrainer(
                model=policy.model,
                args=args,
                train_dataset=list(dialogues),
                data_collator=lambda rows: collate(policy, rows, settings.thinking),
                processing_class=policy.processor,
                callbacks=[log],
                alpha=settings.alpha,
                per=settings.per,
            )

    return train_in_folder(policy, samples, identity, args, trainer, resume=resume, bar=bar)
