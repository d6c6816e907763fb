"""Does the temporal perplexity of a data set, before training, tell what training on it is worth?

    python -m pr1kit.experiments.temporal_data            # what is missing of both grids

UTR's two findings (arXiv 2502.12081): data of higher temporal perplexity make a better model, and more data of low
temporal perplexity make a worse one than less data of high ("anti-scaling"). A data set here is one kind of query at
one difficulty; the tiny policy is taught each by supervision, as the paper trains. The gain is that of greedy answers,
and of the truth's log-likelihood a token, on held-out clips of one common mix: UTR's queries of all tasks, of all
difficulties in turn. Runs are logged as those of `temporal_hacking`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from pr1kit.data.sample import VIDEO_TASKS, Sample
from pr1kit.evaluation.temporal import temporal_perplexity
from pr1kit.experiments.grid import Grid, levels
from pr1kit.experiments.runs import ROOT, log_file, read_lines
from pr1kit.experiments.temporal_hacking import FIVE, MIXED, ClipCondition, log_run, main, rewards, train
from pr1kit.models.policy import Policy, load_policy

READ = 24  # clips of a data set whose temporal perplexity is measured
KINDS_OF_DATA = {
    "tracking": {"tasks": ("tracking",)},
    "when": {"tasks": ("when",)},
    "what": {"tasks": ("what",)},
    "proxies": {"queries": "proxy"},
}
SUPERVISED = {"method": "sft", "learning_rate": 5e-4, "steps": 6, "batch_size": 16}
MIX = {"held_out": 24, "held_out_difficulty": MIXED}
GRIDS = {
    grid.name: grid
    for grid in (
        Grid(
            "temporal-data",
            "The temporal perplexity of a data set before training predicts the gain, over kinds of query and "
            "difficulty (UTR, arXiv 2502.12081).",
            {"task": KINDS_OF_DATA, "level": levels("difficulty", "own", "fast", "crowded")},
            SUPERVISED | MIX,
            FIVE,
        ),
        Grid(
            "temporal-amount",
            "Few data of high temporal perplexity are worth more than many of low (UTR's anti-scaling).",
            {
                "data": {
                    "UTR": {},
                    "proxies": {"queries": "proxy"},
                    "four times as many proxies": {"queries": "proxy", "steps": 24},
                }
            },
            SUPERVISED | MIX,
            FIVE,
        ),
    )
}


def mix(condition: ClipCondition, policy: Policy, seed: int) -> list[Sample]:
    """The held-out clips that measure every data set."""
    held_out = condition.held_out_clips(policy, seed)
    return [clip for task in VIDEO_TASKS for clip in held_out[f"{task}, UTR"]]


def measure(policy: Policy, clips: Sequence[Sample], seed: int) -> dict[str, float]:
    """The mean reward of greedy answers, the truth's log-likelihood a token, and temporal perplexity."""
    tpl = temporal_perplexity(policy, clips, seed=seed)
    values = {
        "as it is": rewards(policy, clips).mean(),
        "log-likelihood": (tpl.all_frames / tpl.tokens).mean(),
        "temporal perplexity": tpl.mean,
    }
    return {name: round(float(value), 5) for name, value in values.items()}


def run(condition: ClipCondition, seed: int, held_out: Sequence[Sample]) -> tuple[dict, list[dict]]:
    """The temporal perplexity of the data before training, and what the policy is after it."""
    policy = load_policy(condition.policy, verbose=False)
    clips, started = condition.training_clips(policy, seed), time.process_time()
    data = temporal_perplexity(policy, clips[:READ], seed=seed)
    rows = train(policy, clips, condition, seed)
    results = {
        "steps": len(rows),
        "data": {"temporal perplexity": round(data.mean, 5), "clips": len(rows) * condition.batch_size},
        "after": {"mix": measure(policy, held_out, seed)},
    }
    return results | {"processor_seconds": {"sft": round(time.process_time() - started, 1)}}, rows


def run_grid(grid: Grid, root: Path = ROOT) -> None:
    """Run what is missing of `grid`, seed by seed; what a seed's clips say before training is measured once."""
    path, conditions = log_file(grid, root), {cell: ClipCondition.of(each) for cell, each in grid.cells().items()}
    done = {(line["cell"], line["seed"]) for line in read_lines(path)}
    first = next(iter(conditions.values()))
    for seed in tqdm(grid.seeds, desc=grid.name):
        left = [cell for cell in conditions if (cell, seed) not in done]
        if not left:
            continue
        policy = load_policy(first.policy, verbose=False)
        held_out = mix(first, policy, seed)
        before = {"mix": measure(policy, held_out, seed)}
        for cell in left:
            started = time.time()
            results, rows = run(conditions[cell], seed, held_out)
            results = {"before": before, **results}
            log_run(path, cell, seed, conditions[cell], results, rows, time.time() - started)


if __name__ == "__main__":
    main(run_grid, GRIDS, __doc__)
