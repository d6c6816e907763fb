"""What does a GRPO step of a real-sized model take on each profile? Time, tokens per second, peak memory, one GPU.

    python tests/benchmarks/bench_real_geometry.py --out real_geometry.csv            # about 10 minutes on an H100

Random weights at the geometry of Qwen2.5-VL-3B (or --model Qwen2-VL-2B), saved once and read by `load_policy` with each
profile as a real checkpoint would be; then `train_grpo`: 2 prompts of about 1,000 image tokens, 8 completions each,
all at full length, KL term included. Each profile runs in a process of its own whose memory is capped to the profile's
size, less what the CUDA context takes. The first steps warm up (the first also checks the shared prefix) and are not
counted.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from bench_shared_prefix import random_policy
from PIL import Image

from pr1kit import load_policy
from pr1kit.data.sample import Sample, Target
from pr1kit.models.memory import GIB, estimate_run
from pr1kit.models.profiles import PROFILES
from pr1kit.training.grpo import train_grpo
from pr1kit.training.grpo_settings import PAPER

WIDTH, HEIGHT = 1120, 700  # 40 × 25 tokens of 28 × 28 pixels
WARM_UP = 2
CONTEXT = 0.5 * GIB  # what CUDA itself holds of a card


class Clock:
    """A progress bar that notes when each step ended."""

    n = 0

    def __init__(self, device):
        self.device, self.ends = device, []

    def update(self, steps):
        self.n += steps
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        if self.n == WARM_UP and self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def set_postfix(self, values):
        pass


def samples(count: int) -> list[Sample]:
    """Noise images with one box each."""
    rng = np.random.default_rng(0)
    pictures = (Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)) for _ in range(count))
    truth = Target(boxes=[[100, 100, 300, 300]], labels=["thing"])
    return [Sample(picture, "grounding", "thing", truth, f"noise/{i}") for i, picture in enumerate(pictures)]


def save_random(model: str, folder: Path, device: str) -> None:
    """A checkpoint with random weights; `model` is one of `bench_shared_prefix.SIZES`."""
    policy = random_policy(model, device, torch.bfloat16)
    policy.model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)


def one(profile: str, policy_folder: str, answer: int, steps: int) -> dict:
    """Run `steps` steps and measure those after the warm-up."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = PROFILES[profile].memory
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (size - CONTEXT) / total))
    policy = load_policy(policy_folder, profile=profile, **({} if device == "cuda" else {"dtype": "float32"}))
    optim = PROFILES[profile].optim if device == "cuda" else "adamw_torch"
    settings = replace(
        PAPER, steps=steps, max_completion_length=answer, learning_rate=PROFILES[profile].learning_rate, optim=optim
    )
    estimate = estimate_run(policy, settings)
    clock = Clock(device)
    with tempfile.TemporaryDirectory() as folder:
        log = train_grpo(
            policy, samples(4), folder, settings, bar=clock, trl={"save_strategy": "no", "report_to": "none"}
        )
    seconds = np.diff(clock.ends)[WARM_UP - 1 :]
    tokens = np.diff([row["num_tokens"] for row in log])[WARM_UP - 1 :]
    return {
        "profile": profile,
        "answer": answer,
        "step_s": round(float(np.median(seconds)), 3),
        "tokens_per_s": round(float(np.median(tokens / seconds))),
        "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2) if device == "cuda" else "",
        "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 2) if device == "cuda" else "",
        "estimated_gib": round(estimate.total / GIB, 2),
        "cap_gb": size / 1e9 if device == "cuda" else "",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="Qwen2.5-VL-3B")
    parser.add_argument("--policy", default="", help="a saved checkpoint instead of random weights")
    parser.add_argument("--profiles", nargs="+", default=list(PROFILES))
    parser.add_argument("--answers", nargs="+", type=int, default=[64, 400])
    parser.add_argument("--steps", type=int, default=5 + WARM_UP)
    parser.add_argument("--out", default="")
    parser.add_argument("--one", action="store_true", help="(internal) measure the first profile and answer, as JSON")
    options = parser.parse_args()
    if options.one:
        result = one(options.profiles[0], options.policy, options.answers[0], options.steps)
        print("RESULT " + json.dumps(result), flush=True)
        return
    rows = []
    with tempfile.TemporaryDirectory() as kept:
        folder = options.policy or kept
        if not options.policy:
            save_random(options.model, Path(kept), "cuda" if torch.cuda.is_available() else "cpu")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        for profile in options.profiles:
            for answer in options.answers:
                command = [sys.executable, __file__, "--one", "--policy", folder, "--profiles", profile]
                command += ["--answers", str(answer), "--steps", str(options.steps)]
                done = subprocess.run(command, capture_output=True, text=True)
                found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                row = {"model": options.policy or options.model, "profile": profile, "answer": answer}
                last = done.stderr.strip().splitlines()[-1:] or ["no result"]
                row |= json.loads(found[0].removeprefix("RESULT ")) if found else {"failed": last[0][:300]}
                rows.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
                if options.out:
                    with Path(options.out).open("w", newline="") as file:
                        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
                        writer.writeheader()
                        writer.writerows(rows)


if __name__ == "__main__":
    main()
