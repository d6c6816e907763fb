"""One condition of an experiment, and how it is run: prepare, measure, train, measure again.

Everything runs on the synthetic world, with the tiny policy unless another is named. A real one takes the profile of
this GPU and, where a condition says nothing else, the paper's settings.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from pr1kit.data.label_noise import corrupt_labels
from pr1kit.data.sample import Sample
from pr1kit.data.scenes import make_scenes
from pr1kit.evaluation.complexity import rl_headroom
from pr1kit.evaluation.metrics import evaluate
from pr1kit.models.policy import Policy, load_policy
from pr1kit.models.profiles import get_profile
from pr1kit.rewards.score import score_batch
from pr1kit.rollouts.generate import generate_completions, sample_rollouts
from pr1kit.training.curriculum import easy_to_hard, offline_difficulty, train_curriculum
from pr1kit.training.grpo import train_grpo
from pr1kit.training.grpo_settings import PAPER, TINY, GRPOSettings
from pr1kit.training.rloo import train_rloo
from pr1kit.training.sft import TINY_SFT, SFTSettings, train_sft

ALGORITHMS = {"grpo": train_grpo, "rloo": train_rloo}
METHODS = ("rl", "sft", "sft+rl")
STARTS = ("policy", "answers", "thoughts")
ORDERS = ("shuffled", "easy to hard", "easy to hard, more rollouts")
TRUTH_ORDERS = ("reading", "any")
# The first metric of a task that a reader asks for; of OCR's edit distance its complement, so that more is better.
HEADLINE = {"grounding": "mean_iou", "counting": "accuracy", "detection": "ap50", "ocr": "edit_distance"}
LEARNING_RATE = {"grounding": 5e-5, "counting": 1e-4, "detection": 1e-4, "ocr": 1e-4}  # from validation scenes
LEVELS = {
    "easy": {
        "grounding": {"num_objects": (2, 2), "distractors": 0.0},
        "counting": {"num_objects": (1, 2), "distractors": 0},
        "detection": {"num_objects": (1, 2)},
        "ocr": {"text_length": (1, 2)},
    },
    "usual": {"grounding": {}, "counting": {}, "detection": {}, "ocr": {}},
    "hard": {
        "grounding": {"num_objects": (5, 8), "distractors": 0.8},
        "counting": {"num_objects": (4, 7), "distractors": 3},
        "detection": {"num_objects": (4, 6)},
        "ocr": {"text_length": (5, 6)},
    },
}
# Supervised steps of 64 answers that take as long as one RL step of 16 × 8 rollouts (tiny policy, two CPU threads; a
# run's results say how long each took).
SFT_STEPS_PER_RL_STEP = {"grounding": 0.7, "counting": 2.4, "detection": 1.8, "ocr": 0.6}
PREPARATION_SEED = 1000
TEST_SEED = 300  # held-out scenes that neither the demo nor any choice of settings has seen


@dataclass(frozen=True)
class Condition:
    """Everything that decides a run besides its seed. Fields are the factors that a grid can vary.

    `method`: reinforcement (`rl`), supervision on the truth (`sft`), or both, half the compute each; `steps`: the
    compute, in RL steps; `start`: the policy as it is, or after as many supervised steps on faulty answers alone
    (`answers`) or with a short templated thought before each (`thoughts`); `level`: difficulty of the scenes, see
    `LEVELS`; `truth_order`: in which a training scene's true objects are listed, from top to bottom (`reading`) or at
    random (`any`); `order`: in which the samples come; `algorithm`: GRPO, or RLOO through TRL; the rest are fields of
    `GRPOSettings`.
    """

    task: str = "counting"
    policy: str = "tiny"
    method: str = "rl"
    start: str = "policy"
    level: str = "usual"
    order: str = "shuffled"
    recipe: str = "kit"
    matching: str = "optimal"
    drop: tuple[str, ...] = ()
    num_generations: int = 8
    prompts_per_step: int = 16
    steps: int = 40
    rate: float = 1.0  # times the task's learning rate
    beta: float = 0.0
    kl_estimator: str = "k3"
    temperature: float = 1.0
    algorithm: str = "grpo"
    loss_type: str = "grpo"
    scale_rewards: str = "group"
    held_out: int = 200
    preparation: int = 60
    truth_order: str = "reading"

    def __post_init__(self):
        object.__setattr__(self, "drop", tuple(self.drop))
        for name, choices in (
            ("task", HEADLINE), ("method", METHODS), ("start", STARTS), ("order", ORDERS), ("level", LEVELS),
            ("algorithm", ALGORITHMS), ("truth_order", TRUTH_ORDERS),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise ValueError(f"Unknown {name} {getattr(self, name)!r}: choose one of {', '.join(choices)}.")

    @classmethod
    def of(cls, values: dict) -> Condition:
        """A condition from its factors. Raises ValueError for a factor that there is not."""
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise ValueError(f"Unknown factor {', '.join(unknown)}: the factors are {', '.join(known)}.")
        return cls(**values)

    @property
    def thinking(self) -> bool:
        return self.start == "thoughts"

    @property
    def max_tokens(self) -> int:
        return 112 if self.policy == "tiny" else PAPER.max_completion_length

    @property
    def profile(self) -> str | None:
        return "auto" if self.policy != "tiny" and torch.cuda.is_available() else None

    def rl_settings(self) -> GRPOSettings:
        """What a policy of this size needs, before the condition's own factors."""
        if self.policy == "tiny":
            return replace(TINY, micro_prompts=self.prompts_per_step, learning_rate=LEARNING_RATE[self.task])
        _, profile = get_profile(self.profile)
        return replace(PAPER, learning_rate=profile.learning_rate, optim=profile.optim) if profile else PAPER

    def sft_settings(self) -> SFTSettings:
        return TINY_SFT if self.policy == "tiny" else SFTSettings(batch_size=TINY_SFT.batch_size)

    def scenes(self, count: int, seed: int, split: str = "train") -> list[Sample]:
        return make_scenes(self.task, count, seed, split=split, **LEVELS[self.level][self.task])

    def training_scenes(self, count: int, seed: int) -> list[Sample]:
        scenes = self.scenes(count, seed)
        return [in_any_order(s, (seed, i)) for i, s in enumerate(scenes)] if self.truth_order == "any" else scenes


def in_any_order(sample: Sample, seed: Sequence[int]) -> Sample:
    """The sample with its true objects listed in a random order.

    >>> scene = make_scenes("detection", 1, seed=7, num_objects=(4, 4))[0]
    >>> scene.target.labels
    ('circle', 'cross', 'square', 'square')
    >>> in_any_order(scene, (0, 0)).target.labels
    ('square', 'circle', 'cross', 'square')
    """
    target = sample.target
    order = np.random.default_rng(seed).permutation(len(target.boxes))
    listed = {"boxes": target.boxes[order], "points": target.points[order]}
    return replace(sample, target=replace(target, labels=[target.labels[i] for i in order], **listed))


def templated_thought(sample: Sample) -> str:
    """What a thinker would say first: where the object is, or how much there is. Uses the sample's own target.

    >>> templated_thought(make_scenes("counting", 1, seed=7)[0])
    'I see 4.'
    """
    if sample.task == "grounding" and len(sample.target.boxes):
        x, y = sample.target.boxes[0].reshape(2, 2).mean(0) / sample.target.image_size
        return f"I see it {'left' if x < 0.5 else 'right'}, {'top' if y < 0.5 else 'bottom'}."
    return f"I see {len(sample.target.text.split()) if sample.task == 'ocr' else len(sample.target.boxes)}."


def run_condition(condition: Condition, seed: int, work: Path, bar=None) -> tuple[list[dict], dict]:
    """Run one condition with one seed; returns its per-step rows and its results, see `experiments`.

    `work` keeps prepared policies between runs.
    """
    policy = prepared(condition, work)
    held_out = condition.scenes(condition.held_out, TEST_SEED + seed, split="test")
    results = {"before": measure(policy, condition, held_out, seed)}
    probes = condition.scenes(min(64, condition.held_out), TEST_SEED + seed, split="validation")
    limits = {"max_new_tokens": condition.max_tokens, "thinking": condition.thinking}
    groups = sample_rollouts(policy, probes, 8, seed=seed, **limits)
    headroom = asdict(rl_headroom(groups))
    results["headroom"] = {name: value for name, value in headroom.items() if name != "by_prompt"}
    rows, seconds = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for phase, share in {"rl": {"rl": 1.0}, "sft": {"sft": 1.0}, "sft+rl": {"sft": 0.5, "rl": 0.5}}[
            condition.method
        ].items():
            train = {"sft": _supervise, "rl": _reinforce}[phase]
            started = time.perf_counter()
            log = train(policy, condition, seed, share, Path(folder) / phase, bar)
            seconds[phase] = round(time.perf_counter() - started, 1)
            rows += [{"phase": phase, **row} for row in log]
    results["after"] = measure(policy, condition, held_out, seed)
    return rows, {**results, "train_seconds": seconds}


def measure(policy: Policy, condition: Condition, samples: list[Sample], seed: int) -> dict[str, dict[str, float]]:
    """The task's metrics, and the mean `kit` reward, of greedy answers and of two samples each at temperature 1."""
    targets, results = [sample.target for sample in samples], {}
    frames = [policy.frame(sample.load_image().size) for sample in samples]
    for mode, temperature, answers in (("greedy", 0.0, 1), ("sampled", 1.0, 2)):
        texts = generate_completions(
            policy,
            samples,
            num_generations=answers,
            temperature=temperature,
            seed=seed,
            max_new_tokens=condition.max_tokens,
            thinking=condition.thinking,
        )
        metrics = evaluate(condition.task, texts, targets, frame=frames)
        value = metrics[HEADLINE[condition.task]]
        rewards = [
            result.total
            for group, target, frame in zip(texts, targets, frames, strict=True)
            for result in score_batch(condition.task, group, [target] * answers, frame=frame)
        ]
        results[mode] = {
            "headline": 1 - value if condition.task == "ocr" else value,
            "reward": float(np.mean(rewards)),
            **metrics,
        }
        results[mode] = {name: round(float(number), 5) for name, number in results[mode].items()}
    return results


def prepared(condition: Condition, work: Path) -> Policy:
    """The policy from which training starts: as loaded, or after supervised steps on faulty answers or thoughts.

    What is prepared is the same for every seed, kept in `work`, and made only once.
    """
    if condition.start == "policy":
        return load_policy(condition.policy, profile=condition.profile)
    key = f"{condition.task}-{condition.start}-{condition.level}-{condition.preparation}"
    folder = work / "prepared" / Path(condition.policy).name / key
    if not folder.exists():
        policy = load_policy(condition.policy, profile=condition.profile)
        settings = condition.sft_settings()
        settings = replace(settings, steps=condition.preparation, thinking=condition.thinking, save_steps=10**6)
        scenes = condition.scenes(condition.preparation * settings.batch_size, PREPARATION_SEED)
        faulty = [corrupt_labels(scene, np.random.default_rng([PREPARATION_SEED, i])) for i, scene in enumerate(scenes)]
        with tempfile.TemporaryDirectory() as run:
            train_sft(policy, faulty, run, settings, thought=templated_thought if condition.thinking else None)
        half = folder.with_name(f"{key}.tmp")
        shutil.rmtree(half, ignore_errors=True)
        policy.model.save_pretrained(half)
        policy.processor.save_pretrained(half)
        half.replace(folder)
    return load_policy(str(folder), profile=condition.profile)


def _supervise(policy, condition: Condition, seed: int, share: float, folder: Path, bar) -> list[dict]:
    steps = max(1, round(condition.steps * share * SFT_STEPS_PER_RL_STEP[condition.task]))
    settings = condition.sft_settings()
    settings = replace(settings, steps=steps, seed=seed, thinking=condition.thinking, save_steps=10**6)
    count = min(steps * settings.batch_size, condition.steps * condition.prompts_per_step)
    scenes = condition.training_scenes(count, seed)
    thought = templated_thought if condition.thinking else None
    return train_sft(policy, scenes, folder, settings, thought=thought)


def _reinforce(policy, condition: Condition, seed: int, share: float, folder: Path, bar) -> list[dict]:
    taken = ("recipe", "matching", "drop", "num_generations", "prompts_per_step", "beta", "kl_estimator", "temperature")
    settings = condition.rl_settings()
    settings = replace(
        settings,
        **{name: getattr(condition, name) for name in (*taken, "thinking", "loss_type", "scale_rewards")},
        steps=max(1, round(condition.steps * share)),
        learning_rate=settings.learning_rate * condition.rate,
        max_completion_length=condition.max_tokens,
        save_steps=10**6,
        seed=seed,
    )
    scenes = condition.training_scenes(condition.steps * condition.prompts_per_step, seed)
    if condition.order == "shuffled":
        return ALGORITHMS[condition.algorithm](policy, scenes, folder, settings, bar=bar)
    rollouts = {"recipe": condition.recipe, "seed": seed, "max_new_tokens": condition.max_tokens}
    difficulty = offline_difficulty(policy, scenes, **rollouts)
    generations = (4, 8, 16) if "more" in condition.order else (condition.num_generations,) * 3
    return train_curriculum(policy, easy_to_hard(scenes, difficulty, settings.steps, generations), folder, settings)
