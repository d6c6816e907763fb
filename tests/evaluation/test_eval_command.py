"""`python -m pr1kit eval`: every completion kept, none asked for twice, the same file from one process as from two."""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import pr1kit
from pr1kit.__main__ import main
from pr1kit.data.layouts.official import save_official
from pr1kit.data.load import load_dataset
from pr1kit.data.run_folder import RunFolder
from pr1kit.evaluation import command as eval_command
from pr1kit.evaluation.benchmarks import PROTOCOLS, REPORTED, RESULTS, paper_rows
from pr1kit.evaluation.completion_store import CompletionStore, completion_digests, read_completions
from pr1kit.evaluation.engines import make_engine
from pr1kit.evaluation.report import report, score_completions
from pr1kit.rewards.tasks import get_task

COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco"
BENCHMARKS = {
    "grounding": "refcoco_val",
    "counting": "pixmo_count_validation540_counting_problems_label",
    "ocr": "en_page_ocr",
    "detection": "coco_val2017",
}
N = 7


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """The official evaluation folder, with seven scenes a benchmark."""
    folder = tmp_path_factory.mktemp("official")
    for task, name in BENCHMARKS.items():
        save_official(pr1kit.make_scenes(task, N, split="test"), folder, name)
    return folder


def perfect(task: str) -> list[str]:
    scenes = pr1kit.make_scenes(task, N, split="test")
    return [get_task(task).write_answer(scene.target, label=scene.question) for scene in scenes]


def keep(path: Path, name: str, texts, frame="pixel") -> Path:
    rows = [{"id": f"{name}/{i}", "completion": text, "frame": frame} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def file_of(official: Path, task: str) -> tuple[str, str]:
    (path,) = (official / "jsons" / task).iterdir()
    pictures = {"grounding": "coco", "counting": "", "ocr": "ocr/en_pdf_png", "detection": "coco/val2017"}
    return str(path), str(official / "images" / pictures[task])


def samples_of(official: Path, task: str):
    path, images = file_of(official, task)
    return load_dataset(path, images=images)


@pytest.mark.parametrize("task", BENCHMARKS)
def test_what_is_saved_in_an_official_layout_is_read_back(official, task):
    scenes, samples = pr1kit.make_scenes(task, N, split="test"), samples_of(official, task)
    for scene, sample in zip(scenes, samples, strict=True):
        assert np.array_equal(np.asarray(scene.load_image()), np.asarray(sample.load_image()))
        assert (sample.task, sample.target.text) == (task, scene.target.text)
        if task == "counting":
            assert sample.target.count == len(scene.target.boxes)
        else:
            slack = 0.033 if task == "grounding" else 0  # half a thousandth of 64 pixels
            assert np.abs(sample.target.boxes - scene.target.boxes).max(initial=0) <= slack
        if task == "detection":
            assert sample.target.labels == scene.target.labels


@pytest.mark.parametrize("task", BENCHMARKS)
def test_perfect_completions_score_perfectly_without_a_model(official, task, tmp_path, capsys):
    path, images = file_of(official, task)
    name = Path(path).stem
    ids = range(1, N + 1) if task == "detection" else range(N)
    rows = [{"id": f"{name}/{i}", "completion": c, "frame": "pixel"} for i, c in zip(ids, perfect(task), strict=True)]
    (tmp_path / "kept.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["eval", "--data", path, "--images", images, "--completions", str(tmp_path / "kept.jsonl")]
    assert main([*command, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if line.startswith(f"| {name}"))
    values = {"ocr": "0.0 [0.0, 35.4]", "detection": "100.0 [100.0, 100.0]"}  # seven right of seven are no certainty
    value = values.get(task, "100.0 [64.6, 100.0]")
    assert line.split("|")[3].strip() == value
    assert "completions of unknown origin" in shown
    result = json.loads((tmp_path / f"{name}.results.json").read_text())
    assert (result["samples"], result["task"]) == (N, task)
    assert "NaN" not in (tmp_path / f"{name}.results.json").read_text()
    assert shown.startswith((tmp_path / "report.md").read_text())


def test_the_papers_numbers_stand_under_the_row_they_belong_to(official, tmp_path):
    samples = samples_of(official, "grounding")
    texts = perfect("grounding")[:4] + ["None"] * 3
    rows = read_completions(keep(tmp_path / "kept.jsonl", "refcoco_val", texts))
    lines = report([score_completions(samples, rows, "refcoco_val")]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == ["benchmark", "samples", "Acc@.5", "Acc@.75", "Acc@.95", "Avg"]
    assert cells[2][:2] == ["refcoco_val", "7"]
    assert cells[2][2].startswith("57.1 [")
    assert cells[3] == ["*paper: Perception-R1, Table 1*", "", "89.1", "", "", ""]
    assert cells[4] == ["*paper: Qwen2-VL-2B-Instruct, Table 1*", "", "86.8", "", "", ""]


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        ("refcocop_val", "grounding", 81.7),
        ("refcoco+_val", "grounding", 81.7),
        ("refcocog_val", "grounding", 85.7),
        ("refcoco_testA", "grounding", None),
        ("pixmo_count_test540_counting_problems_label", "counting", 75.6),
        ("pixmo_count_validation540_counting_problems_label", "counting", 78.1),
        ("instances_val2017", "detection", 31.9),
        ("instances_val2017", "counting", None),
        ("en_page_ocr", "ocr", 98.2),
        ("cn_page_ocr", "ocr", None),
    ],
)
def test_a_benchmark_is_known_by_its_files_name(name, task, expected):
    rows = paper_rows(name, task)
    assert (next(iter(rows[0][1].values())) if rows else None) == expected


def test_the_papers_numbers_are_of_metrics_that_are_measured():
    for _, table, models in RESULTS.values():
        assert table.startswith("Table ")
        for values in models.values():
            assert any(values.keys() <= columns.keys() for columns in REPORTED.values())


def test_scoring_needs_neither_torch_nor_a_model(official, tmp_path):
    path, images = file_of(official, "grounding")
    keep(tmp_path / "kept.jsonl", "refcoco_val", perfect("grounding"))
    command = ["eval", "--data", path, "--images", images, "--completions", str(tmp_path / "kept.jsonl")]
    code = f"""import sys
from pr1kit.__main__ import main
code = main({[*command, "--out", str(tmp_path / "out")]!r})
sys.exit(code or 3 * ("torch" in sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "100.0 [64.6, 100.0]" in done.stdout


def test_ap_of_completions_is_pycocotools_ap_of_their_boxes(tmp_path):
    """Other people's detections on real annotations, crowds and areas included, written as completions."""
    if not COCO.is_dir():
        pytest.skip("no shared/data/coco beside the repository")
    from PIL import Image
    from pycocotools.coco import COCO as Coco
    from pycocotools.cocoeval import COCOeval

    path = COCO / "instances_val2014_100.json"
    truth, found = json.loads(path.read_text()), defaultdict(list)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    detections = json.loads((COCO / "instances_val2014_fakebbox100_results.json").read_text())
    for row in detections:
        x, y, w, h = row["bbox"]
        found[row["image_id"]].append({"bbox_2d": [x, y, x + w, y + h], "label": names[row["category_id"]]})
    for image in truth["images"]:
        Image.new("L", (image["width"], image["height"])).save(tmp_path / image["file_name"], quality=1)
    samples = load_dataset(path, images=tmp_path, verify=False)
    assert (len(samples), len(samples.coco["annotations"])) == (100, 839)
    rows = {
        sample.id: {"id": sample.id, "completion": json.dumps(found[int(sample.id.split("/")[1])]), "frame": "pixel"}
        for sample in samples
    }
    metrics = score_completions(samples, rows, "x").metrics
    order = [
        row | {"score": 1.0} for image in samples.coco["images"] for row in detections if row["image_id"] == image["id"]
    ]
    expected = COCOeval(Coco(str(path)), Coco(str(path)).loadRes(order), "bbox")
    expected.evaluate()
    expected.accumulate()
    expected.summarize()
    assert list(metrics.values()) == pytest.approx(expected.stats.tolist(), abs=1e-9)
    low, high = metrics.interval("ap")
    assert low < metrics["ap"] < high


@pytest.mark.parametrize(("kind", "frame"), [("qwen2_vl", "norm1000"), ("qwen2_5_vl", (64, 64))])
def test_each_class_of_model_says_how_its_numbers_are_read(official, small_policies, kind, frame, monkeypatch):
    """And running out of memory is one sentence that says what to lower."""
    import torch

    import pr1kit.rollouts.generate

    samples, protocol = samples_of(official, "grounding")[:1], PROTOCOLS["paper"]["grounding"]
    engine = make_engine("hf", small_policies[kind])
    (row,) = engine(samples, replace(protocol, max_new_tokens=2))
    assert (row["id"], row["frame"]) == ("refcoco_val/0", frame)

    def too_much(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(pr1kit.rollouts.generate, "generate_completions", too_much)
    engine = make_engine("hf", small_policies[kind])
    with pytest.raises(ValueError, match="does not hold 1 answers of 512 tokens: lower --batch-size first"):
        engine(samples, protocol)


class Answers:
    """An engine that answers `None`, remembers whom it answered, and may be interrupted."""

    def __init__(self, stop_after: int = 1000):
        self.asked, self.stop_after = [], stop_after

    def __call__(self, samples, protocol):
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.append([sample.id for sample in samples])
        return [{"id": s.id, "completion": f"None {s.question} é", "frame": (64, 64)} for s in samples]


MADE_BY = {"model": "m", "engine": "hf", "dtype": "auto", "task": "grounding", "weights": "w"}
MADE_BY["protocol"] = asdict(PROTOCOLS["paper"]["grounding"])


def ask(samples, folder, engine, batch_size=2, rank=0, processes=1):
    world = eval_command.World(rank, processes)
    store = CompletionStore(folder, "refcoco_val", rank, processes)
    return eval_command._ask(samples, store, MADE_BY, engine, batch_size, world)


def test_an_interrupted_run_goes_on_where_it_was(official, tmp_path):
    samples = samples_of(official, "grounding")
    ask(samples, tmp_path / "whole", Answers())
    first = Answers(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        ask(samples, tmp_path / "cut", first)
    (part,) = (tmp_path / "cut").glob("*.part-*")
    assert len(part.read_text().splitlines()) == 4
    part.write_bytes(part.read_bytes()[:-9])  # the machine went down while the fourth line was written
    second = Answers()
    rows = ask(samples, tmp_path / "cut", second)
    assert second.asked == [[f"refcoco_val/{i}" for i in batch] for batch in ([2, 3], [4, 5], [6])], (
        "whole batches again"
    )
    assert len(rows) == N
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {"refcoco_val.settings.json", "refcoco_val.jsonl"}
    assert (tmp_path / "cut/refcoco_val.jsonl").read_bytes() == (tmp_path / "whole/refcoco_val.jsonl").read_bytes()
    third = Answers()
    ask(samples, tmp_path / "cut", third)
    assert third.asked == []


def test_completions_of_another_question_picture_or_model_are_asked_again(official, tmp_path, monkeypatch, capsys):
    samples, first = samples_of(official, "grounding"), Answers()
    ask(samples, tmp_path, first)
    changed = [*samples]
    changed[1] = replace(samples[1], question="the other")
    changed[4] = replace(samples[4], image=samples[5].load_image())
    changed[5] = replace(samples[5], target=replace(samples[5].target, boxes=samples[5].target.boxes * 0))
    second = Answers()
    rows = ask(changed, tmp_path, second, batch_size=1)
    assert second.asked == [["refcoco_val/1"], ["refcoco_val/4"]]  # another truth needs no other completion
    assert "2 kept completions of refcoco_val (refcoco_val/1, …) are of another question" in capsys.readouterr().err
    assert rows["refcoco_val/1"]["completion"] == "None the other é"
    third = Answers()
    monkeypatch.setitem(MADE_BY, "weights", "other")
    ask(changed, tmp_path, third)
    assert sum(map(len, third.asked)) == N
    fourth = Answers()
    ask(changed, tmp_path, fourth)
    assert fourth.asked == []


def test_new_weights_in_a_models_folder_are_asked_again(official, small_policies, tmp_path, capsys):
    path, images = file_of(official, "ocr")
    shutil.copytree(small_policies["qwen2_5_vl"], tmp_path / "policy")
    command = ["eval", "--data", path, "--images", images, "--policy", str(tmp_path / "policy"), "--limit", "2"]
    command += ["--max-new-tokens", "4", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    capsys.readouterr()
    policy = pr1kit.load_policy(str(tmp_path / "policy"), verbose=False)
    policy.model.lm_head.weight.data += 1
    policy.model.save_pretrained(tmp_path / "policy")
    assert main(command) == 0
    assert "2 kept completions of en_page_ocr" in capsys.readouterr().err
    with RunFolder(tmp_path / "out").lock():
        assert main(command) == 2
    assert "is being written by process" in capsys.readouterr().err


def test_a_limit_does_not_throw_away_what_lies_beyond_it(official, tmp_path):
    samples = samples_of(official, "grounding")
    ask(samples, tmp_path, Answers())
    again = Answers()
    assert len(ask(samples[:3], tmp_path, again)) == N
    assert again.asked == []


def test_processes_share_the_batches_and_their_parts_join(official, tmp_path):
    """Four of five processes were cut off; the run goes on with two."""
    samples, one = samples_of(official, "grounding"), Answers()
    ask(samples, tmp_path / "one", one)
    digests = completion_digests(samples, MADE_BY)
    for rank in (3, 1):
        store = CompletionStore(tmp_path / "many", "refcoco_val", rank, 5)
        store.folder.mkdir(exist_ok=True)
        rows = one(samples[2 * rank : 2 * rank + 2], None)
        store.append([row | {"of": digests[row["id"]]} for row in rows])
    rest = Answers()
    ask(samples, tmp_path / "many", rest)
    assert rest.asked == [["refcoco_val/0", "refcoco_val/1"], ["refcoco_val/4", "refcoco_val/5"]]
    assert (tmp_path / "many/refcoco_val.jsonl").read_bytes() == (tmp_path / "one/refcoco_val.jsonl").read_bytes()


def test_two_processes_keep_the_same_file_as_one(official, small_policies, tmp_path, capsys):
    """`accelerate launch` with two processes on the CPU, through gloo; a real class with random weights."""
    path, images = file_of(official, "grounding")
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        *("--num_processes", "2", "--main_process_port", "0", "-m"),
    ]
    command = ["eval", "--data", path, "--images", images, "--model", small_policies["qwen2_5_vl"]]
    command += ["--batch-size", "2", "--max-new-tokens", "6", "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    done = subprocess.run(
        [sys.executable, *launch, "pr1kit", *command, str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        cwd=Path(pr1kit.__file__).parent.parent,
        timeout=600,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shown = [text[text.index("### ") :] for text in (capsys.readouterr().out, done.stdout)]
    for file in ("refcoco_val.jsonl", "refcoco_val.settings.json", "refcoco_val.results.json", "report.md"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    rows = read_completions(tmp_path / "two" / "refcoco_val.jsonl")
    assert len(rows) == N
    assert all(row["frame"] == (64, 64) for row in rows.values())
    assert "at most 6 tokens" in shown[0]
    assert shown[0] == shown[1], "one report, however many processes"


def test_the_tiny_policys_raw_completions_keep_their_box_tokens(official, tmp_path, capsys):
    """And they score as their stripped selves do; a repetition penalty is the protocol's, never the checkpoint's."""
    path, images = file_of(official, "counting")
    command = ["eval", "--data", path, "--images", images, "--max-new-tokens", "96", "--out", str(tmp_path)]
    assert main([*command, "--limit", "4"]) == 0
    rows = read_completions(tmp_path / f"{Path(path).stem}.jsonl").values()
    assert any("<|box_start|>" in row["completion"] for row in rows)
    assert not any("<|im_end|>" in row["completion"] or "<|endoftext|>" in row["completion"] for row in rows)
    policy = pr1kit.load_policy("tiny")
    samples = load_dataset(path, images=images, limit=4)
    plain = pr1kit.generate_completions(policy, samples, max_new_tokens=96, batch_size=4)
    for row, (text,) in zip(rows, plain, strict=True):
        kept, stripped = pr1kit.parse("counting", row["completion"]), pr1kit.parse("counting", text)
        assert kept.boxes.tolist() == stripped.boxes.tolist()
    policy.model.generation_config.repetition_penalty = 30.0
    same = pr1kit.generate_completions(
        policy, samples, max_new_tokens=96, batch_size=4
    )  # the checkpoint's is not taken
    penalty = {"repetition_penalty": 30.0}
    penalised = pr1kit.generate_completions(policy, samples, max_new_tokens=96, batch_size=4, **penalty)
    assert penalised != plain
    assert same == plain


def test_clips_are_evaluated_by_the_same_flags(tmp_path, capsys):
    command = ["eval", "--policy", "tiny", "--data", "scenes", "--task", "when", "--limit", "3", "--out", str(tmp_path)]
    assert main([*command, "--max-new-tokens", "6"]) == 0
    assert "scenes_when" in capsys.readouterr().out
    rows = read_completions(tmp_path / "scenes_when.jsonl")
    assert [name.split("/")[:3] for name in rows] == [["clips", "when", "test"]] * 3


def test_how_a_model_is_loaded_is_said_and_makes_another_run(official, small_policies, tmp_path, capsys):
    path, images = file_of(official, "ocr")
    command = ["eval", "--data", path, "--images", images, "--model", small_policies["qwen2_5_vl"], "--limit", "2"]
    command += ["--max-new-tokens", "4", "--out", str(tmp_path)]
    assert main([*command, "--max-pixels", "1024"]) == 0
    assert "images up to 1,024 pixels (4 tokens)" in capsys.readouterr().out
    made_by = json.loads((tmp_path / f"{Path(path).stem}.settings.json").read_text())
    assert made_by["max_pixels"] == 1024
    assert main(command) == 2
    assert "max_pixels" in capsys.readouterr().err


def test_the_official_folder_is_evaluated_at_once(official, tmp_path, monkeypatch, capsys):
    engine = Answers()
    monkeypatch.setattr(eval_command, "_engine", lambda *_: engine)
    assert main(["eval", "--data", str(official), "--out", str(tmp_path), "--protocol", "released"]) == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("### ")] == [
        "### Grounding: share of boxes with at least that IoU, %",
        "### Counting: share of images whose count is exact, %",
        "### OCR, %",
        "### Detection: COCO AP, %",
    ]
    assert "repetition penalty 1.05" in shown
    assert "Locate every item from the category list" in shown
    assert "31.9" in shown
    assert {path.stem for path in tmp_path.glob("*.jsonl")} == set(BENCHMARKS.values())
    assert len(list(tmp_path.glob("*.results.json"))) == 4
    assert main(["eval", "--data", str(official), "--frame", "percent"]) == 2
    assert "Unknown frame 'percent': choose pixel, norm1000 or" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["eval", "--help"])


def test_what_is_left_out_is_said_once_and_stands_in_the_report(official, tmp_path, capsys):
    path, images = file_of(official, "grounding")
    absent = {"image": "absent.png", "problem": "x", "normalized_solution": [1, 1, 9, 9]}
    rows = [*json.loads(Path(path).read_text()), absent]
    (tmp_path / "refcoco_val.json").write_text(json.dumps(rows))
    kept = keep(tmp_path / "kept.jsonl", "refcoco_val", perfect("grounding"))
    (tmp_path / "kept.settings.json").write_text("{}")
    data = ["eval", "--data", str(tmp_path / "refcoco_val.json"), "--images", images]
    assert main([*data, "--completions", str(kept), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("1 left out (refcoco_val/7: its image 'absent.png' is not in") == 1
    assert "1 left out (refcoco_val/7" in shown.out
    assert "completions of unknown origin" in shown.out
    (tmp_path / "kept.settings.json").write_text("[1]")
    assert main([*data, "--completions", str(kept), "--out", str(tmp_path / "out")]) == 0
    assert "completions of unknown origin" in capsys.readouterr().out
    (tmp_path / "kept.settings.json").write_text("{")
    assert main([*data, "--completions", str(kept), "--out", str(tmp_path / "out")]) == 2
    assert "kept.settings.json' is no JSON" in capsys.readouterr().err


def test_bad_input_is_one_sentence_and_loses_nothing(official, tmp_path, capsys):
    path, images = file_of(official, "grounding")
    data = ["eval", "--data", path, "--images", images]
    kept = keep(tmp_path / "kept.jsonl", "refcoco_val", perfect("grounding")[:5])
    keep(tmp_path / "other.jsonl", "refcoco_val", perfect("grounding"), frame=None)
    (tmp_path / "broken.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    (tmp_path / "latin.jsonl").write_bytes('{"id": "caf\u00e9"}\n'.encode("latin-1"))
    ask(samples_of(official, "grounding"), tmp_path / "out", Answers())
    before = (tmp_path / "out/refcoco_val.jsonl").read_bytes()
    capsys.readouterr()
    for options, message in (
        (["--completions", str(kept)], "2 of 7 samples of refcoco_val have no completion, 'refcoco_val/5' the first"),
        (["--completions", str(tmp_path / "other.jsonl")], "say --answer-frame pixel, norm1000 or WxH"),
        (["--completions", str(tmp_path / "broken.jsonl")], "Line 1 of"),
        (["--completions", str(tmp_path / "latin.jsonl")], "Line 1 of"),
        (["--completions", str(tmp_path / "absent.jsonl")], "There are no completions at"),
        (["--out", str(tmp_path / "out"), "--model", "tiny"], "completions with another model"),
        (["--model", str(tmp_path / "nothing")], "holds no config.json"),
        (["--frame", "norm1000", "--task", "ocr"], "holds grounding samples, not ocr"),
        (["--data", path, path], "Two of the data are called 'refcoco_val'"),
        (["--engine", "vllm"], "--engine vllm cannot run: vLLM is not installed: pip install 'pr1kit[vllm]'"),
    ):
        assert main([*data, *options]) == 2, options
        error = capsys.readouterr().err
        assert message in error
        assert error.strip().count("\n") == 0
    assert (tmp_path / "out/refcoco_val.jsonl").read_bytes() == before
    kept = keep(tmp_path / "other.jsonl", "refcoco_val", perfect("grounding"), frame=None)
    assert main([*data, "--completions", str(kept), "--answer-frame", "64x64", "--out", str(tmp_path)]) == 0


def test_vllm_is_asked_by_one_process(official, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    path, images = file_of(official, "grounding")
    assert main(["eval", "--data", path, "--images", images, "--engine", "vllm"]) == 2
    assert "without accelerate launch, with --tensor-parallel" in capsys.readouterr().err


def test_scenes_in_the_official_layouts_are_evaluated_without_a_benchmarks_name(tmp_path):
    for task in BENCHMARKS:
        save_official(pr1kit.make_scenes(task, 2), tmp_path, f"scenes_{task}")
    found = pr1kit.official_files(tmp_path)
    assert {file.stem for file, _ in found} == {f"scenes_{task}" for task in BENCHMARKS}
    assert all(len(load_dataset(file, images=pictures)) == 2 for file, pictures in found)
    assert not any(paper_rows(file.stem, file.parent.name) for file, _ in found)
