"""The kit's main job in one command: measure, train with GRPO, measure again, on counting and on grounding.

The demo is a grid of two conditions, run as every grid's are (`run_condition`), with a table and pictures. Held-out
scenes are 300 a task, answered greedily once and at temperature 1 four times each; intervals are bootstrap over scenes,
and a change is judged on the same scenes before and after (paired).
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import matplotlib

from pr1kit.data.durable_files import write_atomically
from pr1kit.data.run_folder import RunFolder
from pr1kit.data.sample import Sample
from pr1kit.experiments.condition import HEADLINE, Condition
from pr1kit.experiments.grid import Grid, fast
from pr1kit.experiments.run_condition import Outcome, run_condition
from pr1kit.experiments.runs import device_name
from pr1kit.rewards.score import score_batch

# Both under the recommended recipe. Counting takes 16 rollouts to a prompt, as the grid `rollouts` suggests: with twice
# as many steps of half the size `tiny` lost greedy accuracy in one seed of three. Grounding takes the task's own rate,
# 5e-5: at the tiny default of 1.5e-4 boxes grow tight but the policy forgets which object was asked for. No choice of
# settings or of the policy has seen the test scenes.
DEMO = Grid(
    "demo",
    "GRPO lifts what the tiny policy samples, and its greedy answers with it.",
    {
        "task": {
            "counting": {"task": "counting", "num_generations": 16, "steps": 50},
            "grounding": {"task": "grounding", "steps": 120},
        }
    },
    {"policy": "tiny-demo", "held_out": 300, "sampled": 4, "probes": 0, "test_seed": 400, "max_new_tokens": 96},
    seeds=(0,),
)
STEP_SECONDS = {"counting": 1.3, "grounding": 0.6}  # of 128 completions on two cores, for the estimate at the start
MEASURED_BESIDE = {"counting": (("matched_iou", "matched IoU"),)}  # right counts, and of the right boxes?
WATCHED = 6  # held-out scenes whose answers are kept along the run, for `pr1kit explore --export`
MEASURING_SECONDS = 30  # before and after, 300 scenes
BAR = "{desc:<28}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps, {elapsed}<{remaining}{postfix}"
PICTURES = ("intervals.png", "reward_curve.png", "before_after.png")


def run_demo(out: str | Path, seeds: list[int], *, fresh: bool = False, small: bool = False) -> None:
    """Run the demo for each seed; with several, each in `out/seed-k` and one table of all in `out/seeds.md`."""
    out, rows = Path(out), {}
    for seed in seeds:
        folder = out if len(seeds) == 1 else out / f"seed-{seed}"
        if fresh and (folder / "settings.json").exists():  # a folder that holds no run is refused, not removed
            with RunFolder(folder).lock():  # raises where another process writes it
                pass
            shutil.rmtree(folder)
        rows[seed] = demo_run(folder, seed, fast(DEMO) if small else DEMO)
    if len(seeds) > 1:
        write_atomically(out / "seeds.md", table := seeds_table(rows))
        print(f"\n{table}")


def demo_run(folder: Path, seed: int, grid: Grid = DEMO) -> list[dict]:
    """One seed of the demo in `folder`; returns the table's rows. Raises ValueError where `folder` is another run's."""
    matplotlib.use("Agg")
    conditions = {task: Condition.of(fields) for task, fields in grid.cells().items()}
    identity = {"seed": seed, "conditions": {task: asdict(condition) for task, condition in conditions.items()}}
    with RunFolder(folder).lock():
        RunFolder(folder).begin(identity)
        return _demo(folder, seed, conditions, identity)


def _demo(folder: Path, seed: int, conditions: dict[str, Condition], identity: dict) -> list[dict]:
    from tqdm.auto import tqdm

    seconds = sum(
        (MEASURING_SECONDS + one.steps * STEP_SECONDS[task]) * completions(one) / 128
        for task, one in conditions.items()
    )
    about = f"about {max(1, round(seconds / 60))} min on two CPU cores"
    print(f"Demo, seed {seed}: GRPO on {' and '.join(conditions)}, {about}.")
    started, outcomes = time.time(), {}
    for task, condition in conditions.items():
        with tqdm(total=condition.steps, desc=task, bar_format=BAR) as bar:
            outcomes[task] = run_condition(condition, seed, folder / task, folder, bar=bar, watched=WATCHED)
            bar.update(bar.total - bar.n)  # steps of an earlier call
    rows = _rows(outcomes)
    report = _report(conditions, rows, seed, time.time() - started)
    write_atomically(folder / "report.md", report)
    write_atomically(folder / "results.json", json.dumps({**identity, "rows": rows}, indent=1))
    _draw(folder, outcomes, rows)
    print(f"\n{report}")
    for name in ("report.md", *PICTURES):
        print(f"  {folder / name}")
    return rows


def completions(condition: Condition) -> int:
    """How many are sampled for a step."""
    return condition.prompts_per_step * condition.num_generations


def _rows(outcomes: dict[str, Outcome]) -> list[dict]:
    rows = []
    named = [(task, *metric) for task in outcomes for metric in (HEADLINE[task], *MEASURED_BESIDE.get(task, ()))]
    for task, key, name in named:
        for mode, words in (("sampled", "temperature 1"), ("greedy", "greedy")):
            before, after = outcomes[task].before.metrics[mode], outcomes[task].after.metrics[mode]
            rows.append(
                {
                    "metric": f"{task} {name}, {words}",
                    "before": (before[key], *before.interval(key)),
                    "after": (after[key], *after.interval(key)),
                    "change": after.difference(before, key),
                }
            )
    return rows


def _report(conditions: dict, rows: list[dict], seed: int, seconds: float) -> str:
    """The table, under a line that says what was run."""
    steps = " and ".join(f"{one.steps} steps of {completions(one)} ({task})" for task, one in conditions.items())
    held_out = conditions["counting"].held_out
    lines = [
        f"Tiny policy on {device_name()}, GRPO, completions: {steps}; {held_out} held-out scenes, seed {seed} "
        f"({seconds / 60:.1f} minutes in this call).\n",
        "| metric | before | after | change, paired |",
        "|---|---|---|---|",
    ]
    for row in rows:
        cells = (f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, low, high in (row["before"], row["after"]))
        change, low, high = row["change"]
        lines.append(f"| {row['metric']} | {' | '.join(cells)} | {change:+.3f} [{low:+.3f}, {high:+.3f}] |")
    return "\n".join(lines) + "\n"


def _draw(folder: Path, outcomes: dict[str, Outcome], rows: list[dict], each: int = 3) -> None:
    """Write the pictures; before and after show each task's first `each` scenes whose reward moved, up or down."""
    import matplotlib.pyplot as plt

    from pr1kit.plots.charts import plot_metric_intervals, plot_reward_curves
    from pr1kit.plots.drawing import style
    from pr1kit.plots.galleries import plot_before_after

    with style():
        curves, axes = plt.subplots(1, len(outcomes), figsize=(5.2 * len(outcomes), 3.4))
    for ax, (task, outcome) in zip(axes, outcomes.items(), strict=True):
        plot_reward_curves(outcome.rows, ax=ax)
        ax.set_title(task)
    shown = [scene for outcome in outcomes.values() for scene in moved(outcome)[:each]]
    figures = plot_metric_intervals(rows).figure, curves, plot_before_after(*zip(*shown, strict=True)).flat[0].figure
    for name, figure in zip(PICTURES, figures, strict=True):
        figure.savefig(folder / name, dpi=150, bbox_inches="tight")
    plt.close("all")


def moved(outcome: Outcome, by: float = 0.1) -> list[tuple[Sample, str, str]]:
    """The held-out scenes, each with an answer at temperature 1 before and after training: first those whose answer
    earns at least `by` more or less than before, then the others."""
    samples = outcome.before.samples
    answers = [[texts[0] for texts in each.answers["sampled"]] for each in (outcome.before, outcome.after)]
    targets = [sample.target for sample in samples]
    before, after = ([r.total for r in score_batch(samples[0].task, each, targets)] for each in answers)
    scenes = zip(samples, *answers, before, after, strict=True)
    return [scene[:3] for scene in sorted(scenes, key=lambda scene: abs(scene[4] - scene[3]) < by)]


def seeds_table(rows_of: dict[int, list[dict]]) -> str:
    """For each metric each seed's change with its paired 95 % interval, and the mean over seeds."""
    lines = ["| metric | " + " | ".join(f"seed {seed}" for seed in rows_of) + " | mean change |"]
    lines.append("|---" * (len(rows_of) + 2) + "|")
    for of_seeds in zip(*rows_of.values(), strict=True):
        cells = [
            f"{row['before'][0]:.3f} → {row['after'][0]:.3f} ({row['change'][0]:+.3f} "
            f"[{row['change'][1]:+.3f}, {row['change'][2]:+.3f}])"
            for row in of_seeds
        ]
        mean = sum(row["change"][0] for row in of_seeds) / len(of_seeds)
        lines.append(f"| {' | '.join((of_seeds[0]['metric'], *cells, f'{mean:+.3f}'))} |")
    return "\n".join(lines) + "\n"
