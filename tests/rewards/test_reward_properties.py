"""Properties of the kit's rewards over random scenes: bounds, order, monotonicity, matching."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pr1kit.data.boxes import iou
from pr1kit.rewards.matching import MATCHINGS
from pr1kit.rewards.parsing import boxed
from pr1kit.rewards.score import RECIPES, score, score_batch

SIDE = 64
SEARCH = Path(__file__).resolve().parents[1] / "benchmarks" / "search_holes.py"
LABELS = ("cat", "dog")
BOX_TASKS = ("grounding", "counting", "detection")
tasks = st.sampled_from(BOX_TASKS)


@st.composite
def box(draw):
    x, y = draw(st.integers(0, SIDE - 2)), draw(st.integers(0, SIDE - 2))
    return (x, y, draw(st.integers(x + 1, SIDE)), draw(st.integers(y + 1, SIDE)))


@st.composite
def near(draw, truth):
    """A box with its edges moved by up to six pixels: most random boxes would miss everything."""
    x1, y1, x2, y2 = (edge + draw(st.integers(-6, 6)) for edge in truth)
    x1, y1 = max(0, min(x1, SIDE - 1)), max(0, min(y1, SIDE - 1))
    return (x1, y1, min(SIDE, max(x2, x1 + 1)), min(SIDE, max(y2, y1 + 1)))


item = st.tuples(box(), st.sampled_from(LABELS))


@st.composite
def scenes(draw, least=0):
    """Predictions and truths, lists of (box, label); about half of the predictions lie near a truth."""
    truths = draw(st.lists(item, min_size=1, max_size=5))
    close = draw(st.lists(st.sampled_from(truths).flatmap(lambda t: st.tuples(near(t[0]), st.sampled_from(LABELS)))))
    predictions = draw(st.permutations(close[:4] + draw(st.lists(item, max_size=3))))
    assume(len(predictions) >= least)
    return list(predictions), truths


def write(task, predictions):
    if task == "detection":
        return json.dumps([{"bbox_2d": list(b), "label": label} for b, label in predictions])
    return "".join(boxed(label, np.array(b, float)) for b, label in predictions) or "None"


def reward(task, predictions, truths, **options):
    target = {"boxes": [b for b, _ in truths], "labels": [label for _, label in truths], "image_size": (SIDE, SIDE)}
    return score(task, write(task, predictions), target, **options)


def overlaps(predictions, truths):
    return iou(*(np.array([b for b, _ in side], float).reshape(-1, 4) for side in (predictions, truths)))


@settings(max_examples=150, deadline=None)
@given(scene=scenes(), task=tasks, aggregate=st.sampled_from(["max", "f1"]), matching=st.sampled_from(MATCHINGS))
def test_total_and_parts_are_bounded(scene, task, aggregate, matching):
    result = reward(task, *scene, aggregate=aggregate, matching=matching)
    assert 0 <= result.total <= 1
    assert all(0 <= value <= 1 for name, value in result.parts.items() if name != "missing")
    assert len({p for p, *_ in result.matches}) == len({t for _, t, _ in result.matches}) == len(result.matches)


@settings(max_examples=150, deadline=None)
@given(scene=scenes(), task=tasks, data=st.data())
def test_the_order_of_predictions_and_of_truths_changes_nothing(scene, task, data):
    predictions, truths = scene
    shuffled = reward(task, data.draw(st.permutations(predictions)), data.draw(st.permutations(truths)))
    assert shuffled.total == pytest.approx(reward(task, predictions, truths).total)


@settings(max_examples=200, deadline=None)
@given(scene=scenes(), task=tasks, false=item)
def test_adding_a_false_box_never_raises_the_reward(scene, task, false):
    predictions, truths = scene
    assume(not overlaps([false], truths).any())
    assert reward(task, [*predictions, false], truths).total <= reward(task, predictions, truths).total + 1e-12


@settings(max_examples=200, deadline=None)
@given(scene=scenes(), missed=item, task=tasks)
def test_adding_a_missed_true_box_never_lowers_the_reward(scene, missed, task):
    predictions, truths = scene
    assume(not overlaps(predictions, [missed]).any())
    truths = [*truths, missed]
    assert reward(task, [*predictions, missed], truths).total >= reward(task, predictions, truths).total - 1e-12


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(scene=scenes(least=1), task=tasks, data=st.data())
def test_moving_a_matched_box_closer_never_lowers_the_reward(scene, task, data):
    predictions, truths = scene
    before = reward(task, predictions, truths)
    assume(before.matches)
    p, t, _ = data.draw(st.sampled_from(before.matches))
    share = data.draw(st.sampled_from([0.25, 0.5, 0.75, 1.0]))
    moved = tuple(round(a + share * (b - a)) for a, b in zip(predictions[p][0], truths[t][0], strict=True))
    closer = [*predictions[:p], (moved, predictions[p][1]), *predictions[p + 1 :]]
    assume(overlaps([closer[p]], [truths[t]]) > overlaps([predictions[p]], [truths[t]]))
    before_t, after_t = (overlaps([side[p]], truths)[0] for side in (predictions, closer))
    others = [i for i in range(len(truths)) if i != t]
    assume((after_t[others] <= before_t[others]).all())  # else it may have come to answer another object as well
    rest = predictions[:p] + predictions[p + 1 :]
    assume((overlaps(rest, [truths[t]]) < 0.5).all())  # else it may have come to be one box too many on its object
    assert reward(task, closer, truths).total >= before.total - 1e-12


@settings(max_examples=200, deadline=None)
@given(scene=scenes(least=1), task=tasks, times=st.integers(1, 6), data=st.data())
def test_repeating_a_box_never_raises_the_reward(scene, task, times, data):
    predictions, truths = scene
    alike = overlaps(truths, truths) - np.eye(len(truths))
    assume(alike.max() < 0.8)  # two objects on one spot may be answered by the same box twice
    repeated = predictions + [data.draw(st.sampled_from(predictions))] * times
    assert reward(task, repeated, truths).total <= reward(task, predictions, truths).total + 1e-12


@settings(max_examples=200, deadline=None)
@given(scene=scenes(least=1), task=tasks)
def test_no_answer_earns_more_than_its_honest_part(scene, task):
    """Its honest part: for each object, the best of the boxes that overlap it most; nothing else."""
    predictions, truths = scene
    assume((overlaps(truths, truths) - np.eye(len(truths))).max() < 0.6)
    overlap = overlaps(predictions, truths)
    if task == "detection":
        overlap *= np.array([[label == name for _, name in truths] for _, label in predictions])
    own = {}
    for i, row in enumerate(overlap):
        earned = reward(task, [predictions[i]], truths).total
        if earned > own.get(row.argmax(), (0, None))[0]:
            own[row.argmax()] = earned, predictions[i]
    honest = [each for _, each in own.values()]
    total = reward(task, predictions, truths).total
    assert total <= reward(task, honest, truths).total + 1e-12
    assert total <= len(honest) / len(truths) + 1e-12


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(scene=scenes(least=1), task=tasks, data=st.data())
def test_a_near_copy_earns_nothing_of_another_object(scene, task, data):
    """Copies moved by a pixel: the reward is at most that of the answer whose box is the best of them."""
    predictions, truths = scene
    assume((overlaps(truths, truths) - np.eye(len(truths))).max() < 0.6)
    box, label = data.draw(st.sampled_from(predictions))
    moved = [(box[0] + x, box[1] + y, box[2] + x, box[3] + y) for x, y in ((0, 0), (1, 0), (0, 1), (1, 1))]
    moved = [(each, label) for each in moved if max(each) <= SIDE]
    others = [each for each in predictions if each != (box, label)]
    assume((overlaps([(box, label)], truths) > 0).sum() > 1)  # it lies over a crowd
    best = max(reward(task, [*others, one], truths).total for one in [(box, label), *moved])
    several = reward(task, [*others, *moved], truths).total
    assert several <= best + 0.25 / len(truths), "up to the quarter that a pixel of a few may shift"


@settings(max_examples=100, deadline=None)
@given(scene=scenes(least=1), names=st.lists(st.sampled_from("abc"), min_size=1, unique=True), data=st.data())
def test_trying_labels_on_a_right_box_costs(scene, names, data):
    _, truths = scene
    some = data.draw(st.lists(st.sampled_from(truths), min_size=1, unique=True))
    assume((overlaps(truths, truths) - np.eye(len(truths))).max() < 0.3)
    right = reward("detection", some, truths).total
    assert reward("detection", [*some, *((some[0][0], name) for name in names)], truths).total < right


@settings(max_examples=100, deadline=None)
@given(scene=scenes(), task=st.sampled_from(["counting", "detection"]))
def test_a_box_over_everything_earns_less_than_one_exact_and_one_false(scene, task):
    _, truths = scene
    everything = (0, 0, SIDE, SIDE)
    assume(len(truths) > 1 and not any(box == everything for box, _ in truths))
    false = [((0, 0, 1, 1), "cat")]
    assume(not overlaps(false, truths).any())
    honest = reward(task, [truths[0], *false], truths).total
    assert reward(task, [(everything, truths[0][1])], truths).total < honest


@settings(max_examples=100, deadline=None)
@given(scene=scenes(least=1), task=tasks)
def test_a_malformed_item_never_raises_the_reward(scene, task):
    predictions, truths = scene
    bad = '{"bbox_2d": [9, 9, 1, 1]}' if task == "detection" else "<|box_start|>(9,9),(1,1)<|box_end|>"
    target = {"boxes": [b for b, _ in truths], "labels": [label for _, label in truths]}
    good = write(task, predictions)
    worse = good[:-1] + ", " + bad + "]" if task == "detection" else good + bad
    result = score(task, worse, target)
    assert result.total <= score(task, good, target).total + 1e-12
    assert 0 < result.parts["format"] < 1


@settings(max_examples=150, deadline=None)
@given(scene=scenes(), task=tasks)
def test_optimal_matching_is_never_worse_than_the_others(scene, task):
    optimal, greedy, sequential = (reward(task, *scene, matching=how).total for how in MATCHINGS)
    assert optimal >= max(greedy, sequential) - 1e-12
    assert min(greedy, sequential) >= 0


@settings(max_examples=100, deadline=None)
@given(scene=scenes(), task=tasks)
def test_only_the_perfect_answer_earns_1(scene, task):
    predictions, truths = scene
    assert reward(task, truths, truths).total == pytest.approx(1)
    perfect = sorted(predictions) == sorted(truths) or (
        task != "detection" and sorted(b for b, _ in predictions) == sorted(b for b, _ in truths)
    )
    assert (reward(task, predictions, truths).total > 1 - 1e-9) == perfect


@settings(max_examples=60, deadline=None)
@given(scenes=st.lists(scenes(), min_size=1, max_size=6), task=tasks, recipe=st.sampled_from(RECIPES))
def test_a_batch_is_scored_as_its_members_are(scenes, task, recipe):
    answers = [write(task, predictions) for predictions, _ in scenes]
    targets = [
        {"boxes": [b for b, _ in truths], "labels": [label for _, label in truths], "image_size": (SIDE, SIDE)}
        for _, truths in scenes
    ]
    batch = score_batch(task, answers, targets, recipe=recipe)
    alone = [score(task, *one, recipe=recipe) for one in zip(answers, targets, strict=True)]
    assert [(r.total, r.parts, r.matches) for r in batch] == [(r.total, r.parts, r.matches) for r in alone]


@settings(max_examples=150, deadline=None)
@given(said=st.text("ab é中 ", max_size=12), truth=st.text("ab é中 ", min_size=1, max_size=12), cut=st.integers(0, 12))
def test_ocr_is_bounded_and_more_right_letters_never_hurt(said, truth, cut):
    truth = " ".join(truth.split())
    assume(truth)
    total = score("ocr", said, {"text": truth}).total
    assert 0 <= total <= 1
    assert (total == 1) == (" ".join(said.split()) == truth)
    if truth[:cut].strip() and truth[: cut + 1].strip():
        assert score("ocr", truth[: cut + 1], {"text": truth}).total >= score("ocr", truth[:cut], {"text": truth}).total


def test_a_local_search_over_answers_finds_no_hole():
    """The command in `tests/benchmarks/search_holes.py` tries a million answers; here it is a few thousand."""
    spec = importlib.util.spec_from_file_location("search_holes", SEARCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tried, excess, loose = module.search(6000, seed=1)
    assert tried >= 6000
    assert max(excess) < 1e-9
    assert excess[2] < 0, "a box over everything earns less than one exact and one false"
    assert loose["detection"] < 0.25, "without a box of IoU 0.5"
