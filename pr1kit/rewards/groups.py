"""How much better than its group is an answer? GRPO's advantages, PerPO's weights of pairs, pass@k."""

from __future__ import annotations

import numpy as np

from pr1kit.rewards.results import Rollout

EQUAL = 1e-6  # rewards that differ by no more are equal: logs round them to five decimals


def group_advantages(rewards: np.ndarray) -> np.ndarray:
    """`(..., G)` rewards to advantages of the same shape (arXiv 2402.03300, section 4.1.2); 0 where all are equal.

    >>> group_advantages(np.array([0.0, 1.0])).round(3).tolist()
    [-0.707, 0.707]
    """
    rewards = np.asarray(rewards, float)
    centred = rewards - rewards.mean(-1, keepdims=True)
    spread = rewards.std(-1, ddof=1, keepdims=True) if rewards.shape[-1] > 1 else np.zeros_like(centred)
    return centred / (spread + 1e-4)


def pair_weights(rewards, gamma: float = 0.5) -> np.ndarray:
    """`(N,)` rewards to `(N, N)` weights that sum to 1: `[i, j]` is that of the pair in which answer i beats answer j.

    w_ij = (r_i - r_j)^gamma / sum over all pairs with r_i > r_j (PerPO, arXiv 2502.04371); `gamma` 0 weighs all pairs
    alike. Rewards closer than `EQUAL` are equal and make no pair; where all are, every weight is 0. Raises ValueError
    for a reward that is not finite.

    >>> pair_weights([1.0, 0.0, 0.75]).round(3).tolist()
    [[0.0, 0.424, 0.212], [0.0, 0.0, 0.0], [0.0, 0.367, 0.0]]
    """
    rewards = np.asarray(rewards, float)
    if not np.isfinite(rewards).all():
        wrong = int(np.argmin(np.isfinite(rewards)))
        raise ValueError(f"Answer {wrong} has the reward {rewards[wrong]}.")
    gap = rewards[:, None] - rewards
    weights = np.where(gap > EQUAL, np.maximum(gap, 0.0) ** gamma, 0.0)
    return weights / (weights.sum() or 1.0)


def extreme_weights(rewards) -> np.ndarray:
    """As `pair_weights`, of the best answer against the worst alone; equally good (or bad) ones share the weight."""
    rewards = np.asarray(rewards, float)
    best, worst = (np.abs(rewards - extreme) <= EQUAL for extreme in (rewards.max(), rewards.min()))
    weights = (best[:, None] & worst) * (pair_weights(rewards) > 0)
    return weights / (weights.sum() or 1.0)


def pass_at_k(groups, threshold: float = 0.5) -> np.ndarray:
    """`(K, N)` unbiased pass@k of each of N groups, k = 1 … K, K the smallest group's size: the chance that the best
    of k rollouts, drawn without return, earns `threshold` or more (Chen et al., arXiv 2107.03374, eq. 1).

    >>> pass_at_k([[0.0, 0.0, 1.0, 1.0]]).round(3).ravel().tolist()
    [0.5, 0.833, 1.0, 1.0]
    """
    rewards = group_rewards(groups)
    sizes = np.array([len(group) for group in rewards])
    misses = np.array([(group < threshold).sum() for group in rewards])
    fail = [np.ones(len(rewards))]  # C(n - c, k) / C(n, k), one factor for each further draw
    for k in range(sizes.min()):
        fail.append(fail[-1] * np.maximum(misses - k, 0) / (sizes - k))
    return 1 - np.array(fail[1:])


def group_rewards(groups) -> list[np.ndarray]:
    """Rewards of each group `(G,)` from rollouts or numbers; raises ValueError where there are none."""
    rewards = [np.array([r.total if isinstance(r, Rollout) else float(r) for r in group]) for group in groups]
    rewards = [group for group in rewards if len(group)]
    if not rewards:
        raise ValueError("No rollouts to plot: groups must hold at least one group of at least one rollout.")
    return rewards
