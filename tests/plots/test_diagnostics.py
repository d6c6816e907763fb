"""The charts of a run's log: which there are, and that they hold its numbers."""

import json

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from pr1kit import plot_diagnostics
from pr1kit.plots.diagnostics import CHARTS

ROWS = [
    {
        "step": step,
        "reward": step / 10,
        "reward/format": 1.0,
        "reward/location": step / 20,
        "reward_std": 0.2,
        "frac_reward_zero_std": 0.1 * (step % 3),
        "kl": 0.01 * step,
        "entropy": 0.7 - 0.05 * step,
        "clip_ratio/region_mean": 0.02,
        "completions/mean_length": 20.0,
        "completions/min_length": 10.0,
        "completions/max_length": 40.0,
        "completions/clipped_ratio": 0.0,
        "grad_norm": 0.5,
        "loss": 0.0,
    }
    for step in range(1, 9)
]


@pytest.fixture(autouse=True)
def close_figures():
    matplotlib.use("Agg")
    yield
    plt.close("all")


def titles(axes) -> list[str]:
    return [ax.get_title(loc="left") for ax in axes]


def line(ax, name: str) -> list[float]:
    (found,) = [line for line in ax.lines if line.get_gid() == name]
    return found.get_ydata().tolist()


def test_a_whole_log_has_every_chart_and_its_numbers(tmp_path):
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[::-1]))
    axes = plot_diagnostics(tmp_path, window=1)
    assert titles(axes) == [chart.title for chart in CHARTS]
    assert line(axes[0], "reward") == pytest.approx([step / 10 for step in range(1, 9)])
    assert line(axes[0], "reward/location") == pytest.approx([step / 20 for step in range(1, 9)])
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["reward", "format", "location"]
    assert line(axes[3], "kl") == pytest.approx([0.01 * step for step in range(1, 9)])
    band = axes[6].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (10, 40)
    assert len(axes[0].figure.axes) == len(CHARTS)
    axes[0].figure.draw_without_rendering()


def test_the_running_mean_is_over_the_window():
    (ax,) = plot_diagnostics(
        [{"step": step, "entropy": value} for step, value in ((1, 0.0), (2, 3.0), (3, 6.0))], window=3
    )
    assert line(ax, "entropy") == pytest.approx([1.5, 3.0, 4.5])


def test_what_the_log_lacks_has_no_chart():
    rows = [
        {name: value for name, value in row.items() if name not in ("kl", "completions/min_length")} for row in ROWS
    ]
    axes = plot_diagnostics(rows)
    assert not any("KL" in title for title in titles(axes))
    assert "completion length (tokens)" in titles(axes)
    assert titles(plot_diagnostics([{"step": 1, "loss": 0.5, "grad_norm": 1.0}])) == ["norm of the gradient", "loss"]


def test_gaps_stay_gaps():
    (ax,) = plot_diagnostics([{"step": 1, "kl": 1.0}, {"step": 2}, {"step": 3, "kl": 2.0}], window=1)
    assert np.isnan(line(ax, "kl")[1])


def test_several_runs_are_drawn_over_one_another():
    other = [{**row, "reward": 0.5, "kl": 2.0} for row in ROWS[:4]]
    axes = plot_diagnostics({"sick": other, "cured": ROWS}, only=("reward", "kl", "completions/mean_length"), window=1)
    assert titles(axes) == [CHARTS[0].title, CHARTS[3].title, CHARTS[6].title]
    for ax, name in zip(axes, ("reward", "kl", "completions/mean_length"), strict=True):
        lines = [line for line in ax.lines if line.get_gid() == name]
        assert [line.get_label() for line in lines] == ["sick", "cured"]
        assert [line.get_ydata().tolist() for line in lines] == [[row[name] for row in rows] for rows in (other, ROWS)]
        assert lines[0].get_color() != lines[1].get_color()
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["sick", "cured"]
    with pytest.raises(ValueError, match="At most 6 runs"):
        plot_diagnostics(dict.fromkeys("abcdefg", ROWS))


def test_only_chooses_charts_by_a_field():
    assert titles(plot_diagnostics(ROWS, only=("entropy", "reward/format"))) == [CHARTS[0].title, CHARTS[4].title]
    with pytest.raises(ValueError, match=r"any of entrophy\.$"):
        plot_diagnostics(ROWS, only=("entrophy",))


def test_nothing_to_draw_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="Nothing to diagnose"):
        plot_diagnostics([{"step": 1, "lr": "none"}])
    with pytest.raises(FileNotFoundError, match=r"no log .*log\.jsonl"):
        plot_diagnostics(tmp_path)
