"""The synthetic world: seeded, exact, disjoint."""

import numpy as np
import pytest

from pr1kit import make_scenes
from pr1kit.data.sample import IMAGE_TASKS
from pr1kit.data.scenes import COLOURS, DEFAULTS, SHAPES, draw_scene, scene_rng, shape_mask


def pixels(sample):
    return np.asarray(sample.image)


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_the_same_seed_gives_the_same_scenes_and_a_longer_list_begins_with_the_shorter(task):
    short, long = make_scenes(task, 3, seed=5), make_scenes(task, 6, seed=5)
    for a, b in zip(short, long, strict=False):
        assert a.question == b.question
        assert a.target.to_dict() == b.target.to_dict()
        assert (pixels(a) == pixels(b)).all()
    later = make_scenes(task, 2, seed=5, start=4)
    assert (pixels(later[0]) == pixels(long[4])).all()


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_splits_and_seeds_share_no_scene(task):
    seen = {}
    for split in ("train", "validation", "test"):
        for seed in (0, 1):
            for sample in make_scenes(task, 60, seed, split=split):
                key = pixels(sample).tobytes()
                assert key not in seen, (sample.id, seen[key])
                seen[key] = sample.id


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [9, 10, 17, 24])
def test_a_shape_touches_all_four_sides_of_its_box(shape, side):
    mask = shape_mask(shape, side)
    assert mask.shape == (side, side)
    assert mask[0].any()
    assert mask[-1].any()
    assert mask[:, 0].any()
    assert mask[:, -1].any()


def test_truth_boxes_are_the_extent_of_what_was_drawn():
    checked = 0
    for index in range(80):
        scene, _ = draw_scene("detection", scene_rng("detection", 3, "train", index), DEFAULTS["detection"])
        for i, (box, colour) in enumerate(zip(scene.boxes, scene.colours, strict=True)):
            others = [c for j, c in enumerate(scene.colours) if j != i]
            if colour in others:
                continue  # two of one colour cannot be told apart by their pixels
            rows, columns = np.nonzero((scene.image == COLOURS[colour]).all(-1))
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            hidden = any(_overlap(box, other) for j, other in enumerate(scene.boxes) if j > i)
            if not hidden:
                assert extent == box.tolist()
                checked += 1
    assert checked > 60


def _overlap(a, b):
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def test_grounding_asks_for_exactly_one_object():
    for sample in make_scenes("grounding", 200, seed=1, distractors=1.0):
        assert len(sample.target.boxes) == 1
        assert sample.target.labels == (sample.question,)


def test_counting_truth_holds_every_object_of_the_asked_shape_in_reading_order():
    counts = set()
    for index, sample in enumerate(make_scenes("counting", 200, seed=1)):
        scene, question = draw_scene("counting", scene_rng("counting", 1, "train", index), DEFAULTS["counting"])
        assert len(sample.target.boxes) == scene.shapes.count(question)
        tops = sample.target.boxes[:, 1].tolist()
        assert tops == sorted(tops)
        counts.add(len(tops))
    assert counts == {1, 2, 3, 4, 5}


def test_ocr_text_is_made_of_words_on_lines():
    for sample in make_scenes("ocr", 50, seed=1):
        words = sample.target.text.split()
        assert 2 <= len(words) <= 4
        assert all(len(word) == 4 for word in words)


def test_knobs_turn():
    crowded = make_scenes("detection", 100, seed=0, num_objects=(6, 6), size=(8, 10))
    assert np.mean([len(s.target.boxes) for s in crowded]) > 5.9
    sides = np.concatenate([s.target.boxes[:, 2] - s.target.boxes[:, 0] for s in crowded])
    assert sides.min() >= 8
    assert sides.max() <= 10
    apart = make_scenes("detection", 100, seed=0, num_objects=(5, 5), overlap=0.0)
    assert not any(_overlap(a, b) for s in apart for i, a in enumerate(s.target.boxes) for b in s.target.boxes[:i])
    large = make_scenes("detection", 2, image_size=128)[0]
    assert large.image.size == large.target.image_size == (128, 128)
    assert len(make_scenes("ocr", 1, text_length=(6, 6))[0].target.text.split()) == 6


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"task": "segmentation"}, "Unknown task 'segmentation': choose one of grounding"),
        ({"split": "dev"}, "Unknown split 'dev'"),
        ({"objects": 3}, "Unknown difficulty objects: the knobs are"),
        ({"size": (30, 10)}, "must be a range"),
        ({"size": (10, 100)}, "does not fit an image of 64 pixels"),
        ({"task": "ocr", "text_length": (12, 12)}, "do not fit a page of 64 pixels"),
    ],
)
def test_bad_input_is_one_clear_sentence(arguments, sentence):
    arguments = {"task": "grounding", "n": 1, **arguments}
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        make_scenes(**arguments)
