"""The papers' claims, and what they leave open, as grids: Perception-R1 (arXiv 2504.07954, sections 4.3 to 5), and
learning from ranked answers, PerPO (arXiv 2502.04371)."""

from __future__ import annotations

from pr1kit.experiments.grid import Grid, levels

TASKS = levels("task", "grounding", "counting", "ocr", "detection")
FIVE_SEEDS = (0, 1, 2, 3, 4)
# Of training on ranked answers: as many RL steps of 64 completions as take about 13 seconds of one CPU thread. PerPO's
# learning rates were chosen among two or three on validation scenes, with one seed and by no single rule; GRPO's was
# changed for counting alone; DPO, LiPO and best of n take PerPO's.
SHORT = {"prompts_per_step": 8, "held_out": 100, "probes": 0, "blind": True, "save_steps": 50}
SHORT_STEPS = {"ocr": 40, "grounding": 26, "counting": 9, "detection": 11}
FEW = {"steps": 24, "prompts_per_step": 8, "probes": 0, "save_steps": 50}
RL_OR_SFT = {"RL": {}, "SFT": {"method": "sft"}}
CASES = {  # where RL beats SFT
    "counting, missing 30 %": {"task": "counting", "fault": "missing", "fault_size": 0.3},
    "detection, jitter 30 %": {"task": "detection", "fault": "jitter", "fault_size": 0.3},
}
SEVERAL = ("grounding", "counting", "detection")  # tasks that one run learns together
RUNGS = ("location", "class", "recall", "missing")  # of the paper's Table 6, each added to those before


def faults(*kinds: str) -> dict[str, dict]:
    """Levels that put a fault into the truth, small and large, see `label_noise.with_fault`.

    >>> list(faults("jitter"))
    ['jitter 15 %', 'jitter 30 %']
    """
    sizes = [(kind, size) for kind in kinds for size in (0.15, 0.3)]
    return {f"{kind} {round(100 * size)} %": {"fault": kind, "fault_size": size} for kind, size in sizes}


def enough(seeds: int, *cells: str) -> dict[str, tuple[int, ...]]:
    """So many seeds for these cells: by the first seeds' variance as many as tell what is claimed of them to ± 0.02.

    >>> enough(2, "RL", "SFT")
    {'RL': (0, 1), 'SFT': (0, 1)}
    """
    return dict.fromkeys(cells, tuple(range(seeds)))


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
            seeds_of={**enough(8, "+ class", "+ missing"), **enough(6, "+ F1")},
        ),
        Grid(
            "matching",
            "Optimal matching beats sequential matching, in detection by far (Table 5).",
            {
                "task": levels("task", "counting", "detection"),
                "matching": levels("matching", "optimal", "greedy", "sequential"),
            },
            seeds_of=enough(8, "counting-optimal", "counting-sequential", "detection-optimal", "detection-sequential"),
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
            seeds_of=enough(15, "counting-rl", "counting-sft"),
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
            seeds_of={
                **enough(6, "counting-RL", "counting-RL, sequential, any order", "detection-RL, sequential, any order"),
                **enough(9, "detection-RL", "detection-SFT, any order"),
            },
        ),
        Grid(
            "rollouts",
            "More rollouts to a prompt give a higher reward and score (Figure 2).",
            {"task": levels("task", "grounding", "counting"), "rollouts": levels("num_generations", 4, 8, 16)},
            seeds=(0, 1, 2, 3),
        ),
        Grid(
            "rollouts-equal-completions",
            "The same at 64 completions a step, whatever the number of rollouts to a prompt.",
            {
                "task": levels("task", "grounding", "counting"),
                "rollouts": {
                    "4": {"num_generations": 4, "prompts_per_step": 16},
                    "8": {"num_generations": 8, "prompts_per_step": 8},
                },
            },
            {**FEW, "held_out": 400},
            tuple(range(7)),
        ),
        Grid(
            "curriculum",
            "From easy to hard, with more and more rollouts, beats a shuffled order (section 4.1).",
            {"order": levels("order", "shuffled", "easy to hard", "easy to hard, more rollouts")},
            {"task": "detection"},
            FIVE_SEEDS,
            seeds_of={**enough(10, "shuffled", "easy to hard"), **enough(8, "easy to hard, more rollouts")},
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
            "algorithms-more",
            "Beyond the paper: do groups drawn again (DAPO), a ratio for each answer (GSPO) or KL taken off the reward "
            "change what is learned? (GSPO is a control: where every batch is used once its gradient is GRPO's.)",
            {
                "variant": {
                    "GRPO": {},
                    "DAPO": {"loss_type": "dapo"},
                    "DAPO, drawn again": {"loss_type": "dapo", "dynamic_sampling": 3},
                    "GSPO": {"importance_sampling": "sequence"},
                    "KL 0.04, k1 in the reward": {"beta": 0.04, "kl_estimator": "k1 in the reward"},
                }
            },
            {"task": "grounding"},
            seeds_of={
                **enough(8, "GRPO", "GSPO"),
                **enough(6, "DAPO", "DAPO, drawn again"),
            },
        ),
        Grid(
            "algorithm-rates",
            "Is one learning rate near the best for every algorithm whose gradient differs? On scenes of their own, to "
            "choose settings on. (DAPO's and GSPO's gradients are GRPO's here, up to lengths of answers; RLOO's is "
            "Dr. GRPO's, scaled, which Adam undoes.)",
            {
                "variant": {
                    "GRPO": {},
                    "Dr. GRPO": {"loss_type": "dr_grpo", "scale_rewards": "none"},
                    "DAPO, drawn again": {"loss_type": "dapo", "dynamic_sampling": 3},
                    "KL 0.04, k1 in the reward": {"beta": 0.04, "kl_estimator": "k1 in the reward"},
                },
                "rate": {"half": {"lr_scale": 0.5}, "common": {}, "double": {"lr_scale": 2.0}},
            },
            {"task": "grounding", "test_seed": 700, "held_out": 400, "probes": 0, "save_steps": 50},
            (5, 6, 7),
        ),
        Grid(
            "several-tasks",
            "Beyond the paper: one run on several tasks teaches each as well as a run of its own on as many of its "
            "samples; a scale per task keeps a task with wide rewards from drowning the others.",
            {
                # one learning rate for all: grounding's own is 5e-5, that of the others 1e-4
                "task": {
                    "grounding": {"task": "grounding", "lr_scale": 1.5, "together": ("counting", "detection")},
                    "counting": {"task": "counting", "lr_scale": 0.75, "together": ("grounding", "detection")},
                    "detection": {"task": "detection", "lr_scale": 0.75, "together": ("grounding", "counting")},
                },
                "training": {
                    "alone": {"together": ()},
                    "together": {},
                    "together, scale per task": {"scale_rewards": "task"},
                },
            },
            FEW,
            seeds_of=enough(5, *(f"{task}-{how}" for task in SEVERAL for how in ("alone", "together"))),
        ),
        Grid(
            "annotation-faults",
            "Beyond the papers, at equal seconds: SFT learns the faults of its truth, RL averages over them. Both meet "
            "the same truth, listed in any order, and are measured against the clean one.",
            {
                "task": levels("task", "counting", "detection"),
                "truth": {"clean": {}, **faults("jitter", "loose", "missing")},
                "method": RL_OR_SFT,
            },
            {**FEW, "truth_order": "any"},
            FIVE_SEEDS,
            seeds_of={
                **enough(8, "detection-clean-RL", "detection-clean-SFT"),
                **enough(11, "detection-loose 15 %-RL", "detection-loose 15 %-SFT"),
                **enough(6, "detection-loose 30 %-RL", "detection-loose 30 %-SFT"),
                **enough(19, "counting-missing 15 %-RL", "counting-missing 15 %-SFT"),
            },
        ),
        Grid(
            "annotation-labels",
            "Beyond the papers: the same of wrong labels.",
            {"task": levels("task", "detection"), "truth": faults("labels"), "method": RL_OR_SFT},
            {**FEW, "truth_order": "any"},
            FIVE_SEEDS,
        ),
        Grid(
            "annotation-amount",
            "Beyond the papers, at equal seconds: does more truth mend what SFT learns of faults, does RL after SFT?",
            {
                "case": CASES,
                "training": {
                    "RL, 64 scenes": {"distinct_scenes": 64},
                    "RL, 192 scenes": {},
                    "SFT, 64 scenes": {"method": "sft", "distinct_scenes": 64},
                    "SFT, 192 scenes": {"method": "sft"},
                    "SFT, 2,000 scenes": {"method": "sft", "distinct_scenes": 2000},
                    "SFT + RL, 192 scenes": {"method": "sft+rl"},
                },
            },
            {**FEW, "truth_order": "any"},
            FIVE_SEEDS,
            seeds_of=enough(7, "counting, missing 30 %-RL, 192 scenes", "counting, missing 30 %-SFT + RL, 192 scenes"),
        ),
        Grid(
            "annotation-order",
            "Beyond the papers: the same of the order of the true objects, which RL's reward does not see.",
            {
                "task": levels("task", "counting", "detection"),
                "training": {
                    "RL": {},
                    "SFT, in reading order": {"method": "sft", "truth_order": "reading"},
                    "SFT, order 30 %": {
                        "method": "sft",
                        "truth_order": "reading",
                        "fault": "order",
                        "fault_size": 0.3,
                    },
                    "SFT, in any order": {"method": "sft"},
                },
            },
            {**FEW, "truth_order": "any"},
            FIVE_SEEDS,
        ),
        Grid(
            "headroom",
            "Beyond the paper: what the policy's rollouts show before training predicts what RL will gain.",
            {"task": TASKS, "level": levels("level", "easy", "usual", "hard")},
        ),
        Grid(
            "headroom-new",
            "The same on scenes, and from a policy, that the predictor was not chosen on.",
            {
                "task": TASKS,
                "level": {"few": {"level": "few"}, "after RL": {"rl_start": 16}},
            },
            {**FEW, "probes": 64},
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
            seeds_of=enough(13, *(f"{task}-{method}" for task in SHORT_STEPS for method in ("PerPO", "DPO"))),
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
            seeds_of={**enough(9, "gamma 0.5, N 20", "N 5"), **enough(6, "gamma 1")},
        ),
        Grid(
            "preference-age",
            "Beyond the paper: the older its candidates, the less a policy learns from them.",
            {"age": levels("age", 0, 12, 24)},
            {"task": "ocr", "steps": SHORT_STEPS["ocr"], "method": "perpo", "rl_start": 24, **SHORT},
            FIVE_SEEDS,
            seeds_of=enough(9, "0", "12"),
        ),
    )
}
