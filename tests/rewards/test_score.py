"""Rewards by hand: each task, each recipe, each switch; TRL's signature; errors at the door."""

import math
import subprocess
import sys

import numpy as np
import pytest

from pr1kit.data.sample import IMAGE_TASKS, Target
from pr1kit.rewards.parsing import boxed
from pr1kit.rewards.results import RewardResult
from pr1kit.rewards.score import RECIPES, completion_text, reward_function, score, score_batch
from pr1kit.rewards.tasks import get_task

SIZE = (100, 100)
TWO = {"boxes": [[0, 0, 10, 10], [50, 50, 70, 70]], "labels": ["cat", "dog"], "image_size": SIZE}
ONE = {"boxes": [[0, 0, 10, 10]], "labels": ["cat"], "text": "a stop sign", "image_size": SIZE}
NONE = {"boxes": [], "labels": [], "text": "", "image_size": SIZE}


def write(*boxes):
    return "".join(boxed("cat", np.array(box, float)) for box in boxes)


def detect(*items):
    return "[" + ", ".join(f'{{"bbox_2d": {list(box)}, "label": "{label}"}}' for box, label in items) + "]"


def total(*args, **kwargs):
    return pytest.approx(score(*args, **kwargs).total)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_the_supervised_answer_earns_the_most(task, recipe):
    target = ONE if task in ("grounding", "ocr") else TWO
    best = {"kit": 1, "paper": 2}.get(recipe, 1)
    if recipe != "kit" and task in ("grounding", "detection"):
        best = {"grounding": 2, "detection": 4 if recipe == "paper" else 3}[task]
    answer = get_task(task).write_answer(target, label="cat", recipe=recipe)
    assert best == total(task, answer, target, recipe=recipe)
    if recipe == "released-strict":
        return  # it has no thinking answers
    assert best == total(
        task, f"<think>(0,0),(9,9)</think><answer>{answer}</answer>", target, recipe=recipe, thinking=True
    )


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_the_supervised_answer_to_nothing_is_explicit_and_earns_1(task):
    assert score(task, get_task(task).write_answer(NONE, label="cat"), NONE).total == 1


def test_grounding_by_hand():
    half = write([0, 0, 10, 5])
    assert score("grounding", half, ONE).total == 0.5
    assert score("grounding", half, ONE, recipe="paper").total == 1.5
    assert score("grounding", half, ONE, recipe="released").total == 1.25
    assert score("grounding", half, ONE, recipe="released", drop="format").total == 0.25
    assert score("grounding", half + write([0, 0, 10, 10]), ONE).total == 0.5, "the better of two, halved"
    assert score("grounding", half + write([0, 0, 10, 10]), ONE, recipe="paper").total == 1.5, "the first of two"


def test_counting_kit_by_hand():
    """Σ (½ IoU + ½ [IoU >= 0.1]) / max(n, m)."""
    result = score("counting", write([0, 0, 10, 5]), TWO)
    assert result.total == pytest.approx((0.5 * 0.5 + 0.5) / 2)
    assert result.parts == {"format": 1, "location": 0.25, "count": 0.5}
    assert result.matches == ((0, 0, 0.75),)
    assert score("counting", write([0, 0, 10, 5]), TWO, drop="count").total == 0.25
    assert score("counting", write([0, 0, 10, 5]), TWO, drop="location").total == 0.5
    assert score("counting", write([0, 0, 10, 5]), TWO, threshold=0.6).total == 0.125
    assert score("counting", write([0, 0, 10, 5]), TWO, aggregate="f1").total == pytest.approx(0.5)
    assert score("counting", write([0, 0, 10, 5]), TWO, aggregate="prediction").total == 0.75


def test_counting_matching_switch():
    swapped = write(*TWO["boxes"][::-1])
    assert [score("counting", swapped, TWO, matching=m).total for m in ("optimal", "greedy", "sequential")] == [1, 1, 0]
    assert score("counting", swapped, TWO, recipe="paper", matching="sequential").total == 1, "the format alone"


def test_counting_with_points_by_hand():
    target = {"points": [[20, 20], [80, 80]], "image_size": SIZE}
    exact, off = [10, 10, 30, 30], [70, 70, 94, 90]  # centres (20, 20) and (82, 80)
    near = 1 - 2 / (0.1 * math.hypot(*SIZE))
    assert score("counting", write(exact, off), target).total == pytest.approx((1 + 0.5 * near + 0.5) / 2)
    assert score("counting", write(exact), target, recipe="paper").total == pytest.approx(1.5)
    assert score("counting", '[{"point_2d": [20, 20]}, {"point_2d": [80, 80]}]', target).total == pytest.approx(1)


def test_counting_released_by_hand():
    """min/max × (1 − mean distance / (1000·√2)), normalised to 0–1000; behind the gate of the format."""
    target = {"points": [[20, 20], [80, 80]], "image_size": SIZE}
    answer = write([10, 10, 30, 36])  # centre (20, 23): 30 of 1000 off
    expected = 1 - 30 / (1000 * math.sqrt(2))
    assert score("counting", answer, target, recipe="released").total == pytest.approx(0.5 * expected)
    assert score("counting", answer, target, recipe="released", drop="count").total == pytest.approx(expected)
    assert score("counting", answer + "<|box_start|>oops<|box_end|>", target, recipe="released").total == 0
    assert score("counting", "None", NONE, recipe="released").total == 0, "its regular expression wants a box"
    far = write([8000, 8000, 9000, 9000])
    assert score("counting", far, target, recipe="released").total < 0, "the official formula is not floored"


def test_a_stated_number_by_hand():
    five = {"count": 5}
    for text, exact, closeness in (("5", 1, 1), ("<answer> 4 </answer>", 0, 0.8), ("4 or 5", 0, 0), ("None", 0, 0)):
        result = score("counting", text, five, recipe="number")
        assert (result.parts["exact"], result.parts["closeness"]) == (exact, pytest.approx(closeness)), text
        assert result.total == pytest.approx((exact + closeness) / 2)
    assert score("counting", "4", five, recipe="number", drop="exact").total == pytest.approx(0.8)
    assert score("counting", "4", five, recipe="number", drop="closeness").total == 0
    assert score("counting", write([0, 0, 9, 9]), {"count": 1}, recipe="number").total == 0, "a box states no number"
    assert score("counting", "0", {"count": 0}, recipe="number").total == 1


def test_detection_kit_by_hand():
    answer = detect(([0, 0, 10, 8], " CAT "), ([50, 50, 70, 70], "bird"), ([80, 80, 90, 90], "dog"))
    result = score("detection", answer, TWO)
    assert result.total == pytest.approx((0.5 * 0.8 + 0.5) / 3)
    assert result.parts == pytest.approx(
        {"format": 1, "location": 0.8 / 3, "class": 0.5, "recall": 1 / 3, "missing": -0.5}
    )
    assert score("detection", answer, TWO, drop="class").total == pytest.approx((0.9 + 1) / 3)
    assert score("detection", answer, TWO, drop=("recall",)).total == pytest.approx(0.8 / 3)
    one = detect(([0, 0, 10, 10], "cat"))
    assert score("detection", one, TWO).total == 0.5
    assert score("detection", one, TWO, drop="missing").total == 1
    cut = one[:-1] + ', {"bbox_2d": [1'
    assert score("detection", cut, ONE).total == 0.5
    assert score("detection", cut, ONE, drop="format").total == 1


def test_detection_paper_by_hand():
    answer = detect(([0, 0, 10, 8], "cat"), ([50, 50, 70, 70], "bird"), ([80, 80, 90, 90], "dog"))
    result = score("detection", answer, TWO, recipe="paper")
    assert result.parts == pytest.approx({"format": 1, "location": 0.9, "class": 0.5, "recall": 0.8, "missing": 0})
    assert result.total == pytest.approx(3.2)
    assert score("detection", answer, TWO, recipe="paper", drop=("class", "recall")).total == pytest.approx(1.9)
    assert score("detection", detect(([0, 0, 10, 10], "cat")), TWO, recipe="paper").parts["missing"] == -0.5


def test_detection_released_by_hand():
    answer = detect(([0, 0, 10, 8], "cat"), ([50, 50, 70, 70], "bird"), ([80, 80, 90, 90], "dog"))
    result = score("detection", answer, TWO, recipe="released")
    assert result.total == pytest.approx(0.25 + 0.75 * 0.8 + 0.5 + 0.9 - 0.5 * (1 / 3 + 0))
    exactly_half = detect(([0, 0, 10, 5], "cat"))
    assert score("detection", exactly_half, ONE, recipe="released").total == 0.25, "a hit is beyond 0.5: format alone"
    assert score("detection", "[]", ONE, recipe="released").total == 0.25
    assert score("detection", "[]", NONE, recipe="released").total == 0.25


def test_ocr_by_hand():
    assert score("ocr", "a  stop\nsing", ONE).total == pytest.approx(1 - 2 / 11)
    assert score("ocr", "a stop", ONE, recipe="paper").total == pytest.approx(2 - 5 / 11)
    assert score("ocr", "a stop", ONE, recipe="released").total == pytest.approx(1 - 5 / 11)
    composed = {"text": "café"}
    assert score("ocr", "cafe\u0301", composed).total == 1
    assert score("ocr", "cafe\u0301", composed, recipe="released").total < 1, "it compares code points"


def test_thinking_wants_its_tags():
    box = write([0, 0, 10, 10])
    tagged = f"<think>hm</think><answer>{box}</answer>"
    assert score("grounding", tagged, ONE, thinking=True).total == 1
    assert score("grounding", box, ONE, thinking=True).total == 0.5
    assert score("grounding", box, ONE, thinking=True, recipe="paper").total == 1
    assert score("grounding", box, ONE, thinking=True).reason == "the thinking tags are missing"
    assert score("grounding", tagged, ONE).total == 1, "without being asked, tags do no harm"


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("task", ["grounding", "counting", "detection"])
def test_every_frame_gives_the_same_reward(task, recipe):
    truth = {"boxes": [[64, 48, 320, 240]], "labels": ["cat"], "image_size": (640, 480)}
    story = get_task(task)
    inside = {"pixel": [64, 48, 320, 240], "norm1000": [100, 100, 500, 500], (320, 480): [32, 48, 160, 240]}
    answers = {
        frame: story.write_answer({"boxes": [box], "labels": ["cat"]}, label="cat", recipe=recipe)
        for frame, box in inside.items()
    }
    results = [score(task, answer, truth, frame=frame, recipe=recipe) for frame, answer in answers.items()]
    assert results[0].total == results[1].total == results[2].total > 0


def test_batched_is_scalar():
    completions = [write([0, 0, 10, 5]), "None", None, write([0, 0, 10, 10], [50, 50, 70, 70])]
    frames = ["pixel", "norm1000", (50, 50), [100, 100]]
    batch = score_batch("counting", completions, [TWO] * 4, frame=frames)
    for completion, frame, result in zip(completions, frames, batch, strict=True):
        alone = score("counting", completion, Target.of(TWO), frame=frame)
        assert (alone.total, alone.parts, alone.matches) == (result.total, result.parts, result.matches)
    assert [result.total for result in batch] == [0.375, 0, 0, 1]


def test_parts_are_plain_floats_and_the_result_shows_itself():
    for task in IMAGE_TASKS:
        for recipe in RECIPES:
            result = score(task, get_task(task).write_answer(ONE, label="cat"), ONE, recipe=recipe)
            assert type(result.total) is float
            assert all(type(value) in (float, int) for value in result.parts.values())
            assert "<table>" in result._repr_html_()


# The adapter for TRL


def test_reward_function_has_trls_signature():
    reward = reward_function("counting")
    assert reward.__name__ == "counting_kit"
    rewards = reward(
        prompts=["p", "p"],
        completions=[[{"role": "assistant", "content": write([0, 0, 10, 10])}], write([0, 0, 10, 10])],
        completion_ids=[[1], [2]],
        boxes=[[[0, 0, 10, 10]], []],
        points=[None, None],
        image_size=[[100, 100], [100, 100]],
        question=["cat", "cat"],
        trainer_state=object(),
        log_extra=lambda *_: None,
        log_metric=lambda *_: None,
    )
    assert rewards == [1.0, 0.0]
    assert all(type(value) is float for value in rewards)


def test_a_frame_column_overrides_the_default():
    columns = {"boxes": [[[10, 10, 20, 20]]] * 3, "image_size": [SIZE] * 3}
    answers = [write([100, 100, 200, 200])] * 2 + [write([20, 20, 40, 40])]
    reward = reward_function("grounding", frame="norm1000")
    assert reward([""] * 3, answers, frame=["norm1000", None, [200, 200]], **columns) == [1, 1, 1]
    assert reward([""] * 3, answers, frame=["pixel"] * 3, **columns) == [0, 0, 0.0]


def first_box(answer, target, options):
    """A recipe of one's own: does the first box begin where the object does?"""
    there = float(len(answer.boxes) > 0 and np.allclose(answer.boxes[0][:2], target.boxes[0][:2]))
    return RewardResult(there, {"corner": there, "format": answer.format_score}, reason=answer.reason)


def test_a_function_stands_where_the_name_of_a_recipe_does():
    texts = [write([0, 0, 10, 10]), write([0, 0, 500, 500]), write([3, 0, 10, 10]), "no box"]
    for task in ("grounding", "counting"):
        named, ours = (score_batch(task, texts, [ONE] * 4, recipe=r) for r in ("kit", get_task(task).kit))
        assert [(r.total, r.parts, r.matches) for r in named] == [(r.total, r.parts, r.matches) for r in ours]
    assert [score("grounding", text, ONE, recipe=first_box).total for text in texts] == [1, 1, 0, 0]
    assert score("grounding", write([0, 0, 100, 100]), ONE, frame="norm1000", recipe=first_box).total == 1
    tagless = score("grounding", texts[0], ONE, recipe=first_box, thinking=True)
    assert tagless.parts["format"] == 0
    assert "tags" in tagless.reason


def test_the_parts_of_a_recipe_of_ones_own_are_logged():
    parts, metrics = {}, {}
    logs = {"log_extra": lambda name, values: parts.update({name: values}), "log_metric": metrics.__setitem__}
    reward = reward_function("grounding", first_box)
    columns = {"boxes": [ONE["boxes"]] * 3, "image_size": [SIZE] * 3}
    answers = [write([0, 0, 10, 10]), write([4, 0, 10, 10]), ""]
    assert reward([""] * 3, answers, **columns, **logs) == [1, 0, 0]
    assert parts == {"corner": [1, 0, 0], "format": [1, 1, 0]}
    assert metrics == {"reward/corner": pytest.approx(1 / 3), "reward/format": pytest.approx(2 / 3)}
    assert reward.__name__ == "grounding_first_box"
    assert reward.columns == (("boxes",),)
    assert reward([""] * 40, ["no box"] * 40, boxes=[ONE["boxes"]] * 40) == [0] * 40  # no layout to recommend


@pytest.mark.parametrize("made", [0.5, None, RewardResult(math.nan, {})])
def test_a_recipe_that_returns_no_reward_is_named(made):
    def mine(answer, target, options):
        return made

    with pytest.raises(
        ValueError, match=r"A recipe returns a RewardResult with a finite total: 'mine' made .* of 'hm'"
    ):
        score("grounding", "hm", ONE, recipe=mine)


def test_a_reward_of_several_tasks_pays_each_by_its_own_rule():
    parts, metrics = {}, {}
    answers = [write([0, 0, 10, 10]), "SHOP", write([0, 0, 10, 10])]
    columns = {"boxes": [[[0, 0, 10, 10]], [], [[0, 0, 10, 20]]], "text": ["", "STOP", ""], "image_size": [SIZE] * 3}
    tasks = ["counting", "ocr", "grounding"]
    reward = reward_function(["grounding", "ocr", "counting"])
    logs = {"log_extra": lambda name, values: parts.update({name: values}), "log_metric": metrics.__setitem__}
    paid = reward([""] * 3, answers, task=tasks, **columns, **logs)
    for i, task in enumerate(tasks):
        own = {name: [values[i]] for name, values in columns.items()}
        assert [paid[i]] == reward_function(task)([""], [answers[i]], **own)
        assert metrics[f"reward/{task}"] == paid[i]
    assert parts["edit"][1] == metrics["reward/edit"] == 0.75
    assert [math.isnan(value) for value in parts["edit"]] == [True, False, True]
    assert metrics["reward/location"] == (parts["location"][0] + parts["location"][2]) / 2
    assert ("task",) in reward.columns
    assert reward.__name__ == "grounding+ocr+counting_kit"
    for column in ({}, {"task": ["counting", "ocr", "detection"]}):
        with pytest.raises(ValueError, match="column 'task' must say grounding or ocr or counting"):
            reward([""] * 3, answers, **column, **columns)
    with pytest.raises(ValueError, match="needs a task"):
        reward_function([])


def test_options_reach_the_reward():
    reward = reward_function("detection", "paper", drop=("class", "recall", "location", "missing"), thinking=True)
    assert reward.__name__ == "detection_paper"
    assert reward([""], ["[]"], boxes=[[[0, 0, 1, 1]]], labels=[["cat"]]) == [0.0]


@pytest.mark.parametrize(
    ("task", "column"), [("grounding", "boxes"), ("counting", "points"), ("ocr", "text"), ("detection", "labels")]
)
def test_a_missing_column_is_one_clear_sentence(task, column):
    columns = {"boxes": [[[0, 0, 1, 1]]]} if task == "detection" else {}
    with pytest.raises(ValueError, match=f"The {task} reward needs the dataset column .*'{column}'"):
        reward_function(task)(prompts=[""], completions=["x"], **columns)


def test_completion_text():
    assert completion_text("x") == "x"
    assert completion_text([{"role": "assistant", "content": [{"type": "text", "text": "x"}]}]) == "x"
    assert completion_text([{"content": "a"}, {"content": "b"}]) == "b"
    for nothing in (None, [], 3, [{"content": None}], [{}], [3]):
        assert completion_text(nothing) is None or completion_text(nothing) == ""


# Errors at the door

BAD_CALLS = {
    "Unknown task 'count'": ("count", {}, ONE),
    "Unknown recipe 'mine'": ("counting", {"recipe": "mine"}, ONE),
    "Unknown matching 'best'": ("counting", {"matching": "best"}, ONE),
    "Unknown aggregate 'mean'": ("counting", {"aggregate": "mean"}, ONE),
    "Unknown frame 'norm'": ("counting", {"frame": "norm"}, ONE),
    "has no part 'recall' to drop": ("counting", {"drop": ("recall",)}, ONE),
    "threshold is an IoU": ("counting", {"threshold": 0}, ONE),
    "Target or a mapping .* got str": ("counting", {}, "[[0, 0, 1, 1]]"),
    "Target boxes must be numbers": ("counting", {}, {"boxes": "[[0, 0, 1, 1]]"}),
    "needs 'boxes' or 'points'": ("counting", {}, {"labels": []}),
    "needs 'text'": ("ocr", {}, {"boxes": []}),
    "needs 'labels'": ("detection", {}, {"boxes": [[0, 0, 1, 1]]}),
    "needs a label for each true box": ("detection", {}, Target(boxes=[[0, 0, 1, 1]])),
    "lies outside its image": ("counting", {}, {"boxes": [[0, 0, 500, 1]], "image_size": SIZE}),
    "is not x1 <= x2": ("counting", {}, {"boxes": [[5, 0, 1, 1]]}),
    "with finite numbers": ("counting", {}, {"boxes": [[0, 0, math.inf, 1]]}),
    "image_size is \\(width, height\\)": ("counting", {}, {"boxes": [], "image_size": "64x64"}),
    "Counting by distance needs": ("counting", {}, {"points": [[1, 1]]}),
    "needs the target's image_size": ("counting", {"frame": "norm1000"}, {"boxes": [[0, 0, 1, 1]]}),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_bad_input_is_one_clear_sentence(message):
    task, options, target = BAD_CALLS[message]
    with pytest.raises(ValueError, match=message) as error:
        score(task, detect(([0, 0, 1, 1], "cat")), target, **options)
    assert "\n" not in str(error.value)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 completions need as many targets, got 1"):
        score_batch("ocr", ["a", "b"], [ONE])
    with pytest.raises(ValueError, match="need one frame or 1 frames, got 2"):
        score_batch("ocr", ["a"], [ONE], frame=["pixel", "pixel"])


def test_an_unknown_name_is_told_when_the_function_is_made():
    for bad in ({"recipe": "mine"}, {"frame": "norm"}, {"drop": "x"}, {"matching": "x"}):
        with pytest.raises(ValueError, match=r"Unknown|no part"):
            reward_function("counting", **bad)


def test_the_reward_core_needs_no_torch():
    code = "import sys, pr1kit.evaluation.metrics; assert not {'torch', 'scipy', 'nltk'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
