"""The public API as a type checker sees it: `python -m mypy` (part of `make lint`) reads this file, nothing runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import assert_type

import pr1kit
from pr1kit import Answer, Candidates, Policy, RewardResult, Rollout, Sample, Target
from pr1kit.data.assemble import Samples
from pr1kit.evaluation.complexity import Headroom, Perplexity
from pr1kit.evaluation.metrics import Metrics


def usage() -> None:
    scenes = pr1kit.make_scenes("counting", 8, seed=0)
    assert_type(scenes, list[Sample])
    assert_type(scenes[0].target, Target)
    assert_type(pr1kit.load_dataset(Path("truth.json")), Samples)

    assert_type(pr1kit.parse("counting", "(1,2),(3,4)"), Answer)
    result = pr1kit.score("counting", "(1,2),(3,4)", {"boxes": [[1, 2, 3, 4]]}, recipe="paper", drop=("count",))
    assert_type(result, RewardResult)
    assert_type(result.total, float)
    assert_type(result.parts, dict[str, float])
    assert_type(result.reason, str)
    assert_type(pr1kit.score_batch("ocr", ["STOP"], [{"text": "STOP"}]), list[RewardResult])
    assert_type(pr1kit.reward_function("ocr"), Callable[..., list[float]])

    metrics = pr1kit.evaluate("counting", ["None"], [{"boxes": []}])
    assert_type(metrics, Metrics)
    assert_type(metrics["accuracy"], float)
    assert_type(metrics.interval("accuracy"), tuple[float, float])
    assert_type(pr1kit.perceptual_perplexity([3, 4]), Perplexity)

    policy = pr1kit.load_policy("tiny")
    assert_type(policy, Policy)
    groups = pr1kit.sample_rollouts(policy, scenes, num_generations=8)
    assert_type(groups, list[list[Rollout]])
    assert_type(pr1kit.rl_headroom(groups), Headroom)
    assert_type(pr1kit.generate_completions(policy, scenes), list[list[str]])
    settings = pr1kit.GRPOSettings(steps=4)
    assert_type(settings.steps, int)
    assert_type(pr1kit.train_grpo(policy, scenes, "runs/a", settings), list[dict])
    assert_type(pr1kit.read_log("runs/a"), list[dict])
    candidates = pr1kit.make_candidates(policy, scenes, 20)
    assert_type(candidates, list[Candidates])
    assert_type(pr1kit.read_candidates("runs/a", policy, scenes), list[Candidates])
    assert_type(pr1kit.select_candidates(candidates, min_gap=0.8), tuple[list[Candidates], dict[str, int]])
    assert_type(pr1kit.train_perpo(policy, candidates, "runs/b", pr1kit.PerPOSettings(method="dpo")), list[dict])
