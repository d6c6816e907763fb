"""The trackers of `--report-to` write what a run reports, on this machine and without a network."""

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest

from pr1kit import load_policy, make_scenes
from pr1kit.training.grpo import train_grpo
from pr1kit.training.grpo_settings import TINY

STEPS = 2


def needs(package: str):
    reason = f"{package} is not installed: pip install 'pr1kit[trackers]' (make test-lowest has it)"
    return pytest.mark.skipif(find_spec(package) is None, reason=reason)


def run(folder, tracker: str) -> list[dict]:
    """Two short steps that report to `tracker`; returns the kit's own log."""
    settings = replace(
        TINY, steps=STEPS, prompts_per_step=2, micro_prompts=2, num_generations=4, max_completion_length=8
    )
    options = {"report_to": [tracker], "run_name": "two-steps"}
    return train_grpo(load_policy("tiny"), make_scenes("grounding", 4), folder / "run", settings, trl=options)


@needs("tensorboard")
def test_tensorboard_has_the_reward_of_every_step(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "boards"))
    log = run(tmp_path, "tensorboard")
    (events,) = (tmp_path / "boards").rglob("events.out.tfevents.*")
    board = EventAccumulator(str(events)).Reload()
    written = [(each.step, each.value) for each in board.Scalars("train/reward")]
    assert written == [(row["step"], pytest.approx(row["reward"], abs=1e-6)) for row in log]
    assert len(written) == STEPS


@needs("trackio")
def test_trackio_has_the_reward_of_every_step(tmp_path):
    """In a process of its own: trackio fixes its folder when it is imported."""
    import os
    import subprocess
    import sys

    program = (
        "import sys, json, pathlib; sys.path.insert(0, sys.argv[1]); from test_trackers import run;"
        "log = run(pathlib.Path(sys.argv[2]), 'trackio'); print('LOG ' + json.dumps([r['reward'] for r in log]))"
    )
    folder = tmp_path / "trackio"
    command = [sys.executable, "-c", program, os.path.dirname(__file__), str(tmp_path)]
    done = subprocess.run(
        command, env=os.environ | {"TRACKIO_DIR": str(folder)}, capture_output=True, text=True, check=True
    )
    (rewards,) = (line.removeprefix("LOG ") for line in done.stdout.splitlines() if line.startswith("LOG "))
    import sqlite3

    (base,) = folder.glob("*.db")
    rows = [json.loads(text) for (text,) in sqlite3.connect(base).execute("select metrics from metrics order by id")]
    written = [row["train/reward"] for row in rows if "train/reward" in row]
    assert written == pytest.approx(json.loads(rewards), abs=1e-6)


@needs("wandb")
def test_wandb_offline_keeps_the_run_in_a_local_file(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run(tmp_path, "wandb")
    import wandb

    wandb.teardown()  # waits until its service has written what it holds; finish() alone does not on a busy machine
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"train/reward" in kept.read_bytes()
