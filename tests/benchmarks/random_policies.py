"""Policies in the shape of released models with random weights: what memory and time are measured on without a hub."""

import torch
from transformers import (
    AutoModelForImageTextToText,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
)
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from pr1kit.models.policy import Policy
from pr1kit.models.published import published_config
from pr1kit.models.tiny import CHAT_TEMPLATE, build_tokenizer

PROCESSORS = {"qwen2_vl": Qwen2VLProcessor, "qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}
ROLES = {"image_token_id": "image_pad", "video_token_id": "video_pad", "vision_start_token_id": "vision_start"}
SMALL_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL_VISION = {"depth": 2, "num_heads": 2, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64}


def random_policy(name: str, device="cpu", dtype=torch.float32, *, small: bool = False) -> Policy:
    """`name` of `pr1kit.models.published.PUBLISHED`, with the tiny policy's tokenizer; `small`: two layers of it."""
    config, tokenizer = published_config(name), build_tokenizer()
    kind = config.model_type
    if small:
        text, vision = config.get_text_config(), config.vision_config
        for key, value in SMALL_TEXT.items():
            setattr(text, key, value)
        text.num_key_value_heads, text.vocab_size = 2, (len(tokenizer) + 15) // 16 * 16
        text.layer_types = ["full_attention"] * 2
        section = {"qwen3_vl": [24, 20, 20]}.get(kind, [2, 3, 3])  # Qwen3-VL keeps its heads of 128
        text.rope_parameters = text.rope_parameters | {"mrope_section": section}
        for key, value in (SMALL_VISION | ({"embed_dim": 32} if kind == "qwen2_vl" else {})).items():
            setattr(vision, key, value)
        vision.fullatt_block_indexes, vision.deepstack_visual_indexes = [1], [0, 1]
        if kind == "qwen2_vl":
            vision.hidden_size, vision.mlp_ratio = 64, 2
    for field, token in ROLES.items():
        setattr(config, field, tokenizer.convert_tokens_to_ids(f"<|{token}|>"))
    config.vision_end_token_id = tokenizer.convert_tokens_to_ids("<|vision_end|>")
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    grid = {"patch_size": config.vision_config.patch_size, "merge_size": config.vision_config.spatial_merge_size}
    pixels = {"size": {"shortest_edge": 56 * 56, "longest_edge": 1_000_000}}
    videos = Qwen3VLVideoProcessor(**grid) if kind == "qwen3_vl" else Qwen2VLVideoProcessor(**grid, **pixels)
    processor = PROCESSORS[kind](
        image_processor=Qwen2VLImageProcessor(**grid, **pixels),
        tokenizer=tokenizer,
        video_processor=videos,
        chat_template=CHAT_TEMPLATE,
    )
    return Policy(model, processor, name)
