"""Does the reward rise, is there a signal within a group, did the metrics move? The numbers of a run as charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.special import stdtrit

from pr1kit.plots.drawing import BETTER, INK, NEUTRAL, WORSE, area_of, legend_below, style
from pr1kit.rewards.groups import group_rewards, pass_at_k

BELOW_LABEL = 32  # points from the axes to under the label of its x axis
PART_COLOURS = ("#56B4E9", "#CC79A7", "#E69F00", "#0072B2", "#D55E00", "#000000")


def _columns(log) -> dict[str, np.ndarray]:
    """One run's log, rows or columns, as float columns sorted by step; what is missing or no number becomes NaN."""
    if isinstance(log, Mapping):
        columns = {name: list(values) for name, values in log.items()}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    else:
        rows = list(log)
    rows = [row for row in rows if "step" in row and any(name.startswith("reward") for name in row)]
    rows.sort(key=lambda row: float(row["step"]))

    def number(value) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            return math.nan

    names = dict.fromkeys(name for row in rows for name in row if name == "step" or name.startswith("reward"))
    return {name: np.array([number(row.get(name)) for row in rows]) for name in names}


def running_mean(steps: np.ndarray, values: np.ndarray, at: np.ndarray, width: float) -> np.ndarray:
    """Mean of `values` within `width` / 2 of each step in `at`; NaN where the run has none, or has not been."""
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    if not len(steps):
        return np.full(len(at), np.nan)
    near = np.abs(at[:, None] - steps[None]) <= width / 2  # (A, S)
    count = near.sum(1)
    means = np.where(count > 0, near @ values / np.maximum(count, 1), np.nan)
    return np.where((at >= steps[0]) & (at <= steps[-1]), means, np.nan)


def _centre_and_band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Mean `(A,)`, lower and upper `(A,)` over the seeds in `curves` (S, A), and what the band is. NaN where a seed
    is missing; from 3 seeds a 95 % t-interval, with 2 the smallest and largest."""
    here = np.isfinite(curves)
    mean = np.where(here.any(0), np.where(here, curves, 0).sum(0) / np.maximum(here.sum(0), 1), np.nan)
    seeds = len(curves)
    if seeds < 3:
        return mean, curves.min(0), curves.max(0), "min–max"
    half = stdtrit(seeds - 1, 0.975) * curves.std(0, ddof=1) / math.sqrt(seeds)
    return mean, mean - half, mean + half, "95 % t-interval"


@style()
def plot_reward_curves(logs, *, parts: bool | Sequence[str] = False, window: int | None = None, ax=None):
    """Reward against step: raw points, a running mean, a band over seeds, and with `parts` a line for each part.

    `parts` may name those to draw: one that is 1 from the first step on flattens the others.

    `logs`: one run, or a list of runs (one per seed). A run is a list of rows `{"step", "reward", "reward/iou", …}`
    or a mapping of such columns; rows without a reward (evaluations) are passed over, NaN are gaps, runs may differ
    in length. `window`: logged steps in the running mean (default: a tenth of the run). The band is drawn where
    all seeds are present; the legend says what it is. Raises ValueError where no log holds a reward, or a part named.

    >>> ax = plot_reward_curves([{"step": 1, "reward": 0.2}, {"step": 2, "reward": 0.4}])
    >>> ax.get_ylabel()
    'mean reward'
    """
    one = isinstance(logs, Mapping) or (
        len(logs) > 0 and isinstance(logs[0], Mapping) and np.ndim(logs[0].get("step", 0)) == 0
    )
    runs = [run for run in map(_columns, [logs] if one else logs) if np.isfinite(run.get("reward", [])).any()]
    if not runs:
        raise ValueError("No reward to plot: each log needs rows with the keys 'step' and 'reward'.")
    ax = ax or plt.subplots()[1]
    at = np.unique(np.concatenate([run["step"] for run in runs]))
    spacing = float(np.median(np.diff(at))) if len(at) > 1 else 1.0
    count = window or max(1, round(len(at) / 10))
    width = (count - 1) * spacing * 1.0001

    who = f"mean of {len(runs)} seeds" if len(runs) > 1 else "reward"
    for i, run in enumerate(runs):
        raw = {"color": BETTER, "alpha": 0.28, "s": 9, "linewidths": 0, "gid": "raw", "zorder": 2}
        ax.scatter(run["step"], run["reward"], label="each logged step" if i == 0 else None, **raw)
    names = ["reward"]
    if parts:
        logged = list(dict.fromkeys(name for run in runs for name in run if name.startswith("reward/")))
        names += logged if parts is True else [f"reward/{part}" for part in parts]
        if unknown := [name for name in names[1:] if name not in logged]:
            known = ", ".join(name.partition("/")[2] for name in logged)
            raise ValueError(f"No log holds a part {unknown[0].partition('/')[2]!r}: they hold {known or 'none'}.")
    for i, name in enumerate(names):
        curves = np.array([running_mean(run["step"], run[name], at, width) for run in runs if name in run])
        mean, low, high, what = _centre_and_band(curves)
        colour = PART_COLOURS[(i - 1) % len(PART_COLOURS)] if i else BETTER
        if len(curves) > 1 and np.isfinite([low, high]).all(0).any():
            label = None if i else f"{what} over seeds"
            ax.fill_between(at, low, high, color=colour, alpha=0.16 if i else 0.22, linewidth=0, label=label, zorder=1)
        label = f"{name.partition('/')[2]}" if i else f"{who}, running over {count} steps"
        ax.plot(at, mean, color=colour, label=label, zorder=3, linewidth=1.4 if i else 2.2)
    ax.set(xlabel="training step", ylabel="mean reward")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    ax.margins(x=0.02)
    legend_below(ax, points=BELOW_LABEL)
    return ax


def _estimate(value) -> tuple[float, float, float]:
    """`(value, low, high)` from such a triple, `(value, (low, high))`, or a bare number without an interval."""
    flat = np.hstack([np.ravel(part) for part in value]) if isinstance(value, Sequence | np.ndarray) else [value]
    if len(flat) not in (1, 3):
        raise ValueError(f"An estimate is a number or (value, low, high), got {value!r}.")
    value, low, high = map(float, flat if len(flat) == 3 else np.repeat(flat, 3))
    return value, low, high


@style()
def plot_metric_intervals(rows, *, ax=None):
    """Before and after, one row per metric: a hollow and a filled dot with their 95 % intervals, the change between.

    `rows`: mappings `{"metric": name, "before": estimate, "after": estimate}`; an estimate is `(value, low, high)`
    or a bare number. A row may bring the paired `"change"` as an estimate: one whose interval includes 0 is grey. With
    `"lower_is_better": True` a fall is green. Raises ValueError for no rows.

    >>> ax = plot_metric_intervals([{"metric": "Acc@0.5", "before": (0.5, 0.4, 0.6), "after": (0.7, 0.6, 0.8)}])
    >>> [text.get_text() for text in ax.texts]
    ['+0.20']
    """
    rows = list(rows)
    if not rows:
        raise ValueError("No metrics to plot: rows need the keys 'metric', 'before' and 'after'.")
    if ax is None:
        ax = plt.subplots(figsize=(6.2, 1.15 + 0.48 * len(rows)))[1]
    for y, row in enumerate(rows):
        before, after = _estimate(row["before"]), _estimate(row["after"])
        change, low, high = _estimate(row.get("change", after[0] - before[0]))
        gain = -change if row.get("lower_is_better") else change
        colour = NEUTRAL if low <= 0 <= high else BETTER if gain > 0 else WORSE
        said = f"{change:+.2f}" + (f"  [{low:+.2f}, {high:+.2f}]" if high > low else "")
        ax.plot([before[0], after[0]], [y, y], color=colour, alpha=0.35, linewidth=4.5, zorder=2, gid="change")
        looks = ((before, NEUTRAL, -0.13, "white"), (after, INK, 0.13, INK))
        for (value, low, high), ink, lift, fill in looks:
            if high > low:
                ax.plot([low, high], [y + lift] * 2, color=ink, linewidth=1.3, zorder=3, gid="interval")
            dot = {"mec": ink, "mfc": fill, "mew": 1.4, "markersize": 6.5, "zorder": 4, "gid": "dot"}
            ax.plot([value], [y + lift], "o", **dot)
        ax.annotate(
            said.replace("-", "−"), (1, y), (8, 0), ax.get_yaxis_transform(), "offset points", va="center",
            color=colour, weight="bold", fontsize=8.5, annotation_clip=False,
        )  # fmt: skip
    names = [row["metric"] + (" ↓" if row.get("lower_is_better") else "") for row in rows]
    ax.set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.5, -0.5), xlabel="value on held-out samples")
    ax.tick_params(axis="y", length=0, labelsize=9)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    if all(0 <= x <= 1 for row in rows for key in ("before", "after") for x in _estimate(row[key])):
        ax.set_xlim(0, 1)
    looks = ((NEUTRAL, "white", "before"), (INK, INK, "after (bars: 95 % intervals)"))
    dots = [
        Line2D([], [], marker="o", color=ink, mfc=f, mew=1.4, ms=6.5, lw=1.3, label=label) for ink, f, label in looks
    ]
    legend_below(ax, dots, points=BELOW_LABEL)
    return ax


@style()
def plot_intervals(rows: Mapping, *, ax=None):
    """A forest plot: an estimate and its interval in each row, on one scale with 0 marked; grey where it includes 0.

    `rows`: name → `(value, low, high)` or a bare number; green above 0, vermillion below. No rows: ValueError.

    >>> ax = plot_intervals({"optimal over sequential": (0.03, -0.08, 0.13)})
    >>> [text.get_text() for text in ax.texts]
    ['+0.03  [−0.08, +0.13]']
    """
    if not rows:
        raise ValueError("No intervals to plot: rows need a name and (value, low, high) each.")
    if ax is None:
        ax = plt.subplots(figsize=(6.2, 0.7 + 0.3 * len(rows)))[1]
    ax.axvline(0, color=NEUTRAL, linewidth=0.9, zorder=1)
    for y, estimate in enumerate(rows.values()):
        value, low, high = _estimate(estimate)
        colour = NEUTRAL if low <= 0 <= high else BETTER if value > 0 else WORSE
        ax.plot([low, high], [y, y], color=colour, linewidth=1.6, zorder=2, gid="interval")
        ax.plot([value], [y], "o", color=colour, markersize=6, zorder=3, gid="dot")
        said = f"{value:+.2f}" + (f"  [{low:+.2f}, {high:+.2f}]" if high > low else "")
        ax.annotate(
            said.replace("-", "−"), (1, y), (8, 0), ax.get_yaxis_transform(), "offset points", va="center",
            color=colour, fontsize=8, annotation_clip=False,
        )  # fmt: skip
    ax.set(yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.4, -0.6))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    return ax


@style()
def plot_forest(panels: Mapping[str, Mapping], *, xlabel: str = "", ax=None) -> np.ndarray:
    """`plot_intervals` beside one another, with one scale and the same rows in all; returns their Axes `(P,)`.

    `panels`: title → rows. They fill a new figure, or the place of `ax`. No panel: ValueError.

    >>> len(plot_forest({"sampled": {"gain": (0.2, 0.1, 0.3)}, "greedy": {"gain": (0.1, 0.0, 0.2)}}))
    2
    """
    if not panels:
        raise ValueError("No intervals to plot: panels need a title and rows each.")
    rows = max(len(each) for each in panels.values())
    figure = area_of(ax, (2.2 + 3.3 * len(panels), 0.8 + 0.29 * rows))
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (title, each) in zip(axes, panels.items(), strict=True):
        plot_intervals(each, ax=panel)
        panel.set(title=title, xlabel=xlabel)
    return axes


@style()
def plot_reward_histogram(groups, *, bins: int = 20, ax=None):
    """How rewards spread inside groups, and the share of groups that teach nothing, since all their rewards agree.

    `groups`: for each prompt its G rollouts or their rewards. Rollouts of groups without variance are grey, and stand
    below the others: their advantages are zero (GRPO, arXiv 2402.03300, eq. 3). No rollout: ValueError.

    >>> ax = plot_reward_histogram([[0.0, 1.0], [1.0, 1.0]])
    >>> ax.get_title(loc="left")
    '1 of 2 groups (50 %) have no variance, so no gradient'
    """
    rewards = group_rewards(groups)
    flat = [np.ptp(group) < 1e-9 for group in rewards]
    split = [np.concatenate([g for g, f in zip(rewards, flat, strict=True) if f == k] or [np.zeros(0)]) for k in (1, 0)]
    top = max(1.0, *(group.max() for group in rewards))
    edges = np.linspace(min(0.0, *(group.min() for group in rewards)), top, bins + 1)
    ax = ax or plt.subplots()[1]
    labels = ["in groups without variance", "in groups whose rewards differ"]
    ax.hist(split, edges, stacked=True, color=[NEUTRAL, BETTER], label=labels, edgecolor="white", linewidth=0.6)
    share = f"{sum(flat)} of {len(flat)} groups ({np.mean(flat):.0%})".replace("%", " %")
    ax.set(xlabel="reward of a rollout", ylabel="rollouts", title=f"{share} have no variance, so no gradient")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="x", visible=False)
    ax.margins(x=0.02)
    legend_below(ax, points=BELOW_LABEL)
    return ax


@style()
def plot_pass_at_k(groups, threshold: float = 0.5, *, ax=None):
    """How much better the best of k answers is than one: unbiased pass@k against k, over the mean reward.

    `groups`: for each prompt its G rollouts or their rewards; an answer passes from `threshold` on. The band is the
    95 % t-interval over prompts, drawn from two prompts on. Raises ValueError where there is no rollout.

    >>> plot_pass_at_k([[0.0, 1.0], [1.0, 1.0]]).lines[0].get_ydata().tolist()
    [0.75, 1.0]
    """
    rates, rewards = pass_at_k(groups, threshold), group_rewards(groups)
    mean, ks = rates.mean(1), np.arange(1, len(rates) + 1)
    ax = ax or plt.subplots()[1]
    label = f"pass@k: best of k earns {threshold:g} or more"
    ax.plot(ks, mean, "o-", color=BETTER, markersize=5, label=label, zorder=3)
    if rates.shape[1] > 1:
        prompts = rates.shape[1]
        half = stdtrit(prompts - 1, 0.975) * rates.std(1, ddof=1) / math.sqrt(prompts)
        low, high = np.clip(mean - half, 0, 1), np.clip(mean + half, 0, 1)
        label = f"95 % t-interval, {prompts} prompts"
        ax.fill_between(ks, low, high, color=BETTER, alpha=0.2, linewidth=0, label=label)
    average = float(np.mean([group.mean() for group in rewards]))
    ax.axhline(average, color=NEUTRAL, linestyle=(0, (1, 1.5)), linewidth=1.6, label=f"mean reward {average:.2f}")
    ax.set(xlabel="answers per prompt, k", ylabel="share of prompts", ylim=(0, 1.03))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    legend_below(ax, points=BELOW_LABEL)
    return ax
