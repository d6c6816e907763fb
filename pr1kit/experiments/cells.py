"""Real photographs: does GRPO help a policy that was supervised on people's annotations of blood cells?

    python -m pr1kit.experiments.cells --data FOLDER    runs what is missing in data/runs
    python -m pr1kit.experiments.cells --report         the table of what is logged

FOLDER holds BCCD (github.com/Shenggan/BCCD_Dataset, MIT) as published, in VOC's layout, or as COCO files
(`instances_train.json`, `instances_val.json`, `images/`); the environment variable PR1KIT_CELLS names it, too. The
policy (`tiny-cells`; `--policy` takes another that `make-tiny-policy --data` wrote), supervised on four fifths of the
training photographs, goes on by GRPO, by as many processor seconds of supervision, or by half of each, on crops of the
same photographs, and is measured on all tiles of the validation photographs: intervals are paired, over photographs.
`--validate` measures on the fifth of the training photographs that was held out, to choose settings on, and logs that
apart.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np

from pr1kit.data.crops import crop_samples, photographs, split_by_image
from pr1kit.data.load import load_dataset
from pr1kit.data.sample import Sample
from pr1kit.data.shipped import policy_folder
from pr1kit.evaluation.metrics import Metrics, evaluate
from pr1kit.experiments.condition import PHASES, Condition
from pr1kit.experiments.run_condition import Measurement, measure
from pr1kit.experiments.runs import FORMAT, ROOT, add_line, environment, read_lines, step_rows
from pr1kit.experiments.statistics import mean_interval
from pr1kit.experiments.tiny_policy.own_data import OwnRecipe, about, draw_pool, questions
from pr1kit.models.backends import quiet
from pr1kit.models.policy import Policy, load_policy
from pr1kit.training.grpo import train_grpo
from pr1kit.training.grpo_settings import TINY
from pr1kit.training.sft import TINY_SFT, train_sft

SPLIT = "train"
METHODS = ("rl", "sft", "sft+rl")
METRICS = ("accuracy", "matched_iou")
LOG, VALIDATION_LOG = "cells.jsonl.gz", "cells-held-out.jsonl.gz"
RL = replace(TINY, steps=150, learning_rate=1e-4, recipe="kit", max_completion_length=160, save_steps=50)
MEASURED = Condition("counting", sampled=3, max_new_tokens=160)


def recipe_of(policy: str) -> OwnRecipe:
    """How a policy of one's own data was made, from its model card."""
    folder = policy_folder(policy) or Path(policy)
    return OwnRecipe(**json.loads((folder / "training.json").read_text(encoding="utf-8"))["recipe"])


def training_crops(data: Path, recipe: OwnRecipe, count: int, seed: int) -> list[Sample]:
    """`count` counting questions about random crops of the photographs that the policy was supervised on."""
    learned, _ = split_by_image(load_dataset(data, "detection", split=SPLIT), recipe.share, recipe.seed)
    rng = np.random.default_rng([seed, 3])
    pool = draw_pool(learned, replace(recipe, pool=2 * count, seed=1000 + seed))
    chosen = [pool[i] for i in rng.choice(len(pool), count, replace=len(pool) < count)]
    kinds = [sorted(set(sample.target.labels)) for sample in chosen]
    return [about(s, known[rng.integers(len(known))]) for s, known in zip(chosen, kinds, strict=True)]


def held_out_crops(data: Path, recipe: OwnRecipe, validate: bool = False) -> list[Sample]:
    """All questions about all tiles of the validation photographs; with `validate` of those held out in training."""
    photos = load_dataset(data, "detection", split=SPLIT if validate else "val")
    if validate:
        photos = split_by_image(photos, recipe.share, recipe.seed)[1]
    return questions(crop_samples(photos, recipe.crop, how="tiled", keep=recipe.keep), "counting")


def over_photographs(measured: Measurement) -> dict[str, Metrics]:
    """The metrics of each mode, their intervals over photographs."""
    samples = measured.samples
    return {
        mode: evaluate(
            "counting", texts, [s.target for s in samples], frame=measured.frames, groups=photographs(samples)
        )
        for mode, texts in measured.answers.items()
    }


def changes(before: Measurement, after: Measurement) -> dict[str, dict[str, list[float]]]:
    """For each mode and metric: difference, low, high; paired, over photographs."""
    old, new = over_photographs(before), over_photographs(after)
    return {
        mode: {name: [round(float(v), 5) for v in new[mode].difference(old[mode], name)] for name in METRICS}
        for mode in new
    }


def supervised_steps(policy: str, samples: Sequence[Sample], seconds: float, folder: Path) -> int:
    """How many steps of supervision take so many processor seconds here, by the pace of ten of a policy thrown away."""
    learner = load_policy(policy, verbose=False)
    for steps in (1, 10):  # the first alone, as it takes longer
        started = time.process_time()
        train_sft(learner, samples, folder / f"pace-{steps}", replace(TINY_SFT, steps=steps))
    return max(1, round(seconds * steps / (time.process_time() - started)))


def train(policy: Policy, method: str, samples: Sequence[Sample], seed: int, folder: Path, sft_steps: int) -> list:
    """The phases of `method`: the share of RL's steps, and of `sft_steps`, that falls to each; a row a step."""
    rows = []
    for phase, share in PHASES[method].items():
        if phase == "rl":
            settings = replace(RL, steps=max(1, round(share * RL.steps)), seed=seed)
            few = samples[: settings.steps * settings.prompts_per_step]
            log = train_grpo(policy, few, folder / phase, settings)
        else:
            steps = max(1, round(share * sft_steps))
            log = train_sft(policy, samples, folder / phase, replace(TINY_SFT, steps=steps, seed=seed))
        rows += [{"phase": phase, **row} for row in log]
    return rows


def run(
    data: Path,
    method: str,
    seed: int,
    root: Path = ROOT,
    *,
    policy: str,
    validate: bool = False,
    work: Path = Path("runs/cells"),
) -> dict:
    """Measure, train, measure again, and log it in `root`; returns the logged line. A run in progress lives in `work`,
    where the answers before training are kept for all of them.

    Raises ValueError for supervision where GRPO, whose seconds it is given, is not logged.
    """
    started, recipe, sft_steps = time.time(), recipe_of(policy), 0
    log = root / (VALIDATION_LOG if validate else LOG)
    work = work / Path(policy).name / ("held-out" if validate else "val")
    folder = work / f"{method}-{seed}"
    samples = training_crops(data, recipe, RL.steps * RL.prompts_per_step, seed)
    if method != "rl":
        known = {line["seed"]: line["results"] for line in read_lines(log) if line["cell"] == "rl"}
        if seed not in known:
            raise ValueError(f"Supervision takes the seconds of GRPO: run --methods rl with seed {seed} first.")
        with quiet():
            sft_steps = supervised_steps(policy, samples, known[seed]["processor_seconds"]["rl"], folder)
    held_out, learner = held_out_crops(data, recipe, validate), load_policy(policy, verbose=False)
    folder.mkdir(parents=True, exist_ok=True)
    before = measure(learner, MEASURED, held_out, 0, work / "before.json")
    clock, cpu = time.perf_counter(), time.process_time()
    with quiet():
        rows = train(learner, method, samples, seed, folder, sft_steps)
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    after = measure(learner, MEASURED, held_out, seed, folder / "after.json")
    settings = {phase: asdict(RL if phase == "rl" else TINY_SFT) for phase in PHASES[method]}
    line = {
        "format": FORMAT,
        "cell": method,
        "seed": seed,
        "condition": {"data": "BCCD", "split": "held out" if validate else "val", "method": method, **settings},
        "environment": environment(time.time() - started),
        "results": {
            "steps": len(rows),
            "questions": len(held_out),
            "photographs": len(set(photographs(held_out))),
            "before": before.summary(),
            "after": after.summary(),
            "change": changes(before, after),
            "train_seconds": {method: round(clock, 1)},
            "processor_seconds": {method: round(cpu, 1)},
        },
        "steps": step_rows(rows),
    }
    add_line(log, line)
    shutil.rmtree(folder)
    return line


def report(lines: Sequence[dict]) -> str:
    """Markdown: before, after and paired change of each run, by mode and metric; bold where beyond its interval."""
    rows = ["| method, seed | answers | accuracy | matched IoU |", "|---|---|---|---|"]
    for line in lines:
        results = line["results"]
        for mode in ("sampled", "greedy"):
            cells = []
            for name in METRICS:
                words = in_bold(*results["change"][mode][name])
                cells.append(f"{results['before'][mode][name]:.3f} → {results['after'][mode][name]:.3f} ({words})")
            rows.append(f"| {line['cell']}, {line['seed']} | {mode} | {' | '.join(cells)} |")
    return "\n".join(rows)


def comparison(lines: Sequence[dict]) -> str:
    """Markdown: what one method gains above another on the same seeds, the mean over seeds with its t-interval."""
    gains = {(line["cell"], line["seed"]): line["results"]["change"] for line in lines}
    rows = ["| difference in gain | answers | accuracy | matched IoU | seeds |", "|---|---|---|---|---|"]
    for one, other in (("rl", "sft"), ("sft+rl", "sft"), ("rl", "sft+rl")):
        seeds = sorted(seed for cell, seed in gains if cell == one and (other, seed) in gains)
        for mode in ("sampled", "greedy") if len(seeds) > 1 else ():
            pairs = [(gains[one, seed][mode], gains[other, seed][mode]) for seed in seeds]
            found = [mean_interval([a[name][0] - b[name][0] for a, b in pairs]) for name in METRICS]
            words = " | ".join(in_bold(*interval) for interval in found)
            rows.append(f"| {one} over {other} | {mode} | {words} | {len(seeds)} |")
    return "\n".join(rows)


def in_bold(value: float, low: float, high: float) -> str:
    """A difference with its interval, bold where that excludes 0.

    >>> in_bold(0.1, 0.05, 0.15), in_bold(0.1, -0.05, 0.25)
    ('**+0.100 [+0.050, +0.150]**', '+0.100 [-0.050, +0.250]')
    """
    words = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"**{words}**" if low > 0 or high < 0 else words


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pr1kit.experiments.cells", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("PR1KIT_CELLS"), help="the folder of BCCD")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--policy", default="tiny-cells", help="or a folder that make-tiny-policy --data has written")
    parser.add_argument("--out", type=Path, default=ROOT, help="default: data/runs")
    parser.add_argument("--validate", action="store_true", help="measure on held-out training photographs instead")
    parser.add_argument("--report", action="store_true", help="run nothing: what is logged")
    said = parser.parse_args(argv)
    if not said.report and said.data is None:
        print("cells: name the folder of the photographs with --data, or PR1KIT_CELLS.", file=sys.stderr)
        return 2
    log = said.out / (VALIDATION_LOG if said.validate else LOG)
    done = {(line["cell"], line["seed"]) for line in read_lines(log)}
    try:
        for seed, method in () if said.report else product(said.seeds, said.methods):
            if (method, seed) not in done:
                run(said.data, method, seed, said.out, policy=said.policy, validate=said.validate)
    except (ValueError, OSError) as error:
        print(f"cells: {error}", file=sys.stderr)
        return 2
    print(f"{report(read_lines(log))}\n\n{comparison(read_lines(log))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
