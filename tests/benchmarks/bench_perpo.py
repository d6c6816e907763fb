"""What does one packed row for all candidates of a prompt save, and how long does a whole PerPO run take?

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_perpo.py --only list --out data/benchmarks/perpo_cpu.csv
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_perpo.py --only run --out data/benchmarks/perpo_run_cpu.csv

`list`: loss and gradient of one list of N = 20 answers of R = 40 tokens to a prompt of P = 298 (5 million parameters),
one packed row against a row for each answer: median processor seconds of runs that alternate, and the peak of memory
that each adds to a process of its own. `run`: sampling, reference and training of the tiny policy on 1,000 prompts × 20
candidates, by the clock and in processor seconds, beside the machine's load.
"""

import argparse
import csv
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from bench_shared_prefix import IMAGE_SIDE, QUESTION, alternating, random_policy, token_ratio

from pr1kit import load_policy, make_candidates, make_scenes, train_perpo
from pr1kit.models.policy import chat
from pr1kit.training.preference_loss import method_weights, preference_loss
from pr1kit.training.preference_settings import TINY_PERPO
from pr1kit.training.shared_prefix.logprobs import row_logprobs, shared_logprobs

WAYS = {"a row for each answer": row_logprobs, "one packed row": shared_logprobs}
PROMPT, ANSWER, N = 298, 40, 20


def list_of_answers():
    """A policy of random weights, a prompt of `PROMPT` tokens, and the work of one list in each of `WAYS`."""
    policy = random_policy("5M")
    scene = replace(make_scenes("detection", 1, 0, image_size=IMAGE_SIDE[PROMPT])[0], question=QUESTION)
    text = policy.processor.apply_chat_template(chat(scene), add_generation_prompt=True)
    prompt = dict(policy.processor(text=[text], images=[scene.load_image()], return_tensors="pt"))
    torch.manual_seed(0)
    answers = torch.randint(300, 700, (N, ANSWER))  # no special tokens
    weights = torch.tensor(method_weights("perpo", torch.rand(N).tolist()), dtype=torch.float32)
    reference, lengths = torch.full((N,), -280.0), torch.full((N,), ANSWER)

    def work(way):
        logps = WAYS[way](policy.model, prompt, answers).sum(1)
        loss = preference_loss("perpo", logps, reference, lengths, weights)
        loss.backward()
        policy.model.zero_grad()
        return loss.item()

    return work, prompt["input_ids"].shape[1]


def peak_memory(way: str) -> int:
    """Bytes that loss and gradient add at their peak to a process that holds the model."""
    work, _ = list_of_answers()
    before = psutil.Process().memory_info().rss
    work(way)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def bench_list(runs: int) -> list[dict]:
    memory = {}
    for way in WAYS:  # first: a new process begins with its parent's peak
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            memory[way] = process.submit(peak_memory, way).result() / 2**20
    work, tokens = list_of_answers()
    losses = {way: work(way) for way in WAYS}
    times = alternating({way: lambda way=way: work(way) for way in WAYS}, runs)
    one, packed = WAYS
    print(f"{times[one] / times[packed]:.2f} times faster (tokens: {token_ratio(tokens, ANSWER, N):.2f})")
    print(f"peak memory 1/{memory[one] / memory[packed]:.2f}")
    return [
        {"way": way, "prompt": tokens, "answer": ANSWER, "answers": N, "loss": round(losses[way], 5),
         "processor_s": round(times[way], 3), "peak_mib": round(memory[way], 1)}
        for way in WAYS
    ]  # fmt: skip


def bench_run(prompts: int, task: str) -> list[dict]:
    policy, clocks = load_policy("tiny"), [(time.perf_counter(), time.process_time())]
    lists = make_candidates(policy, make_scenes(task, prompts, 0), N, max_new_tokens=TINY_PERPO.max_completion_length)
    clocks.append((time.perf_counter(), time.process_time()))
    with tempfile.TemporaryDirectory() as folder:
        steps = len(train_perpo(policy, lists, folder, TINY_PERPO))
    clocks.append((time.perf_counter(), time.process_time()))
    rows = []
    for part, start, end in (("sampling", 0, 1), ("training", 1, 2), ("both", 0, 2)):
        wall, used = (clocks[end][i] - clocks[start][i] for i in (0, 1))
        rows.append({"task": task, "prompts": prompts, "answers": N, "steps": steps, "part": part, "seconds":
                     round(wall, 1), "processor_s": round(used, 1), "load": round(os.getloadavg()[1], 1)})  # fmt: skip
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["list", "run"], default="list")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--task", default="grounding")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = f"{torch.get_num_threads()} CPU threads, {platform.machine()}"
    found = bench_list(arguments.runs) if arguments.only == "list" else bench_run(arguments.prompts, arguments.task)
    rows = [row | {"device": device} for row in found]
    for row in rows:
        print(row)
    if arguments.out:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
