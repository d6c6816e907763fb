"""Estimators of KL(π ‖ π_ref) from the log-probabilities of sampled tokens, d = log π − log π_ref.

k1 and k3 are Schulman's (http://joschu.net/blog/kl-approx.html); "kimi" is the squared penalty of Kimi k1.5 (arXiv
2501.12599). Perception-R1's released code offers all three, and takes k3.
"""

from __future__ import annotations

import torch

ESTIMATORS = {
    "k3": lambda d: torch.exp(-d) + d - 1,
    "k1": lambda d: d,
    "kimi": lambda d: d**2 / 2,
}


def kl_per_token(log_ratio: torch.Tensor, estimator: str) -> torch.Tensor:
    """The estimate at each token from `log_ratio` d, same shape. Raises ValueError for an unknown estimator.

    >>> [round(kl_per_token(torch.tensor(1.0), name).item(), 3) for name in ESTIMATORS]
    [0.368, 1.0, 0.5]
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"Unknown KL estimator {estimator!r}: choose one of {', '.join(ESTIMATORS)}.")
    return ESTIMATORS[estimator](log_ratio)
