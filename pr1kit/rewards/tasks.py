"""The perception tasks, four of images, three of videos: prompt, supervised answer, parsing, reward recipes, metrics.

A new task is one new module in this folder, plus its name in `pr1kit.data.sample.TASKS`. The module holds
`prompt`, `write_answer`, `parse`; `COLUMNS`, what a target must have; `RECIPES`, name -> reward of an answer in pixels;
`PARTS`, what each recipe can drop; and `metrics`, name -> values of the samples under `Rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from pr1kit.data.sample import TASKS
from pr1kit.rewards.matching import AGGREGATES, MATCHINGS
from pr1kit.rewards.results import Answer


@dataclass(frozen=True)
class Options:
    """The ablation switches of a reward, the same for every task and recipe.

    `matching` says which prediction answers which object, `drop` names parts to leave out, `threshold` replaces the
    task's IoU from which a box is a hit, `aggregate` (kit recipe) is how matched scores become a share, see `matching`.
    """

    matching: str = "optimal"
    drop: tuple[str, ...] = ()
    threshold: float | None = None
    aggregate: str = "max"

    def __post_init__(self):
        if self.matching not in MATCHINGS:
            raise ValueError(f"Unknown matching {self.matching!r}: choose one of {', '.join(MATCHINGS)}.")
        if self.aggregate not in AGGREGATES:
            raise ValueError(f"Unknown aggregate {self.aggregate!r}: choose one of {', '.join(AGGREGATES)}.")
        if isinstance(self.drop, str):
            object.__setattr__(self, "drop", (self.drop,))
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"The threshold is an IoU in (0, 1], got {self.threshold!r}.")

    def mean(self, parts: dict[str, Any]) -> Any:
        """The mean of the parts not dropped (numbers, or arrays of one shape), 0.0 where all are."""
        kept = [value for name, value in parts.items() if name not in self.drop]
        return sum(kept) / len(kept) if kept else 0.0


@dataclass(frozen=True)
class Rules:
    """How answers are measured: by the kit's rules, or as Perception-R1's evaluation scripts do (`official`).

    `count_from` says what of a counting answer is its count: "boxes", a stated "number", or "either", the number where
    no box is given. None is "either" for the kit, and "boxes" officially.
    """

    official: bool = False
    count_from: str | None = None

    def said(self, task: str) -> str:
        """The rules of `task` in words, as they are printed with its numbers."""
        kit, official = RULES[task]
        words = official if self.official else kit
        if task == "counting" and not self.official:
            words = COUNTED[self.count_from or "either"]
        return f"{'official' if self.official else 'kit'} rules: {words}"


KIT_RULES = Rules()
COUNTED = {
    "boxes": "the count is that of the boxes",
    "number": "the count is the number that an answer states",
    "either": "the count is that of the boxes, or the number stated where there is none",
}
RULES = {  # task: the kit's and the official rules
    "grounding": ("an IoU of exactly 0.5 is a hit", "an IoU of exactly 0.5 is a miss"),
    "counting": ("", "the count is that of the boxes between box tokens; an answer without one is wrong"),
    "ocr": (
        "white space collapsed, Unicode composed, thoughts and fences taken off",
        "the raw text, white space kept, and words in Chinese text too",
    ),
    "detection": (
        "complete items of broken JSON count, labels in any letter case",
        "broken JSON is dropped whole, items after a faulty one too, labels letter for letter",
    ),
    "tracking": ("a frame counts where an object is or is said to be", "there are none"),
    "when": ("frames of a span count one by one", "there are none"),
    "what": ("attributes in any order and letter case", "there are none"),
}


def says_nothing(answer: Answer) -> bool:
    """Whether an answer states, explicitly and without a box, that there is nothing."""
    places = len(answer.boxes) + len(answer.points) + len(answer.spans)
    return answer.explicit and answer.format_score == 1 and not places


def get_task(name: str) -> ModuleType:
    """The module that tells the whole story of the task `name`. Raises ValueError where there is no such task.

    >>> get_task("counting").prompt("circle")
    'Output all the bounding boxes of the circle'
    """
    if name not in TASKS:
        raise ValueError(f"Unknown task {name!r}: choose one of {', '.join(TASKS)}.")
    return import_module(f"pr1kit.rewards.{name}")
