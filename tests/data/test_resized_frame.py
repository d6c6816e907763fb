"""A COCO file whose boxes are those of the images as Qwen-VL's processor resizes them, as the official one has them."""

import json

import pytest
from PIL import Image

from pr1kit.data.boxes import is_resized, smart_resize
from pr1kit.data.load import load_dataset

SIZES = [(640, 427), (427, 640), (640, 480), (500, 333), (333, 500), (612, 612), (480, 640), (640, 360), (500, 375)]


@pytest.fixture
def official(tmp_path):
    """Images, and a file whose boxes reach the corner of each resized image; `stated` says which size it gives."""

    def write(stated):
        images, notes = [], []
        for i, size in enumerate(SIZES, 1):
            Image.new("L", size).save(tmp_path / f"{i}.jpg")
            width, height = resized = smart_resize(size)
            shown = dict(zip(("width", "height"), resized if stated == "resized" else size, strict=True))
            images.append({"id": i, "file_name": f"{i}.jpg", **(shown if stated else {})})
            box = [3 * width / 4, 3 * height / 4, width / 4, height / 4]
            notes.append({"id": i, "image_id": i, "category_id": 1, "bbox": box, "area": 1.0, "iscrowd": 0})
        categories = [{"id": 1, "name": "cat"}]
        path = tmp_path / "instances_val2017.json"
        path.write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
        return path

    return write


def corners(samples):
    return [sample.target.boxes[0].tolist() for sample in samples]


EXPECTED = [pytest.approx([3 * width / 4, 3 * height / 4, width, height]) for width, height in SIZES]


def test_sizes_of_the_resized_images_are_taken_for_what_they_are(official):
    """Two of nine are off in shape by more than the two percent that other files are allowed."""
    off = [abs(smart_resize(s)[0] * s[1] / (smart_resize(s)[1] * s[0]) - 1) for s in SIZES]
    assert sum(each > 0.02 for each in off) >= 2
    samples = load_dataset(official("resized"))
    assert corners(samples) == EXPECTED
    assert not samples.skipped
    for note, (width, height) in zip(samples.coco["annotations"], SIZES, strict=True):
        assert note["bbox"] == pytest.approx([3 * width / 4, 3 * height / 4, width / 4, height / 4])


@pytest.mark.parametrize("stated", ["original", None])
def test_without_their_sizes_the_file_is_refused_with_what_to_say(official, stated):
    path = official(stated)
    with pytest.raises(ValueError, match=r'within what Qwen-VL.*say frame="resized" \(--frame resized\)'):
        load_dataset(path)
    assert corners(load_dataset(path, frame="resized")) == EXPECTED


def test_a_size_of_another_picture_is_no_resize():
    assert all(is_resized(smart_resize(size), size) for size in SIZES)
    assert not is_resized((640, 427), (427, 640))
    assert not is_resized((280, 28), (640, 427))
