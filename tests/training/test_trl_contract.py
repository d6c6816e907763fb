"""The canary: what `PerceptionGRPOTrainer` takes for granted of TRL and transformers."""

import inspect

import pytest
import torch
from transformers import GenerationMixin, Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration
from transformers.cache_utils import DynamicCache
from trl import GRPOTrainer
from trl.trainer import grpo_trainer, utils

from pr1kit.training.grpo_trainer import PerceptionGRPOTrainer
from pr1kit.training.resumable_run import WholeCheckpoints

# Our overrides of TRL 1.16 methods, and the parameters that TRL gives them there.
OVERRIDDEN = {
    "_prepare_inputs": ["self", "generation_batch"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_tokenize_prompts": ["self", "prompts"],
    "_generate_single_turn": [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    "_get_per_token_logps_and_entropies": [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
        "compute_aux_loss",
        "pixel_values",
        "image_grid_thw",
        "num_images",
        "pixel_attention_mask",
        "spatial_shapes",
        "num_tiles",
        "image_sizes",
        "token_type_ids",
        "mm_token_type_ids",
        "image_position_ids",
    ],
    "_get_train_sampler": ["self", "dataset"],
    "_compute_loss": ["self", "model", "inputs"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_get_output_dir": ["self", "trial"],
}
WHAT_TO_DO = (
    "{what} is not what pr1kit/training/grpo_trainer.py was written against (TRL 1.16, transformers 5.23). Read the "
    "new version, carry its change into our override, run tests/training/test_shared_prefix.py, then correct this test "
    "and the versions in pyproject.toml; until then, PerceptionGRPOTrainer(shared_prefix=False) takes TRL's own path."
)


def source_says(function, *fragments):
    source = " ".join(inspect.getsource(function).split())
    for fragment in fragments:
        assert fragment in source, WHAT_TO_DO.format(what=f"{function.__qualname__} (no more {fragment!r})")


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_overridden_methods_have_the_signature_we_know(name):
    known = getattr(GRPOTrainer, name, None)
    assert known is not None, WHAT_TO_DO.format(what=f"GRPOTrainer.{name} (gone)")
    assert list(inspect.signature(known).parameters) == OVERRIDDEN[name], WHAT_TO_DO.format(what=f"GRPOTrainer.{name}")


def test_nothing_else_of_trl_is_overridden():
    ours = {name for kind in (PerceptionGRPOTrainer, WholeCheckpoints) for name in vars(kind)}
    mine = {name for name in ours if hasattr(GRPOTrainer, name) and not name.startswith("__")}
    assert mine == set(OVERRIDDEN)
    told = inspect.getmodule(PerceptionGRPOTrainer).__doc__
    assert [name for name in mine if f"`{name}`" not in told] == []


def test_trl_calls_them_as_we_expect():
    source_says(
        GRPOTrainer._generate_and_score_completions,
        "self._generate(prompts)",
        "len(img_list) if img_list else 0 for img_list in images",
        'self.processing_class(images=images, text=prompts_text, padding=True, return_tensors="pt")',
        'output["num_images"] = num_images',
    )
    source_says(GRPOTrainer._generate, "self._tokenize_prompts(prompts)", "self._generate_single_turn(")
    source_says(
        GRPOTrainer._prepare_inputs, "self.args.steps_per_generation * self.num_iterations", "shuffle_sequence_dict"
    )
    source_says(
        GRPOTrainer._compute_loss,
        'num_images=inputs.get("num_images")',
        "compute_entropy=True",
        "per_token_loss = per_token_loss + self.beta * per_token_kl",
        'normalizer = self.current_gradient_accumulation_steps if mode == "train" else 1.0',
    )
    source_says(
        GRPOTrainer._get_per_token_logps_and_entropies, "fused_lm_head=True", "outputs.log_probs", "outputs.entropy"
    )
    source_says(utils.add_fused_lm_head, "shift_labels")
    assert hasattr(grpo_trainer, "unwrap_model_for_generation"), WHAT_TO_DO.format(what="unwrap_model_for_generation")


@pytest.mark.parametrize("model", [Qwen2VLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration])
def test_transformers_keeps_the_doors_we_use(model):
    known = inspect.signature(model.generate).parameters
    assert "custom_generate" in known, WHAT_TO_DO.format(what="generate(custom_generate=…)")
    for name in ("_has_unfinished_sequences", "prepare_inputs_for_generation"):
        assert hasattr(GenerationMixin, name), WHAT_TO_DO.format(what=f"GenerationMixin.{name}")
    assert hasattr(DynamicCache, "batch_select_indices"), WHAT_TO_DO.format(what="DynamicCache.batch_select_indices")
    inner = vars(inspect.getmodule(model))[model.__name__.replace("ForConditionalGeneration", "Model")]
    positions = list(inspect.signature(inner.get_rope_index).parameters)
    what = WHAT_TO_DO.format(what=f"{inner.__name__}.get_rope_index")
    assert positions[:4] == ["self", "input_ids", "mm_token_type_ids", "image_grid_thw"], what


def test_trl_still_keeps_an_order_of_its_own_for_each_epoch():
    source_says(utils.RepeatSampler.__iter__, "torch.randperm(self.num_samples, generator=self.generator)")
    assert not hasattr(utils.RepeatSampler, "set_epoch"), WHAT_TO_DO.format(what="RepeatSampler.set_epoch")


def test_trl_still_shuffles_rows_in_unison():
    """If it keeps groups whole one day, our `_prepare_inputs` can go."""
    torch.manual_seed(0)
    shuffled = utils.shuffle_sequence_dict({"rows": torch.arange(64)})["rows"]
    assert not torch.equal(shuffled, torch.arange(64)), WHAT_TO_DO.format(what="shuffle_sequence_dict")
