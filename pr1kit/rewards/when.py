"""When: in which frames is something so?

    kit   frames both said and true / frames said or true; a malformed span counts as a frame said wrongly

After Unhackable Temporal Rewarding (arXiv 2502.12081), which asks for times as well as for places; its authors released
no reward, so this one is ours alone. Frames are written from 1 on: `Frame 2-5;Frame 8`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pr1kit.data.sample import Target
from pr1kit.rewards.matching import aggregate
from pr1kit.rewards.parsing import build_prompt, read_frames
from pr1kit.rewards.results import Answer, RewardResult
from pr1kit.rewards.tasks import KIT_RULES, Options, Rules, says_nothing

COLUMNS = (("spans",),)
PARTS = {"kit": ("format", "time")}


def prompt(question: str, thinking: bool = False) -> str:
    """The user's words for what `question` asks, such as "is the red circle hidden".

    >>> prompt("is the red circle hidden")
    'In which frames is the red circle hidden? Answer as Frame a-b;…'
    """
    return build_prompt(f"In which frames {question}? Answer as Frame a-b;…", thinking)


def write_answer(target: Target, *, label: str = "", recipe: str = "kit") -> str:
    """The supervised answer: every span of frames, counted from 1; or `None`.

    >>> write_answer({"spans": [[1, 4], [7, 7]]})
    'Frame 2-5;Frame 8'
    """
    spans = (Target.of(target).spans + 1).tolist()
    return ";".join(f"Frame {a}-{b}" if a < b else f"Frame {a}" for a, b in spans) or "None"


def parse(completion: Any) -> Answer:
    """The spans `(K, 2)` of frames, from 0, that a completion names."""
    return read_frames(completion)


def kit(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 1]: the intersection over union of two sets of frames."""
    if not len(target.spans):
        return RewardResult(float(says_nothing(answer)), {"format": answer.format_score}, reason=answer.reason)
    said, true = _joined(answer.spans), _joined(target.spans)
    n, m = _length(said), _length(true)
    both = n + m - _length(_joined(np.concatenate([said, true])))
    wrong = answer.malformed if "format" not in options.drop else 0
    union = n + m - both + wrong
    by = (union, union) if options.aggregate == "max" else (n + wrong, m)
    time = aggregate(both, *by, options.aggregate)
    total = answer.format_score if "time" in options.drop else time
    return RewardResult(total, {"format": answer.format_score, "time": time}, reason=answer.reason)


def _joined(spans: np.ndarray) -> np.ndarray:
    """The same frames in spans that neither overlap nor repeat."""
    joined: list[list[int]] = []
    for first, last in sorted(spans.tolist()):
        if joined and first <= joined[-1][1] + 1:
            joined[-1][1] = max(joined[-1][1], last)
        else:
            joined.append([first, last])
    return np.array(joined, int).reshape(-1, 2)


def _length(spans: np.ndarray) -> int:
    return int((spans[:, 1] - spans[:, 0] + 1).sum())


RECIPES = {"kit": kit}


def metrics(answers: list[Answer], targets: list[Target], rules: Rules = KIT_RULES) -> dict[str, np.ndarray]:
    """Per-sample values `(S,)`: the IoU of frames, and whether every frame is right and none too many."""
    total = np.array([kit(answer, target, Options()).total for answer, target in zip(answers, targets, strict=True)])
    return {"time_iou": total, "exact": (total == 1).astype(float)}
