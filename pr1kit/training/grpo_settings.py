"""The settings of a GRPO run, with the paper's values and the tiny policy's."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class GRPOSettings:
    """One GRPO run. The defaults are Perception-R1's (arXiv 2504.07954, section 4.3 and its released code), but for
    `epsilon`: the released trainer clips no ratio. Here every batch is used once, so the ratio is 1 and nothing is
    clipped either.

    `prompts_per_step` is batch 1 × accumulation 2 there, and counts the prompts of all processes; `micro_prompts` of
    them go through the model at once. `top_p` 1 and `top_k` 0 sample from the whole distribution. `beta` weighs the KL
    to the starting policy, see `kl`; `recipe`, `matching` and `drop` choose the reward, see `score`; `save_steps` is
    the distance between checkpoints; `shared_prefix` sees each image once for its group.
    """

    steps: int = 1000
    learning_rate: float = 1e-6
    num_generations: int = 8
    prompts_per_step: int = 2
    micro_prompts: int = 1
    beta: float = 0.04
    kl_estimator: str = "k3"
    epsilon: float = 0.2
    temperature: float = 1.0
    top_p: float = 0.9
    top_k: int = 50
    max_completion_length: int = 768
    thinking: bool = False
    recipe: str = "kit"
    matching: str = "optimal"
    drop: tuple[str, ...] = ()
    lr_scheduler: str = "linear"
    loss_type: str = "grpo"
    scale_rewards: str = "group"
    gradient_checkpointing: bool = True
    optim: str = "adamw_torch_fused"
    shared_prefix: bool = True
    save_steps: int = 50
    seed: int = 0

    def config(self, output_dir: str | Path, **trl):
        """These settings as TRL's own configuration, for a run in `output_dir`; `trl` adds or overrides options.

        Raises ValueError where the step cannot be shared evenly or TRL has no such option.
        """
        from trl import GRPOConfig

        if unknown := sorted(set(trl) - set(GRPOConfig.__dataclass_fields__)):
            raise ValueError(f"TRL's GRPOConfig has no option {unknown[0]!r}.")
        return GRPOConfig(**self.options(output_dir) | trl)

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
            scale_rewards=self.scale_rewards,
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
