"""GRPO on crops of photographs: which photographs are trained on and which measured, and what a run leaves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pr1kit.data.crops import photographs
from pr1kit.data.scenes import make_scenes
from pr1kit.data.shipped import shipped
from pr1kit.experiments import cells
from pr1kit.experiments.runs import read_lines
from pr1kit.experiments.tiny_policy.own_data import OwnRecipe, make_own_policy
from pr1kit.models.policy import load_policy


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Five photographs to train on and two to measure on, as the folder of BCCD has them."""
    path = tmp_path_factory.mktemp("cells")
    (path / "images").mkdir()
    for split, first, count in (("train", 0, 5), ("val", 5, 2)):
        lists = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "shape"}]}
        for i, scene in enumerate(make_scenes("detection", count, first, image_size=128, num_objects=(4, 6)), first):
            scene.load_image().save(path / "images" / f"{i}.png")
            lists["images"].append({"id": i, "file_name": f"{i}.png", "width": 128, "height": 128})
            for x1, y1, x2, y2 in scene.target.boxes.tolist():
                lists["annotations"].append({"image_id": i, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        (path / f"instances_{split}.json").write_text(json.dumps(lists))
    return path


@pytest.fixture(scope="module")
def policy(data, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("policy")
    recipe = OwnRecipe(crop=64, pool=32, vision_steps=1, steps=1, batch=4)
    make_own_policy(data, out / "p", recipe, work=out / "w", split="train", most=1)
    return str(out / "p")


def test_photographs_are_never_both_trained_on_and_measured(data, policy):
    recipe = cells.recipe_of(policy)
    trained = cells.training_crops(data, recipe, 40, 0)
    held_out = {name: cells.held_out_crops(data, recipe, name == "held out") for name in ("val", "held out")}
    names = {name: {Path(key).stem for key in photographs(samples)} for name, samples in held_out.items()}
    assert names["val"] == {"5", "6"}
    assert len(names["held out"]) == 1
    seen = {sample.id.split("/")[1].split("@")[0] for sample in trained}
    assert seen == {"0", "1", "2", "3", "4"} - names["held out"]
    assert len(trained) == 40
    assert {sample.task for sample in trained} == {"counting"}
    assert [s.id for s in trained] == [s.id for s in cells.training_crops(data, recipe, 40, 0)]
    assert [s.id for s in trained] != [s.id for s in cells.training_crops(data, recipe, 40, 1)]


def test_a_run_is_measured_trained_and_logged(data, policy, tmp_path, monkeypatch, capsys):
    few = replace(cells.RL, steps=1, prompts_per_step=2, micro_prompts=2, num_generations=2, max_completion_length=8)
    monkeypatch.setattr(cells, "RL", few)
    monkeypatch.setattr(cells, "TINY_SFT", replace(cells.TINY_SFT, batch_size=2, micro_batch=2))
    monkeypatch.setattr(cells, "MEASURED", replace(cells.MEASURED, sampled=1, max_new_tokens=8))
    monkeypatch.setenv("PR1KIT_CELLS", str(data))
    monkeypatch.chdir(tmp_path)
    arguments = ["--out", str(tmp_path / "runs"), "--policy", policy, "--seeds", "0"]
    assert cells.main([*arguments, "--methods", "sft"]) == 2
    assert "takes the seconds of GRPO: run --methods rl with seed 0 first" in capsys.readouterr().err
    assert cells.main(arguments) == 0
    lines = read_lines(tmp_path / "runs" / cells.LOG)
    assert [line["cell"] for line in lines] == ["rl", "sft", "sft+rl"]
    assert [{row["phase"] for row in line["steps"]} for line in lines] == [{"rl"}, {"sft"}, {"sft", "rl"}]
    for line in lines:
        results = line["results"]
        assert results["photographs"] == 2
        for mode in ("sampled", "greedy"):
            for name in cells.METRICS:
                change, low, high = results["change"][mode][name]
                after, before = results["after"][mode][name], results["before"][mode][name]
                assert change == pytest.approx(after - before, abs=2e-5)
                assert low <= change <= high
    assert "| rl, 0 | sampled | " in capsys.readouterr().out
    assert len(cells.comparison(lines).splitlines()) == 2, "one seed compares nothing"
    monkeypatch.setattr(cells, "run", None)
    assert cells.main(arguments) == 0, "what is logged is not run again"
    assert not list((tmp_path / "runs").glob("*.png")), "no photograph is kept"


def test_changes_beyond_their_intervals_stand_out():
    change = {m: {"accuracy": [0.1, 0.05, 0.15], "matched_iou": [0.1, -0.05, 0.25]} for m in ("sampled", "greedy")}
    values = {m: {"accuracy": 0.3, "matched_iou": 0.4} for m in change}
    line = {"cell": "rl", "seed": 1, "results": {"before": values, "after": values, "change": change}}
    assert "(**+0.100 [+0.050, +0.150]**) | 0.400 → 0.400 (+0.100 [-0.050, +0.250])" in cells.report([line])


def test_methods_are_compared_on_their_common_seeds():
    def line(cell, seed, gain):
        change = {mode: {name: [gain, 0, 0] for name in cells.METRICS} for mode in ("sampled", "greedy")}
        return {"cell": cell, "seed": seed, "results": {"change": change}}

    lines = [line("rl", seed, 0.3) for seed in range(3)] + [line("sft", 0, 0.2), line("sft", 2, 0.1)]
    _, _, *rows = cells.comparison(lines).splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| rl over sft"] * 2
    assert "| +0.150 [-0.485, +0.785] | +0.150 [-0.485, +0.785] | 2 |" in rows[0]


def test_without_a_folder_it_says_where_to_name_one(monkeypatch, capsys):
    monkeypatch.delenv("PR1KIT_CELLS", raising=False)
    assert cells.main(["--seeds", "0"]) == 2
    assert "--data, or PR1KIT_CELLS" in capsys.readouterr().err


def test_the_policy_that_ships_is_the_one_of_its_card():
    policy, recipe = load_policy("tiny-cells"), cells.recipe_of("tiny-cells")
    card = json.loads((shipped("tiny-cells") / "training.json").read_text())
    assert sum(file.stat().st_size for file in shipped("tiny-cells").iterdir()) < 4_200_000
    assert card["parameters"] == sum(p.numel() for p in policy.model.parameters())
    assert recipe == OwnRecipe(any_side_up=True)
    assert policy.core.dtype == torch.float32
