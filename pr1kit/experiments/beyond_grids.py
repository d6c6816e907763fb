"""What no paper claims, as grids: other algorithms, several tasks in one run, faults in the truth, and what tells
beforehand what RL will gain."""

from __future__ import annotations

from pr1kit.experiments.grid import FIVE_SEEDS, TASKS, Grid, first_seeds, levels

FEW = {"steps": 24, "prompts_per_step": 8, "probes": 0, "save_steps": 50}
RL_OR_SFT = {"RL": {}, "SFT": {"method": "sft"}}


def faults(*kinds: str) -> dict[str, dict]:
    """Levels that put a fault into the truth, small and large, see `label_noise.with_fault`.

    >>> list(faults("jitter"))
    ['jitter 15 %', 'jitter 30 %']
    """
    sizes = [(kind, size) for kind in kinds for size in (0.15, 0.3)]
    return {f"{kind} {round(100 * size)} %": {"fault": kind, "fault_size": size} for kind, size in sizes}


GRIDS = {
    grid.name: grid
    for grid in (
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
                **first_seeds(
                    6, "counting-RL", "counting-RL, sequential, any order", "detection-RL, sequential, any order"
                ),
                **first_seeds(9, "detection-RL", "detection-SFT, any order"),
            },
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
                **first_seeds(8, "GRPO", "GSPO"),
                **first_seeds(6, "DAPO", "DAPO, drawn again"),
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
            seeds_of=first_seeds(
                5,
                *(f"{task}-{how}" for task in ("grounding", "counting", "detection") for how in ("alone", "together")),
            ),
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
                **first_seeds(8, "detection-clean-RL", "detection-clean-SFT"),
                **first_seeds(11, "detection-loose 15 %-RL", "detection-loose 15 %-SFT"),
                **first_seeds(6, "detection-loose 30 %-RL", "detection-loose 30 %-SFT"),
                **first_seeds(19, "counting-missing 15 %-RL", "counting-missing 15 %-SFT"),
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
                "case": {
                    "counting, missing 30 %": {"task": "counting", "fault": "missing", "fault_size": 0.3},
                    "detection, jitter 30 %": {"task": "detection", "fault": "jitter", "fault_size": 0.3},
                },
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
            seeds_of=first_seeds(
                7, "counting, missing 30 %-RL, 192 scenes", "counting, missing 30 %-SFT + RL, 192 scenes"
            ),
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
    )
}
