"""Metrics: COCO's published numbers to the last digit, hand-computed values, intervals that cover, clear errors."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pr1kit.evaluation.average_precision import COCO_METRICS, DetectionProtocol, coco_table
from pr1kit.evaluation.metrics import count_confusion, evaluate
from pr1kit.rewards.parsing import boxed
from pr1kit.rewards.tasks import get_task

COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco"
PUBLISHED = {
    "ap": 0.504581, "ap50": 0.696973, "ap75": 0.572982, "ap_small": 0.585626, "ap_medium": 0.519400,
    "ap_large": 0.501398, "ar1": 0.386813, "ar10": 0.593680, "ar100": 0.595353, "ar_small": 0.639811,
    "ar_medium": 0.566421, "ar_large": 0.564291,
}  # fmt: skip
A, B, C = [0, 0, 10, 10], [50, 50, 70, 70], [20, 60, 40, 90]


def write(*boxes):
    return "".join(boxed("cat", np.array(box, float)) for box in boxes) or "None"


@pytest.fixture(scope="module")
def published():
    if not COCO.is_dir():
        pytest.skip(f"no COCO conformance data at {COCO.parent.parent.name}/data/coco beside the repository")
    truth = json.loads((COCO / "instances_val2014_100.json").read_text())
    return truth, coco_table(truth, json.loads((COCO / "instances_val2014_fakebbox100_results.json").read_text()))


def test_the_twelve_published_numbers_come_out_exactly(published):
    assert {name: round(value, 6) for name, value in published[1].values.items()} == PUBLISHED


def test_weights_of_one_give_pycocotools_numbers(published):
    truth, table = published
    for name in COCO_METRICS:
        assert table.weighted(name, np.ones(len(truth["images"]))) == pytest.approx(table.values[name], abs=1e-12)


def test_weights_give_what_pycocotools_gives_for_repeated_images(published):
    """Images drawn twice or not at all, evaluated by pycocotools as a dataset of its own."""
    truth, table = published
    detections = json.loads((COCO / "instances_val2014_fakebbox100_results.json").read_text())
    weights = np.random.default_rng(0).integers(0, 3, len(truth["images"]))
    images, notes, found = [], [], []
    for weight, image in zip(weights, sorted(truth["images"], key=lambda image: image["id"]), strict=True):
        for _ in range(weight):
            new = {"image_id": len(images) + 1}
            images.append({"id": new["image_id"]})
            notes += [row | new for row in truth["annotations"] if row["image_id"] == image["id"]]
            found += [row | new for row in detections if row["image_id"] == image["id"]]
    notes = [row | {"id": i} for i, row in enumerate(notes, 1)]
    again = coco_table({"images": images, "annotations": notes, "categories": truth["categories"]}, found)
    for name in ("ap", "ap50", "ap_large", "ar1", "ar100"):
        weighted = table.weighted(name, weights.astype(float))
        assert weighted == pytest.approx(again.values[name], abs=2e-3)  # ties
        assert abs(weighted - table.values[name]) > 4e-3, "the weights change what the tolerance would let pass"


def test_neither_truth_nor_detections_are_changed(published):
    image, row = {"id": 7}, {"image_id": 7, "category_id": 1, "bbox": [1, 1, 4, 4]}
    truth = {"images": [image], "annotations": [row | {"id": 1, "area": 16, "iscrowd": 0}], "categories": [{"id": 1}]}
    before, found = json.dumps(truth), [row | {"score": 0.5}]
    assert coco_table(truth, found).values["ap50"] == pytest.approx(1)
    assert json.dumps(truth) == before
    assert found == [row | {"score": 0.5}]


# Detection


def detect(*items):
    return json.dumps([{"bbox_2d": box, "label": label} for box, label in items])


SCENES = [{"boxes": [A, B], "labels": ["cat", "dog"], "image_size": (100, 100)}, {"boxes": [C], "labels": ["cat"]}]


def test_a_perfect_detector_has_ap_1_and_a_silent_one_0():
    answers = [get_task("detection").write_answer(scene) for scene in SCENES]
    perfect, silent = evaluate("detection", answers, SCENES), evaluate("detection", ["[]", ""], SCENES)
    assert perfect["ap"] == perfect["ap50"] == perfect["ar100"] == pytest.approx(1)
    assert perfect.interval("ap") == (pytest.approx(1), pytest.approx(1))
    assert silent["ap"] == silent["ar1"] == 0
    assert silent.interval("ap") == (0, 0)
    assert math.isnan(perfect["ap_large"]), "no truth is large"
    assert math.isnan(perfect.interval("ap_large")[0])


def test_ap_by_hand():
    """Four objects in four images, two found: precision 1 up to recall 0.5, at 51 of the 101 points."""
    truths = [{"boxes": [A], "labels": ["cat"]}] * 4
    answers = [detect((A, "cat"))] * 2 + ["[]"] * 2
    assert evaluate("detection", answers, truths)["ap50"] == pytest.approx(51 / 101)


def test_labels_fold_and_unknown_ones_are_dropped():
    answers = [detect((A, " CAT "), (B, "Dog"), (C, "unicorn")), detect((C, "cat"))]
    assert evaluate("detection", answers, SCENES)["ap"] == pytest.approx(1)


def test_no_truth_at_all_gives_nan_not_a_crash():
    metrics = evaluate("detection", ["[]"], [{"boxes": [], "labels": []}])
    assert math.isnan(metrics["ap"])
    assert "–" in str(metrics)


def test_the_protocol_is_printed_with_the_number():
    protocol = DetectionProtocol(prompt="Locate {list}.", categories=("cat", "dog"), frame="norm1000")
    truths = [{**SCENES[0], "image_size": (200, 100)}]
    metrics = evaluate("detection", [detect(([0, 0, 50, 100], "cat"))], truths, protocol=protocol)
    for shown in (str(metrics), metrics._repr_html_()):
        assert "Locate {list}." in shown
        assert "norm1000" in shown
        assert "cat, dog" in shown
    assert metrics["ap50"] == pytest.approx(0.5), "normalised to 0–1000 the box is right, and dogs are missed"


# The other tasks


def test_grounding_by_hand():
    answers = [write(A), write([0, 0, 10, 6]), write([0, 0, 10, 2]), "no idea what", write(B, A)]
    metrics = evaluate("grounding", answers, [{"boxes": [A]}] * 5)
    expected = {"acc@0.5": 0.4, "acc@0.75": 0.2, "acc@0.95": 0.2, "acc_avg": 0.8 / 3, "mean_iou": 1.8 / 5,
                "center_in_box": 0.6, "acc@0.1": 0.6, "acc@0.3": 0.4}  # fmt: skip
    assert dict(metrics) == pytest.approx(expected)


def test_counting_by_hand():
    truths = [{"boxes": [A, B]}, {"boxes": [A, B]}, {"boxes": []}, {"boxes": []}]
    metrics = evaluate("counting", [write(B, A), write(A, B, C), "None", ""], truths)
    assert dict(metrics) == pytest.approx({"accuracy": 0.5, "mae": 0.25, "matched_iou": (1 + 2 / 3 + 1 + 0) / 4})
    assert count_confusion([write(B, A), write(A, B, C), "None", ""], truths).tolist() == [
        [2, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 1, 1],
    ]


def test_ocr_by_hand():
    metrics = evaluate("ocr", ["a stop sign", "a stop sigh", ""], [{"text": "a stop sign"}] * 3)
    assert metrics["edit_distance"] == pytest.approx((0 + 1 / 11 + 1) / 3)
    assert metrics["f1"] == metrics["precision"] == metrics["recall"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert set(metrics) == {"edit_distance", "precision", "recall", "f1", "bleu", "meteor"}
    assert evaluate("ocr", ["None"], [{"text": ""}])["edit_distance"] == 0


def test_frames_may_differ_between_samples():
    truths = [{"boxes": [A], "image_size": (100, 50)}] * 3
    answers = [write(A), write([0, 0, 100, 200]), write([0, 0, 20, 20])]
    assert evaluate("grounding", answers, truths, frame=["pixel", "norm1000", (200, 100)])["mean_iou"] == 1


# Intervals


def test_intervals_agree_with_the_normal_ones_and_are_seeded():
    rng = np.random.default_rng(0)
    answers = ["cat" if hit else "dog" for hit in rng.random(400) < 0.3]
    metrics = evaluate("ocr", answers, [{"text": "cat"}] * 400)
    share = metrics["f1"]
    half = 1.96 * math.sqrt(share * (1 - share) / 400)
    assert metrics.interval("f1") == pytest.approx((share - half, share + half), abs=0.008)
    assert metrics.interval("f1") == evaluate("ocr", answers, [{"text": "cat"}] * 400).interval("f1")
    narrow, wide = metrics.interval("f1", 0.5), metrics.interval("f1")
    assert wide[0] < narrow[0] < share < narrow[1] < wide[1]


def test_several_answers_to_one_image_are_one_cluster():
    """Ten equal answers to each of 50 images tell no more than one answer to each."""
    once = ["cat" if i % 2 else "dog" for i in range(50)]
    truths = [{"text": "cat"}] * 50
    single, repeated = evaluate("ocr", once, truths), evaluate("ocr", [[text] * 10 for text in once], truths)
    assert repeated["f1"] == single["f1"]
    assert repeated.interval("f1") == pytest.approx(single.interval("f1"))
    mixed = evaluate("ocr", [["cat", "dog"]] * 50, truths)
    assert (mixed["f1"], mixed.interval("f1")) == (0.5, (0.5, 0.5))


def clustered(seed: int, photographs: int = 30, crops: int = 6):
    """Counting answers, right or wrong with a chance that each photograph has of its own."""
    rng = np.random.default_rng(seed)
    chance = np.repeat(rng.random(photographs), crops)
    right = rng.random(len(chance)) < chance
    return (
        [BOX if r else "None" for r in right],
        [{"boxes": [[1, 1, 5, 5]]}] * len(right),
        np.repeat(np.arange(photographs), crops).tolist(),
    )


BOX = "(1,1),(5,5)"


def test_crops_of_one_photograph_are_one_unit_of_evidence():
    answers, targets, photographs = clustered(0)
    alone, grouped = (evaluate("counting", answers, targets, groups=g) for g in (None, photographs))
    assert grouped["accuracy"] == alone["accuracy"]
    assert (grouped.samples, grouped.units) == (180, 30)
    narrow, wide = (np.diff(m.interval("accuracy"))[0] for m in (alone, grouped))
    assert wide > 1.4 * narrow
    means = np.reshape([a == BOX for a in answers], (30, 6)).mean(1)
    error = means.std(ddof=1) / np.sqrt(30)  # equal groups: the mean over photographs
    assert np.isclose(grouped.resampled("accuracy").std(), error, rtol=0.1)
    assert np.isclose(wide, 2 * 2.045 * error, rtol=0.1)
    assert "180 samples of 30 groups" in str(grouped)
    assert "30 groups" in grouped._repr_html_()


def test_a_group_repeated_tells_nothing_new():
    answers, targets, _ = clustered(1, 12, 1)
    once = evaluate("counting", answers, targets)
    thrice = evaluate("counting", answers * 3, targets * 3, groups=[*range(12)] * 3)
    assert np.allclose(once.interval("accuracy"), thrice.interval("accuracy"), atol=0.02)
    wrong = evaluate("counting", ["None"] * 36, targets * 3, groups=[*range(12)] * 3)
    assert np.allclose(thrice.difference(wrong, "accuracy")[1:], once.difference(
        evaluate("counting", ["None"] * 12, targets), "accuracy")[1:], atol=0.1)  # fmt: skip
    with pytest.raises(ValueError, match="same samples, groups and resamples"):
        thrice.difference(evaluate("counting", ["None"] * 36, targets * 3), "accuracy")


def test_intervals_over_uneven_photographs_cover_the_truth():
    """A mean over crops of photographs that have 1 to 8 of them: between 90 and 99 of 100 intervals hold it."""
    rng, held, sizes = np.random.default_rng(3), 0, np.arange(1, 9).repeat(5)
    for _ in range(100):
        chance = rng.beta(2, 2, len(sizes)).repeat(sizes)
        answers = [BOX if r else "None" for r in rng.random(len(chance)) < chance]
        groups = np.arange(len(sizes)).repeat(sizes).tolist()
        metrics = evaluate("counting", answers, [{"boxes": [[1, 1, 5, 5]]}] * len(answers), groups=groups, resamples=10)
        low, high = metrics.interval("accuracy")
        held += low <= 0.5 <= high
    assert 90 <= held <= 99


def test_detection_in_groups():
    text = '[{"bbox_2d": [1, 1, 5, 5], "label": "a"}]'
    targets = [{"boxes": [[1, 1, 5, 5]], "labels": ["a"]}] * 8
    metrics = evaluate("detection", [text, "[]"] * 4, targets, groups=[0, 1] * 4)
    assert metrics.units == 2
    assert metrics.interval("ap50")[0] < 0.1
    with pytest.raises(ValueError, match="groups names the group of each sample, got 2 for 8 samples"):
        evaluate("detection", [text] * 8, targets, groups=[0, 1])


def test_several_detections_of_one_image_are_averaged():
    good, bad = [get_task("detection").write_answer(scene) for scene in SCENES], ["[]", "[]"]
    metrics = evaluate("detection", [list(pair) for pair in zip(good, bad, strict=True)], SCENES)
    assert metrics["ap50"] == pytest.approx(0.5)


def test_metrics_show_themselves():
    metrics = evaluate("grounding", [write(A)] * 4, [{"boxes": [A]}] * 4)
    assert "grounding, 4 samples" in str(metrics)
    assert "mean_iou=1.0000" in repr(metrics)
    assert "<table>" in metrics._repr_html_()
    with pytest.raises(KeyError, match="No metric 'ap'"):
        metrics.interval("ap")


def test_conversations_are_read_as_one_answer():
    chat = [{"role": "assistant", "content": write(A)}]
    assert evaluate("grounding", [chat, [chat[0]]], [{"boxes": [A]}] * 2)["mean_iou"] == 1


@pytest.mark.parametrize(
    ("task", "completions", "targets", "message"),
    [
        ("count", ["x"], [{"boxes": []}], "Unknown task 'count'"),
        ("counting", [], [], "a completion for each target, got 0 for 0"),
        ("counting", ["x"], [{"boxes": []}] * 2, "got 1 for 2"),
        ("counting", [["x"], ["x", "y"]], [{"boxes": []}] * 2, "the same number of completions"),
        ("counting", ["x"], [{"labels": []}], "needs 'boxes' or 'points'"),
        ("detection", ["x"], [{"boxes": [A]}], "needs 'labels'"),
    ],
)
def test_bad_input_is_one_clear_sentence(task, completions, targets, message):
    with pytest.raises(ValueError, match=message):
        evaluate(task, completions, targets)
