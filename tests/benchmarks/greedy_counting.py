"""Does GRPO cost greedy counting accuracy? The demo's policies on 2,000 further scenes, paired with the start.

python -m pr1kit demo --seeds 0 1 2 --out runs/seeds
python tests/benchmarks/greedy_counting.py runs/seeds
"""

import sys
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from pr1kit import evaluate, generate_completions, load_policy, make_scenes

if __name__ == "__main__":
    scenes = make_scenes("counting", 2000, 300, split="test")

    def measure(name):
        completions = generate_completions(load_policy(name), scenes, max_new_tokens=96)
        return evaluate("counting", completions, [scene.target for scene in scenes])

    before = measure("tiny-demo")
    print(f"before: accuracy {before['accuracy']:.3f}")
    for run in sorted(Path(sys.argv[1]).glob("seed-*/counting/rl")):
        change, low, high = measure(get_last_checkpoint(str(run))).difference(before, "accuracy")
        print(f"{run.parts[-3]}: {change:+.3f} [{low:+.3f}, {high:+.3f}]")
