"""The demo from end to end, small: what it prints and writes, its digits, that it resumes, and what it refuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
import trl

from pr1kit.__main__ import main
from pr1kit.data.run_folder import RunFolder
from pr1kit.data.scenes import make_scenes
from pr1kit.evaluation.metrics import evaluate
from pr1kit.experiments.condition import HEADLINE
from pr1kit.experiments.demo import DEMO, PICTURES, WATCHED, demo_run, moved
from pr1kit.experiments.grid import fast
from pr1kit.explorer.readout import perfect_answer
from pr1kit.rollouts.probes import read_probes

DIGITS = Path(__file__).with_name("demo_fast_digits.json")  # written by `python tests/experiments/test_demo.py`
BAR = r"[a-z: ]{28} *\d+%\|[^|]*\| \d/4 steps, \d\d:\d\d<[\d:?]+(, reward=\d\.\d{3})?"


def fast_demo(folder) -> subprocess.CompletedProcess:
    """`python -m pr1kit demo --fast` on one thread in a process of its own."""
    command = [sys.executable, "-m", "pr1kit", "demo", "--fast", "--out", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def digits_of(folder) -> dict:
    """What the fast demo's numbers are, to five digits, and with what they were made."""
    logs = {
        task: [json.loads(line) for line in (folder / task / "rl" / "log.jsonl").read_text().splitlines()]
        for task in DEMO.cells()
    }
    names = ("reward", "reward_std", "grad_norm", "entropy", "completions/mean_length")
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return {
        "made_with": {module.__name__: module.__version__ for module in (torch, transformers, trl)}
        | {"cpu": torch.backends.cpu.get_cpu_capability()},
        "steps": {task: [" ".join(f"{row[name]:.5g}" for name in names) for row in log] for task, log in logs.items()},
        "table": {row["metric"]: f"{row['before'][0]:.5g} {row['after'][0]:.5g}" for row in rows},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = fast_demo(folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_only_its_own_lines_are_printed(finished):
    folder, done = finished
    said = [line for line in done.stdout.splitlines() if line]
    assert re.fullmatch(r"Demo, seed 0: GRPO on counting and grounding, about \d+ min on two CPU cores\.", said[0])
    trained = r"GRPO, completions: 4 steps of 64 \(counting\) and 4 steps of 32 \(grounding\); 8 held-out"
    assert re.match(rf"Tiny policy on .+, {trained}", said[1])
    table, files = said[2:10], said[10:]
    assert all(line.startswith("| ") or line == "|---|---|---|---|" for line in table)
    assert files == [f"  {folder / name}" for name in ("report.md", *PICTURES)]
    strange = [line for line in re.split(r"[\r\n]+", done.stderr) if line and not re.fullmatch(BAR, line.rstrip())]
    assert strange == []


def test_it_names_the_device(finished):
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "1 CPU thread, "
    assert f"Tiny policy on {device}" in (finished[0] / "report.md").read_text()


def test_its_digits_are_those_that_were_committed(finished):
    """A change that moves a digit here has moved every committed number that training made: make those anew too."""
    kept, now = json.loads(DIGITS.read_text()), digits_of(finished[0])
    if kept["made_with"] != now["made_with"] or torch.cuda.is_available():
        pytest.skip(f"The digits were made with {kept['made_with']} on a CPU, here is {now['made_with']}.")
    assert now == kept


def test_it_writes_the_table_the_numbers_and_the_pictures(finished):
    folder, _ = finished
    report = (folder / "report.md").read_text()
    assert "counting accuracy, temperature 1" in report
    assert "grounding mean IoU, greedy" in report
    for name in PICTURES:
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"


def test_its_numbers_are_those_of_the_completions_it_kept(finished):
    folder, _ = finished
    rows = json.loads((folder / "results.json").read_text())["rows"]
    for task in DEMO.cells():
        kept = json.loads((folder / task / "after.json").read_text())
        assert {mode: len(texts[0]) for mode, texts in kept.items()} == {"greedy": 1, "sampled": 4}
        targets = [sample.target for sample in make_scenes(task, 8, 400, split="test")]
        key, name = HEADLINE[task]
        row = next(row for row in rows if row["metric"] == f"{task} {name}, temperature 1")
        assert row["after"][0] == evaluate(task, kept["sampled"], targets)[key]
        assert row["change"][0] == pytest.approx(row["after"][0] - row["before"][0])


def test_what_it_watched_is_a_page(finished, tmp_path):
    folder, _ = finished
    for task in DEMO.cells():
        steps = read_probes(folder / task / "rl")
        assert list(steps) == [0, 1, 2, 3, 4]
        assert list(steps[0]) == [f"scenes/{task}/test/400/{i}" for i in range(WATCHED)]
        answers = json.loads((folder / task / "after.json").read_text())["greedy"][:WATCHED]
        assert [row["completion"] for row in steps[4].values()] == [texts[0] for texts in answers]
    assert main(["explore", str(folder), "--export", str(tmp_path)]) == 0
    assert (tmp_path / "index.html").stat().st_size < 500_000


def test_the_scenes_whose_reward_moved_are_shown_first():
    scenes = make_scenes("grounding", 4, seed=3)
    right = [perfect_answer(scene) for scene in scenes]
    texts = {"before": [*right[:3], "no box"], "after": [right[0], "no box", *right[2:]]}
    measured = {
        when: SimpleNamespace(samples=scenes, answers={"sampled": [[t] for t in texts[when]]}) for when in texts
    }
    shown = moved(SimpleNamespace(**measured))
    assert [scene.id for scene, _, _ in shown] == [scenes[i].id for i in (1, 3, 0, 2)]
    assert shown[0][1:] == (right[1], "no box")
    assert shown[1][1:] == ("no box", right[3])


def test_running_it_again_does_no_work_twice(finished, monkeypatch):
    folder, _ = finished
    log = (folder / "counting" / "rl" / "log.jsonl").read_bytes()
    rows = json.loads((folder / "results.json").read_text())["rows"]
    monkeypatch.setattr(
        "pr1kit.experiments.run_condition.generate_completions", lambda *a, **k: pytest.fail("it is measured again")
    )
    assert json.loads(json.dumps(demo_run(folder, 0, fast(DEMO)))) == rows
    assert (folder / "counting" / "rl" / "log.jsonl").read_bytes() == log


def test_another_demo_in_its_folder_is_refused(finished, capsys):
    folder, _ = finished
    assert main(["demo", "--out", str(folder), "--seeds", "5", "--fast"]) == 2
    assert "holds a run with other settings (seed was 0, is 5): choose another folder" in capsys.readouterr().err


def test_beginning_anew_removes_nothing_but_a_run_that_nobody_writes(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("not of a demo")
    assert main(["demo", "--out", str(tmp_path), "--fresh", "--fast"]) == 2
    assert "is not empty and holds no run of this version: choose another folder" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "not of a demo"
    run = RunFolder(tmp_path / "run")
    run.claim({"seed": 0})
    with run.lock():
        assert main(["demo", "--out", str(run.path), "--fresh", "--fast"]) == 2
        assert "is being written by process" in capsys.readouterr().err
        assert run.settings()["seed"] == 0


def test_several_seeds_make_one_table(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "seeds"), "--seeds", "0", "1", "--fast"]) == 0
    table = (tmp_path / "seeds" / "seeds.md").read_text()
    assert table in capsys.readouterr().out
    assert " | mean change |\n" in table
    assert (tmp_path / "seeds" / "seed-1" / "report.md").exists()


def test_the_demos_policy_is_made_from_the_tiny_one(tmp_path, capsys):
    folders = ("--out", str(tmp_path / "policy"), "--work", str(tmp_path / "work"))
    assert main(["make-tiny-policy", "--demo", "--fast", *folders]) == 0
    assert "from `tiny` by\n\n    python -m pr1kit make-tiny-policy --demo\n" in capsys.readouterr().out


def test_the_tiny_policy_can_be_made_from_nothing_and_its_making_resumed(tmp_path, capsys):
    arguments = ["make-tiny-policy", "--fast", "--out", str(tmp_path / "policy"), "--work", str(tmp_path / "work")]
    assert main(arguments) == 0
    first = (tmp_path / "policy" / "model.safetensors").read_bytes()
    (tmp_path / "work" / "5-faults.pt").unlink()  # as if killed in the last lesson
    assert main(arguments) == 0
    assert (tmp_path / "policy" / "model.safetensors").read_bytes() == first
    card = json.loads((tmp_path / "policy" / "training.json").read_text())
    assert set(card["final"]) == set(card["after_clean"])
    assert "| grounding mean_iou | " in (tmp_path / "policy" / "README.md").read_text()
    assert main([*arguments, "--seed", "1"]) == 2
    assert "holds a run with other settings (recipe was" in capsys.readouterr().err

    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save(Attack(), tmp_path / "work" / "1-vision.pt")
    assert main(arguments) == 2
    assert "1-vision.pt is damaged" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists(), "a pickle was executed"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        fast_demo(folder)
        DIGITS.write_text(json.dumps(digits_of(Path(folder)), indent=1) + "\n")
