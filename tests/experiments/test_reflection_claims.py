"""Claims about reflection: paired by seed, with the control at equal tokens, true to the log."""

import json

import numpy as np
import pytest

from pr1kit.experiments.reflection import CONDITIONS, read_reflection_runs
from pr1kit.experiments.reflection_claims import CLAIMS, by_seed, equal_tokens, reflection_table

SAMPLED = {"best_of": [0.1, 0.2, 0.3], "agreed_of": [0.1, 0.1, 0.2], "tokens_sampled": 10.0}


@pytest.mark.parametrize(("read", "n"), [(0, 1), (9, 1), (10, 2), (19, 2), (20, 3), (500, 3)])
def test_the_control_has_no_more_tokens_than_the_dialogue_and_at_least_one_answer(read, n):
    run = {"tokens_written": [4, 10], "tokens_read": [0, read]}
    assert equal_tokens(run, SAMPLED, "best_of", 2) == SAMPLED["best_of"][n - 1]
    assert equal_tokens(run, SAMPLED, "best_of", 1) == 0.1


def test_the_log_has_every_condition_with_every_seed_once():
    seeds = [(run["condition"], run["seed"]) for run in read_reflection_runs()]
    assert sorted(seeds) == sorted((condition, seed) for condition in CONDITIONS for seed in range(5))


def test_a_line_of_the_table_is_the_paired_difference_by_hand():
    runs = {(run["condition"], run["seed"]): run["by_turn"] for run in read_reflection_runs()}
    change = np.array([runs["reper, alpha 0.1", i][2] - runs["dpo", i][2] for i in range(5)])
    half = 2.776445 * change.std(ddof=1) / np.sqrt(5)  # t quantile of 4 degrees of freedom
    table = reflection_table()
    assert all(table.count(f"| {claim.text} | ") == 1 for claim in CLAIMS)
    (line,) = [line for line in table.splitlines() if line.startswith("| RePer beats DPO, turn 3 |")]
    said = f"{change.mean():+.3f} [{change.mean() - half:+.3f}, {change.mean() + half:+.3f}]"
    assert line.split(" | ")[3] == said


def test_seeds_that_lack_a_condition_are_left_out_and_none_is_one_sentence(tmp_path):
    runs = [run for run in read_reflection_runs() if (run["condition"], run["seed"]) != ("perpo", 3)]
    assert len(by_seed(runs)) == 4
    log = tmp_path / "runs.jsonl"
    log.write_text("".join(json.dumps(run) + "\n" for run in runs if run["condition"] != "dpo"))
    with pytest.raises(ValueError, match=r"No seed has runs of all conditions \(of none: dpo\)"):
        reflection_table(log)
