"""`python -m pr1kit reflect`: turns over a folder of pictures and over annotated data; bad input is one sentence."""

import json
import os
from pathlib import Path

import pytest

from pr1kit import make_scenes
from pr1kit.__main__ import main

QUICK = ["--task", "counting", "--max-new-tokens", "12", "--turns", "2"]


@pytest.fixture(autouse=True)
def no_screen(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, sample in enumerate(make_scenes("counting", 3, seed=0)):
        sample.load_image().save(folder / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "dialogues.jsonl").read_text().splitlines()]


def test_turns_over_a_folder_of_pictures(pictures, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["reflect", "--images", str(pictures), "--question", "circle", "--out", str(out), *QUICK]) == 0
    said = capsys.readouterr()
    assert "broken.jpg" in said.err
    found = rows(out)
    assert [row["id"] for row in found] == ["0.png", "1.png", "2.png"]
    assert all([turn["score"] for turn in row["turns"]] == [None, None] for row in found)
    assert all("rewards" not in row for row in found), "nobody knows the truth"
    assert sorted(os.listdir(out / "filmstrips")) == ["0000.png", "0001.png", "0002.png"]
    assert "3 dialogues in" in said.out


def test_turns_over_annotated_data_and_with_a_policy_as_critic(tmp_path):
    known, learned = tmp_path / "known", tmp_path / "learned"
    flags = ["reflect", "--data", "scenes", "--limit", "2", *QUICK]
    assert main([*flags, "--out", str(known)]) == 0
    for row in rows(known):
        assert [turn["score"] for turn in row["turns"]] == pytest.approx(row["rewards"])
        assert row["turns"][0]["words"].startswith("A score of ")
    assert main([*flags, "--critic", "tiny", "--out", str(learned)]) == 0
    assert all(turn["reason"] for row in rows(learned) for turn in row["turns"]), "it never learned to criticise"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "Say what is asked with --task: one of grounding"),
        (["--task", "counting"], "Say which pictures with --images"),
        (["--task", "counting", "--images", "nowhere", "--question", "circle"], "There is no folder 'nowhere'."),
        (["--task", "counting", "--images", "."], "Say what counting is to find in the pictures with --question."),
        (["--task", "ocr", "--images", "empty"], "holds no picture that can be read"),
        (
            ["--task", "ocr", "--data", "scenes", "--limit", "1", "--turns", "0"],
            "at least one turn of one token, got turns=0",
        ),
        (["--task", "ocr", "--tells", "all"], "invalid choice: 'all'"),
        (["--pictures", "."], "Unknown setting 'pictures'"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["reflect", *flags]) == 2
    assert words in capsys.readouterr().err
