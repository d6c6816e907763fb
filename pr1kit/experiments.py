"""Experiments: grids of conditions times seeds, each run a small folder that notebooks replay.

    data/runs/<experiment>/<cell>/seed-<k>/
        config.json       the condition, the seed, the format of this folder
        environment.json  device, versions, commit, when and how long
        steps.csv         a row for each training step
        results.json      metrics before and after, headroom before; written last: a folder without it is not finished

Finished runs are skipped, so a grid that was cut off goes on where it was.
"""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path

from pr1kit.shipped import shipped

ROOT = shipped("runs")
FORMAT = 1
COLUMNS = {  # of steps.csv, and what TRL calls them
    "phase": "phase",
    "step": "step",
    "loss": "loss",
    "reward": "reward",
    "reward_std": "reward_std",
    "no_signal": "frac_reward_zero_std",
    "entropy": "entropy",
    "length": "completions/mean_length",
    "kl": "kl",
}


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


def run_grid(grid: Grid, root: str | Path = ROOT, *, work: str | Path = "runs/experiments") -> None:
    """Run what is not finished yet of `grid` under `root`, with a progress bar.

    A run that another grid under `root` has finished with the same condition and seed is copied. Raises ValueError for
    an unknown factor, and where a folder holds a run of another configuration: nothing is overwritten.
    """
    from tqdm.auto import tqdm

    from pr1kit.conditions import Condition

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
    from pr1kit.conditions import run_condition

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
    lines = [",".join(COLUMNS)]
    lines += [",".join(_number(row.get(key)) for key in COLUMNS.values()) for row in rows]
    _write(folder / "steps.csv", "\n".join(lines) + "\n")
    _write(folder / "environment.json", json.dumps(environment(time.time() - started), indent=1) + "\n")
    _write(folder / "results.json", json.dumps({"steps": len(rows), **results}, indent=1) + "\n")


def _number(value) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def _write(path: Path, text: str) -> None:
    half = path.with_name(f"{path.name}.tmp")
    half.write_text(text, encoding="utf-8")
    half.replace(path)


def environment(seconds: float) -> dict:
    """Where and with what a run was made."""
    import torch
    import transformers
    import trl

    import pr1kit

    on_gpu = torch.cuda.is_available()
    here = Path(__file__).resolve().parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
    return {
        "device": torch.cuda.get_device_name()
        if on_gpu
        else f"{(n := torch.get_num_threads())} CPU thread{'s' * (n > 1)}, {platform.machine()}",
        "versions": {module.__name__: module.__version__ for module in (pr1kit, torch, transformers, trl)},
        "commit": commit.stdout.strip() if commit.returncode == 0 else None,
        "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds": round(seconds, 1),
    }


@dataclass(frozen=True)
class Run:
    """One finished run as it was logged: `factors` name its levels, `results` its metrics, `steps` its rows."""

    cell: str
    seed: int
    factors: dict[str, str]
    results: dict
    steps: list[dict]
    environment: dict

    def gain(self, metric: str = "headline", mode: str = "sampled") -> float:
        """After less before."""
        return self.results["after"][mode][metric] - self.results["before"][mode][metric]


def load_runs(grid: Grid, root: str | Path = ROOT) -> list[Run]:
    """The finished runs of `grid` under `root`. Raises FileNotFoundError for none, ValueError for a damaged log."""
    runs = []
    for cell in grid.cells():
        for folder in sorted((Path(root) / grid.name / cell).glob("seed-*")):
            if not (folder / "results.json").exists():
                continue
            config, results, made = (_read_json(folder / f"{n}.json") for n in ("config", "results", "environment"))
            try:
                text = (folder / "steps.csv").read_text(encoding="utf-8")
                steps = [
                    {k: v if k == "phase" else float(v) for k, v in row.items() if v != ""}
                    for row in csv.DictReader(text.splitlines())
                ]
                if not ({"before", "after"} <= set(results) and len(steps) == results["steps"] and text[-1:] == "\n"):
                    raise ValueError
                runs.append(Run(cell, config["seed"], grid.factors_of(cell), results, steps, made))
            except (KeyError, TypeError, ValueError, OSError):
                raise ValueError(f"The log {folder} is damaged: remove it and run the grid again.") from None
    if not runs:
        raise FileNotFoundError(f"There is no finished run of {grid.name!r} in {root}: run the grid first.")
    return runs


def logs_of(policy: str) -> Path:
    """A policy's logs: the tiny policy's come with the kit, another's are in `runs/experiments-<its name>`."""
    return ROOT if policy == "tiny" else Path(f"runs/experiments-{Path(policy).name}")


def replay(grid: Grid, policy: str = "tiny", *, run: bool = False) -> list[Run]:
    """The logged runs of `grid`, after a printed line that says so; with `run`, what is missing is run first."""
    if run:
        run_grid(grid if policy == "tiny" else of_policy(grid, policy), logs_of(policy))
    runs = load_runs(grid, logs_of(policy))
    print(provenance(runs))
    return runs


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        raise ValueError(f"The log {path} is damaged: remove its folder and run the grid again.") from None


def provenance(runs: Sequence[Run]) -> str:
    """One line that says what is replayed."""
    seeds, devices = sorted({run.seed for run in runs}), sorted({run.environment["device"] for run in runs})
    dates = sorted({run.environment["finished"] for run in runs})
    minutes = sum(run.environment["seconds"] for run in runs) / 60
    return (
        f"Replaying {len(runs)} logged runs, {len({run.cell for run in runs})} conditions × seeds "
        f"{', '.join(map(str, seeds))}: {minutes:.0f} minutes on {', '.join(devices)}, {' and '.join(dates)}."
    )
