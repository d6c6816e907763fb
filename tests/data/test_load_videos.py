"""Tracks of videos: small files in exactly the layouts of the real ones, and every kind of broken one."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from pr1kit import Track, load_dataset, score
from pr1kit.data.queries import ask_about_tracks, direction, name_in_frame
from pr1kit.rewards.tasks import get_task

SIZE = (64, 48)
INFO = """[Sequence]
name=MOT17-02
imDir=img1
frameRate=4
seqLength=12
imWidth=64
imHeight=48
imExt=.jpg
"""


@pytest.fixture
def mot(tmp_path):
    """Twelve frames: one walks to the right all the time, another stands above and goes after frame 6; and a car."""
    folder = tmp_path / "MOT17" / "MOT17-02"
    (folder / "img1").mkdir(parents=True)
    (folder / "gt").mkdir()
    (folder / "seqinfo.ini").write_text(INFO)
    for i in range(1, 13):
        Image.new("RGB", SIZE).save(folder / "img1" / f"{i:06d}.jpg")
    rows = [(i, 1, 1 + 4 * i, 31, 10, 15, 1, 1, 1.0) for i in range(1, 13)]
    rows += [(i, 2, 5, 3, 10, 15, 1, 1, 1.0) for i in range(1, 7)]
    rows += [(i, 3, 50, 3, 20, 10, 1, 3, 1.0) for i in range(1, 13)]
    rows += [(i, 4, 5, 3, 10, 15, 0, 1, 1.0) for i in range(1, 13)]  # not to be considered
    rows += [(i, 5, 5, 3, 10, 15, 1, 12, 1.0) for i in range(1, 13)]  # a reflection
    (folder / "gt" / "gt.txt").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return folder


def test_a_mot_sequence(mot):
    samples = load_dataset(mot.parent, task="tracking", frames=6, fps=2.0)
    assert [sample.question for sample in samples] == [
        "the lowest person in frame 1",
        "the topmost person in frame 1",
        "the car in frame 1",
    ]
    walker, _, car = samples
    assert walker.times == (0, 0.5, 1, 1.5, 2, 2.5)
    assert [frame[-10:] for frame in walker.frames] == [f"{i:06d}.jpg" for i in (1, 3, 5, 7, 9, 11)]
    assert walker.target.tracks[0].boxes[:2].tolist() == [[4, 30, 14, 45], [12, 30, 22, 45]]
    assert car.target.tracks[0].boxes[0].tolist() == [49, 2, 64, 12], "cut at the edge"
    assert samples[1].target.tracks[0].seen.tolist() == [True] * 3 + [False] * 3
    assert walker.load_frames()[0].size == SIZE == walker.target.image_size
    for sample in samples:
        assert score("tracking", get_task("tracking").write_answer(sample.target), sample.target).total == 1


def test_when_and_what_of_a_mot_sequence(mot):
    when = load_dataset(mot, task="when", frames=6, fps=2.0)
    assert [(s.question, s.target.spans.tolist()) for s in when] == [
        ("is the topmost person in frame 1 visible", [[0, 2]])
    ]
    what = load_dataset(mot, task="what", frames=6, fps=2.0)
    assert [(s.question, s.target.text) for s in what] == [
        ("Which way does the lowest person in frame 1 move", "right")
    ]


def test_a_sequence_is_cut_into_clips_that_share_no_frame(mot):
    samples = load_dataset(mot, task="tracking", frames=4, fps=None)
    clips = {sample.frames for sample in samples}
    assert sorted(len(clip) for clip in clips) == [4, 4, 4]
    assert len(set().union(*clips)) == 12
    assert len(load_dataset(mot, task="tracking", frames=4, fps=None, limit=2)) == 2
    some = load_dataset(mot, task="tracking", frames=4, fps=None, limit=3, shuffle_seed=1)
    assert [sample.id for sample in some] == [s.id for s in samples if s.id in {sample.id for sample in some}]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("seqinfo.ini", "no sections", "no sequence of the MOT challenge"),
        ("seqinfo.ini", "[Sequence]\nseqLength=many", "no sequence of the MOT challenge"),
        ("seqinfo.ini", "[Sequence]\nseqLength=3", "must say seqLength, frameRate"),
        ("gt/gt.txt", "1,2,3\n", "Row 1 .* is '1,2,3', expected frame, id"),
        ("gt/gt.txt", "1,1,nan,3,4,5,1,1,1\n", "Row 1"),
        ("gt/gt.txt", "99,1,2,3,4,5,1,1,1\n", "frame 99 of 12"),
        ("gt/gt.txt", "", "nothing to ask"),
    ],
)
def test_a_damaged_sequence_is_one_sentence(mot, file, content, said):
    (mot / file).write_text(content)
    with pytest.raises(ValueError, match=said) as raised:
        load_dataset(mot, task="tracking")
    assert "\n" not in str(raised.value)


def test_missing_frames_leave_their_clip_out(mot):
    (mot / "img1" / "000002.jpg").unlink()
    with pytest.warns(UserWarning, match=r"1 left out .*000002\.jpg' is missing"):
        samples = load_dataset(mot, task="tracking", frames=4, fps=None)
    assert len({sample.frames for sample in samples}) == 2
    Image.new("RGB", (9, 9)).save(mot / "img1" / "000005.jpg")
    with pytest.warns(UserWarning, match="has 9x9 pixels, not 64x48"):
        load_dataset(mot, task="tracking", frames=4, fps=None)
    (mot / "gt" / "gt.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"gt\.txt"):
        load_dataset(mot, task="tracking")


@pytest.mark.parametrize("scale", [1, 100])
def test_detections_without_a_truth_become_tracks(mot, scale):
    pytest.importorskip("trackers")
    (mot / "det").mkdir()
    (mot / "gt" / "gt.txt").unlink()
    rows = [(i, -1, 1 + 2 * i, 31, 10, 15, 0.9 * scale, -1, -1, -1) for i in range(1, 13)]
    rows += [(i, -1, 45, 3, 10, 15, 0.8 * scale, -1, -1, -1) for i in range(1, 13)]
    (mot / "det" / "det.txt").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    samples = load_dataset(mot, task="tracking", frames=12, fps=None)
    found = {sample.question: sample.target.tracks[0].boxes for sample in samples}
    assert set(found) == {"the leftmost object in frame 1", "the rightmost object in frame 1"}
    walked = [[2 * i, 30, 2 * i + 10, 45] for i in range(1, 13)]
    assert found["the leftmost object in frame 1"].tolist() == walked
    (mot / "det" / "det.txt").write_text("99,-1,1,1,9,9,1\n")
    with pytest.raises(ValueError, match="frame 99 of 12"):
        load_dataset(mot, task="tracking")


@pytest.fixture
def vis(tmp_path):
    for name in ("v0/00.jpg", "v0/05.jpg", "v0/10.jpg"):
        path = tmp_path / "JPEGImages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE).save(path)
    value = {
        "videos": [{"id": 7, "width": 64, "height": 48, "file_names": ["v0/00.jpg", "v0/05.jpg", "v0/10.jpg"]}],
        "categories": [{"id": 1, "name": "panda"}],
        "annotations": [
            {"id": 1, "video_id": 7, "category_id": 1, "bboxes": [[0, 0, 10, 10], None, [30, 0, 10, 10]]},
            {"id": 2, "video_id": 7, "category_id": 1, "bboxes": [[0, 0, 10, 10]]},
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(value))
    return path


def test_a_coco_style_file_of_videos(vis):
    with pytest.warns(UserWarning, match="annotation 1: it has 1 boxes for 3 frames"):
        (sample,) = load_dataset(vis, task="tracking", fps=None)
    assert (sample.question, sample.target.tracks[0].label) == ("the panda in frame 1", "panda")
    assert sample.target.tracks[0].seen.tolist() == [True, False, True]
    assert sample.target.tracks[0].boxes[2].tolist() == [30, 0, 40, 10]
    assert sample.times == pytest.approx((0, 1 / 6, 2 / 6))


def test_bad_files_are_one_sentence(vis, tmp_path):
    for content, said in (("[]", "lacks the lists videos"), ('{"videos": [{}], "annotations": []}', "Video 0")):
        vis.write_text(content)
        with pytest.raises(ValueError, match=said):
            load_dataset(vis, task="tracking")
    with pytest.raises(ValueError, match="holds no MOT sequence"):
        load_dataset(tmp_path, task="tracking")
    with pytest.raises(FileNotFoundError):
        load_dataset(tmp_path / "none.json", task="tracking")
    with pytest.raises(ValueError, match="2 to 1,000 frames"):
        load_dataset(vis, task="tracking", frames=10_000)
    with pytest.raises(ValueError, match="files and folders"):
        load_dataset([{}], task="tracking")


def test_the_synthetic_clips_come_through_the_same_door():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clips = load_dataset("scenes", task="when", limit=3, frames=6, split="test")
    assert [len(clip.frames) for clip in clips] == [6, 6, 6]
    assert clips[0].id.startswith("clips/when/test/0/0/")


def test_names_and_directions():
    still, walks = Track([[0, 0, 9, 9]] * 2, "Cat"), Track([[0, 30, 9, 39], [40, 30, 49, 39]], "cat")
    assert name_in_frame([still, walks], 1, SIZE) == "the lowest cat in frame 1"
    assert name_in_frame([still, still], 0, SIZE) is None
    assert (direction(still, SIZE), direction(walks, SIZE)) == ("", "right")
    gone = Track([[0, 0, 9, 9], None], "dog")
    assert ask_about_tracks("tracking", [gone], SIZE) == []
    diagonal = Track(np.array([[0, 0, 9, 9], [30, 24, 39, 33.0]]), "dog")
    assert direction(diagonal, SIZE) == ""
