"""How likely a policy finds answers that it is given: teacher forcing, batched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from pr1kit.data.sample import Sample
from pr1kit.models.inputs import model_inputs
from pr1kit.models.policy import Policy
from pr1kit.rollouts.generate import answers_at_once


@torch.no_grad()
def answer_logprobs(
    policy: Policy,
    samples: Sequence[Sample],
    answers: Sequence[Sequence[int]],
    *,
    batch_size: int | None = None,
    thinking: bool = False,
    progress: str = "",
) -> list[np.ndarray]:
    """For each sample the log-probability (nats) of every token of its answer, given its prompt and picture.

    `answers` are token ids, the end of sequence included where it is to count (`models.answers.answer_ids`). The same
    whatever the batch size, up to rounding; None takes as many rows as the free memory holds. Raises ValueError for an
    empty answer, and unless there are as many answers as samples.
    """
    if len(samples) != len(answers) or not all(len(answer) for answer in answers):
        raise ValueError(f"Each of {len(samples)} samples needs an answer of one token or more, got {len(answers)}.")
    model, found, was_training = policy.core, [], policy.core.training
    longest, frames = max(map(len, answers), default=1), max([2, *(len(sample.frames) for sample in samples)])
    at_once = batch_size or answers_at_once(policy, longest, frames=frames)
    words = [getattr(model.config, name, None) for name in ("image_token_id", "video_token_id")]
    model.eval()
    try:
        for start in tqdm(range(0, len(samples), at_once), desc=progress, disable=not progress, leave=False):
            inputs = model_inputs(policy, samples[start : start + at_once], thinking).to(model.device)
            own = [torch.tensor(list(answer)) for answer in answers[start : start + at_once]]
            said = pad_sequence(own, batch_first=True).to(model.device)  # (B, R)
            known = torch.arange(said.shape[1]) < torch.tensor([[len(answer)] for answer in own])
            pictures = torch.isin(said, said.new_tensor([word for word in words if word is not None]))
            read = torch.where(pictures, inputs["input_ids"][:, -1:], said)  # an answer that names them shows none
            inputs["input_ids"] = torch.cat([inputs["input_ids"], read], 1)
            inputs["attention_mask"] = torch.cat([inputs["attention_mask"], known.to(read)], 1)
            inputs["mm_token_type_ids"] = F.pad(inputs["mm_token_type_ids"], (0, said.shape[1]))
            logits = model(**inputs, use_cache=False, logits_to_keep=said.shape[1] + 1).logits[:, :-1].float()
            values = -F.cross_entropy(logits.flatten(0, 1), said.flatten(), reduction="none").view(said.shape).cpu()
            found += [row[kept].numpy() for row, kept in zip(values, known, strict=True)]
    finally:
        model.train(was_training)
    return found
