"""The demo from end to end, small: what it writes, that it resumes, and what it refuses."""

import json

import pytest

from pr1kit.__main__ import main
from pr1kit.data.scenes import make_scenes
from pr1kit.evaluation.metrics import evaluate
from pr1kit.experiments.demo import FAST, HEADLINE, TEST_SEED, demo_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo_run(folder, FAST)


def test_it_writes_the_table_the_numbers_and_the_pictures(finished):
    folder, _ = finished
    report = (folder / "report.md").read_text()
    assert "counting accuracy, temperature 1" in report
    assert "grounding mean IoU, greedy" in report
    for name in ("intervals.png", "reward_curve.png", "before_after.png"):
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"


def test_its_numbers_are_those_of_the_completions_it_kept(finished):
    folder, results = finished
    rows = json.loads((folder / "results.json").read_text())["rows"]
    for task, (key, name) in HEADLINE.items():
        kept = json.loads((folder / task / "after.json").read_text())
        assert [len(kept[mode][0]) for mode in ("sampled", "greedy")] == [4, 1]
        targets = [s.target for s in make_scenes(task, FAST.held_out, TEST_SEED + FAST.seed, split="test")]
        row = next(row for row in rows if row["metric"] == f"{name}, temperature 1")
        assert (
            row["after"][0] == evaluate(task, kept["sampled"], targets)[key] == results[task]["after"]["sampled"][key]
        )
        assert row["change"][0] == pytest.approx(row["after"][0] - row["before"][0])


def test_running_it_again_does_no_work_twice(finished):
    folder, results = finished
    log = (folder / "counting" / "grpo" / "log.jsonl").read_bytes()
    again = demo_run(folder, FAST)
    assert (folder / "counting" / "grpo" / "log.jsonl").read_bytes() == log
    assert again["counting"]["log"] == results["counting"]["log"]


def test_another_demo_in_its_folder_is_refused(finished, capsys):
    folder, _ = finished
    assert main(["demo", "--out", str(folder), "--seeds", "5", "--fast"]) == 2
    assert "holds a demo with other settings: add --fresh" in capsys.readouterr().err


def test_several_seeds_make_one_table(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "seeds"), "--seeds", "0", "1", "--fast"]) == 0
    table = (tmp_path / "seeds" / "seeds.md").read_text()
    assert table in capsys.readouterr().out
    assert "| mean change |" in table
    assert (tmp_path / "seeds" / "seed-1" / "report.md").exists()


def test_the_tiny_policy_can_be_made_from_nothing_and_its_making_resumed(tmp_path, capsys):
    arguments = ["make-tiny-policy", "--fast", "--out", str(tmp_path / "policy"), "--work", str(tmp_path / "work")]
    assert main(arguments) == 0
    first = (tmp_path / "policy" / "model.safetensors").read_bytes()
    (tmp_path / "work" / "5-faults.pt").unlink()  # as if killed in the last lesson
    assert main(arguments) == 0
    assert (tmp_path / "policy" / "model.safetensors").read_bytes() == first
    card = json.loads((tmp_path / "policy" / "training.json").read_text())
    assert set(card["final"]) == set(card["after_clean"])
    assert main([*arguments, "--seed", "1"]) == 2
    assert "holds another recipe's checkpoints" in capsys.readouterr().err
