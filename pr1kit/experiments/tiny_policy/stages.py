"""What every recipe of a small policy shares: the loss on answers, a stage of training that resumes, half precision."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from pr1kit.data.durable_files import write_atomically
from pr1kit.data.sample import Sample
from pr1kit.models.answers import supervised_answer
from pr1kit.models.inputs import model_inputs
from pr1kit.models.policy import Policy, load_policy


def supervised_batch(policy: Policy, samples: list[Sample]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Model inputs and `labels` (B, L): left-padded prompts, then right-padded answers, as in a rollout."""
    tokenizer = policy.processor.tokenizer
    answers = [supervised_answer(s, policy) + tokenizer.eos_token for s in samples]
    inputs = model_inputs(policy, samples)
    said = tokenizer(answers, padding=True, padding_side="right", return_tensors="pt")
    labels = said["input_ids"].masked_fill(said["attention_mask"] == 0, -100)
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), labels], dim=1)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], said["input_ids"]], dim=1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], said["attention_mask"]], dim=1)
    inputs["mm_token_type_ids"] = F.pad(inputs["mm_token_type_ids"], (0, said["input_ids"].shape[1]))
    return dict(inputs), labels


def answer_loss(policy: Policy, inputs: dict, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The next-token loss on answers, and the merged image tokens `(N, width)`, of which the image is seen once."""
    model = policy.model
    pixels, grid = inputs.pop("pixel_values"), inputs["image_grid_thw"]
    tokens = model.model.visual(pixels, grid_thw=grid).pooler_output
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    is_image = (inputs["input_ids"] == model.config.image_token_id).unsqueeze(-1)
    inputs["inputs_embeds"] = embeds.masked_scatter(is_image, tokens)
    hidden = model.model(**inputs).last_hidden_state
    answered = labels[:, 1:] >= 0
    return F.cross_entropy(model.lm_head(hidden[:, :-1][answered]), labels[:, 1:][answered]), tokens


def train(name: str, parts: nn.ModuleList, steps: int, lr: float, folder: Path, step_loss) -> float:
    """Call `step_loss(step)`, which back-propagates and returns what to log, `steps` times; returns seconds.

    AdamW with warm-up and cosine; a checkpoint every 100 steps, from which the same call goes on.
    """
    optimizer = torch.optim.AdamW(parts.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
    warm = max(1, min(100, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warm, 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, i / steps))))
    )
    saved, done, seconds = {"parts": parts, "optimizer": optimizer, "schedule": schedule}, 0, 0.0
    if (path := folder / f"{name}.pt").exists():
        try:
            state = torch.load(path, weights_only=True)
        except Exception as error:  # torch, pickle and zipfile each have their own
            raise ValueError(f"{path} is damaged: remove it to make that stage again.") from error
        done, seconds = state["step"], state["seconds"]
        for key, part in saved.items():
            part.load_state_dict(state[key])
    started = time.time() - seconds
    bar = tqdm(range(done, steps), desc=name, initial=done, total=steps)
    for step in bar:
        logs = step_loss(step)
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 10 == 0:
            bar.set_postfix({key: f"{value:.3f}" for key, value in logs.items()})
        if (step + 1) % 100 == 0 or step + 1 == steps:
            state = {"step": step + 1, "seconds": time.time() - started}
            torch.save(state | {key: part.state_dict() for key, part in saved.items()}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
    return time.time() - started


def save_in_half(policy: Policy, out: Path) -> Policy:
    """Write the policy in half precision, to be loaded in float32, and return it as it is loaded."""
    policy.model.half().save_pretrained(out)
    policy.processor.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    config["vision_config"].pop("rope_parameters", None)  # the defaults, by names that old transformers warn of
    write_atomically(out / "config.json", json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
    return load_policy(str(out), verbose=False)
