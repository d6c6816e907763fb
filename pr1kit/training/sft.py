"""The supervised baseline: the same samples, prompts and answer format, taught token by token by TRL's `SFTTrainer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets import Dataset
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from pr1kit.data.sample import Sample
from pr1kit.models.adapters import kept_in_float32
from pr1kit.models.answers import supervised_answer
from pr1kit.models.backends import quiet
from pr1kit.models.inputs import picture
from pr1kit.models.policy import Policy, prompt_words
from pr1kit.training.grpo_settings import shared_options
from pr1kit.training.resumable_run import WholeCheckpoints, train_in_folder
from pr1kit.training.shared_prefix.groups import VideosToo
from pr1kit.training.step_log import RunLog


@dataclass(frozen=True)
class SFTSettings:
    """One supervised run: `steps` of `batch_size` samples, `micro_batch` of which go through the model at once.

    `recipe` is the reward whose answer layout is taught, see `write_answer`.
    """

    steps: int = 1000
    learning_rate: float = 1e-5
    batch_size: int = 16
    micro_batch: int = 1
    lr_scheduler: str = "cosine"
    thinking: bool = False
    recipe: str = "kit"
    gradient_checkpointing: bool = True
    save_steps: int = 50
    seed: int = 0

    def config(self, output_dir: str | Path) -> SFTConfig:
        """These settings as TRL's own configuration, for a run in `output_dir`."""
        if self.batch_size % self.micro_batch:
            raise ValueError(f"batch_size ({self.batch_size}) is no multiple of micro_batch ({self.micro_batch}).")
        with quiet():
            return SFTConfig(
                **shared_options(self, output_dir),
                per_device_train_batch_size=self.micro_batch,
                gradient_accumulation_steps=self.batch_size // self.micro_batch,
                max_length=None,
                completion_only_loss=True,
            )


# What the tiny policy needs, see `grpo.TINY`.
TINY_SFT = SFTSettings(
    steps=120,
    learning_rate=5e-4,
    batch_size=64,
    micro_batch=64,
    lr_scheduler="constant",
    gradient_checkpointing=False,
    save_steps=50,
)


class _SFTTrainer(WholeCheckpoints, SFTTrainer):
    """TRL's trainer, resumed from all of its weights."""


def _to_dataset(
    samples: Sequence[Sample], policy: Policy, thought: Callable[[Sample], str] | None, recipe: str
) -> Dataset:
    """The samples as the rows that `SFTTrainer` takes; an image or a video is read when its row is asked for."""

    def read(batch):
        chosen = [samples[i] for i in batch["sample"]]
        words = [prompt_words(sample, thought is not None) for sample in chosen]
        answers = [supervised_answer(sample, policy, thought(sample) if thought else "", recipe) for sample in chosen]
        return {
            "prompt": [[{"role": "user", "content": said}] for said in words],
            "completion": [[{"role": "assistant", "content": said}] for said in answers],
            "image": [picture(sample) for sample in chosen],
        }

    return Dataset.from_dict({"sample": range(len(samples))}).with_transform(read)


def train_sft(
    policy: Policy,
    samples: Sequence[Sample],
    folder: str | Path,
    settings: SFTSettings = TINY_SFT,
    *,
    thought: Callable[[Sample], str] | None = None,
    resume: bool = True,
    bar=None,
) -> list[dict]:
    """Train `policy` in place on the samples' truth; returns the log, one dict a step.

    `thought` writes the words that stand before an answer; it is needed with `settings.thinking` and then only.
    `folder`, `resume` and errors as in `train_grpo`.
    """
    if not samples:
        raise ValueError("There are no samples to train on.")
    if (thought is None) == settings.thinking:
        raise ValueError("Thinking needs `thought`, which writes a thought for a sample; without it there is none.")
    args = settings.config(folder)
    args.remove_unused_columns = False  # pictures are read when their row is asked for

    identity = {"method": "sft", "task": sorted({sample.task for sample in samples}), **asdict(settings)}

    def trainer(log: RunLog) -> SFTTrainer:
        with kept_in_float32(policy.model):
            return _SFTTrainer(
                model=policy.model,
                args=args,
                train_dataset=_to_dataset(samples, policy, thought, settings.recipe),
                processing_class=policy.processor,
                data_collator=DataCollatorForVisionLanguageModeling(
                    VideosToo(policy.processor), completion_only_loss=True
                ),
                callbacks=[log],
            )

    return train_in_folder(policy, samples, identity, args, trainer, resume=resume, bar=bar)
