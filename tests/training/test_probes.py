"""Probes: asking a policy along the way changes nothing of its training, and survives what the run survives."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from pr1kit import generate_completions, load_policy, make_scenes
from pr1kit.__main__ import main
from pr1kit.data.durable_files import read_log
from pr1kit.data.sample import Sample, Target
from pr1kit.rollouts.probes import FILE, probed_sample, read_probes
from pr1kit.training.command import hold_out
from pr1kit.training.config import RunConfig
from pr1kit.training.grpo import train_grpo
from pr1kit.training.grpo_settings import TINY
from pr1kit.training.probes import probe_steps
from pr1kit.training.weights import trained_weights

RUN = replace(TINY, steps=3, prompts_per_step=2, micro_prompts=2, num_generations=4, max_completion_length=8)
RUN = replace(RUN, save_steps=1)
PROBES = make_scenes("grounding", 2, 9, split="test")
SCENES = make_scenes("grounding", 6)
NUMBERS = ("reward", "loss", "grad_norm", "entropy")


@pytest.fixture
def load(small_policies):
    return lambda: load_policy(small_policies["qwen2_5_vl"], verbose=False)


@pytest.fixture(scope="module")
def watched(small_policies, tmp_path_factory):
    """A finished run with probes: `(folder, rows, policy)`."""
    policy, folder = (
        load_policy(small_policies["qwen2_5_vl"], verbose=False),
        tmp_path_factory.mktemp("watched") / "run",
    )
    return folder, train_grpo(policy, SCENES, folder, RUN, probes=PROBES), policy


def test_training_is_the_same_with_and_without(watched, load, tmp_path):
    _, rows, policy = watched
    alone = load()
    without = train_grpo(alone, SCENES, tmp_path / "run", RUN)
    assert [[row[name] for name in NUMBERS] for row in without] == [[row[name] for name in NUMBERS] for row in rows]
    trained, other = trained_weights(policy.model), trained_weights(alone.model)
    assert all(torch.equal(value, other[name]) for name, value in trained.items())
    assert not (tmp_path / "run" / FILE).exists()


def test_the_first_and_the_last_answers_are_those_of_the_policy_before_and_after(watched, load):
    folder, _, policy = watched
    steps = read_probes(folder)
    assert list(steps) == probe_steps(3) == [0, 1, 2, 3]
    for step, who in ((0, load()), (3, policy)):
        answers = generate_completions(who, PROBES, max_new_tokens=8)
        assert [row["completion"] for row in steps[step].values()] == [texts[0] for texts in answers]
    row = steps[0][PROBES[1].id]
    again = probed_sample(row)
    assert (again.id, again.question, again.target.to_dict()) == (row["id"], row["question"], row["target"])


def test_a_run_that_was_cut_off_ends_with_the_same_probes(watched, load, tmp_path):
    shutil.copytree(watched[0], tmp_path / "run")
    whole = (tmp_path / "run" / FILE).read_bytes()
    shutil.rmtree(tmp_path / "run" / "checkpoint-3")
    (tmp_path / "run" / "finished.json").unlink()
    (tmp_path / "run" / FILE).write_bytes(whole[:-30])  # killed while it wrote the last line
    train_grpo(load(), SCENES, tmp_path / "run", RUN, probes=PROBES)
    assert (tmp_path / "run" / FILE).read_bytes() == whole
    train_grpo(load(), SCENES, tmp_path / "run", replace(RUN, save_steps=3), resume=False, probes=PROBES)
    assert (tmp_path / "run" / FILE).read_bytes() == whole  # begun anew: nothing twice


def test_probes_that_cannot_be_told_apart_or_read_are_refused_before_training(load, tmp_path):
    with pytest.raises(ValueError, match="Probes are told apart by their ids"):
        train_grpo(load(), SCENES, tmp_path, RUN, probes=[PROBES[0], PROBES[0]])
    gone = replace(PROBES[0], image=str(tmp_path / "gone.png"))
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        train_grpo(load(), SCENES, tmp_path, RUN, probes=[gone])
    assert not list(tmp_path.iterdir())


def test_no_picture_is_both_trained_on_and_asked_about():
    samples = [Sample(f"{i // 2}.png", "grounding", "cat", Target(boxes=[[0, 0, 1, 1]]), str(i)) for i in range(8)]
    run = RunConfig(task="grounding", data="mine.json", probes=2)
    kept, probes = hold_out(samples, run)
    assert [s.id for s in kept] == ["0", "1", "2", "3"]
    assert [s.id for s in probes] == ["6", "4"]
    with pytest.raises(ValueError, match="--probes 4 leaves nothing to train on: the data hold 4 pictures"):
        hold_out(samples, replace(run, probes=4))
    with pytest.raises(ValueError, match="dpo has none"):
        hold_out(samples, replace(run, method="dpo"))
    assert hold_out(samples, replace(run, probes=0)) == (samples, [])


def test_the_command_asks_along_a_run_on_ones_own_pictures_and_shows_it(small_policies, tmp_path):
    for i in range(4):
        Image.new("RGB", (64, 64), (60 * i, 90, 90)).save(tmp_path / f"{i}.png")
    truth = [{"image": f"{i}.png", "sent": "cat", "bbox": [4, 4, 40, 40]} for i in range(4)]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    flags = [
        "--task",
        "grounding",
        "--data",
        str(tmp_path / "truth.json"),
        "--box-format",
        "xyxy",
        "--policy",
        small_policies["qwen2_5_vl"],
    ]
    flags += ["--steps", "1", "--prompts-per-step", "2", "--micro-prompts", "2", "--num-generations", "2"]
    flags += ["--max-completion-length", "8", "--out", str(tmp_path / "run")]
    assert main(["train", *flags, "--probes", "2"]) == 0
    assert {row["step"] for row in read_log(tmp_path / "run" / FILE)} == {0, 1}
    assert main(["explore", str(tmp_path / "run"), "--export", str(tmp_path / "site")]) == 0
    assert (tmp_path / "site" / "index.html").stat().st_size < 200_000
