"""What no paper claims and the logs can tell: other algorithms, several tasks in one run, faults in the truth."""

from __future__ import annotations

from functools import partial
from itertools import product

from pr1kit.experiments.beyond_grids import GRIDS
from pr1kit.experiments.claim import BEYOND, Claim

_claim = partial(Claim, source=BEYOND)


def _several_tasks() -> list[Claim]:
    alone, together, scaled = ({"training": name} for name in GRIDS["several-tasks"].factors["training"])
    return [
        _claim("three tasks together beat one alone, mean of 3 tasks", "–", "several-tasks", together, alone),
        _claim("with a scale per task they beat one alone, mean of 3 tasks", "–", "several-tasks", scaled, alone),
        _claim("a scale per task beats a group's own, mean of 3 tasks", "–", "several-tasks", scaled, together),
    ]


def _algorithms() -> list[Claim]:
    pairs = {"DAPO, drawn again": "DAPO", "GSPO": "GRPO"}
    return [
        _claim(f"{one} beats {other}, grounding", "–", "algorithms-more", {"variant": one}, {"variant": other})
        for one, other in pairs.items()
    ]


def _faults() -> list[Claim]:
    name = "annotation-faults"
    return [
        _claim(f"RL beats SFT, truth {truth}, {task}", "–", name, {"method": "RL"}, {"method": "SFT"},
               {"task": task, "truth": truth})
        for task, truth in product(GRIDS[name].factors["task"], GRIDS[name].factors["truth"])
    ]  # fmt: skip


def _amount_and_order() -> list[Claim]:
    amounts = {  # what is said to be ahead of what
        "RL beats SFT, 64 scenes": ("RL, 64 scenes", "SFT, 64 scenes"),
        "RL on 192 scenes beats SFT on 2,000": ("RL, 192 scenes", "SFT, 2,000 scenes"),
        "SFT then RL beats SFT": ("SFT + RL, 192 scenes", "SFT, 192 scenes"),
        "RL beats SFT then RL": ("RL, 192 scenes", "SFT + RL, 192 scenes"),
    }
    orders = ("SFT, in reading order", "SFT, order 30 %")
    return [
        *(
            _claim(f"{text}, {case}", "–", "annotation-amount", {"training": one}, {"training": other}, {"case": case})
            for text, (one, other) in amounts.items()
            for case in GRIDS["annotation-amount"].factors["case"]
        ),
        *(
            _claim(f"RL beats {how}, {task}", "–", "annotation-order", {"training": "RL"}, {"training": how},
                   {"task": task})
            for how, task in product(orders, GRIDS["annotation-order"].factors["task"])
        ),
    ]  # fmt: skip


CLAIMS = (
    _claim("8 rollouts beat 4 at equal completions, mean of 2 tasks", "–", "rollouts-equal-completions",
           {"rollouts": "8"}, {"rollouts": "4"}),
    *_several_tasks(),
    *_algorithms(),
    *_faults(),
    *_amount_and_order(),
)  # fmt: skip
