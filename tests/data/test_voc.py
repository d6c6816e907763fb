"""Pascal VOC folders: small ones in the layout of the real ones, and every kind of broken file."""

from pathlib import Path

import pytest
from PIL import Image

from pr1kit.data.load import load_dataset

BCCD = Path(__file__).resolve().parents[3] / "shared" / "data" / "bccd"
OBJECT = """<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>
<difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def annotation(name: str, *objects, size=(60, 40)) -> str:
    inside = "".join(OBJECT.format(name=n, box=box, difficult=difficult) for n, box, difficult in objects)
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><folder>JPEGImages</folder><filename>{name}</filename>{sides}{inside}</annotation>"


@pytest.fixture
def folder(tmp_path):
    """Three pictures, two of them in the training split."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    cells = {
        "a": [("RBC", (1, 2, 11, 12), 0), ("WBC", (20, 2, 40, 30), 0)],
        "b": [("RBC", (1, 2, 11, 12), 0), ("RBC", (30, 2, 41, 12), 1)],
        "c": [],
    }
    for name, objects in cells.items():
        Image.new("RGB", (60, 40), "white").save(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "Annotations" / f"{name}.xml").write_text(annotation(f"{name}.jpg", *objects))
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\nc\n")
    (tmp_path / "ImageSets" / "Main" / "RBC_val.txt").write_text("b  1\n")
    return tmp_path


def test_a_voc_folder_is_read_as_detection(folder):
    samples = load_dataset(folder)
    assert [sample.id for sample in samples] == ["a", "b", "c"]
    assert samples[0].question == "RBC, WBC"
    assert samples[0].target.labels == ("RBC", "WBC")
    assert samples[0].target.boxes.tolist() == [[1, 2, 11, 12], [20, 2, 40, 30]]
    assert samples[1].target.boxes.tolist() == [[1, 2, 11, 12]], "what is difficult is no object"
    assert len(samples[2].target.boxes) == 0
    assert samples.skipped == []
    notes = samples.coco["annotations"]
    assert [note["iscrowd"] for note in notes] == [0, 0, 0, 1]
    assert notes[0]["bbox"] == [1, 2, 10, 10]
    assert samples.coco["categories"] == [{"id": 1, "name": "RBC"}, {"id": 2, "name": "WBC"}]


def test_splits_and_counting(folder):
    assert [sample.id for sample in load_dataset(folder, split="train")] == ["a", "c"]
    assert [sample.id for sample in load_dataset(folder, split="RBC_val")] == ["b"]
    counted = load_dataset(folder, "counting")
    assert [(s.id, len(s.target.boxes)) for s in counted] == [("a/RBC", 1), ("a/WBC", 1)], "b has a difficult one"
    with pytest.raises(ValueError, match="has no split 'test' in its ImageSets: there are RBC_val, train"):
        load_dataset(folder, split="test")


def test_xml_beside_the_pictures_and_a_wrong_file_name(folder):
    for path in [*folder.glob("Annotations/*"), *folder.glob("JPEGImages/*")]:
        path.rename(folder / path.name)
    (folder / "Annotations").rmdir()
    (folder / "a.xml").write_text((folder / "a.xml").read_text().replace("a.jpg", "a"))
    assert [sample.id for sample in load_dataset(folder)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation><object>", "its XML is malformed"),
        ("", "its XML is malformed"),
        (annotation("b.jpg", ("RBC", (1, "two", 3, 4), 0)), "object 0's ymin is 'two', expected a number"),
        (annotation("b.jpg", ("", (1, 2, 3, 4), 0)), "object 0's name"),
        (annotation("b.jpg", ("RBC", (30, 2, 3, 4), 0)), "is not x1 <= x2"),
        (annotation("b.jpg", ("RBC", (1, 2, 300, 4), 0)), "lies outside its image of 60x40"),
        (annotation("gone.jpg").replace("b", "x"), None),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + annotation("b.jpg"), "defines entities"),
        (annotation("b.jpg", size=("x", 40)), "its width is x"),
    ],
)
def test_a_broken_file_is_counted_and_named_and_the_others_are_read(folder, text, reason):
    (folder / "Annotations" / "b.xml").write_text(text)
    if reason is None:  # the picture is found by the name of its XML file
        assert [sample.id for sample in load_dataset(folder)] == ["a", "b", "c"]
        return
    with pytest.warns(UserWarning, match="1 left out"):
        samples = load_dataset(folder)
    ((name, why),) = samples.skipped
    assert name == "b"
    assert reason in why
    assert [sample.id for sample in samples] == ["a", "c"]


def test_a_missing_picture_and_a_listed_name_without_a_file(folder):
    (folder / "JPEGImages" / "b.jpg").unlink()
    with pytest.warns(UserWarning, match=r"1 left out \(b: its image 'JPEGImages/b.jpg' is not in "):
        assert len(load_dataset(folder)) == 2
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\nz\n")
    with pytest.warns(UserWarning, match=r"1 left out \(z: its XML file is missing\)"):
        assert len(load_dataset(folder, split="train")) == 1
    (folder / "JPEGImages" / "a.jpg").unlink()
    (folder / "JPEGImages" / "c.jpg").unlink()
    with pytest.raises(ValueError, match="gives no sample: all 3 were left out"):
        load_dataset(folder)


def test_what_is_no_voc_folder_says_so(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no VOC folder: neither it nor its Annotations holds an XML file"):
        load_dataset(tmp_path / "empty", layout="voc")
    with pytest.raises(ValueError, match="gives detection or counting samples, not ocr"):
        load_dataset(folder, "ocr")


def test_a_real_voc_file_says_what_the_coco_file_says(tmp_path):
    if not BCCD.is_dir():
        pytest.skip("no shared/data/bccd beside the repository")
    (tmp_path / "Annotations").mkdir()
    for path in (BCCD / "voc_sample").glob("*.xml"):  # the picture of one of them is in the test split
        if (BCCD / "images" / f"{path.stem}.jpg").is_file():
            (tmp_path / "Annotations" / path.name).write_bytes(path.read_bytes())
    ours = load_dataset(tmp_path, images=BCCD / "images")
    coco = {Path(s.image).stem: s for split in ("train", "val") for s in load_dataset(BCCD, split=split)}
    names = {"RBC": "red blood cell", "WBC": "white blood cell", "Platelets": "platelet"}
    assert ours
    for sample in ours:
        assert sample.target.boxes.tolist() == coco[sample.id].target.boxes.tolist()
        assert [names[label] for label in sample.target.labels] == list(coco[sample.id].target.labels)
