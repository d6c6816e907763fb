"""Which condition is better, and how sure is that? Charts of experiments over seeds.

A dot is one seed, a bar its mean, a line the 95 % t-interval over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from pr1kit.evaluation.complexity import log10_matchings, perceptual_perplexity
from pr1kit.evaluation.intervals import rank_correlation
from pr1kit.experiments.runs import Run
from pr1kit.experiments.statistics import mean_interval, paired_values
from pr1kit.plots.drawing import BETTER, INK, NEUTRAL, PREDICTION, TRUTH, WORSE, area_of, style

TASK_COLOURS = {"grounding": TRUTH, "counting": PREDICTION, "detection": "#009E73", "ocr": "#CC79A7"}
TASK_COLOURS |= {"tracking": TRUTH, "when": PREDICTION, "what": "#009E73", "proxies": "#CC79A7"}
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

    `predictor` is a field of `complexity.Headroom`, or "temporal perplexity" of runs of `temporal-data`. The title
    holds Spearman's rank correlation over conditions and its 95 % bootstrap interval.
    """
    ax = ax or plt.subplots(figsize=(4.2, 3.4))[1]
    cells = {cell: [run for run in runs if run.cell == cell] for cell in dict.fromkeys(run.cell for run in runs)}
    levels = list(dict.fromkeys(run.factors.get("level", "") for run in runs))
    points = []
    for mine in cells.values():
        x, y = (np.mean([f(run) for run in mine]) for f in (lambda run: _known_before(run)[predictor], value))
        points.append((x, y))
        task, level = mine[0].factors.get("task", ""), mine[0].factors.get("level", "")
        colour, marker = TASK_COLOURS.get(task, INK), MARKERS[levels.index(level) % len(MARKERS)]
        ax.plot([x], [y], marker, color=colour, markersize=7)
    rho, low, high = rank_correlation(*zip(*points, strict=True))
    ax.axhline(0, color=NEUTRAL, linewidth=0.8, zorder=1)
    ax.set(xlabel=f"before: {predictor.replace('_', ' ')}", ylabel="gain")
    ax.set_title(f"rank correlation {rho:+.2f} [{low:+.2f}, {high:+.2f}]", fontsize="medium")
    tasks = dict.fromkeys(run.factors.get("task", "") for run in runs)
    handles = [plt.Line2D([], [], marker="s", ls="", color=TASK_COLOURS.get(t, INK), label=t) for t in tasks if t]
    handles += [plt.Line2D([], [], marker=MARKERS[i], ls="", color=NEUTRAL, label=n) for i, n in enumerate(levels) if n]
    ax.legend(handles=handles, fontsize="x-small")
    return ax


def _known_before(run: Run) -> Mapping[str, float]:
    """What is known of a condition before training: of a policy's rollouts, or of the data."""
    return run.results.get("headroom") or run.results["data"]


@style()
def plot_fault_map(runs: Sequence[Run], *, mode: str = "sampled", ax=None) -> np.ndarray:
    """Where does RL beat SFT? For each fault of the truth that both train on, and its size, the gain of RL less SFT's.

    Green: RL gains more, vermillion: SFT does. A cell holds the mean over seeds and its 95 % t-interval, and is framed
    where that leaves out 0. One panel for each task. `runs` have the factors `task`, `truth` ("clean", or a fault and
    its size, as "jitter 15 %") and `method` ("RL", "SFT"), as those of the grids `annotation-faults` and
    `annotation-labels`. They fill a new figure, or the place of `ax`; returns the panels' Axes `(tasks,)`. Raises
    ValueError where a truth has no pair of runs.
    """
    truths = {task: list(dict.fromkeys(run.factors["truth"] for run in runs if run.factors["task"] == task))
              for task in dict.fromkeys(run.factors["task"] for run in runs)}  # fmt: skip
    found = {}
    for task, names in truths.items():
        for truth in names:
            own = [run for run in runs if (run.factors["task"], run.factors["truth"]) == (task, truth)]
            values = paired_values(own, {"method": "RL"}, {"method": "SFT"}, lambda run: run.gain(mode=mode))
            found[task, truth] = mean_interval(values)
    if not found:
        raise ValueError("There are no runs to draw a map of.")
    most = max(abs(mean) for mean, _, _ in found.values()) or 1.0
    colours = LinearSegmentedColormap.from_list("lead", [WORSE, "white", BETTER])
    kinds = list(dict.fromkeys(truth.split()[0] for names in truths.values() for truth in names))
    sizes = list(
        dict.fromkeys(truth.split(maxsplit=1)[1] for names in truths.values() for truth in names if " " in truth)
    )
    figure = area_of(ax, (1.4 + 2.7 * len(truths), 1.1 + 0.62 * len(kinds)))
    axes = figure.subplots(1, len(truths), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (task, names) in zip(axes, truths.items(), strict=True):
        for truth in names:
            kind, *size = truth.split(maxsplit=1)
            left, width = (sizes.index(size[0]), 1) if size else (0, max(len(sizes), 1))  # no fault has no size
            row, (mean, low, high) = kinds.index(kind), found[task, truth]
            sure = low > 0 or high < 0
            shape = {"facecolor": colours(0.5 + mean / most / 2), "edgecolor": INK if sure else "white"}
            panel.add_patch(Rectangle((left + 0.03, row + 0.04), width - 0.06, 0.92, lw=2 if sure else 1, **shape))
            words = [
                (f"{mean:+.2f}", 0.4, 11, "bold" if sure else "normal"),
                (f"[{low:+.2f}, {high:+.2f}]", 0.73, 7.5, "normal"),
            ]
            for text, down, points, weight in words:
                panel.text(left + width / 2, row + down, text.replace("-", "−"), ha="center", va="center", color=INK,
                           fontsize=points, fontweight=weight)  # fmt: skip
        panel.set(
            xlim=(0, max(len(sizes), 1)), ylim=(len(kinds), 0), title=f"{task}: RL − SFT", xlabel="size of the fault"
        )
        panel.set(xticks=np.arange(len(sizes)) + 0.5, xticklabels=sizes)
        panel.set(yticks=np.arange(len(kinds)) + 0.5, yticklabels=kinds)
        panel.grid(False)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    return axes
