"""Everything that waits for a GPU, in order of worth: `make gpu`, 25 minutes on one H100-class card.

    python tests/benchmarks/gpu.py            # data/benchmarks/gpu_<card>.jsonl, and its table
    python tests/benchmarks/gpu.py --small    # two layers of each model, on any machine: that the script runs

Each step runs in a process of its own with a limit of time; what it found is written before the next begins, and what
failed or was left out says why. Weights are random, in the shape of the released models.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

QWEN25, QWEN3 = "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen3-VL-4B-Instruct"
LIMIT = 420  # seconds for one step
DATA = Path(__file__).parents[2] / "data" / "benchmarks"


def doctor(small: bool) -> dict:
    """What the machine has."""
    from pr1kit.training.doctor import examine

    return examine()


def prefix(model: str, answer: int, small: bool) -> dict:
    """Equality of the shared prefix in the dtype that trains, speed and peak memory of an update against a row each."""
    from random_policies import random_policy

    from pr1kit.models.adapters import LoRASettings, add_lora
    from pr1kit.models.backends import half_precision
    from pr1kit.training.doctor import self_test

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if device.type == "cpu" else half_precision(device)
    policy = random_policy(model, device, dtype, small=small)
    return self_test(
        add_lora(policy.model.eval(), LoRASettings()), model, side=8 if small else 32, answer=24 if small else answer
    )


def profile(name: str, small: bool) -> dict:
    """Steps of the profile on its own model, on a card whose memory is capped at the profile's."""
    from bench_real_geometry import one
    from random_policies import random_policy

    from pr1kit.models.profiles import PROFILES

    with tempfile.TemporaryDirectory() as folder:
        policy = random_policy(PROFILES[name].model, dtype=torch.bfloat16, small=small)
        policy.model.save_pretrained(folder)
        policy.processor.save_pretrained(folder)
        del policy
        return {"model": PROFILES[name].model} | one(name, folder, 8 if small else 400, 4)


def rollouts_by_vllm(small: bool) -> dict:
    """Two steps with vLLM's rollouts; where it reads another prompt than it was sent, that is the failure."""
    from pr1kit.models.vllm import vllm_problem

    if problem := vllm_problem():
        return {"left out": problem}
    return steps(QWEN3, torch.bfloat16, small, {"use_vllm": True, "vllm_mode": "colocate"})


def float16(small: bool) -> dict:
    """Two steps in float16 with adapters, as on a T4: losses and gradients stay finite."""
    return steps("Qwen/Qwen3-VL-2B-Instruct", torch.float16, small, {})


def steps(model: str, dtype, small: bool, trl: dict) -> dict:
    """Two steps of GRPO on noise images from a saved checkpoint with random weights."""
    from bench_real_geometry import samples
    from random_policies import random_policy

    from pr1kit import load_policy
    from pr1kit.training.grpo import train_grpo
    from pr1kit.training.grpo_settings import PAPER

    with tempfile.TemporaryDirectory() as folder:
        policy = random_policy(model, dtype=dtype, small=small)
        policy.model.save_pretrained(folder)
        policy.processor.save_pretrained(folder)
        policy = load_policy(folder, dtype=dtype, lora=True, verbose=False)
        settings = replace(PAPER, steps=2, max_completion_length=8 if small else 64, learning_rate=1e-5)
        options = trl | {"save_strategy": "no", "report_to": "none"}
        started = time.perf_counter()
        log = train_grpo(policy, samples(4), Path(folder) / "run", settings, trl=options)
        finite = all(torch.isfinite(p).all().item() for p in policy.model.parameters() if p.requires_grad)
        return {"model": model, "seconds": round(time.perf_counter() - started, 1), "weights_finite": finite,
                "loss": [row.get("loss") for row in log]}  # fmt: skip


STEPS = {
    "doctor": doctor,
    "shared prefix, Qwen2.5-VL-3B, answers of 64": lambda small: prefix(QWEN25, 64, small),
    "shared prefix, Qwen3-VL-4B, answers of 64": lambda small: prefix(QWEN3, 64, small),
    "shared prefix, Qwen2.5-VL-3B, answers of 400": lambda small: prefix(QWEN25, 400, small),
    "shared prefix, Qwen3-VL-4B, answers of 400": lambda small: prefix(QWEN3, 400, small),
    "profile 16GB": lambda small: profile("16GB", small),
    "profile 24GB": lambda small: profile("24GB", small),
    "rollouts by vLLM": rollouts_by_vllm,
    "float16, as on a T4": float16,
}


def table(rows: list[dict]) -> str:
    """The results as Markdown, one row a step."""
    lines = ["| step | seconds | what was found |", "|---|---|---|"]
    for row in rows:
        found = row["found"].get("shared_prefix") if row["step"] == "doctor" else row["found"]
        found = found if isinstance(found, dict) else {"shared prefix": found}
        words = ", ".join(f"{key} {value}" for key, value in found.items() if value is not None)
        lines.append(f"| {row['step']} | {row['seconds']} | {words} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="two layers of each model; so it is without a GPU")
    parser.add_argument("--out", type=Path, help="default: data/benchmarks/gpu_<card>.jsonl")
    parser.add_argument("--step", choices=STEPS, help="(internal) run one step and print what it found as JSON")
    options = parser.parse_args()
    if options.step:
        print("RESULT " + json.dumps(STEPS[options.step](options.small)), flush=True)
        return
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    small = options.small or not torch.cuda.is_available()
    out = options.out or DATA / ("gpu_script_small.jsonl" if small else f"gpu_{card.lower().replace(' ', '_')}.jsonl")
    rows: list[dict] = []
    for step in STEPS:
        started = time.perf_counter()
        command = [sys.executable, __file__, "--step", step, *(["--small"] if small else [])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
            said = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            last = (done.stderr.strip().splitlines() or ["no result"])[-1][:300]
            found = json.loads(said[0].removeprefix("RESULT ")) if said else {"failed": last}
        except subprocess.TimeoutExpired:
            found = {"failed": f"not finished within {LIMIT} s"}
        seconds = round(time.perf_counter() - started)
        rows.append({"step": step, "card": card, "small": small, "seconds": seconds, "found": found})
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    out.with_suffix(".md").write_text(
        f"{card}{', two layers of each model: that the script runs' if small else ''}; "
        f"`python tests/benchmarks/gpu.py{' --small' if small else ''}`\n\n{table(rows)}\n"
    )


if __name__ == "__main__":
    main()
