"""Recipe `released-strict` against the rewards that the official code gave, and what decides them by hand."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from pr1kit.rewards.official import COCO_CLASSES
from pr1kit.rewards.score import reward_function, score
from pr1kit.rewards.tasks import get_task

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "official_rewards" / "released.jsonl"
SIZE = (1000, 1000)
CAT = "<|object_ref_start|>cat<|object_ref_end|>"
BOX = "<|box_start|>(10,10),(30,30)<|box_end|>"
POINT = {"points": [[20, 20]], "image_size": SIZE}
ONE = {"boxes": [[10, 10, 30, 30]], "labels": ["cat"], "image_size": SIZE}


def strict(task, text, target, **options):
    return score(task, text, target, recipe="released-strict", **options).total


@pytest.mark.skipif(not RECORDED.exists(), reason=f"no recorded official rewards at {RECORDED}")
def test_every_recorded_official_reward_is_met():
    """Well-formed answers to 1e-4 in every kind; mutated ones to at least 99 %. Today all 1,198 agree."""
    kinds = defaultdict(list)
    for row in map(json.loads, RECORDED.read_text(encoding="utf-8").splitlines()):
        drop = ("missing",) if "penalty off" in row["kind"] else ()
        got = strict(row["task"], row["completion"], row["target"], frame=row["frame"], drop=drop)
        kinds[row["task"], row["kind"]].append(abs(got - (row["reward"] or 0)) <= 1e-4)
    assert len(kinds) == 12
    for kind, agree in kinds.items():
        assert np.mean(agree) >= (0.99 if "mutated" in kind[1] else 1), kind


def test_counting_wants_one_label_then_boxes_then_the_end():
    assert strict("counting", f"{CAT}{BOX}<|im_end|>", POINT) == 1
    assert strict("counting", f"{CAT}{BOX}", POINT) == 0, "no end token"
    assert strict("counting", f"{CAT}{BOX}{CAT}{BOX}<|im_end|>", POINT) == 0, "a label before each box"
    assert strict("counting", "cat(10,10),(30,30)", POINT) == 0, "tokens stripped"
    assert strict("counting", f"{CAT}{BOX}<|box_start|>(1,2)<|box_end|><|im_end|>", POINT) == 1, "half a box is no box"
    assert strict("counting", f"{CAT}<|box_start|>(30,10),(10,30)<|box_end|><|im_end|>", POINT) == 1, "its centre alone"
    far = "<|box_start|>(9000,9000),(9999,9999)<|box_end|>"
    assert strict("counting", f"{CAT}{far}<|im_end|>", POINT) < -5, "not floored at 0"


def test_the_grounding_format_test_passes_whatever_begins_with_less_than():
    assert strict("grounding", f"{CAT}{BOX}<|im_end|>", ONE) == 2
    assert strict("grounding", "<nonsense", ONE) == 1
    assert strict("grounding", "[10, 10, 30, 30]", ONE) == 0, "without box tokens a box is read as fractions"
    assert strict("grounding", "[0.01, 0.01, 0.03, 0.03]", ONE, frame="norm1000") == 1
    assert strict("grounding", f"{CAT}<|box_start|>[1,2,3,4](10,10),(30,30)<|box_end|>", ONE) == 1, (
        "the list comes first"
    )


def test_detection_is_json_as_a_whole_in_coco_s_words():
    def item(box, label):
        return json.dumps({"bbox_2d": box, "label": label})

    good = item([10, 10, 30, 30], "cat")
    assert strict("detection", f"[{good}]", ONE) == pytest.approx(3)
    assert strict("detection", f"```json\n[{good}]\n```", ONE) == pytest.approx(3)
    for nothing in ("[]", f"[{good}", f"[{good}]<|im_end|>", f"[{item([10, 10, 30, 30], 'Cat')}]"):
        assert strict("detection", nothing, ONE) == 0, nothing
    assert strict("detection", f"[{good}, {item([9, 9, 1, 1], 'dog')}]", ONE) == 0, "one inverted box"
    assert strict("detection", f"[{good}, {item([9, 9, 1], 'dog')}]", ONE) == 0, "one box of three numbers"
    half = strict("detection", f"[{good}, {item([1, 1, 9, 9], 'catt')}]", ONE)
    assert half == pytest.approx(3 - 0.125), "an unknown class lowers the format term alone"
    own = {**ONE, "labels": ["platelet"]}
    assert strict("detection", f"[{item([10, 10, 30, 30], 'platelet')}]", own) == pytest.approx(3), (
        "the target's classes"
    )
    assert len(COCO_CLASSES) == 80


def test_released_matches_in_pixels_of_the_frame_by_unscaled_l1():
    """Two predictions of one object each: 5·L1 in pixels outweighs GIoU and class, so labels do not decide."""
    truth = {"boxes": [[0, 0, 100, 100], [10, 0, 110, 100]], "labels": ["cat", "dog"], "image_size": SIZE}
    swapped = '[{"bbox_2d": [0, 0, 100, 100], "label": "dog"}, {"bbox_2d": [10, 0, 110, 100], "label": "cat"}]'
    for recipe in ("released", "released-strict"):
        result = score("detection", swapped, truth, recipe=recipe)
        assert [(p, t) for p, t, _ in result.matches] == [(0, 0), (1, 1)]
        assert result.parts["class"] == 0


def test_only_literals_are_read():
    """The official code evaluates what stands between box tokens; here an expression is no box."""
    for code in ("(10,10),(5*6,30)", "(lambda: 1)(),(1,2)", "__import__('os')"):
        assert strict("counting", f"{CAT}<|box_start|>{code}<|box_end|><|im_end|>", POINT) == 0
    spaced = f"{CAT}<|box_start|> [10, 10.0], (3e1, 30), <|box_end|><|im_end|>"
    assert strict("counting", spaced, POINT) == 1


@pytest.mark.parametrize("task", ["grounding", "counting", "detection"])
def test_the_supervised_answer_of_the_recipe_earns_the_most(task):
    target = {**ONE, "boxes": [[10, 10, 30, 30], [50, 50, 90, 90]][: 1 if task == "grounding" else 2]}
    target["labels"] = ["cat"] * len(target["boxes"])
    best = {"grounding": 2, "counting": 1, "detection": 3}[task]
    answer = get_task(task).write_answer(target, label="cat", recipe="released-strict")
    assert strict(task, answer, target) == pytest.approx(best)


def test_a_layout_that_earns_nothing_is_warned_of_once():
    reward = reward_function("counting", "released-strict")
    columns = {"points": [POINT["points"]] * 64, "image_size": [SIZE] * 64}
    with pytest.warns(UserWarning, match="0 of 64 answers pass the format gate of `released-strict`"):
        assert reward([""] * 64, ["cat(10,10),(30,30)"] * 64, **columns) == [0.0] * 64


def test_thinking_is_refused():
    with pytest.raises(ValueError, match="read no thinking answers"):
        strict("counting", "None", POINT, thinking=True)


def test_special_tokens_are_decoded_where_they_are_wanted():
    reward = reward_function("counting", "released-strict", decode=lambda ids: "".join(map(chr, ids)))
    columns = {"points": [POINT["points"]], "image_size": [SIZE]}
    ids = [list(map(ord, f"{CAT}{BOX}<|im_end|>"))]
    assert reward([""], ["cat(10,10),(30,30)"], completion_ids=ids, **columns) == [1.0]
