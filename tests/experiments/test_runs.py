"""Logs of runs: written whole, read whole, shared by processes; a run cut off goes on; what is not ours is refused."""

import gzip
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock, Timeout

from pr1kit import load_policy
from pr1kit.data.run_folder import RunFolder
from pr1kit.data.shipped import shipped
from pr1kit.experiments import run_condition as mechanism
from pr1kit.experiments.condition import Condition
from pr1kit.experiments.grid import Grid, levels, of_policy
from pr1kit.experiments.run_condition import run_condition
from pr1kit.experiments.runner import replay, run_grid
from pr1kit.experiments.runs import add_line, load_runs, log_file, provenance, read_lines, step_rows

SMALL = {"steps": 2, "held_out": 4, "preparation": 2, "prompts_per_step": 4}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A grid of two conditions, run."""
    root = tmp_path_factory.mktemp("runs")
    grid = Grid("small", "a claim", {"method": levels("method", "sft", "sft+rl")}, {"task": "ocr", **SMALL}, (0,))
    run_grid(grid, root / "results", work=root / "work")
    return grid, root


@pytest.fixture
def never_run(monkeypatch):
    monkeypatch.setattr(mechanism, "run_condition", lambda *a, **k: pytest.fail("it is run again"))


def test_a_run_leaves_its_condition_its_steps_and_its_results(finished):
    grid, root = finished
    assert sorted(path.name for path in (root / "results").iterdir()) == [".lock", "small.jsonl.gz"]
    assert not list((root / "work" / "small").glob("**/seed-0"))
    line = read_lines(log_file(grid, root / "results"))[1]
    assert set(line) == {"format", "cell", "seed", "condition", "environment", "results", "steps"}
    assert Condition.of(line["condition"]).method == "sft+rl"
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
    assert provenance(runs).startswith("Replaying 2 logged runs, 2 conditions × seeds 0:")
    more = [*runs, replace(runs[0], seed=1), replace(runs[0], seed=2)]
    assert provenance(more).startswith("Replaying 4 logged runs, 2 conditions × 1 to 3 seeds:")


def test_finished_runs_are_skipped(finished, never_run):
    grid, root = finished
    before = log_file(grid, root / "results").read_bytes()
    run_grid(grid, root / "results", work=root / "work")
    assert log_file(grid, root / "results").read_bytes() == before


def test_a_run_that_another_grid_has_made_is_copied(finished, never_run):
    grid, root = finished
    other = Grid("other", "", {"task": levels("task", "ocr")}, {**SMALL, "method": "sft"}, (0,))
    run_grid(other, root / "results", work=root / "work")
    (copy,), (original, _) = load_runs(other, root / "results"), load_runs(grid, root / "results")
    assert (copy.results, copy.steps) == (original.results, original.steps)
    assert copy.factors == {"task": "ocr"}
    log_file(other, root / "results").unlink()


def test_a_run_that_another_process_is_at_is_left_to_it(finished, tmp_path, never_run, capsys):
    grid, root = finished
    cut = tmp_path / "results"
    add_line(log_file(grid, cut), read_lines(log_file(grid, root / "results"))[0])
    (tmp_path / "small" / "sft+rl").mkdir(parents=True)
    with FileLock(tmp_path / "small" / "sft+rl" / "seed-0.lock"):
        run_grid(grid, cut, work=tmp_path)
    assert "sft+rl, seed 0: another process is at it." in capsys.readouterr().out
    assert len(load_runs(grid, cut)) == 1


def test_a_run_that_was_cut_off_goes_on_where_it_was(tmp_path, monkeypatch):
    condition, calls = Condition("ocr", **SMALL), []
    whole = run_condition(condition, 0, tmp_path / "whole", tmp_path / "other")
    generate = mechanism.generate_completions

    def cut_off(*args, **kwargs):
        if len(calls) == 3:  # greedy and sampled before, greedy after: before what was sampled after is kept
            raise KeyboardInterrupt
        calls.append(kwargs["temperature"])
        return generate(*args, **kwargs)

    monkeypatch.setattr(mechanism, "generate_completions", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run_condition(condition, 0, tmp_path / "cut", tmp_path)
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [
        "headroom.json", "rl", "seconds.json",
    ]  # fmt: skip
    weights = tmp_path / "cut" / "rl" / "checkpoint-2" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    monkeypatch.setattr(mechanism, "sample_rollouts", lambda *a, **k: pytest.fail("the headroom is measured again"))
    monkeypatch.setattr(
        mechanism, "generate_completions", lambda *a, **k: calls.append(k["temperature"]) or generate(*a, **k)
    )
    outcome = run_condition(condition, 0, tmp_path / "cut", tmp_path)
    assert calls == [0.0, 1.0, 0.0, 0.0, 1.0]
    same = ("before", "after", "headroom", "steps")
    assert {name: outcome.results()[name] for name in same} == {name: whole.results()[name] for name in same}
    rows = [[(row["reward"], row["grad_norm"]) for row in each.rows] for each in (outcome, whole)]
    assert rows[0] == rows[1]
    assert weights.stat().st_mtime_ns == written


def test_a_prepared_policy_is_made_once_and_in_silence(tmp_path, monkeypatch, capsys):
    condition = Condition("ocr", start="thoughts", **SMALL)
    first = mechanism.prepared(condition, tmp_path).model.state_dict()
    monkeypatch.setattr(mechanism, "train_sft", lambda *a, **k: pytest.fail("it is prepared again"))
    again = mechanism.prepared(condition, tmp_path).model.state_dict()
    assert all((value == again[name]).all() for name, value in first.items())
    start = load_policy("tiny").model.state_dict()
    assert any((value != start[name]).any() for name, value in first.items())
    assert capsys.readouterr() == ("", "")


def test_what_is_not_ours_is_refused_and_kept(finished, tmp_path, never_run):
    grid, root = finished
    changed = Grid("small", "", grid.factors, {**grid.base, "steps": 5}, (0,))
    before = log_file(grid, root / "results").read_bytes()
    with pytest.raises(ValueError, match=r"small\.jsonl\.gz holds a run 'sft' with seed 0 of another configuration"):
        run_grid(changed, root / "results", work=root / "work")
    assert log_file(grid, root / "results").read_bytes() == before
    with pytest.raises(ValueError, match="Unknown factor rollouts: the factors are task, policy"):
        run_grid(Grid("x", "", {"rollouts": levels("rollouts", 4)}), tmp_path)
    with pytest.raises(ValueError, match="Unknown order 'backwards'"):
        run_grid(Grid("x", "", {"order": levels("order", "backwards")}), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="no finished run of 'x'"):
        load_runs(Grid("x", "", {}), tmp_path)


def test_folders_of_an_older_version_are_refused_by_name(finished, tmp_path, never_run):
    (tmp_path / "small" / "sft" / "seed-0").mkdir(parents=True)
    for refused in (load_runs, run_grid):
        with pytest.raises(ValueError, match=r"small holds runs as an older version of the kit kept them.*jsonl\.gz"):
            refused(finished[0], tmp_path)
    (tmp_path / "small" / "demo.json").write_text("{}")
    with pytest.raises(ValueError, match="small' is not empty and holds no run of this version"):
        RunFolder(tmp_path / "small").begin({"seed": 0})


def test_another_policy_is_taken_by_its_name(tmp_path, monkeypatch, capsys):
    name = str(shutil.copytree(shipped("tiny-policy"), tmp_path / "another"))
    grid = Grid("named", "", {"task": levels("task", "grounding")}, {**SMALL, "method": "sft+rl"}, (0,))
    monkeypatch.chdir(tmp_path)
    (run,) = replay(grid, name, run=True)
    assert [row["phase"] for row in run.steps] == ["sft", "rl"]
    assert "Replaying 1 logged runs" in capsys.readouterr().out
    assert (tmp_path / "runs/experiments-another/named.jsonl.gz").exists()
    condition = Condition.of(of_policy(grid, name).cells()["grounding"])
    assert (condition.rl_settings().micro_prompts, condition.max_tokens) == (1, 768)  # the paper's
    assert replay(grid, name)[0].results == run.results
    with pytest.raises(FileNotFoundError, match="no finished run of 'named' in runs"):
        replay(grid, "a/third")


def a_line(cell: str, seed: int, **more) -> dict:
    results = {"before": {}, "after": {}, "steps": 1}
    line = {"format": 2, "cell": cell, "seed": seed, "condition": {}, "environment": {}, "results": results}
    return {**line, "steps": [{"step": 1}], **more}


def test_what_is_written_depends_on_the_runs_alone(tmp_path):
    lines = [a_line(cell, seed) for cell in ("b", "a\u2028") for seed in (10, 2)]
    for name, order in (("one", lines), ("other", [*reversed(lines), lines[0]])):
        for line in order:
            add_line(tmp_path / f"{name}.jsonl.gz", line)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "other.jsonl.gz").read_bytes()
    assert [(line["cell"], line["seed"]) for line in read_lines(tmp_path / "one.jsonl.gz")] == [
        ("a\u2028", 2), ("a\u2028", 10), ("b", 2), ("b", 10),
    ]  # fmt: skip
    add_line(tmp_path / "one.jsonl.gz", a_line("b", 2, condition={"new": 1}))
    assert [line["condition"] for line in read_lines(tmp_path / "one.jsonl.gz")] == [{}, {}, {"new": 1}, {}]


def test_processes_that_finish_together_lose_no_line(tmp_path):
    code = (
        "import sys; from pathlib import Path; from pr1kit.experiments.runs import add_line; import json\n"
        "path, line, cell = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]\n"
        "for seed in range(10): add_line(path, {**line, 'cell': cell, 'seed': seed})"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "g.jsonl.gz"), json.dumps(a_line("", 0))]
    for process in [subprocess.Popen([*arguments, cell]) for cell in "abc"]:
        assert process.wait() == 0
    assert [(line["cell"], line["seed"]) for line in read_lines(tmp_path / "g.jsonl.gz")] == [
        (cell, seed) for cell in "abc" for seed in range(10)
    ]


@pytest.mark.parametrize("damage", ["cut", "changed", "a line", "no gzip", "a row lost", "another file"])
def test_a_damaged_log_is_named(finished, tmp_path, damage):
    grid, root = finished
    raw = log_file(grid, root / "results").read_bytes()
    text, line = gzip.decompress(raw), read_lines(log_file(grid, root / "results"))[0]
    middle = len(raw) // 2
    bad = {
        "cut": raw[:-3],
        "changed": raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :],
        "a line": gzip.compress(text[:-3]),
        "no gzip": text,
        "a row lost": gzip.compress(json.dumps({**line, "steps": line["steps"][:-1]}).encode()),
        "another file": gzip.compress(b'[{"cell": 1}]'),
    }[damage]
    log_file(grid, tmp_path).write_bytes(bad)
    for use in (lambda: load_runs(grid, tmp_path), lambda: run_grid(grid, tmp_path, work=tmp_path)):
        with pytest.raises(ValueError, match=r"small\.jsonl\.gz is damaged: restore it, or remove it"):
            use()
    assert log_file(grid, tmp_path).read_bytes() == bad


def test_steps_are_logged_to_five_digits():
    rows = [{"phase": "rl", "step": 3, "loss": 1.23456789e-9, "reward": 0.0, "kl": None, "other": 1}]
    assert step_rows(rows) == [{"phase": "rl", "step": 3, "loss": 1.2346e-9, "reward": 0.0}]


def test_ranked_answers_are_sampled_in_rounds_by_the_policy_or_an_older_one(tmp_path, monkeypatch):
    writers, make = [], mechanism.make_candidates
    monkeypatch.setattr(
        mechanism, "make_candidates", lambda policy, *a, **k: writers.append(policy) or make(policy, *a, **k)
    )
    factors = {**SMALL, "steps": 6, "method": "lipo", "num_candidates": 4, "rounds": 2, "probes": 0, "blind": True}
    outcome = run_condition(Condition("ocr", rl_start=2, age=1, **factors), 0, tmp_path / "run", tmp_path)
    half = Condition("ocr", **factors).ranked_prompts // 2
    assert [len((tmp_path / "run" / "ranked" / f"sampled-{i}.jsonl").read_text().splitlines()) for i in (1, 2)] == [
        half + Condition("ocr", **factors).ranked_prompts % 2, half,
    ]  # fmt: skip
    modes = {"greedy", "sampled", "greedy, another image", "greedy, a blank image"}
    results = outcome.results()
    assert set(results["before"]) == set(results["after"]) == modes
    assert results["before"]["greedy"] != results["before"]["greedy, a blank image"]
    assert set(results["train_seconds"]) == set(results["processor_seconds"]) == {"ranked"}
    assert [row["step"] for row in outcome.rows] == list(range(1, len(outcome.rows) + 1))
    assert {row["phase"] for row in outcome.rows} == {"ranked"}
    assert all(0 <= row["accuracy"] <= 1 for row in step_rows(outcome.rows))
    older = mechanism._after_rl(Condition("ocr"), 1, tmp_path).model.state_dict()  # kept: loaded, not trained
    start = load_policy("tiny").model.state_dict()
    for writer in writers:  # one RL step old; the policy that is trained has had two
        assert all((value == older[name]).all() for name, value in writer.model.state_dict().items())
    assert any((value != start[name]).any() for name, value in older.items())


def test_conditions_that_start_alike_are_measured_once_before(tmp_path, monkeypatch):
    asked, generate = [], mechanism.generate_completions
    monkeypatch.setattr(
        mechanism, "generate_completions", lambda *a, **k: asked.append(k["temperature"]) or generate(*a, **k)
    )
    for method in ("sft", "best_of_n"):
        condition = Condition("ocr", method=method, num_candidates=4, probes=0, **SMALL)
        run_condition(condition, 0, tmp_path / method, tmp_path)
    assert asked == [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]  # before, and after each
    assert mechanism._before(condition, 0, tmp_path) != mechanism._before(condition, 1, tmp_path)
    assert mechanism._before(condition, 0, tmp_path) != mechanism._before(Condition("ocr", blind=True), 0, tmp_path)


def test_equal_seconds_are_more_prompts_where_less_is_done_for_each():
    prompts = {m: Condition("counting", method=m).ranked_prompts for m in ("perpo", "lipo", "dpo", "best_of_n")}
    assert prompts["perpo"] == prompts["lipo"] < prompts["dpo"] < prompts["best_of_n"]
    assert Condition("ocr", method="perpo", num_candidates=5).ranked_prompts > (
        Condition("ocr", method="perpo").ranked_prompts
    )


def test_a_start_after_rl_is_made_by_one_process_while_others_wait(tmp_path, monkeypatch):
    def made(policy, scenes, folder, settings):
        with pytest.raises(Timeout):
            FileLock(f"{folder}.lock").acquire(blocking=False)

    monkeypatch.setattr(mechanism, "train_grpo", made)
    mechanism.prepared(Condition("ocr", rl_start=2, **SMALL), tmp_path)
    assert list((tmp_path / "prepared" / "tiny").glob("ocr-rl-*.lock"))
