"""Model families: what the kit has to know of one before it can read its boxes, adapt its layers or pack its rows.

One entry of `FAMILIES` for each `model_type` of transformers. A family that has none is refused, never guessed: read in
the wrong frame, every reward is wrong and nothing says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pr1kit.data.boxes import smart_resize

ATTENTION = r"self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj"


@dataclass(frozen=True)
class Family:
    """What sets a family apart.

    `frame` is "norm1000" (coordinates normalised to 0–1000) or "resized" (pixels of the image that the model saw);
    `grid` the pixels, across and down, of one visual token in the published models (patch × merge); `notation` that of
    the boxes it writes by itself, as in `rewards.notations`. `language_layer`, `vision_block` and `merger_layer` are
    regular expressions for the names of the linear layers that adapters go on. `recurrent` says that some language
    layers carry a state along the row whatever the attention mask: branches are decoded from copies of the prompt's
    state, but cannot be packed into one row, so that such a family is trained TRL's way. To share there, each branch
    would have to go on from the state with its gradient, which transformers' caches, written in place, do not keep.
    """

    name: str
    frame: str
    grid: int
    notation: str
    vision_block: str
    merger_layer: str
    language_layer: str = ATTENTION
    recurrent: bool = False

    def frame_of(self, image_size: tuple[int, int], image_processor):
        """The frame of the numbers that this family writes about an image of `(width, height)` pixels: "norm1000", or
        the `(width, height)` to which `image_processor` resizes it."""
        return "norm1000" if self.frame == "norm1000" else seen_size(image_size, image_processor)

    def adapted(self, *, language: bool, vision: bool, merger: bool) -> str:
        """The regular expression that the full names of the linear layers of the chosen parts match."""
        parts = {
            rf"language_model\.layers\.\d+\.({self.language_layer})": language,
            rf"visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.({self.vision_block}))": vision,
            rf"visual\.({self.merger_layer})": merger,
        }
        return rf"(.*\.)?({'|'.join(part for part, wanted in parts.items() if wanted)})"


def seen_size(image_size: tuple[int, int], image_processor) -> tuple[int, int]:
    """The `(width, height)` to which a Qwen processor resizes an image of `(width, height)` pixels."""
    return smart_resize(
        image_size,
        factor=image_processor.patch_size * image_processor.merge_size,
        min_pixels=image_processor.size["shortest_edge"],
        max_pixels=image_processor.size["longest_edge"],
    )


# Module names as in transformers 5.10 to 5.24; frames from the models' own cookbooks.
_QWEN3: dict[str, Any] = {"frame": "norm1000", "grid": 32, "notation": "json", "vision_block": r"linear_fc[12]"}
FAMILIES = {
    "qwen2_vl": Family("Qwen2-VL", "norm1000", 28, "tokens", r"fc[12]", r"merger\.mlp\.[02]"),
    "qwen2_5_vl": Family("Qwen2.5-VL", "resized", 28, "json", r"(gate|up|down)_proj", r"merger\.mlp\.[02]"),
    "qwen3_vl": Family("Qwen3-VL", merger_layer=r"(merger|deepstack_merger_list\.\d+)\.linear_fc[12]", **_QWEN3),
    "qwen3_5": Family(
        "Qwen3.5",
        merger_layer=r"merger\.linear_fc[12]",
        language_layer=rf"{ATTENTION}|linear_attn\.(in_proj_(qkv|z|b|a)|out_proj)",
        recurrent=True,
        **_QWEN3,
    ),
}


def family_of(model_type: str) -> Family:
    """The family of a configuration's `model_type`. Raises ValueError, which says how to add one.

    >>> family_of("qwen3_vl").frame
    'norm1000'
    """
    if model_type not in FAMILIES:
        raise ValueError(
            f"The model family {model_type!r} is not known, and reading its boxes in a guessed frame would make every "
            f"reward wrong: known are {', '.join(FAMILIES)}. To add it, give pr1kit.models.families.FAMILIES"
            f"[{model_type!r}] a Family: its coordinate frame, visual token size, notation and layer names."
        )
    return FAMILIES[model_type]
