"""Self-consistency: the answer most agreed with, whatever the truth, and no text that breaks it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pr1kit import Target, make_scenes
from pr1kit.data.sample import IMAGE_TASKS, Sample
from pr1kit.rewards.consensus import most_agreed
from pr1kit.rewards.parsing import boxed

A, B, C = ([0, 0, 20, 20], [1, 1, 21, 21], [40, 40, 60, 60])
COUNT = Sample(None, "counting", "cat", Target(boxes=[C], image_size=(64, 64)))


def said(*boxes):
    return "".join(boxed("cat", box) for box in boxes) or "None"


@pytest.mark.parametrize(
    ("completions", "chosen"),
    [
        ([said(A)], 0),
        ([said(C), said(A), said(B)], 1),
        ([said(A), said(A, C), said(A, C), said(C)], 1),
        (["gibberish", said(), said()], 1),
        ([said(A), "gibberish", "more gibberish"], 0),
    ],
)
def test_the_answer_that_the_others_agree_with(completions, chosen):
    assert most_agreed(COUNT, completions) == chosen


def test_the_truth_is_not_looked_at():
    other = replace(COUNT, target=Target(boxes=[A, B, C], image_size=(64, 64)))
    completions = [said(C), said(A), said(B), said(A, B, C)]
    assert most_agreed(COUNT, completions) == most_agreed(other, completions)
    with pytest.raises(ValueError, match="no answer to choose from"):
        most_agreed(COUNT, [])


def test_texts_agree_by_their_letters():
    sample = Sample(None, "ocr", "", Target(text="other"))
    assert most_agreed(sample, ["stop", "shop", "stops", "nothing like it"]) == 0


@given(st.lists(st.text(max_size=40) | st.just("(9,9),(1,1)") | st.just("(-5,0),(900,3)"), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_no_text_breaks_it(completions):
    for task in IMAGE_TASKS:
        assert 0 <= most_agreed(make_scenes(task, 1, seed=0)[0], completions) < len(completions)
