"""The page for choosing a tool: its tables are those of `tests/benchmarks/gpu_plan.py`, whose formula is held to."""

import importlib.util
from pathlib import Path

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from pr1kit import load_policy, make_scenes, sample_rollouts
from pr1kit.models.memory import Geometry

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "benchmarks" / "gpu_plan.py"
# What moves no number on a GPU, and launches nothing there.
FREE = {
    "flatten",
    "unflatten",
    "narrow",
    "to",
    "view",
    "reshape",
    "transpose",
    "expand",
    "slice",
    "select",
    "unsqueeze",
}


@pytest.fixture(scope="module")
def gpu_plan():
    spec = importlib.util.spec_from_file_location("gpu_plan", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Count(TorchDispatchMode):
    operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += func._schema.name.partition("::")[2] not in FREE
        return func(*args, **(kwargs or {}))


def test_the_pages_tables_are_what_the_command_prints(gpu_plan):
    page = (ROOT / "data" / "choosing" / "README.md").read_text(encoding="utf-8")
    assert gpu_plan.plan() in page, "put what `python tests/benchmarks/gpu_plan.py` prints into data/choosing/README.md"


def test_minutes_grow_with_what_costs_time_and_are_those_of_the_formula(gpu_plan, monkeypatch):
    shape = Geometry("Qwen/Qwen2-VL-2B-Instruct")
    one = gpu_plan.minutes(shape, "LoRA, bfloat16", 8, 60, 312, 1555)
    assert gpu_plan.minutes(shape, "LoRA, bfloat16", 16, 60, 312, 1555) > one
    assert gpu_plan.minutes(shape, "LoRA, bfloat16", 8, 61, 312, 1555) > one
    assert gpu_plan.minutes(shape, "all weights", 8, 60, 312, 1555) > one
    assert gpu_plan.minutes(shape, "LoRA, bfloat16", 8, 60, 1e9, 1e9) == pytest.approx(100 * 28 * 50e-5, 1e-3)
    # Without launches, and with much bandwidth, FLOPs are left; weights by hand from the published shape.
    body, head, tower, image = 28 * 46_792_704, 1536 * 151_936, 32 * 19_660_800, 1275
    language = 2 * body * (image + 60 + 8) + 2 * head * 8
    vision = 2 * 4 * image * tower
    decoding = 2 * (body + head) * 16
    monkeypatch.setattr(gpu_plan, "LAUNCH", 0)
    flops = 2 * (2 * body * (image + 60) + vision + 4 * language + 2 * vision) + decoding
    assert gpu_plan.minutes(shape, "LoRA, bfloat16", 8, 1, 100, 1e9) == pytest.approx(100 * flops / 40e12 / 60)


def test_a_token_takes_about_fifty_operations_a_layer(gpu_plan):
    policy, counted = load_policy("tiny", verbose=False), []
    scenes = make_scenes("counting", 2, split="test")
    for tokens in (6, 10):
        with Count() as count:
            sample_rollouts(policy, scenes, num_generations=8, max_new_tokens=tokens)
        counted.append(count.operations)
    layers = policy.core.config.get_text_config().num_hidden_layers
    assert (counted[1] - counted[0]) / 4 / layers == pytest.approx(gpu_plan.OPERATIONS, rel=0.2)
