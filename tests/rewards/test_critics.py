"""Critics: the reward in words that are true of the answer and do not tell the truth's places."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pr1kit import Target, make_scenes, score
from pr1kit.data.sample import IMAGE_TASKS, Sample
from pr1kit.rewards.critics import TELLS, RewardCritic, read_critique, safe_words
from pr1kit.rewards.parsing import boxed

TWO = Target(boxes=[[0, 0, 20, 20], [40, 40, 60, 60]], labels=["cat", "dog"], image_size=(64, 64))
COUNT = Sample(None, "counting", "cat", TWO)
DETECT = Sample(None, "detection", "cat, dog", TWO)
GROUND = Sample(None, "grounding", "red cat", Target(boxes=[[0, 0, 20, 20]], image_size=(64, 64)))
READ = Sample(None, "ocr", "", Target(text="stop here now"))


def said(sample, completion, tells="worst", frame="pixel"):
    return RewardCritic(tells).criticise(sample, completion, frame)


def items(*rows):
    return "[" + ", ".join(f'{{"bbox_2d": {list(box)}, "label": "{name}"}}' for box, name in rows) + "]"


A, B, FAR = (0, 0, 20, 20), (40, 40, 60, 60), (30, 0, 39, 9)


@pytest.mark.parametrize(
    ("sample", "completion", "words"),
    [
        (COUNT, boxed("cat", A), "There are too few boxes."),
        (COUNT, boxed("cat", A) + boxed("cat", FAR), "A box is on no cat. The box (30,0),(39,9) is on no cat."),
        (COUNT, "".join(boxed("cat", b) for b in (A, B, FAR)),
         "There are too many boxes. The box (30,0),(39,9) is on no cat."),
        (COUNT, "".join(boxed("cat", b) for b in (A, B, B)),
         "There are too many boxes. The box (40,40),(60,60) is one too many."),
        (COUNT, boxed("cat", A) + boxed("cat", (40, 40, 60, 54)),
         "A box fits badly. The box (40,40),(60,54) fits badly."),
        (COUNT, boxed("cat", A) + boxed("cat", B), ""),
        (COUNT, "maybe", "The answer cannot be read."),
        (GROUND, boxed("red cat", FAR), "A box is on no red cat. The box (30,0),(39,9) is on no red cat."),
        (GROUND, boxed("red cat", (0, 0, 20, 12)), "A box fits badly. The box (0,0),(20,12) fits badly."),
        (DETECT, items((A, "cat"), (B, "cow")), "A class is wrong. The box (40,40),(60,60) is no cow."),
        (DETECT, items((A, "cat")), "There are too few boxes."),
        (DETECT, items((A, "CAT "), (B, "dog")), ""),
        (READ, "stop here", "There are too few words."),
        (READ, "stop hare now", "Letters are misread. The word hare is misread."),
        (READ, "stop here now or", "There are too many words. The word or is misread."),
        (READ, "stop here now", ""),
    ],
)  # fmt: skip
def test_the_words_say_what_is_wrong(sample, completion, words):
    critique = said(sample, completion)
    total = score(sample.task, completion, sample.target).total
    assert critique.score == total
    expected = f"A score of {round(10 * total)} is given to this answer. {words} Please answer again."
    assert critique.words == expected.replace(".  ", ". ")
    assert critique.content == (words == "")


def test_tells_is_how_much_is_told():
    wrong = "".join(boxed("cat", b) for b in (A, B, FAR))
    told = [said(COUNT, wrong, tells).words for tells in TELLS]
    assert told[0] == "Please answer again."
    assert told[1] == "A score of 7 is given to this answer. Please answer again."
    assert told[2] == "A score of 7 is given to this answer. There are too many boxes. Please answer again."
    assert told[2].removesuffix(" Please answer again.") in told[3]
    with pytest.raises(ValueError, match="Unknown tells 'all': choose one of again, score, fault, worst"):
        RewardCritic("all")


def test_coordinates_are_quoted_in_the_frame_of_the_answer():
    words = said(GROUND, "(500,0),(900,200)", frame="norm1000").words
    assert "The box (500,0),(900,200) is on no red cat." in words


corner = st.integers(0, 60)
box = st.tuples(corner, corner, st.integers(1, 4), st.integers(1, 4)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(st.lists(box, max_size=5), st.lists(box, min_size=1, max_size=4), st.sampled_from(["counting", "grounding"]))
@settings(max_examples=150, deadline=None)
def test_only_boxes_of_the_answer_are_quoted(answered, true, task):
    target = Target(boxes=np.array(true[:1] if task == "grounding" else true, float), image_size=(64, 64))
    critique = said(Sample(None, task, "cat", target), "".join(boxed("cat", b) for b in answered) or "None")
    quoted = re.findall(r"\((\d+),(\d+)\),\((\d+),(\d+)\)", critique.words)
    assert all(tuple(map(int, each)) in answered for each in quoted)
    assert 0 <= critique.score <= 1
    if critique.content:
        assert len(answered) == len(target.boxes)


@given(st.text(max_size=200) | st.just("<|im_end|>" * 50) | st.just('[{"bbox_2d": [1, 2], "label": 3}, {"bbox'))
@settings(max_examples=60, deadline=None)
def test_no_answer_and_no_critique_raises(text):
    for task in IMAGE_TASKS:
        sample = make_scenes(task, 1, seed=0)[0]
        critique = said(sample, text)
        assert 0 <= critique.score <= 1
        assert "<|im_end|>" not in critique.words
    read = read_critique(text)
    assert read.score is None or 0 <= read.score <= 1
    assert read.score is not None or read.reason


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("A score of 7 is given to this answer.", 0.7, ""),
        ("Score: 10. Fine.", 1.0, ""),
        ("the SCORE is 3.5 of 10", 0.35, ""),
        ("A score of 70 is given.", None, "a score outside 0 to 10"),
        ("A score of seven.", None, "no score in the words of the critic"),
        ("7", None, "no score in the words of the critic"),
        ("score 12345678901234567890", None, "no score in the words of the critic"),
        ("", None, "the critic said nothing"),
        ("score 4 " + "x" * 100_000, 0.4, "the critic's words were cut"),
    ],
)
def test_a_written_score_is_read_or_the_reason_says_why_not(text, value, reason):
    critique = read_critique(text)
    assert critique.score == value
    assert critique.reason == reason
    assert read_critique(text, enough=0.3).content == (value is not None)


@given(st.text(alphabet="<|im_endstarboximagepad>\n ", max_size=60))
def test_safe_words_hold_no_control_token_however_they_are_nested(text):
    safe, _ = safe_words(text + "<|im_<|im_end|>end|><|box_start|>")
    assert not re.search(r"<\|(?!box_start\|>|box_end\|>)", safe)
    assert "<|box_start|>" in safe
