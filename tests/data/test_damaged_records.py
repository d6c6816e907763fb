"""Damaged records are data: left out, counted, the first three named; never a traceback, never a wrong truth."""

import json
import re
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pr1kit.data import images
from pr1kit.data.load import load_dataset

BOX = [10, 20, 30, 40]  # x, y, width, height


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (100, 80)).save(tmp_path / name)
    return tmp_path


def instances(folder: Path, change=lambda content: None, text=lambda written: written) -> Path:
    """Three images, one object each; `change` damages the content, `text` the file."""
    content = {
        "images": [{"id": i, "file_name": f"{'abc'[i]}.png", "width": 100, "height": 80} for i in range(3)],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": BOX, "area": 1200, "iscrowd": 0} for i in range(3)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    change(content)
    path = folder / "instances.json"
    path.write_text(text(json.dumps(content)))
    return path


def read(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return load_dataset(*arguments, **options)


def put(place: str, index: int, key: str, value):
    def change(content):
        content[place][index][key] = value

    return change


def drop(place: str, index: int, key: str):
    return lambda content: content[place][index].pop(key)


def become(place: str, index: int, value):
    return lambda content: content[place].__setitem__(index, value)


NAN, INF, HUGE = float("nan"), float("inf"), int("9" * 400)
# what is done to the first image or its annotation: (change, the reason that is given)
DAMAGE = {
    "no bbox": (drop("annotations", 0, "bbox"), "annotation 0 lacks bbox"),
    "bbox null": (put("annotations", 0, "bbox", None), "annotation 0 lacks bbox"),
    "bbox of three": (put("annotations", 0, "bbox", [1, 2, 3]), r"bbox \[1, 2, 3\], expected four numbers"),
    "bbox of texts": (put("annotations", 0, "bbox", ["1", "2", "3", "4"]), "expected four numbers"),
    "bbox of four letters": (put("annotations", 0, "bbox", "1234"), "expected four numbers"),
    "bbox infinite": (put("annotations", 0, "bbox", [0, 0, INF, 1]), "one of its boxes is .*inf"),
    "bbox not a number": (put("annotations", 0, "bbox", [0, NAN, 1, 1]), "one of its boxes is .*nan"),
    "bbox of 400 digits": (put("annotations", 0, "bbox", [0, 0, HUGE, 1]), "expected four numbers"),
    "bbox deep": (put("annotations", 0, "bbox", [[[[1]]]] * 4), "expected four numbers"),
    "no category": (drop("annotations", 0, "category_id"), "annotation 0 lacks category_id"),
    "unknown category": (put("annotations", 0, "category_id", 99), "the unknown category '99'"),
    "category a list": (put("annotations", 0, "category_id", [1]), "category_id"),
    "iscrowd two": (put("annotations", 0, "iscrowd", 2), "iscrowd '2', expected 0 or 1"),
    "iscrowd a word": (put("annotations", 0, "iscrowd", "no"), "iscrowd 'no', expected 0 or 1"),
    "iscrowd a list": (put("annotations", 0, "iscrowd", [0]), "iscrowd"),
    "no file name": (drop("images", 0, "file_name"), "its file_name is None"),
    "file name a number": (put("images", 0, "file_name", 17), "its file_name is 17, expected text"),
    "file name of 5,000": (put("images", 0, "file_name", "x" * 5000), "its image 'xxx"),
    "file name with NUL": (put("images", 0, "file_name", "a\0.png"), "its image"),
    "file name of half a character": (put("images", 0, "file_name", "\ud800.png"), "its image"),
    "width infinite": (put("images", 0, "width", INF), "its width is inf"),
    "width of 400 digits": (put("images", 0, "width", HUGE), "its width is 9+ .*expected whole pixels"),
    "width negative": (put("images", 0, "width", -100), "its width is -100"),
    "width a half": (put("images", 0, "width", 100.5), "expected whole pixels"),
    "width a word": (put("images", 0, "width", "wide"), "expected whole pixels"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_coco_record_leaves_out_its_image_and_no_other(folder, name):
    change, reason = DAMAGE[name]
    samples = read(instances(folder, change))
    assert [s.id for s in samples] == ["instances/1", "instances/2"]
    assert [s.target.boxes.tolist() for s in samples] == [[[10, 20, 40, 60]]] * 2
    ((_, said),) = samples.skipped
    assert re.search(reason, said), said
    assert len(said) < 300


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop("images", 0, "id"), "its id is None"),
        (put("images", 0, "id", [1]), r"its id is \[1\]"),
        (become("images", 0, None), "it is 'None', expected named fields"),
        (become("images", 0, "a.png"), "it is 'a.png', expected named fields"),
    ],
)
def test_an_image_that_cannot_be_told_is_left_out_and_its_annotations_are_counted(folder, change, reason):
    samples = read(instances(folder, change))
    assert [s.id for s in samples] == ["instances/1", "instances/2"]
    (_, said), (_, lost) = samples.skipped
    assert re.search(reason, said)
    assert "of its image, not in the file, are 1 annotations" in lost


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop("annotations", 0, "image_id"), "lacks image_id"),
        (put("annotations", 0, "image_id", {"id": 1}), "image_id"),
        (become("annotations", 0, 7), "is '7', expected named fields"),
        (become("annotations", 0, None), "is 'None', expected named fields"),
    ],
)
def test_an_annotation_of_no_image_is_counted(folder, change, reason):
    samples = read(instances(folder, change))
    assert len(samples) == 3
    ((name, said),) = samples.skipped
    assert name == "instances/annotation 0"
    assert re.search(reason, said)


@pytest.mark.parametrize("crowd", [0, "0", False, None, "", 0.0])
def test_no_crowd_however_it_is_written_is_an_object(folder, crowd):
    """`"0"` is true in Python: the box was dropped from the truth."""
    samples = read(instances(folder, put("annotations", 0, "iscrowd", crowd)))
    assert [len(s.target.boxes) for s in samples] == [1, 1, 1]
    assert [note["iscrowd"] for note in samples.coco["annotations"]] == [0, 0, 0]


@pytest.mark.parametrize("crowd", [1, "1", True])
def test_a_crowd_however_it_is_written_is_none(folder, crowd):
    samples = read(instances(folder, put("annotations", 0, "iscrowd", crowd)))
    assert [len(s.target.boxes) for s in samples] == [0, 1, 1]
    assert [note["iscrowd"] for note in samples.coco["annotations"]] == [1, 0, 0]


@pytest.mark.parametrize("area", [NAN, INF, -3, 0, "12", None, HUGE])
def test_an_area_that_is_none_is_that_of_the_box(folder, area):
    samples = read(instances(folder, put("annotations", 0, "area", area)))
    assert [note["area"] for note in samples.coco["annotations"]] == [1200, 1200, 1200]


def test_two_images_of_one_id_are_left_out_since_nobody_knows_whose_the_boxes_are(folder):
    samples = read(instances(folder, put("images", 1, "id", 0)))
    assert [s.id for s in samples] == ["instances/2"]
    assert [said for _, said in samples.skipped[:2]] == ["it is one of 2 images with the id 0"] * 2
    assert read(instances(folder, put("images", 1, "id", "0"))).skipped[0][1] == "it is one of 2 images with the id 0"


def test_a_file_without_annotations_has_nothing_to_count_and_all_to_detect(folder):
    bare = instances(folder, lambda content: content["annotations"].clear())
    with pytest.raises(ValueError, match=r"json' has 3 images and no annotation: there is nothing to count\.$"):
        read(bare, task="counting")
    assert [len(sample.target.boxes) for sample in read(bare)] == [0, 0, 0]


def test_two_categories_of_one_id_are_refused_and_two_ids_of_one_name_are_one_class(folder):
    with pytest.raises(ValueError, match=r"'cat' and 'dog' of .*instances.json' both have the id 1: give each its own"):
        read(instances(folder, put("categories", 1, "id", 1)))

    def same(content):
        content["categories"][1]["name"] = "cat"
        content["annotations"][1]["category_id"] = 2

    samples = read(instances(folder, same))
    assert {s.question for s in samples} == {"cat"}
    assert [note["category_id"] for note in samples.coco["annotations"]] == [1, 1, 1]
    assert samples.coco["categories"] == [{"id": 1, "name": "cat"}]


@pytest.mark.parametrize("name", [None, "", " ", ["cat"], 1.5, "x" * 5000, "\ud800"])
def test_a_category_without_a_name_leaves_out_the_images_that_show_it(folder, name):
    samples = read(
        instances(folder, lambda c: (put("categories", 1, "name", name)(c), put("annotations", 0, "category_id", 2)(c)))
    )
    assert [s.id for s in samples] == ["instances/1", "instances/2"]
    assert {s.question for s in samples} == {"cat"}
    assert [place for place, _ in samples.skipped] == ["instances/category 1", "instances/0"]


def test_a_class_called_by_a_number_is_asked_for_by_its_digits(folder):
    samples = read(instances(folder, put("categories", 0, "name", 7)))
    assert samples[0].target.labels == ("7",)
    assert samples[0].question == "7, dog"


def test_annotations_of_absent_images_are_counted_by_image(folder):
    def absent(content):
        content["annotations"] += [content["annotations"][0] | {"image_id": "far"}] * 12

    samples = read(instances(folder, absent))
    assert len(samples) == 3
    assert samples.skipped == [("instances/far", "of its image, not in the file, are 12 annotations")]


@pytest.mark.parametrize("place", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, 7, "x", {"id": 1}])
def test_a_list_that_is_none_is_named(folder, place, value):
    with pytest.raises(ValueError, match=rf"'{place}' of '.*instances.json' is .*, expected a list"):
        read(instances(folder, lambda content: content.__setitem__(place, value)))


@pytest.mark.parametrize("task", ["detection", "counting"])
def test_the_order_of_the_lists_and_a_byte_order_mark_change_nothing(folder, task):
    def first(read):
        return [(s.id, s.question, s.target.to_dict()) for s in read]

    plain = first(read(instances(folder), task))
    turned = instances(folder, text=lambda t: "\ufeff" + json.dumps(dict(reversed(json.loads(t).items()))))
    assert first(read(turned, task)) == plain
    assert len(plain) == 3


def test_no_more_than_limit_images_are_kept_of_a_large_file(folder):
    polygon = {"segmentation": [[1.5] * 60]}
    many = {
        "images": [{"id": i, "file_name": "a.png", "width": 100, "height": 80} for i in range(2000)],
        "annotations": [polygon | {"image_id": i % 2000, "category_id": 1, "bbox": BOX} for i in range(20_000)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(many))
    tracemalloc.start()
    samples = read(path, limit=5)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [s.id for s in samples] == [f"instances/{i}" for i in range(5)]
    assert [len(s.target.boxes) for s in samples] == [10] * 5
    assert most < 12e6, "9 MB of text, 20,000 boxes"


# Rows


ANSWER = {"from": "gpt", "value": "hello"}
TALK = [{"from": "human", "value": "?"}, ANSWER]
CUP = {"bbox": [BOX], "category": ["x"]}
# a good row, what is done to another, and why that is left out
ROWS = {
    "transcript null": ({"conversations": TALK}, {"conversations": [ANSWER | {"value": None}]}, "transcript is None"),
    "transcript a list": ({"conversations": TALK}, {"conversations": [ANSWER | {"value": ["x"]}]}, "transcript is"),
    "turns null": ({"conversations": TALK}, {"conversations": None}, "NoneType"),
    "turns text": ({"conversations": TALK}, {"conversations": "hello"}, "str"),
    "text null": ({"text": "x"}, {"text": None}, "its text is None"),
    "text a list": ({"text": "x"}, {"text": ["x"]}, "its text is"),
    "problem null": ({"problem": "cat", "solution": BOX}, {"problem": None}, "its problem is None"),
    "problem empty": ({"problem": "cat", "solution": BOX}, {"problem": " "}, "its problem has 1 characters"),
    "box of 400 digits": ({"problem": "cat", "solution": BOX}, {"solution": [1, 2, HUGE, 4]}, "boxes must be numbers"),
    "box deep": ({"problem": "cat", "solution": BOX}, {"solution": "[" * 3000}, "not a list of numbers"),
    "phrase null": ({"sent": "cat", "bbox": BOX}, {"sent": None, "sentences": [{"raw": None}]}, "its phrase is None"),
    "count a half": ({"question": "cats", "ground_truth": 3}, {"ground_truth": 3.5}, "ground_truth 3.5 is no count"),
    "count true": ({"question": "cats", "ground_truth": 3}, {"ground_truth": True}, "ground_truth True is no count"),
    "count infinite": ({"question": "cats", "ground_truth": 3}, {"ground_truth": INF}, "ground_truth inf is no count"),
    "question null": ({"question": "cats", "ground_truth": 3}, {"question": None}, "its question is None"),
    "label null": ({"label": "cup", "count": 2}, {"label": None}, "its label is None"),
    "pixmo half": ({"label": "cup", "count": 2}, {"count": "2.5"}, "count 2.5 is no count"),
    "pixmo points": ({"label": "cup", "count": 2}, {"points": [{"x": 1, "y": 2}]}, "1 points but the count 2"),
    "more labels": ({"objects": CUP}, {"objects": CUP | {"category": ["x", "y"]}}, "2 labels"),
    "labels null": ({"objects": CUP}, {"objects": CUP | {"category": [None]}}, "its category is None"),
    "image a number": ({"text": "x"}, {"image": 17}, "its image is '17', expected the name of a file"),
    "image of 5,000": ({"text": "x"}, {"image": "x" * 5000}, "its image 'xxx"),
    "image an address": ({"text": "x"}, {"image": "https://host/a.png"}, "is not in .*: fetch it and name its file"),
    "image elsewhere": ({"text": "x"}, {"image": "val/a.png"}, "its image 'val/a.png' is not in"),
    "image of another root": ({"text": "x"}, {"image": "/elsewhere/a.png"}, "its image '/elsewhere/a.png' is not in"),
    "no object": ({"text": "x"}, 7, "the row is '7', expected named fields"),
    "null": ({"text": "x"}, None, "the row is 'None', expected named fields"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_damaged_row_is_left_out_alone(folder, name, ending):
    good, change, reason = ROWS[name]
    good = {"image": "a.png"} | good
    rows = [good, good | change if isinstance(change, dict) else change, good]
    path = folder / f"rows.{ending}"
    path.write_text(json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows)))
    samples = read(path, images=folder, frame="pixel")
    assert [s.id for s in samples] == ["rows/0", "rows/2"]
    assert samples[0].target.to_dict() == samples[1].target.to_dict()
    ((_, said),) = samples.skipped
    assert re.search(reason, said), said
    assert len(said) < 400


def test_a_damaged_first_row_does_not_decide_the_layout(folder):
    path = folder / "rows.jsonl"
    path.write_text('null\n{"image": "a.png"\n{}\n' + json.dumps({"image": "a.png", "text": "x"}) + "\n")
    samples = read(path)
    assert [s.id for s in samples] == ["rows/3"]
    assert [place for place, _ in samples.skipped] == ["rows/0", "rows/1", "rows/2"]


def test_a_table_that_is_none_is_one_sentence(folder):
    path = folder / "rows.csv"
    path.write_text("image,text\na.png,x\na.png,x,y,z\n")
    assert read(path).skipped == [("rows/1", "line 3 has more fields than the first")]
    path.write_bytes(b"image,text\na.png,caf\xe9\n")
    with pytest.raises(ValueError, match=r"rows.csv' is not written in UTF-8"):
        read(path)
    for value in (17, {"image": "a.png"}):
        with pytest.raises(ValueError, match="Data are a file, a folder, a hub id, a table or rows, got"):
            load_dataset(value)
    for name in ("x" * 5000, "x" * 5000 + ".json", "a\0.json"):
        with pytest.raises((ValueError, FileNotFoundError)):
            load_dataset(name)
    for limit in (0, -1, 2.5):
        with pytest.raises(ValueError, match="limit is how many samples to read, at least 1"):
            load_dataset(path, limit=limit)


def test_a_path_may_begin_with_the_folders_that_were_given(folder):
    pictures = folder / "coco" / "train"
    pictures.mkdir(parents=True)
    Image.new("RGB", (50, 40)).save(pictures / "a.png")
    for name in ("a.png", "train/a.png", "coco/train/a.png"):
        (sample,) = load_dataset([{"image": name, "text": "x"}], images=pictures)
        assert sample.target.image_size == (50, 40)
    for name in ("val/a.png", "other/train/a.png"):
        with pytest.raises(ValueError, match="is not in"):
            load_dataset([{"image": name, "text": "x"}], images=pictures)


# A random part


@pytest.fixture
def decoded(monkeypatch):
    """The files that are opened, as they are."""
    seen, plain = [], images.opened

    def opened(source, name=None):
        seen.append(Path(source).name)
        return plain(source, name)

    monkeypatch.setattr(images, "opened", opened)
    return seen


def pages(folder: Path, count: int, broken=()) -> Path:
    for i in range(count):
        Image.new("L", (20, 10)).save(folder / f"{i}.png")
    for i in broken:
        (folder / f"{i}.png").write_bytes(b"no picture")
    path = folder / "pages.jsonl"
    path.write_text("".join(json.dumps({"image": f"{i}.png", "text": f"{i}"}) + "\n" for i in range(count)))
    return path


@pytest.mark.parametrize("seed", range(3))
def test_a_random_part_is_the_same_choice_as_from_all_and_opens_no_other_image(folder, decoded, seed):
    path = pages(folder, 40)
    everything = load_dataset(path)
    assert len(decoded) == 40
    decoded.clear()
    part = load_dataset(path, limit=7, shuffle_seed=seed)
    chosen = sorted(np.random.default_rng(seed).choice(40, 7, replace=False).tolist())
    assert [s.id for s in part] == [everything[i].id for i in chosen]
    assert sorted(decoded) == sorted(f"{i}.png" for i in chosen)
    assert [s.id for s in load_dataset(path, limit=99, shuffle_seed=seed)] == [s.id for s in everything]


def test_others_are_drawn_for_those_that_cannot_be_read(folder, decoded):
    broken = range(0, 40, 2)
    path = pages(folder, 40, broken)
    part = read(path, limit=15, shuffle_seed=1)
    assert len({s.id for s in part}) == 15
    assert [s.id for s in part] == sorted((s.id for s in part), key=lambda name: int(name.split("/")[1]))
    assert not {int(s.target.text) for s in part} & set(broken)
    assert len(decoded) == 15 + len(part.skipped) <= 40
    assert [s.id for s in read(path, limit=15, shuffle_seed=1)] == [s.id for s in part]
    assert len(read(path, limit=30, shuffle_seed=1)) == 20, "as many as there are"


@pytest.mark.parametrize("task", ["detection", "counting"])
def test_a_random_part_of_a_coco_file_has_its_truth_in_order(folder, task):
    path = instances(folder)
    part = load_dataset(path, task, limit=2, shuffle_seed=0)
    assert len(part) == 2
    if task == "detection":
        assert [f"instances/{image['id']}" for image in part.coco["images"]] == [s.id for s in part]
        assert len(part.coco["annotations"]) == 2
