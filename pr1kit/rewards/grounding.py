"""Grounding: one phrase, one box.

Asked for "the red circle", a perfect answer is its one box; an answer earns how much of it overlaps.

    kit       IoU of the matched box / max(boxes answered, boxes true); a malformed box counts as answered
    paper     IoU of the first box + format                                    (Perception-R1, section 4.1)
    released  IoU² of the first box + format                                   (the official code)
    released-strict  the same, read and gated as the official code does it, see `official`

`format` is 1 where every item is well formed and there is one, else 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pr1kit.data.boxes import box_iou, centers, iou
from pr1kit.data.sample import Target
from pr1kit.rewards.matching import aggregate, match, own_share
from pr1kit.rewards.parsing import boxed, build_prompt, read_places
from pr1kit.rewards.results import Answer, RewardResult
from pr1kit.rewards.tasks import KIT_RULES, Options, Rules, says_nothing

COLUMNS = (("boxes",),)
PARTS = dict.fromkeys(("kit", "paper", "released", "released-strict"), ("format", "location"))


def prompt(question: str, thinking: bool = False) -> str:
    """The user's words for the phrase `question`.

    >>> prompt("red circle")
    'Output the bounding box of the red circle in the image.'
    """
    return build_prompt(f"Output the bounding box of the {question} in the image.", thinking)


def write_answer(target: Target, *, label: str = "", recipe: str = "kit") -> str:
    """The supervised answer: the phrase `label`, then the target's box rounded, in the target's frame; or `None`.

    Every `recipe` pays this layout.

    >>> write_answer({"boxes": [[1, 2, 3.2, 4]]}, label="red circle")
    '<|object_ref_start|>red circle<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>'
    """
    return "".join(boxed(label, box) for box in Target.of(target).boxes) or "None"


def parse(completion: Any) -> Answer:
    """Boxes `(N, 4)` of a completion, in its own frame; a perfect answer has one."""
    return read_places(completion)


def kit(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 1]: the IoU, shared among all the boxes written, so that guessing twice halves it."""
    if not len(target.boxes):
        return RewardResult(float(says_nothing(answer)), {"format": answer.format_score}, reason=answer.reason)
    written = len(answer.boxes) + (answer.malformed if "format" not in options.drop else 0)
    scores = iou(answer.boxes, target.boxes)
    pairs = match(scores * own_share(scores, target.boxes), options.matching)
    location = aggregate(sum(score for *_, score in pairs), written, len(target.boxes), options.aggregate)
    parts = {"format": answer.format_score, "location": location}
    total = answer.format_score if "location" in options.drop else location
    return RewardResult(total, parts, tuple(pairs), answer.reason)


def paper(answer: Answer, target: Target, options: Options, power: int = 1) -> RewardResult:
    """In [0, 2]: format and the IoU of the first box, as written; further boxes are not looked at."""
    overlap = box_iou(answer.boxes[0].tolist(), target.boxes[0].tolist()) if _both(answer, target) else 0.0
    location = overlap**power if len(target.boxes) else float(says_nothing(answer))
    parts = {"format": float(answer.format_score == 1), "location": location}
    total = sum(value for name, value in parts.items() if name not in options.drop)
    return RewardResult(total, parts, ((0, 0, overlap),) if overlap else (), answer.reason)


def released(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 2]: as `paper`, with the IoU squared."""
    return paper(answer, target, options, power=2)


RECIPES = {"kit": kit, "paper": paper, "released": released, "released-strict": released}


def metrics(answers: list[Answer], targets: list[Target], rules: Rules = KIT_RULES) -> dict[str, np.ndarray]:
    """Per-sample values `(S,)` of the first box: Acc@t, their mean, IoU, whether its centre lies in the true box.

    Officially an IoU of exactly t is a miss: an epsilon stands in its denominator.
    """
    overlap, inside = np.zeros(len(answers)), np.zeros(len(answers))
    for i, (answer, target) in enumerate(zip(answers, targets, strict=True)):
        if _both(answer, target):
            box, truth = answer.boxes[0], target.boxes[0]
            overlap[i] = box_iou(box.tolist(), truth.tolist())
            (x, y), (x1, y1, x2, y2) = centers(box[None])[0], truth
            inside[i] = x1 <= x <= x2 and y1 <= y <= y2
        elif not len(target.boxes):
            overlap[i] = inside[i] = says_nothing(answer)
    reached = np.greater if rules.official else np.greater_equal
    hits = {f"acc@{t}": reached(overlap, t).astype(float) for t in (0.5, 0.75, 0.95)}
    average = np.mean(list(hits.values()), axis=0)
    loose = {f"acc@{t}": reached(overlap, t).astype(float) for t in (0.1, 0.3)}
    return {**hits, "acc_avg": average, "mean_iou": overlap, "center_in_box": inside, **loose}


def _both(answer: Answer, target: Target) -> bool:
    return len(answer.boxes) > 0 and len(target.boxes) > 0
