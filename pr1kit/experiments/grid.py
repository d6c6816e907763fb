"""Grids: every combination of the levels of some factors, each run with several seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import product

FIVE_SEEDS = (0, 1, 2, 3, 4)


def levels(field_name: str, *values) -> dict[str, dict]:
    """Levels that set one field of `Condition`, each named by its value.

    >>> levels("num_generations", 4, 8)
    {'4': {'num_generations': 4}, '8': {'num_generations': 8}}
    """
    return {str(value): {field_name: value} for value in values}


TASKS = levels("task", "grounding", "counting", "ocr", "detection")


def first_seeds(seeds: int, *cells: str) -> dict[str, tuple[int, ...]]:
    """The first seeds, so many, for each of these cells: as many as what is claimed of them takes.

    >>> first_seeds(2, "RL", "SFT")
    {'RL': (0, 1), 'SFT': (0, 1)}
    """
    return dict.fromkeys(cells, tuple(range(seeds)))


def from_factors(condition: type, values: Mapping):
    """A condition of this dataclass from its factors. Raises ValueError for a factor that it has not."""
    known = [each.name for each in fields(condition)]
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"Unknown factor {', '.join(unknown)}: the factors are {', '.join(known)}.")
    return condition(**values)


@dataclass(frozen=True)
class Grid:
    """An experiment: every combination of the levels of its `factors`, over `base`, for each seed.

    `factors`: name of a factor → name of a level → the fields of `Condition` that it sets; `claim` is what is tested;
    `fixed` goes over all of them. `seeds_of`: the seeds of cells that have others than `seeds`, by name, as a claim
    may need more of the cells that it compares.
    """

    name: str
    claim: str
    factors: Mapping[str, Mapping[str, Mapping]]
    base: Mapping = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    fixed: Mapping = field(default_factory=dict)
    seeds_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def plan(self) -> list[tuple[str, int]]:
        """Every run: the name of its cell, and its seed.

        >>> Grid("g", "", {"task": levels("task", "ocr", "counting")}, seeds=(0,), seeds_of={"ocr": (0, 1)}).plan()
        [('ocr', 0), ('ocr', 1), ('counting', 0)]
        """
        return [(cell, seed) for cell in self.cells() for seed in self.seeds_of.get(cell, self.seeds)]

    def cells(self) -> dict[str, dict]:
        """Cell name to the fields of its condition.

        >>> Grid("g", "", {"task": levels("task", "ocr"), "G": levels("num_generations", 4)}).cells()
        {'ocr-4': {'task': 'ocr', 'num_generations': 4}}
        """
        cells = {}
        for combination in product(*(by_name.items() for by_name in self.factors.values())):
            factors = dict(self.base)
            for _, values in combination:
                factors |= values
            cells["-".join(name for name, _ in combination)] = factors | dict(self.fixed)
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
    return replace(grid, fixed={**grid.fixed, **few}, seeds=grid.seeds[:1], seeds_of={})


def full(grid: Grid) -> Grid:
    """The same grid, larger, for a GPU: five seeds, 200 steps of 32 prompts, a thousand held-out scenes."""
    many = {"steps": 200, "held_out": 1000, "prompts_per_step": 32}
    return replace(grid, fixed={**grid.fixed, **many}, seeds=tuple(range(5)), seeds_of={})


def of_policy(grid: Grid, policy: str) -> Grid:
    """The same grid with another policy: a folder or the name of a model on the hub."""
    return replace(grid, fixed={**grid.fixed, "policy": policy})
