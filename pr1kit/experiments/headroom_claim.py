"""Does the reward that a policy earns before training tell what RL will gain, on conditions it was not chosen on?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pr1kit.evaluation.intervals import rank_correlation
from pr1kit.experiments.paper_grids import GRIDS
from pr1kit.experiments.runs import ROOT, Run, load_runs, log_file

PREDICTOR = "reward"  # of the fields of `complexity.Headroom`, chosen on the grid `headroom`
CONDITIONS = {
    "headroom": "easy, usual and hard scenes: chosen here",
    "headroom-new": "other scenes, and a policy after RL",
    "thinking": "a policy supervised on faulty answers, at once or after a thought",
}


def predicted_and_gained(runs: Sequence[Run], predictor: str = PREDICTOR) -> tuple[list[str], list[float], list[float]]:
    """For each condition of `runs` its task, what its rollouts showed before, its gain in sampled reward; means."""
    cells = {cell: [run for run in runs if run.cell == cell] for cell in dict.fromkeys(run.cell for run in runs)}
    return (
        [mine[0].factors["task"] for mine in cells.values()],
        [float(np.mean([run.results["headroom"][predictor] for run in mine])) for mine in cells.values()],
        [float(np.mean([run.gain("reward") for run in mine])) for mine in cells.values()],
    )


def headroom_table(root: Path = ROOT) -> str:
    """Markdown: the rank correlation for each logged grid of `CONDITIONS`; "" where none is logged."""
    lines = ["| conditions | how many | rank correlation | without one task, the least |", "|---|---|---|---|"]
    for name, what in CONDITIONS.items():
        if not log_file(GRIDS[name], root).is_file():
            continue
        tasks, before, gains = predicted_and_gained(load_runs(GRIDS[name], root))
        rho, low, high = rank_correlation(before, gains, groups=tasks)
        rest = [[i for i, each in enumerate(tasks) if each != task] for task in dict.fromkeys(tasks)]
        least = min(rank_correlation(np.take(before, kept), np.take(gains, kept))[0] for kept in rest)
        lines.append(f"| {what} (`{name}`) | {len(tasks)} | {rho:+.2f} [{low:+.2f}, {high:+.2f}] | {least:+.2f} |")
    return "\n".join(lines) if len(lines) > 2 else ""
