"""Run what is left of a grid: each condition with each seed once, skipping what is finished."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from pr1kit.experiments.grid import Grid, of_policy
from pr1kit.experiments.runs import (
    FORMAT,
    ROOT,
    STEP_FIELDS,
    Run,
    _number,
    _read_json,
    _write,
    environment,
    load_runs,
    logs_of,
    provenance,
)


def run_grid(grid: Grid, root: str | Path = ROOT, *, work: str | Path = "runs/experiments") -> None:
    """Run what is not finished yet of `grid` under `root`, with a progress bar.

    A run that another grid under `root` has finished with the same condition and seed is copied. Raises ValueError for
    an unknown factor, and where a folder holds a run of another configuration: nothing is overwritten.
    """
    from tqdm.auto import tqdm

    from pr1kit.experiments.condition import Condition

    root = Path(root)
    plan = []
    for cell, fields in grid.cells().items():
        condition = Condition.of(fields)
        for seed in grid.seeds:
            folder = root / grid.name / cell / f"seed-{seed}"
            if not _finished(folder, condition, seed):
                plan.append((folder, condition, seed))
    total = len(grid.cells()) * len(grid.seeds)
    for folder, condition, seed in tqdm(plan, desc=grid.name, initial=total - len(plan), total=total):
        _run(folder, condition, seed, root, Path(work))


def _is(config: dict, condition, seed: int) -> bool:
    """Whether `config` is that of this run; a factor that is younger than the config had its default then."""
    try:
        known = type(condition).of(config["condition"])
    except (KeyError, TypeError, ValueError):
        return False
    return (config.get("format"), config.get("seed"), known) == (FORMAT, seed, condition)


def _finished(folder: Path, condition, seed: int) -> bool:
    """Whether `folder` holds this run, finished. Raises ValueError where it holds another."""
    config = folder / "config.json"
    if not config.exists():
        return False
    if not _is(_read_json(config), condition, seed):
        raise ValueError(
            f"{folder} holds a run of another configuration or version of the kit: move it away, or choose another "
            "folder for the results."
        )
    return (folder / "results.json").exists()


def _run(folder: Path, condition, seed: int, root: Path, work: Path) -> None:
    from pr1kit.experiments.condition import run_condition

    folder.mkdir(parents=True, exist_ok=True)
    others = (path.parent for path in root.glob(f"*/*/seed-{seed}/results.json") if path.parent != folder)
    same = next((other for other in others if _is(_read_json(other / "config.json"), condition, seed)), None)
    config = {"format": FORMAT, "seed": seed, "condition": asdict(condition)}
    _write(folder / "config.json", json.dumps(config, indent=1) + "\n")
    if same:
        for name in ("environment.json", "steps.csv", "results.json"):
            _write(folder / name, (same / name).read_text())
        return
    started = time.time()
    rows, results = run_condition(condition, seed, work)
    lines = [",".join(STEP_FIELDS)]
    lines += [",".join(_number(row.get(key)) for key in STEP_FIELDS.values()) for row in rows]
    _write(folder / "steps.csv", "\n".join(lines) + "\n")
    _write(folder / "environment.json", json.dumps(environment(time.time() - started), indent=1) + "\n")
    _write(folder / "results.json", json.dumps({"steps": len(rows), **results}, indent=1) + "\n")


def replay(grid: Grid, policy: str = "tiny", *, run: bool = False) -> list[Run]:
    """The logged runs of `grid`, after a printed line that says so; with `run`, what is missing is run first."""
    if run:
        run_grid(grid if policy == "tiny" else of_policy(grid, policy), logs_of(policy))
    runs = load_runs(grid, logs_of(policy))
    print(provenance(runs))
    return runs
