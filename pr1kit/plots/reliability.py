"""A critic's scores against true rewards: on the diagonal it can be taken at its word."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from pr1kit.plots.drawing import INK, NEUTRAL, PREDICTION, style


@style()
def plot_reliability(scores: Sequence[float | None], rewards: Sequence[float], *, bins: int = 5, ax=None):
    """Each answer as a point (score, reward), and the mean reward of the answers within each of `bins` ranges of score.

    Both are in [0, 1]; answers without a score (None) are left out, their share stands in the title. Returns the Axes.

    >>> plot_reliability([0.1, 0.2, 0.9, None], [0.0, 0.3, 1.0, 0.5]).get_title("left")
    '3 of 4 answers have a score'
    """
    known = [(score, reward) for score, reward in zip(scores, rewards, strict=True) if score is not None]
    said, true = np.array(known, float).reshape(-1, 2).T
    ax = ax or plt.subplots(figsize=(4.2, 4.0))[1]
    ax.plot([0, 1], [0, 1], color=NEUTRAL, lw=1, ls=(0, (3, 2)), label="score = reward")
    ax.plot(said, true, "o", color=PREDICTION, ms=4, alpha=0.35, mec="none", label="an answer")
    place = np.minimum((said * bins).astype(int), bins - 1)
    filled = [i for i in range(bins) if (place == i).any()]
    means = [(said[place == i].mean(), true[place == i].mean()) for i in filled]
    if means:
        ax.plot(*np.array(means).T, "-o", color=INK, lw=1.6, ms=6, label="mean of a range")
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="the critic's score", ylabel="true reward", aspect="equal")
    ax.set_title(f"{len(known)} of {len(scores)} answers have a score")
    ax.legend(loc="upper left")
    return ax
