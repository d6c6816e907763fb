"""The reward explorer without a browser: what Python computes, writes, draws, reads from a log, and refuses."""

import io
import itertools
import json
import re
import struct
import subprocess
import sys
import zlib
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pr1kit.__main__ import main
from pr1kit.data.annotations import load_sample
from pr1kit.data.sample import IMAGE_TASKS, Sample, Target
from pr1kit.data.scenes import make_scenes
from pr1kit.explorer.page import open_explorer
from pr1kit.explorer.readout import perfect_answer
from pr1kit.explorer.rewrite import rewrite
from pr1kit.explorer.widget import RewardExplorer
from pr1kit.explorer.wire import count_in_utf16
from pr1kit.rewards.groups import group_advantages, pair_weights
from pr1kit.rewards.matching import MATCHINGS
from pr1kit.rewards.results import Answer
from pr1kit.rewards.score import RECIPES, score
from pr1kit.rewards.tasks import get_task

CAT = Target(boxes=[[10, 10, 30, 30], [40, 10, 60, 40]], labels=["cat", "cat"], image_size=(64, 64))
NOTATIONS = {
    "json": '```json\n[{"bbox_2d": [10, 10, 30, 30], "label": "cat"},'
    ' {"bbox_2d": [40, 12, 60, 40], "label": "cat"}]\n```',
    "tokens": "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(10,10),(30,30)<|box_end|>"
    "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(40,12),(60,40)<|box_end|>",
    "pairs": "cat(10,10),(30,30)cat(40,12),(60,40)",
    "lists": "[10, 10, 30, 30], [40, 12, 60, 40]",
}


def cats(**options) -> Sample:
    return Sample(Image.new("RGB", (64, 64), "white"), "counting", "cat", replace(CAT, **options))


def ask(explorer: RewardExplorer, action: str, **message) -> dict:
    """Send what the page would send; returns the readout that answers it."""
    explorer._receive(explorer, {"action": action, "asked": "me-1", **message}, None)
    assert explorer.readout["asked"] == "me-1"
    return explorer.readout


def moved(explorer: RewardExplorer, **changes) -> list[dict]:
    """The items as the page would send them, those numbered in `changes` ("_0", "_1") with other values."""
    items = [{**item, "place": place} for place, item in enumerate(explorer.readout["items"]) if not item["fault"]]
    return [{**item, "values": changes.get(f"_{k}", item["values"])} for k, item in enumerate(items)]


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_the_readout_is_what_score_pays_under_every_switch(task):
    (sample,) = make_scenes(task, 1, 5)
    good = perfect_answer(sample)
    bad = good[: len(good) * 2 // 3] if task == "ocr" else rewrite(
        good, [{"values": [1, 2, 20, 22], "label": "red circle", "place": None}], sample.target, task=task)  # fmt: skip
    explorer = RewardExplorer(sample)
    for text, recipe, matching in itertools.product((good, bad, "", "no"), RECIPES, MATCHINGS):
        explorer.text, explorer.recipe, explorer.matching = text, recipe, matching
        for drop in ([], [get_task(task).PARTS[recipe][-1]]):
            explorer.drop = drop
            (shown,) = explorer.readout["results"]
            paid = score(task, text, explorer.sample.target, recipe=recipe, matching=matching, drop=drop)
            assert shown["total"] == paid.total
            assert shown["matches"] == [list(pair) for pair in paid.matches]
            for part in shown["parts"]:
                assert part["value"] == paid.parts.get(part["name"], 0.0)
                assert part["dropped"] == (part["name"] in drop)
        json.dumps(explorer.readout, allow_nan=False)


def test_two_recipes_stand_side_by_side_and_a_part_is_dropped_where_there_is_one():
    explorer = RewardExplorer(cats(), NOTATIONS["pairs"], "kit", compare="paper", drop=["count"])
    kit, paper = explorer.readout["results"]
    assert (kit["recipe"], paper["recipe"]) == ("kit", "paper")
    assert kit["total"] == score("counting", NOTATIONS["pairs"], CAT, drop=["count"]).total
    assert paper["total"] == score("counting", NOTATIONS["pairs"], CAT, recipe="paper").total


@pytest.mark.parametrize(("notation", "text"), NOTATIONS.items())
def test_a_moved_box_is_written_in_the_notation_of_the_text_and_nothing_else_changes(notation, text):
    explorer = RewardExplorer(cats(), f"<think>two?</think> So: {text} done")
    before = explorer.text
    readout = ask(explorer, "items", items=moved(explorer, _1=[41, 13, 61, 41]), gesture="g")
    assert explorer.text == before.replace("40, 12, 60, 40", "41, 13, 61, 41").replace(
        "(40,12),(60,40)", "(41,13),(61,41)"
    ), notation
    assert [item["values"] for item in readout["items"]] == [[10, 10, 30, 30], [41, 13, 61, 41]]
    for k, item in enumerate(readout["items"]):
        shown = explorer.text[slice(*item["span"])]
        assert re.findall(r"\d+", shown.replace("bbox_2d", "")) == [str(int(v)) for v in item["values"]], k


def test_drawing_deleting_and_naming_boxes_writes_the_text():
    explorer = RewardExplorer(cats(), "None", frame="norm1000")
    drawn = {"values": [16, 16, 32, 32], "label": "cat", "place": None}
    ask(explorer, "items", items=[drawn])
    assert explorer.text.endswith("<|box_start|>(250,250),(500,500)<|box_end|>")
    ask(explorer, "items", items=[{**drawn, "label": "dog", "place": 0}])
    assert "<|object_ref_start|>dog<|object_ref_end|>" in explorer.text
    readout = ask(explorer, "items", items=[])
    assert explorer.text == "None"
    assert readout["items"] == []
    assert readout["results"][0]["total"] == 0


def test_what_could_not_be_read_stays_as_it_was_written_and_says_why_where_it_stands():
    text = "cat(10,10),(30,30)cat(60,12),(40,40)"
    explorer = RewardExplorer(cats(), text)
    good, wrong = explorer.readout["items"]
    assert (good["fault"], wrong["fault"]) == ("", "swapped corners")
    assert text[slice(*wrong["span"])] == "cat(60,12),(40,40)"
    ask(explorer, "items", items=moved(explorer, _0=[11, 10, 31, 30]))
    assert explorer.text == "cat(11,10),(31,30)cat(60,12),(40,40)"
    explorer.text = "well <think>cat(1,2),(3,4)"
    assert explorer.readout["reason"] == "the thought is not closed"
    assert explorer.text[slice(*explorer.readout["region"])] == "<think>cat(1,2),(3,4)"


def test_spans_count_as_javascript_counts():
    explorer = RewardExplorer(cats(), "🐈🐈(10,10),(30,30)")
    (item,) = explorer.readout["items"]
    units = explorer.text.encode("utf-16-le")
    assert units[2 * item["span"][0] : 2 * item["span"][1]].decode("utf-16-le") == "🐈🐈(10,10),(30,30)"


@given(st.text(alphabet="ab\\\uffff🐈𝄞", max_size=12), st.data())
def test_spans_are_counted_in_utf16_units(text, data):
    at = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2)))
    seen = {"region": at, "items": [{"span": at}]}
    counted = count_in_utf16(text, seen)
    assert counted["region"] == [len(text[:each].encode("utf-16-le")) // 2 for each in at]
    assert counted["items"][0]["span"] == counted["region"]
    assert (counted is seen) == (len(text.encode("utf-16-le")) == 2 * len(text))  # counted again only where it matters


def test_a_drag_of_thirty_moves_is_one_step_for_undo():
    explorer = RewardExplorer(cats(), NOTATIONS["pairs"])
    start, totals = explorer.text, set()
    items = moved(explorer)
    for x in range(1, 31):
        items[0] = {**items[0], "values": [10 + x, 10, 30 + x, 30]}
        readout = ask(explorer, "items", items=items, gesture="drag")
        assert readout["results"][0]["total"] == score("counting", explorer.text, CAT).total
        totals.add(readout["results"][0]["total"])
    assert len(totals) > 10
    assert readout["undo"] == 1
    end = explorer.text
    readout = ask(explorer, "undo")
    assert explorer.text == start
    assert (readout["undo"], readout["redo"]) == (0, 1)
    ask(explorer, "redo")
    assert explorer.text == end
    explorer.text = "None"
    explorer.undo()
    assert explorer.text == end


def test_the_advantage_is_that_of_training_in_the_group():
    texts = [NOTATIONS["pairs"], "None", "cat(10,10),(30,30)", "cat(10,10),(30,30)cat(0,0),(9,9)"]
    explorer = RewardExplorer(cats(), texts[0], group=texts)
    explorer.member = 2
    explorer.text = "cat(12,10),(30,30)"
    rewards = [score("counting", text, CAT).total for text in [*texts[:2], explorer.text, texts[3]]]
    (result,) = explorer.readout["results"]
    assert [each["total"] for each in result["group"]] == rewards
    assert result["advantage"] == pytest.approx(group_advantages(np.array(rewards))[2], abs=1e-12)
    assert np.array(result["pair_weights"]) == pytest.approx(pair_weights(rewards), abs=1e-4)
    assert sum(each["advantage"] for each in result["group"]) == pytest.approx(0, abs=1e-9)
    given = RewardExplorer(cats(), texts[0], group=[0.25, 0.5]).readout["results"][0]
    assert given["advantage"] == pytest.approx(group_advantages(np.array([0.25, 0.5, given["total"]]))[2])


def test_answers_join_a_group_and_are_visited():
    explorer = RewardExplorer(cats(), NOTATIONS["pairs"])
    assert explorer.readout["results"][0]["advantage"] is None
    ask(explorer, "join")
    ask(explorer, "text", text="None")
    readout = ask(explorer, "join")
    assert explorer.group == [NOTATIONS["pairs"], "None"]
    assert readout["results"][0]["place"] == 1
    ask(explorer, "member", member=0)
    assert explorer.text == NOTATIONS["pairs"]
    assert "no number 7" in ask(explorer, "member", member=7)["error"]
    assert ask(explorer, "leave")["results"][0]["advantage"] is None


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script><img src=x onerror=alert(1)>", "(" * 100_000, '{"bbox_2d": [' * 8_000, "[1,2," * 20_000,
     "cat(1,1),(2,2)" * 7_000, "\x00\ufffe\u202e" * 100, "<think>" * 10_000, "1e999,(nan,inf),(nan,inf)"],
    ids=["markup", "brackets", "json", "lists", "7,000 boxes", "controls", "thoughts", "numbers"],
)  # fmt: skip
@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_hostile_text_is_data(task, text):
    (sample,) = make_scenes(task, 1)
    explorer = RewardExplorer(sample)
    readout = ask(explorer, "text", text=text)
    assert readout["error"] == ""
    assert readout["text"] == text
    assert 0 <= readout["results"][0]["total"] <= 1
    json.dumps(readout, allow_nan=False)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ({"action": "truth", "truth": "[1, 2"}, "The annotations are no JSON"),
        ({"action": "truth", "truth": "[1, 2]"}, "must be an object"),
        (
            {"action": "truth", "truth": '{"boks": []}'},
            "need boxes, points or text (of a video: tracks or spans), got 'boks'",
        ),
        ({"action": "truth", "truth": '{"boxes": [[1, 2, 3]]}'}, "shape (N, 4)"),
        ({"action": "truth", "truth": '{"boxes": [[1, 2, 3, 400]]}'}, "outside its image of 64x64"),
        ({"action": "truth", "truth": '{"boxes": ' + "[" * 5000}, "The annotations are no JSON"),
        ({"action": "text", "text": 7}, "A completion is text"),
        ({"action": "text", "text": "x" * 1_000_001}, "the explorer takes 1,000,000"),
        ({"action": "items", "items": [{"values": [1, 2, 3], "label": ""}]}, "A box is four numbers"),
        ({"action": "items", "items": [{"values": [1, 2, 3, float("nan")]}]}, "finite numbers"),
        ({"action": "items"}, "cannot be read"),
        ({"action": "items", "items": 7}, "cannot be read"),
        ({"action": "set", "recipe": "mine"}, "expected any of"),
        ({"action": "set", "drop": ["iou"]}, "No reward has a part 'iou'"),
        ({"action": "step", "step": 3}, "no run to step through"),
        ({"action": "again"}, "no action 'again'"),
        ({"action": "format the disk"}, "no action 'format the disk'"),
        ({}, "cannot be read"),
        ([1], "cannot be read"),
    ],
)
def test_a_bad_message_is_one_sentence_and_changes_nothing(message, sentence):
    explorer = RewardExplorer(cats(), NOTATIONS["pairs"])
    before = {name: value for name, value in explorer.readout.items() if name not in ("error", "asked")}
    explorer._receive(explorer, {**message, "asked": "x"} if isinstance(message, dict) else message, None)
    assert sentence in explorer.readout["error"]
    assert "\n" not in explorer.readout["error"]
    assert {name: value for name, value in explorer.readout.items() if name not in ("error", "asked")} == before
    assert ask(explorer, "text", text="None")["error"] == ""
    assert explorer.text == "None"


def test_the_truth_can_be_written_anew_and_a_task_that_lacks_its_truth_says_so():
    explorer = RewardExplorer(cats(labels=()), "cat(0,0),(8,8)")
    readout = ask(explorer, "truth", truth='{"boxes": [[0, 0, 8, 8]]}')
    assert readout["results"][0]["total"] == 1
    assert explorer.scene["truth"]["boxes"] == [[0, 0, 8, 8]]
    assert explorer.sample.target.image_size == (64, 64)
    readout = ask(explorer, "set", task="detection")
    assert readout["results"] == []
    assert "label for each true box" in readout["error"]
    assert explorer.picture().startswith(b"\x89PNG")
    assert ask(explorer, "set", task="counting")["results"][0]["total"] == 1


def test_bad_settings_raise_one_sentence():
    with pytest.raises(FileNotFoundError, match=r"no/such\.png"):
        RewardExplorer(replace(cats(), image="no/such.png"))
    for wrong in ({"recipe": "mine"}, {"matching": "best"}, {"compare": "x"}, {"drop": ["iou"]}, {"group": [None]}):
        with pytest.raises(Exception, match=r"expected|No reward has a part") as caught:
            RewardExplorer(cats(), **wrong)
        assert type(caught.value).__name__ in ("TraitError", "ValueError")


def test_traits_link_as_those_of_any_widget():
    import ipywidgets
    import traitlets

    one, other = RewardExplorer(cats()), RewardExplorer(cats(), "None")
    traitlets.link((one, "text"), (other, "text"))
    one.text = "cat(1,1),(2,2)"
    assert other.text == one.text
    assert other.readout["items"][0]["values"] == [1, 1, 2, 2]
    assert isinstance(one, ipywidgets.DOMWidget)
    assert ipywidgets.VBox([one, other]).children == (one, other)


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_the_cell_carries_a_picture_and_words(task, monkeypatch):
    (sample,) = make_scenes(task, 1)
    explorer = RewardExplorer(sample, compare="paper", group=[0.0, 0.5])
    data, _ = explorer._repr_mimebundle_()
    with Image.open(io.BytesIO(b64decode(data["image/png"]))) as picture:
        assert picture.width > 600
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    assert (
        data["text/plain"]
        == f"RewardExplorer({task}: {sample.question!r}, kit 1.000, paper {4 if task == 'detection' else 2}.000)"
    )
    assert "application/vnd.jupyter.widget-view+json" in data
    monkeypatch.setenv("PR1KIT_STATIC", "1")
    assert "application/vnd.jupyter.widget-view+json" not in explorer._repr_mimebundle_()[0]


def test_the_picture_shows_what_is_missed_in_the_house_colours():
    seen = RewardExplorer(cats(), "cat(10,10),(30,30)").picture()
    with Image.open(io.BytesIO(seen)) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    for colour in ((0, 114, 178), (230, 159, 0)):
        assert (np.abs(pixels - colour).max(-1) <= 12).sum() > 200, colour


def test_the_page_asks_no_network_and_makes_no_markup_of_text():
    code = RewardExplorer._esm + RewardExplorer._css
    assert set(re.findall(r"https?://[\w./]+", code)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|fetch\(|import ", code
    )


def test_without_torch():
    code = "import sys, pr1kit.explorer.widget, pr1kit.explorer.page; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# Rollouts of a run


def test_stepping_through_a_run(tmp_path, write_run):
    rows = write_run(tmp_path / "run", [1, 2, 5])
    explorer = RewardExplorer.from_run(tmp_path)  # the one run below a folder
    assert explorer.recipe == "released"
    assert explorer.run["name"] == "run"
    assert explorer.run["last"] == 5
    ask(explorer, "step", step=2, group=1)
    row = rows[3]
    assert explorer.sample.id == row["id"]
    assert explorer.run["rewards"] == row["rewards"]
    (result,) = explorer.readout["results"]
    assert [each["total"] for each in result["group"]] == pytest.approx(row["rewards"])
    assert [each["advantage"] for each in result["group"]] == pytest.approx(row["advantages"], abs=1e-4)
    ask(explorer, "member", member=3)
    assert explorer.text == row["completions"][3]
    ask(explorer, "step", step=99)
    assert explorer.run["step"] == 5
    assert explorer.readout["undo"] == 0
    ask(explorer, "again")
    assert explorer.run["again"] == [1, 2, 5]
    ask(explorer, "step", step=1, group=rows[1]["id"])
    assert explorer.sample.id == rows[1]["id"]
    assert "again" not in explorer.run
    with pytest.raises(ValueError, match=r"Step 2 has no group 'mine': its first is 'scenes/"):
        explorer.open_step(2, "mine")
    assert explorer.run["step"] == 1


def test_a_run_on_pictures_of_ones_own_needs_its_samples(tmp_path, write_run):
    rows = write_run(tmp_path, [1])
    for row in rows:
        row["id"] = "photo-7"
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="'photo-7' is no synthetic scene: pass samples="):
        RewardExplorer.from_run(tmp_path)
    explorer = RewardExplorer.from_run(tmp_path, [replace(cats(), id="photo-7")])
    assert explorer.sample.question == "cat"
    assert len(explorer.group) == 4
    rows[0]["id"] = "scenes/counting/train/0/0"
    rows[0]["prompt"] = "Output all the bounding boxes of the elephant"
    (tmp_path / "rollouts.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(ValueError, match="drawn with other settings"):
        RewardExplorer.from_run(tmp_path)


# From the command line


def test_a_picture_with_annotations_is_a_sample(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    truth = tmp_path / "a.json"
    for value, task in (
        ({"boxes": [[1, 2, 3, 4]]}, "grounding"),
        ({"boxes": [[1, 2, 3, 4]] * 2, "question": "cat"}, "counting"),
        ({"points": [[1, 2]]}, "counting"),
        ({"boxes": [[1, 2, 3, 4]], "labels": ["cat"]}, "detection"),
        ({"text": "STOP"}, "ocr"),
        ({"boxes": [[1, 2, 3, 4]], "task": "counting"}, "counting"),
    ):
        truth.write_text(json.dumps(value))
        sample = load_sample(tmp_path / "a.png", truth)
        assert sample.task == task
        assert sample.target.image_size == (40, 30)
        assert sample.question == value.get("question", "")
        assert open_explorer(tmp_path / "a.png", truth).readout["results"][0]["total"] == 1


def test_what_cannot_be_opened_is_one_sentence(tmp_path, capsys):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("no picture")
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)  # 3.6 gigapixels, in 57 bytes
    chunks = (header, b"IDAT", b"IEND")
    packed = (struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks)
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    for name, written in (("ok", '{"text": "A"}'), ("broken", "{"), ("far", '{"boxes": [[0, 0, 99, 9]]}')):
        (tmp_path / f"{name}.json").write_text(written)
    for places, sentence in (
        (["nowhere"], "has no rollouts.jsonl: no run"),
        (["a.png"], "needs its annotations"),
        (["a.png", "nowhere.json"], "does not exist"),
        (["nowhere.png", "ok.json"], "does not exist"),
        (["text.png", "ok.json"], "text.png"),
        (["bomb.png", "ok.json"], "bomb.png"),
        (["a.png", "broken.json"], "broken.json': The annotations are no JSON"),
        (["a.png", "far.json"], "far.json': Target box [0.0, 0.0, 99.0, 9.0] lies outside"),
    ):
        assert main(["explore", *(str(tmp_path / place) for place in places)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("pr1kit: ")
        assert said.count("\n") == 1
        assert sentence in said


# Other results


def test_a_sample_is_one_line_and_an_answer_a_table():
    (scene,) = make_scenes("counting", 1, 3)
    assert repr(scene) == (
        f"Sample(counting {scene.question!r}, image 64x64, truth '{len(scene.target.boxes)} objects', id {scene.id!r})"
    )
    assert len(repr(Sample("x/y.png", "ocr", "", Target(text="A" * 5000)))) < 200
    answer = get_task("detection").parse('[{"bbox_2d": [1, 2, 3, 4], "label": "<b>"}, {"bbox_2d": [1]}]')
    shown = answer._repr_html_()
    assert "&lt;b&gt;" in shown
    assert "1, 2, 3, 4" in shown
    assert "1 of 2 items dropped" in shown
    assert "&lt;script&gt;" in Answer(text="<script>", format_score=1.0)._repr_html_()
    many = Answer(boxes=np.zeros((999, 4)), labels=("",) * 999)._repr_html_()
    assert "and 949 more" in many
    assert len(many) < 10_000
