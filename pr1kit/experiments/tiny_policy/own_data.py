"""A tiny policy for a folder of one's own photographs with boxes: see, then answer, as the tiny policy is made.

1. Crops of the photographs are drawn once and seen at 64×64 pixels; a fifth of the photographs is held out.
2. Dense vision pretraining: each cell of a crop is asked for the class of what stands there, and its box.
3. Lessons: next-token loss on the answers, the dense loss beside it, objects from top to bottom.

No faults are taught: annotations that people made have their own. Crops are mirrored left to right, and turned and
mirrored in all eight ways where pictures have no up (microscopes, satellites).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from pr1kit.data.crops import crop_samples, photographs, picture_of, split_by_image
from pr1kit.data.durable_files import write_atomically
from pr1kit.data.images import load_image
from pr1kit.data.load import load_dataset
from pr1kit.data.run_folder import RunFolder
from pr1kit.data.sample import Sample, Target
from pr1kit.experiments.condition import Condition
from pr1kit.experiments.run_condition import measure
from pr1kit.experiments.tiny_policy.dense_vision import DenseHead, dense_truth_of, object_loss
from pr1kit.experiments.tiny_policy.stages import answer_loss, save_in_half, supervised_batch, train
from pr1kit.models.policy import Policy
from pr1kit.models.tiny import IMAGE_SIZE, build_model, build_processor, build_tokenizer
from pr1kit.rewards.tasks import get_task

TASKS = ("counting", "detection")
CLASSES = 40  # more do not fit into a vocabulary of a thousand tokens


@dataclass(frozen=True)
class OwnRecipe:
    """Everything a policy for one's own photographs is made from, beside these.

    `crop` is the side of a crop in pixels of the photograph, `pool` how many are drawn; `share` of the photographs is
    held out; `any_side_up` says that pictures may be turned and mirrored in all ways.
    """

    task: str = "counting"
    crop: int = 240
    keep: float = 0.5
    pool: int = 8_000
    share: float = 0.2
    any_side_up: bool = False
    seed: int = 0
    vision_steps: int = 400
    steps: int = 420
    batch: int = 64
    vision_lr: float = 2e-3
    lr: float = 2e-3
    dense_weight: float = 0.3


def make_own_policy(
    data: str | Path,
    out: str | Path,
    recipe: OwnRecipe,
    *,
    work: str | Path,
    split: str | None = None,
    name: str = "",
    most: int | None = None,
) -> dict:
    """Make a policy for the COCO or VOC data at `data` and write it with its model card to `out`; returns the card.

    `work` keeps checkpoints, from which the same call goes on; `most` bounds the held-out questions. Raises ValueError
    where `work` holds another recipe's, for a task without boxes, one photograph, too many classes, and as
    `load_dataset` and `crop_samples`.
    """
    if recipe.task not in TASKS:
        raise ValueError(f"A policy of your own data is taught counting or detection, not {recipe.task!r}.")
    out, work = Path(out), Path(work)
    learned, held_out = split_by_image(load_dataset(data, "detection", split=split), recipe.share, recipe.seed)
    classes = sorted({label for sample in (*learned, *held_out) for label in sample.target.labels})
    if not 0 < len(classes) <= CLASSES:
        raise ValueError(f"{data} has objects of {len(classes)} classes: a policy of this size takes 1 to {CLASSES}.")
    RunFolder(work).begin({"recipe": asdict(recipe), "data": str(data), "classes": classes})
    pool = draw_pool(learned, recipe)
    processor = build_processor(build_tokenizer(corpus(classes)), IMAGE_SIZE)
    policy = Policy(build_model(processor, recipe.seed), processor, str(out))
    torch.manual_seed(recipe.seed + 1)
    head = DenseHead((len(classes) + 1, 4))
    seconds = {"1-vision": _see(policy, head, recipe, pool, classes, work)}
    seconds["2-answers"] = _answer(policy, head, recipe, pool, classes, work)
    policy = save_in_half(policy, out)  # what is written is what is measured
    card = {
        "name": name or out.name,
        "recipe": asdict(recipe),
        "split": split,
        "classes": classes,
        "photographs": [len(set(photographs(part))) for part in (learned, held_out)],
        "seconds": {stage: round(value) for stage, value in seconds.items()},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        **_measured(policy, held_out, recipe, pool, most),
    }
    write_atomically(out / "training.json", json.dumps(card, indent=1) + "\n")
    write_atomically(out / "README.md", own_card(card))
    return card


def corpus(classes: Sequence[str]) -> Iterator[str]:
    """What the vocabulary is learned from: prompts and answers about these classes, and all numbers."""
    for task in ("grounding", *TASKS):
        for label in classes:
            target = Target(boxes=[[1, 2, 30, 40]], labels=[label])
            prompt = get_task(task).prompt(label if task != "detection" else ", ".join(classes))
            yield from [prompt, get_task(task).write_answer(target, label=label)] * 20
    for number in range(201):
        yield from [f"({number},{number})", f" {number}"] * 20
    yield from ["system\nYou are a helpful assistant. user\nassistant\n", "<think></think><answer></answer>"] * 20


def draw_pool(samples: Sequence[Sample], recipe: OwnRecipe) -> list[Sample]:
    """Random crops as the policy sees them, 64×64 pixels in memory, objects from top to bottom."""
    each = max(1, round(recipe.pool / len(samples)))
    crops = crop_samples(samples, recipe.crop, each=each, keep=recipe.keep, seed=recipe.seed)
    pool = []
    for _, same in groupby(crops, key=lambda sample: picture_of(sample.image)):
        same = list(same)
        photograph = load_image(same[0].image.image)  # decoded once
        pool += [_shrunk(sample, photograph.crop(sample.image.box)) for sample in same]
    return pool


def _shrunk(sample: Sample, image: Image.Image) -> Sample:
    target, side = sample.target, (IMAGE_SIZE, IMAGE_SIZE)
    boxes = target.boxes * IMAGE_SIZE / target.image_size[0]
    image = image.resize(side, Image.Resampling.BICUBIC)
    return replace(sample, image=image, target=replace(target, boxes=boxes, image_size=side))


def turned(sample: Sample, turn: int) -> Sample:
    """The sample mirrored left to right (`turn` & 1), top to bottom (& 2), and rows and columns exchanged (& 4)."""
    image, target = np.asarray(sample.image), sample.target
    boxes, size = target.boxes.copy(), target.image_size[0]
    for axis, bit in ((0, 1), (1, 2)):
        if turn & bit:
            image = np.flip(image, 1 - axis)
            boxes[:, [axis, axis + 2]] = size - boxes[:, [axis + 2, axis]]
    if turn & 4:
        image, boxes = image.transpose(1, 0, 2), boxes[:, [1, 0, 3, 2]]
    order = np.lexsort((boxes[:, 0], boxes[:, 1]))  # top to bottom
    labels = tuple(target.labels[i] for i in order)
    listed = replace(target, boxes=boxes[order], labels=labels)
    return replace(sample, image=Image.fromarray(np.ascontiguousarray(image)), target=listed)


def about(sample: Sample, label: str) -> Sample:
    """The counting question about `label` to a detection sample."""
    mine = [i for i, each in enumerate(sample.target.labels) if each == label]
    target = replace(sample.target, boxes=sample.target.boxes[mine], labels=(label,) * len(mine))
    return replace(sample, task="counting", question=label, target=target, id=f"{sample.id}/{label}")


def _batch(pool: Sequence[Sample], recipe: OwnRecipe, rng: np.random.Generator) -> list[Sample]:
    chosen = rng.choice(len(pool), recipe.batch, replace=len(pool) < recipe.batch)
    return [turned(pool[i], int(rng.integers(8 if recipe.any_side_up else 2))) for i in chosen]


def _truth(samples: Sequence[Sample], classes: Sequence[str]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([dense_truth_of(sample.target, classes) for sample in samples]))


def _see(policy: Policy, head: DenseHead, recipe: OwnRecipe, pool, classes, folder: Path) -> float:
    visual = policy.model.model.visual

    def step_loss(step: int) -> dict:
        samples = _batch(pool, recipe, np.random.default_rng([recipe.seed, 1, step]))
        pixels = policy.processor.image_processor([sample.image for sample in samples], return_tensors="pt")
        tokens = visual(pixels["pixel_values"], grid_thw=pixels["image_grid_thw"]).pooler_output
        loss = object_loss(head, tokens, _truth(samples, classes))
        loss.backward()
        return {"dense": loss.item()}

    return train("1-vision", nn.ModuleList([visual, head]), recipe.vision_steps, recipe.vision_lr, folder, step_loss)


def _answer(policy: Policy, head: DenseHead, recipe: OwnRecipe, pool, classes, folder: Path) -> float:
    def step_loss(step: int) -> dict:
        rng = np.random.default_rng([recipe.seed, 2, step])
        samples = _batch(pool, recipe, rng)
        truth = _truth(samples, classes)
        if recipe.task == "counting":
            kinds = [sorted(set(sample.target.labels)) for sample in samples]
            samples = [about(s, known[rng.integers(len(known))]) for s, known in zip(samples, kinds, strict=True)]
        token_loss, tokens = answer_loss(policy, *supervised_batch(policy, samples))
        dense = object_loss(head, tokens, truth)
        ((token_loss + recipe.dense_weight * dense) / 2).backward()
        return {"answers": token_loss.item(), "dense": dense.item()}

    return train("2-answers", nn.ModuleList([policy.model, head]), recipe.steps, recipe.lr, folder, step_loss)


def questions(samples: Sequence[Sample], task: str) -> list[Sample]:
    """The questions of `task` to detection samples: in counting one about each class that is there."""
    if task == "detection":
        return list(samples)
    return [about(sample, label) for sample in samples for label in sorted(set(sample.target.labels))]


def _measured(
    policy: Policy, held_out: Sequence[Sample], recipe: OwnRecipe, pool: Sequence[Sample], first: int | None
) -> dict:
    """Every metric on tiled crops of the held-out photographs, `{"held_out": crops, "final": {mode: …}}`."""
    asked = questions(crop_samples(held_out, recipe.crop, how="tiled", keep=recipe.keep), recipe.task)[:first]
    most = max(len(sample.target.boxes) for sample in questions(pool, recipe.task))
    limit = 32 + 24 * most * (1 if recipe.task == "counting" else 2)
    condition = Condition(recipe.task, sampled=2, max_new_tokens=min(limit, 400))
    return {"questions": len(asked), "final": measure(policy, condition, asked, recipe.seed).summary()}


def own_card(card: dict) -> str:
    """The card that stands beside the weights."""
    recipe, final = card["recipe"], card["final"]
    learned, held_out = card["photographs"]
    rows = "\n".join(
        f"| {name} | {final['greedy'][name]:.3f} | {final['sampled'][name]:.3f} |"
        for name in final["greedy"]
        if name != "headline"
    )
    flags = f" --split {card['split']}" if card["split"] else ""
    flags += f" --task {recipe['task']} --crop {recipe['crop']}" + " --any-side-up" * recipe["any_side_up"]
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
---
# {card["name"]}

`Qwen2_5_VLForConditionalGeneration` with {card["parameters"] / 1e6:.1f} million parameters, in half precision, and a
tokenizer of its own, for learning and testing on a CPU. It was taught {recipe["task"]} on crops of {recipe["crop"]}
pixels, which it sees at {IMAGE_SIZE}×{IMAGE_SIZE}, with the classes {", ".join(card["classes"])}; it knows nothing
else, and is evidence about nothing else.

Made from random weights by

    python -m pr1kit make-tiny-policy --data FOLDER{flags}

in {sum(card["seconds"].values()) / 60:.0f} minutes on {card["threads"]} CPU thread{"s" * (card["threads"] > 1)}
(torch {card["torch"]}), seed {recipe["seed"]}: dense vision pretraining ({recipe["vision_steps"]} steps of
{recipe["batch"]} crops), then answers ({recipe["steps"]} steps of {recipe["batch"]}), on {learned} photographs and the
annotations that people made of them, faults included. `training.json` holds the whole recipe.

{card["questions"]} questions about all tiles of {held_out} held-out photographs (one greedy answer each, two sampled):

| metric | greedy | sampled at temperature 1 |
|---|---|---|
{rows}
"""
