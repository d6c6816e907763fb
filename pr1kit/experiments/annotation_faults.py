"""When does RL beat SFT? Both train on the same faulty truth, as many seconds, and are measured against the clean one.

`python -m pr1kit.experiments.annotation_faults` runs what is left of the two grids; several processes may share the
work. `charts.plot_fault_map` draws them together.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from pr1kit.experiments.grid import Grid, levels
from pr1kit.experiments.runner import run_grid
from pr1kit.experiments.runs import ROOT

SIZES = (0.15, 0.3)
METHODS = {"RL": {}, "SFT": {"method": "sft"}}
# The truth is listed in any order: what SFT gains from a fixed one is another question, see the grid `truth-order`.
SHORT = {"steps": 24, "prompts_per_step": 8, "probes": 0, "save_steps": 50, "truth_order": "any"}
SEEDS = (0, 1, 2, 3, 4)


def _faults(*kinds: str) -> dict[str, dict]:
    sizes = [(kind, size) for kind in kinds for size in SIZES]
    return {f"{kind} {round(100 * size)} %": {"fault": kind, "fault_size": size} for kind, size in sizes}


FAULT_GRIDS = (
    Grid(
        "annotation-faults",
        "Beyond the papers: SFT learns the faults of its truth, RL averages over them.",
        {
            "task": levels("task", "counting", "detection"),
            "truth": {"clean": {}, **_faults("jitter", "loose", "missing")},
            "method": METHODS,
        },
        SHORT,
        SEEDS,
    ),
    Grid(
        "annotation-labels",
        "Beyond the papers: the same of wrong labels.",
        {"task": levels("task", "detection"), "truth": _faults("labels"), "method": METHODS},
        SHORT,
        SEEDS,
    ),
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pr1kit.experiments.annotation_faults", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="which seeds (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT, help="folder of the logs")
    parser.add_argument("--work", type=Path, default=Path("runs/experiments"), help="folder of runs in progress")
    arguments = parser.parse_args(argv)
    for grid in FAULT_GRIDS:
        run_grid(replace(grid, seeds=tuple(arguments.seeds)), arguments.out, work=arguments.work)


if __name__ == "__main__":
    main()
