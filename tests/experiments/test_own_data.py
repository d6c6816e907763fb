"""A tiny policy of one's own photographs: what it is shown, what it is asked, and that it can be made and loaded."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pr1kit.__main__ import main
from pr1kit.data.boxes import iou
from pr1kit.data.sample import Sample, Target
from pr1kit.data.scenes import make_scenes
from pr1kit.experiments.tiny_policy.dense_vision import DenseHead, dense_truth_of, object_loss
from pr1kit.experiments.tiny_policy.own_data import OwnRecipe, about, corpus, draw_pool, questions, turned
from pr1kit.models.policy import load_policy
from pr1kit.models.tiny import build_tokenizer
from pr1kit.rollouts.generate import generate_completions


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six rendered scenes of 128 pixels as a COCO folder."""
    path, notes, images, kinds = tmp_path_factory.mktemp("mine"), [], [], {}
    for i, scene in enumerate(make_scenes("detection", 6, 0, image_size=128, size=(20, 40), num_objects=(3, 5))):
        scene.load_image().save(path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 128, "height": 128})
        for (x1, y1, x2, y2), label in zip(scene.target.boxes.tolist(), scene.target.labels, strict=True):
            kind = kinds.setdefault(label, len(kinds) + 1)
            notes.append({"image_id": i, "category_id": kind, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    categories = [{"id": kind, "name": name} for name, kind in kinds.items()]
    whole = {"images": images, "annotations": notes, "categories": categories}
    (path / "instances.json").write_text(json.dumps(whole))
    return path


def test_every_turn_moves_boxes_with_their_pixels():
    image = np.zeros((64, 64, 3), np.uint8)
    image[10:20, 30:50] = 255
    sample = Sample(Image.fromarray(image), "detection", "", Target([[30, 10, 50, 20]], ["a"], image_size=(64, 64)))
    places = set()
    for turn in range(8):
        other = turned(sample, turn)
        ((x1, y1, x2, y2),) = other.target.boxes.astype(int).tolist()
        pixels = np.asarray(other.image)
        assert pixels[y1:y2, x1:x2].min() == 255
        assert pixels.sum() == image.sum()
        places.add((x1, y1, x2, y2))
    assert len(places) == 8


def test_objects_are_listed_from_top_to_bottom_and_counted_by_class():
    boxes = [[0, 40, 9, 50], [20, 0, 30, 9], [0, 0, 9, 9]]
    target = Target(boxes, ["b", "a", "b"], image_size=(64, 64))
    sample = turned(Sample(Image.new("RGB", (64, 64)), "detection", "", target), 0)
    assert sample.target.labels == ("b", "a", "b")
    assert sample.target.boxes[:, 1].tolist() == [0, 0, 40]
    assert [(s.question, len(s.target.boxes)) for s in questions([sample], "counting")] == [("a", 1), ("b", 2)]
    assert about(sample, "b").target.boxes.tolist() == [[0, 0, 9, 9], [0, 40, 9, 50]]


def test_each_cell_is_asked_for_the_smallest_object_over_its_centre():
    target = Target([[0, 0, 64, 64], [16, 0, 32, 16]], ["b", "a"], image_size=(64, 64))
    truth = dense_truth_of(target, ["a", "b"])
    assert truth.shape == (64, 5)
    assert truth[4:8].tolist() == [[1, 0.25, 0, 0.5, 0.25]] * 4, "the second block of 2×2 cells"
    assert (truth[:, 0] == 2).sum() == 60
    head = DenseHead((3, 4))
    loss = object_loss(head, torch.zeros(16, 128), torch.from_numpy(truth))
    assert torch.isfinite(loss)


def test_a_class_is_few_tokens_and_a_number_one():
    tokenizer = build_tokenizer(corpus(["red blood cell", "platelet"]))
    assert len(tokenizer.tokenize("red blood cell")) == 3
    assert len(tokenizer.tokenize("platelet")) == len(tokenizer.tokenize("57")) == 1
    odd = "ein Größenmaß\n語"
    assert tokenizer.decode(tokenizer(odd)["input_ids"]) == odd


def test_the_pool_shows_crops_as_the_policy_sees_them(folder):
    from pr1kit.data.load import load_dataset

    pool = draw_pool(load_dataset(folder), OwnRecipe(crop=64, pool=24, seed=3))
    assert {sample.image.size for sample in pool} == {(64, 64)}
    assert all(((sample.target.boxes >= 0) & (sample.target.boxes <= 64)).all() for sample in pool)
    assert 12 <= len(pool) <= 24


def test_a_policy_of_ones_own_folder_is_made_loaded_and_asked(folder, tmp_path, capsys):
    out = tmp_path / "policy"
    arguments = ["make-tiny-policy", "--fast", "--data", str(folder), "--crop", "64", "--any-side-up"]
    arguments += ["--out", str(out), "--work", str(tmp_path / "work")]
    assert main(arguments) == 0
    card = json.loads((out / "training.json").read_text())
    assert card["photographs"] == [5, 1]
    assert card["recipe"]["crop"] == 64
    text = (out / "README.md").read_text()
    assert "make-tiny-policy --data FOLDER --task counting --crop 64 --any-side-up\n" in text
    assert "| accuracy | " in text
    assert "| matched_iou | " in text
    policy = load_policy(str(out), verbose=False)
    assert policy.frame((240, 240)) == (64, 64), "a crop of any size is seen at 64 pixels"
    (texts,) = generate_completions(policy, make_scenes("counting", 1, 0), max_new_tokens=8)
    assert isinstance(texts[0], str)
    weights = (out / "model.safetensors").read_bytes()
    (tmp_path / "work" / "2-answers.pt").unlink()  # as if killed in the lessons
    capsys.readouterr()
    assert main(arguments) == 0
    assert (out / "model.safetensors").read_bytes() == weights
    assert main([*arguments, "--seed", "1"]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--crop", "200"], "has a picture as large as a crop of 200x200 pixels"),
        (["--split", "nowhere"], "nowhere"),
    ],
)
def test_bad_data_is_one_clear_sentence(folder, tmp_path, capsys, more, message):
    arguments = ["make-tiny-policy", "--fast", "--data", str(folder), "--out", str(tmp_path / "p"), *more]
    assert main([*arguments, "--work", str(tmp_path / "w")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pr1kit: ")]
    assert message in line


def test_boxes_of_a_turned_pool_answer_the_same_objects(folder):
    from pr1kit.data.load import load_dataset

    sample = draw_pool(load_dataset(folder), OwnRecipe(crop=128, pool=6))[0]
    back = turned(turned(sample, 3), 3)
    assert np.allclose(iou(back.target.boxes, sample.target.boxes).max(1), 1)
