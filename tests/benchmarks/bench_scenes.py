"""Scenes per second on one core: `python tests/benchmarks/bench_scenes.py`."""

import time

from pr1kit import make_scenes
from pr1kit.data.sample import IMAGE_TASKS

if __name__ == "__main__":
    for task in IMAGE_TASKS:
        rates = []
        for seed in range(5):
            started = time.perf_counter()
            make_scenes(task, 400, seed)
            rates.append(400 / (time.perf_counter() - started))
        print(f"{task:10s} {sorted(rates)[2]:6.0f} scenes/s (median of 5)")
