"""Answers as a policy writes them: the truth as text, and any text as tokens that end."""

from __future__ import annotations

from dataclasses import replace

from pr1kit.data.boxes import from_pixels
from pr1kit.data.images import image_size
from pr1kit.data.sample import Sample
from pr1kit.models.policy import Policy
from pr1kit.rewards.tasks import get_task


def supervised_answer(sample: Sample, policy: Policy, thought: str = "", recipe: str = "kit") -> str:
    """The answer that supervision teaches, its boxes in the policy's frame, in the layout that `recipe` pays.

    A `thought` brings the tags. The end token is left to the chat template.
    """
    size, frame = image_size(sample.image), policy.frame_of(sample)
    boxes = from_pixels(sample.target.boxes, frame, size)
    tracks = [replace(each, boxes=from_pixels(each.boxes, frame, size)) for each in sample.target.tracks]
    target = {"boxes": boxes, "labels": sample.target.labels, "text": sample.target.text}
    target |= {"tracks": tracks, "spans": sample.target.spans}
    answer = get_task(sample.task).write_answer(target, label=sample.question, recipe=recipe)
    answer = answer.removesuffix("<|im_end|>")
    return f"<think>{thought}</think><answer>{answer}</answer>" if thought else answer


def answer_ids(policy: Policy, text: str) -> list[int]:
    """The token ids of an answer given as text, ended."""
    ends = policy.core.generation_config.eos_token_id
    ids = policy.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, ends[0] if isinstance(ends, list) else ends]
