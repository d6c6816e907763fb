"""Experiments: grids of conditions times seeds, each run a small folder that notebooks replay.

    data/runs/<experiment>/<cell>/seed-<k>/
        config.json       the condition, the seed, the format of this folder
        environment.json  device, versions, commit, when and how long
        steps.csv         a row for each training step
        results.json      metrics before and after, headroom before; written last: a folder without it is not finished

Finished runs are skipped, so a grid that was cut off goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product


def levels(field_name: str, *values) -> dict[str, dict]:
    """Levels that set one field of `Condition`, each named by its value.

    >>> levels("num_generations", 4, 8)
    {'4': {'num_generations': 4}, '8': {'num_generations': 8}}
    """
    return {str(value): {field_name: value} for value in values}


@dataclass(frozen=True)
class Grid:
    """An experiment: every combination of the levels of its `factors`, over `base`, for each seed.

    `factors`: name of a factor → name of a level → the fields of `Condition` that it sets; `claim` is what is tested.
    """

    name: str
    claim: str
    factors: Mapping[str, Mapping[str, Mapping]]
    base: Mapping = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)

    def cells(self) -> dict[str, dict]:
        """Cell name to the fields of its condition.

        >>> Grid("g", "", {"task": levels("task", "ocr"), "G": levels("num_generations", 4)}).cells()
        {'ocr-4': {'task': 'ocr', 'num_generations': 4}}
        """
        cells = {}
        for combination in product(*(by_name.items() for by_name in self.factors.values())):
            fields = dict(self.base)
            for _, values in combination:
                fields |= values
            cells["-".join(name for name, _ in combination)] = fields
        return cells

    def factors_of(self, cell: str) -> dict[str, str]:
        """The level of each factor in a cell, by name."""
        for combination in product(*self.factors.values()):
            if "-".join(combination) == cell:
                return dict(zip(self.factors, combination, strict=True))
        raise ValueError(f"The experiment {self.name!r} has no cell {cell!r}.")


def fast(grid: Grid) -> Grid:
    """The same grid, cut down to show that it runs: one seed, four steps, eight held-out scenes."""
    few = {"steps": 4, "held_out": 8, "preparation": 2, "prompts_per_step": 4}
    return replace(grid, base={**grid.base, **few}, seeds=grid.seeds[:1])


def full(grid: Grid) -> Grid:
    """The same grid, larger, for a GPU: five seeds, 200 steps of 32 prompts, a thousand held-out scenes."""
    many = {"steps": 200, "held_out": 1000, "prompts_per_step": 32}
    return replace(grid, base={**grid.base, **many}, seeds=tuple(range(5)))


def of_policy(grid: Grid, policy: str) -> Grid:
    """The same grid with another policy: a folder or the name of a model on the hub."""
    return replace(grid, base={**grid.base, "policy": policy})
