"""How hard is a perception task, and is there something that RL could teach?

Two answers. Perceptual perplexity counts the ways in which predictions can be matched to the objects of an image, as
Perception-R1 defines it (arXiv 2504.07954, section 5 and table 9): it asks the data alone. RL headroom asks the policy:
what its rollouts already can do, and whether their rewards differ within a group, which is all that GRPO learns from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pr1kit.rewards.results import Rollout

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Perplexity:
    """Statistical perceptual perplexity of a set of images: the mean of n! over them, exact.

    `mean` is a ratio of integers; `log10_mean` its logarithm, which no float overflows; `quantiles` maps each of
    `QUANTILES` to log10 n! at that quantile of images; `largest_share` is the part of the mean that the image with the
    most objects carries: near 1, the mean tells of that image and not of the set.
    """

    mean: Fraction
    images: int
    largest: int
    largest_share: float
    quantiles: dict[float, float]

    @property
    def log10_mean(self) -> float:
        return math.log10(self.mean.numerator) - math.log10(self.mean.denominator)

    def __str__(self) -> str:
        exponent = math.floor(self.log10_mean)
        return (
            f"{10 ** (self.log10_mean - exponent):.3f}e+{exponent:02d} over {self.images} images, "
            f"{self.largest_share:.1%} of it from the one with {self.largest} objects"
        )


def perceptual_perplexity(counts: Sequence[int]) -> Perplexity:
    """Perplexity of images with these numbers of objects. Raises ValueError without images or for a negative count.

    An image with one object, or none, has perplexity 1 (so have grounding and reading).

    >>> perplexity = perceptual_perplexity([1, 2, 3])
    >>> perplexity.mean, round(perplexity.largest_share, 3)
    (Fraction(3, 1), 0.667)
    """
    counts = [int(count) for count in counts]
    if not counts or min(counts) < 0:
        raise ValueError("Perplexity needs the number of objects, 0 or more, of at least one image.")
    largest, total = max(counts), sum(math.factorial(count) for count in counts)
    at = np.quantile(counts, QUANTILES, method="inverted_cdf").astype(int).tolist()
    return Perplexity(
        mean=Fraction(total, len(counts)),
        images=len(counts),
        largest=largest,
        largest_share=float(Fraction(math.factorial(largest), total)),
        quantiles={q: log10_matchings(n) for q, n in zip(QUANTILES, at, strict=True)},
    )


def matchings(count: int) -> int:
    """Theoretical perplexity of an image with `count` objects: the ways to match as many predictions to them, n!."""
    return math.factorial(count)


def log10_matchings(count: int) -> float:
    """log10 n!, for plots."""
    return math.lgamma(count + 1) / math.log(10)


@dataclass(frozen=True)
class Headroom:
    """What RL has to work with, from rollouts of the policy: means over prompts, and each prompt's own values.

    `reward`: mean reward; `best_of_k`: the expected best reward of `k` answers; `gap`: their difference, what choosing
    among its own answers would gain; `pass_at_k`: the chance that one of k answers earns at least the threshold;
    `spread`: standard deviation of rewards within a group; `no_signal`: share of groups whose rewards are all equal;
    `answer_entropy`: entropy, in nats, of the distribution of distinct answers in a group; `agreement`: chance that two
    answers to one prompt are the same.
    """

    reward: float
    best_of_k: float
    gap: float
    pass_at_k: float
    spread: float
    no_signal: float
    answer_entropy: float
    agreement: float
    k: int
    by_prompt: dict[str, np.ndarray]


def rl_headroom(groups: Sequence[Sequence[Rollout]], *, threshold: float = 0.5) -> Headroom:
    """Headroom measured on groups of at least two rollouts each, all of one size; `threshold` is for pass@k.

    Raises ValueError for no groups, or groups of one or of different sizes.
    """
    sizes = {len(group) for group in groups}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError("Headroom needs at least one group, and groups of one size, two rollouts or more.")
    rewards = np.array([[rollout.total for rollout in group] for group in groups])
    k = rewards.shape[1]
    same = [Counter(rollout.completion.strip() for rollout in group).values() for group in groups]
    shares = [np.array(list(counts)) / k for counts in same]  # of each distinct answer
    by_prompt = {
        "reward": rewards.mean(1),
        "best_of_k": rewards.max(1),
        "gap": rewards.max(1) - rewards.mean(1),
        "pass_at_k": (rewards >= threshold).any(1).astype(float),
        "spread": rewards.std(1, ddof=1),
        "no_signal": (np.ptp(rewards, 1) < 1e-9).astype(float),
        "answer_entropy": np.array([-(share * np.log(share)).sum() for share in shares]),
        "agreement": np.array([((share * k) * (share * k - 1)).sum() / (k * (k - 1)) for share in shares]),
    }
    return Headroom(**{name: float(values.mean()) for name, values in by_prompt.items()}, k=k, by_prompt=by_prompt)
