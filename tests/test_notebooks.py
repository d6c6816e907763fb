"""The notebooks: kept in house style, and executed in FAST mode from their first cell to their last, facts checked."""

import json
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
INSTALL = f"""try:
    import pr1kit
except ImportError:  # not installed yet: from the clone that holds this notebook, or from PR1KIT_SOURCE
    import os

    source = ".." if os.path.isdir("../pr1kit") else "git+{ADDRESS}"
    source = os.environ.get("PR1KIT_SOURCE", source)
    %pip install --quiet {{source}}
    import pr1kit
"""
SETTINGS = {"FAST": True, "SEED": 0, "POLICY": "tiny"}

# What must hold in the kernel when a notebook has run in FAST mode; every notebook has an entry.
FACTS = {
    "00_start_here": """
assert set(samples) == set(metrics) == {"grounding", "counting", "detection", "ocr"}
assert rewards["the truth"].total == 1 and rewards["the truth, twice"].total == 0.5
assert all(rewards[name].total == 0 and rewards[name].reason for name in ("prose", "swapped", "only thought"))
assert len(group) == 8 and np.isfinite(totals).all() and 0 <= totals.min() <= totals.max() <= 1
assert abs(advantages.sum()) < 1e-3
assert len({rollout.completion for rollout in group}) > 1, "eight samples, one answer"
for task, name in HEADLINE.items():
    low, high = metrics[task].interval(name)
    assert metrics[task].samples == 8 and low <= metrics[task][name] <= high
assert [row["step"] for row in log] == [1, 2] and len(before["sampled"]) == len(after["greedy"]) == len(held_out) == 8
assert not {s.id for s in train} & {s.id for s in held_out}
""",
    "01_rollouts": """
assert len(groups) == len(conditions) == len(table) == 12
for condition, r in rewards.items():
    assert r.shape == (N, G) == (6, 8) and np.isfinite(r).all() and 0 <= r.min() <= r.max() <= 1
    assert (table.loc[condition, "best of 8"] >= table.loc[condition, "mean"]).all()
    assert (np.diff(pass_k[condition]) >= -1e-12).all() and len(pass_k[condition]) == G
assert any(table.loc[condition, "within"] > 0 for condition in tasks)
assert all(len(s.target.boxes) == 3 for s in scenes["counting", 1.0, "3 objects"])
assert np.mean([table.loc[(task, 0.3, ""), "within"] < table.loc[(task, 1.0, ""), "within"]
                for task in ("grounding", "counting")]) > 0, "cold answers are as varied as warm ones"
""",
    "02_grpo_step": """
assert abs(A.sum()) < 1e-6 and np.allclose(A, batch["advantages"].numpy(), atol=1e-4) and A.std() > 0.5
assert batch["num_images"] == [1, 0, 0, 0] and mask.sum() == (logps != 0).sum()
assert np.abs(push - formula).max() < 1e-6 and norm > 0.01 and abs(loss.item()) < 1e-6
assert abs(by_hand - trainers) < 1e-5 and abs(by_hand) > 1e-4
assert (np.sign(np.diag(influence)) == np.sign(A)).all() and influence.shape == (G, G)
assert change[A.argmin()] < 0 and ((A > 0) & (change < 0)).any(), "every good answer became likelier"
""",
    "03_grpo_run": """
import json
assert [row["step"] for row in log] == [1, 2, 3] and log_again == log and same
assert all(np.isfinite(row[name]) and 0 <= row[name] <= 1 for row in log for name in ("reward", "reward/location"))
assert all((folder / name).is_file() for name in ("settings.json", "log.jsonl", "rollouts.jsonl"))
assert (folder / "checkpoint-3" / "model.safetensors").is_file()
assert json.loads((folder / "settings.json").read_text())["steps"] == 3
assert grid.shape == (3, 2, 8) and len(rollouts) == 6
assert all(abs(sum(group["advantages"])) < 1e-3 for group in rollouts)
assert {len(texts["sampled"][0]) for texts in (before, after)} == {4} and len(held_out) == 8
assert not {s.id for s in scenes} & {s.id for s in held_out}
fresh = load_policy(POLICY).model.parameters()
assert any(not torch.equal(one, other) for one, other in zip(policy.model.parameters(), fresh, strict=True))
""",
    "04_rewards": """
off = np.abs(shifts) >= box[2] - box[0]
assert (shifted["kit"][off] == 0).all() and (shifted["paper"][off] == 1).all()
assert shifted["kit"].max() == 1 and np.allclose(shifted["released"] - 1, shifted["kit"] ** 2)
assert np.allclose(padded["kit"], np.minimum(counts, m) / np.maximum(counts, m))
assert (padded["paper"][m - 1 :] == 2).all(), "extras are free under `paper`"
assert [round(float(v), 2) for v in paid["kit"]] == [1.0, 0.82, 0.75, 0.75, 0.8, 0.75]
assert [int((g > 0).sum()) for g in gains.values()] == [6, 3, 2, 1, 0]
assert list(gains) == ["naive", "released", "paper", "kit before", "kit"]
""",
    "05_reward_explorer": """
assert len(with_greedy["matches"]) == 1 and len(with_optimal["matches"]) == 2
assert with_optimal["total"] > with_greedy["total"] + 0.1
assert [bool(item["fault"]) for item in reading.readout["items"]] == [False, True, True]
assert reading.readout["results"][0]["total"] == 0.25
assert alike and len(one) != len(other)
assert abs(score("counting", write(one), sample.target).total - reward) < 1e-4 > abs(
    score("counting", write(other), sample.target).total - reward)
assert (np.diff(curve["paper"]) >= -1e-9).all() and curve["paper"][-1] > curve["paper"][0]
assert curve["kit"][-1] < max(curve["kit"])
assert len(advantages["optimal"]) == len(group) == 8
assert not np.allclose(advantages["optimal"], advantages["sequential"], atol=0.1)
assert all(abs(values.sum()) < 1e-6 for values in advantages.values())
logged, shown = run.run["rewards"], [each["total"] for each in run.readout["results"][0]["group"]]
assert log.last_step == 75 and run.run["step"] == 1 and np.allclose(logged, shown, atol=1e-5)
assert 0 < disagree < 0.5
""",
    "06_matching": """
assert abs(total(trap, "optimal") - 0.632) < 1e-2 and abs(total(trap, "greedy") - 0.389) < 1e-2
assert total(after, "greedy") < total(before, "greedy") and total(after, "optimal") > total(before, "optimal")
assert largest < 1e-12 and tried >= 48 and 0.5 <= ratio.min() <= ratio.max() <= 1 + 1e-12
perfect = rewards["perfect boxes", "sequential"]
assert len(perfect) == 120 and abs(perfect.mean() - 0.2) < 1e-12 and (perfect == 0).sum() == 44
assert np.allclose(missing["optimal"], 7 / 8) and np.allclose(missing["sequential"], np.arange(8) / 8)
assert due["any order"][0] == 0 and five_objects > 0.6 and (wrong["any order"][1:] > 0.25).all()
""",
    "07_custom_reward": """
earn = lambda rule, text: score("grounding", text, scene.target, recipe=rule).total
whole = cheats["the whole picture"][0]
assert earn(cover, whole) == earn(cover, exact) == earn(priced, exact) == 1 and earn(capped, whole) == 0
assert all(earn(priced, cheat) <= earn(priced, honest) + 1e-9 for cheat, honest in cheats.values())
assert earn(capped, around) == 1 > earn(capped, near) and earn(priced, around) < earn(priced, near)
assert curves["cover"][-1] == max(curves["cover"]) and not any(np.array(curves["capped"])[sides > side / 2])
assert curves["capped"][6] == curves["cover"][6] > curves["priced"][6] > curves["kit"][6] and sides[6] == side / 2
assert len(log) == len(log_priced) == 3 and len(groups) == 6
assert all(abs(r - h) < 1e-4 or r == 0 for g in groups for r, h in zip(g["rewards"], g["parts"]["hidden"]))
assert set(found) == {"start", "capped", "priced"}
assert all(values.shape == (8,) for each in found.values() for values in each.values())
""",
    "08_failure_clinic": """
logs = healthy, collapsed, varied, leaping, held, silent, speaking, wordy, brief, hacked
assert all([row["step"] for row in log] == [1, 2, 3] for log in logs)
assert all(np.isfinite(row["kl"]) for row in [*healthy, *leaping, *held]) and "kl" not in collapsed[0]
assert {group["id"] for group in read_log(RUNS / "eight scenes" / "rollouts.jsonl")} == {scene.id for scene in few}
assert blame(pr1kit.parse("grounding", "no box"), few[0].target, None).total == 0
assert blame(pr1kit.parse("grounding", "(60,60),(63,63)"), few[0].target, None).total < 0
assert wordy[0]["reward"] > 1 >= brief[0]["reward"] and all(0 <= row["reward"] <= 1 for row in hacked)
logged = [row["reward"] for row in hacked]
assert np.allclose(seen["insides"]["object in the box"], logged, atol=1e-4), "answers scored again are not those paid"
assert set(paid) == {"start", "eight scenes", "fresh scenes", "insides"}
""",
    "09_reward_ablations": """
assert len(runs) == 28 and len(matched) == 38 and list(rungs) == ["format", "+ IoU", "+ class", "+ F1", "+ missing"]
paid = {what: [score("detection", text, scene.target, recipe="paper", drop=d).total for d in rungs.values()]
        for what, text in answers.items()}
assert {values[0] for values in paid.values()} == {1}
assert paid["the truth"][2] == paid["the truth and six guesses"][2]
assert paid["the truth"][3] > paid["the truth and six guesses"][3]
""",
    "10_sft_thinking_rl": """
assert len(runs) == 60 and len(thought) == 24 and set(of) == set(of_thought) == set(points)
assert points["grounding"][0] == points["ocr"][0] == 0 < points["detection"][0] < points["counting"][0]
assert len(faulty) == 208 and len(of_truth) == 16 and len(photographs) == 15
assert [sum(len(v) for panel in panels.values() for v in panel.values()) for panels in gains.values()] == [64, 40]
""",
    "11_scaling_and_curriculum": """
assert len(runs) == 24 and len(ordered) == 28 and len(variants) == 30 and len(more) == 31
assert len(equal) == 28 and len(tasks) == 39 and len(rates) == 36
assert [stage.num_generations for stage in stages] == [4, 8, 16] and sum(stage.steps for stage in stages) == 40
objects = [np.mean([len(sample.target.boxes) for sample in stage.samples]) for stage in stages]
assert objects[0] < objects[-1]
""",
    "12_perceptual_complexity": """
assert str(whole).startswith("3.965e+83 over 5000") and 71.4 < without.log10_mean < 71.5 and whole.largest_share > 0.999
assert round(images) == 5713 or round(images) == 5714
assert len(runs) == 36 and len(cells) == 12 and set(table) == {*names, "perplexity"}
assert all(-1 <= low <= rho <= high <= 1 for rho, low, high in table.values())
""",
    "13_shared_prefix": """
from pr1kit.models.memory import Geometry
shape = Geometry("Qwen/Qwen2.5-VL-3B-Instruct")
assert (N, layers, width, inner) == (shape.quantizable, shape.layers, shape.width, shape.inner)
assert kv == shape.cached // (2 * layers)
assert (one - other).abs().max() < 1e-5 and apart < 1e-4 and logps.shape == (G, max(lengths))
assert (dense.sum() == first.sum() + sum(np.tri(r, P - 1 + r, P - 1).sum() for r in lengths))
beginnings = [packed.position_ids[:, 0, np.nonzero(branch == k)[0][0]] for k in range(1, G + 1)]
assert all(torch.equal(beginnings[0], other) for other in beginnings)
assert all(memory > 1 for _, memory, _ in table.values()) and table[256, 32][0] > 1.5
assert all(pairs(p, r, 8)[1] < pairs(p, r, 8)[2] for p in (1, 100, 1000) for r in (1, 100, 1000))
""",
    "14_preference": """
assert len(best_first) == 8 and abs(pair_weights(rewards).sum() - 1) < 1e-9 and (np.diff(rewards) <= 0).all()
assert alike["perpo"] > 0.97 and all(0.5 < value <= 1 for value in alike.values())
assert len(lists) == 16 and all(len(each.rewards) == 20 for each in lists)
assert set(logs) == set(trained) == set(change) == set(METHODS)
assert all(abs(logs[m][0]["loss"] - np.log(2)) < 1e-4 for m in ("perpo", "lipo", "dpo"))
assert all(np.diff(change[m][:, ::-1].mean(0)) > 0 for m in ("perpo", "lipo", "dpo"))
assert len(runs) == 164 and set(of) == {"ocr", "grounding", "counting", "detection"}
assert len(variants) == 34 and len(ages) == 23
""",
    "15_reflection": """
assert before.shape == after.shape == (8, 3) and 0 <= min(before.min(), after.min()) and after.max() <= 1
assert len(lessons) == lessons.statistics["kept"] > 0
assert all(t.score <= u.score for d in lessons for t, u in zip(d.turns, d.turns[1:]))
assert [row["step"] for row in log] == [1, 2]
assert len(maps) == len(shown.turns) and all(0 < each.sum() < 1 for each in maps)
assert abs(p[int(np.argmin(loss))] - 0.5 / (0.5 + 10 * 0.5)) < 0.01, "the last curve is that of alpha 10"
first, taught = (logged(name, "by_turn") for name in ("before", "reper, alpha 0.1"))
assert first.shape == taught.shape == (5, 5) and (taught[:, 1] > first[:, 1]).all()
assert (logged("before", "best_of")[:, 5] > logged("reper, alpha 0.1", "best_so_far")[:, 2] - 0.05).all()
""",
    "16_video": """
assert [round(reward, 3) for reward in paid.values()][:4] == [1, 0.875, 0.889, 0.889]
assert paid["the first box for all"] < 1
assert result.total == 0.5 and result.parts["location"] == 1, "a switch costs the frames behind it"
assert (matrix.loc["the truth"] == 1).all() and matrix.loc["one frame", "tracking\\nproxy"] == 1
assert all(matrix.loc[cheat, "tracking\\nUTR"] < 0.6 for cheat in matrix.index[1:] if cheat != "always")
assert len(clips) == len(tpl.tokens) == 36 and tpl.of_kind("tracking, look").mean > tpl.of_kind("tracking, proxy").mean
assert set(taught) == {"before", "taught proxy", "taught UTR"} == set(depends) and len(held_out) == 8
assert depends["taught UTR"].mean != depends["taught proxy"].mean != depends["before"].mean
assert [len({run.cell for run in runs}) for runs in logged.values()] == [2, 3]
watches = {run.cell: run.gain("temporal perplexity", "tracking, UTR") for run in logged["GRPO"]}
assert watches["UTR, key frame"] < -0.05 < min(watches["UTR"], watches["proxy"]), "who is paid for one frame stops"
assert len({run.cell for run in data}) == 12 and len({run.cell for run in amounts}) == 3
worth = lambda task: np.mean([run.gain("log-likelihood", "mix") for run in data if run.factors["task"] == task])
assert worth("tracking") > worth("proxies")
""",
    "17_evaluation": """
assert set(samples) == set(results) == set(kept) == set(NAMES.values())
assert all(len(each) == len(kept[name]) == N == 8 for name, each in samples.items())
assert [name for name, _ in some.skipped] == ["pages/1", "pages/2"] and len(some) == 2
assert rescored["metrics"] == results[NAMES["grounding"]]["metrics"]
assert frames["as normalised 0–1000"]["acc@0.5"] == 0 and (np.diff(curve) <= 0).all()
assert np.isclose(curve[50], metrics["acc@0.5"]) and np.isclose(ious.mean(), metrics["mean_iou"])
assert np.isclose(plain.values["ap"], results[NAMES["detection"]]["metrics"]["ap"][0])
assert abs(plain.values["ar100"] - oracle.values["ar100"]) < 0.05
assert 3 < width["PixMo-Count val"] < 4 and width["RefCOCO val"] < 1
assert len(other) == 8 and low <= change <= high
text = (out / "report.md").read_text()
assert all(f"scenes_{task}" in text for task in NAMES) and "Perception-R1, Table" not in text
""",
    "18_your_own_data": """
where = {what: set(photographs(samples)) for what, samples in (("t", train), ("p", probes), ("h", held_out))}
assert not where["t"] & where["p"] and not (where["t"] | where["p"]) & where["h"]
assert was["sampled"].units == len(where["h"]) < was["sampled"].samples == len(held_out) == 8
assert odd and all((rows < len(photos["train"][i].target.boxes)).all() for i, rows in odd.items())
assert 0 < len(doubts) == len(groups) == len(probes) <= 8 and all(min(each) >= 0 for each in doubts)
assert [row["step"] for row in log] == [1, 2] and {len(t["sampled"][0]) for t in (before, after)} == {3}
assert texts[0] == texts[1] and (exported / "config.json").is_file()
assert totals[worst] == totals.min() and len(totals) == 8
""",
    "19_real_model": """
assert 60e9 < estimates["all weights, Adam"].total and estimates["16GB"].total < 15e9 < estimates["80GB"].total < 76e9
trained = {name for name, p in policy.model.named_parameters() if p.requires_grad}
assert trained and all(".lora_" in name for name in trained) and any("visual.blocks" in name for name in trained)
assert [row["step"] for row in log] == [1, 2] and all(0 <= row["reward"] <= 1 for row in log)
assert list(policy.model.peft_config) == ["default"], "the reference's copy of the adapter was left behind"
assert (folder / "adapter" / "adapter_config.json").is_file() and (folder / "merged" / "config.json").is_file()
assert not (folder / "merged" / "adapter_config.json").exists()
assert same["adapter"] == 1 and same["merged"] >= 7 / 8
assert {len(texts["sampled"][0]) for texts in (before, after)} == {4} and len(held_out) == 8
assert not {s.id for s in train} & {s.id for s in held_out}
""",
}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook):
    return [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]


def with_settings(notebook, settings):
    """`notebook` with the values in its `parameters` cell replaced, each of them exactly once."""
    (cell,) = tagged(notebook)
    for name, value in settings.items():
        cell.source, count = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", cell.source, flags=re.MULTILINE)
        assert count == 1, f"the parameters cell sets {name} {count} times"
    return notebook


def texts(output):
    """Every text that an output shows: streams, plain text, HTML and Markdown, but not pictures."""
    if output.output_type == "stream":
        return [output.text]
    return [str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/")]


def test_there_are_notebooks_and_every_one_has_facts():
    assert {"00_start_here", "01_rollouts", "03_grpo_run"} <= {path.stem for path in NOTEBOOKS}
    assert {path.stem for path in NOTEBOOKS} == set(FACTS)


@every_notebook
def test_runs_from_the_first_cell_to_the_last_and_its_facts_hold(path, tmp_path):
    notebook = with_settings(nbformat.read(path, as_version=4), SETTINGS)
    settings_hold = "\n".join(f"assert {name} == {value!r}" for name, value in SETTINGS.items())
    for source in (settings_hold, FACTS[path.stem]):
        notebook.cells.append(nbformat.v4.new_code_cell(source.strip()))
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))


@pytest.mark.parametrize("name", ["00_start_here", "02_grpo_step"])
def test_runs_with_another_family_by_name(real_grid_policy, name, tmp_path):
    """Coordinates of 0–1000 and scenes of 512 pixels: nothing in a cell may hold for the tiny policy alone."""
    path = ROOT / "notebooks" / f"{name}.ipynb"
    notebook = with_settings(nbformat.read(path, as_version=4), SETTINGS | {"POLICY": real_grid_policy})
    notebook.cells.append(nbformat.v4.new_code_cell('assert frame == "norm1000"'))
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()


@every_notebook
def test_scenes_have_a_size_that_the_policy_sees(path):
    code = "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
    assert "scene_knobs(" in code or not re.search(r'load_policy\(POLICY|"--model", POLICY', code)


def test_settings_are_replaced_or_refused():
    cell = nbformat.v4.new_code_cell("FAST = False  # why\nSEED = 3", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert with_settings(notebook, {"FAST": True}).cells[0].source == "FAST = True\nSEED = 3"
    with pytest.raises(AssertionError, match="sets POLICY 0 times"):
        with_settings(notebook, {"POLICY": "tiny"})


@every_notebook
def test_begins_as_the_house_does(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    title, _, rest = notebook.cells[0].source.partition("\n")
    assert re.fullmatch(r"# .+\?", title)
    at_github = ADDRESS.removeprefix("https://github.com/")
    assert f"colab.research.google.com/github/{at_github}/blob/main/notebooks/{path.name}" in rest, "run: make address"
    assert {"CPU", "GPU"} <= set(re.findall(r"\w+", rest))
    assert "tiny policy" in rest or "load_policy" not in path.read_text(encoding="utf-8")
    install, parameters, setup = code_cells(notebook)[:3]
    source = install.source.replace("{source} bitsandbytes", "{source}").removesuffix(
        'print(f"pr1kit {pr1kit.__version__}")'
    )
    assert source.rstrip() == INSTALL.rstrip(), "run: make address"
    assert tagged(notebook) == [parameters]
    assert re.findall(r"^(\w+) = (\S+)", parameters.source, re.MULTILINE) == [
        ("FAST", "False"), ("SEED", "0"), ("POLICY", '"tiny"'),
    ]  # fmt: skip
    assert "%matplotlib inline" in setup.source.splitlines()
    lines = [line for cell in code_cells(notebook) for line in cell.source.splitlines()]
    assert {line for line in lines if re.search(r"import\b.*\btqdm", line)} <= {"from tqdm.auto import tqdm"}
    assert notebook.metadata.kernelspec.name == "python3"


@every_notebook
def test_is_short_and_ends_with_what_was_learned_and_what_to_try(path):
    notebook = nbformat.read(path, as_version=4)
    assert 20 <= len(notebook.cells) <= 40
    assert max(len(cell.source.splitlines()) for cell in code_cells(notebook)) <= 12
    assert [cell.source.split("\n")[0] for cell in notebook.cells[-2:]] == ["## What we learned", "## Try next"]
    assert sum("**Predict" in cell.source for cell in notebook.cells) >= 2


@every_notebook
def test_builds_on_notebooks_that_stand_before_it(path):
    notebook = nbformat.read(path, as_version=4)
    needed = re.search(r"\*\*You need\*\*.*", notebook.cells[0].source)[0]
    assert all(name < path.name for name in re.findall(r"\((\d\d_\w+\.ipynb)\)", needed))
    links = {name for cell in notebook.cells for name in re.findall(r"\((\d\d_\w+\.ipynb)\)", cell.source)}
    assert links <= {each.name for each in NOTEBOOKS}


@every_notebook
def test_is_committed_with_clean_outputs_of_one_full_run(path):
    assert path.stat().st_size <= 300_000
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    assert "widgets" not in notebook.metadata
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) / 2
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
        for text in texts(output):
            assert not re.search(r"\d+%\|", text), f"progress bar in the output: {text[:80]}"


@every_notebook
def test_numbers_in_the_headline_stand_in_an_output(path):
    notebook = nbformat.read(path, as_version=4)
    shown = "\n".join(text for cell in code_cells(notebook) for output in cell.outputs for text in texts(output))
    headline = notebook.cells[0].source.partition("The answer in one sentence")[2]
    stale = [number for number in re.findall(r"\b\d+\.\d\d+", headline) if number not in shown]
    assert not stale, f"the headline says {', '.join(stale)}, no output does: execute again, then mend the headline"


@every_notebook
def test_names_no_place_on_the_writers_machine(path):
    notebook = nbformat.read(path, as_version=4)
    parts = [cell.source for cell in notebook.cells]
    parts += [text for cell in code_cells(notebook) for output in cell.outputs for text in texts(output)]
    parts.append(json.dumps(notebook.metadata))
    for text in parts:
        text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
        assert not re.search(r"(?<![\w.])/(work|root|home|tmp|Users|usr|opt|content)/|[A-Z]:\\", text), text[:200]


# Numbers in prose that no cell prints, each with its reason. What all notebooks may say stands under "".
UNPRINTED = {
    "": {"3.11": "version of Python", "95 %": "level of an interval", "1000": "normalised coordinates"},
    "04_rewards": {
        "500": "pictures of a run outside",
        "0.928": "measured on COCO val2017, which is not in a clone",
        "0.927": "measured on COCO val2017, which is not in a clone",
        "1,198": "recorded rewards, tests/rewards",
    },
    "10_sft_thinking_rl": {
        "128": "a setting of the logged runs",
        "60.2": "the paper's Table 5",
    },
    "12_perceptual_complexity": {"229,202": "the paper's number", "118,287": "images of COCO train2017"},
    "13_shared_prefix": {"990": "a data sheet", "3.35": "a data sheet"},
    "14_preference": {
        "200": "scenes of a search of rates, docstring of preference_settings",
        "0.445": "that search",
        "0.125": "that search",
    },
    "15_reflection": {"1.4": "the last of a row of temperatures", "192": "a setting of the logged runs"},
    "17_evaluation": {
        "1,200": "an example",
        "0.65": "read off a figure",
        "77.1": "the paper's Table 7",
        "23.5": "the paper's Table 7",
        "31.9": "the paper's Table 7",
        "1.05": "the released script's setting",
        "0.07": "half of the width of the printed intervals",
        "14 %": "data/benchmarks/interval_coverage.md",
        "97 %": "data/benchmarks/interval_coverage.md",
        "80 %": "data/benchmarks/interval_coverage.md",
    },
    "19_real_model": {"1,275": "1,000,000 pixels / 28²", "3.75": "billions of weights, from the model's card"},
    "18_your_own_data": {share: "data/runs/README.md, blood cells" for share in ("0.34", "0.43", "0.53")},
}
NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?:\s?%)?")
NO_PROSE = re.compile(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)]*\)|https?://\S+|\b\d{4}\.\d{4,5}\b", re.S)


def number_of(text):
    """A number as `(value, decimals)`; 12 % is 12."""
    digits = text.replace(",", "").rstrip("% ")
    return float(digits), len(digits.partition("e")[0].partition(".")[2])


def is_printed(text, printed):
    """Whether one of the numbers `printed` is that of `text` rounded; a share may be printed as a fraction."""
    value, decimals = number_of(text)
    room = 0.5001 * 10**-decimals
    return any(
        abs(scale * other - value) <= room and places >= decimals + (2 if scale == 100 else 0)
        for other, places in printed
        for scale in (1, 100)
    )


def test_a_number_is_printed_rounded_or_as_a_share():
    printed = [number_of(text) for text in ("0.427", "1,198", "37%")]
    assert all(is_printed(text, printed) for text in ("0.427", "0.43", "43 %", "1,198", "37 %"))
    assert not any(is_printed(text, printed) for text in ("0.44", "0.4270", "42 %", "1,199"))


@every_notebook
def test_numbers_in_prose_are_printed_by_a_cell_or_said_to_come_from_elsewhere(path):
    """Decimals, percentages and numbers from 100 on; smaller whole numbers are words. What code says is a setting."""
    notebook = nbformat.read(path, as_version=4)
    shown = "\n".join(text for cell in code_cells(notebook) for output in cell.outputs for text in texts(output))
    shown = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+|<[^>]*>", " ", shown)
    printed = [number_of(text) for text in NUMBER.findall(shown)]
    code = "\n".join(cell.source for cell in code_cells(notebook))
    settings = {number_of(text)[0] for text in NUMBER.findall(code.replace("_", ""))}
    prose = "\n".join(NO_PROSE.sub(" ", cell.source) for cell in notebook.cells if cell.cell_type == "markdown")
    told = {text for text in NUMBER.findall(prose) if re.search(r"[.%e]", text) or number_of(text)[0] >= 100}
    told = {text for text in told if number_of(text)[0] not in settings and not is_printed(text, printed)}
    own = UNPRINTED.get(path.stem, {})
    assert told <= {*own, *UNPRINTED[""]}, (
        "no cell prints it: print it, correct it, or say in UNPRINTED where it is from"
    )
    assert set(own) <= told, "a cell prints it now: take it out of UNPRINTED"


@every_notebook
def test_uses_public_names(path):
    code = "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
    deep = set(re.findall(r"^\s*(?:from|import) (pr1kit\.[\w.]+)", code, re.MULTILINE)) - {"pr1kit.__main__"}
    assert not deep, f"{deep}: import it from pr1kit, or add it to pr1kit/__init__.pyi"
