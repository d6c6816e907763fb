"""Estimators of KL(π ‖ π_ref) from the log-probabilities of sampled tokens, d = log π − log π_ref.

k1 and k3 are Schulman's (http://joschu.net/blog/kl-approx.html); "kimi" is the squared penalty of Kimi k1.5 (arXiv
2501.12599), Schulman's k2. Perception-R1's released code offers all three, and takes k3.

Here they are terms of the *loss*, differentiated with the samples held fixed, and a good estimate of the value need not
have a good gradient (arXiv 2510.01555). On-policy, the expected gradient of "kimi" is that of the KL itself; that of k3
is it to first order in d; that of k1 is E[∇ log π] = 0: **k1 does not pull the policy to the reference**, it adds noise
(and, where the loss divides by an answer's length, a small bias that has nothing to do with the reference).

"k1 in the reward" is k1 where it does work: the sum of d over an answer, times beta, is taken off its reward before the
answers of a group are compared (`advantages`; as in PPO and in TRL's RLOO). The score function then gives it the
gradient of the KL itself. As a term of the loss it is nothing. Where advantages are divided by the spread of a group,
so is its weight.
"""

from __future__ import annotations

import torch

IN_REWARD = "k1 in the reward"
ESTIMATORS = {
    "k3": lambda d: torch.exp(-d) + d - 1,
    "k1": lambda d: d,
    "kimi": lambda d: d**2 / 2,
    IN_REWARD: torch.zeros_like,
}


def kl_per_token(log_ratio: torch.Tensor, estimator: str) -> torch.Tensor:
    """The estimate at each token from `log_ratio` d, same shape. Raises ValueError for an unknown estimator.

    >>> [round(kl_per_token(torch.tensor(1.0), name).item(), 3) for name in ESTIMATORS]
    [0.368, 1.0, 0.5, 0.0]

    The expected gradient for a choice between two tokens, of which the reference takes either (that of "kimi" is the
    gradient of the KL):

    >>> logits = torch.tensor([1.0, 0.0], requires_grad=True)
    >>> p, d = logits.softmax(0).detach(), logits.log_softmax(0) - torch.tensor(0.5).log()
    >>> for name in ("k3", "k1", "kimi"):
    ...     (slope,) = torch.autograd.grad(p @ kl_per_token(d, name), logits, retain_graph=True)
    ...     print(name, [round(v, 3) + 0.0 for v in slope.tolist()])
    k3 [0.231, -0.231]
    k1 [0.0, 0.0]
    kimi [0.197, -0.197]

    And that of k1 in the reward, by the score function (a policy is moved against it):

    >>> (slope,) = torch.autograd.grad(p @ (d.detach() * d), logits)
    >>> [round(v, 3) for v in slope.tolist()]
    [0.197, -0.197]
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"Unknown KL estimator {estimator!r}: choose one of {', '.join(ESTIMATORS)}.")
    return ESTIMATORS[estimator](log_ratio)
