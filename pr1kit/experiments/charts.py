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
from pr1kit.experiments.statistics import mean_interval, paired_values
from pr1kit.plots.drawing import BETTER, INK, NEUTRAL, PREDICTION, TRUTH, WORSE, area_of, style

TASK_COLOURS = {"grounding": TRUTH, "counting": PREDICTION, "detection": "#009E73", "ocr": "#CC79A7"}
TASK_COLOURS |= {"tracking": TRUTH, "when": PREDICTION, "what": "#009E73", "proxies": "#CC79A7"}
MARKERS = "osD^v"
METHOD_COLOURS = {"RL": BETTER, "SFT": WORSE}
FAULTS_IN_WORDS = {
    "jitter": "boxes jittered",
    "loose": "boxes too large",
    "missing": "objects missing",
    "labels": "wrong labels",
}


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
    holds Spearman's rank correlation over conditions and its 95 % bootstrap interval, which draws whole tasks.
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
    tasks = [mine[0].factors.get("task", "") for mine in cells.values()]
    rho, low, high = rank_correlation(*zip(*points, strict=True), groups=tasks if len(set(tasks)) > 1 else None)
    ax.axhline(0, color=NEUTRAL, linewidth=0.8, zorder=1)
    ax.set(xlabel=f"before: {predictor.replace('_', ' ')}", ylabel="gain")
    ax.set_title(f"rank correlation {rho:+.2f} [{low:+.2f}, {high:+.2f}]", fontsize="medium")
    shown = [task for task in dict.fromkeys(tasks) if task]
    handles = [plt.Line2D([], [], marker="s", ls="", color=TASK_COLOURS.get(t, INK), label=t) for t in shown]
    handles += [plt.Line2D([], [], marker=MARKERS[i], ls="", color=NEUTRAL, label=n) for i, n in enumerate(levels) if n]
    ax.legend(handles=handles, fontsize="x-small")
    return ax


def _known_before(run: Run) -> Mapping[str, float]:
    """What is known of a condition before training: of a policy's rollouts, or of the data."""
    return run.results.get("headroom") or run.results["data"]


@style()
def plot_fault_map(runs: Sequence[Run], *, mode: str = "sampled", ax=None) -> np.ndarray:
    """What do RL and SFT gain from a truth with faults? A row for each task, a column for each fault, a line for each.

    To the right the fault grows; at 0 both train on the clean truth, the same in every column. Dots are seeds, upright
    lines 95 % t-intervals; the ground has the colour of who leads. On top stands RL's gain less SFT's, in bold where
    its paired interval leaves out 0. `runs` have the factors `task`, `truth` ("clean", or a fault and its size, as
    "jitter 15 %") and `method` ("RL", "SFT"), as those of the grids `annotation-faults` and `annotation-labels`. They
    fill a new figure, or the place of `ax`; returns the panels' Axes `(tasks, faults)`. Raises ValueError where there
    is no fault, or a truth without both methods.
    """
    at: dict[str, dict[tuple[str, float], list[Run]]] = {}
    for run in runs:
        kind, *size = run.factors["truth"].split()
        at.setdefault(run.factors["task"], {}).setdefault((kind, float(size[0]) if size else 0.0), []).append(run)
    kinds = list(dict.fromkeys(kind for cells in at.values() for kind, size in cells if size))
    if not kinds:
        raise ValueError("There are no runs with faults to draw a map of.")
    figure = area_of(ax, (0.8 + 2.4 * len(kinds), 0.6 + 2.3 * len(at)))
    axes = figure.subplots(len(at), len(kinds), sharex=True, sharey=True, squeeze=False)
    for row, (task, cells) in zip(axes, at.items(), strict=True):
        for panel, kind in zip(row, kinds, strict=True):
            mine = {size: cells[name, size] for name, size in sorted(cells, key=lambda c: c[1]) if name == kind}
            if not mine:
                panel.set_visible(False)
                continue
            clean = {size: each for (_, size), each in cells.items() if size == 0}
            _draw_fault(panel, {**clean, **mine}, mode)
            panel.set_title(f"{task}: {FAULTS_IN_WORDS.get(kind, kind)}")
        row[0].set_ylabel(f"gain, {mode} answers")
    for panel, kind in zip(axes[-1], kinds, strict=True):
        panel.set_xlabel(f"size of the fault ({kind}), %")
    figure.suptitle("numbers: gain of RL less that of SFT, bold where the interval leaves out 0", fontsize="small")
    axes[0, 0].legend(handles=[plt.Line2D([], [], color=c, label=name) for name, c in METHOD_COLOURS.items()],
                      loc="lower left")  # fmt: skip
    return axes


def _draw_fault(ax, cells: Mapping[float, Sequence[Run]], mode: str) -> None:
    """One panel: `cells` maps the size of a fault to its runs of both methods, smallest first."""

    def value(run: Run) -> float:
        return run.gain(mode=mode)

    for size, mine in cells.items():
        mean, low, high = mean_interval(paired_values(mine, {"method": "RL"}, {"method": "SFT"}, value))
        sure = low > 0 or high < 0
        ax.annotate(f"{mean:+.2f}".replace("-", "−"), (size, 1.0), xycoords=("data", "axes fraction"), xytext=(0, -3),
                    textcoords="offset points", ha="center", va="top", fontsize=9,
                    fontweight="bold" if sure else "normal", color=BETTER if mean > 0 else WORSE)  # fmt: skip
    means = {}
    for shift, (method, colour) in zip((-0.4, 0.4), METHOD_COLOURS.items(), strict=True):
        values = {size: [value(run) for run in mine if run.factors["method"] == method] for size, mine in cells.items()}
        means[method] = [mean_interval(each)[0] for each in values.values()]
        for size, each in values.items():
            _, low, high = mean_interval(each)
            ax.plot([size + shift] * 2, [low, high], color=colour, linewidth=1.6, zorder=3)
            ax.scatter([size + shift] * len(each), each, s=10, color=colour, alpha=0.5, linewidths=0, zorder=3)
        ax.plot(list(cells), means[method], color=colour, linewidth=2.4, zorder=4)
    ahead = np.subtract(means["RL"], means["SFT"])
    for leads, colour in ((ahead >= 0, BETTER), (ahead <= 0, WORSE)):
        ax.fill_between(list(cells), means["RL"], means["SFT"], where=leads, interpolate=True, color=colour, alpha=0.14)
    ax.axhline(0, color=NEUTRAL, linewidth=0.8, zorder=1)
    ax.margins(x=0.12, y=0.2)
    ax.set_xticks(list(cells))
    ax.grid(axis="x", visible=False)
