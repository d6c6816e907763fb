"""Fingerprints: the same content gives the same digests, and each change is named for what it is."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pr1kit.data import fingerprint as module
from pr1kit.data.clips import make_clips
from pr1kit.data.fingerprint import (
    differences,
    file_differences,
    file_fingerprint,
    fingerprint,
    folder_fingerprint,
)
from pr1kit.data.records import StoredImage
from pr1kit.data.sample import IMAGE_TASKS, Sample, Target
from pr1kit.data.scenes import make_scenes


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_the_same_samples_give_the_same_fingerprint_through_json(task):
    once, again = (fingerprint(make_scenes(task, 20, seed=3)) for _ in range(2))
    assert once == again == json.loads(json.dumps(once))
    assert differences(once, again) == []
    assert once["digest"] != fingerprint(make_scenes(task, 20, seed=4))["digest"]


def change(sample: Sample, part: str) -> Sample:
    target, pixels = sample.target, np.asarray(sample.image).copy()
    pixels[0, 0, 0] ^= 1
    return {
        "questions": lambda: replace(sample, prompt="How many?"),
        "boxes": lambda: replace(sample, target=replace(target, boxes=target.boxes + 1e-9)),
        "labels": lambda: replace(sample, target=replace(target, labels=("x", *target.labels[1:]))),
        "pictures": lambda: replace(sample, image=Image.fromarray(pixels)),
        "image sizes": lambda: replace(sample, target=replace(target, image_size=(999, 999))),
    }[part]()


@pytest.mark.parametrize("part", ["questions", "boxes", "labels", "pictures", "image sizes"])
def test_a_change_is_named_and_counted(part):
    samples = make_scenes("detection", 10)
    changed = [change(s, part) if i in (2, 5) else s for i, s in enumerate(samples)]
    old, new = fingerprint(samples), fingerprint(changed)
    assert old["digest"] != new["digest"]
    assert differences(old, new) == [f"{part} of 2 samples differ ({samples[2].id}, {samples[5].id})"]
    assert fingerprint(samples[2:3])["digest"] != fingerprint(changed[2:3])["digest"]
    assert fingerprint(samples[3:4]) == fingerprint(changed[3:4])


def test_a_frame_a_time_a_track_and_a_span_are_told():
    (clip,), (when,) = make_clips("tracking", 1), make_clips("when", 1)
    frames, times = (*clip.frames[:5], clip.frames[0], *clip.frames[6:]), (*clip.times[:-1], 99.0)
    (track, *others), spans = clip.target.tracks, when.target.spans
    moved = replace(track, boxes=track.boxes * 0.5)
    for old, new, part in (
        (clip, replace(clip, frames=frames), "pictures"),
        (clip, replace(clip, times=times), "pictures"),
        (clip, replace(clip, target=replace(clip.target, tracks=(moved, *others))), "tracks"),
        (when, replace(when, target=replace(when.target, spans=spans[:0])), "spans"),
    ):
        assert fingerprint([old]) == fingerprint([old])
        assert differences(fingerprint([old]), fingerprint([new])) == [f"{part} of 1 sample differ ({old.id})"]


def test_new_missing_and_reordered_samples_are_named():
    samples = make_scenes("counting", 8)
    old = fingerprint(samples)
    said = differences(old, fingerprint([*samples[2:], *make_scenes("counting", 5, seed=1)]))
    assert [words.split(" (")[0] for words in said] == ["5 samples are new", "2 samples are missing"]
    assert said[0].endswith(", …)")
    turned = fingerprint(samples[::-1])
    assert differences(old, turned) == ["the samples are in another order"]
    assert old["digest"] != turned["digest"]


def test_samples_of_one_id_are_all_counted():
    plain = [Sample(Image.new("RGB", (4, 4)), "ocr", "", Target(text=text)) for text in "abc"]
    other = [*plain[:2], replace(plain[2], target=Target(text="d"))]
    assert differences(fingerprint(plain), fingerprint(other)) == ["texts of 1 sample differ (#3)"]


@pytest.mark.parametrize("kind", ["path", "bytes", "text of a path"])
def test_a_picture_is_its_bytes_wherever_it_lies(tmp_path, kind):
    def sample(name, value):
        path = tmp_path / name
        Image.new("L", (8, 8), value).save(path)
        image = {"path": path, "bytes": StoredImage("x", path.read_bytes()), "text of a path": str(path)}[kind]
        return Sample(image, "ocr", "", Target(text="x"), "s")

    assert fingerprint([sample("a.png", 1)]) == fingerprint([sample("b.png", 1)])
    assert differences(fingerprint([sample("a.png", 1)]), fingerprint([sample("a.png", 2)])) == [
        "pictures of 1 sample differ (s)"
    ]


def test_an_absent_picture_is_named():
    with pytest.raises(FileNotFoundError, match=r"'absent\.png' of sample"):
        fingerprint([Sample("absent.png", "ocr", "", Target(text="x"))])


def test_a_file_rewritten_in_the_same_size_and_with_the_same_time_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    old = file_fingerprint(path)
    path.write_bytes(b"new")  # at once: within one tick of the clock
    os.utime(path, ns=times)
    assert file_fingerprint(path) != old
    monkeypatch.setattr(module, "SETTLED", -1)
    kept = file_fingerprint(path)
    monkeypatch.setattr(module, "file_digest", None)
    assert file_fingerprint(path) == kept, "read once"


def test_digests_of_large_files_outlive_the_process_and_damaged_ones_are_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "LARGE", 1)
    monkeypatch.setattr(module, "SETTLED", -1)
    path = tmp_path / "weights"
    path.write_bytes(b"w")
    digest = file_fingerprint(path)
    (kept,) = (tmp_path / "cache" / "pr1kit" / "digests").iterdir()
    monkeypatch.setattr(module, "_known", {})
    kept.write_text("f" * 64)
    assert file_fingerprint(path) == "f" * 64, "it was looked up"
    monkeypatch.setattr(module, "_known", {})
    kept.write_bytes(b"\xff")
    assert file_fingerprint(path) == digest


def test_folders_name_the_file_that_differs(tmp_path):
    for name in ("model.safetensors", "preprocessor_config.json", "notes.txt"):
        (tmp_path / name).write_text(name)
    old = folder_fingerprint(tmp_path, ("*.safetensors", "*.json"))
    assert list(old) == ["model.safetensors", "preprocessor_config.json"]
    (tmp_path / "preprocessor_config.json").write_text("other")
    assert file_differences(old, folder_fingerprint(tmp_path, ("*.safetensors", "*.json"))) == [
        "preprocessor_config.json differs"
    ]
