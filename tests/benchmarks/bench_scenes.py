"""Scenes and clips per second on one core: `python tests/benchmarks/bench_scenes.py`."""

import time

from pr1kit import make_clips, make_scenes
from pr1kit.data.sample import IMAGE_TASKS, VIDEO_TASKS

if __name__ == "__main__":
    for task in IMAGE_TASKS:
        rates = []
        for seed in range(5):
            started = time.perf_counter()
            make_scenes(task, 400, seed)
            rates.append(400 / (time.perf_counter() - started))
        print(f"{task:10s} {sorted(rates)[2]:6.0f} scenes/s (median of 5)")
    for task in VIDEO_TASKS:
        rates = []
        for seed in range(5):
            started = time.process_time()
            make_clips(task, 100, seed)
            rates.append(100 / (time.process_time() - started))
        print(f"{task:10s} {sorted(rates)[2]:6.0f} clips of 8 frames/s of processor time (median of 5)")
