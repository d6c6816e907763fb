"""From easy to hard: which samples does the policy already answer, and in which order should it meet them?

Perception-R1 (arXiv 2504.07954, section 4.1) scores the detection data offline with the policy's own reward, starts
with easy samples, and raises the number of rollouts on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pr1kit.data.sample import Sample
from pr1kit.models.policy import Policy
from pr1kit.rollouts.generate import sample_rollouts
from pr1kit.training.grpo import train_grpo
from pr1kit.training.grpo_settings import GRPOSettings
from pr1kit.training.weights import trained_weights


@dataclass(frozen=True)
class Stage:
    """A stretch of a curriculum: `steps` on these samples, `num_generations` rollouts to each prompt."""

    samples: list[Sample]
    num_generations: int
    steps: int


def offline_difficulty(
    policy: Policy,
    samples: Sequence[Sample],
    *,
    recipe: str = "kit",
    num_generations: int = 4,
    seed: int = 0,
    **generation,
) -> np.ndarray:
    """`(S,)`: how far the policy's mean reward on each sample falls short of the best mean reward; 0 is easiest."""
    groups = sample_rollouts(policy, samples, num_generations, seed=seed, recipe=recipe, **generation)
    rewards = np.array([[rollout.total for rollout in group] for group in groups]).mean(1)
    return rewards.max() - rewards


def easy_to_hard(
    samples: Sequence[Sample], difficulty: Sequence[float], steps: int, generations: Sequence[int] = (4, 8, 16)
) -> list[Stage]:
    """A stage for each of `generations`, `steps` in all; harder samples later, fewer where more rollouts go to each.

    With completions per step held constant, a stage that samples twice as often meets half as many prompts, and gets
    half as many samples. Raises ValueError where there are too few samples or steps to fill every stage.

    >>> [(stage.samples, stage.num_generations, stage.steps) for stage in easy_to_hard("abc", [3, 1, 2], 2, (4, 8))]
    [(['b', 'c'], 4, 1), (['a'], 8, 1)]
    """
    if len(samples) != len(difficulty):
        raise ValueError(f"{len(samples)} samples need as many difficulties, got {len(difficulty)}.")
    if min(len(samples), steps) < len(generations):
        raise ValueError(f"{len(generations)} stages need at least as many steps and samples.")
    order = np.argsort(np.asarray(difficulty), kind="stable")
    share = np.cumsum([1 / g for g in generations]) / sum(1 / g for g in generations)
    ends = np.round(share * len(samples)).astype(int)
    marks = np.round(np.linspace(0, steps, len(generations) + 1)).astype(int)
    starts = [0, *ends[:-1]]
    return [
        Stage([samples[i] for i in order[start:end]], g, int(steps_of))
        for start, end, g, steps_of in zip(starts, ends, generations, np.diff(marks), strict=True)
    ]


def train_curriculum(
    policy: Policy, stages: Sequence[Stage], folder: str | Path, settings: GRPOSettings, *, bar=None
) -> list[dict]:
    """Train through the stages, each a GRPO run in its own folder, the completions of a step held constant.

    Returns the log with steps counted through; resumes as `train_grpo` does, stage by stage.
    """
    completions, log = settings.prompts_per_step * settings.num_generations, []
    reference = trained_weights(policy.model) if settings.beta else None  # of the whole run, not of each stage
    for number, stage in enumerate(stages, start=1):
        if completions % stage.num_generations:
            raise ValueError(f"{completions} completions a step are no multiple of {stage.num_generations} rollouts.")
        prompts = completions // stage.num_generations
        if len(stage.samples) < prompts:
            raise ValueError(f"Stage {number} has {len(stage.samples)} samples, and one of its steps takes {prompts}.")
        here = replace(
            settings,
            steps=stage.steps,
            num_generations=stage.num_generations,
            prompts_per_step=prompts,
            micro_prompts=max(1, prompts * settings.micro_prompts // settings.prompts_per_step),
        )
        done = log[-1]["step"] if log else 0
        rows = train_grpo(policy, stage.samples, Path(folder) / f"stage-{number}", here, bar=bar, reference=reference)
        log += [{**row, "step": row["step"] + done} for row in rows]
    return log
