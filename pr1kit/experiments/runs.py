"""Logged runs: `data/runs/<grid>.jsonl.gz`, a line for each finished run, rewritten whole and under a lock.

`condition` is what was run, `environment` where and how long, `results` the metrics before and after and the headroom
before, `steps` a row for each training step.
"""

from __future__ import annotations

import gzip
import io
import json
import platform
import subprocess
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from pr1kit.data.durable_files import write_atomically
from pr1kit.data.sample import TASKS
from pr1kit.data.shipped import shipped
from pr1kit.experiments.grid import Grid

ROOT = shipped("runs")
FORMAT = 2
STEP_FIELDS = {  # of a row of `steps`, and what TRL calls them
    **{name: name for name in ("phase", "step", "loss", "reward", "reward_std", "entropy", "kl")},
    **{name: name for name in ("accuracy", "margin", "log_ratio")},
    **{"no_signal": "frac_reward_zero_std", "length": "completions/mean_length"},
    **{name: name for name in ("redrawn", "without_spread")},
    **{f"{what}/{task}": f"{what}/{task}" for what in ("reward", "reward_spread") for task in TASKS},
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
        """After minus before."""
        return self.results["after"][mode][metric] - self.results["before"][mode][metric]


def log_file(grid: Grid, root: str | Path = ROOT) -> Path:
    """Where the runs of `grid` are logged. Raises ValueError where an older version has kept them in folders."""
    if (old := Path(root) / grid.name).is_dir():
        raise ValueError(
            f"{old} holds runs as an older version of the kit kept them, in a folder each: move it away; "
            f"runs are now lines of {grid.name}.jsonl.gz."
        )
    return Path(root) / f"{grid.name}.jsonl.gz"


def read_lines(path: Path) -> list[dict]:
    """The runs logged in `path`; none where there is no such file. Raises ValueError for a damaged one."""
    if not path.exists():
        return []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        whole = all(
            {"before", "after"} <= set(line["results"])
            and len(line["steps"]) == line["results"]["steps"]
            and {"format", "cell", "seed", "condition", "environment"} <= set(line)
            for line in lines
        )
    except (EOFError, zlib.error, OSError, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"The log {path} is damaged: restore it, or remove it and run the grid again.")
    return lines


def add_line(path: Path, line: Mapping) -> None:
    """Log one finished run in `path`, in place of an earlier one of the same cell and seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / ".lock"):
        lines = {(each["cell"], each["seed"]): each for each in [*read_lines(path), line]}
        raw = io.BytesIO()
        with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:  # no name and no time: equal runs, equal bytes
            file.writelines(json.dumps(lines[key]).encode() + b"\n" for key in sorted(lines))
        write_atomically(path, raw.getvalue())


def load_runs(grid: Grid, root: str | Path = ROOT) -> list[Run]:
    """The finished runs of `grid` under `root`. Raises FileNotFoundError for none, ValueError for a damaged log."""
    lines = read_lines(log_file(grid, root))
    runs = [
        Run(cell, line["seed"], grid.factors_of(cell), *(line[key] for key in ("results", "steps", "environment")))
        for cell in grid.cells()
        for line in lines
        if line["cell"] == cell
    ]
    if not runs:
        raise FileNotFoundError(
            f"There is no finished run of {grid.name!r} in {root}: run it by `python -m pr1kit "
            f"experiments {grid.name}` (`--policy` for another than the tiny one), or RUN_GRID = True in a notebook."
        )
    return runs


def logs_of(policy: str) -> Path:
    """A policy's logs: the tiny policy's come with the kit, another's are in `runs/experiments-<its name>`."""
    return ROOT if policy == "tiny" else Path(f"runs/experiments-{Path(policy).name}")


def step_rows(rows: Sequence[Mapping]) -> list[dict]:
    """TRL's rows as they are logged: `STEP_FIELDS`, five significant digits."""
    kept = ({name: row[key] for name, key in STEP_FIELDS.items() if row.get(key) is not None} for row in rows)
    return [{k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()} for row in kept]


def device_name() -> str:
    """The GPU on which policies run here, or the number of CPU threads."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{(n := torch.get_num_threads())} CPU thread{'s' * (n > 1)}, {platform.machine()}"


def environment(seconds: float) -> dict:
    """Where and with what a run was made."""
    import torch
    import transformers
    import trl

    here = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
    packages = {module.__name__: module.__version__ for module in (torch, transformers, trl)}
    return {
        "device": device_name(),
        "versions": {"pr1kit": version("pr1kit"), **packages},
        "commit": commit.stdout.strip() or None,
        "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds": round(seconds, 1),
    }


def provenance(runs: Sequence[Run]) -> str:
    """One line that says what is replayed."""
    seeds_of: dict[str, set[int]] = {}
    for run in runs:
        seeds_of.setdefault(run.cell, set()).add(run.seed)
    least, most = min(seeds_of.values(), key=len), max(seeds_of.values(), key=len)
    seeds = f"× seeds {', '.join(map(str, sorted(most)))}" if least == most else f"× {len(least)} to {len(most)} seeds"
    devices = sorted({run.environment["device"] for run in runs})
    dates = sorted({run.environment["finished"] for run in runs})
    minutes = sum(run.environment["seconds"] for run in runs) / 60
    return (
        f"Replaying {len(runs)} logged runs, {len(seeds_of)} conditions {seeds}: "
        f"{minutes:.0f} minutes on {', '.join(devices)}, {' and '.join(dates)}."
    )
