"""The kit's rules and the official ones wherever they differ, and what of an answer is its count."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from pr1kit.evaluation.intervals import corrected_interval, mean_interval, share_interval
from pr1kit.evaluation.metrics import evaluate
from pr1kit.rewards.tasks import Rules

COMPLETIONS = Path(__file__).resolve().parents[3] / "shared" / "data" / "completions" / "r1v_counting_run1.txt"
BOX = "<|box_start|>(0,0),(10,10)<|box_end|>"
ONE = {"boxes": [[0, 0, 10, 10]], "labels": ["cat"]}


def both(task, completions, targets, name):
    return [evaluate(task, completions, targets, rules=rules)[name] for rules in ("kit", "official")]


def test_an_iou_of_exactly_a_half_is_a_hit_and_officially_a_miss():
    half = "<|box_start|>(0,0),(10,5)<|box_end|>"
    assert both("grounding", [half, BOX], [ONE] * 2, "acc@0.5") == [1, 0.5]
    assert both("grounding", [half, BOX], [ONE] * 2, "mean_iou") == [0.75, 0.75]


def test_white_space_counts_officially():
    page = {"text": "the run mat"}
    kit, official = both("ocr", ["the\n\nrun\n\nmat"], [page], "edit_distance")
    assert (kit, official) == (0, pytest.approx(4 / 13))
    assert both("ocr", ["the\n\nrun\n\nmat"], [page], "f1") == [1, 1]
    assert both("ocr", ["<think>hm</think>the run mat"], [page], "edit_distance")[0] == 0
    assert both("ocr", ["<think>hm</think>the run mat"], [page], "edit_distance")[1] > 0.5


def test_blanks_are_words_of_chinese_text_officially():
    pytest.importorskip("jieba", reason="jieba is not installed: Chinese is compared by characters")
    kit, official = both("ocr", ["我 爱 北京"], [{"text": "我爱北京"}], "f1")
    assert kit == 1
    assert official < 1


def test_broken_json_is_dropped_whole_officially():
    item = json.dumps({"bbox_2d": [0, 0, 10, 10], "label": "cat"})
    for text, expected in (
        (f"[{item}]", [1, 1]),
        (f"[{item}, {{", [1, 0]),
        (f'[{{"label": "cat"}}, {item}]', [1, 0]),
        (f'[{item}, {{"label": "cat"}}]', [1, 1]),
        (f"[{item.replace('cat', 'CAT')}]", [1, 0]),
    ):
        assert both("detection", [text], [ONE], "ap50") == pytest.approx(expected), text


def test_a_count_is_officially_that_of_boxes_between_tokens():
    three = {"count": 3}
    assert both("counting", ["cat" + BOX * 3], [three], "accuracy") == [1, 1]
    assert both("counting", ["cat" + "(0,0),(10,10)" * 3], [three], "accuracy") == [1, 0]
    assert both("counting", ["None"], [{"count": 0}], "accuracy") == [1, 0]


def test_count_from_says_what_is_counted():
    def accuracy(text, count, count_from):
        return evaluate("counting", [text], [{"count": count}], count_from=count_from)["accuracy"]

    assert [accuracy("<answer>4</answer>", 4, how) for how in ("boxes", "number", "either")] == [0, 1, 1]
    assert [accuracy(BOX, 1, how) for how in ("boxes", "number", "either")] == [1, 0, 1]
    assert [accuracy("0", 0, how) for how in ("boxes", "number", "either")] == [0, 1, 1]
    assert [accuracy("3 or 4", 4, how) for how in ("boxes", "number", "either")] == [0, 0, 0]
    metrics = evaluate("counting", ["4"], [{"count": 4}], count_from="number")
    assert "the count is the number that an answer states" in str(metrics)
    with pytest.raises(ValueError, match="Unknown count_from 'words': choose one of boxes, number, either"):
        evaluate("counting", ["4"], [{"count": 4}], count_from="words")
    with pytest.raises(ValueError, match="Unknown rules 'paper': choose kit or official"):
        evaluate("counting", ["4"], [{"count": 4}], rules="paper")


@pytest.mark.skipif(not COMPLETIONS.exists(), reason=f"no logged completions at {COMPLETIONS}")
def test_a_published_run_is_recounted():
    """A counting run of others that states numbers in answer tags: its own reward is met wherever it read a number."""
    head = r"^-{5,} [\d-]+ Accuracy reward: (\S+) -{5,}\nContent: (.*?)^Solution: <answer> ?(.*?) ?</answer>"
    log = re.findall(head, COMPLETIONS.read_text(encoding="utf-8"), re.M | re.S)
    own, texts, counts = zip(*[row for row in log if row[2].isdigit()], strict=True)
    assert len(own) > 500
    targets = [{"count": int(count)} for count in counts]
    right = [evaluate("counting", [text], [target])["accuracy"] for text, target in zip(texts, targets, strict=True)]
    agree = np.array(right) == np.array(own, float)
    assert agree.mean() > 0.99, np.mean(agree)


def test_the_rules_are_said_with_the_numbers():
    for rules in (Rules(), Rules(official=True)):
        for task in ("grounding", "counting", "ocr", "detection"):
            assert rules.said(task).startswith("official rules: " if rules.official else "kit rules: ")
    assert "official rules: an IoU of exactly 0.5" in str(evaluate("grounding", [BOX], [ONE], rules="official"))


def test_wilson_by_hand_and_never_certain():
    low, high = share_interval(np.ones(20))
    z2 = 1.959964**2
    assert (low, high) == (pytest.approx(1 / (1 + z2 / 20), abs=1e-6), 1)
    low, high = share_interval(np.repeat([1.0, 0], [3, 7]))
    assert (low, high) == (pytest.approx(0.10779, abs=1e-4), pytest.approx(0.60322, abs=1e-4))
    assert share_interval(np.full(9, 0.5)) == (0.5, 0.5)
    assert share_interval(np.array([0.5])) == (0, 1)


def test_bca_follows_the_skew_and_a_bias_is_taken_off():
    values = np.array([0.0] * 15 + [8.0])
    drawn = np.random.default_rng(0).choice(values, (4000, 16)).mean(1)
    low, high = mean_interval(values, drawn)
    assert high - values.mean() > 1.5 * (values.mean() - low)
    assert np.isnan(mean_interval(np.array([0.5]), np.array([0.5, 0.5]))).all()  # one value tells no spread
    assert corrected_interval(0.5, np.array([0.55, 0.65]), 100)[1] < 0.6
    middle = np.mean(corrected_interval(0.5, np.array([0.55, 0.65]), 100))
    assert middle == pytest.approx(0.4)
