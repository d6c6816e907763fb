"""GRPO runs: settings, samples as TRL's rows, and a run in a folder that can be cut off and gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from trl import GRPOConfig

from pr1kit.policy import Policy, chat
from pr1kit.rewards import reward_function
from pr1kit.run_log import RunLog
from pr1kit.sample import Sample, Target
from pr1kit.trainer import PerceptionGRPOTrainer
from pr1kit.training import train_in_folder


@dataclass(frozen=True)
class GRPOSettings:
    """One GRPO run. The defaults are Perception-R1's (arXiv 2504.07954, section 4.1 and its released scripts).

    `prompts_per_step` is batch 1 × accumulation 2 there; `micro_prompts` of them go through the model at once.
    `beta` weighs the KL to the starting policy (k3 estimator); `recipe`, `matching` and `drop` choose the reward, see
    `score`; `save_steps` is the distance between checkpoints.
    """

    steps: int = 1000
    learning_rate: float = 1e-6
    num_generations: int = 8
    prompts_per_step: int = 2
    micro_prompts: int = 1
    beta: float = 0.04
    epsilon: float = 0.2
    temperature: float = 1.0
    max_completion_length: int = 768
    thinking: bool = False
    recipe: str = "kit"
    matching: str = "optimal"
    drop: tuple[str, ...] = ()
    lr_scheduler: str = "cosine"
    loss_type: str = "grpo"
    scale_rewards: str = "group"
    gradient_checkpointing: bool = True
    save_steps: int = 50
    seed: int = 0

    def config(self, output_dir: str | Path) -> GRPOConfig:
        """These settings as TRL's own configuration, for a run in `output_dir`."""
        if self.prompts_per_step % self.micro_prompts:
            raise ValueError(
                f"prompts_per_step ({self.prompts_per_step}) is no multiple of micro_prompts ({self.micro_prompts})."
            )
        on_gpu = torch.cuda.is_available()
        return GRPOConfig(
            output_dir=str(output_dir),
            max_steps=self.steps,
            learning_rate=self.learning_rate,
            lr_scheduler_type=self.lr_scheduler,
            num_generations=self.num_generations,
            per_device_train_batch_size=self.micro_prompts * self.num_generations,
            gradient_accumulation_steps=self.prompts_per_step // self.micro_prompts,
            beta=self.beta,
            use_bias_correction_kl=False,  # the k3 estimator as it is (TRL 1.16 weighs it by the policy ratio)
            epsilon=self.epsilon,
            temperature=self.temperature,
            max_completion_length=self.max_completion_length,
            loss_type=self.loss_type,
            scale_rewards=self.scale_rewards,
            gradient_checkpointing=self.gradient_checkpointing,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            dataloader_pin_memory=on_gpu,
            logging_steps=1,
            save_steps=self.save_steps,
            save_total_limit=2,
            report_to="none",
            disable_tqdm=True,
            seed=self.seed,
        )


PAPER = GRPOSettings()
# What the tiny policy needs: it is 1,500 times smaller, so a step may be larger and must hold more completions.
TINY = replace(
    PAPER,
    steps=120,
    learning_rate=1.5e-4,
    prompts_per_step=16,
    micro_prompts=16,
    beta=0.0,
    max_completion_length=96,
    lr_scheduler="constant",
    gradient_checkpointing=False,
    save_steps=1,
)


def to_dataset(samples: Sequence[Sample], policy: Policy, *, thinking: bool = False) -> Dataset:
    """The samples as the rows that `GRPOTrainer` and `reward_function` take: prompt, image, the truth, its frame."""
    if not samples:
        raise ValueError("There are no samples to train on.")
    rows: dict[str, list] = {key: [] for key in ("prompt", "image", "id", "frame", *samples[0].target.to_dict())}
    for sample in samples:
        image = sample.load_image()
        words = chat(sample, thinking)[0]["content"][1]["text"]
        frame = policy.frame(image.size)
        row = {
            **_checked(sample, image.size).to_dict(),
            "prompt": [{"role": "user", "content": words}],
            "image": image,
            "id": sample.id,
            "frame": frame if isinstance(frame, str) else list(frame),
        }
        for key, value in row.items():
            rows[key].append(value)
    return Dataset.from_dict(rows).cast_column("image", ImageFeature())


def _checked(sample: Sample, image_size: tuple[int, int]) -> Target:
    """The sample's target against the image as it is. Raises ValueError that names the sample."""
    try:
        if sample.target.image_size not in (None, image_size):
            raise ValueError(f"the image has {image_size} pixels, its target says {sample.target.image_size}.")
        return replace(sample.target, image_size=image_size)
    except ValueError as error:
        raise ValueError(f"Sample {sample.id!r}: {error}") from None


def train_grpo(
    policy: Policy,
    samples: Sequence[Sample],
    folder: str | Path,
    settings: GRPOSettings = TINY,
    *,
    resume: bool = True,
    bar=None,
) -> list[dict]:
    """Train `policy` in place on samples of one task; returns the log, one dict a step.

    `folder` gets `settings.json`, `log.jsonl`, `rollouts.jsonl` and checkpoints. With `resume`, a run that was cut off
    goes on from its newest checkpoint. Raises ValueError where the folder holds a run with other settings, and
    KeyboardInterrupt (after saving) when interrupted.
    """
    tasks = {sample.task for sample in samples}
    if len(tasks) != 1:
        raise ValueError(f"A GRPO run trains one task, these samples hold {', '.join(sorted(tasks)) or 'none'}.")
    (task,), folder = tasks, Path(folder)
    identity = {"task": task, "policy": policy.name, "samples": len(samples), **asdict(settings)}

    def trainer(log: RunLog) -> PerceptionGRPOTrainer:
        options = {name: getattr(settings, name) for name in ("matching", "drop", "thinking")}
        return PerceptionGRPOTrainer(
            model=policy.model,
            reward_funcs=reward_function(task, settings.recipe, **options),
            args=settings.config(folder),
            train_dataset=to_dataset(samples, policy, thinking=settings.thinking),
            processing_class=policy.processor,
            callbacks=[log],
            rollout_log=folder / "rollouts.jsonl",
        )

    return train_in_folder(policy, folder, identity, settings.steps, trainer, resume=resume, bar=bar)
