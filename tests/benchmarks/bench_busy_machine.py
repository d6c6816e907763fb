"""What does a training step cost beside other processes? The settings of torch's OpenMP threads, quiet and busy.

    python tests/benchmarks/bench_busy_machine.py --out data/benchmarks/busy_machine_cpu.csv

After each parallel region the threads of OpenMP spin at a barrier; where another process holds a core, they spin for as
long as that process is let run. One worker for each setting takes the same step in turn (tiny policy, grounding, 16
prompts × 8 completions, shared prefix), first alone, then beside two busy loops; `--numerical` adds a column beside two
jobs that multiply matrices on two threads each. Seconds are medians and, in brackets, the fastest step; `others` are
the cores that processes which are not of this benchmark held meanwhile: 0.0 on a quiet machine. Where others do run,
`--nice -20` (as root) lets the benchmark's own processes go before them while it measures.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SETTINGS = (
    {"GOMP_SPINCOUNT": "300000"},  # what libgomp takes where nothing is set
    {"GOMP_SPINCOUNT": "10000"},
    {"GOMP_SPINCOUNT": "1000"},
    {"OMP_WAIT_POLICY": "PASSIVE"},
    {"OMP_NUM_THREADS": "1"},
)
OURS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
LOADS = {"quiet": None, "loops": "while True: pass"}
NUMERICAL = "import torch; torch.set_num_threads(2); a = torch.rand(300, 300)\nwhile True: a @ a"
TICKS = os.sysconf("SC_CLK_TCK")


def work() -> None:
    """Take a step for each line that is read, and write its seconds."""
    import torch
    from bench_shared_prefix import make_trainer

    from pr1kit import load_policy

    trainer = make_trainer(load_policy("tiny"), True, prompts=16, group=8, answer=96, task="grounding")
    batch = next(iter(trainer.get_train_dataloader()))
    print("ready", flush=True)
    for _ in sys.stdin:
        torch.manual_seed(0)
        trainer._step = 0
        started = time.perf_counter()
        trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).backward()
        trainer.model.zero_grad()
        print(time.perf_counter() - started, flush=True)


def start(code_or_file: list[str], environment: dict) -> subprocess.Popen:
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *code_or_file], env=kept | environment, **pipes)


def busy_seconds(processes) -> float:
    """CPU seconds of the whole machine that none of `processes` took."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    taken = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        taken += int(fields[11]) + int(fields[12])
    return (user + nice + system + irq + softirq - taken) / TICKS


def step(worker: subprocess.Popen) -> float:
    worker.stdin.write("step\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def measure(
    workers: dict[str, subprocess.Popen], code: str | None, runs: int, realtime: bool
) -> tuple[dict[str, list], float]:
    """Seconds of the steps by setting, and the cores that others held, with two processes of `code` beside it."""
    beside = [start(["-c", code], {}) for _ in range(2 if code else 0)]
    try:
        time.sleep(5 if code else 0)
        for worker in workers.values():
            for thread in map(int, os.listdir(f"/proc/{worker.pid}/task")):
                policy = (os.SCHED_RR, os.sched_param(1)) if realtime else (os.SCHED_OTHER, os.sched_param(0))
                os.sched_setscheduler(thread, *policy)
        all_of_ours, started = [*workers.values(), *beside], time.perf_counter()
        before = busy_seconds(all_of_ours)
        times = {name: [] for name in workers}
        for _ in range(runs):
            for name, worker in workers.items():
                times[name].append(step(worker))
        others = (busy_seconds(all_of_ours) - before) / (time.perf_counter() - started)
    finally:
        for process in beside:
            process.kill()
            process.wait()
    return times, max(0.0, others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--realtime", action="store_true", help="as root: before others in the quiet column")
    parser.add_argument("--numerical", action="store_true", help="also beside two numerical jobs: minutes")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work()
    workers = {
        " ".join(f"{name}={value}" for name, value in setting.items()): start([__file__, "--work"], setting)
        for setting in SETTINGS
    }
    for worker in workers.values():
        assert worker.stdout.readline() == "ready\n"
        step(worker)  # the first warms up
    rows = {name: {"setting": name} for name in workers}
    for load, code in (LOADS | ({"numerical": NUMERICAL} if options.numerical else {})).items():
        times, others = measure(workers, code, options.runs, options.realtime and code is None)
        for name, seconds in times.items():
            rows[name] |= {
                f"{load}_s": f"{np.median(seconds):.2f} ({min(seconds):.2f})",
                f"{load}_others": f"{others:.1f}",
            }
        for output in [sys.stdout, *([options.out.open("w", newline="")] if options.out else [])]:
            how = ", --realtime in the quiet column" if options.realtime else ""
            print(f"# median (fastest) of {options.runs} steps, {os.cpu_count()} cores{how}", file=output)
            writer = csv.DictWriter(output, list(next(iter(rows.values()))))
            writer.writeheader()
            writer.writerows(rows.values())
            output.flush()
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()


if __name__ == "__main__":
    main()
