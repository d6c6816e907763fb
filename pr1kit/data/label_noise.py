"""Answers as hasty annotators would give them: what leaves reinforcement learning something to teach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pr1kit.data.sample import Sample, Target
from pr1kit.data.scenes import CONSONANTS, VOWELS

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
