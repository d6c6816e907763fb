"""Small random-weight policies of the real classes, saved to disk once a test run."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core, and a thread for each process
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pr1kit  # noqa: F401  before torch: it sets how long OpenMP's threads spin

# isort: split
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from pr1kit.data.sample import Sample, Target
from pr1kit.data.scenes import make_scenes
from pr1kit.explorer.readout import perfect_answer
from pr1kit.models.tiny import SPECIAL_TOKENS, build_processor
from pr1kit.rewards.groups import group_advantages
from pr1kit.rewards.score import score
from pr1kit.rewards.tasks import get_task

CLASSES = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
    "qwen3_5": (Qwen3_5Config, Qwen3_5ForConditionalGeneration),
}
QWEN3_VISION = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "num_position_embeddings": 64}
EXTRA_ROPE = {
    "qwen3_vl": {"mrope_interleaved": True},
    "qwen3_5": {"mrope_interleaved": True, "partial_rotary_factor": 1.0},
}


def save_small_policy(kind: str, folder, heads: int = 4, patch: int = 8) -> str:
    """A two-layer model of a real class with grouped-query attention, M-RoPE, and what its family has besides: window
    attention (Qwen2.5-VL), vision features in the language layers (Qwen3-VL), linear attention (Qwen3.5)."""
    processor = build_processor()
    processor.image_processor.patch_size = processor.video_processor.patch_size = patch
    processor.image_processor.size = {"shortest_edge": 256, "longest_edge": (32 * patch) ** 2}
    if kind != "qwen2_5_vl":
        three = kind.startswith("qwen3")
        pixels = {"shortest_edge": 256, "longest_edge": 64 * (32 * patch) ** 2}  # of all frames together
        three_videos = Qwen3VLVideoProcessor(patch_size=patch, merge_size=2, size=pixels)
        videos = three_videos if three else processor.video_processor
        processor = (Qwen3VLProcessor if three else Qwen2VLProcessor)(
            processor.image_processor, processor.tokenizer, videos, processor.chat_template
        )
    ids = {token: processor.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    shape = {"depth": 2, "num_heads": 2, "patch_size": patch, "spatial_merge_size": 2}
    vision = {
        "qwen2_vl": {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
        "qwen2_5_vl": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 64,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        "qwen3_vl": QWEN3_VISION | {"deepstack_visual_indexes": [0, 1]},
        "qwen3_5": QWEN3_VISION,
    }
    text = {
        "qwen3_vl": {"head_dim": 64 // heads},
        "qwen3_5": {
            "head_dim": 64 // heads,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
    }
    config_class, model_class = CLASSES[kind]
    config = config_class(
        text_config={
            "vocab_size": (len(processor.tokenizer) + 15) // 16 * 16,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "initializer_range": 0.2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [8 // heads, 12 // heads, 12 // heads],
                **EXTRA_ROPE.get(kind, {}),
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
            **text.get(kind, {}),
        },
        vision_config={**shape, **vision[kind], "initializer_range": 0.2},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = model_class(config)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA GPU here: `make gpu` on a machine that has one"))


@pytest.fixture(scope="session")
def small_policies(tmp_path_factory) -> dict[str, str]:
    """Folder of a small policy by model type."""
    folder = tmp_path_factory.mktemp("policies")
    return {kind: save_small_policy(kind, folder / kind) for kind in CLASSES}


@pytest.fixture(scope="session")
def wider_policies(tmp_path_factory) -> dict[str, str]:
    """As `small_policies`, with heads of 32 numbers: vLLM's attention on the CPU takes no fewer."""
    folder = tmp_path_factory.mktemp("wider")
    return {kind: save_small_policy(kind, folder / kind, heads=2) for kind in CLASSES}


@pytest.fixture(scope="session")
def videos():
    """Makes `n` grounding questions about videos of noise, of unlike sizes and numbers of frames, two a second."""

    def make(n: int = 2, frames: int = 4, seconds: float = 0.5, sizes=((64, 64), (48, 80), (96, 32))) -> list[Sample]:
        rng, samples = np.random.default_rng(0), []
        for i in range(n):
            width, height = sizes[i % len(sizes)]
            pixels = rng.integers(0, 255, (frames + i, height, width, 3), np.uint8)
            shown = tuple(Image.fromarray(frame) for frame in pixels)
            times = tuple(seconds * k for k in range(len(shown)))
            target = Target(boxes=[[4, 8, 20, 24]], labels=["square"], image_size=(width, height))
            prompt = "Where does it go, and what does it do on its way? " * (1 + i % 2)
            samples.append(Sample(None, "grounding", "square", target, f"video-{i}", prompt, shown, times))
        return samples

    return make


@pytest.fixture
def write_run():
    """Writes a run's rollout log: groups of counting answers to synthetic scenes, more right from step to step."""

    def write(folder: Path, steps, groups: int = 2, size: int = 4) -> list[dict]:
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for step in steps:
            for index in range(groups):
                (scene,) = make_scenes("counting", 1, 0, start=index)
                texts = [perfect_answer(scene) if g < step % (size + 1) else "None" for g in range(size)]
                rewards = [score("counting", text, scene.target, recipe="released").total for text in texts]
                rows.append(
                    {
                        "step": step,
                        "id": scene.id,
                        "prompt": get_task("counting").prompt(scene.question),
                        "completions": texts,
                        "rewards": rewards,
                        "advantages": group_advantages(np.array(rewards)).round(5).tolist(),
                        "parts": {},
                    }
                )
        (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "settings.json").write_text(json.dumps({"recipe": "released", "task": "counting"}), encoding="utf-8")
        return rows

    return write


@pytest.fixture(scope="session")
def real_grid_policy(tmp_path_factory) -> str:
    """A small Qwen3-VL whose visual token has 32 pixels, as those of the published models."""
    return save_small_policy("qwen3_vl", tmp_path_factory.mktemp("real_grid") / "qwen3_vl", patch=16)
