"""Experiments: grids and conditions; supervised runs, curricula, and what is made of the logs."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from pr1kit import (
    load_policy,
    make_scenes,
    parse,
    plot_ablation,
    plot_fault_map,
    plot_gain_vs_headroom,
    plot_perplexity,
    plot_scaling,
)
from pr1kit.evaluation.intervals import rank_correlation
from pr1kit.experiments import cells
from pr1kit.experiments.claim import BEYOND, Claim
from pr1kit.experiments.condition import HEADLINE, Condition, templated_thought
from pr1kit.experiments.demo import DEMO
from pr1kit.experiments.grid import fast, full, of_policy
from pr1kit.experiments.headroom_claim import headroom_table, predicted_and_gained
from pr1kit.experiments.paper_claims import CLAIMS, claim_table, claims_page
from pr1kit.experiments.paper_grids import GRIDS
from pr1kit.experiments.run_condition import run_condition
from pr1kit.experiments.runs import FORMAT, ROOT, Run, load_runs, log_file, read_lines, step_rows
from pr1kit.experiments.statistics import holm, mean_interval, p_value, paired_difference, seeds_needed
from pr1kit.experiments.temporal_claims import VIDEO_GRIDS
from pr1kit.models.tiny import build_tokenizer
from pr1kit.plots.drawing import BETTER
from pr1kit.rewards.tasks import get_task
from pr1kit.training.curriculum import easy_to_hard, offline_difficulty, train_curriculum
from pr1kit.training.grpo_settings import TINY
from pr1kit.training.rloo import train_rloo
from pr1kit.training.sft import TINY_SFT, supervised_answer, train_sft


def test_every_grid_can_be_run_and_fast_is_small():
    for grid in (*GRIDS.values(), DEMO):
        conditions = [Condition.of(fields) for fields in grid.cells().values()]
        assert len(set(conditions)) == len(conditions) > 1
        assert grid.claim
        for cell, fields in grid.cells().items():
            chosen = grid.factors_of(cell)
            assert list(chosen) == list(grid.factors)
            assert cell == "-".join(filter(None, chosen.values()))
            assert fields == {
                **grid.base,
                **{k: v for f, name in chosen.items() for k, v in grid.factors[f][name].items()},
            }
        small = [Condition.of(fields) for fields in fast(grid).cells().values()]
        assert {(c.steps, c.held_out, c.prompts_per_step) for c in small} == {(4, 8, 4)}
        assert len(fast(grid).seeds) == 1
        large = [Condition.of(fields) for fields in full(of_policy(grid, "a/model")).cells().values()]
        assert {(c.steps, c.held_out, c.policy) for c in large} == {(200, 1000, "a/model")}
        assert len(full(grid).seeds) == 5
    assert all(len(grid.seeds) >= 3 for grid in GRIDS.values())


def test_what_is_trained_is_what_the_condition_names():
    demo = {task: Condition.of(fields) for task, fields in DEMO.cells().items()}
    assert demo["counting"].rl_settings() == replace(TINY, learning_rate=1e-4, steps=50, num_generations=16)
    assert demo["grounding"].rl_settings() == replace(TINY, learning_rate=5e-5, steps=120)
    own = {"recipe": "paper", "drop": ("class",), "beta": 0.1, "kl_estimator": "kimi", "num_generations": 4}
    settings = Condition("detection", lr_scale=0.5, prompts_per_step=8, start="thoughts", **own).rl_settings(3, 0.5)
    few = {"steps": 20, "prompts_per_step": 8, "micro_prompts": 8, "max_completion_length": 112, "seed": 3}
    assert settings == replace(TINY, learning_rate=5e-5, thinking=True, **own, **few)
    assert Condition("ocr").sft_settings(2, 0.5) == replace(TINY_SFT, steps=12, seed=2)
    assert Condition("ocr", num_generations=4).sft_settings().steps == 12  # RL's steps are half as long
    with pytest.raises(ValueError, match="Unknown factor rate: the factors are task, policy"):
        Condition.of({"rate": 0.5})


def test_a_request_to_think_begins_a_sentence():
    for task in HEADLINE:
        words = get_task(task).prompt("red cross", thinking=True)
        assert re.search(r"\. Think first", words), words


def test_the_tiny_vocabulary_is_the_one_its_weights_know():
    shipped_one, made_now = load_policy("tiny").processor.tokenizer, build_tokenizer()
    assert made_now.get_vocab() == shipped_one.get_vocab()
    text = "Output all the bounding boxes of the cross Think first"
    assert made_now.encode(text) == shipped_one.encode(text)


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


def test_tasks_that_are_trained_together_are_trained_once_and_measured_each(tmp_path):
    few = {"steps": 1, "prompts_per_step": 2, "num_generations": 2, "held_out": 2, "probes": 0, "max_new_tokens": 16}
    rows = {}
    for task, other, scale in (("grounding", "counting", 1.5), ("counting", "grounding", 0.75)):
        condition = Condition(task, together=(other,), lr_scale=scale, scale_rewards="task", **few)
        outcome = run_condition(condition, 0, tmp_path / task, tmp_path / "work")
        assert {sample.task for sample in outcome.after.samples} == {task}
        rows[task] = outcome.rows
    assert rows["grounding"] == rows["counting"]
    assert [row["step"] for row in rows["counting"]] == [1, 2]
    assert len(list((tmp_path / "work" / "together").glob("*/settings.json"))) == 1
    logged = {name for row in step_rows(rows["counting"]) for name in row}
    assert {"reward/grounding", "reward/counting", "reward_spread/grounding"} <= logged


def test_a_fault_is_of_the_truth_that_is_trained_on_alone():
    clean, faulty = (Condition("counting", fault=f, fault_size=0.3).training_scenes(20, 0) for f in ("none", "missing"))
    held_out = Condition("counting", fault="missing", fault_size=0.3).scenes(20, 0, "test")
    assert sum(len(s.target.boxes) for s in faulty) < sum(len(s.target.boxes) for s in clean)
    same = Condition("counting").scenes(20, 0, "test")
    assert [s.target.to_dict() for s in held_out] == [s.target.to_dict() for s in same]
    with pytest.raises(ValueError, match="Unknown fault 'blur'"):
        Condition(fault="blur")


def test_few_scenes_are_gone_through_again_with_the_same_faults(tmp_path, monkeypatch):
    seen = {}

    def training(method):
        def train(policy, samples, folder, settings, **options):
            seen[method] = [str(sample.target.to_dict()) for sample in samples]
            return [{"step": 1}]

        return train

    for method, name in (("sft", "train_sft"), ("rl", "train_grpo")):
        monkeypatch.setattr(f"pr1kit.experiments.run_condition.{name}", training(method))
    few = {"steps": 12, "prompts_per_step": 8, "held_out": 2, "sampled": 1, "probes": 0, "max_new_tokens": 8}
    few |= {"fault": "missing", "fault_size": 0.3}
    for count, expected in ((0, {"rl": 96, "sft": 96}), (20, {"rl": 20, "sft": 20}), (5000, {"rl": 96, "sft": 896})):
        for method in ("rl", "sft"):
            condition = Condition("counting", method=method, distinct_scenes=count, **few)
            run_condition(condition, 0, tmp_path / f"{method}-{count}", tmp_path / "work")
        assert {method: len(samples) for method, samples in seen.items()} == expected
        assert seen["rl"] == seen["sft"][: len(seen["rl"])]
    with pytest.raises(ValueError, match="how many scenes there are"):
        Condition(distinct_scenes=-1)


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


def test_a_claim_about_several_tasks_has_one_difference_a_seed():
    runs = runs_of({("ocr", "4"): (0.0, 0.0), ("ocr", "8"): (0.1, 0.2), ("counting", "4"): (0.0, 0.1)})
    runs += runs_of({("counting", "8"): (0.3, 0.0), ("grounding", "8"): (9.0, 9.0)})  # one without its pair
    claim = Claim("", "", "", {"level": "8"}, {"level": "4"})
    assert claim.differences(runs, "sampled") == pytest.approx([(0.1 + 0.3) / 2, (0.2 - 0.1) / 2])
    alone = Claim("", "", "", {"level": "4"}, None)
    assert alone.differences(runs, "sampled") == pytest.approx([0.0, 0.05])


def test_related_conditions_widen_the_interval_of_a_rank_correlation():
    """Ten groups of ten equal pairs say as much as ten pairs."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=10)
    y = x + rng.normal(size=10)
    often, groups = (np.repeat(x, 10), np.repeat(y, 10)), np.repeat(np.arange(10), 10)
    width = {name: np.ptp(rank_correlation(*often, groups=g)[1:]) for name, g in (("all", None), ("groups", groups))}
    assert width["groups"] > 2 * width["all"]
    assert rank_correlation(x, y) == rank_correlation(x, y, groups=np.arange(10))


def test_the_predictor_of_gain_is_asked_of_each_condition_once(tmp_path):
    runs = runs_of({("ocr", "few"): (0.1, 0.3), ("counting", "few"): (0.2, 0.2)}, headroom=lambda i: i)
    for run in runs:
        run.results["before"]["sampled"]["reward"], run.results["after"]["sampled"]["reward"] = 0.5, 0.5 + run.seed
    assert predicted_and_gained(runs, "gap") == (["ocr", "counting"], [0.0, 1.0], [0.5, 0.5])
    assert headroom_table(tmp_path) == ""
    assert headroom_table().count("`headroom`") == 1


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
    ax = plot_perplexity({f"set {i}": [i] for i in range(1, 7)})
    assert [text.get_text() for text in ax.get_legend().get_texts()][:-1] == [f"set {i}" for i in range(1, 7)]


def test_a_map_of_faults_shows_both_gains_and_whether_the_lead_is_sure():
    gains = {"clean": (-0.05, 0.01), "jitter 15 %": (0.02, 0.03), "jitter 30 %": (0.1, 0.01), "loose 15 %": (0.0, 0.03)}
    runs = [
        replace(run, factors={"task": task, "truth": truth, "method": method})
        for task in ("counting", "detection")
        for truth, (lead, noise) in gains.items()
        if (task, truth) != ("counting", "loose 15 %")
        for method, values in (("RL", (lead + noise, lead, lead - noise)), ("SFT", (0, 0, 0)))
        for run in runs_of({("x", "y"): values})
    ]
    panels = plot_fault_map(runs)
    assert [[panel.get_visible() for panel in row] for row in panels] == [[True, False], [True, True]]
    assert panels[1, 1].get_title("left") == "detection: boxes too large"
    for panel in panels[:, 0]:
        said = {text.get_text(): text for text in panel.texts}
        assert list(said) == ["−0.05", "+0.02", "+0.10"]
        assert [text.get_fontweight() for text in said.values()] == ["bold", "normal", "bold"]
        (rl,) = [line for line in panel.lines if len(line.get_xdata()) == 3 and line.get_color() == BETTER]
        assert list(rl.get_xdata()) == [0, 15, 30]
        assert rl.get_ydata() == pytest.approx([-0.05, 0.02, 0.1])
    assert [text.get_text() for text in panels[1, 1].texts] == ["−0.05", "+0.00"]
    with pytest.raises(ValueError, match="No runs to pair"):
        plot_fault_map([run for run in runs if run.factors["method"] == "RL"])
    with pytest.raises(ValueError, match="no runs with faults"):
        plot_fault_map([run for run in runs if run.factors["truth"] == "clean"])


def test_the_grids_of_faults_can_be_run_and_both_methods_meet_the_same_truth():
    names = ("annotation-faults", "annotation-labels")
    cells = [Condition.of(fields) for name in names for fields in GRIDS[name].cells().values()]
    assert len(set(cells)) == len(cells) == 2 * (2 * 7 + 2)
    for task in ("counting", "detection"):
        rl, sft = (
            {(c.fault, c.fault_size): c for c in cells if (c.task, c.method) == (task, method)}
            for method in ("rl", "sft")
        )
        assert set(rl) == set(sft)
        for fault, condition in rl.items():
            one, other = (c.training_scenes(8, 3) for c in (condition, sft[fault]))
            assert [s.target.to_dict() for s in one] == [s.target.to_dict() for s in other]
    reused = [
        sum(Condition.of(fields) in cells for fields in GRIDS[name].cells().values())
        for name in ("annotation-amount", "annotation-order")
    ]
    assert reused == [4, 4], "what the map has run already is copied"
    faults = {condition.fault for condition in cells}
    assert faults == {"none", "jitter", "loose", "missing", "labels"}


LOGGED = [name for name, grid in GRIDS.items() if log_file(grid).exists()]  # others are to be run


def test_every_log_and_every_claim_is_about_a_grid_that_was_run():
    logged = {path.name.removesuffix(".jsonl.gz") for path in ROOT.glob("*.jsonl.gz")}
    assert logged - {*VIDEO_GRIDS, cells.LOG.removesuffix(".jsonl.gz")} == set(LOGGED)
    assert {claim.grid for claim in CLAIMS if claim.source != BEYOND} <= set(LOGGED)


@pytest.mark.parametrize("name", LOGGED)
def test_the_logs_that_come_with_the_kit_are_whole_and_of_these_conditions(name):
    grid = GRIDS[name]
    lines = read_lines(log_file(grid))
    assert set(grid.seeds_of) <= set(grid.cells())
    assert {(line["cell"], line["seed"]) for line in lines} == set(grid.plan())
    for line in lines:
        assert line["format"] == FORMAT
        assert Condition.of(line["condition"]) == Condition.of(grid.cells()[line["cell"]])
    for run in load_runs(grid):
        assert len(run.steps) >= 9
        assert np.isfinite([row["loss"] for row in run.steps]).all()


def test_claims_are_judged_by_the_logs_and_stand_beside_them():
    for claim in CLAIMS:
        factors = GRIDS[claim.grid].factors
        for levels_ in (claim.one, claim.other or {}, claim.where):
            assert all(level in factors[name] for name, level in levels_.items())
    _, _, *rows = claim_table().splitlines()
    assert len(rows) == len([claim for claim in CLAIMS if claim.grid in LOGGED])
    verdicts = {"holds", "the opposite holds", "less than 0.02 apart", "not shown"}
    assert {row.split(" | ")[-2] for row in rows} <= verdicts
    assert (ROOT / "README.md").read_text(encoding="utf-8") == claims_page(), "write it: experiments --claims --write"
    assert claim_table("curriculum").splitlines()[2:] == [row for row in rows if "shuffled" in row]


def test_the_readme_is_short_and_names_what_there_is():
    root = ROOT.parent.parent
    text = (root / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    linked = re.findall(r"\]\(([\w./-]+)\)", text)
    named = re.findall(r"`((?:pr1kit|tests|data)/[\w./-]+)`|python (tests/[\w./-]+)", text)
    assert len(linked) > 15
    for path in [*linked, *(one or other for one, other in named)]:
        assert (root / path).exists(), path


def test_many_claims_are_corrected_together():
    """Against scipy's own t-test, and Holm's step-down by hand."""
    values = [0.1, 0.1, 0.2]
    assert p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert (p_value([0.0, 0.0]), p_value([0.3]), p_value([0.2, 0.2])) == (1, 1, 0)
    assert holm([0.04, 0.01, 0.03, 0.005]).tolist() == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.9, 0.8]).max() == 1
    luck = np.random.default_rng(0).random((2000, 20))  # no claim holds
    assert np.mean([holm(row).min() < 0.05 for row in luck]) < 0.065


def test_so_many_seeds_are_needed_and_one_less_is_too_few():
    few = [0.10, 0.16, 0.13]  # standard deviation 0.03
    n = seeds_needed(few)
    assert [stats.t.ppf(0.975, m - 1) * 0.03 / m**0.5 <= 0.02 for m in (n - 1, n)] == [False, True]
    assert seeds_needed([0.1]) is None
    assert seeds_needed([0.1, 0.1]) == 2
