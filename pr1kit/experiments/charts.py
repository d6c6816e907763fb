"""Which condition is better, and how sure is that? Charts of experiments over seeds.

A dot is one seed, a bar its mean, a line the 95 % t-interval over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np

from pr1kit.evaluation.complexity import log10_matchings, perceptual_perplexity
from pr1kit.evaluation.intervals import rank_correlation
from pr1kit.experiments.runs import Run
from pr1kit.experiments.statistics import mean_interval
from pr1kit.plots.drawing import INK, NEUTRAL, PREDICTION, TRUTH, style

TASK_COLOURS = {"grounding": TRUTH, "counting": PREDICTION, "detection": "#009E73", "ocr": "#CC79A7"}
MARKERS = "osD^v"


@style()
def plot_perplexity(counts: Mapping[str, Sequence[int]], *, ax=None):
    """How perplexing are the images of a set? Share of images at or below each log10 n!, and where the mean lies.

    `counts`: name of a set → number of objects in each of its images. A mean far right of its curve tells of a few
    crowded images, not of the set.

    >>> plot_perplexity({"a set": [1, 2, 5]}).get_xlabel()
    'perceptual perplexity of an image, log10 n!'
    """
    ax = ax or plt.subplots()[1]
    for colour, (name, numbers) in zip(cycle(TASK_COLOURS.values()), counts.items(), strict=False):
        numbers = np.sort(np.asarray(numbers, int))
        at = [log10_matchings(n) for n in numbers]
        share = np.arange(1, len(at) + 1) / len(at)
        mean = perceptual_perplexity(numbers).log10_mean
        ax.step([0, *at], [0, *share], where="post", color=colour, label=name)
        ax.plot([mean], [1.0], marker="v", color=colour, markersize=8, clip_on=False, zorder=4)
    ax.set(xlabel="perceptual perplexity of an image, log10 n!", ylabel="share of images", ylim=(0, 1.03))
    handles, labels = ax.get_legend_handles_labels()
    handles.append(plt.Line2D([], [], marker="v", ls="", color=NEUTRAL))
    ax.legend(handles, [*labels, "mean of n!"], loc="lower right")
    return ax


def _seeds(ax, x: float, values: Sequence[float], colour: str) -> None:
    """Dots of the seeds, a bar for their mean, a line for its interval, at `x`."""
    mean, low, high = mean_interval(values)
    spread = np.linspace(-0.09, 0.09, len(values)) * (len(values) > 1)
    ax.scatter(x + spread, values, s=16, color=colour, alpha=0.5, linewidths=0, zorder=3)
    ax.plot([x - 0.2, x + 0.2], [mean, mean], color=colour, linewidth=2.2, zorder=4)
    if np.isfinite(low):
        ax.plot([x, x], [low, high], color=colour, linewidth=1.3, zorder=2)


@style()
def plot_ablation(runs: Sequence[Run], factor: str, *, value: Callable[[Run], float] = Run.gain, ax=None):
    """`value` of each seed, its mean and interval, at each level of `factor`, in the order of the grid.

    `value` is by default the gain of the sampled headline metric. Raises ValueError for a factor that no run has.
    """
    at: dict[str, list[float]] = {}
    for run in runs:
        if factor not in run.factors:
            raise ValueError(f"The runs have no factor {factor!r}: they have {', '.join(run.factors)}.")
        at.setdefault(run.factors[factor], []).append(value(run))
    ax = ax or plt.subplots(figsize=(1.4 + 1.1 * len(at), 3.2))[1]
    for x, values in enumerate(at.values()):
        _seeds(ax, x, values, TRUTH)
    ax.axhline(0, color=NEUTRAL, linewidth=0.8, zorder=1)
    ax.set(xticks=range(len(at)), xticklabels=list(at), ylabel="gain", xlim=(-0.6, len(at) - 0.4))
    ax.grid(axis="x", visible=False)
    return ax


@style()
def plot_scaling(runs: Sequence[Run], factor: str, *, value: Callable[[Run], float] = Run.gain, ax=None):
    """`value` at each size of a numeric `factor`, evenly spaced; a line through the means for each task."""
    ax = ax or plt.subplots(figsize=(4.6, 3.2))[1]
    tasks = dict.fromkeys(run.factors.get("task", "") for run in runs)
    sizes = sorted({float(run.factors[factor]) for run in runs})
    for i, task in enumerate(tasks):
        colour = TASK_COLOURS.get(task, TRUTH)
        mine = [run for run in runs if run.factors.get("task", "") == task]
        columns = [[value(run) for run in mine if float(run.factors[factor]) == size] for size in sizes]
        x = np.arange(len(sizes)) + (i - (len(tasks) - 1) / 2) * 0.12
        for place, values in zip(x, columns, strict=True):
            _seeds(ax, place, values, colour)
        ax.plot(x, [np.mean(values) for values in columns], color=colour, linewidth=1, label=task or None)
    ax.set(xticks=range(len(sizes)), xticklabels=[f"{size:g}" for size in sizes], xlabel=factor, ylabel="gain")
    if any(tasks):
        ax.legend()
    return ax


@style()
def plot_gain_vs_headroom(runs: Sequence[Run], predictor: str, *, value: Callable[[Run], float] = Run.gain, ax=None):
    """What RL gained against what the rollouts showed before: a point for each condition, the mean over its seeds.

    `predictor` is a field of `complexity.Headroom`. The title holds Spearman's rank correlation over conditions and its
    95 % bootstrap interval.
    """
    ax = ax or plt.subplots(figsize=(4.2, 3.4))[1]
    cells = {cell: [run for run in runs if run.cell == cell] for cell in dict.fromkeys(run.cell for run in runs)}
    levels = list(dict.fromkeys(run.factors.get("level", "") for run in runs))
    points = []
    for mine in cells.values():
        x, y = (np.mean([f(run) for run in mine]) for f in (lambda run: run.results["headroom"][predictor], value))
        points.append((x, y))
        task, level = mine[0].factors.get("task", ""), mine[0].factors.get("level", "")
        colour, marker = TASK_COLOURS.get(task, INK), MARKERS[levels.index(level) % len(MARKERS)]
        ax.plot([x], [y], marker, color=colour, markersize=7)
    rho, low, high = rank_correlation(*zip(*points, strict=True))
    ax.axhline(0, color=NEUTRAL, linewidth=0.8, zorder=1)
    ax.set(xlabel=f"before: {predictor.replace('_', ' ')}", ylabel="gain")
    ax.set_title(f"rank correlation {rho:+.2f} [{low:+.2f}, {high:+.2f}]", fontsize="medium")
    handles = [plt.Line2D([], [], marker="s", ls="", color=c, label=t) for t, c in TASK_COLOURS.items()]
    handles += [plt.Line2D([], [], marker=MARKERS[i], ls="", color=NEUTRAL, label=n) for i, n in enumerate(levels) if n]
    ax.legend(handles=handles, fontsize="x-small")
    return ax
