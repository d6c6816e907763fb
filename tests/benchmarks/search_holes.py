"""Is there an answer that the kit's reward pays better than honesty? A local search over answers.

    OMP_NUM_THREADS=1 python tests/benchmarks/search_holes.py --answers 1000000      # about 5 minutes of one core

Scenes are rows and grids of touching objects and random ones, some overlapping. Answers begin as honest ones, as copies
of a box over everything, or as every label tried on every box; a step moves an edge or a box, copies a box a few pixels
off, renames, adds or removes one, and is kept where it narrows the gap to what honesty earns. Checked at every answer:

1. it earns at most what its honest part earns: for each object the best of the boxes that overlap it most;
2. it earns at most k / m, what k exact boxes earn, where k objects of m are in its honest part;
3. a box over everything earns less than one exact box and one false one, for two objects or more.

1 and 2 hold where no two objects of a class overlap by more than 0.6: beyond, one box may be both. Printed are the
answers tried and the largest excess over each bound, which must not be above 0, and what the best answer earns that has
no box of an IoU of 0.5: loose boxes are paid for what they are.
"""

import argparse

import numpy as np

from pr1kit.data.boxes import iou
from pr1kit.data.sample import Target
from pr1kit.rewards.counting import kit as counting
from pr1kit.rewards.detection import kit as detection
from pr1kit.rewards.matching import own_share
from pr1kit.rewards.results import Answer
from pr1kit.rewards.tasks import Options

SIDE, LABELS, RULES = 64, ("cat", "dog", "owl"), {"counting": counting, "detection": detection}


def make_scene(rng, task):
    kind, size = rng.integers(3), int(rng.integers(6, 16))
    if kind == 0:
        boxes = [[i * size, 20, (i + 1) * size, 20 + size] for i in range(rng.integers(2, 5))]
    elif kind == 1:
        boxes = [[x * size, y * size, (x + 1) * size, (y + 1) * size] for x in range(2) for y in range(2)]
    else:
        corner = rng.integers(0, SIDE - 20, (rng.integers(1, 6), 2))
        boxes = np.hstack([corner, corner + rng.integers(4, 20, corner.shape)])
    names = [LABELS[i] for i in rng.integers(0, 1 + rng.integers(3), len(boxes))]
    return Target(boxes=np.array(boxes, float), labels=names if task == "detection" else ["cat"] * len(boxes))


def first_answer(rng, target):
    boxes, labels = target.boxes, target.labels
    everything = [*boxes[:, :2].min(0), *boxes[:, 2:].max(0)]
    kind = rng.integers(3)
    if kind == 0:
        chosen = rng.permutation(len(boxes))[: rng.integers(1, len(boxes) + 1)]
        return [(boxes[i].tolist(), labels[i]) for i in chosen]
    if kind == 1:
        return [(np.add(everything, rng.integers(-2, 3, 4)).tolist(), label) for label in labels]
    return [(box.tolist(), name) for box in boxes for name in set(labels)]


def step(rng, said):
    said = list(said)
    i, how = int(rng.integers(len(said))), rng.integers(6)
    (box, label), reach = said[i], int(rng.choice([1, 1, 2, 4, 8]))
    if how == 0:
        said[i] = (np.add(box, np.tile(rng.integers(-reach, reach + 1, 2), 2)).tolist(), label)
    elif how in (1, 2):
        edge = np.zeros(4)
        edge[rng.integers(4)] = rng.choice([-reach, reach])
        said[i] = (np.add(box, edge).tolist(), label)
    elif how == 3 and len(said) < 12:
        said.append((np.add(box, rng.integers(-reach, reach + 1, 4)).tolist(), label))
    elif how == 4 and len(said) > 1:
        del said[i]
    else:
        said[i] = (box, str(rng.choice(LABELS)))
    return [(box, label) for box, label in said if box[0] <= box[2] and box[1] <= box[3]] or [said[0]]


def earn(task, said, target):
    boxes = np.array([box for box, _ in said], float).reshape(-1, 4)
    answer = Answer(boxes=boxes, labels=tuple(label for _, label in said), format_score=1.0)
    return RULES[task](answer, target, Options()).total


def honest_part(task, said, target):
    """For each object the box that earns most of those that overlap it most."""
    overlap = iou(np.array([box for box, _ in said], float), target.boxes)
    if task == "detection":
        overlap = overlap * np.array([[label == name for name in target.labels] for _, label in said])
    hit = overlap >= (0.5 if task == "detection" else 0.1)
    paid = (overlap + hit) * own_share(overlap, target.boxes)
    return [said[paid[:, t].argmax()] for t in range(len(target.boxes)) if paid[:, t].any()]


def search(answers, seed=0):
    """The largest excess over bounds 1, 2 and 3, and the most earned without a box of IoU 0.5, in `answers` answers."""
    rng, tried, excess, loose = np.random.default_rng(seed), 0, [-1.0, -1.0, -1.0], {"counting": 0.0, "detection": 0.0}
    while tried < answers:
        task = ("counting", "detection")[int(rng.integers(2))]
        target = make_scene(rng, task)
        boxes, m = target.boxes, len(target.boxes)
        if (iou(boxes, boxes) - np.eye(m)).max() > 0.6:
            continue
        if m > 1:
            false = [(boxes[0].tolist(), target.labels[0]), ([90.0, 90, 99, 99], target.labels[0])]
            everything = ([*boxes[:, :2].min(0), *boxes[:, 2:].max(0)], target.labels[0])
            if iou(np.array([everything[0]], float), boxes).max() < 0.99:  # else it is the exact box of one
                excess[2] = max(excess[2], earn(task, [everything], target) - earn(task, false, target))
        said, best = first_answer(rng, target), -np.inf
        for _ in range(60):
            tried += 1
            new = step(rng, said)
            total, honest = earn(task, new, target), honest_part(task, new, target)
            gaps = total - (earn(task, honest, target) if honest else 0.0), total - len(honest) / m
            excess[:2] = [max(pair) for pair in zip(excess, gaps)]  # noqa: B905
            if iou(np.array([box for box, _ in new], float), boxes).max() < 0.5:
                loose[task] = max(loose[task], total)
            if (value := max(gaps) + 0.1 * total) >= best:
                said, best = new, value
    return tried, excess, loose


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    tried, excess, loose = search(**vars(parser.parse_args()))
    print(f"{tried:,} answers; the largest excess over the honest part {excess[0]:.2e}, over k/m {excess[1]:.2e}, of a")
    print(
        f"box over everything over one exact and one false {excess[2]:.3f}; the most without a box of IoU 0.5: {loose}"
    )
