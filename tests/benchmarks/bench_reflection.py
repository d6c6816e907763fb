"""How long do three turns on 64 pictures take, and how many pictures are encoded?

    python tests/benchmarks/bench_reflection.py --out data/benchmarks/reflection_cpu.csv

The tiny policy with the reward critic, greedy counting answers of at most 96 tokens: seconds by the clock (median of
three) and processor seconds, beside the load of the machine; then three turns that encode each picture and read the
whole dialogue anew at every turn.
"""

import argparse
import csv
import os
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from pr1kit import RewardCritic, generate_completions, load_policy, make_scenes, reflect
from pr1kit.models.policy import chat, prompt_words
from pr1kit.rollouts.conversation import next_turn

SAMPLES, TURNS, LONGEST, REPEATS = 64, 3, 96, 3


def anew(policy, critic, samples) -> list[list[str]]:
    """The same dialogues without a cache that goes on: every turn is a prompt with all that was said before."""
    said, asked = [[] for _ in samples], list(samples)
    opening = policy.processor.apply_chat_template(chat(samples[0]), add_generation_prompt=True)
    opening = opening.rpartition(prompt_words(samples[0]))[2]
    for turn in range(TURNS):
        texts = generate_completions(policy, asked, max_new_tokens=LONGEST, keep_special_tokens=True)
        critiques = critic(samples, [each for (each,) in texts], ["pixel"] * len(samples))
        for i, ((text,), critique) in enumerate(zip(texts, critiques, strict=True)):
            said[i].append(text)
            if turn + 1 < TURNS:
                more = next_turn(policy, samples[i], critique.words).removesuffix(opening)
                asked[i] = replace(asked[i], prompt=f"{prompt_words(asked[i])}{opening}{text}{more}")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the rows to this CSV file")
    said = parser.parse_args()
    policy, critic = load_policy("tiny"), RewardCritic(enough=2.0)  # never content: all dialogues have all turns
    samples = make_scenes("counting", SAMPLES, seed=0, split="test")
    pictures, rows = [], []
    policy.core.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: pictures.append(len(kwargs.get("grid_thw", args[-1]))), with_kwargs=True
    )
    ways = {
        "one cache": lambda: [d.completions for d in reflect(policy, critic, samples, TURNS, max_new_tokens=LONGEST)],
        "each turn anew": lambda: anew(policy, critic, samples),
    }
    for name, work in ways.items():
        pictures.clear()
        completions = work()
        assert [len(each) for each in completions] == [TURNS] * SAMPLES
        encoded, clock, cpu = sum(pictures), [], []
        for _ in range(REPEATS):
            began = time.perf_counter(), time.process_time()
            work()
            clock.append(time.perf_counter() - began[0])
            cpu.append(time.process_time() - began[1])
        rows.append(
            {
                "way": name,
                "samples": SAMPLES,
                "turns": TURNS,
                "pictures_encoded": encoded,
                "seconds": f"{statistics.median(clock):.2f}",
                "cpu_seconds": f"{statistics.median(cpu):.2f}",
                "threads": torch.get_num_threads(),
                "cores": os.cpu_count(),
                "load": f"{os.getloadavg()[0]:.1f}",
                "machine": platform.machine(),
                "torch": torch.__version__,
            }
        )
        print(rows[-1], flush=True)
    if said.out:
        new = not said.out.exists()
        with said.out.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
