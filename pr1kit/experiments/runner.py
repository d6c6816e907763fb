"""Run what is left of a grid: each condition with each seed once; several processes may share the work."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from pr1kit.data.run_folder import RunFolder
from pr1kit.experiments import runs as logs
from pr1kit.experiments.grid import Grid, of_policy
from pr1kit.experiments.runs import ROOT, Run


def run_grid(grid: Grid, root: str | Path = ROOT, *, work: str | Path = "runs/experiments") -> None:
    """Run what is not finished yet of `grid` under `root`, with a progress bar; a run in progress lives in `work`.

    A run that another grid under `root` has finished with the same condition and seed is copied; one that another
    process is at is left to it. Raises ValueError for an unknown factor, and where the log holds a run of the same name
    and another condition: nothing is overwritten.
    """
    from tqdm.auto import tqdm

    from pr1kit.experiments.condition import Condition

    conditions = {cell: Condition.of(fields) for cell, fields in grid.cells().items()}
    path, plan = logs.log_file(grid, root), grid.plan()
    left = [(cell, seed) for cell, seed in plan if not _finished(path, cell, conditions[cell], seed)]
    for cell, seed in tqdm(left, desc=grid.name, initial=len(plan) - len(left), total=len(plan)):
        folder = Path(work) / grid.name / cell / f"seed-{seed}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(f"{folder}.lock", blocking=False):
                if not _finished(path, cell, conditions[cell], seed):
                    _run(path, cell, conditions[cell], seed, folder, Path(work))
        except Timeout:
            tqdm.write(f"{cell}, seed {seed}: another process is at it.")


def _is(line: dict, condition, seed: int) -> bool:
    """Whether a logged line is that of this run; a factor that is younger than the line had its default then."""
    try:
        known = type(condition).of(line["condition"])
    except ValueError:
        return False
    return (line["format"], line["seed"], known) == (logs.FORMAT, seed, condition)


def _finished(path: Path, cell: str, condition, seed: int) -> bool:
    """Whether `path` holds this run. Raises ValueError where it holds another of its name."""
    line = next((line for line in logs.read_lines(path) if (line["cell"], line["seed"]) == (cell, seed)), None)
    if line and not _is(line, condition, seed):
        raise ValueError(
            f"{path} holds a run {cell!r} with seed {seed} of another configuration or version of the kit: move it "
            "away, or choose another folder for the results."
        )
    return line is not None


def _run(path: Path, cell: str, condition, seed: int, folder: Path, work: Path) -> None:
    from pr1kit.experiments.run_condition import run_condition

    name = {"format": logs.FORMAT, "cell": cell, "seed": seed, "condition": asdict(condition)}
    logged = (line for log in sorted(path.parent.glob("*.jsonl.gz")) for line in logs.read_lines(log))
    if same := next((line for line in logged if _is(line, condition, seed)), None):
        return logs.add_line(path, {**same, **name})
    started = time.time()
    with RunFolder(folder).lock():
        RunFolder(folder).begin({key: value for key, value in name.items() if key != "format"})
        outcome = run_condition(condition, seed, folder, work)
    made = {"environment": logs.environment(time.time() - started), "results": outcome.results()}
    logs.add_line(path, {**name, **made, "steps": logs.step_rows(outcome.rows)})
    shutil.rmtree(folder)


def replay(grid: Grid, policy: str = "tiny", *, run: bool = False) -> list[Run]:
    """The logged runs of `grid`, after a printed line that says so; with `run`, what is missing is run first."""
    if run:
        run_grid(grid if policy == "tiny" else of_policy(grid, policy), logs.logs_of(policy))
    runs = logs.load_runs(grid, logs.logs_of(policy))
    print(logs.provenance(runs))
    return runs
