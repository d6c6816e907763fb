"""The rollout log of a run: any step's groups without reading it whole, half-written lines left out."""

import json

import numpy as np
import pytest

from pr1kit.rollouts import log as rollout_log
from pr1kit.rollouts.log import RolloutLog


def test_a_log_gives_the_groups_of_any_step_and_of_the_next_where_one_is_skipped(write_run, tmp_path):
    rng = np.random.default_rng(0)
    for draw in range(6):
        steps = np.unique(rng.integers(1, 60, 12)).tolist()
        rows = write_run(tmp_path / str(draw), steps, groups=1 + draw % 3)
        log = RolloutLog(tmp_path / str(draw))
        assert (log.first_step, log.last_step) == (steps[0], steps[-1])
        for step in range(steps[-1] + 2):
            wanted = next((s for s in steps if s >= step), None)
            assert log.groups(step) == [row for row in rows if row["step"] == wanted]
        curve = log.curve(1000)
        assert [row["step"] for row in curve] == steps
        assert [row["mean"] for row in curve] == pytest.approx(
            [np.mean([row["rewards"] for row in rows if row["step"] == s]) for s in steps]
        )
        assert log.steps_with(rows[0]["id"], most=100) == steps
        assert log.steps_with("scenes/x") == []


def test_a_long_log_opens_without_being_read(write_run, tmp_path, monkeypatch):
    rows = write_run(tmp_path, [1])
    lines = [json.dumps({**rows[0], "step": step}) for step in range(1, 20_001) for _ in range(2)]
    (tmp_path / "rollouts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    read = []
    monkeypatch.setattr(rollout_log, "_row", lambda line, real=rollout_log._row: read.append(line) or real(line))
    log = RolloutLog(tmp_path)
    assert (log.first_step, log.last_step) == (1, 20_000)
    assert not read
    assert [row["step"] for row in log.groups(12_345)] == [12_345] * 2
    assert len(read) == 3
    assert len(log.curve()) == 40
    assert len(read) <= 3 + 3 * 40


def test_a_line_half_written_is_no_group(write_run, tmp_path):
    write_run(tmp_path, [1, 2])
    with (tmp_path / "rollouts.jsonl").open("a") as file:
        file.write('{"step": 3, "id": "scenes/coun')
    log = RolloutLog(tmp_path)
    assert log.last_step == 2
    assert log.groups(3) == []
    assert len(log.groups_at(3)) == 2
    with (tmp_path / "rollouts.jsonl").open("a") as file:  # the run goes on
        file.write('ting/train/0/0", "prompt": "", "completions": [], "rewards": [], "advantages": []}\n')
    assert log.last_step == 3
    assert len(log.groups(3)) == 1
