"""One condition of an experiment: everything that decides a run besides its seed.

Everything runs on the synthetic world, with the tiny policy unless another is named. A real one takes the profile of
this GPU and, where a condition says nothing else, the paper's settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from pr1kit.data.label_noise import FAULTS, with_fault
from pr1kit.data.sample import Sample
from pr1kit.data.scenes import make_scenes
from pr1kit.experiments.grid import from_factors
from pr1kit.models.policy import scene_knobs
from pr1kit.models.profiles import get_profile
from pr1kit.training.grpo_settings import PAPER, TINY, GRPOSettings
from pr1kit.training.preference_settings import METHODS, TINY_PERPO, PerPOSettings
from pr1kit.training.sft import TINY_SFT, SFTSettings

ALGORITHMS = ("grpo", "rloo")
PHASES = {"rl": {"rl": 1.0}, "sft": {"sft": 1.0}, "sft+rl": {"sft": 0.5, "rl": 0.5}}  # method: share of the compute
PHASES |= {method: {"ranked": 1.0} for method in METHODS}
STARTS = ("policy", "answers", "thoughts")
ORDERS = ("shuffled", "easy to hard", "easy to hard, more rollouts")
TRUTH_ORDERS = ("reading", "any")
# Task: the metric that a reader asks for first, and how the headline made of it is printed (more is better).
HEADLINE = {
    "grounding": ("mean_iou", "mean IoU"),
    "counting": ("accuracy", "accuracy"),
    "detection": ("ap50", "AP50"),
    "ocr": ("edit_distance", "1 − edit distance"),
}
LEARNING_RATE = {"grounding": 5e-5, "counting": 1e-4, "detection": 1e-4, "ocr": 1e-4}  # from validation scenes
RANKED_LEARNING_RATE = {"grounding": 3e-5, "counting": 2e-5, "detection": 3e-5, "ocr": 1.2e-4}  # likewise
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
    "few": {
        "grounding": {"num_objects": (3, 3), "distractors": 1.0},
        "counting": {"num_objects": (2, 3), "distractors": 0},
        "detection": {"num_objects": (2, 3)},
        "ocr": {"text_length": (3, 3)},
    },
}
# Supervised steps of 64 answers that take as long as one RL step of 16 × 8 rollouts (tiny policy, two CPU threads; a
# run's results say how long each took).
SFT_STEPS_PER_RL_STEP = {"grounding": 0.7, "counting": 2.4, "detection": 1.8, "ocr": 0.6}
# Processor seconds (tiny policy, one CPU thread) of a completion of RL; and on ranked answers of a prompt, of each
# answer that is sampled, and of each that is compared, the reference's pass included, which best of n does not need.
RL_SECONDS = {"grounding": 0.0058, "counting": 0.0205, "detection": 0.0160, "ocr": 0.0043}
REFERENCE_SECONDS = 0.01  # of a prompt
RANKED_SECONDS = {
    "grounding": (0.053, 0.0018, 0.0013),
    "counting": (0.046, 0.0046, 0.0065),
    "detection": (0.051, 0.0053, 0.0065),
    "ocr": (0.039, 0.0009, 0.0013),
}


@dataclass(frozen=True)
class Condition:
    """Everything that decides a run besides its seed. Fields are the factors that a grid can vary.

    `method`: reinforcement (`rl`), supervision on the truth (`sft`), both, half the compute each, or one on ranked
    answers, in `rounds` of sampling and training; `steps`: the compute, in RL steps; `rl_start`: how many RL
    steps the policy has had before; `age`: how many of them the writer of its candidates has not had; `start`: the
    policy as it is, or after as many supervised steps on faulty answers alone (`answers`) or with a short templated
    thought before each (`thoughts`); `level`: difficulty of the scenes, see `LEVELS`; `truth_order`: in which a
    training scene's true objects are listed, from top to bottom (`reading`) or at random (`any`); `fault`: of the truth
    that is trained on, of size `fault_size`, see `label_noise`; `distinct_scenes`: how many training scenes there are,
    gone through again and again (0: as many as RL has prompts, or ranked answers are asked for); `together`: other
    tasks whose samples are trained on in the same run, `steps` steps for each; `order`: in which the samples come;
    `algorithm`: GRPO, or RLOO through TRL; `held_out` scenes drawn from `test_seed` + the run's seed are answered
    greedily once and `sampled` times at temperature 1, and `probes` others eight times for the headroom (0: none); with
    `blind` the questions are also put with other images than their own; `max_new_tokens` bounds an answer (None: what
    the policy needs); the rest are fields of `GRPOSettings` and `PerPOSettings`.
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
    lr_scale: float = 1.0  # times the task's learning rate
    beta: float = 0.0
    kl_estimator: str = "k3"
    temperature: float = 1.0
    algorithm: str = "grpo"
    loss_type: str = "grpo"
    scale_rewards: str = "group"
    importance_sampling: str = "token"
    dynamic_sampling: int = 0
    held_out: int = 200
    preparation: int = 60
    truth_order: str = "reading"
    test_seed: int = 300  # scenes that neither the demo nor any choice of settings has seen
    sampled: int = 2
    probes: int = 64
    max_new_tokens: int | None = None
    num_candidates: int = 20
    gamma: float = 0.5
    rounds: int = 1
    rl_start: int = 0
    age: int = 0
    blind: bool = False
    save_steps: int | None = None
    together: tuple[str, ...] = ()
    fault: str = "none"
    fault_size: float = 0.0
    distinct_scenes: int = 0

    def __post_init__(self):
        for name in ("drop", "together"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        choices = {"task": HEADLINE, "method": PHASES, "start": STARTS, "order": ORDERS, "level": LEVELS}
        choices |= {"algorithm": ALGORITHMS, "truth_order": TRUTH_ORDERS, "fault": ("none", *FAULTS)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"Unknown {name} {getattr(self, name)!r}: choose one of {', '.join(known)}.")
        if self.distinct_scenes < 0:
            raise ValueError(f"distinct_scenes is how many scenes there are, or 0: got {self.distinct_scenes}.")

    @classmethod
    def of(cls, values: dict) -> Condition:
        """A condition from its factors. Raises ValueError for a factor that there is not."""
        return from_factors(cls, values)

    @property
    def thinking(self) -> bool:
        return self.start == "thoughts"

    @property
    def is_tiny(self) -> bool:
        """Whether the settings of a policy of this size hold."""
        return self.policy in ("tiny", "tiny-demo")

    @property
    def max_tokens(self) -> int:
        return self.max_new_tokens or (112 if self.is_tiny else PAPER.max_completion_length)

    @property
    def profile(self) -> str | None:
        return "auto" if not self.is_tiny and torch.cuda.is_available() else None

    def rl_settings(self, seed: int = 0, share: float = 1.0) -> GRPOSettings:
        """GRPO with this `share` of the compute: what a policy of this size needs, then the condition's own factors."""
        settings = PAPER
        if self.is_tiny:
            settings = replace(TINY, micro_prompts=self.prompts_per_step, learning_rate=LEARNING_RATE[self.task])
        elif profile := get_profile(self.profile)[1]:
            settings = replace(PAPER, learning_rate=profile.learning_rate, optim=profile.optim)
        own = {field.name for field in fields(settings)} & {field.name for field in fields(self)}
        changes = {name: getattr(self, name) for name in own if getattr(self, name) is not None} | {
            "thinking": self.thinking,
            "seed": seed,
        }
        changes |= {"steps": max(1, round(self.steps * share)), "max_completion_length": self.max_tokens}
        return replace(settings, **changes, learning_rate=settings.learning_rate * self.lr_scale)

    def sft_settings(self, seed: int = 0, share: float = 1.0) -> SFTSettings:
        """Supervision with this `share` of the compute."""
        settings = TINY_SFT if self.is_tiny else SFTSettings(batch_size=TINY_SFT.batch_size)
        completions = self.prompts_per_step * self.num_generations / (16 * 8)
        steps = max(1, round(self.steps * share * completions * SFT_STEPS_PER_RL_STEP[self.task]))
        return replace(settings, steps=steps, seed=seed, thinking=self.thinking)

    def ranked_settings(self, seed: int = 0) -> PerPOSettings:
        """Training on ranked answers: what a policy of this size needs, then the condition's own factors."""
        settings = TINY_PERPO if self.is_tiny else PerPOSettings()
        if self.is_tiny:
            settings = replace(settings, learning_rate=RANKED_LEARNING_RATE[self.task])
        rate = settings.learning_rate * self.lr_scale
        own = {"method": self.method, "gamma": self.gamma, "num_candidates": self.num_candidates, "seed": seed}
        return replace(settings, **own, learning_rate=rate)

    @property
    def ranked_prompts(self) -> int:
        """How many prompts get candidates, sampling and training together as long as the RL steps."""
        prompt, sampled, used = RANKED_SECONDS[self.task]
        each = prompt + sampled * self.num_candidates - REFERENCE_SECONDS * (self.method == "best_of_n")
        each += used * (self.num_candidates if self.method in ("perpo", "lipo") else 2)
        completions = self.steps * self.prompts_per_step * self.num_generations
        return max(self.rounds, round(completions * RL_SECONDS[self.task] / each))

    def scenes(self, count: int, seed: int, split: str = "train") -> list[Sample]:
        """The condition's scenes, of a size that its policy can see."""
        knobs = scene_knobs(self.policy, self.task) | LEVELS[self.level][self.task]
        return make_scenes(self.task, count, seed, split=split, **knobs)

    def training_scenes(self, count: int, seed: int) -> list[Sample]:
        """The distinct scenes that a run of `count` samples meets, each with the faults that it keeps."""
        scenes = self.scenes(min(count, self.distinct_scenes or count), seed)
        if self.truth_order == "any":
            scenes = [in_any_order(sample, (seed, i)) for i, sample in enumerate(scenes)]
        return scenes if self.fault == "none" else with_fault(scenes, self.fault, self.fault_size, seed)


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
