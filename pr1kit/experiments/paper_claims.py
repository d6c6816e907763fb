"""Which of the paper's claims do the logged experiments bear out? `python -m pr1kit experiments --claims` prints all.

A claim says that one level of a factor beats another; it holds where the 95 % interval of the paired difference over
seeds lies above zero. Of many claims some hold by luck: beside the verdict stands p, corrected for all of them (Holm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pr1kit.experiments.paper_grids import GRIDS
from pr1kit.experiments.runs import ROOT, Run, load_runs
from pr1kit.experiments.statistics import holm, mean_interval, p_value, paired_values, verdict


@dataclass(frozen=True)
class Claim:
    """That `one` beats `other` (levels of factors of `grid`) in the runs at the levels `where`.

    `paper`: its numbers for the two, from one run each (Perception-R1, arXiv 2504.07954). Compared is the gain in the
    task's headline metric, or its level after training where the two do not start alike (`gain` False).
    """

    text: str
    paper: str
    grid: str
    one: Mapping[str, str]
    other: Mapping[str, str]
    where: Mapping[str, str] = field(default_factory=dict)
    gain: bool = True

    def differences(self, runs: Sequence[Run], mode: str) -> list[float]:
        """The paired differences in `sampled` or `greedy` answers, one for each seed."""
        runs = [run for run in runs if all(run.factors[name] == level for name, level in self.where.items())]
        return paired_values(
            runs,
            self.one,
            self.other,
            lambda run: run.gain(mode=mode) if self.gain else run.results["after"][mode]["headline"],
        )


def _reward_design() -> list[Claim]:
    rungs = {  # level: what it adds, the paper's AP50
        "format": ("the format", "–"),
        "+ IoU": ("IoU", "25.3"),
        "+ class": ("the class", "27.3"),
        "+ F1": ("F1", "42.0"),
        "+ missing": ("the penalty for what is missed", "42.0"),
    }
    return [
        Claim(f"adding {what} helps", f"AP50 {after}, {before}", "reward-design", {"reward": new}, {"reward": old})
        for (old, (_, before)), (new, (what, after)) in pairwise(rungs.items())
    ]


def _by_task(text: str, paper: dict[str, str], grid: str, one: dict, other: dict, gain: bool = True) -> list[Claim]:
    return [
        Claim(f"{text}, {task}", numbers, grid, one, other, {"task": task}, gain) for task, numbers in paper.items()
    ]


SHUFFLED = {"order": "shuffled"}
EASY_TO_HARD = {
    "from easy to hard": "easy to hard",
    "from easy to hard, with more and more rollouts,": "easy to hard, more rollouts",
}
CLAIMS = (
    *_reward_design(),
    *_by_task(
        "optimal beats sequential matching",
        {"counting": "78.1, 77.1", "detection": "AP 31.9, 23.5"},
        "matching",
        {"matching": "optimal"},
        {"matching": "sequential"},
    ),
    *_by_task(
        "answering at once beats thinking first",
        {"grounding": "89.1, 75.1", "counting": "78.1, 74.9", "ocr": "98.2, 93.8", "detection": "AP 28.1, 25.7"},
        "thinking",
        {"thinking": "no"},
        {"thinking": "yes"},
        gain=False,
    ),
    *_by_task(
        "RL beats SFT",
        {"grounding": "89.1, 88.2", "counting": "78.1, 58.0", "ocr": "98.2, 97.2", "detection": "AP 31.9, 25.9"},
        "sft-and-rl",
        {"method": "rl"},
        {"method": "sft"},
    ),
    *_by_task(
        "optimal beats sequential matching, truth in any order",
        {"counting": "78.1, 77.1", "detection": "AP 31.9, 23.5"},
        "truth-order",
        {"training": "RL"},
        {"training": "RL, sequential, any order"},
    ),
    *_by_task(
        "RL beats SFT, truth in any order",
        {"counting": "78.1, 58.0", "detection": "AP 31.9, 25.9"},
        "truth-order",
        {"training": "RL"},
        {"training": "SFT, any order"},
    ),
    *(
        claim
        for more, less in (("8", "4"), ("16", "8"), ("16", "4"))
        for claim in _by_task(
            f"{more} rollouts beat {less}",
            {"grounding": "rises (Figure 2)", "counting": "rises (Figure 2)"},
            "rollouts",
            {"rollouts": more},
            {"rollouts": less},
        )
    ),
    *(
        Claim(f"{text} beats a shuffled order", "used, not ablated", "curriculum", {"order": order}, SHUFFLED)
        for text, order in EASY_TO_HARD.items()
    ),
)


def claim_table(*grids: str, root=ROOT) -> str:
    """Markdown: every claim about these grids (all where none is named), the paper's numbers, ours, p, and the verdict.

    p is that of all the logged claims together (Holm), whichever are shown; the verdict is each claim's by itself; both
    are about sampled answers. Raises FileNotFoundError where a grid that is asked for was not run.
    """
    lines = [
        "| claim | paper, one run | here, sampled answers | here, greedy answers | p, all claims together | holds? |",
        "|---|---|---|---|---|---|",
    ]
    runs = {}
    for name in {claim.grid for claim in CLAIMS}:
        try:
            runs[name] = load_runs(GRIDS[name], root)
        except FileNotFoundError:
            if not grids or name in grids:
                raise
    claims = [claim for claim in CLAIMS if claim.grid in runs]
    sampled = [claim.differences(runs[claim.grid], "sampled") for claim in claims]
    corrected = holm([p_value(differences) for differences in sampled])
    for claim, differences, p in zip(claims, sampled, corrected, strict=True):
        if not grids or claim.grid in grids:
            intervals = [mean_interval(each) for each in (differences, claim.differences(runs[claim.grid], "greedy"))]
            numbers = " | ".join(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in intervals)
            lines.append(f"| {claim.text} | {claim.paper} | {numbers} | {p:.3f} | {verdict(intervals[0])} |")
    return "\n".join(lines)


def claims_page(root=ROOT) -> str:
    """The README of the logs under `root`: how they are read, and all claims."""
    return f"""# Logged runs, and what they say of the paper's claims

One compressed JSON Lines file for each grid of `pr1kit/experiments/paper_grids.py`, one line for each finished run: its
`cell` and `seed`, `condition`, `environment`, `results` (metrics before and after, headroom before), training `steps`.
`pr1kit.experiments.runs.load_runs(grid)` reads them, notebooks replay them, `python -m pr1kit experiments` runs what is
missing; several processes may share the work.

Written by `python -m pr1kit experiments --claims --write`: paired differences over seeds with 95 % t-intervals, in
mean IoU, accuracy, AP50 or 1 − edit distance. A claim holds where the interval of sampled answers lies above zero;
*not shown* is not *equal*. Runs under the recipe `kit` were trained before its rule about near-duplicate boxes.

{claim_table(root=root)}
"""
