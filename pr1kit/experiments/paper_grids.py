"""The paper's claims, and what it leaves open, as grids (Perception-R1, arXiv 2504.07954, sections 4.3 to 5)."""

from __future__ import annotations

from pr1kit.experiments.grid import Grid, levels

TASKS = levels("task", "grounding", "counting", "ocr", "detection")
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
        ),
        Grid(
            "matching",
            "Optimal matching beats sequential matching, in detection by far (Table 5).",
            {
                "task": levels("task", "counting", "detection"),
                "matching": levels("matching", "optimal", "greedy", "sequential"),
            },
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
        ),
        Grid(
            "truth-order",
            "Beyond the paper: SFT and sequential matching need a truth whose order can be learned; matching does not.",
            {
                "task": levels("task", "counting", "detection"),
                "training": {
                    "RL": {},
                    "RL, sequential": {"matching": "sequential"},
                    "RL, sequential, any order": {"matching": "sequential", "truth_order": "any"},
                    "SFT": {"method": "sft"},
                    "SFT, any order": {"method": "sft", "truth_order": "any"},
                },
            },
        ),
        Grid(
            "rollouts",
            "More rollouts to a prompt give a higher reward and score (Figure 2).",
            {"task": levels("task", "grounding", "counting"), "rollouts": levels("num_generations", 4, 8, 16)},
        ),
        Grid(
            "curriculum",
            "From easy to hard, with more and more rollouts, beats a shuffled order (section 4.1).",
            {"order": levels("order", "shuffled", "easy to hard", "easy to hard, more rollouts")},
            {"task": "detection"},
        ),
        Grid(
            "algorithms",
            "Beyond the paper: does the KL term, the temperature or another algorithm change what is learned? "
            "(KL estimated by k1 is a control: as a loss term it has no expected gradient.)",
            {
                "variant": {
                    "GRPO": {},
                    "KL 0.04": {"beta": 0.04},
                    "KL 0.2": {"beta": 0.2},
                    "KL 0.04, k1": {"beta": 0.04, "kl_estimator": "k1"},
                    "KL 0.04, kimi": {"beta": 0.04, "kl_estimator": "kimi"},
                    "temperature 0.7": {"temperature": 0.7},
                    "temperature 1.3": {"temperature": 1.3},
                    "Dr. GRPO": {"loss_type": "dr_grpo", "scale_rewards": "none"},
                    "DAPO": {"loss_type": "dapo"},
                    "RLOO": {"algorithm": "rloo"},
                }
            },
            {"task": "grounding"},
        ),
        Grid(
            "headroom",
            "Beyond the paper: what the policy's rollouts show before training predicts what RL will gain.",
            {"task": TASKS, "level": levels("level", "easy", "usual", "hard")},
        ),
    )
}
