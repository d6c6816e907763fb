"""The four perception tasks, one file each: prompt, supervised answer, parsing, reward recipes, metrics.

A new task is one new module in this folder, plus its name in `pr1kit.data.sample.TASKS`. The module holds
`prompt`, `write_answer`, `parse`; `COLUMNS`, what a target must have; `RECIPES`, name -> reward of an answer in pixels;
`PARTS`, what each recipe can drop; and `metrics`, name -> function of sample weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

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
        for what, value, choices in (
            ("matching", self.matching, MATCHINGS),
            ("aggregate", self.aggregate, AGGREGATES),
        ):
            if value not in choices:
                raise ValueError(f"Unknown {what} {value!r}: choose one of {', '.join(choices)}.")
        if isinstance(self.drop, str):
            object.__setattr__(self, "drop", (self.drop,))
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"The threshold is an IoU in (0, 1], got {self.threshold!r}.")

    def mean(self, parts: dict[str, float]) -> float:
        """The mean of the parts not dropped, 0 where all are."""
        kept = [value for name, value in parts.items() if name not in self.drop]
        return sum(kept) / len(kept) if kept else 0.0


def says_nothing(answer: Answer) -> bool:
    """Whether an answer states, explicitly and without a box, that there is nothing."""
    return answer.explicit and answer.format_score == 1 and len(answer.boxes) == 0 and len(answer.points) == 0


def get_task(name: str) -> ModuleType:
    """The module that tells the whole story of the task `name`. Raises ValueError where there is no such task.

    >>> get_task("counting").prompt("circle")
    'Output all the bounding boxes of the circle'
    """
    if name not in TASKS:
        raise ValueError(f"Unknown task {name!r}: choose one of {', '.join(TASKS)}.")
    return import_module(f"pr1kit.rewards.{name}")
