"""How samples become what a model reads: chat messages, then the processor's tensors, for images and videos alike.

Every frame that is given is one frame: the processor picks none, and repeats the last where their number is odd, for
a visual token covers two. How their times reach the model is its family's way:

    Qwen2-VL              not at all: pairs of frames are numbered
    Qwen2.5-VL            `second_per_grid_ts`, seconds from one pair to the next: the mean where they differ
    Qwen3-VL, Qwen3.5     the mean time of each pair in the text, `<1.5 seconds>`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from transformers import BatchFeature

from pr1kit.data.sample import Sample
from pr1kit.models.policy import Policy, chat

AS_IMAGES = {"pixel_values_videos": "pixel_values", "video_grid_thw": "image_grid_thw"}  # what an image's are called


@dataclass(frozen=True)
class Video:
    """N frames of one size and the second at which each is seen: what stands in an image's place."""

    frames: tuple[Image.Image, ...]
    times: tuple[float, ...]

    def array(self) -> np.ndarray:
        """The frames as `(N, H, W, 3)` bytes."""
        return np.stack([np.asarray(frame) for frame in self.frames])

    def metadata(self) -> dict[str, Any]:
        """Their times as transformers has them. At one frame a second an index is a second, and the number of frames
        the video's duration."""
        count, span = len(self.times), self.times[-1] - self.times[0]
        return {"fps": 1.0, "frames_indices": list(self.times), "total_num_frames": span * count / (count - 1)}


def picture(sample: Sample) -> Image.Image | Video:
    """The sample's image or video, loaded. Raises as `load_image` and `load_frames`."""
    return Video(tuple(sample.load_frames()), sample.times) if sample.is_video else sample.load_image()


def process(processor, texts: Sequence[str], pictures: Sequence[Image.Image | Video], **options) -> BatchFeature:
    """What `processor` makes of prompts and the picture of each; `options` are its own.

    Raises ValueError for a video where the processor takes none.
    """
    videos = [each for each in pictures if isinstance(each, Video)]
    images = [each for each in pictures if not isinstance(each, Video)]
    if videos:
        if getattr(processor, "video_processor", None) is None:
            raise ValueError(f"{type(processor).__name__} takes no videos: choose a policy whose processor does.")
        options |= {
            "videos": [video.array() for video in videos],
            "video_metadata": [video.metadata() for video in videos],
            "do_sample_frames": False,
        }
    return processor(text=list(texts), images=images or None, **options)


def model_inputs(policy: Policy, samples: Sequence[Sample], thinking: bool = False) -> BatchFeature:
    """The prompts of B samples as tensors `(B, L)`, padded on the left, with their images and videos, on the CPU."""
    render = policy.processor.apply_chat_template
    texts = [render(chat(sample, thinking), add_generation_prompt=True) for sample in samples]
    return process(policy.processor, texts, [picture(each) for each in samples], padding=True, return_tensors="pt")


def refuse_videos(samples: Sequence[Sample], what: str) -> None:
    """Raises ValueError where one of the samples is a video, which `what` cannot take yet."""
    if video := next((sample for sample in samples if sample.is_video), None):
        raise ValueError(f"{what} takes images only, sample {video.id!r} is a video.")
