"""The shapes of released models, so that their memory is known, and their size tried, before a weight is fetched.

From their config.json; tests/models/test_memory.py compares the parameter counts with those of the released weights.
"""

from __future__ import annotations

from typing import Any

_VISION_2 = {"depth": 32, "num_heads": 16, "patch_size": 14}
_VISION_3 = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16}
_VISION_8B = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16}


def _qwen(*shape: Any, tied: bool, vision: dict, **rope: Any) -> dict:
    """Keyword arguments for `AutoConfig.for_model`; `shape`: kind, width, inner width, layers, heads, KV heads."""
    kind, width, inner, layers, heads, kv = shape
    text = {
        "vocab_size": 151936,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "rope_parameters": {"rope_type": "default", **rope},
        "tie_word_embeddings": tied,
    }
    return {"model_type": kind, "text_config": text, "vision_config": vision, "tie_word_embeddings": tied}


def _qwen2(*shape: Any, **vision: Any) -> dict:
    return _qwen(*shape, tied=True, vision=_VISION_2 | vision, rope_theta=1e6, mrope_section=[16, 24, 24])


def _qwen3(*shape: Any, tied: bool = True, deepstack: tuple = (5, 11, 17), vision: dict = _VISION_3) -> dict:
    tower = vision | {"out_hidden_size": shape[0], "deepstack_visual_indexes": list(deepstack)}
    rope: dict[str, Any] = {"rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    config = _qwen("qwen3_vl", *shape, 8, tied=tied, vision=tower, **rope)
    config["text_config"]["head_dim"] = 128
    return config


PUBLISHED = {
    "Qwen/Qwen2-VL-2B-Instruct": _qwen2("qwen2_vl", 1536, 8960, 28, 12, 2, embed_dim=1280, hidden_size=1536),
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen2(
        "qwen2_5_vl", 2048, 11008, 36, 16, 2, hidden_size=1280, intermediate_size=3420, out_hidden_size=2048
    ),
    "Qwen/Qwen3-VL-2B-Instruct": _qwen3(2048, 6144, 28, 16),
    "Qwen/Qwen3-VL-4B-Instruct": _qwen3(2560, 9728, 36, 32),
    "Qwen/Qwen3-VL-8B-Instruct": _qwen3(4096, 12288, 36, 32, tied=False, deepstack=(8, 16, 24), vision=_VISION_8B),
}


def published_config(name: str):
    """The configuration, of transformers' class, of a released model. Raises ValueError for one not in `PUBLISHED`."""
    from transformers import AutoConfig

    if name not in PUBLISHED:
        raise ValueError(
            f"The shape of {name!r} is not written down: known are {', '.join(PUBLISHED)}; or give its configuration "
            "(AutoConfig.from_pretrained)."
        )
    return AutoConfig.for_model(**PUBLISHED[name])


def random_model(name: str, device, dtype):
    """A model in the shape of a released one with random weights, made on `device` itself."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device(device):
        return AutoModelForImageTextToText.from_config(published_config(name), dtype=dtype).eval()


def synthetic_prompt(config, side: int, device="cpu", text: int = 40) -> dict:
    """What a processor makes of one prompt: noise of `side` × `side` visual tokens between `text` tokens of words.

    `input_ids`, `attention_mask` and `mm_token_type_ids` (1, P), `pixel_values`, `image_grid_thw`; seeded.
    """
    import torch

    draw, vision = torch.Generator().manual_seed(1), config.vision_config
    words = torch.randint(10, 500, (text,), generator=draw).tolist()
    half, image = text // 2, [config.image_token_id] * side**2
    ids = [*words[:half], config.vision_start_token_id, *image, config.vision_end_token_id, *words[half:]]
    grid = side * vision.spatial_merge_size
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    input_ids = torch.tensor([ids])
    return {
        "input_ids": input_ids.to(device),
        "attention_mask": torch.ones_like(input_ids).to(device),
        "mm_token_type_ids": (input_ids == config.image_token_id).long().to(device),
        "pixel_values": torch.randn(grid**2, values, generator=draw).to(device),
        "image_grid_thw": torch.tensor([[1, grid, grid]]).to(device),
    }
