"""How much better than its group is an answer? GRPO's group-relative advantage (arXiv 2402.03300, section 4.1.2)."""

from __future__ import annotations

import numpy as np


def group_advantages(rewards: np.ndarray) -> np.ndarray:
    """`(..., G)` rewards to advantages of the same shape; a group of equal rewards has advantage 0 throughout.

    >>> group_advantages(np.array([0.0, 1.0])).round(3).tolist()
    [-0.707, 0.707]
    """
    rewards = np.asarray(rewards, float)
    centred = rewards - rewards.mean(-1, keepdims=True)
    spread = rewards.std(-1, ddof=1, keepdims=True) if rewards.shape[-1] > 1 else np.zeros_like(centred)
    return centred / (spread + 1e-4)
