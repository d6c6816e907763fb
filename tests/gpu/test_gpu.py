"""What only a CUDA GPU can show: `make gpu`. Skipped, with its reason, where there is none."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from pr1kit import PerceptionGRPOTrainer, load_policy, make_scenes, reward_function, sample_rollouts
from pr1kit.models.profiles import PROFILES
from pr1kit.training.grpo import to_dataset, train_grpo
from pr1kit.training.grpo_settings import TINY
from pr1kit.training.shared_prefix.logprobs import LogProbs

pytestmark = pytest.mark.gpu
KINDS = ("qwen2_vl", "qwen2_5_vl")
SHORT = replace(TINY, steps=2, prompts_per_step=2, micro_prompts=1, num_generations=4, max_completion_length=12)
ATTENTION = [
    "sdpa",
    pytest.param(
        "flash_attention_2",
        marks=pytest.mark.skipif(not find_spec("flash_attn"), reason="FlashAttention is not installed"),
    ),
]


@pytest.fixture(scope="module")
def scenes():
    return make_scenes("ocr", 4)


def both_paths(policy, scenes, folder, **options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of one batch by TRL's rows, by TRL's rows once more, and from the shared prefix."""
    torch.manual_seed(0)
    trainer = PerceptionGRPOTrainer(
        model=policy.model, reward_funcs=reward_function("ocr"), args=SHORT.config(folder, **options),
        train_dataset=to_dataset(scenes, policy), processing_class=policy.processor,
    )  # fmt: skip
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = LogProbs.of_batch(trainer, trainer._prepare_inputs(next(iter(trainer.get_train_dataloader()))))
    everything, mask = range(len(rows.input_ids)), rows.completion_mask.bool()
    with torch.no_grad():
        return tuple(path(everything)[0][mask].float().cpu() for path in (rows.per_row, rows.per_row, rows.shared))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_paths_agree(small_policies, scenes, tmp_path, kind):
    policy = load_policy(small_policies[kind], dtype="float32", device="cuda", verbose=False)
    one, _, shared = both_paths(policy, scenes, tmp_path)
    assert (one - shared).abs().max() < 1e-4


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_paths_differ_by_rounding_alone(small_policies, scenes, tmp_path, kind, attention):
    """Both are as far from float32 as each other, and not systematically above or below it."""
    options = {"device": "cuda", "attn": attention, "verbose": False}
    policy = load_policy(small_policies[kind], dtype="bfloat16", **options)
    stock, again, shared = both_paths(policy, scenes, tmp_path)
    assert torch.equal(stock, again)
    difference = (stock - shared).abs()
    assert difference.mean() < 0.02
    assert (stock - shared).mean().abs() < 3 * (stock - shared).std() / np.sqrt(len(stock)) + 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_float16_trains_adapters(small_policies, scenes, tmp_path, kind):
    policy = load_policy(small_policies[kind], dtype="float16", lora={"r": 4}, device="cuda", verbose=False)
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters() if p.requires_grad}
    log = train_grpo(policy, scenes, tmp_path, SHORT)
    assert all(np.isfinite(row["loss"]) for row in log)
    assert any(not torch.equal(p, before[n]) for n, p in policy.model.named_parameters() if n in before)
    (group,) = sample_rollouts(policy, scenes[:1], num_generations=2, max_new_tokens=8)
    assert len(group) == 2


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_loads(small_policies, name):
    if PROFILES[name].quantization:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    policy = load_policy(small_policies["qwen2_5_vl"], profile=name, device="cuda", verbose=False)
    assert next(policy.model.parameters()).device.type == "cuda"
    trained = [n for n, p in policy.model.named_parameters() if p.requires_grad]
    assert all("lora_" in n for n in trained) == (PROFILES[name].lora is not None)
