"""What can ranked answers to one prompt teach? PerPO's listwise loss (arXiv 2502.04371) and what it is compared with.

An answer y_i with reward r_i has s_i = log pi(y_i) - log pi_ref(y_i), summed over its tokens, pi_ref frozen:

    perpo       sum_ij w_ij softplus(-beta (s_i - s_j)),   w_ij = (r_i - r_j)^gamma / sum, over pairs with r_i > r_j
    lipo        the same with gamma = 0: every pair weighs alike
    dpo         the same with one pair: the best against the worst (arXiv 2305.18290)
    best_of_n   -log pi(y_best) / tokens: supervision on the best of the answers, no reference (rejection sampling)

The order of the answers does not matter: equally good ones share a pair's weight. Where all are equal there is nothing
to learn, and loss and gradient are exactly 0. At pi = pi_ref the gradient of the first three is
-beta/2 sum_i (sum_j w_ij - sum_j w_ji) grad log pi(y_i): what stands in parentheses is the answer's advantage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from pr1kit.rewards.groups import extreme_weights, pair_weights
from pr1kit.training.preference_settings import METHODS


def method_weights(method: str, rewards: Sequence[float], gamma: float = 0.5) -> np.ndarray:
    """`(N, N)` weights of the pairs (i beats j) that `method` compares; they sum to 1, or are 0 where all are equal.

    >>> method_weights("dpo", [0.2, 0.9, 0.5]).tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}: choose one of {', '.join(METHODS)}.")
    if method in ("dpo", "best_of_n"):
        return extreme_weights(rewards)
    return pair_weights(rewards, gamma if method == "perpo" else 0.0)


def compared(method: str, rewards: Sequence[float]) -> list[int]:
    """Which answers `method` looks at: of DPO and best of N only the best and the worst.

    >>> compared("dpo", [0.2, 0.9, 0.5]), compared("lipo", [0.2, 0.9, 0.5])
    ([0, 1], [0, 1, 2])
    """
    weights = method_weights(method, rewards)
    return np.flatnonzero(weights.any(0) | weights.any(1)).tolist()


def preference_loss(
    method: str,
    logps: torch.Tensor,
    reference: torch.Tensor,
    lengths: torch.Tensor,
    weights: torch.Tensor,
    *,
    beta: float = 0.1,
    per_token: bool = False,
) -> torch.Tensor:
    """The loss of one list of N answers, a scalar; differentiable in `logps`.

    `logps` and `reference` (N) are log-probabilities of whole answers, summed over their `lengths` (N) tokens;
    `per_token` divides them by these. `weights` (N, N) are those of `method_weights`.

    >>> ones, weights = torch.ones(2), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    >>> round(preference_loss("dpo", -ones, -ones, ones, weights).item(), 4)
    0.6931
    """
    if method == "best_of_n":
        return -(weights.sum(1) * logps / lengths).sum()
    scores = logps - reference
    if per_token:
        scores = scores / lengths
    return (weights * F.softplus(-beta * (scores[:, None] - scores))).sum()


@torch.no_grad()
def preference_statistics(logps: torch.Tensor, reference: torch.Tensor, weights: torch.Tensor) -> dict[str, float]:
    """How the policy ranks a list now: `accuracy`, the weight of the pairs in which it raised the better answer more
    than the worse; `margin`, their mean s_i - s_j; `log_ratio`, the mean of s: below 0 where all answers lose."""
    scores = logps - reference
    differences = scores[:, None] - scores
    return {
        "accuracy": float((weights * (differences > 0)).sum()),
        "margin": float((weights * differences).sum()),
        "log_ratio": float(scores.mean()),
    }
