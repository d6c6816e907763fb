"""Crops: the truth that is inside them, whole photographs covered, photographs never in two parts."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pr1kit.data.crops import crop_samples, cut, photographs, split_by_image
from pr1kit.data.load import load_dataset
from pr1kit.data.sample import Sample, Target
from pr1kit.data.scenes import make_scenes

BCCD = Path(__file__).resolve().parents[3] / "shared" / "data" / "bccd"


def photograph(task="detection", size=(60, 40), name="a", **target) -> Sample:
    pixels = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0])
    truth = Target(image_size=size, **target)
    return Sample(Image.fromarray(pixels).convert("RGB"), task, "cell", truth, id=name)


def test_a_box_stays_clipped_by_the_share_of_it_that_is_inside():
    target = Target([[0, 0, 10, 10], [15, 0, 25, 10], [18, 0, 28, 10]], list("abc"), image_size=(60, 40))
    half = cut(target, (0, 0, 20, 20), keep=0.5)
    assert half.boxes.tolist() == [[0, 0, 10, 10], [15, 0, 20, 10]], "a half inside stays, a fifth does not"
    assert half.labels == ("a", "b")
    assert half.image_size == (20, 20)
    assert len(cut(Target(target.boxes), (0, 0, 20, 20), keep=0.2).boxes) == 3
    assert cut(Target(target.boxes), (0, 0, 20, 20), keep=1.0).boxes.tolist() == [[0, 0, 10, 10]]
    assert cut(Target(points=[[5, 5], [30, 5]]), (4, 4, 24, 24)).points.tolist() == [[1, 1]]


@given(st.tuples(st.integers(0, 40), st.integers(0, 20)), st.floats(0.05, 1))
def test_what_is_kept_lies_inside_and_no_box_is_lost_that_lies_inside_whole(corner, keep):
    boxes = np.array([[x, y, x + 8, y + 6] for x in (0, 11, 23, 40) for y in (0, 13, 30)], float)
    x, y = corner
    kept = cut(Target(boxes), (x, y, x + 20, y + 20), keep).boxes
    whole = [b for b in boxes.tolist() if x <= b[0] and y <= b[1] and b[2] <= x + 20 and b[3] <= y + 20]
    assert (kept >= 0).all()
    assert (kept <= 20).all()
    assert all((np.array(b) - [x, y, x, y]).tolist() in kept.tolist() for b in whole)


def test_tiles_cover_every_pixel_and_show_what_the_photograph_shows():
    sample = photograph(boxes=[[0, 0, 60, 40]], labels=["cell"])
    tiles = crop_samples([sample], 25, how="tiled", keep=0.01)
    assert len(tiles) == 3 * 2
    assert {tile.id for tile in tiles} >= {"a@0,0", "a@35,15"}
    seen, whole = np.zeros((40, 60)), np.asarray(sample.image)
    for tile in tiles:
        x1, y1, x2, y2 = tile.image.box
        seen[y1:y2, x1:x2] += 1
        assert (np.asarray(tile.load_image()) == whole[y1:y2, x1:x2]).all()
    assert seen.min() == 1
    assert len(crop_samples([sample], 25, how="tiled", stride=5, keep=0.01)) == 8 * 4
    (one,) = crop_samples([sample], (60, 40), how="tiled")
    assert one.target.boxes.tolist() == [[0, 0, 60, 40]]


def test_random_crops_follow_from_the_seed_and_are_the_same_for_all_questions_of_a_photograph():
    boxes, image = [[x, 0, x + 4, 40] for x in range(0, 60, 5)], photograph().image
    both = [Sample(image, "counting", q, Target(boxes, image_size=(60, 40)), id=q) for q in ("red", "white")]
    crops = crop_samples(both, 20, each=3, seed=1)
    assert [c.image.box for c in crops[:3]] == [c.image.box for c in crops[3:]]
    assert [c.image.box for c in crops] == [c.image.box for c in crop_samples(both, 20, each=3, seed=1)]
    assert [c.image.box for c in crops] != [c.image.box for c in crop_samples(both, 20, each=3, seed=2)]
    assert len(set(photographs(crops))) == 1


def test_crops_without_an_object_are_left_out_unless_asked_for():
    sample = photograph("counting", boxes=[[0, 0, 5, 5]])
    assert len(crop_samples([sample], 20, how="tiled")) == 1
    assert sorted(len(c.target.boxes) for c in crop_samples([sample], 20, how="tiled", empty=True)) == [0] * 5 + [1]
    one = photograph("grounding", boxes=[[0, 0, 5, 5]])
    assert len(crop_samples([one], 20, how="tiled", empty=True)) == 1


def test_no_photograph_is_in_two_parts():
    samples = [photograph(name=str(i), boxes=[[0, 0, 5, 5]], labels=["cell"]) for i in range(10)]
    crops = crop_samples(samples, 20, how="tiled", empty=True)
    rest, held_out = split_by_image(crops, 0.3, seed=4)
    assert len(held_out) == 3 * 6
    assert len(rest) == 7 * 6
    assert not set(photographs(rest)) & set(photographs(held_out))
    assert [s.id for s in held_out] == [s.id for s in split_by_image(crops, 0.3, seed=4)[1]]
    assert len(split_by_image(samples, 0.001)[1]) == 1 == len(split_by_image(samples, 0.999)[0])


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([], {}, "There are no samples to crop."),
        ([photograph(boxes=[[0, 0, 5, 5]], labels=["a"])], {"size": 50}, "None of 1 samples has a picture as large as "
         "a crop of 50x50 pixels, the first .a. as its picture of 60x40"),
        ([photograph()], {"size": 20, "how": "tiled"}, "None of 6 crops of 20x20 pixels from 1 pictures holds 50%"),
        (make_scenes("ocr", 1, 0), {"size": 20}, "cannot be cropped: its task, ocr, cannot be cut"),
        ([photograph("counting", count=3)], {"size": 20}, "its truth is a count without places"),
        ([photograph()], {"size": (20, 0)}, "in whole pixels, got .20, 0."),
        ([photograph()], {"size": 20, "how": "all"}, "Unknown how 'all': choose one of random, tiled."),
        ([photograph()], {"size": 20, "keep": 0}, "keep is the share of a box"),
        ([photograph()], {"size": 20, "stride": 0}, "stride must be a whole number from 1"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_sentence(samples, options, message):
    with pytest.raises(ValueError, match=message):
        crop_samples(samples, **options)


def test_one_photograph_cannot_be_split():
    crops = crop_samples([photograph(boxes=[[0, 0, 60, 40]], labels=["a"])], 20, how="tiled", keep=0.01)
    with pytest.raises(ValueError, match="6 samples of 1 picture cannot be split by picture"):
        split_by_image(crops)
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        split_by_image(crops, 1)


def test_a_photograph_that_is_too_small_is_named_and_the_others_are_cut():
    samples = [photograph(size=s, name=str(s), boxes=[[0, 0, 9, 9]], labels=["a"]) for s in ((60, 40), (12, 12))]
    with pytest.warns(UserWarning, match=r"1 left out \(\(12, 12\): its picture of 12x12 pixels is smaller"):
        crops = crop_samples(samples, 20, how="tiled")
    assert len(crops) == 1
    assert crops.skipped[0][0] == "(12, 12)"


def test_load_dataset_tiles_a_coco_folder(tmp_path):
    photograph().image.save(tmp_path / "a.png")
    notes = [{"image_id": 1, "category_id": 1, "bbox": [40, 20, 10, 10]}]
    lists = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "instances.json").write_text(json.dumps({**lists, "annotations": notes}))
    (crop,) = load_dataset(tmp_path, crops=20)
    assert crop.target.boxes.tolist() == [[0, 0, 10, 10]]
    assert crop.image.box == (40, 20, 60, 40)
    assert crop.load_image().size == (20, 20)
    assert all(c.load_image().size == (32, 32) for c in load_dataset("scenes", "counting", limit=2, crops=32))


def test_cells_of_real_photographs_are_cropped():
    if not BCCD.is_dir():
        pytest.skip("no shared/data/bccd beside the repository")
    crops = load_dataset(BCCD, "counting", split="val", limit=20, crops=240)
    assert all(crop.target.image_size == (240, 240) for crop in crops)
    assert 1 <= np.mean([len(crop.target.boxes) for crop in crops if crop.question == "red blood cell"]) <= 6
    assert len(set(photographs(crops))) == len({crop.id.split("/")[1] for crop in crops})
