"""Which of several answers to one question do the others agree with most? The control for reflection: no critic.

Self-consistency for structured answers: the answer with the highest mean reward where each of the others in turn counts
as the truth (minimum Bayes risk decoding with the task's reward as the gain).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pr1kit.data.sample import Sample, Target
from pr1kit.rewards.score import read_answer, score_batch
from pr1kit.rewards.tracking import answered_tracks


def most_agreed(sample: Sample, completions: Sequence[str], frame: Any = "pixel") -> int:
    """The index of the answer that the others agree with most under the `kit` recipe; the first of equals.

    The sample's truth is not looked at, but for the size of its image. Raises ValueError without an answer.

    >>> sample = Sample(None, "counting", "cat", Target())
    >>> most_agreed(sample, ["(0,0),(9,9)", "(0,0),(9,8)", "(50,50),(60,60)"])
    0
    """
    if not completions:
        raise ValueError("There is no answer to choose from.")
    size, gains = sample.target.image_size, np.zeros(len(completions))
    for other in completions:
        answer = read_answer(sample.task, other, sample.target, frame)
        boxes = answer.boxes.clip(0, np.tile(size, 2)) if size else answer.boxes  # a true box lies in its image
        labels = answer.labels if sample.task == "detection" else ()
        if sample.is_video:
            count = len(sample.frames)
            known = answer.spans[answer.spans[:, 0] < count].clip(max=count - 1)
            tracks = answered_tracks(answer, count, size)
            truth = Target(tracks=tracks, spans=known, text=answer.text, image_size=size)
        else:
            truth = Target(boxes, labels, text=answer.text, image_size=size)
        results = score_batch(sample.task, completions, [truth] * len(completions), frame=frame)
        gains += [result.total for result in results]  # its own agreement too: 1 for each that can be read
    return int(np.argmax(gains))
