"""How long does scoring take, and against a plain per-completion implementation in the style of public code?

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_rewards.py            # a batch of 512 completions, 8 boxes each
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_rewards.py --coco     # and 5,000 images' COCO evaluation

Best of seven runs of processor time, one core. The plain version evaluates nothing and is as correct as the public ones
are: a regular expression, loops over pairs, the Hungarian algorithm.
"""

import json
import re
import sys
import time
from functools import partial

import numpy as np
from scipy.optimize import linear_sum_assignment

from pr1kit.data.sample import Target
from pr1kit.evaluation.average_precision import answers_table
from pr1kit.rewards.score import RECIPES, read_answer, score_batch
from pr1kit.rewards.tasks import get_task

BATCH, OBJECTS, SIDE = 512, 8, 640
LIMIT_MS = {"grounding": 60, "counting": 60, "detection": 150}
STEP_S = 2.0  # an update of the tiny policy on 128 completions; real models take longer


def scene(rng, n):
    corner = rng.integers(0, SIDE - 150, (n, 2))
    return np.concatenate([corner, corner + rng.integers(20, 150, (n, 2))], axis=1).astype(float)


def make(task, rng, count=BATCH, objects=OBJECTS):
    """`count` completions that are nearly right, of `objects` boxes each, and their targets."""
    completions, targets = [], []
    for _ in range(count):
        truth, labels = scene(rng, objects), rng.choice(["cat", "dog", "bird", "traffic light"], objects).tolist()
        said = np.clip(truth + rng.integers(-6, 7, truth.shape), 0, SIDE)
        said[:, 2:] = np.maximum(said[:, 2:], said[:, :2])
        if task == "grounding":
            truth, said = truth[:1], np.concatenate([said[:1], scene(rng, objects - 1)])
        completions.append(get_task(task).write_answer({"boxes": said, "labels": labels}, label="cat"))
        targets.append({"boxes": truth.tolist(), "labels": labels[: len(truth)], "image_size": [SIDE, SIDE]})
    return completions, targets


def plain_iou(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0.0


def plain(task, completions, targets):
    rewards = []
    for completion, target in zip(completions, targets, strict=True):
        if task == "detection":
            items = json.loads(completion)
            boxes, labels = [item["bbox_2d"] for item in items], [item["label"] for item in items]
        else:
            found = re.findall(r"\((\d+),(\d+)\),\((\d+),(\d+)\)", completion)
            boxes, labels = [[float(value) for value in box] for box in found], None
        cost = np.zeros((len(boxes), len(target["boxes"])))
        for i, box in enumerate(boxes):
            for j, truth in enumerate(target["boxes"]):
                same = labels is None or labels[i] == target["labels"][j]
                cost[i, j] = -plain_iou(box, truth) * same
        rows, columns = linear_sum_assignment(cost)
        rewards.append(-cost[rows, columns].sum() / max(cost.shape))
    return rewards


def best_ms(call, runs=7):
    times = []
    for _ in range(runs):
        start = time.process_time()
        call()
        times.append((time.process_time() - start) * 1e3)
    return min(times)


def rewards_table():
    print(f"{BATCH} completions, {OBJECTS} boxes each: ms of one core")
    print(
        f"{'task':<12}" + "".join(f"{recipe:>17}" for recipe in RECIPES) + f"{'plain':>8}{'kit/plain':>11}{'limit':>7}"
    )
    for task, limit in LIMIT_MS.items():
        batch = make(task, np.random.default_rng(0))
        times = [best_ms(partial(score_batch, task, *batch, recipe=recipe)) for recipe in RECIPES]
        other = best_ms(partial(plain, task, *batch))
        shown = "".join(f"{each:17.1f}" for each in times)
        print(f"{task:<12}{shown}{other:8.1f}{times[0] / other:11.2f}{limit:7}")
        print(f"{'':<12}{times[0] / BATCH * 128 / 1e3 / STEP_S:.1%} of a step of {STEP_S:g} s with 128 completions")


def coco_evaluation(images=5000):
    rng = np.random.default_rng(0)
    completions, targets = make("detection", rng, images, objects=7)
    truths = [Target.of(target) for target in targets]
    start = time.process_time()
    answers = [read_answer("detection", *pair) for pair in zip(completions, truths, strict=True)]
    table = answers_table(answers, truths)
    evaluated = time.process_time() - start
    start = time.process_time()
    for _ in range(200):
        table.weighted("ap", rng.multinomial(images, np.full(images, 1 / images)).astype(float))
    print(f"\nCOCO evaluation of {images} images, {images * 7} boxes: {evaluated:.1f} s (limit 30 s)")
    print(f"200 bootstrap resamples of AP: {time.process_time() - start:.1f} s")


if __name__ == "__main__":
    rewards_table()
    if "--coco" in sys.argv:
        coco_evaluation()
