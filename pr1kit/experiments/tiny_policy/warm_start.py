"""How the tiny policy is made: see, then answer, then search, then err as people err.

1. Dense vision pretraining (`dense_vision`).
2. Lessons: next-token loss on the answers to all four tasks, the dense loss beside it; first equal shares of each task,
   then mostly grounding and counting, where the object asked for must be found among others.
3. A lesson of faulty answers (`faults`), as large-scale annotations are. A policy that was only shown the truth answers
   almost deterministically, and its errors are errors of sight: GRPO has nothing to choose from.

The demo's policy is the tiny one, taught on (`DEMO_RECIPE`): it sees better and errs as much, so that GRPO gains more.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pr1kit.data.durable_files import write_atomically
from pr1kit.data.label_noise import corrupt_labels
from pr1kit.data.run_folder import RunFolder
from pr1kit.data.sample import IMAGE_TASKS, Sample
from pr1kit.data.scenes import DEFAULTS, draw_scene, make_scenes, scene_rng
from pr1kit.experiments.condition import HEADLINE, Condition
from pr1kit.experiments.run_condition import measure
from pr1kit.experiments.tiny_policy.dense_vision import DenseHead, dense_loss, dense_truth
from pr1kit.experiments.tiny_policy.stages import answer_loss, save_in_half, supervised_batch, train
from pr1kit.models.policy import Policy, load_policy
from pr1kit.models.tiny import build_model, build_processor


@dataclass(frozen=True)
class Lesson:
    """A stretch of supervised training: `steps` of as many images of each task as `share` says.

    `easier` holds knobs of `Difficulty` for a task; a `faulty` lesson spoils the answers.
    """

    name: str
    steps: int
    share: dict[str, int]
    lr: float = 1.5e-3
    easier: dict[str, dict] = field(default_factory=dict)
    faulty: bool = False


EQUAL = {"grounding": 16, "ocr": 16, "counting": 16, "detection": 16}
SEARCH = {"grounding": 48, "ocr": 4, "counting": 24, "detection": 4}
DEMO_SHARE = {"grounding": 40, "ocr": 4, "counting": 32, "detection": 4}


@dataclass(frozen=True)
class Recipe:
    """Everything a tiny policy is made from; learning rates warm up and fall to a tenth by cosine in each stage.

    `start`: the shipped policy that is taught on, "" for random weights.
    """

    seed: int = 0
    start: str = ""
    vision_steps: int = 800
    vision_batch: int = 64
    vision_lr: float = 2e-3
    dense_weight: float = 0.3
    lessons: tuple[Lesson, ...] = (
        Lesson("2-answers", 2200, EQUAL, lr=2e-3),
        Lesson("3-search-easy", 300, SEARCH, easier={"grounding": {"num_objects": (2, 3), "distractors": 0.0}}),
        Lesson("4-search", 900, SEARCH),
        Lesson("5-faults", 300, EQUAL, lr=5e-4, faulty=True),
    )


DEMO_RECIPE = Recipe(
    seed=7,
    start="tiny",
    vision_steps=100,
    vision_lr=1e-3,
    lessons=(Lesson("2-further", 1200, DEMO_SHARE), Lesson("3-faults", 60, DEMO_SHARE, lr=3e-4, faulty=True)),
)


def draw_batch(task: str, seed: int, start: int, count: int, **easier) -> tuple[list[Sample], torch.Tensor]:
    """`count` training samples of one task and their dense truth `(count·cells, 7)`."""
    samples = make_scenes(task, count, seed, start=start, **easier)
    knobs = replace(DEFAULTS[task], **easier)
    scenes = [draw_scene(task, scene_rng(task, seed, "train", i), knobs)[0] for i in range(start, start + count)]
    return samples, torch.from_numpy(np.concatenate([dense_truth(scene) for scene in scenes]))


def pretrain_vision(policy: Policy, head: DenseHead, recipe: Recipe, folder: Path) -> float:
    """Stage 1: the vision tower learns what stands where. Returns seconds."""
    visual, share = policy.model.model.visual, recipe.vision_batch // len(IMAGE_TASKS)

    def step_loss(step: int) -> dict:
        batches = [draw_batch(task, recipe.seed, step * share, share) for task in IMAGE_TASKS]
        images = [sample.image for samples, _ in batches for sample in samples]
        pixels = policy.processor.image_processor(images, return_tensors="pt")
        tokens = visual(pixels["pixel_values"], grid_thw=pixels["image_grid_thw"]).pooler_output
        loss = dense_loss(head, tokens, torch.cat([truth for _, truth in batches]))
        loss.backward()
        return {"dense": loss.item()}

    parts = nn.ModuleList([visual, head])
    return train("1-vision", parts, recipe.vision_steps, recipe.vision_lr, folder, step_loss)


def finetune(policy: Policy, head: DenseHead, recipe: Recipe, lesson: Lesson, folder: Path) -> float:
    """Next-token loss on the answers, the dense loss beside it, for one lesson. Returns seconds."""
    seed = recipe.seed + 1 + recipe.lessons.index(lesson)

    def step_loss(step: int) -> dict:
        logs = {}
        for tasks in (("grounding", "ocr"), ("counting", "detection")):  # short answers together, long ones together
            batches = [
                draw_batch(task, seed, step * lesson.share[task], lesson.share[task], **lesson.easier.get(task, {}))
                for task in tasks
            ]
            samples = [sample for samples, _ in batches for sample in samples]
            if lesson.faulty:
                samples = [corrupt_labels(s, np.random.default_rng([seed, step, i])) for i, s in enumerate(samples)]
            token_loss, tokens = answer_loss(policy, *supervised_batch(policy, samples))
            dense = dense_loss(head, tokens, torch.cat([truth for _, truth in batches]))
            ((token_loss + recipe.dense_weight * dense) / 2).backward()
            logs |= {"+".join(tasks): token_loss.item(), "dense": dense.item()}
        return logs

    return train(lesson.name, nn.ModuleList([policy.model, head]), lesson.steps, lesson.lr, folder, step_loss)


def _measured(policy: Policy, held_out: int) -> dict[str, dict[str, float]]:
    """Task and metric, `"counting accuracy"`, to its value in each mode, on `held_out` test scenes of each task."""
    values = {}
    for task in IMAGE_TASKS:
        summary = measure(policy, Condition(task), make_scenes(task, held_out, 0, split="test"), 0).summary()
        values |= {f"{task} {key}": {mode: of[key] for mode, of in summary.items()} for key in summary["greedy"]}
    return values


def make_tiny_policy(out: str | Path, recipe: Recipe, *, work: str | Path, held_out: int = 500) -> None:
    """Make a tiny policy and write it with its model card to `out`; `work` keeps checkpoints.

    Raises ValueError where `work` holds another recipe's.
    """
    out, work = Path(out), Path(work)
    RunFolder(work).begin({"recipe": asdict(recipe)})
    policy = load_policy(recipe.start, verbose=False) if recipe.start else _untrained(recipe.seed)
    torch.manual_seed(1)  # the head is not shipped: it starts alike in every recipe
    head = DenseHead()
    seconds = {"1-vision": pretrain_vision(policy, head, recipe, work)}
    clean = None
    for lesson in recipe.lessons:
        clean = clean or (_measured(policy, held_out) if lesson.faulty else None)
        seconds[lesson.name] = finetune(policy, head, recipe, lesson, work)
    if recipe.start:
        policy = save_in_half(policy, out)
    else:
        policy.model.save_pretrained(out)
        policy.processor.save_pretrained(out)
    final = _measured(policy, held_out)
    card = {
        "recipe": asdict(recipe),
        "seconds": {stage: round(value) for stage, value in seconds.items()},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        **{"held_out": held_out, "after_clean": clean, "final": final},
    }
    write_atomically(out / "training.json", json.dumps(card, indent=1) + "\n")
    write_atomically(out / "README.md", model_card(card))


def _untrained(seed: int) -> Policy:
    processor = build_processor()
    return Policy(build_model(processor, seed), processor, "tiny")


def model_card(card: dict) -> str:
    """The card that stands beside the weights."""
    recipe, clean, final = card["recipe"], card["after_clean"], card["final"]
    rows = "\n".join(
        f"| {name} | {clean[name]['greedy']:.3f} | {final[name]['greedy']:.3f} | {final[name]['sampled']:.3f} |"
        for name in (f"{task} {key}" for task, (key, _) in HEADLINE.items())
    )
    lessons = "\n".join(
        f"- {lesson['name']}: {lesson['steps']} steps of {lesson['share']} images" for lesson in recipe["lessons"]
    )
    minutes = sum(card["seconds"].values()) / 60
    threads = f"{card['threads']} CPU thread{'s' * (card['threads'] > 1)}"
    name, weights, flag = "The tiny policy", "random weights", ""
    if recipe.get("start"):
        name, weights, flag = "The demo's policy, `tiny-demo`", f"`{recipe['start']}`", " --demo"
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# {name}

`Qwen2_5_VLForConditionalGeneration` with {card["parameters"] / 1e6:.1f} million parameters and a tokenizer of its own,
for learning and testing on a CPU. It knows 64×64 pictures of coloured shapes and of made-up words, nothing else, and is
evidence about nothing else.

Made from {weights} by

    python -m pr1kit make-tiny-policy{flag}

in {minutes:.0f} minutes on {threads} (torch {card["torch"]}), seed {recipe["seed"]}: dense vision
pretraining ({recipe["vision_steps"]} steps), then lessons:

{lessons}

The faults are meant (loose and jittered boxes, missed and repeated objects, shuffled order, misread letters): they
leave reinforcement learning something to teach. `training.json` holds the whole recipe.

Held-out scenes, {card["held_out"]} a task (one greedy answer each, two sampled; OCR edit distance: lower is better):

| metric | clean stage, greedy | final, greedy | final, sampled at temperature 1 |
|---|---|---|---|
{rows}
"""
