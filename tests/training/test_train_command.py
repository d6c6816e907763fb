"""`python -m pr1kit train`: YAML and flags become a run; bad ones one sentence; two processes end where one does."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, fields, replace

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from pr1kit.__main__ import main
from pr1kit.data.clips import make_clips
from pr1kit.data.durable_files import read_log
from pr1kit.data.sample import IMAGE_TASKS, VIDEO_TASKS
from pr1kit.models.policy import load_policy
from pr1kit.rollouts.log import scene_of
from pr1kit.training.command import load_samples, trainer_options
from pr1kit.training.config import CONFIGS, RunConfig, read_run
from pr1kit.training.grpo_settings import PAPER, TINY
from pr1kit.training.preference_settings import TINY_PERPO

QUICK = ["--steps", "2", "--prompts-per-step", "2", "--micro-prompts", "2", "--num-generations", "4"]
QUICK += ["--max-completion-length", "12", "--save-steps", "1"]


def written(folder, text):
    path = folder / "run.yaml"
    path.write_text(text)
    return str(path)


def run_of(*flags):
    run, settings, _ = read_run(flags)
    return run, settings


# Settings


@pytest.mark.parametrize("task", VIDEO_TASKS)
def test_the_three_tasks_in_time_share_a_configuration(task, tmp_path):
    run, settings = run_of("--config", "video", "--task", task, "--data", "scenes", "--frames", "6", "--limit", "3")
    assert (run.task, run.frames, run.fps, settings.recipe) == (task, 6, 2.0, "kit")
    samples = load_samples(run, settings)
    assert [len(sample.frames) for sample in samples] == [6, 6, 6]
    for line in (CONFIGS / "video.yaml").read_text().splitlines():
        assert line.startswith("#") or re.search(r"# (ours|as for grounding)", line), f"no source: {line}"


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_the_papers_configurations_hold_the_papers_values(task):
    run, settings = run_of("--config", task, "--data", "x")
    assert run.task == task
    assert run.policy == ("Qwen/Qwen2.5-VL-3B-Instruct" if task == "detection" else "Qwen/Qwen2-VL-2B-Instruct")
    assert (settings.learning_rate, settings.num_generations, settings.beta) == (1e-6, 8, 0.04)
    assert (settings.prompts_per_step, settings.micro_prompts, settings.temperature) == (2, 1, 1.0)
    assert settings.max_completion_length == (768 if task in ("grounding", "counting") else 2048)
    assert run.max_pixels == 1_000_000
    assert settings.steps * settings.prompts_per_step == run.limit
    assert (settings.top_p, settings.top_k, settings.lr_scheduler) == (0.9, 50, "linear")
    assert not settings.thinking
    assert replace(settings, steps=PAPER.steps, recipe=PAPER.recipe, save_steps=50) == replace(
        PAPER, max_completion_length=settings.max_completion_length
    )
    for line in (CONFIGS / f"{task}.yaml").read_text().splitlines():
        if not line.startswith(("#", "task:")):
            assert re.search(r"# (section|released|appendix|ours)", line), f"no source: {line}"


@pytest.mark.parametrize(("task", "n", "gap"), [("grounding", 20, 0.8), ("ocr", 5, 0.04)])
def test_the_configurations_of_perpo_hold_its_papers_values(task, n, gap):
    run, settings = run_of("--config", f"perpo-{task}", "--data", "x")
    assert (run.method, run.task, run.out) == ("perpo", task, f"runs/perpo-{task}")
    assert (settings.method, settings.num_candidates, settings.min_gap) == ("perpo", n, gap)
    assert (settings.beta, settings.gamma, settings.learning_rate, settings.steps) == (0.1, 0.5, 5e-6, 0)
    assert (settings.lr_scheduler, settings.per_token, settings.truth) == ("cosine", False, False)
    assert settings.vision_learning_rate == (5e-7 if task == "ocr" else None)
    assert settings.prompts_per_step == (1 if task == "ocr" else 2)
    adapter = {"r": 128, "alpha": 256, "dropout": 0.05, "merger": True}
    assert run.lora == adapter | ({"vision": True} if task == "ocr" else {})
    for line in (CONFIGS / f"perpo-{task}.yaml").read_text().splitlines():
        if not line.startswith(("#", "task:", "method:")):
            assert re.search(r"# (paper|released|ours)", line), f"no source: {line}"


def test_the_method_decides_which_settings_there_are(tmp_path):
    run, settings = run_of("--method", "dpo", "--task", "ocr", "--data", "scenes", "--gamma", "1")
    assert settings == replace(TINY_PERPO, method="dpo", gamma=1.0)
    assert run.out == "runs/dpo-ocr"
    own = written(tmp_path, "method: lipo\ntask: ocr\ndata: scenes\nmin_gap: 0.5\n")
    assert run_of("--config", own)[1] == replace(TINY_PERPO, method="lipo", min_gap=0.5)
    assert run_of("--config", own, "--method", "perpo")[1].method == "perpo"
    assert run_of("--task", "ocr", "--data", "scenes")[1] == TINY
    with pytest.raises(ValueError, match="Unknown setting 'num-generations'"):
        run_of("--config", own, "--num-generations", "4")
    with pytest.raises(ValueError, match="--method: invalid choice: 'ppo'"):
        run_of("--method", "ppo", "--task", "ocr", "--data", "scenes")
    with pytest.raises(ValueError, match="--engine vllm and --trl are GRPO's: dpo has no rollouts"):
        trainer_options(replace(run, trl={"top_p": 0.5}))


def test_what_is_said_later_wins(tmp_path):
    own = written(tmp_path, "task: ocr\ndata: pages.json\nlearning_rate: 1e-6\nbeta: 0\nlora: {r: 8, vision: true}\n")
    run, settings = run_of("--config", own, "--beta", "0.1", "--steps", "7")
    assert (settings.learning_rate, settings.beta, settings.steps) == (1e-6, 0.1, 7)  # YAML reads 1e-6 as text
    assert settings == replace(TINY, learning_rate=1e-6, beta=0.1, steps=7)  # the tiny policy's defaults
    assert run.lora == {"r": 8, "vision": True}
    assert run.out == "runs/ocr"
    _, real = run_of("--config", own, "--policy", "Qwen/Qwen2-VL-2B-Instruct")
    assert real.steps == PAPER.steps
    paper = ("--config", "grounding", "--data", "x")
    _, profiled = run_of(*paper, "--profile", "24GB")
    assert (profiled.learning_rate, profiled.optim) == (1e-5, "adamw_torch_fused")
    _, full = run_of(*paper, "--profile", "80GB")
    assert (full.learning_rate, full.optim) == (1e-6, "adamw_bnb_8bit")
    _, said = run_of(*paper, "--profile", "24GB", "--learning-rate", "3e-6")
    assert said.learning_rate == 3e-6
    _, whole = run_of(*paper, "--profile", "24GB", "--no-lora")
    assert whole.learning_rate == 1e-6


def test_bad_settings_are_one_sentence_each(tmp_path, capsys):
    def said(text, *flags):
        assert main(["train", "--config", written(tmp_path, text), *flags]) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        lines = error.splitlines()
        assert lines[-1].startswith("pr1kit: ")
        return lines[-1]

    fine = "task: ocr\ndata: scenes\n"
    assert "run.yaml': Unknown setting 'lerning_rate'" in (error := said(fine + "lerning_rate: 1\n"))
    assert "did you mean '--learning-rate'?" in error
    assert "run.yaml': Argument --steps: invalid int value: 'many'" in said(fine + "steps: many\n")
    assert "invalid int value: '2.5'" in said(fine + "steps: 2.5\n")
    assert "--thinking: Truthy value expected: got perhaps" in said(fine + "thinking: perhaps\n")
    assert "--beta: invalid float value: 'true'" in said(fine + "beta: true\n")
    assert "is no YAML that the kit reads" in said("task: [\n")
    assert "must hold settings as key: value" in said("- task\n")
    assert "Say which task to train" in said("data: scenes\n")
    assert "Say what to train on with --data" in said("task: ocr\n")
    assert "--engine: invalid choice: 'sglang'" in said(fine, "--engine", "sglang")
    assert "Unknown tracker 'mlflow'" in said(fine, "--report-to", "mlflow")
    assert "--trl takes key=value, got 'x'" in said(fine, "--trl", "x")
    assert "Unknown profile '12GB'" in said(fine, "--profile", "12GB")
    assert "no option 'top_q'" in said(fine, "--out", str(tmp_path / "out"), "--trl", "top_q=1")
    for owned in ("beta", "output_dir"):
        assert f"TRL's option '{owned}' follows from" in said(fine, "--trl", f"{owned}=1")
    assert "no multiple of micro_prompts" in said(
        fine, *QUICK[:2], "--out", str(tmp_path / "o"), "--micro-prompts", "3"
    )
    assert main(["train", "--config", "nowhere"]) == 2
    assert "There is no configuration 'nowhere': name a YAML file, or one of counting" in capsys.readouterr().err
    assert main(["train", "--task", "ocr", "--data", "gone.json"]) == 2
    assert "gone.json" in capsys.readouterr().err


def test_engines_and_trackers_that_are_not_installed_say_what_to_install(monkeypatch):
    run, _ = run_of("--task", "ocr", "--data", "scenes", "--engine", "vllm")
    monkeypatch.setattr("pr1kit.training.command.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--engine vllm cannot run: vLLM is not installed"):
        trainer_options(run)
    with pytest.raises(ValueError, match="--report-to wandb needs its package: pip install wandb"):
        trainer_options(replace(run, engine="hf", report_to="wandb"))
    monkeypatch.setattr("pr1kit.training.command.find_spec", lambda name: True)
    monkeypatch.setattr("pr1kit.training.command.require_vllm", lambda quantization: None)
    more = {"vllm_mode": "server", "vllm_server_port": 8001}
    options = trainer_options(replace(run, report_to="tensorboard, wandb", trl=more))
    assert options == {"use_vllm": True, "report_to": ["tensorboard", "wandb"], **more}
    config = PAPER.config("runs/x", **trainer_options(replace(run, report_to="tensorboard", trl=more)))
    assert (config.use_vllm, config.vllm_mode, config.vllm_server_port) == (True, "server", 8001)
    assert config.report_to == ["tensorboard"]


@pytest.mark.parametrize(
    ("processes", "prompts", "micro", "rows", "accumulation"),
    [(1, 2, 1, 8, 2), (2, 2, 1, 8, 1), (4, 2, 1, 4, 1), (2, 16, 4, 32, 2), (8, 2, 2, 2, 1)],
)
def test_a_step_holds_the_same_prompts_on_any_number_of_processes(
    monkeypatch, tmp_path, processes, prompts, micro, rows, accumulation
):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    shares = replace(PAPER, prompts_per_step=prompts, micro_prompts=micro)._share(processes)
    assert shares == (rows, accumulation)
    assert rows * accumulation * processes == prompts * 8


def test_a_step_that_cannot_be_shared_is_refused():
    with pytest.raises(
        ValueError, match="3 prompts in a step, 1 at once, cannot be shared evenly by 2 processes: make"
    ):
        replace(PAPER, prompts_per_step=3)._share(2)


def test_a_dry_run_prints_yaml_that_makes_the_same_run(tmp_path, capsys):
    flags = ["--data", "pages.json", "--profile", "16GB", "--steps", "5"]
    assert main(["train", "--config", "ocr", *flags, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert set(yaml.safe_load(printed)) == {each.name for each in (*fields(RunConfig), *fields(PAPER))}
    again, first = run_of("--config", written(tmp_path, printed)), run_of("--config", "ocr", *flags)
    assert [asdict(part) for part in again] == [asdict(part) for part in first]


# Runs


def test_a_run_from_flags_is_logged_saved_and_gone_on_with(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", "--task", "counting", "--data", "scenes", "--out", str(out), *QUICK]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "2 steps of 8 completions on 4 counting samples, recipe kit" in said
    assert "Reward 0." in said
    assert [row["step"] for row in read_log(out / "log.jsonl")] == [1, 2]
    assert len(read_log(out / "rollouts.jsonl")) == 4
    trained = load_file(out / "model" / "model.safetensors")
    assert load_policy(str(out / "model"), verbose=False).model is not None
    assert main(command) == 0  # finished: the weights are read, not trained again
    assert all((trained[name] == value).all() for name, value in load_file(out / "model" / "model.safetensors").items())
    assert main([*command, "--beta", "0.3"]) == 2
    assert "holds a run with other settings (beta was 0.0, is 0.3)" in capsys.readouterr().err


def test_a_run_on_clips_takes_the_same_flags_and_its_rollouts_are_found_again(tmp_path, capsys):
    assert main(["train", "--task", "tracking", "--data", "scenes", "--out", str(tmp_path / "run"), *QUICK]) == 0
    assert "on 4 tracking samples" in capsys.readouterr().out
    groups = read_log(tmp_path / "run" / "rollouts.jsonl")
    assert len({group["id"] for group in groups}) == 4
    for group in groups:
        clip = scene_of(group["id"], group["prompt"])
        assert (clip.id, clip.is_video) == (group["id"], True)
    (other,) = make_clips("tracking", 1, start=1)
    with pytest.raises(ValueError, match="drawn with other settings"):
        scene_of(groups[0]["id"].rpartition("/")[0] + "/proxy", other.prompt)


def test_a_run_on_ranked_answers_samples_them_once_or_reads_them(tmp_path, capsys):
    few = [
        "--task",
        "grounding",
        "--data",
        "scenes",
        "--num-candidates",
        "4",
        "--min-gap",
        "0",
        "--prompts-per-step",
        "2",
    ]
    first = ["train", "--method", "perpo", "--limit", "4", *few, "--out", str(tmp_path / "a")]
    assert main(first) == 0
    said = capsys.readouterr().out
    assert "4 candidates of each of 4 grounding samples, recipe kit" in said
    assert re.search(r"Lists of candidates: kept: \d.* Loss 0\.69", said)
    sampled = (tmp_path / "a" / "sampled-0.jsonl").read_bytes()
    assert len(sampled.splitlines()) == 4
    weights = load_file(tmp_path / "a" / "model" / "model.safetensors")
    assert main(first) == 0  # finished: read, neither sampled nor trained again
    again = load_file(tmp_path / "a" / "model" / "model.safetensors")
    assert all((again[name] == value).all() for name, value in weights.items())
    assert (tmp_path / "a" / "sampled-0.jsonl").read_bytes() == sampled
    kept = str(tmp_path / "a" / "sampled-0.jsonl")
    assert main(["train", "--method", "best_of_n", *few, "--candidates", kept, "--out", str(tmp_path / "b")]) == 0
    assert len(read_log(tmp_path / "b" / "log.jsonl")) == len(read_log(tmp_path / "a" / "log.jsonl"))
    assert main(["train", "--method", "dpo", *few, "--candidates", "gone.jsonl", "--out", str(tmp_path / "c")]) == 2
    assert "gone.jsonl" in capsys.readouterr().err


def test_a_run_from_yaml_trains_an_adapter_on_files(small_policies, tmp_path, capsys):
    """The released layout of grounding data, images on disk, LoRA on language and vision, merged at the end."""
    (tmp_path / "images").mkdir()
    rows = []
    for i in range(3):
        Image.new("RGB", (64, 48 + 16 * i), (80 * i, 90, 10)).save(tmp_path / "images" / f"{i}.png")
        rows.append({"problem": f"thing {i}", "solution": [8, 8, 40, 40], "image": f"images/{i}.png"})
    (tmp_path / "train.json").write_text(json.dumps(rows))
    config = written(
        tmp_path,
        f"task: grounding\npolicy: {small_policies['qwen2_5_vl']}\ndata: {tmp_path / 'train.json'}\n"
        f"out: {tmp_path / 'run'}\nlora: {{r: 2, vision: true}}\nmerge: true\nframe: pixel\nlimit: 2\n"
        "steps: 1\nnum_generations: 4\nmax_completion_length: 8\nmax_pixels: 4096\nlearning_rate: 1e-4\n",
    )
    assert main(["train", "--config", config]) == 0
    said = capsys.readouterr().out
    assert "LoRA r=2 on language + vision" in said
    assert "on 2 grounding samples" in said
    names = set(load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors"))
    assert any("visual.blocks" in name for name in names)
    assert not any("adapter" in file.name for file in (tmp_path / "run" / "merged").iterdir())
    for name in ("adapter", "merged"):
        policy = load_policy(str(tmp_path / "run" / name), verbose=False)
        assert policy.frame((64, 64)) == (64, 64)


SCRIPT = """
import sys
sys.path.insert(0, "tests/training")
import pr1kit.training.grpo
from pr1kit.__main__ import main
from test_shared_prefix import SharedDrawn
pr1kit.training.grpo.PerceptionGRPOTrainer = SharedDrawn  # completions drawn from step and row
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("group", [4, 8], ids=["a group on each", "a group across both"])
def test_two_processes_train_what_one_does(small_policies, tmp_path, group):
    """`accelerate launch` of the command itself, on the CPU, through gloo."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    command = ["train", "--task", "ocr", "--data", "scenes", "--policy", small_policies["qwen2_5_vl"], "--steps", "2"]
    prompts = str(8 // group)
    command += ["--lora", "--prompts-per-step", prompts, "--micro-prompts", prompts, "--num-generations", str(group)]
    command += ["--max-completion-length", "10", "--optim", "sgd", "--lr-scheduler", "constant", "--save-steps", "1"]
    command += ["--learning-rate", "1"]
    ends = []
    for name, launcher in (("one", []), ("two", launch)):
        done = subprocess.run(
            [sys.executable, *launcher, script, *command, "--out", tmp_path / name],
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
            timeout=600,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("LoRA r=16") == 1  # the main process alone speaks
        assert "Shared prefix is off" not in done.stderr
        assert len(read_log(tmp_path / name / "rollouts.jsonl")) == 2 * 8 // group
        ends.append(load_file(tmp_path / name / "adapter" / "adapter_model.safetensors"))
    one, two = ends
    rewards = [[row["reward"] for row in read_log(tmp_path / name / "log.jsonl")] for name in ("one", "two")]
    assert rewards[1] == pytest.approx(rewards[0], abs=1e-6)
    assert any(value.abs().max() > 1e-3 for name, value in one.items() if "lora_B" in name), "nothing was learned"
    for name, value in one.items():
        assert (two[name] - value).norm() <= 1e-4 * value.norm() + 1e-6, name


def test_two_processes_share_the_sampling_and_train_what_one_does(tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    command = ["-m", "pr1kit", "train", "--method", "perpo", "--task", "grounding", "--data", "scenes", "--limit", "5"]
    command += ["--num-candidates", "4", "--min-gap", "0", "--prompts-per-step", "2", "--lora", "--steps", "2"]
    command += ["--optim", "sgd", "--learning-rate", "1"]
    ends = []
    for name, launcher in (("one", []), ("two", [*launch, "-m", "pr1kit"])):
        done = subprocess.run(
            [sys.executable, *launcher, *(command[2:] if launcher else command), "--out", tmp_path / name],
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
            timeout=600,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        files = sorted((tmp_path / name).glob("sampled-*.jsonl"))
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        losses = [row["loss"] for row in read_log(tmp_path / name / "log.jsonl")]
        ends.append((len(files), [(line["id"], line["completions"]) for line in lines], losses))
    (files, sampled, losses), (shared_files, shared, shared_losses) = ends
    assert (files, shared_files) == (1, 2)
    assert shared == sampled
    assert shared_losses == pytest.approx(losses, abs=1e-4)
