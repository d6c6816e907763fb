"""Rollouts: several sampled answers to each question, scored and set against their group.

A group is the `G` answers to one prompt; for an answer's advantage see `advantages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import psutil
import torch
from tqdm.auto import tqdm

from pr1kit.data.sample import Sample
from pr1kit.models.inputs import model_inputs
from pr1kit.models.policy import Policy
from pr1kit.rewards.groups import group_advantages
from pr1kit.rewards.parsing import END
from pr1kit.rewards.results import Rollout
from pr1kit.rewards.score import Recipe, score_batch
from pr1kit.rollouts.branch_attention import KeywordsNotPassed
from pr1kit.rollouts.branched_decoding import branches, can_branch


def generate_completions(
    policy: Policy,
    samples: Sequence[Sample],
    *,
    num_generations: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 128,
    batch_size: int | None = None,
    thinking: bool = False,
    repetition_penalty: float = 1.0,
    keep_special_tokens: bool = False,
    progress: str = "",
) -> list[list[str]]:
    """Texts of `num_generations` answers to each sample, see `generate_tokens`; `keep_special_tokens` leaves box tokens
    in, but no end or padding."""
    decode = policy.processor.batch_decode
    tokens = generate_tokens(
        policy,
        samples,
        num_generations=num_generations,
        temperature=temperature,
        seed=seed,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        thinking=thinking,
        repetition_penalty=repetition_penalty,
        progress=progress,
    )
    groups = [decode(group, skip_special_tokens=not keep_special_tokens) for group in tokens]
    if keep_special_tokens:
        return [[END.split(text, maxsplit=1)[0] for text in group] for group in groups]
    return groups


@torch.no_grad()
def generate_tokens(
    policy: Policy,
    samples: Sequence[Sample],
    *,
    num_generations: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 128,
    batch_size: int | None = None,
    thinking: bool = False,
    repetition_penalty: float = 1.0,
    first: int = 0,
    progress: str = "",
) -> list[list[list[int]]]:
    """Token ids of `num_generations` answers to each sample, greedy at temperature 0, as training's rollouts are.

    An answer ends with its end of sequence, unless it was cut off before.

    A checkpoint's own sampling settings (Qwen2.5-VL files: repetition penalty 1.05) are not used, as training does not.
    `batch_size` counts answers; None takes as many as the free memory holds, 256 at most. The same seed gives the same
    answers on the same device, whatever the batch size, up to rounding: a sample's random numbers follow from the seed
    and its place, counted from `first`.
    """
    model = policy.core
    sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    sampling["repetition_penalty"] = repetition_penalty
    frames = max([2, *(len(sample.frames) for sample in samples)])
    at_once = batch_size or answers_at_once(policy, max_new_tokens, num_generations, frames)
    prompts_at_once = max(1, at_once // num_generations)
    answers: list[list[list[int]]] = []
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        starts = range(0, len(samples), prompts_at_once)
        for start in tqdm(starts, desc=progress, disable=not progress, leave=False):
            batch = samples[start : start + prompts_at_once]
            inputs = model_inputs(policy, batch, thinking).to(model.device)
            options = {**inputs, "max_new_tokens": max_new_tokens, "do_sample": temperature > 0, **sampling}
            tokens = None
            if can_branch(model):
                shape, places = (num_generations, max_new_tokens), range(first + start, first + start + len(batch))
                chances = [np.random.default_rng([seed, place]).random(shape, np.float32) for place in places]
                draws = torch.from_numpy(np.concatenate(chances)).to(model.device)
                with suppress(KeywordsNotPassed):
                    tokens = model.generate(**options, custom_generate=branches(num_generations, draws=draws))
            if tokens is None:
                different = num_generations if temperature > 0 else 1
                tokens = model.generate(**options, num_return_sequences=different)
                tokens = tokens.repeat_interleave(num_generations // different, 0)
            rows = [to_end(row, ends) for row in tokens[:, inputs["input_ids"].shape[1] :].tolist()]
            answers += [rows[i : i + num_generations] for i in range(0, len(rows), num_generations)]
    model.train(was_training)
    return answers


def to_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens up to the first end of sequence, it included."""
    return next((tokens[: i + 1] for i, token in enumerate(tokens) if token in ends), tokens)


def answers_at_once(policy: Policy, max_new_tokens: int, num_generations: int = 1, frames: int = 2) -> int:
    """How many answers half of the free memory holds: keys and values (a copy while they grow) and logits.

    From the model's configuration and the largest image that the processor lets through, as often as a video of so many
    `frames` has pairs of them; where answers are decoded as branches, the `num_generations` of a prompt hold it once.
    1 to 256.
    """
    text, images, device = policy.core.config.get_text_config(), policy.processor.image_processor, policy.core.device
    visual = images.size["longest_edge"] // (images.patch_size * images.merge_size) ** 2
    prompt = 128 + -(-frames // 2) * visual
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    sharers = num_generations if can_branch(policy.core) else 1
    numbers = 2 * text.num_hidden_layers * text.num_key_value_heads * width * (prompt / sharers + max_new_tokens)
    each = 2 * numbers * policy.core.dtype.itemsize + 16 * text.vocab_size
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return max(1, min(256, int(free / 2 // each)))


def sample_rollouts(
    policy: Policy,
    samples: Sequence[Sample],
    num_generations: int = 8,
    temperature: float = 1.0,
    seed: int = 0,
    *,
    recipe: Recipe = "kit",
    **generation,
) -> list[list[Rollout]]:
    """A group of `num_generations` scored rollouts for each sample, in the order of `samples`.

    Each sample is scored by its own task under `recipe`; `generation` goes to `generate_tokens`.
    """
    groups = generate_tokens(
        policy, samples, num_generations=num_generations, temperature=temperature, seed=seed, **generation
    )
    rollouts = []
    for sample, tokens in zip(samples, groups, strict=True):
        completions = policy.processor.batch_decode(tokens, skip_special_tokens=True)
        frame = policy.frame_of(sample)
        results = score_batch(sample.task, completions, [sample.target] * len(completions), recipe=recipe, frame=frame)
        advantages = group_advantages(np.array([result.total for result in results]))
        rollouts.append(
            [
                Rollout(text, result, float(advantage), tuple(ids))
                for text, result, advantage, ids in zip(completions, results, advantages, tokens, strict=True)
            ]
        )
    return rollouts
