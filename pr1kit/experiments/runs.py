"""Logged runs of experiments: how they are written, and read again."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pr1kit.data.shipped import shipped
from pr1kit.experiments.grid import Grid

ROOT = shipped("runs")


FORMAT = 1


STEP_FIELDS = {  # of steps.csv, and what TRL calls them
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

    on_gpu = torch.cuda.is_available()
    here = Path(__file__).resolve().parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
    return {
        "device": torch.cuda.get_device_name()
        if on_gpu
        else f"{(n := torch.get_num_threads())} CPU thread{'s' * (n > 1)}, {platform.machine()}",
        "versions": {"pr1kit": version("pr1kit")}
        | {module.__name__: module.__version__ for module in (torch, transformers, trl)},
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
