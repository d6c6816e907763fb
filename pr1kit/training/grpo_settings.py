"""The settings of a GRPO run, with the paper's values and the tiny policy's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pr1kit.data.options import option


@dataclass(frozen=True)
class GRPOSettings:
    """One GRPO run. The defaults are Perception-R1's (arXiv 2504.07954, section 4.3 and its released code), but for
    `epsilon`: the released trainer clips no ratio. Here every batch is used once, so the ratio is 1 and nothing is
    clipped either.

    `prompts_per_step` is batch 1 × accumulation 2 there, and counts the prompts of all processes; `micro_prompts` of
    them go through the model at once. `top_p` 1 and `top_k` 0 sample from the whole distribution. `beta` weighs the KL
    to the starting policy, estimated by `kl_estimator`, see `kl` ("k1" has no expected gradient as a loss term: it
    restrains nothing); `scale_rewards` "task" is one running spread for each task, see `advantages`;
    `importance_sampling` "sequence" is GSPO's (arXiv 2507.18071): one ratio for an answer, whose gradient is GRPO's as
    long as every batch is used once; `dynamic_sampling` is DAPO's, see `redraw`; `recipe`, `matching` and `drop` choose
    the reward, see `score`; `save_steps` is the distance between checkpoints; `shared_prefix` sees each image once for
    its group.
    """

    steps: int = option(1000, "training steps")
    learning_rate: float = option(1e-6, "at its peak")
    num_generations: int = option(8, "rollouts of each prompt, G")
    prompts_per_step: int = option(2, "prompts of a step, of all processes together")
    micro_prompts: int = option(1, "prompts that go through the model at once")
    beta: float = option(0.04, "weight of the KL to the policy at the start of the run")
    kl_estimator: str = option("k3", "of the KL term: k3, k1, kimi or k1 in the reward")
    epsilon: float = option(0.2, "the policy ratio is clipped to 1 ± epsilon")
    temperature: float = option(1.0, "of the rollouts")
    top_p: float = option(0.9, "rollouts draw from the likeliest tokens of this summed probability; 1 from all")
    top_k: int = option(50, "rollouts draw from so many likeliest tokens; 0 from all")
    max_completion_length: int = option(768, "tokens of a rollout")
    thinking: bool = option(False, "ask to think first")
    recipe: str = option("kit", "of the reward, see pr1kit.score")
    matching: str = option("optimal", "of boxes and objects: optimal, greedy or sequential")
    drop: list[str] = option([], "parts of the reward to leave out")
    lr_scheduler: str = option("linear", "of the learning rate, as transformers names it")
    loss_type: str = option("grpo", "as TRL names it")
    scale_rewards: str = option("group", "by which spread advantages are divided: group, batch, none or task")
    importance_sampling: str = option("token", "what has a policy ratio: token, or sequence (GSPO)")
    dynamic_sampling: int = option(0, "how often groups with equal rewards are drawn again, from other prompts")
    gradient_checkpointing: bool = option(True, "less memory, a third more time")
    optim: str = option("adamw_torch_fused", "as transformers names it")
    shared_prefix: bool = option(True, "see image and prompt once for each group")
    save_steps: int = option(50, "steps between checkpoints")
    seed: int = option(0, "of everything that is drawn")

    def __post_init__(self):
        object.__setattr__(self, "drop", (self.drop,) if isinstance(self.drop, str) else tuple(self.drop))
        if self.importance_sampling not in ("token", "sequence"):
            raise ValueError(f"importance_sampling is token or sequence, got {self.importance_sampling!r}.")
        if self.dynamic_sampling < 0:
            raise ValueError(f"dynamic_sampling is a number of draws from 0 on, got {self.dynamic_sampling}.")

    def config(self, output_dir: str | Path, /, **trl):
        """These settings as TRL's own configuration, for a run in `output_dir`; `trl` adds options.

        Raises ValueError where the step cannot be shared evenly, TRL has no such option or refuses its value, or the
        option is one that these settings decide.
        """
        from trl import GRPOConfig

        from pr1kit.models.backends import quiet

        options = self.options(output_dir)
        if unknown := sorted(set(trl) - set(GRPOConfig.__dataclass_fields__)):
            raise ValueError(f"TRL's GRPOConfig has no option {unknown[0]!r}.")
        if owned := sorted((set(trl) & set(options)) - FREE_OPTIONS):
            raise ValueError(f"TRL's option {owned[0]!r} follows from the run's own settings: change those.")
        try:
            with quiet():
                return GRPOConfig(**options | trl)
        except (ValueError, TypeError, ImportError, OSError) as error:
            raise ValueError(f"TRL does not take these options: {' '.join(str(error).split())}") from error

    def options(self, output_dir: str | Path) -> dict:
        """These settings under TRL's names."""
        rows, accumulation = self._share(int(os.environ.get("WORLD_SIZE", 1)))
        return shared_options(self, output_dir) | dict(
            num_generations=self.num_generations,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=accumulation,
            beta=self.beta,
            use_bias_correction_kl=False,  # the estimator as it is (TRL 1.16 weighs it by the policy ratio)
            epsilon=self.epsilon,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_completion_length=self.max_completion_length,
            loss_type=self.loss_type,
            scale_rewards="none" if self.scale_rewards == "task" else self.scale_rewards,
            importance_sampling_level=self.importance_sampling,
            optim=self.optim,
        )

    def _share(self, processes: int) -> tuple[int, int]:
        """`(rows, accumulation)`: completions that one of `processes` puts through at once, and how often in a step."""
        prompts, micro = self.prompts_per_step, self.micro_prompts
        if prompts % micro:
            raise ValueError(f"prompts_per_step ({prompts}) is no multiple of micro_prompts ({micro}).")
        if prompts % (micro * processes) == 0:
            return micro * self.num_generations, prompts // (micro * processes)
        rows, rest = divmod(prompts * self.num_generations, processes)
        if rest or prompts > micro * processes:
            raise ValueError(
                f"{prompts} prompts in a step, {micro} at once, cannot be shared evenly by {processes} processes: "
                f"make prompts_per_step a multiple of {micro * processes}."
            )
        return rows, 1  # a group stands across processes


# What of `options` a user may say to TRL directly: what does not show in a run's result, and what does.
UNSEEN_OPTIONS = {"dataloader_pin_memory", "disable_tqdm", "logging_steps", "report_to", "save_total_limit"}
FREE_OPTIONS = UNSEEN_OPTIONS | {"bf16", "fp16", "use_bias_correction_kl", "use_cpu"}


def shared_options(settings, output_dir: str | Path) -> dict:
    """What `settings` (GRPO's or SFT's) and this machine say to every trainer of TRL, under its names."""
    import torch

    from pr1kit.models.backends import half_precision

    on_gpu = torch.cuda.is_available()
    half = half_precision(torch.device("cuda" if on_gpu else "cpu"))
    return dict(
        output_dir=str(output_dir),
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler,
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=on_gpu and half == torch.bfloat16,
        fp16=on_gpu and half == torch.float16,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        logging_steps=1,
        save_steps=settings.save_steps,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
    )


def training_arguments(settings, output_dir: str | Path, rows: int, accumulation: int, options: Mapping) -> Any:
    """transformers' `TrainingArguments` for a trainer of the kit's own: `rows` at once, `accumulation` times a step."""
    from transformers import TrainingArguments

    from pr1kit.models.backends import quiet

    own = {
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": accumulation,
        "remove_unused_columns": False,
        "optim": settings.optim,
    }
    with quiet():
        return TrainingArguments(**shared_options(settings, output_dir) | own | dict(options))


PAPER = GRPOSettings()
# What the tiny policy needs: it is 1,500 times smaller, so a step may be larger and must hold more completions.
TINY = replace(
    PAPER,
    steps=120,
    learning_rate=1.5e-4,
    prompts_per_step=16,
    micro_prompts=16,
    beta=0.0,
    top_p=1.0,
    top_k=0,
    max_completion_length=96,
    lr_scheduler="constant",
    gradient_checkpointing=False,
    save_steps=1,
)
