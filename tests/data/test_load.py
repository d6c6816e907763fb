"""Loaders: small files in exactly the layouts of the real ones, every convention, every kind of broken row."""

import csv
import json
import subprocess
import sys
import warnings
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pr1kit
from pr1kit.data.boxes import from_pixels, smart_resize, to_pixels
from pr1kit.data.images import ORIENTATION
from pr1kit.data.layouts.pixmo import stored_names
from pr1kit.data.load import load_dataset
from pr1kit.rewards.score import score

WIDE, TALL = (640, 480), (300, 400)
CAT, DOG = [64.0, 96.0, 320.0, 240.0], [400.0, 48.0, 560.0, 432.0]
COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco"


@pytest.fixture
def folder(tmp_path):
    """Two photographs in `coco/train2014`, as RefCOCO's files name them."""
    pictures = tmp_path / "coco" / "train2014"
    pictures.mkdir(parents=True)
    for name, size in (("a.jpg", WIDE), ("b.jpg", TALL)):
        Image.new("RGB", size, "white").save(pictures / name)
    return tmp_path


def write(path: Path, rows) -> Path:
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    return path


def official(box, **more) -> dict:
    """One row of `refcoco_val.json`."""
    norm1000 = [round(v * 1000 / side) for v, side in zip(box, WIDE * 2, strict=True)]
    row = {"image": "train2014/a.jpg", "problem": "the cat", "solution": box, "normalized_solution": norm1000}
    return row | more


def test_official_grounding_json(folder):
    rows = [official(CAT), official(DOG, problem="the dog")]
    samples = load_dataset(write(folder / "refcoco_val.json", rows), images=folder / "coco")
    assert [(s.id, s.task, s.question) for s in samples] == [
        ("refcoco_val/0", "grounding", "the cat"),
        ("refcoco_val/1", "grounding", "the dog"),
    ]
    assert samples[0].target.boxes.tolist() == [CAT]
    assert samples[0].target.image_size == WIDE == samples[0].load_image().size
    assert samples.skipped == []
    perfect = "<|box_start|>(100,200),(500,500)<|box_end|>"
    assert score("grounding", perfect, samples[0].target, frame="norm1000").total == 1


def test_official_training_rows_hold_norm1000_as_text(folder):
    """Written as the reward of the released code reads them; pixels would lie outside, so the kit asks."""
    rows = [
        {"image": "a.jpg", "problem": "the cat", "solution": "[100, 200, 500, 500]"},
        {"image": "a.jpg", "problem": "the dog", "solution": "[625, 100, 875, 900]"},
    ]
    path = write(folder / "train.json", rows)
    with pytest.raises(ValueError, match=r'lie outside their images .* say frame="norm1000" \(--frame norm1000\)'):
        load_dataset(path, images=folder / "coco" / "train2014")
    samples = load_dataset(path, images=folder / "coco" / "train2014", frame="norm1000")
    assert [s.target.boxes.tolist() for s in samples] == [[CAT], [DOG]]


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_referring_expressions(folder, ending):
    rows = [
        {"image": "coco/train2014/a.jpg", "sent": "left cat", "bbox": CAT, "width": 640, "height": 480},
        {"file_name": "coco/train2014/a.jpg", "sentences": [{"sent": "dog"}, {"raw": "the dog"}], "bbox": DOG},
        {"image": "coco/train2014/a.jpg", "question": "Describe.", "answer": ["one", "two"], "bbox": CAT},
    ]
    for row in rows:
        row["image"] = row.pop("file_name", row.get("image"))
    path = write(folder / f"rec.{ending}", rows)
    samples = load_dataset(path)
    assert [s.question for s in samples] == ["left cat", "dog", "the dog", "one", "two"]
    assert [s.id for s in samples] == ["rec/0", "rec/1.0", "rec/1.1", "rec/2.0", "rec/2.1"]
    assert samples[2].target.boxes.tolist() == [DOG]


def test_boxes_as_corner_and_size_are_asked_about_then_read(folder):
    rows = [{"image": "a.jpg", "sent": "dog", "bbox": [400, 48, 160, 384]}] * 3
    path = write(folder / "rec.json", rows)
    pictures = folder / "coco" / "train2014"
    with pytest.raises(ValueError, match=r'3 of 3 boxes .* box_format="xywh" \(--box-format xywh\)'):
        load_dataset(path, images=pictures)
    assert load_dataset(path, images=pictures, box_format="xywh")[0].target.boxes.tolist() == [DOG]
    with pytest.raises(ValueError, match="gives no sample: all 3 were left out"):
        load_dataset(path, images=pictures, box_format="xyxy")


@pytest.mark.parametrize(
    ("scale", "say", "frame"),
    [(1000, "norm1000", "norm1000"), (100, r"\(100, 100\)", (100, 100)), (1, r"\(1, 1\)", (1, 1))],
)
def test_boxes_that_reach_nowhere_near_the_edges_of_large_images_are_asked_about(tmp_path, scale, say, frame):
    """Thousandths, percents and fractions all fit in an image of 2,000 pixels: only that none goes further tells."""
    Image.new("RGB", (2000, 1500)).save(tmp_path / "a.png")
    shares = [[0.1, 0.2, 0.3, 0.4 + 0.05 * i] for i in range(10)]
    rows = [{"image": "a.png", "sent": "x", "bbox": [v * scale for v in share]} for share in shares]
    path = write(tmp_path / "rec.jsonl", rows)
    with pytest.raises(ValueError, match=f"reaches beyond {scale}.*say frame=.?{say}"):
        load_dataset(path)
    box = load_dataset(path, frame=frame)[0].target.boxes[0]
    assert box == pytest.approx([200, 300, 600, 600])
    assert load_dataset(path, frame="pixel")[0].target.boxes[0] == pytest.approx(np.array(shares[0]) * scale)


def test_pixels_called_norm1000_are_asked_about(tmp_path):
    Image.new("RGB", (2000, 1500)).save(tmp_path / "a.png")
    row = {"image": "a.png", "problem": "x", "normalized_solution": [1200, 40, 1900, 800]}
    path = write(tmp_path / "val.json", [row])
    with pytest.raises(ValueError, match=r'reach 1900, taken for normalised 0–1000.*say frame="pixel"'):
        load_dataset(path)
    assert load_dataset(path, frame="pixel")[0].target.boxes.tolist() == [[1200, 40, 1900, 800]]


def test_two_boxes_that_contradict_each_other_are_asked_about(folder):
    """`solution` of the images as they were, pictures of another shape: nobody but the user knows which is meant."""
    path = write(folder / "val.json", [official(CAT, image="train2014/b.jpg")])
    with pytest.raises(
        ValueError, match=r"disagree in 1 of 1 rows .* val/0 the first.*--frame norm1000.*--frame pixel"
    ):
        load_dataset(path, images=folder / "coco")
    read = {f: load_dataset(path, images=folder / "coco", frame=f)[0].target.boxes for f in ("norm1000",)}
    assert read["norm1000"].tolist() == [[30, 80, 150, 200]]


def test_one_odd_box_in_a_hundred_is_an_annotators_slip(folder):
    rows = [official(CAT) for _ in range(99)] + [
        official(CAT, solution=[5, 5, 9000, 9], normalized_solution=[9, 9, 4, 4])
    ]
    path = write(folder / "val.json", rows)
    with pytest.warns(UserWarning, match=r"99 grounding samples, 1 left out \(val/99: .*x1 <= x2"):
        samples = load_dataset(path, images=folder / "coco")
    assert len(samples) == 99
    assert samples.skipped[0][0] == "val/99"


def test_official_counting_jsonl(folder):
    rows = [
        {"image_path": "pixmo-count/test/00000.jpg", "question": "birds", "ground_truth": 3},
        {
            "image_path": "images/00000.jpg",
            "question": "How many cats are there in the image?",
            "ground_truth": 2,
        },
    ]
    path = write(folder / "pixmo_count_test540_counting_problems_label.jsonl", rows)
    pictures = folder / "images" / "pixmo-count" / "test"
    pictures.mkdir(parents=True)
    Image.new("RGB", WIDE).save(pictures / "00000.jpg")
    Image.new("RGB", TALL).save(folder / "images" / "00000.jpg")
    samples = load_dataset(path, images=folder / "images")
    assert [(s.question, s.target.count, s.target.image_size) for s in samples] == [
        ("birds", 3, WIDE),
        ("cats", 2, TALL),
    ]
    metrics = pr1kit.evaluate("counting", ["(1,1),(2,2)" * 3, "None"], [s.target for s in samples])
    assert (metrics["accuracy"], metrics["mae"]) == (0.5, 1.0)
    assert np.isnan(metrics["matched_iou"])
    with pytest.raises(ValueError, match="needs boxes or points, this target has only the count 3"):
        score("counting", "(1,1),(2,2)", samples[0].target)


def test_clicks_are_points_in_norm1000(folder):
    row = {"image": "a.jpg", "problem": "people"}
    for places in ({"solution": [[221, 343], [476, 173]]}, {"clicks": "[[221, 343], [476, 173]]"}):
        path = write(folder / "train.json", [row | places])
        (sample,) = load_dataset(path, images=folder / "coco" / "train2014")
        assert (sample.task, sample.question) == ("counting", "people")
        assert sample.target.points == pytest.approx(np.array([[141.44, 164.64], [304.64, 83.04]]))


URL = "https://example.org/photos/two%20birds.jpeg?w=640"
PIXMO = [
    {"image_url": URL, "image_sha256": "f" * 64, "count": 2, "points": [{"x": 10.5, "y": 20.0}, {"x": 99.0, "y": 5.0}],
     "label": "birds"},
    {"image_url": "https://example.org/b.png", "image_sha256": "e" * 64, "count": 4, "points": None, "label": "cups"},
]  # fmt: skip


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_pixmo_count_with_pictures_from_a_local_folder(folder, ending, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
    path = folder / f"test.{ending}"
    if ending == "parquet":
        datasets.Dataset.from_list(PIXMO).to_parquet(path)
    elif ending == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, PIXMO[0].keys())
            writer.writeheader()
            writer.writerows(PIXMO)
    else:
        write(path, PIXMO)
    pictures = folder / "pixmo"
    pictures.mkdir()
    Image.new("RGB", WIDE).save(pictures / f"{sha256(URL.encode()).hexdigest()}.jpg")
    Image.new("RGB", TALL).save(pictures / ("e" * 64 + ".png"))
    samples = load_dataset(path, images=pictures)
    assert [(s.task, s.question, s.target.image_size) for s in samples] == [
        ("counting", "birds", WIDE),
        ("counting", "cups", TALL),
    ]
    assert samples[0].target.points.tolist() == [[10.5, 20], [99, 5]]
    assert (samples[0].target.count, samples[1].target.count) == (None, 4)


def test_the_names_a_fetched_picture_may_have(folder):
    """A better name wins over those already there; the last part of the url only for the very bytes of the row."""
    Image.new("RGB", (100, 100)).save(folder / "two birds.jpeg")
    row = PIXMO[0] | {"image_sha256": sha256((folder / "two birds.jpeg").read_bytes()).hexdigest()}
    names = stored_names(row)
    assert (names[0], names[-1]) == (row["image_sha256"], "two birds.jpeg")
    assert load_dataset([row], images=folder)[0].target.image_size == (100, 100)
    for other in (row | {"image_sha256": "f" * 64}, {k: v for k, v in row.items() if k != "image_sha256"}):
        with pytest.raises(ValueError, match="is not in"):
            load_dataset([other], images=folder)
    for i, name in enumerate(names[-2::-1], 1):
        Image.new("RGB", (100 + i, 100)).save(folder / f"{name}.png")
        assert load_dataset([row], images=folder)[0].target.image_size == (100 + i, 100)


def test_page_ocr_conversations(folder):
    pages = folder / "en_pdf_png"
    pages.mkdir()
    Image.new("L", (60, 80), 255).save(pages / "p1.png")
    talk = [{"from": "human", "value": "<image>\nOCR this image: "}, {"from": "gpt", "value": "Two words\nand more"}]
    rows = [{"id": "1", "image": "p1.png", "conversations": talk}, {"image": "p1.png", "conversations": talk[:1]}]
    with pytest.warns(UserWarning, match="1 left out .en_page_ocr/1: the conversation has no answer"):
        (sample,) = load_dataset(write(folder / "en_page_ocr.json", rows), images=pages)
    assert (sample.task, sample.question, sample.target.text) == ("ocr", "", "Two words\nand more")
    assert sample.load_image().mode == "RGB"


def instances(folder: Path) -> Path:
    """`instances_val2017.json` of two images, three annotations (one a crowd), and one image without any."""
    box = {"area": 900.0, "segmentation": [[1, 2, 3, 4, 5, 6]]}
    images = [(7, "a.jpg", WIDE), (3, "b.jpg", TALL), (9, "a.jpg", WIDE)]
    content = {
        "images": [{"id": i, "file_name": name, "width": w, "height": h} for i, name, (w, h) in images],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}, {"id": 90, "name": "toothbrush"}],
        "annotations": [
            box | {"id": 1, "image_id": 7, "category_id": 17, "bbox": [64, 96, 256, 144], "iscrowd": 0},
            box | {"id": 2, "image_id": 7, "category_id": 18, "bbox": [0, 0, 640, 100], "iscrowd": 1},
            box | {"id": 3, "image_id": 3, "category_id": 18, "bbox": [10, 20, 30, 40], "iscrowd": 0},
        ],
    }
    return write(folder / "instances_val2017.json", content)


def test_coco_instances(folder):
    path = instances(folder)
    samples = load_dataset(path, images=folder / "coco" / "train2014")
    assert [s.id for s in samples] == ["instances_val2017/7", "instances_val2017/3", "instances_val2017/9"]
    assert {s.question for s in samples} == {"cat, dog, toothbrush"}
    assert samples[0].target.boxes.tolist() == [CAT], "a crowd is no object"
    assert samples[0].target.labels == ("cat",)
    assert len(samples[2].target.boxes) == 0, "an image without annotations is asked about too"
    assert [note["iscrowd"] for note in samples.coco["annotations"]] == [0, 1, 0]
    assert samples.coco["annotations"][0]["bbox"] == [64, 96, 256, 144]
    assert samples.coco["annotations"][0]["area"] == 900, "the mask's area decides what is small"
    counted = load_dataset(path, "counting", images=folder / "coco" / "train2014")
    assert [(s.id, s.question, len(s.target.boxes)) for s in counted] == [
        ("instances_val2017/7/cat", "cat", 1),
        ("instances_val2017/3/dog", "dog", 1),
    ]
    with pytest.raises(ValueError, match="gives detection or counting samples, not ocr"):
        load_dataset(path, "ocr")


def test_coco_files_with_boxes_as_corners_or_fractions_are_asked_about(folder):
    path, images = instances(folder), folder / "coco" / "train2014"
    content = json.loads(path.read_text())
    for note in content["annotations"]:
        note["bbox"] = DOG
    with pytest.raises(ValueError, match=r'leave their images .* if they are corners, say box_format="xyxy"'):
        load_dataset(write(path, content), images=images)
    content["annotations"] = content["annotations"][:1]
    assert load_dataset(write(path, content), images=images, box_format="xyxy")[0].target.boxes.tolist() == [DOG]
    content["annotations"] *= 8
    for note in content["annotations"]:
        note["bbox"] = [0.1, 0.2, 0.4, 0.3]
    with pytest.raises(ValueError, match=r"fractions of the image, say frame=\(1, 1\) \(--frame 1x1\)"):
        load_dataset(write(path, content), images=images)
    samples = load_dataset(write(path, content), images=images, frame=(1, 1))
    assert samples[0].target.boxes[0] == pytest.approx(CAT)
    (note, *_) = samples.coco["annotations"]
    assert note["bbox"] == pytest.approx([64, 96, 256, 144])
    assert note["area"] == pytest.approx(256 * 144)


def test_a_folder_of_ones_own_images_with_a_coco_file(folder):
    mine = folder / "coco" / "train2014"
    instances(mine)
    samples = load_dataset(mine)
    assert len(samples) == 3
    (mine / "annotations").mkdir()
    instances(mine / "annotations")
    with pytest.raises(ValueError, match="holds several COCO files"):
        load_dataset(mine)


def test_a_real_coco_file_with_its_photograph():
    if not COCO.is_dir():
        pytest.skip("no shared/data/coco beside the repository")
    (sample,) = load_dataset(COCO / "instances_val2017_1image.json")
    assert len(sample.target.boxes) == 19
    assert sample.load_image().size == sample.target.image_size == (640, 427)
    assert sample.question.startswith("person, bicycle, car, motorcycle")
    assert sample.question.count(",") == 79


def test_hub_datasets_with_an_image_column(folder, monkeypatch):
    """Pictures stay encoded in the table; the columns of detection datasets on the hub, class numbers included."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
    thing = {"bbox": [[64.0, 96.0, 256.0, 144.0]], "category": [1]}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "width": datasets.Value("int32"),
            "height": datasets.Value("int32"),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
                "category": datasets.List(datasets.ClassLabel(names=["dog", "cat"])),
            },
        }
    )
    rows = {
        "image": [Image.new("CMYK", WIDE), Image.new("L", WIDE)],
        "width": [640] * 2,
        "height": [480] * 2,
        "objects": [thing, {"bbox": [[0, 0, 10, 10]], "category": [0]}],
    }
    table = datasets.Dataset.from_dict(rows, features=features)
    table.save_to_disk(folder / "saved")
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(folder / "splits")
    table.to_parquet(folder / "data" / "validation-00000-of-00001.parquet")
    for source, more in (
        (table, {}),
        (table.to_iterable_dataset(), {}),
        (folder / "saved", {}),
        (folder / "splits", {"split": "test"}),
        (folder / "data", {"split": "validation"}),
    ):
        samples = load_dataset(source, box_format="xywh", **more)
        assert [s.target.boxes.tolist() for s in samples] == [[CAT], [[0, 0, 10, 10]]]
        assert [s.target.labels for s in samples] == [("cat",), ("dog",)]
        assert {s.question for s in samples} == {"cat, dog"}, "every class of the data is asked for"
        assert samples[0].load_image().mode == "RGB"
    with pytest.raises(ValueError, match="has the splits train, test"):
        load_dataset(folder / "splits")
    with pytest.raises(ValueError, match="has no split 'val': it has train, test"):
        load_dataset(folder / "splits", split="val")
    found = datasets.load_from_disk(folder / "splits")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: found)  # as the hub would give it
    with pytest.raises(ValueError, match=r"^'owner/name' has the splits train, test: name one with split="):
        load_dataset("owner/name")


@pytest.mark.parametrize("turn", [3, 6, 8])
def test_boxes_follow_exif(folder, turn):
    """A file that states the stored image's size annotates that one; any other means the image as it is seen."""
    image = Image.new("RGB", WIDE, "white")
    image.paste((255, 0, 0), tuple(map(int, CAT)))
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    image.save(folder / "turned.png", exif=exif)
    row = {"image": "turned.png", "sent": "red", "bbox": CAT}
    path = write(folder / "rec.json", [row | {"width": 640, "height": 480}])
    (sample,) = load_dataset(path)
    pixels = np.asarray(sample.load_image())
    ys, xs = np.nonzero(pixels[..., 1] < 50)
    seen = [int(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]
    if turn == 3:  # the size cannot tell: the upright image is meant
        assert sample.target.boxes.tolist() == [CAT]
        return
    assert sample.target.image_size == (480, 640)
    assert sample.target.boxes.tolist() == [seen]
    (sample,) = load_dataset(write(folder / "rec.json", [row | {"bbox": seen, "width": 480, "height": 640}]))
    assert sample.target.boxes.tolist() == [seen]
    (sample,) = load_dataset(write(folder / "rec.json", [row | {"bbox": seen}]))
    assert sample.target.boxes.tolist() == [seen]


def test_an_image_stored_smaller_than_its_file_says_scales_its_boxes(folder):
    row = {"image": "train2014/a.jpg", "sent": "cat", "bbox": [2 * v for v in CAT], "width": 1280, "height": 960}
    (sample,) = load_dataset(write(folder / "rec.json", [row]), images=folder / "coco")
    assert sample.target.boxes.tolist() == [CAT]
    path = write(folder / "rec.json", [row | {"bbox": CAT, "width": 500, "height": 500}])
    with pytest.raises(ValueError, match=r"the file says 500x500 pixels, .*a.jpg has 640x480"):
        load_dataset(path, images=folder / "coco")


@pytest.mark.parametrize(("size", "most"), [(WIDE, 10**6), ((1234, 777), 200_000), ((40, 30), 10**6)])
def test_truth_follows_the_image_through_the_processors_resize(tmp_path, size, most):
    """A perfect answer in either frame earns all but rounding: truth stays in pixels, the frame reads the answer."""
    Image.new("RGB", size).save(tmp_path / "a.png")
    width, height = size
    box = [0.25 * width, 0.5 * height, 0.75 * width, 0.9 * height]
    (sample,) = load_dataset([{"image": str(tmp_path / "a.png"), "sent": "x", "bbox": box}], frame="pixel")
    assert sample.target.boxes[0] == pytest.approx(box)
    for frame in ("norm1000", smart_resize(size, max_pixels=most)):
        x1, y1, x2, y2 = np.rint(from_pixels(sample.target.boxes, frame, size)[0]).astype(int)
        result = score("grounding", f"({x1},{y1}),({x2},{y2})", sample.target, frame=frame)
        least = box_slack(frame, size)
        assert result.total > 1 - least
        wrong = score("grounding", f"({x1},{y1}),({x2},{y2})", sample.target, frame="pixel")
        assert frame == size or wrong.total < result.total


def box_slack(frame, size) -> float:
    """What rounding to whole units may cost a box of half the image's width and 0.4 of its height."""
    unit = to_pixels(np.array([[1.0, 1.0]]), frame, size)[0]
    return 2 * unit[0] / (0.5 * size[0]) + 2 * unit[1] / (0.4 * size[1])


def test_broken_and_missing_images_are_named_counted_and_left_out(folder):
    pictures = folder / "coco" / "train2014"
    noise = Image.effect_noise((200, 200), 60)
    noise.save(pictures / "cut.jpg")
    (pictures / "cut.jpg").write_bytes((pictures / "cut.jpg").read_bytes()[:-3000])
    names = ["a.jpg", "cut.jpg", "absent.jpg", "b.jpg", "absent.jpg"]
    path = write(folder / "ocr.jsonl", [{"image": name, "text": name} for name in names])
    with pytest.warns(UserWarning, match=r"ocr.jsonl: 2 ocr samples, 3 left out") as caught:
        samples = load_dataset(path, images=pictures)
    assert len(caught) == 1
    assert [s.id for s in samples] == ["ocr/0", "ocr/3"]
    reasons = dict(samples.skipped)
    assert set(reasons) == {"ocr/1", "ocr/2", "ocr/4"}
    assert "cut.jpg cannot be read" in reasons["ocr/1"]
    assert "'absent.jpg' is not in" in reasons["ocr/2"]
    for name in ("ocr/1", "ocr/2", "ocr/4"):
        assert name in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quick = load_dataset(path, images=pictures, verify=False)
    assert [s.id for s in quick] == ["ocr/0", "ocr/1", "ocr/3"]
    with pytest.raises(ValueError, match=r"cut.jpg' of sample 'ocr/1' cannot be read"):
        quick[1].load_image()


def test_rows_that_make_no_sense_are_left_out_with_their_reason(folder):
    good = {"image": "a.jpg", "problem": "x", "normalized_solution": [100, 200, 500, 500]}
    bad = {
        "lists": {"normalized_solution": [1, 2, 3]},
        "text": {"normalized_solution": "three boxes"},
        "flat": {"normalized_solution": [5, 5, 5, 9]},
        "imageless": {"image": None},
    }
    path = write(folder / "val.json", [good] * 200 + [good | change for change in bad.values()])
    with pytest.warns(UserWarning, match="4 left out"):
        samples = load_dataset(path, images=folder / "coco" / "train2014")
    reasons = dict(samples.skipped)
    for index, words in enumerate(("neither one box nor a list", "not a list of numbers", "no area", "names no image")):
        assert words in reasons[f"val/{200 + index}"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.json", None, "'.*absent.json' does not exist"),
        ("x.txt", "hello", "is no annotation file: expected one of .json"),
        ("x.json", "[{", "is no JSON"),
        ("x.jsonl", '{"image": "a", "text": "b"}\n{', "all 2 were left out, .* line 2 is no JSON: Expecting"),
        ("x.json", "[]", "holds no rows"),
        ("x.json", "[1, 2]", "all 2 were left out, .* the row is '1', expected named fields"),
        ("x.json", '[{"picture": "a"}]', r'is in no layout that the kit knows, its rows have \["picture"\]'),
        ("x.csv", "image,text\nz.jpg,hi\n", "'z.jpg' is not in"),
    ],
)
def test_bad_files_raise_one_sentence(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_dataset(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_bad_options_raise_one_sentence(folder):
    path = write(folder / "val.json", [official(CAT)])
    for options, message in (
        ({"layout": "yolo"}, "Unknown layout 'yolo': choose auto, coco, voc, grounding"),
        ({"layout": "coco"}, "is no COCO instances file"),
        ({"task": "ocr"}, "holds grounding samples, not ocr"),
        ({"box_format": "cxcywh"}, "Unknown box_format"),
        ({"frame": "percent"}, "Unknown frame 'percent'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_dataset(path, images=folder / "coco", **options)
    with pytest.raises(ValueError, match="The scenes need a task"):
        load_dataset("scenes")
    with pytest.raises(FileNotFoundError, match="no/such/file' does not exist"):
        load_dataset("no/such/file")


def test_scenes_and_limits(folder):
    scenes = load_dataset("scenes", "counting", split="test", limit=4, seed=3)
    assert [s.id for s in scenes] == [s.id for s in pr1kit.make_scenes("counting", 4, 3, split="test")]
    path = write(folder / "val.json", [official(CAT), official(DOG)])
    assert len(load_dataset(path, images=folder / "coco", limit=1)) == 1
    lines = write(folder / "val.jsonl", [official(CAT)])
    with lines.open("a") as file:
        file.write("not reached")
    assert len(load_dataset(lines, images=folder / "coco", limit=1)) == 1, "only as many lines are read as asked for"


def test_the_front_door_needs_no_torch(folder):
    path = write(folder / "val.json", [official(CAT)])
    code = f"import sys, pr1kit; assert len(pr1kit.load_dataset({str(path)!r}, images={str(folder / 'coco')!r})) == 1; "
    code += "assert not {'torch', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
