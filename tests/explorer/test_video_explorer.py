"""The explorer of a video: what is read in which frame, how a moved box is written, runs on clips, and their page."""

import io
import json
import re
import shutil
from base64 import b64decode
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pr1kit.data.boxes import iou
from pr1kit.data.clips import make_clips
from pr1kit.data.sample import VIDEO_TASKS, Sample, Target
from pr1kit.explorer.export import export_explorer
from pr1kit.explorer.page import open_explorer
from pr1kit.explorer.readout import perfect_answer, read_out
from pr1kit.explorer.rewrite import rewrite
from pr1kit.explorer.widget import RewardExplorer
from pr1kit.explorer.wire import scene_of_page
from pr1kit.rewards.groups import group_advantages
from pr1kit.rewards.notations import read_tracks
from pr1kit.rewards.score import score
from pr1kit.rewards.tasks import get_task
from pr1kit.rollouts.probes import FILE, probe_row

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WALK = [[10 + 2 * at, 10, 30 + 2 * at, 30] for at in range(4)]  # one box in each of four frames


def walk(**options) -> Sample:
    frames = [Image.new("RGB", (64, 48), (60 * at, 90, 200)) for at in range(4)]
    target = Target(tracks=[{"boxes": [*WALK[:3], None], "label": "cat"}], image_size=(64, 48))
    return Sample(
        None, "tracking", "the cat", replace(target, **options), "walk", frames=frames, times=(0, 0.5, 1, 1.5)
    )


def edited(explorer: RewardExplorer, changes: dict, new=()) -> str:
    """The text once the page has sent its items, those numbered in `changes` with other values, or gone (None)."""
    items = [{**item, "place": i} for i, item in enumerate(explorer.readout["items"]) if not item["fault"]]
    items = [{**item, "values": changes.get(item["place"], item["values"])} for item in items]
    items = [item for item in items if item["values"] is not None] + [{**each, "place": None} for each in new]
    explorer._receive(explorer, {"action": "items", "items": items, "asked": "me"}, None)
    assert explorer.readout["error"] == ""
    return explorer.text


@pytest.mark.parametrize("task", VIDEO_TASKS)
def test_the_readout_is_what_score_pays(task):
    clip = make_clips(task, 1, 3)[0]
    explorer = RewardExplorer(clip)
    assert explorer.readout["results"][0]["total"] == 1
    assert (explorer.readout["tasks"], explorer.readout["recipes"]) == (list(VIDEO_TASKS), ["kit"])
    texts = (
        "",
        "None",
        "Frame 2:[1,1,30,40];Frame 99:[1,2,3,4]",
        "Frame 2-5",
        "red, circle",
        "<think>Frame 1",
        "Frame 1:[" * 9000,
    )
    for text in texts:
        explorer.text = text
        (shown,) = explorer.readout["results"]
        paid = score(task, text, clip.target)
        assert (shown["total"], shown["matches"]) == (paid.total, [list(pair) for pair in paid.matches])
        assert {part["name"]: part["value"] for part in shown["parts"]} == {
            name: paid.parts.get(name, 0.0) for name in get_task(task).PARTS["kit"]
        }
        json.dumps(explorer.readout, allow_nan=False)


def test_each_frame_has_its_truth_its_box_and_their_overlap():
    explorer = RewardExplorer(walk(), "Frame 1:[10,10,30,30];Frame 2:[17,10,37,30];Frame 4:[1,1,9,9];Frame 5:[1,1,9,9]")
    assert [[each["values"] for each in there] for there in explorer.scene["objects"]] == [
        [box] for box in WALK[:3]
    ] + [[]]
    assert [(item["at"], item["prediction"], item["fault"]) for item in explorer.readout["items"]] == [
        (0, 0, ""), (1, 0, ""), (3, 0, ""), (4, 0, "the video has 4 frames"),
    ]  # fmt: skip
    second = float(iou(np.array([[17, 10, 37, 30.0]]), np.array([WALK[1]], float))[0, 0])  # 15 / 25
    (shown,) = explorer.readout["results"]
    assert second == pytest.approx(0.6)
    assert shown["frames"] == [[[0, 0, 1.0]], [[0, 0, pytest.approx(second)]], [], []]
    assert shown["shares"] == [1.0, pytest.approx(second), 0.0, 0.0]
    assert explorer.readout["overlap"] == [[pytest.approx((1 + second) / 3, abs=1e-4)]]
    assert shown["total"] == pytest.approx((1 + second) / 5)  # five frames are true or answered


def test_two_tracks_are_told_apart_in_every_frame():
    two = walk(tracks=[{"boxes": [*WALK[:3], None]}, {"boxes": [[40, 5, 50, 15]] * 4}])
    explorer = RewardExplorer(two, perfect_answer(two))
    assert explorer.readout["results"][0]["frames"] == [[[0, 0, 1.0], [1, 1, 1.0]]] * 3 + [[[1, 1, 1.0]]]
    moved = edited(explorer, {3: [41, 5, 51, 15]})
    assert moved == perfect_answer(two).replace("Frame 1:[40,5,50,15]", "Frame 1:[41,5,51,15]")
    longer = edited(explorer, {}, [{"values": [16, 10, 36, 30], "label": "", "at": 3}])  # only the first track has none
    assert longer == moved.replace("Frame 3:[14,10,34,30]", "Frame 3:[14,10,34,30];Frame 4:[16,10,36,30]")
    third = edited(explorer, {}, [{"values": [1, 1, 5, 5], "label": "a dog", "at": 3}])
    assert third == longer + "Track3: <a dog><Id3>Frame 4:[1,1,5,5]</Id3>"
    assert [step.owner for step in read_tracks(third)] == [0] * 4 + [1] * 4 + [2]


@pytest.mark.parametrize(
    ("text", "frame", "expected"),
    [
        ("Frame 1:[10,10,30,30];Frame 2:[9,9,20,20]", "pixel", "Frame 1:[10,10,30,30];Frame 2:[16,12,40,36]"),
        ("<think>frame 2?</think>So frame 1 : (10,10,30,30), FRAME 2:[9, 9, 20, 20] ok", "pixel",
         "<think>frame 2?</think>So frame 1 : (10,10,30,30), Frame 2:[16,12,40,36] ok"),
        ("Frame 1:[333,208,469,625];Frame 2:[9,9,20,20]", "norm1000",
         "Frame 1:[333,208,469,625];Frame 2:[250,250,625,750]"),
        ("Frame 1:[9,9,1,1];Frame 2:[9,9,20,20];Frame 3:[1", "pixel",
         "Frame 1:[9,9,1,1];Frame 2:[16,12,40,36];Frame 3:[1"),
    ],
    ids=["plain", "words", "norm1000", "faults"],
)  # fmt: skip
def test_dragging_the_box_of_a_frame_writes_that_frame_only(text, frame, expected):
    explorer = RewardExplorer(walk(), text, frame=frame)
    place = next(i for i, item in enumerate(explorer.readout["items"]) if item["at"] == 1)
    assert edited(explorer, {place: [16, 12, 40, 36]}) == expected


def test_boxes_are_drawn_and_deleted_frame_by_frame():
    explorer = RewardExplorer(walk(), "None")
    box = {"values": [1, 2, 9, 8], "label": "the cat"}
    assert edited(explorer, {}, [{**box, "at": 2}]) == "Frame 3:[1,2,9,8]"
    assert edited(explorer, {}, [{**box, "at": 0}]) == "Frame 1:[1,2,9,8];Frame 3:[1,2,9,8]"
    assert edited(explorer, {}, [{**box, "at": 1}]) == "Frame 1:[1,2,9,8];Frame 2:[1,2,9,8];Frame 3:[1,2,9,8]"
    assert edited(explorer, {0: None}) == "Frame 2:[1,2,9,8];Frame 3:[1,2,9,8]"
    assert edited(explorer, {1: None}) == "Frame 2:[1,2,9,8]"
    assert edited(explorer, {0: None}) == "None"
    explorer.undo()
    assert explorer.text == "Frame 2:[1,2,9,8]"
    for wrong in (4, -1, None, "1"):
        explorer._receive(
            explorer, {"action": "items", "items": [{**box, "place": None, "at": wrong}], "asked": "me"}, None
        )
        assert "stands in a frame of the video" in explorer.readout["error"]
    assert explorer.text == "Frame 2:[1,2,9,8]"


steps = st.lists(st.sampled_from(["Frame 1:[1,1,9,9]", "frame 2: (3,3,8,8)", "Frame 3:[9,9,1,1]", "Frame 4:[2,2,5,5]",
                                  "</Id1>Track2: <a dog><Id2>", " so ", "Frame 1:[1,2"]), max_size=9)  # fmt: skip


@given(steps, st.sampled_from([";", ", ", "\n", ""]), st.data())
def test_what_is_not_touched_stays_and_what_goes_is_gone(pieces, between, data):
    def read(text):
        items = read_out(text, target, task="tracking")["items"]
        return [{**item, "place": i} for i, item in enumerate(items) if not item["fault"]]

    target, text = walk().target, between.join(pieces)
    items = read(text)
    if items:
        assert rewrite(text, items, target, task="tracking") == text
        del items[data.draw(st.integers(0, len(items) - 1))]
        said, left = (
            Counter((item["at"], *item["values"]) for item in each)
            for each in (items, read(rewrite(text, items, target, task="tracking")))
        )
        assert said <= left
        assert left.total() <= said.total() + 1  # a frame given twice comes to light


def write_run(folder):
    """Rollouts and probes on clips: three steps, two clips, more and more of the track."""
    folder.mkdir(parents=True)
    rollouts, probes = [], []
    for step in (0, 1, 2):
        for clip in make_clips("tracking", 2, 4):
            track = clip.target.tracks[0].to_dict()["boxes"]
            answers = [
                {"tracks": [{"boxes": [box if at <= step + k else None for at, box in enumerate(track)]}]}
                for k in range(3)
            ]
            texts = [get_task("tracking").write_answer(answer) for answer in answers]
            rewards = [score("tracking", text, clip.target).total for text in texts]
            row = {"step": step, "id": clip.id, "prompt": get_task("tracking").prompt(clip.question)}
            row |= {
                "completions": texts,
                "rewards": rewards,
                "advantages": group_advantages(np.array(rewards)).tolist(),
            }
            rollouts.append(json.dumps(row) + "\n")
            probes.append(json.dumps(probe_row(step, clip, "pixel", texts[1])) + "\n")
    (folder / "rollouts.jsonl").write_text("".join(rollouts))
    (folder / FILE).write_text("".join(probes))
    (folder / "settings.json").write_text(json.dumps({"recipe": "kit", "steps": 2}))
    return folder


def test_a_run_on_clips_is_stepped_through(tmp_path):
    explorer = RewardExplorer.from_run(write_run(tmp_path / "run"))
    explorer.open_step(2, 1, 2)
    clip = make_clips("tracking", 2, 4)[1]
    assert (explorer.sample.id, len(explorer.scene["pictures"])) == (clip.id, 8)
    assert explorer.scene["times"] == list(clip.times)
    assert explorer.text.count("Frame ") == int(clip.target.tracks[0].seen[:5].sum())
    logged = [each["total"] for each in explorer.readout["results"][0]["group"]]
    assert logged == pytest.approx(explorer.run["rewards"])


@pytest.mark.parametrize("task", ["tracking", "when"])
def test_the_still_picture_is_a_strip(task, monkeypatch):
    clip = make_clips(task, 1, 3)[0]
    explorer = RewardExplorer(clip)
    monkeypatch.setenv("PR1KIT_STATIC", "1")
    data, _ = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" not in data
    with Image.open(io.BytesIO(explorer.picture())) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    blue = np.abs(pixels - (0, 114, 178)).max(-1) <= 12
    orange = np.abs(pixels - (230, 159, 0)).max(-1) <= 12
    for colour in (blue, orange):
        shown = colour.any(0).nonzero()[0]
        assert np.ptp(shown) > 300  # in frames far apart


def test_many_frames_are_sent_small():
    frames = [Image.new("RGB", (640, 360), (at, 0, 0)) for at in range(100)]
    sample = Sample(frames[0], "what", "which", Target(text="red"), "long", frames=frames, times=range(100))
    scene = scene_of_page(sample)
    assert (len(scene["pictures"]), scene["size"]) == (100, [640, 360])
    with Image.open(io.BytesIO(b64decode(scene["pictures"][9].partition(",")[2]))) as picture:
        assert picture.size == (400, 225)  # 16 megapixels for all


def test_what_cannot_be_shown_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"'walk' asks about a video \(tracking\) but has no frames: give it"):
        RewardExplorer(Sample(Image.new("RGB", (64, 48)), "tracking", "the cat", Target(), "walk"))
    with pytest.raises(ValueError, match=r"must have one size: frame 0 has \(64, 48\), frame 3 \(9, 9\)"):
        RewardExplorer(replace(walk(), frames=(*walk().frames[:3], Image.new("RGB", (9, 9)))))
    explorer = RewardExplorer(walk())
    short = json.dumps({"tracks": [{"boxes": WALK[:3]}]})
    explorer._receive(explorer, {"action": "truth", "truth": short, "asked": "me"}, None)
    assert "has 4 frames but tracks over 3" in explorer.readout["error"]
    assert explorer.sample.target.to_dict() == walk().target.to_dict()
    explorer.recipe = "paper"
    assert "Unknown recipe 'paper' of tracking" in explorer.readout["error"]
    Image.new("RGB", (64, 48)).save(tmp_path / "one.png")
    (tmp_path / "truth.json").write_text(short)
    with pytest.raises(ValueError, match=r"one\.png' has 1 frame: it needs two or more"):
        open_explorer(tmp_path / "one.png", tmp_path / "truth.json")


def test_a_video_with_its_tracks_is_opened(tmp_path):
    frames = walk().frames
    frames[0].save(tmp_path / "walk.gif", save_all=True, append_images=frames[1:], duration=500)
    (tmp_path / "truth.json").write_text(json.dumps({"tracks": [{"boxes": WALK}], "question": "the cat"}))
    explorer = open_explorer(tmp_path / "walk.gif", tmp_path / "truth.json")
    assert (explorer.task, explorer.scene["times"]) == ("tracking", [0, 0.5, 1, 1.5])
    assert explorer.readout["results"][0]["total"] == 1


def test_videos_of_ones_own_are_found_by_their_frames(tmp_path):
    files = [tmp_path / f"{at}.png" for at in range(4)]
    for file, frame in zip(files, walk().frames, strict=True):
        frame.save(file)
    own = replace(walk(), image=files[0], frames=tuple(files))
    (tmp_path / "run").mkdir()
    row = probe_row(0, own, "pixel", "Frame 1:[10,10,30,30]")
    (tmp_path / "run" / FILE).write_text(json.dumps(row) + "\n")
    page = export_explorer(tmp_path / "run", tmp_path / "site")
    (run,) = json.loads(re.search(r'id="runs">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)[1])
    assert (len(run["scenes"][0]["pictures"]), run["scenes"][0]["times"]) == (4, [0, 0.5, 1, 1.5])
    assert run["recipes"] == ["kit"]
    files[2].unlink()
    with pytest.raises(FileNotFoundError, match=r"Frame 2 of sample 'walk' does not exist"):
        export_explorer(tmp_path / "run", tmp_path / "site")


READ = """() => {
    const box = (node) => ["x", "y", "width", "height"].map((name) => Number(node.getAttribute(name)));
    const stage = document.querySelector(".pr1-left > .pr1-stage");
    return {
        said: [...stage.querySelectorAll(".pr1-box .pr1-line")].map(box),
        truth: [...stage.querySelectorAll(".pr1-truths > g > rect")].map(box),
        shares: [...document.querySelectorAll(".pr1-film button")].map((node) => node.dataset.value ?? null),
        total: Number(document.querySelector("[aria-label='reward kit']").dataset.value),
    };
}"""


def test_the_page_steps_through_steps_and_frames(tmp_path):
    if CHROMIUM is None:
        pytest.skip("no Chromium: the page is not tested in a browser (on Debian, as root: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[dev]'")
    address = export_explorer(write_run(tmp_path / "run"), tmp_path / "site").as_uri()
    clips = make_clips("tracking", 2, 4)
    rows = [json.loads(line) for line in (tmp_path / "run" / FILE).read_text().splitlines()]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page, wrong = browser.new_page(reduced_motion="reduce"), []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.goto(address)
        for number, row in enumerate(rows):
            step, k = divmod(number, 2)
            page.get_by_role("slider", name="training step").fill(str(step))
            page.locator(".pr1-strip button").nth(k).click()
            answer, track = get_task("tracking").parse(row["completion"]), clips[k].target.tracks[0]
            for at in (0, 3, 7):
                page.get_by_role("slider", name="frame", exact=True).fill(str(at))
                page.locator(".pr1-replay[aria-busy=false]").wait_for()
                shown, here = page.evaluate(READ), answer.boxes[answer.frames == at]
                for boxes, drawn in ((here, shown["said"]), (track.boxes[[at]][track.seen[[at]]], shown["truth"])):
                    assert drawn == [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes.tolist()]
                assert shown["total"] == score("tracking", row["completion"], clips[k].target).total
                assert [None if share is None else float(share) for share in shown["shares"]] == [
                    float(when in answer.frames) if seen else None for when, seen in enumerate(track.seen.tolist())
                ]
        browser.close()
    assert wrong == []
