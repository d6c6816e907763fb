"""Cheats in time: what they earn where one frame answers, and where none does."""

import numpy as np
import pytest

from pr1kit import make_clips
from pr1kit.data.clip_questions import KINDS
from pr1kit.rewards.cheats import cheats_in_time, prior_answer, what_cheats_earn


def earned(task, kinds, n=40):
    pay = what_cheats_earn(make_clips(task, n, 1, "test", kinds=kinds), make_clips(task, n, 0, kinds=kinds))
    return {name: float(values.mean()) for name, values in pay.items()}


def test_one_frame_answers_the_proxy_and_shuffling_does_not_hurt_it():
    pay = earned("tracking", "proxy")
    assert {pay[name] for name in pay if name != "the prior"} == {1.0}
    assert pay["the prior"] < 0.5
    assert set(earned("when", "proxy").values()) == {1.0}


@pytest.mark.parametrize("task", ["tracking", "when"])
def test_no_cheat_comes_near_the_truth_where_time_is_asked_for(task):
    for kind in KINDS[task]:
        pay = earned(task, kind)
        assert pay.pop("the truth") == 1
        assert max(pay.values()) < 0.75, (kind, pay)


def test_a_standing_box_beats_no_other_still_one_by_much_and_loses_to_time():
    pay = earned("tracking", ("look", "place"))
    assert pay["the prior"] < pay["one frame"] <= pay["a standing box"] + 0.05
    assert pay["shuffled frames"] < 0.5


def test_what_has_a_prior_alone():
    pay = earned("what", KINDS["what"])
    assert set(pay) == {"the truth", "the prior"}
    assert pay["the prior"] < 0.6


def test_the_same_seed_gives_the_same_cheats():
    clip = make_clips("tracking", 1)[0]
    a, b = (cheats_in_time(clip, np.random.default_rng(3)) for _ in range(2))
    assert a == b
    with pytest.raises(ValueError, match="no sample"):
        prior_answer([])
