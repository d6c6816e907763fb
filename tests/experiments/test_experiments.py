"""Experiments: grids in folders, resumed and refused; supervised runs, curricula, and what is made of the logs."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from pr1kit import load_policy, make_scenes, parse, plot_ablation, plot_gain_vs_headroom, plot_perplexity, plot_scaling
from pr1kit.data.shipped import shipped
from pr1kit.experiments import condition
from pr1kit.experiments.condition import Condition, templated_thought
from pr1kit.experiments.grid import Grid, fast, full, levels, of_policy
from pr1kit.experiments.paper_claims import CLAIMS, claim_table
from pr1kit.experiments.paper_grids import GRIDS
from pr1kit.experiments.runner import replay, run_grid
from pr1kit.experiments.runs import ROOT, Run, load_runs, provenance
from pr1kit.experiments.statistics import holm, mean_interval, p_value, paired_difference, rank_correlation
from pr1kit.training.curriculum import easy_to_hard, offline_difficulty, train_curriculum
from pr1kit.training.grpo_settings import TINY
from pr1kit.training.rloo import train_rloo
from pr1kit.training.sft import TINY_SFT, supervised_answer, train_sft

SMALL = {"steps": 2, "held_out": 4, "preparation": 2, "prompts_per_step": 4}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A grid of two conditions, run."""
    root = tmp_path_factory.mktemp("runs")
    grid = Grid("small", "a claim", {"method": levels("method", "sft", "sft+rl")}, {"task": "ocr", **SMALL}, (0,))
    run_grid(grid, root / "results", work=root / "work")
    return grid, root


def test_a_run_leaves_its_condition_its_steps_and_its_results(finished):
    grid, root = finished
    folder = root / "results" / "small" / "sft+rl" / "seed-0"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "environment.json", "results.json", "steps.csv",
    ]  # fmt: skip
    assert Condition.of(json.loads((folder / "config.json").read_text())["condition"]).method == "sft+rl"
    runs = load_runs(grid, root / "results")
    assert [(run.cell, run.seed, run.factors) for run in runs] == [
        ("sft", 0, {"method": "sft"}), ("sft+rl", 0, {"method": "sft+rl"}),
    ]  # fmt: skip
    assert [row["phase"] for row in runs[1].steps] == ["sft", "rl"]
    assert all(np.isfinite(row["loss"]) for run in runs for row in run.steps)
    for run in runs:
        assert {"device", "versions", "commit", "seconds", "finished"} <= set(run.environment)
        for when in ("before", "after"):
            assert run.results[when]["greedy"]["headline"] == pytest.approx(
                1 - run.results[when]["greedy"]["edit_distance"]
            )
        assert 0 <= run.results["headroom"]["no_signal"] <= 1
    assert runs[0].results["before"] == runs[1].results["before"]
    assert runs[0].results["after"] != runs[1].results["after"]
    assert provenance(runs).startswith("Replaying 2 logged runs, 2 conditions × seeds 0")


def test_finished_runs_are_skipped_and_a_cut_one_is_run_again(finished, monkeypatch):
    grid, root = finished
    done = root / "results" / "small" / "sft" / "seed-0"
    before = {path.name: path.stat().st_mtime_ns for path in done.iterdir()}
    asked = []
    monkeypatch.setattr(
        "pr1kit.experiments.condition.run_condition", lambda *a, **k: asked.append(a) or ([], {"before": 1})
    )
    run_grid(grid, root / "results", work=root / "work")
    assert asked == []
    assert before == {path.name: path.stat().st_mtime_ns for path in done.iterdir()}
    shutil.copytree(done, kept := root / "kept")
    (done / "results.json").unlink()
    run_grid(grid, root / "results", work=root / "work")
    assert [condition.method for condition, *_ in asked] == ["sft"]
    shutil.rmtree(done)
    kept.replace(done)


def test_a_run_that_another_grid_has_made_is_copied(finished, monkeypatch):
    grid, root = finished
    monkeypatch.setattr(condition, "run_condition", lambda *a, **k: pytest.fail("it is run twice"))
    other = Grid("other", "", {"task": levels("task", "ocr")}, {**SMALL, "method": "sft"}, (0,))
    run_grid(other, root / "results", work=root / "work")
    (copy,), (original, _) = load_runs(other, root / "results"), load_runs(grid, root / "results")
    assert copy.results == original.results
    assert copy.steps == original.steps
    assert copy.factors == {"task": "ocr"}


def test_what_is_not_ours_is_refused_and_kept(finished, tmp_path):
    grid, root = finished
    changed = Grid("small", "", grid.factors, {**grid.base, "steps": 5}, (0,))
    config = root / "results" / "small" / "sft" / "seed-0" / "config.json"
    text = config.read_text()
    with pytest.raises(ValueError, match="another configuration"):
        run_grid(changed, root / "results", work=root / "work")
    assert config.read_text() == text
    with pytest.raises(ValueError, match="Unknown factor rollouts: the factors are task, policy"):
        run_grid(Grid("x", "", {"rollouts": levels("rollouts", 4)}), tmp_path)
    with pytest.raises(ValueError, match="Unknown order 'backwards'"):
        run_grid(Grid("x", "", {"order": levels("order", "backwards")}), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="no finished run of 'x'"):
        load_runs(Grid("x", "", {}), tmp_path)


def test_another_policy_is_taken_by_its_name(tmp_path, monkeypatch, capsys):
    name = str(shutil.copytree(shipped("tiny-policy"), tmp_path / "another"))
    grid = Grid("named", "", {"task": levels("task", "grounding")}, {**SMALL, "method": "sft+rl"}, (0,))
    monkeypatch.chdir(tmp_path)
    (run,) = replay(grid, name, run=True)
    assert [row["phase"] for row in run.steps] == ["sft", "rl"]
    assert "Replaying 1 logged runs" in capsys.readouterr().out
    assert (tmp_path / "runs/experiments-another/named/grounding/seed-0/results.json").exists()
    condition = Condition.of(of_policy(grid, name).cells()["grounding"])
    assert (condition.rl_settings().micro_prompts, condition.max_tokens) == (1, 768)  # the paper's
    assert replay(grid, name)[0].results == run.results
    with pytest.raises(FileNotFoundError, match="no finished run of 'named' in runs"):
        replay(grid, "a/third")


@pytest.mark.parametrize("name", ["results.json", "config.json", "environment.json", "steps.csv"])
def test_a_damaged_log_is_named(finished, name):
    grid, root = finished
    path = root / "results" / "small" / "sft" / "seed-0" / name
    text = path.read_text()
    path.write_text(text[:-3])
    try:
        with pytest.raises(ValueError, match=r"seed-0.* is damaged"):
            load_runs(grid, root / "results")
    finally:
        path.write_text(text)


def test_every_grid_can_be_run_and_fast_is_small():
    for grid in GRIDS.values():
        conditions = [Condition.of(fields) for fields in grid.cells().values()]
        assert len(set(conditions)) == len(conditions) > 1
        assert len(grid.seeds) >= 3
        assert grid.claim
        assert {grid.factors_of(cell) != {} for cell in grid.cells()} == {True}
        small = [Condition.of(fields) for fields in fast(grid).cells().values()]
        assert {(c.steps, c.held_out) for c in small} == {(4, 8)}
        assert len(fast(grid).seeds) == 1
        large = [Condition.of(fields) for fields in full(grid).cells().values()]
        assert all(condition.steps == 200 for condition in large)
        assert len(full(grid).seeds) == 5


def test_supervision_teaches_the_truth(tmp_path):
    policy, scenes = load_policy("tiny"), make_scenes("grounding", 32, 5)
    log = train_sft(policy, scenes, tmp_path, _few(steps=6, batch_size=32, micro_batch=32, save_steps=3))
    assert [row["step"] for row in log] == [1, 2, 3, 4, 5, 6]
    assert log[-1]["loss"] < log[0]["loss"]
    again = load_policy("tiny")
    assert train_sft(again, scenes, tmp_path, _few(steps=6, batch_size=32, micro_batch=32, save_steps=3)) == log
    pairs = zip(policy.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all((one == other).all() for one, other in pairs)
    with pytest.raises(ValueError, match="Thinking needs `thought`"):
        train_sft(policy, scenes, tmp_path, _few(thinking=True))
    with pytest.raises(ValueError, match="no samples"):
        train_sft(policy, [], tmp_path)


def _few(**changes):
    return type(TINY_SFT)(**{**asdict(TINY_SFT), **changes})


@pytest.mark.parametrize("task", ["grounding", "counting", "ocr", "detection"])
def test_supervised_answers_are_perfect_and_thoughts_do_not_count(task):
    from pr1kit import score

    policy = load_policy("tiny")
    for scene in make_scenes(task, 5, 0):
        thought = templated_thought(scene)
        assert thought.startswith("I see ")
        assert parse(task, f"<think>{thought}</think>").reason
        for answer in (supervised_answer(scene, policy), supervised_answer(scene, policy, thought)):
            assert score(task, answer, scene.target, frame=policy.frame(scene.image.size)).total == 1


def test_a_curriculum_goes_from_easy_to_hard_at_constant_completions(tmp_path):
    policy, scenes = load_policy("tiny"), make_scenes("counting", 12, 3)
    difficulty = offline_difficulty(policy, scenes, num_generations=2, max_new_tokens=64)
    assert difficulty.shape == (12,)
    assert difficulty.min() == 0
    assert difficulty.max() <= 1
    stages = easy_to_hard(scenes, difficulty, 3, (2, 4))
    assert [(len(s.samples), s.num_generations, s.steps) for s in stages] == [(8, 2, 2), (4, 4, 1)]
    hardest = dict(zip((scene.id for scene in scenes), difficulty, strict=True))
    one, other = ([hardest[sample.id] for sample in stage.samples] for stage in stages)
    assert max(one) <= min(other)
    settings = type(TINY)(**{**asdict(TINY), "num_generations": 4, "prompts_per_step": 2, "micro_prompts": 2})
    log = train_curriculum(policy, stages, tmp_path, settings)
    assert [row["step"] for row in log] == [1, 2, 3]
    first, second = ((tmp_path / f"stage-{k}" / "rollouts.jsonl").read_text().splitlines() for k in (1, 2))
    assert [len(json.loads(line)["rewards"]) for line in (first[0], second[0])] == [2, 4]
    assert len(first) == 2 * 4
    assert len(second) == 1 * 2
    with pytest.raises(ValueError, match="3 stages need"):
        easy_to_hard(scenes, difficulty, 2)


def test_rloo_trains_through_trl(tmp_path):
    policy = load_policy("tiny")
    settings = replace(TINY, steps=2, num_generations=2, prompts_per_step=2, micro_prompts=2, max_completion_length=16)
    log = train_rloo(policy, make_scenes("ocr", 4, 1), tmp_path, settings)
    assert [row["step"] for row in log] == [1, 2]
    assert all(0 <= row["reward"] <= 1 for row in log)
    fresh = load_policy("tiny").model.state_dict()
    assert any((value != fresh[name]).any() for name, value in policy.model.state_dict().items())


def runs_of(gains, headroom=lambda i: i):
    """Runs whose sampled headline rises by what `gains` says: `{(task, level): (gain of each seed, …)}`."""
    return [
        Run(
            f"{task}-{level}",
            seed,
            {"task": task, "level": level},
            {
                "before": {"sampled": {"headline": 0.25}},
                "after": {"sampled": {"headline": 0.25 + gain}},
                "headroom": {"gap": headroom(i)},
            },
            [],
            {},
        )
        for i, ((task, level), each) in enumerate(gains.items())
        for seed, gain in enumerate(each)
    ]


def test_differences_are_paired_over_seeds():
    runs = runs_of({("ocr", "4"): (0.1, 0.3, 0.5), ("ocr", "8"): (0.2, 0.4, 0.7), ("grounding", "4"): (9, 9, 9)})
    mean, low, high = paired_difference(runs, {"level": "8"}, {"level": "4"})
    assert mean == pytest.approx(0.4 / 3)
    assert (low, high) == pytest.approx(mean_interval([0.1, 0.1, 0.2])[1:])
    with pytest.raises(ValueError, match="No runs to pair"):
        paired_difference(runs, {"level": "16"}, {"level": "4"})
    assert mean_interval([0.5])[0] == 0.5
    assert np.isnan(mean_interval([0.5])[1])


def test_rank_correlation_has_an_interval_that_shrinks_with_evidence():
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = x + rng.normal(size=200)
    rho, low, high = rank_correlation(x, y)
    few = rank_correlation(x[:12], y[:12])
    assert low < rho < high
    assert high - low < few[2] - few[1]
    assert 0.55 < rho < 0.8
    assert np.isnan(rank_correlation([1, 2], [3, 3])[0])


def test_charts_show_every_seed_and_what_they_say():
    gains = {("ocr", "4"): (0.1, 0.2, 0.3), ("ocr", "8"): (0.3, 0.4, 0.2), ("grounding", "4"): (0, -0.1, 0.1)}
    runs = runs_of(gains, headroom=lambda i: [2, 3, 1][i])
    ax = plot_ablation(runs, "level")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["4", "8"]
    assert sum(len(dots.get_offsets()) for dots in ax.collections) == 9
    with pytest.raises(ValueError, match="no factor 'matching'"):
        plot_ablation(runs, "matching")
    one_seed = plot_ablation(runs_of({("ocr", "4"): (0.1,), ("ocr", "8"): (0.3,)}), "level")
    assert np.allclose([dots.get_offsets()[0] for dots in one_seed.collections], [(0, 0.1), (1, 0.3)])
    ax = plot_scaling(runs_of({**gains, ("grounding", "8"): (0, 0, 0)}), "level")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ocr", "grounding"]
    ax = plot_gain_vs_headroom(runs, "gap")
    assert ax.get_title("left").startswith("rank correlation +1.00")
    assert ax.get_xlabel() == "before: gap"
    ax = plot_perplexity({"few": [1, 2, 3], "crowded": [1, 2, 30]})
    assert max(line.get_xdata()[-1] for line in ax.lines) == pytest.approx(32.42, abs=0.01)


@pytest.mark.parametrize("name", GRIDS)
def test_the_logs_that_come_with_the_kit_are_whole_and_of_these_conditions(name):
    grid = GRIDS[name]
    runs = load_runs(grid)
    assert {(run.cell, run.seed) for run in runs} == {(cell, seed) for cell in grid.cells() for seed in grid.seeds}
    for cell, fields in grid.cells().items():
        for folder in (ROOT / name / cell).iterdir():
            config = json.loads((folder / "config.json").read_text())
            assert Condition.of(config["condition"]) == Condition.of(fields)
            assert sum(file.stat().st_size for file in folder.iterdir()) < 50_000
    for run in runs:
        assert len(run.steps) >= 20
        assert np.isfinite([row["loss"] for row in run.steps]).all()


def test_claims_are_judged_by_the_logs_and_the_readme_says_the_same():
    for claim in CLAIMS:
        factors = GRIDS[claim.grid].factors
        for levels_ in (claim.one, claim.other, claim.where):
            assert all(level in factors[name] for name, level in levels_.items())
    header, line, *rows = claim_table().splitlines()
    assert len(rows) == len(CLAIMS)
    assert {row.split(" | ")[-1] for row in rows} <= {"holds |", "not shown |", "the opposite holds |"}
    assert "\n".join([header, line, *rows]) in (ROOT.parent.parent / "README.md").read_text(encoding="utf-8")
    assert claim_table("curriculum").splitlines()[2:] == [row for row in rows if "shuffled" in row]


def test_many_claims_are_corrected_together():
    """Against scipy's own t-test, and Holm's step-down by hand."""
    values = [0.1, 0.1, 0.2]
    assert p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert (p_value([0.0, 0.0]), p_value([0.3]), p_value([0.2, 0.2])) == (1, 1, 0)
    assert holm([0.04, 0.01, 0.03, 0.005]).tolist() == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.9, 0.8]).max() == 1
    luck = np.random.default_rng(0).random((2000, 20))  # no claim holds
    assert np.mean([holm(row).min() < 0.05 for row in luck]) < 0.065
