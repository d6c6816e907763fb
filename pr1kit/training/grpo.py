"""GRPO runs: samples as TRL's rows, and a run in a folder that can be cut off and gone on with.

Under `accelerate launch` every process calls the same function; TRL and accelerate do the rest.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from datasets import Dataset

from pr1kit.data.images import image_size
from pr1kit.data.sample import Sample, Target
from pr1kit.models.inputs import picture, refuse_videos
from pr1kit.models.policy import Policy, prompt_words
from pr1kit.rewards.score import Recipe, recipe_name, reward_function
from pr1kit.training.grpo_settings import PAPER, TINY, UNSEEN_OPTIONS, GRPOSettings
from pr1kit.training.grpo_trainer import PerceptionGRPOTrainer
from pr1kit.training.probes import ProbeLog
from pr1kit.training.resumable_run import train_in_folder
from pr1kit.training.step_log import RunLog

__all__ = ["PAPER", "TINY", "GRPOSettings", "to_dataset", "train_grpo"]


def to_dataset(samples: Sequence[Sample], policy: Policy, *, thinking: bool = False) -> Dataset:
    """The samples as the rows that `GRPOTrainer` and `reward_function` take: prompt, image, task, truth, its frame.

    An image is read when its row is asked for, once for the rows of a group; here a file's header alone. A video stands
    in the column `image` too, as an `inputs.Video`.
    """
    if not samples:
        raise ValueError("There are no samples to train on.")
    if len({sample.is_video for sample in samples}) > 1:
        raise ValueError(
            "A run learns from images or from videos, these samples hold both: train on one after another."
        )
    rows: dict[str, list] = {
        key: [] for key in ("prompt", "image", "id", "task", "frame", *samples[0].target.to_dict())
    }
    for i, sample in enumerate(samples):
        size = image_size(sample.image)
        words = prompt_words(sample, thinking)
        frame = policy.frame_of(sample)
        row = {
            **_checked(sample, size).to_dict(),
            "prompt": [{"role": "user", "content": words}],
            "image": i,
            "id": sample.id,
            "task": sample.task,
            "frame": frame if isinstance(frame, str) else list(frame),
        }
        for key, value in row.items():
            rows[key].append(value)

    def read(batch):  # of rows that are asked for together, a group's share one picture
        pictures = {i: picture(samples[i]) for i in dict.fromkeys(batch["image"])}
        return {"image": [pictures[i] for i in batch["image"]]}

    return Dataset.from_dict(rows).with_transform(read, columns=["image"], output_all_columns=True)


def _checked(sample: Sample, image_size: tuple[int, int]) -> Target:
    """The sample's target against the image as it is. Raises ValueError that names the sample."""
    try:
        if sample.target.image_size not in (None, image_size):
            raise ValueError(f"the image has {image_size} pixels, its target says {sample.target.image_size}.")
        return replace(sample.target, image_size=image_size)
    except ValueError as error:
        raise ValueError(f"Sample {sample.id!r}: {error}") from None


def only_task(samples: Sequence[Sample]) -> str:
    """The one task of these samples. Raises ValueError for none or several."""
    tasks = {sample.task for sample in samples}
    if len(tasks) != 1:
        raise ValueError(f"This trainer takes one task, these samples hold {', '.join(sorted(tasks)) or 'none'}.")
    return tasks.pop()


def reward_of(
    task: str | Sequence[str], settings: GRPOSettings, processor=None, recipe: Recipe | None = None
) -> Callable[..., list[float]]:
    """The reward function that `settings` ask for, or `recipe`; `released-strict` reads completions with their special
    tokens."""
    recipe = settings.recipe if recipe is None else recipe
    switches = {name: getattr(settings, name) for name in ("matching", "drop", "thinking")}
    if recipe == "released-strict" and processor is not None:
        switches["decode"] = partial(processor.decode, skip_special_tokens=False)
    return reward_function(task, recipe, **switches)


def signature(recipe: Recipe) -> str:
    """What tells a recipe from others: its name, and of a function a digest of its source, where there is one."""
    if isinstance(recipe, str):
        return recipe
    try:
        source = inspect.getsource(recipe)
    except (OSError, TypeError):  # written at a prompt, or an object that is called
        return recipe_name(recipe)
    return f"{recipe_name(recipe)} {hashlib.sha256(source.encode()).hexdigest()[:16]}"


def train_grpo(
    policy: Policy,
    samples: Sequence[Sample],
    folder: str | Path,
    settings: GRPOSettings = TINY,
    *,
    recipe: Recipe | None = None,
    resume: bool = True,
    bar=None,
    trl: Mapping = {},
    reference: Mapping | None = None,
    probes: Sequence[Sample] = (),
) -> list[dict]:
    """Train `policy` in place on samples of one task or several, mixed; returns the log, one dict a step.

    `folder` gets `settings.json`, `log.jsonl`, `rollouts.jsonl` and checkpoints. With `resume`, a run that was cut off
    goes on from its newest checkpoint. An adapter is trained where the policy has one, else all weights. `recipe` is a
    reward of your own in the place of the settings' (see `rewards.score`); one whose source has changed is another run,
    what it calls is not looked at. `trl` holds
    further options of TRL's `GRPOConfig` (`report_to`, `use_vllm`, …); `reference` the weights to which the KL term is
    measured (`weights.trained_weights`), by default the policy's at the start of the run. Held-out
    `probes` are answered greedily at eleven steps, the start and the end included, into `probes.jsonl`, which changes
    nothing else of the run (`export_explorer` shows them). Raises as `train_in_folder`.
    """
    if not samples:
        raise ValueError("There are no samples to train on.")
    tasks, folder = sorted({sample.task for sample in samples}), Path(folder)
    args = settings.config(folder, **trl)
    if args.use_vllm:
        refuse_videos(samples, "vLLM")
    seen = {name: value for name, value in trl.items() if name not in UNSEEN_OPTIONS}
    identity = {"method": "grpo", "task": tasks if len(tasks) > 1 else tasks[0], **asdict(settings), "trl": seen}
    if recipe is not None:
        identity["recipe"] = signature(recipe)
    asked = {"max_new_tokens": settings.max_completion_length, "thinking": settings.thinking}
    watch = [ProbeLog(policy, probes, folder, settings.steps, **asked)] if probes else []

    def trainer(log: RunLog) -> PerceptionGRPOTrainer:
        return PerceptionGRPOTrainer(
            model=policy.model,
            reward_funcs=reward_of(tasks, settings, policy.processor, recipe),
            args=args,
            train_dataset=to_dataset(samples, policy, thinking=settings.thinking),
            processing_class=policy.processor,
            callbacks=[log, *watch],
            shared_prefix=settings.shared_prefix,
            kl_estimator=settings.kl_estimator,
            scale_per_task=settings.scale_rewards == "task",
            dynamic_sampling=settings.dynamic_sampling,
            rollout_log=folder / "rollouts.jsonl",
            reference=reference,
        )

    return train_in_folder(policy, samples, identity, args, trainer, resume=resume, bar=bar)
