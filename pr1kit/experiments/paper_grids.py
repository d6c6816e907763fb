"""The papers' claims as grids: Perception-R1 (arXiv 2504.07954, sections 4.3 to 5), and learning from ranked answers,
PerPO (arXiv 2502.04371). `GRIDS` has what they leave open as well."""

from __future__ import annotations

from pr1kit.experiments.beyond_grids import GRIDS as BEYOND_GRIDS
from pr1kit.experiments.grid import FIVE_SEEDS, TASKS, Grid, first_seeds, levels

# Of training on ranked answers: as many RL steps of 64 completions as take about 13 seconds of one CPU thread. PerPO's
# learning rates were chosen among two or three on validation scenes, with one seed and by no single rule; GRPO's was
# changed for counting alone; DPO, LiPO and best of n take PerPO's.
SHORT = {"prompts_per_step": 8, "held_out": 100, "probes": 0, "blind": True, "save_steps": 50}
SHORT_STEPS = {"ocr": 40, "grounding": 26, "counting": 9, "detection": 11}
RUNGS = ("location", "class", "recall", "missing")  # of the paper's Table 6, each added to those before

GRIDS = {
    grid.name: grid
    for grid in (
        Grid(
            "reward-design",
            "Each part of the detection reward adds to AP; format alone teaches nothing (Table 6).",
            {
                "reward": {
                    "format": {"drop": RUNGS},
                    "+ IoU": {"drop": RUNGS[1:]},
                    "+ class": {"drop": RUNGS[2:]},
                    "+ F1": {"drop": RUNGS[3:]},
                    "+ missing": {},
                }
            },
            {"task": "detection", "recipe": "paper"},
            seeds_of={**first_seeds(8, "+ class", "+ missing"), **first_seeds(6, "+ F1")},
        ),
        Grid(
            "matching",
            "Optimal matching beats sequential matching, in detection by far (Table 5).",
            {
                "task": levels("task", "counting", "detection"),
                "matching": levels("matching", "optimal", "greedy", "sequential"),
            },
            seeds_of=first_seeds(
                8, "counting-optimal", "counting-sequential", "detection-optimal", "detection-sequential"
            ),
        ),
        Grid(
            "thinking",
            "Thinking aloud does not help perception, and hurts (Table 5).",
            {"task": TASKS, "thinking": {"no": {"start": "answers"}, "yes": {"start": "thoughts"}}},
        ),
        Grid(
            "sft-and-rl",
            "RL beats SFT where perceptual perplexity is high, and matches it where it is low (Table 5).",
            {"task": TASKS, "method": levels("method", "sft", "rl", "sft+rl")},
            seeds_of=first_seeds(15, "counting-rl", "counting-sft"),
        ),
        Grid(
            "rollouts",
            "More rollouts to a prompt give a higher reward and score (Figure 2).",
            {"task": levels("task", "grounding", "counting"), "rollouts": levels("num_generations", 4, 8, 16)},
            seeds=(0, 1, 2, 3),
        ),
        Grid(
            "curriculum",
            "From easy to hard, with more and more rollouts, beats a shuffled order (section 4.1).",
            {"order": levels("order", "shuffled", "easy to hard", "easy to hard, more rollouts")},
            {"task": "detection"},
            FIVE_SEEDS,
            seeds_of={**first_seeds(10, "shuffled", "easy to hard"), **first_seeds(8, "easy to hard, more rollouts")},
        ),
        Grid(
            "preference",
            "At equal seconds, candidates included: PerPO beats DPO, which beats supervision on the best answer; GRPO, "
            "which is online, is compared with them nowhere (PerPO, arXiv 2502.04371).",
            {
                "task": {
                    task: {"task": task, "steps": steps, "lr_scale": 0.5 if task == "counting" else 1.0}
                    for task, steps in SHORT_STEPS.items()
                },
                "method": {
                    "PerPO": {"method": "perpo"},
                    "GRPO": {"method": "rl"},
                    "DPO": {"method": "dpo"},
                    "LiPO": {"method": "lipo"},
                    "best of n": {"method": "best_of_n"},
                },
            },
            SHORT,
            FIVE_SEEDS,
            seeds_of=first_seeds(13, *(f"{task}-{method}" for task in SHORT_STEPS for method in ("PerPO", "DPO"))),
        ),
        Grid(
            "preference-variants",
            "The margin's exponent and the number of candidates decide how well PerPO learns; a second round of "
            "candidates helps.",
            {
                "variant": {
                    "gamma 0.5, N 20": {},
                    "two rounds": {"rounds": 2},
                    "N 5": {"num_candidates": 5},
                    "gamma 0": {"method": "lipo"},
                    "gamma 1": {"gamma": 1.0},
                }
            },
            {"task": "ocr", "steps": SHORT_STEPS["ocr"], "method": "perpo", **SHORT},
            FIVE_SEEDS,
            seeds_of={**first_seeds(9, "gamma 0.5, N 20", "N 5"), **first_seeds(6, "gamma 1")},
        ),
        Grid(
            "preference-age",
            "Beyond the paper: the older its candidates, the less a policy learns from them.",
            {"age": levels("age", 0, 12, 24)},
            {"task": "ocr", "steps": SHORT_STEPS["ocr"], "method": "perpo", "rl_start": 24, **SHORT},
            FIVE_SEEDS,
            seeds_of=first_seeds(9, "0", "12"),
        ),
    )
} | BEYOND_GRIDS
