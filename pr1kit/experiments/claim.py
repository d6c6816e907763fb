"""A claim about the runs of a grid: that one level of a factor beats another, by paired differences over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pr1kit.experiments.runs import Run
from pr1kit.experiments.statistics import paired_values, values_by_seed

BEYOND = "beyond the papers"


@dataclass(frozen=True, eq=False)
class Claim:
    """That `one` beats `other` (levels of factors of `grid`; None: no training) in the runs at the levels `where`, in
    the mean over all others.

    `paper`: its numbers for the two, from one run each; `source`: which paper. Compared is the gain in the task's
    headline metric, its level after training where the two do not start alike (`gain` False), or, with `image`, the
    gain in its margin over the greedy answers to another image than the true one.
    """

    text: str
    paper: str
    grid: str
    one: Mapping[str, str]
    other: Mapping[str, str] | None
    where: Mapping[str, str] = field(default_factory=dict)
    gain: bool = True
    source: str = "Perception-R1, arXiv 2504.07954"
    image: str = ""

    @property
    def modes(self) -> tuple[str, ...]:
        """The answers that are compared; the first decides."""
        return ("greedy",) if self.image else ("sampled", "greedy")

    def differences(self, runs: Sequence[Run], mode: str) -> list[float]:
        """The paired differences in `sampled` or `greedy` answers, one for each seed."""
        runs = [run for run in runs if all(run.factors[name] == level for name, level in self.where.items())]

        def value(run: Run) -> float:
            if self.image:
                return run.gain(mode=mode) - run.gain(mode=f"{mode}, {self.image}")
            return run.gain(mode=mode) if self.gain else run.results["after"][mode]["headline"]

        if self.other is None:
            return values_by_seed(
                {
                    (run.seed, run.cell): value(run)
                    for run in runs
                    if all(run.factors[name] == level for name, level in self.one.items())
                }
            )
        return paired_values(runs, self.one, self.other, value)


def by_level(
    text: str, paper: Mapping[str, str], grid: str, one: Mapping, other: Mapping | None, factor: str = "task", **how
) -> list[Claim]:
    """The same claim at each level of `factor`: `paper` maps a level to the paper's numbers."""
    return [
        Claim(f"{text}, {level}", numbers, grid, one, other, {factor: level}, **how) for level, numbers in paper.items()
    ]
