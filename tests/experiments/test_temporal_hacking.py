"""The experiment on temporal hacking: how clips are shown, what is measured, and that a run is logged once."""

import json

import numpy as np
import pytest

from pr1kit.data.clip_questions import KINDS
from pr1kit.data.clips import make_clips
from pr1kit.data.shipped import shipped
from pr1kit.experiments.grid import Grid
from pr1kit.experiments.runs import Run, load_runs, log_file, read_lines
from pr1kit.experiments.statistics import mean_interval
from pr1kit.experiments.temporal_claims import CLAIMS, VIDEO_GRIDS, gain_over_clips, rank_of_gain, temporal_table
from pr1kit.experiments.temporal_hacking import (
    GRIDS,
    ClipCondition,
    clips_for,
    measure,
    run_grid,
    shuffled,
)
from pr1kit.experiments.tiny_policy.video import KNOBS
from pr1kit.models.answers import supervised_answer
from pr1kit.models.policy import load_policy, scene_knobs
from pr1kit.rewards.score import score


@pytest.fixture(scope="module")
def policy():
    return load_policy("tiny-video")


def test_a_clip_is_shuffled_and_its_question_and_truth_stay():
    (clip,) = make_clips("tracking", 1, seed=1)
    other = shuffled(clip, np.random.default_rng(0))
    assert other.frames != clip.frames
    assert {frame.tobytes() for frame in other.frames} == {frame.tobytes() for frame in clip.frames}
    assert (other.question, other.target, other.times) == (clip.question, clip.target, clip.times)
    assert other.image is other.frames[0]


def test_conditions_train_on_the_kinds_that_they_name_and_hold_out_others(policy):
    for queries in ("UTR", "proxy"):
        condition = ClipCondition(queries=queries, steps=3, prompts_per_step=4, held_out=4)
        clips = condition.training_clips(policy, 0)
        assert len(clips) >= 12
        assert {clip.task for clip in clips[:3]} == set(KINDS)
        assert all(clip.id.endswith("/proxy") == (queries == "proxy") for clip in clips)
        held_out = condition.held_out_clips(policy, 0)
        assert len(held_out) == 6
        assert all("/test/" in clip.id for each in held_out.values() for clip in each)


def test_clips_of_a_difficulty_are_those_with_its_knobs_and_mixed_ones_take_turns(policy):
    own, fast, mixed = (clips_for(policy, "when", "UTR", 6, 0, "test", name) for name in ("own", "fast", "mixed"))
    assert [clip.id for clip in own] == [clip.id for clip in mixed]  # the same random streams
    assert np.array_equal(own[4].frames[0], mixed[4].frames[0])
    assert np.array_equal(fast[1].frames[3], mixed[1].frames[3])
    assert not np.array_equal(fast[1].frames[3], own[1].frames[3])
    with pytest.raises(ValueError, match="Unknown difficulty 'dark': choose of own, fast"):
        ClipCondition(difficulty="dark")


def test_the_truth_of_the_key_frame_stands_where_the_object_is_in_the_middle(policy):
    clips = ClipCondition(tasks=("tracking",), steps=2).training_clips(policy, 0)
    standing = ClipCondition(tasks=("tracking",), steps=2, truth="key frame").training_clips(policy, 0)
    assert [clip.question for clip in standing] == [clip.question for clip in clips]
    hidden = 0
    for clip, other in zip(clips, standing, strict=True):
        (track,), (still,) = clip.target.tracks, other.target.tracks
        assert (still.boxes == still.boxes[0]).all()
        if track.seen[4]:
            assert (still.boxes[0] == track.boxes[4]).all()
        else:
            hidden += 1
            assert still.boxes[0].tolist() in track.boxes.tolist()
        assert (
            score("tracking", supervised_answer(other, policy), other.target, frame=policy.frame_of(clip)).total > 0.9
        )
    assert 0 < hidden < len(clips)
    with pytest.raises(ValueError, match="Unknown truth 'key frame' of when"):
        ClipCondition(tasks=("when",), truth="key frame")


@pytest.mark.parametrize("values", [{"method": "dpo"}, {"queries": "both"}, {"colour": 1}])
def test_conditions_that_there_are_not_are_refused(values):
    with pytest.raises(ValueError, match="Unknown"):
        ClipCondition.of(values)


def test_a_run_is_logged_once_and_read_as_others_are(tmp_path):
    fields = {"steps": 1, "prompts_per_step": 2, "num_generations": 2, "batch_size": 2, "held_out": 2}
    methods = {"GRPO": {"method": "rl"}, "SFT": {"method": "sft"}}
    grid = Grid("try", "", {"method": methods}, {"tasks": ("what",), **fields}, seeds=(0,))
    run_grid(grid, tmp_path, tmp_path / "work")
    first = log_file(grid, tmp_path).read_bytes()
    run_grid(grid, tmp_path, tmp_path / "work")
    assert log_file(grid, tmp_path).read_bytes() == first
    for run in load_runs(grid, tmp_path):
        after = run.results["after"]["tracking, UTR"]
        assert set(after["clips"]["kind"]) <= set(KINDS["tracking"])
        assert np.mean(after["clips"]["temporal perplexity"]) == pytest.approx(after["temporal perplexity"], abs=0.001)
        assert np.mean(after["clips"]["reward"]) == pytest.approx(after["as it is"], abs=0.001)
        assert after["shuffling costs"] == pytest.approx(after["as it is"] - after["shuffled"], abs=2e-5)
        assert np.isfinite(run.gain("temporal perplexity", "when, proxy"))


LOGGED = [name for name, grid in GRIDS.items() if log_file(grid).exists()]


@pytest.mark.parametrize("name", LOGGED)
def test_the_logs_that_come_with_the_kit_are_of_these_conditions(name):
    grid, lines = GRIDS[name], read_lines(log_file(GRIDS[name]))
    for line in lines:
        assert ClipCondition.of(line["condition"]) == ClipCondition.of(grid.cells()[line["cell"]])
    seeds = {cell: {line["seed"] for line in lines if line["cell"] == cell} for cell in grid.cells()}
    assert all(len(each) >= 3 for each in seeds.values())
    assert len({frozenset(each) for each in seeds.values()}) == 1


def test_the_shipped_policy_watches_clips_about_as_well_as_its_card_says(policy):
    card = json.loads((shipped("tiny-video") / "training.json").read_text())
    assert scene_knobs(policy, "tracking") == KNOBS
    assert sum(file.stat().st_size for file in shipped("tiny-video").iterdir()) < 4_200_000
    assert card["parameters"] == sum(p.numel() for p in policy.model.parameters())
    held_out = ClipCondition(measured=("tracking",), held_out=16, test_seed=0).held_out_clips(policy, 0)
    for name, found in measure(policy, held_out, 0).items():
        _, low, high = mean_interval(np.array(found["clips"]["reward"]))
        assert low - 0.1 < card["final"][name]["as it is"] < high + 0.1
    assert (
        card["final"]["tracking, UTR"]["temporal perplexity"] > card["final"]["tracking, proxy"]["temporal perplexity"]
    )


def clips(rewards, tpl, kinds):
    return {"tracking, UTR": {"clips": {"kind": kinds, "reward": rewards, "temporal perplexity": tpl}}}


def test_gains_over_clips_and_their_rank_correlation_are_those_counted_by_hand():
    kinds, tpl = ["look", "look", "place", "event"], [0.1, 0.3, 0.4, 0.0]  # by kind: 0.2, 0.4, 0
    results = {"before": clips([0.0] * 4, tpl, kinds), "after": clips([0.1, 0.3, 0.3, 0.1], [9.0] * 4, kinds)}
    run = Run("UTR", 0, {}, results, [], {})
    mean, low, high = gain_over_clips(run, "tracking, UTR")
    assert mean == pytest.approx(0.2)
    assert high - mean == pytest.approx(3.18245 * (0.04 / 3 / 4) ** 0.5, rel=1e-3)  # t of 3 degrees of freedom
    assert low == pytest.approx(2 * mean - high)
    assert rank_of_gain(run, ["tracking, UTR"]) == pytest.approx(1.0)  # gains by kind: 0.2, 0.3, 0.1


def test_claims_are_told_of_the_grids_that_were_run_alone(tmp_path):
    assert len(temporal_table(root=tmp_path).splitlines()) == 2
    rows = temporal_table().splitlines()[2:]
    assert len(rows) == sum(log_file(VIDEO_GRIDS[claim.grid]).exists() for claim in CLAIMS)
    assert temporal_table("temporal-hacking-sft").splitlines()[2:] == [row for row in rows if ", SFT |" in row]
    verdicts = {"holds", "the opposite holds", "less than 0.02 apart", "not shown"}
    assert {row.split(" | ")[-2] for row in rows} <= verdicts
