"""The policy: a vision-language model and its processor, tiny or real, behind one name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from pr1kit.boxes import smart_resize
from pr1kit.run_log import quiet
from pr1kit.sample import Sample
from pr1kit.tasks import get_task

PACKAGE = Path(__file__).resolve().parent


def tiny_policy_folder() -> Path:
    """Where the policy that ships with the kit lies: in the package when installed, in `data/` in a checkout."""
    installed = PACKAGE / "data" / "tiny-policy"
    return installed if installed.is_dir() else PACKAGE.parent / "data" / "tiny-policy"


@dataclass(frozen=True, eq=False)
class Policy:
    """A `model` with its `processor`, and the coordinate frame in which it writes boxes."""

    model: torch.nn.Module
    processor: object
    name: str

    def frame(self, image_size: tuple[int, int]):
        """How this model's numbers are to be read for an image of `(width, height)` pixels.

        Qwen2-VL writes thousandths of the image, Qwen2.5-VL pixels of the resized image that it saw.
        """
        if self.model.config.model_type == "qwen2_vl":
            return "norm1000"
        image_processor = self.processor.image_processor
        return smart_resize(
            image_size,
            factor=image_processor.patch_size * image_processor.merge_size,
            min_pixels=image_processor.size["shortest_edge"],
            max_pixels=image_processor.size["longest_edge"],
        )


def chat(sample: Sample, thinking: bool = False) -> list[dict]:
    """The sample's prompt as one user turn, the image first, in the conversational format of transformers and TRL."""
    words = sample.prompt or get_task(sample.task).prompt(sample.question, thinking)
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}]


def load_policy(name: str = "tiny", *, dtype: str | torch.dtype = "auto", device: str | None = None) -> Policy:
    """Load `"tiny"` (the policy that ships with the kit), a folder, or a hub id, as a `Policy` in evaluation mode.

    Raises FileNotFoundError where a folder holds no checkpoint, and ValueError for a model that sees no images or a
    processor that pads on the right (completions must follow their prompts without a gap).
    """
    source = str(tiny_policy_folder()) if name == "tiny" else str(name)
    looks_local = Path(source).exists() or source.startswith((".", "/", "~")) or source.count("/") != 1
    if looks_local and not (Path(source).expanduser() / "config.json").is_file():
        raise FileNotFoundError(f"{source!r} is no checkpoint: it holds no config.json.")
    source = os.path.expanduser(source)
    config = AutoConfig.from_pretrained(source)
    if not hasattr(config, "vision_config"):
        raise ValueError(f"{name!r} is a {config.model_type} model, which sees no images: choose a Qwen2(.5)-VL model.")
    processor = AutoProcessor.from_pretrained(source)
    check_padding(processor)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with quiet():
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype).to(device)
    return Policy(model.eval(), processor, name)


def check_padding(processor) -> None:
    """Raises ValueError where the processor's tokenizer pads on the right."""
    side = processor.tokenizer.padding_side
    if side != "left":
        raise ValueError(
            f"The processor pads on the {side}: prompts must end where completions begin; "
            'load it with padding_side="left".'
        )
