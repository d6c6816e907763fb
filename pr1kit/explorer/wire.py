"""What crosses between Python and the explorer's page: texts that JavaScript counts in other units."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import replace
from typing import Any

from pr1kit.data.images import LARGEST_SIDE, picture_url
from pr1kit.data.sample import VIDEO_TASKS, Sample, Target
from pr1kit.explorer.readout import true_objects

LONGEST_TEXT = 1_000_000
ALL_FRAMES = 4000  # pixels: the side of a square that holds all frames of a video in a page


def open_sample(sample: Sample) -> Sample:
    """`sample` with its picture loaded and its target in pixels of that. Raises as `load_image`, and ValueError for a
    question about a video without frames."""
    if sample.task in VIDEO_TASKS and not sample.is_video:
        raise ValueError(
            f"Sample {sample.id!r} asks about a video ({sample.task}) but has no frames: give it frames and times, as "
            "read_video reads them."
        )
    image, target = sample.load_image(), Target.of(sample.target)
    return replace(sample, image=image, target=replace(target, image_size=target.image_size or image.size))


def scene_of_page(sample: Sample) -> dict:
    """What the page knows of a sample (of `open_sample`): a picture for each frame, and what is true in it."""
    frames = sample.load_frames() or [sample.image]
    side = min(LARGEST_SIDE, int(ALL_FRAMES / math.sqrt(len(frames))))
    pictures = {"pictures": [picture_url(each, side) for each in frames], "times": list(sample.times)}
    return {**pictures, "size": list(sample.image.size), **truth_of_page(sample)}


def truth_of_page(sample: Sample) -> dict:
    """The part of `scene_of_page` that another truth changes."""
    objects = true_objects(sample.target, max(len(sample.frames), 1))
    return {"id": sample.id, "question": sample.question, "truth": sample.target.to_dict(), "objects": objects}


def clean_text(text: Any) -> str:
    """A text from the page, fit to be sent back: half of a surrogate pair becomes the replacement character.

    >>> clean_text("a cat \\ud83d")
    'a cat \ufffd'
    """
    if not isinstance(text, str):
        raise ValueError("A completion is text.")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"The text has {len(text):,} characters; the explorer takes {LONGEST_TEXT:,}.")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def count_in_utf16(text: str, seen: dict) -> dict:
    """`seen` (of `read_out`) with its spans counted in UTF-16 units, as JavaScript counts: an emoji has two.

    >>> count_in_utf16("\N{CAT FACE}(1,2)", {"region": [1, 6], "items": []})["region"]
    [2, 7]
    """
    wide = [place for place, character in enumerate(text) if character > "\uffff"]
    if not wide:
        return seen

    def units(span: list[int]) -> list[int]:
        return [at + bisect_left(wide, at) for at in span]

    items = [{**item, "span": units(item["span"])} for item in seen["items"]]
    return {**seen, "items": items, "region": units(seen["region"])}
