"""Is the run healthy? What its log tells of collapse, drift and lost signal, a small chart each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pr1kit.data.durable_files import read_log
from pr1kit.plots.charts import PART_COLOURS, running_mean
from pr1kit.plots.drawing import BETTER, INK, legend_below, style


class Chart(NamedTuple):
    """The fields of the log that a chart draws, by pattern, under which names; between those of `band` it is grey."""

    title: str
    lines: Mapping[str, str]
    band: tuple[str, ...] = ()
    share: bool = False


CHARTS = (
    Chart("reward, mean of a step", {"reward": "reward", "reward/*": ""}),
    Chart("spread within groups (standard deviation)", {"reward_std": ""}),
    Chart("groups without variance", {"frac_reward_zero_std": ""}, share=True),
    Chart("KL to the reference (nats a token)", {"kl": ""}),
    Chart("entropy (nats a token)", {"entropy": ""}),
    Chart("tokens whose ratio was clipped", {"clip_ratio/region_mean": ""}, share=True),
    Chart(
        "completion length (tokens)",
        {"completions/mean_length": "mean"},
        band=("completions/min_length", "completions/max_length"),
    ),
    Chart("answers cut off at the limit", {"completions/clipped_ratio": ""}, share=True),
    Chart("norm of the gradient", {"grad_norm": ""}),
    Chart("loss", {"loss": ""}),
)
RUN_COLOURS = (INK, *PART_COLOURS[:5])
WIDTH, HEIGHT, COLUMNS = 3.5, 2.25, 3  # inches of a chart, charts in a row


Run = str | Path | Sequence[Mapping]


@style()
def plot_diagnostics(
    run: Run | Mapping[str, Run], *, only: Sequence[str] = (), window: int | None = None
) -> np.ndarray:
    """A run's log as small charts, returned as an array of their axes: reward and parts, spread, groups without
    variance, KL, entropy, clipped ratios, completion length, answers cut off, gradient norm, loss.

    `run` is a run's folder, its `log.jsonl`, or the rows that a trainer returned; or several, by name, drawn over one
    another without the parts of their rewards. `only` names fields of the log whose charts are wanted. What no log has
    (KL where beta is 0, rewards of an SFT run) has no chart. Faint: each logged step; strong: a running mean over
    `window` of them (default: a tenth of the run). Raises FileNotFoundError where there is no log, ValueError where it
    has nothing to draw.

    >>> axes = plot_diagnostics([{"step": 1, "entropy": 0.7}, {"step": 2, "entropy": 0.4}])
    >>> [ax.get_title(loc="left") for ax in axes]
    ['entropy (nats a token)']
    """
    runs = {name: _rows(each) for name, each in (run if isinstance(run, Mapping) else {"": run}).items()}
    fields = {name for rows in runs.values() for row in rows for name, value in row.items() if _is_number(value)}
    wanted = [chart for chart in CHARTS if not only or _lines(chart, set(only))]
    drawn = [(chart, lines) for chart in wanted if (lines := _lines(chart, fields))]
    if len(runs) > len(RUN_COLOURS):
        raise ValueError(f"At most {len(RUN_COLOURS)} runs can be told apart, got {len(runs)}.")
    if not drawn:
        names = ", ".join(only or dict.fromkeys(name for chart in CHARTS for name in chart.lines))
        raise ValueError(f"Nothing to diagnose: the log needs rows with 'step' and any of {names}.")
    columns = min(COLUMNS, len(drawn))
    height = -(-len(drawn) // columns)
    figure, grid = plt.subplots(height, columns, figsize=(WIDTH * columns, HEIGHT * height), squeeze=False)
    for ax, (chart, lines) in zip(grid.flat, drawn, strict=False):
        if len(runs) == 1:
            _draw(ax, chart, lines, next(iter(runs.values())), window)
        for name, rows, colour in zip(runs, runs.values(), RUN_COLOURS, strict=False) if len(runs) > 1 else ():
            _draw(ax, chart._replace(band=()), {next(iter(lines)): name}, rows, window, colour)
        if len(lines) > 1 or chart.band or len(runs) > 1:
            legend_below(ax, points=16)
    for ax in grid.flat[len(drawn) :]:
        ax.remove()
    figure.supxlabel("training step", fontsize=9)
    return grid.flat[: len(drawn)]


def _rows(run) -> list[Mapping]:
    if isinstance(run, str | Path):
        path = Path(run)
        run = read_log(path / "log.jsonl" if path.is_dir() else path)
    return sorted((row for row in run if "step" in row), key=lambda row: row["step"])


def _lines(chart: Chart, fields: set[str]) -> dict[str, str]:
    """The fields of a chart that the log has, each with its name in the legend."""
    return {
        field: name or field.partition("/")[2]
        for pattern, name in chart.lines.items()
        for field in sorted(fields)
        if fnmatch(field, pattern)
    }


def _is_number(value) -> bool:
    return isinstance(value, int | float)


def _draw(ax, chart: Chart, lines: Mapping[str, str], rows: list[Mapping], window: int | None, colour="") -> None:
    """The lines of one run, in `colour` or each in its own."""
    window = window or max(1, round(len(rows) / 10))
    steps = np.array([row["step"] for row in rows], float)

    def column(name: str) -> np.ndarray:
        return np.array([row.get(name, np.nan) for row in rows], float)

    width = (window - 1) * (float(np.median(np.diff(steps))) if len(steps) > 1 else 1.0) * 1.0001
    if chart.band and all(np.isfinite(column(name)).any() for name in chart.band):
        low, high = map(column, chart.band)
        ax.fill_between(steps, low, high, color=INK, alpha=0.1, linewidth=0, label="shortest to longest")
    for i, (name, words) in enumerate(lines.items()):
        own = BETTER if name == "reward" else PART_COLOURS[(i - 1) % len(PART_COLOURS)] if len(lines) > 1 else INK
        look = {"color": colour or own}
        ax.plot(steps, column(name), **look, linewidth=0.8, alpha=0.3, gid="raw")
        smooth = running_mean(steps, column(name), steps, width)
        ax.plot(steps, smooth, **look, linewidth=2.0 if name == "reward" else 1.5, label=words, gid=name)
    ax.set_title(chart.title)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.margins(x=0.02)
    if chart.share:
        ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %", decimals=None))
        ax.set_ylim(bottom=0, top=max(ax.get_ylim()[1], 0.01))
