"""The experiment on reflection, small: every kind of condition is measured, logged once, and not run again."""

import json

import numpy as np

from pr1kit.experiments.reflection import main, read_reflection_runs

FLAGS = ["--fast", "--seeds", "0", "--conditions", "before", "reper, learned critic", "rl, every"]


def test_conditions_are_measured_logged_and_not_run_again(tmp_path, monkeypatch):
    out = tmp_path / "runs.jsonl"
    where = ["--out", str(out), "--work", str(tmp_path / "work")]
    main([*FLAGS, *where])
    before, learned, rl = read_reflection_runs(out)
    assert [run["condition"] for run in (before, learned, rl)] == FLAGS[-3:]
    assert len(before["best_of"]) == len(before["agreed_of"]) == 8
    assert (np.diff(before["best_of"]) >= 0).all(), "the best of more is no worse"
    assert before["best_of"][0] == before["agreed_of"][0]
    for run in (before, learned, rl):
        assert all(0 <= value <= 1 for key in ("by_turn", "precision", "recall") for value in run[key])
        assert (np.diff(run["best_so_far"]) >= 0).all()
        assert (np.diff(run["tokens_written"]) >= 0).all()
        assert run["tokens_read"][0] == 0
    assert len(learned["critic_scores"]) == len(learned["critic_rewards"]) == 4
    assert len(rl["train_turn_1"]) == 1
    monkeypatch.setattr("pr1kit.experiments.reflection.run", None)
    main([*FLAGS, *where])
    assert len(out.read_text().splitlines()) == 3
    assert json.loads(out.read_text().splitlines()[0]) == before
