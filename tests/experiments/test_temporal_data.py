"""Data sets by temporal perplexity: what is logged of each, and rank correlations counted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from pr1kit.experiments.charts import plot_gain_vs_headroom
from pr1kit.experiments.runs import Run, load_runs, log_file, read_lines
from pr1kit.experiments.temporal_claims import rank_over_data
from pr1kit.experiments.temporal_data import GRIDS, mix, run_grid
from pr1kit.experiments.temporal_hacking import ClipCondition
from pr1kit.models.policy import load_policy

DATA, AMOUNT = GRIDS["temporal-data"], GRIDS["temporal-amount"]


def test_every_data_set_is_as_large_and_faces_the_same_clips_of_all_tasks_and_difficulties():
    conditions = [ClipCondition.of(values) for values in DATA.cells().values()]
    assert len(conditions) == 12
    assert len({each.steps * each.batch_size for each in conditions}) == 1
    policy = load_policy("tiny-video")
    clips = [mix(replace(conditions[i], held_out=8), policy, 0) for i in (0, 11)]
    assert [clip.id for clip in clips[0]] == [clip.id for clip in clips[1]]
    assert not any(clip.id.endswith("/proxy") for clip in clips[0])
    assert len(clips[0]) == 24


def test_the_many_are_four_times_the_few():
    few, same, many = (ClipCondition.of(values).steps for values in AMOUNT.cells().values())
    assert (few, many) == (same, 4 * few)


def test_a_run_is_logged_once_with_what_its_data_say_before_training(tmp_path):
    grid = replace(AMOUNT, fixed={"steps": 1, "batch_size": 2, "held_out": 2}, seeds=(0,))
    run_grid(grid, tmp_path)
    first = log_file(grid, tmp_path).read_bytes()
    run_grid(grid, tmp_path)
    assert log_file(grid, tmp_path).read_bytes() == first
    runs = load_runs(grid, tmp_path)
    assert [run.cell for run in runs] == list(AMOUNT.cells())
    assert len({str(run.results["before"]) for run in runs}) == 1
    assert runs[1].results["data"] != runs[0].results["data"]
    assert all(np.isfinite(run.gain(name, "mix")) for run in runs for name in ("as it is", "log-likelihood"))


def made_up(task, level, tpl, gain):
    mixes = {"before": {"mix": {"as it is": 0.2}}, "after": {"mix": {"as it is": 0.2 + gain}}}
    return Run(
        f"{task}-{level}", 0, {"task": task, "level": level}, {"data": {"temporal perplexity": tpl}, **mixes}, [], {}
    )


def test_rank_correlations_are_those_counted_by_hand():
    """Within either task higher is better; between them it is worse."""
    runs = [made_up("tracking", "own", 0.6, 0.1), made_up("tracking", "fast", 0.8, 0.2),
            made_up("when", "own", 0.1, 0.3), made_up("when", "fast", 0.2, 0.4)]  # fmt: skip
    seed = {run.cell: run for run in runs}
    assert rank_over_data(seed, "as it is") == pytest.approx(-0.6)  # d² of ranks: 4, 4, 4, 4 -> 1 - 6 * 16 / 60
    assert rank_over_data(seed, "as it is", "task") == pytest.approx(1)
    assert rank_over_data(seed, "as it is", "level") == pytest.approx(-1)
    ax = plot_gain_vs_headroom(runs, "temporal perplexity", value=lambda run: run.gain("as it is", "mix"))
    assert ax.get_title(loc="left").startswith("rank correlation -0.60")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["tracking", "when", "own", "fast"]


LOGGED = [grid for grid in GRIDS.values() if log_file(grid).exists()]


@pytest.mark.parametrize("grid", LOGGED, ids=lambda grid: grid.name)
def test_the_logs_that_come_with_the_kit_are_of_these_conditions(grid):
    cells, lines = grid.cells(), read_lines(log_file(grid))
    assert all(ClipCondition.of(line["condition"]) == ClipCondition.of(cells[line["cell"]]) for line in lines)
    assert {(line["cell"], line["seed"]) for line in lines} == {(cell, seed) for cell in cells for seed in grid.seeds}
