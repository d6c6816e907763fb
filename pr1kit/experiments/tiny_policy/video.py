"""How the tiny policy that sees clips is made: from the tiny policy of images, in stages.

1. Vision: two frames in one visual token (`clip_vision`).
2. Answers: next-token loss on all that a clip can be asked, the dense loss beside it. A clip is seen once for its
   questions, for on a CPU sight is dear; clips are easier than the world's own, see `KNOBS`.
3. Looking: the same with the numbers that were written hidden. A box is foretold by the two before it, so that a policy
   that always reads true ones need not look at later frames, and its own answers stand still.

Few steps leave reinforcement learning something to teach: no lesson of faulty answers is needed.

Its tokenizer is its own: a frame's box is eight tokens, not sixteen, which halves what training and answering cost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pr1kit.data.clip_questions import KINDS, PROXY
from pr1kit.data.clips import draw_clip, further_questions, make_clips
from pr1kit.data.durable_files import write_atomically
from pr1kit.data.motion import Motion, paint
from pr1kit.data.run_folder import RunFolder
from pr1kit.data.sample import VIDEO_TASKS, Target
from pr1kit.experiments.temporal_hacking import ClipCondition, measure
from pr1kit.experiments.tiny_policy.clip_vision import ClipHead, clip_loss, clip_truth
from pr1kit.experiments.tiny_policy.stages import save_in_half, train
from pr1kit.models.policy import Policy, load_policy
from pr1kit.models.tiny import IMAGE_SIZE, SPECIAL_TOKENS, build_model, build_processor, build_tokenizer
from pr1kit.rewards.tasks import get_task

PIECES = r"Frame |\p{N}{1,3},?| ?\p{L}+|[^\p{L}\p{N}\s]+ ?|\s+"
VOCABULARY = 704
# Of a policy that was shown a five-hundredth of what real ones are: few objects, moderate speed, hardly a look-alike.
KNOBS = {"num_objects": (1, 3), "speed": (2.0, 6.0), "movers": 0.7}
KNOBS |= {"turns": 0.15, "occlusion": 0.1, "distractors": 0.25}


@dataclass(frozen=True)
class ClipLesson:
    """A stretch of `steps` with `clips` a step and up to `questions` about each.

    With `hidden` the policy reads other numbers than the truth's, see `hide`.
    """

    name: str
    steps: int
    clips: int
    questions: int = 4
    lr: float = 1.5e-3
    hidden: bool = False


@dataclass(frozen=True)
class ClipRecipe:
    """Everything that the policy is made from; learning rates as in `warm_start.Recipe`."""

    seed: int = 0
    vision_steps: int = 250
    vision_clips: int = 12
    vision_lr: float = 1e-3
    dense_weight: float = 0.3
    lessons: tuple[ClipLesson, ...] = (
        ClipLesson("2-answers", 900, clips=12),
        ClipLesson("3-look", 650, clips=12, hidden=True),
    )
    knobs: dict = field(default_factory=lambda: dict(KNOBS))


@dataclass(frozen=True)
class Batch:
    """C clips `(C, F, H, W, 3)`, their dense truth, and rows of questions: clip, task, question and truth of each."""

    frames: np.ndarray
    truth: torch.Tensor
    rows: list[tuple[int, str, str, Target]]


def corpus() -> Iterator[str]:
    """What the vocabulary is learned from: prompts and answers about clips, and all numbers."""
    for task in VIDEO_TASKS:
        story = get_task(task)
        for sample in make_clips(task, 200, seed=0, kinds=(*KINDS[task], PROXY)):
            yield story.prompt(sample.question)
            yield story.write_answer(sample.target)
    for number in range(101):
        yield from [f"[{number},{number}] {number}"] * 60
    for _ in range(40):
        yield "system\nYou are a helpful assistant. user\nassistant\n"


def begin(seed: int) -> Policy:
    """The tiny policy's weights under the tokenizer for clips; a new token begins as the mean of what it was."""
    old = load_policy("tiny", dtype="float32")
    processor = build_processor(build_tokenizer(corpus(), PIECES, VOCABULARY))
    model, words = build_model(processor, seed), processor.tokenizer
    weights, name = old.model.state_dict(), "model.language_model.embed_tokens.weight"
    before, after = weights.pop(name), model.state_dict()[name].clone()
    for token, row in words.get_vocab().items():
        text = token if token in SPECIAL_TOKENS else words.convert_tokens_to_string([token])
        after[row] = before[old.processor.tokenizer(text)["input_ids"]].mean(0)
    weights |= {name: after, "lm_head.weight": after}
    model.load_state_dict(weights)
    return Policy(model, processor, "tiny-video")


def draw_batch(seed: int, step: int, count: int, questions: int, knobs: Motion) -> Batch:
    """`count` clips, each made for a question of the next task and kind, and what else it can be asked."""
    frames, truth, rows = [], [], []
    kinds = [(task, kind) for task in VIDEO_TASKS for kind in (*KINDS[task], PROXY)]
    for number in range(step * count, (step + 1) * count):
        rng = np.random.default_rng([seed, number])
        task, kind = kinds[number % len(kinds)]
        things, front, (question, about) = draw_clip(task, kind, rng, knobs)
        asked = {(task, question): about}
        for other, _, words, known in further_questions(things, rng):
            if len(asked) >= questions:
                break
            if sum(task == other for task, _ in asked) * 2 < max(questions, 2):  # a half are of one task at most
                asked[other, words] = known
        rows += [
            (len(frames), task, words, Target(image_size=(knobs.size,) * 2, **known))
            for (task, words), known in asked.items()
        ]
        frames.append(paint(things, front, rng, knobs))
        truth.append(clip_truth(things, front))
    return Batch(np.stack(frames), torch.from_numpy(np.concatenate(truth)), rows)


def see(policy: Policy, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Merged tokens `(C, N, width)` of C clips, and the grid of one."""
    inputs = policy.processor.video_processor(list(frames), do_sample_frames=False, return_tensors="pt")
    grid = inputs["video_grid_thw"]
    tokens = policy.model.model.visual(inputs["pixel_values_videos"], grid_thw=grid).pooler_output
    return tokens.view(len(frames), -1, tokens.shape[-1]), grid[0]


def answer_loss(
    policy: Policy, tokens: torch.Tensor, grid: torch.Tensor, rows: list, seconds: float, hidden: bool = False
) -> torch.Tensor:
    """The next-token loss on the answers to rows, about clips that have been seen; the numbers read may be `hidden`."""
    tokenizer, model = policy.processor.tokenizer, policy.model
    prompts, answers = zip(*(words_of(policy, row, tokens.shape[1]) for row in rows), strict=True)
    asked = tokenizer(list(prompts), padding=True, padding_side="left", return_tensors="pt")
    said = tokenizer(list(answers), padding=True, padding_side="right", return_tensors="pt")
    ids, mask = (torch.cat([asked[key], said[key]], 1) for key in ("input_ids", "attention_mask"))
    labels = torch.cat([torch.full_like(asked["input_ids"], -100), said["input_ids"]], 1).masked_fill(mask == 0, -100)
    is_video = ids == model.config.video_token_id
    embeds = model.get_input_embeddings()(hide(tokenizer, ids, labels >= 0) if hidden else ids)
    embeds = embeds.masked_scatter(is_video[..., None], tokens[[clip for clip, *_ in rows]])
    hidden = model.model(
        input_ids=ids,
        inputs_embeds=embeds,
        attention_mask=mask,
        mm_token_type_ids=is_video * 2,
        video_grid_thw=grid.expand(len(rows), 3),
        second_per_grid_ts=torch.full((len(rows),), seconds),
    ).last_hidden_state
    answered = labels[:, 1:] >= 0
    return F.cross_entropy(model.lm_head(hidden[:, :-1][answered]), labels[:, 1:][answered])


def hide(tokenizer, ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The tokens `(B, L)` with a share of the coordinates in each row's answer (`where`) drawn at random; the share of
    a row is drawn too, from 0 to 1. Drawn from torch's generator."""
    (frame,) = tokenizer.convert_tokens_to_ids(tokenizer.tokenize("Frame "))
    coordinate = where & (ids.roll(1, 1) != frame)  # a frame's number stays
    coordinate &= torch.rand(ids.shape) < torch.rand(len(ids), 1)
    for after in (",", ""):  # two tokens for a number, one with its comma
        known = torch.tensor(tokenizer.convert_tokens_to_ids([f"{number}{after}" for number in range(IMAGE_SIZE + 1)]))
        other = known[torch.randint(len(known), ids.shape)]
        ids = torch.where(coordinate & torch.isin(ids, known), other, ids)
    return ids


def words_of(policy: Policy, row: tuple, count: int) -> tuple[str, str]:
    """The prompt of a row, a clip's `count` tokens in it, and its answer, as text."""
    _, task, question, target = row
    story, tokenizer = get_task(task), policy.processor.tokenizer
    words = [{"type": "video"}, {"type": "text", "text": story.prompt(question)}]
    prompt = policy.processor.apply_chat_template([{"role": "user", "content": words}], add_generation_prompt=True)
    prompt = prompt.replace("<|video_pad|>", "<|video_pad|>" * count)
    return prompt, story.write_answer(target, label=question) + tokenizer.eos_token


def pretrain_vision(policy: Policy, head: ClipHead, recipe: ClipRecipe, folder: Path) -> float:
    """Stage 1: the vision tower learns what stands where in each of two frames. Returns seconds."""
    knobs = Motion(**recipe.knobs)

    def step_loss(step: int) -> dict:
        batch = draw_batch(recipe.seed, step, recipe.vision_clips, 1, knobs)
        tokens, _ = see(policy, batch.frames)
        loss = clip_loss(head, tokens.flatten(0, 1), batch.truth)
        loss.backward()
        return {"dense": loss.item()}

    parts = nn.ModuleList([policy.model.model.visual, head])
    return train("1-vision", parts, recipe.vision_steps, recipe.vision_lr, folder, step_loss)


def finetune(policy: Policy, head: ClipHead, recipe: ClipRecipe, lesson: ClipLesson, folder: Path) -> float:
    """Next-token loss on the answers, the dense loss beside it, for one lesson. Returns seconds."""
    knobs, seed = Motion(**recipe.knobs), recipe.seed + 1 + recipe.lessons.index(lesson)

    def step_loss(step: int) -> dict:
        batch = draw_batch(seed, step, lesson.clips, lesson.questions, knobs)
        tokens, grid = see(policy, batch.frames)
        dense = clip_loss(head, tokens.flatten(0, 1), batch.truth)
        parts = [[row for row in batch.rows if (row[1] == "tracking") == long] for long in (True, False)]
        seconds = 2 / knobs.fps
        long = answer_loss(policy, tokens, grid, parts[0], seconds, lesson.hidden)
        short = answer_loss(policy, tokens, grid, parts[1], seconds)
        (long + 0.5 * short + recipe.dense_weight * dense).backward()
        return {"tracking": long.item(), "others": short.item(), "dense": dense.item()}

    return train(lesson.name, nn.ModuleList([policy.model, head]), lesson.steps, lesson.lr, folder, step_loss)


def make_tiny_video_policy(out: str | Path, recipe: ClipRecipe, *, work: str | Path, held_out: int = 100) -> None:
    """Make the policy from the tiny policy of images and write it, in half precision, with its card to `out`; `work`
    keeps checkpoints.

    Raises ValueError where `work` holds another recipe's.
    """
    out, work = Path(out), Path(work)
    RunFolder(work).begin({"recipe": asdict(recipe)})
    policy = begin(recipe.seed)
    policy.model.config.clip_knobs = dict(recipe.knobs)
    torch.manual_seed(recipe.seed + 1)
    head, condition = ClipHead(), ClipCondition(held_out=held_out, test_seed=0)
    seconds = {"1-vision": pretrain_vision(policy, head, recipe, work)}
    for lesson in recipe.lessons:
        seconds[lesson.name] = finetune(policy, head, recipe, lesson, work)
    policy = save_in_half(policy, out)  # what is written is what is measured
    final = measure(policy, condition.held_out_clips(policy, 0), 0)
    card = {
        "recipe": asdict(recipe),
        "seconds": {stage: round(value) for stage, value in seconds.items()},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "held_out": held_out,
        "final": {
            name: {key: value for key, value in found.items() if key != "clips"} for name, found in final.items()
        },
    }
    write_atomically(out / "training.json", json.dumps(card, indent=1) + "\n")
    write_atomically(out / "README.md", model_card(card))


def model_card(card: dict) -> str:
    """The card that stands beside the weights."""
    recipe, final = card["recipe"], card["final"]
    columns = ("as it is", "sampled", "shuffled", "temporal perplexity")
    rows = "\n".join(
        f"| {name} | {' | '.join(f'{values[key]:.3f}' for key in columns)} |" for name, values in final.items()
    )
    lessons = "\n".join(
        f"- {each['name']}: {each['steps']} steps of {each['clips']} clips, up to {each['questions']} questions of each"
        for each in recipe["lessons"]
    )
    knobs = ", ".join(f"{name} {value}" for name, value in recipe["knobs"].items())
    minutes = sum(card["seconds"].values()) / 60
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
---
# The tiny policy that sees clips

`Qwen2_5_VLForConditionalGeneration` with {card["parameters"] / 1e6:.1f} million parameters, in half precision, and a
tokenizer of its own, for learning and testing on a CPU: `load_policy("tiny-video")`. It knows clips of eight frames of
64×64 pixels, coloured shapes that move, and the three tasks about them, nothing else, and is evidence about nothing
else.

Made from the tiny policy of images by

    python -m pr1kit make-tiny-policy --video

in {minutes:.0f} minutes on {card["threads"]} CPU thread{"s" * (card["threads"] > 1)} of a busy machine (torch
{card["torch"]}), seed {recipe["seed"]}: dense vision pretraining ({recipe["vision_steps"]} steps of
{recipe["vision_clips"]} clips), then lessons:

{lessons}

The clips are easier than the world's own ({knobs}); `scene_knobs("tiny-video", task)` has the same for `make_clips`.
It was taught little, and knows little: that leaves reinforcement learning something to teach. `training.json` holds the
whole recipe.

Held-out clips, {card["held_out"]} of each kind: mean reward of a greedy answer, of two sampled
ones, and of a greedy one to the same clip with its frames shuffled; temporal perplexity in nats a token.

| queries | greedy | sampled at temperature 1 | frames shuffled | temporal perplexity |
|---|---|---|---|---|
{rows}
"""
