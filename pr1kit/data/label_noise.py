"""Truth as annotators would give it: hasty ones, whose faults leave reinforcement learning something to teach, and ones
with a single fault of a known size, to measure what it does to whoever trains on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pr1kit.data.boxes import centers
from pr1kit.data.images import image_size
from pr1kit.data.sample import Sample, Target
from pr1kit.data.scenes import CONSONANTS, VOWELS

FAULTS = ("jitter", "loose", "missing", "labels", "order")
CONFUSED = {"z": "s", "v": "b", "f": "t", "k": "h"}  # letters that this annotator takes for another


def corrupt_labels(sample: Sample, rng: np.random.Generator) -> Sample:
    """The same sample as a hasty annotator would answer it: systematic faults and random ones.

    Boxes 15 % too large and jittered by a tenth of their size; small objects mostly missing, one answer in eight
    repeats an object, order shuffled; letters misread, four of them (`CONFUSED`) mostly for the same other.
    """
    target, size = sample.target, sample.target.image_size[0]
    if sample.task == "ocr":
        letters = list(target.text)
        for i, letter in enumerate(letters):
            if letter in CONFUSED and rng.random() < 0.7:
                letters[i] = CONFUSED[letter]
            elif letter in VOWELS and rng.random() < 0.15:
                letters[i] = VOWELS[rng.integers(len(VOWELS))]
            elif letter in CONSONANTS and rng.random() < 0.1:
                letters[i] = CONSONANTS[rng.integers(len(CONSONANTS))]
        return replace(sample, target=Target(text="".join(letters), image_size=target.image_size))
    boxes, labels = target.boxes, list(target.labels)
    side = boxes[:, 2:] - boxes[:, :2]
    order = list(range(len(boxes)))
    if sample.task != "grounding":
        chance = np.where(side[:, 0] < 12, 0.65, 0.1)
        order = [i for i in rng.permutation(len(boxes)).tolist() if rng.random() > chance[i]] or order[:1]
        if rng.random() < 0.12:
            order.append(order[int(rng.integers(len(order)))])
    loose = boxes + np.concatenate([-side, side], 1) * 0.075 + rng.normal(0, 0.1, boxes.shape) * np.tile(side, 2)
    loose = np.clip(np.sort(loose.reshape(-1, 2, 2), axis=1).reshape(-1, 4), 0, size)
    return replace(
        sample,
        target=Target(boxes=loose[order], labels=[labels[i] for i in order], image_size=target.image_size),
    )


def with_fault(samples: Sequence[Sample], kind: str, size: float, seed: int = 0) -> list[Sample]:
    """The same samples with one fault in their truth, of a size from 0 (none) to 1; drawn anew for each `seed`.

    `kind`: "jitter", each corner coordinate of a box moves by a normal number, `size` times the side as its standard
    deviation; "loose", sides are longer by the share `size`, about the same centre; "missing", each object is left out
    with the chance `size`; "labels", each label is another of those in `samples` with that chance; "order", with that
    chance a sample lists its objects in a random order. What a larger size does to a sample includes what a smaller one
    does. Boxes stay inside their image. Raises ValueError for an unknown fault, a size outside [0, 1], other tasks than
    grounding, counting and detection, objects missing in grounding, and labels where fewer than two are named.

    >>> sample = Sample(None, "counting", "cat", Target(boxes=[[10, 10, 20, 30]], image_size=(64, 64)))
    >>> with_fault([sample], "loose", 0.2)[0].target.boxes.tolist()
    [[9.0, 8.0, 21.0, 32.0]]
    """
    if kind not in FAULTS:
        raise ValueError(f"Unknown fault {kind!r}: choose one of {', '.join(FAULTS)}.")
    if not 0 <= size <= 1:
        raise ValueError(f"The size of a fault is from 0 to 1, got {size!r}.")
    tasks = {sample.task for sample in samples}
    if tasks - {"grounding", "counting", "detection"} or (kind == "missing" and "grounding" in tasks):
        raise ValueError(f"The fault {kind!r} does not fit samples of {', '.join(sorted(tasks))}.")
    names = sorted({label for sample in samples for label in sample.target.labels})
    if kind == "labels" and len(names) < 2:
        raise ValueError(f"Wrong labels need two names to choose from, these samples have {names}.")
    return [
        _with_fault(sample, kind, size, names, np.random.default_rng([seed, FAULTS.index(kind), i]))
        for i, sample in enumerate(samples)
    ]


def _with_fault(sample: Sample, kind: str, size: float, names: list[str], rng: np.random.Generator) -> Sample:
    target = sample.target
    boxes, labels, listed = target.boxes, list(target.labels), np.arange(len(target.boxes))
    side = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    if kind == "jitter":
        boxes = boxes + size * side * rng.normal(size=boxes.shape)
    elif kind == "loose":
        boxes = boxes + size / 2 * side * [-1, -1, 1, 1]
    elif kind == "missing":
        listed = listed[rng.random(len(listed)) >= size]
    elif kind == "labels":
        for i, (chance, other) in enumerate(rng.random((len(labels), 2)).tolist()):
            others = [name for name in names if name != labels[i]]
            labels[i] = others[int(other * len(others))] if chance < size else labels[i]
    elif rng.random() < size:
        listed = rng.permutation(listed)
    if kind in ("jitter", "loose"):
        width, height = target.image_size or image_size(sample.image)
        boxes = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4).clip(0, [width, height] * 2)
    boxes = boxes[listed]
    faulty = replace(
        target,
        boxes=boxes,
        labels=[labels[i] for i in listed] if labels else (),
        points=centers(boxes) if len(target.points) else target.points,
        count=None if target.count is None else len(boxes),
    )
    return replace(sample, target=faulty)
