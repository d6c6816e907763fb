"""Real models without their weights: every way to load, adapt, quantize, train and export, on random weights."""

import itertools
import json
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from transformers.modeling_layers import GradientCheckpointingLayer

from pr1kit import LoRASettings, PerceptionGRPOTrainer, export_adapter, export_model, load_policy, make_scenes
from pr1kit.models.backends import choose_attention
from pr1kit.models.memory import Geometry
from pr1kit.models.profiles import get_profile
from pr1kit.training.grpo import to_dataset, train_grpo
from pr1kit.training.grpo_settings import TINY
from pr1kit.training.shared_prefix.logprobs import LogProbs

KINDS = ("qwen2_vl", "qwen2_5_vl")
SHORT = replace(TINY, steps=2, prompts_per_step=2, micro_prompts=1, num_generations=4, max_completion_length=12)


@pytest.fixture(scope="module")
def scenes():
    """Pages, since any text earns a little for the letters that it shares with the truth."""
    return make_scenes("ocr", 4)


def inputs_of(policy, scene):
    from pr1kit.models.policy import chat

    text = policy.processor.apply_chat_template(chat(scene), add_generation_prompt=True)
    return policy.processor(text=[text], images=[scene.load_image()], return_tensors="pt")


@torch.no_grad()
def logits(policy, scene):
    return policy.model(**inputs_of(policy, scene)).logits


def stir(policy, scale=0.05):
    """Give the adapters something to do: fresh ones change nothing."""
    torch.manual_seed(1)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, scale)


def trainer_of(policy, scenes, folder, **options):
    options = {"gradient_checkpointing": True, "learning_rate": 1e-3, "prompts_per_step": 1, **options}
    own = {name: options.pop(name) for name in list(options) if hasattr(SHORT, name)}
    settings = replace(SHORT, **own)
    t = PerceptionGRPOTrainer(
        model=policy.model,
        reward_funcs=spread,
        args=settings.config(folder),
        train_dataset=to_dataset(scenes, policy),
        processing_class=policy.processor,
    )
    t.model.train()
    t.current_gradient_accumulation_steps = 1
    return t


def spread(completions, **_):
    """Differs within every group."""
    return [i % 4 / 4 for i in range(len(completions))]


def gradients(policy, scenes, folder, **options) -> dict:
    """The gradients of one step of GRPO."""
    torch.manual_seed(0)
    t = trainer_of(policy, scenes, folder, **options)
    if t.args.gradient_checkpointing:
        t.model.gradient_checkpointing_enable(t.args.gradient_checkpointing_kwargs)
    batch = t._prepare_inputs(next(iter(t.get_train_dataloader())))
    t.compute_loss(t.model, batch).backward()
    return {name: p.grad for name, p in t.model.named_parameters() if p.requires_grad}


# Sizes


@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_what_autograd_keeps(small_policies, scenes, tmp_path, kind):
    """With checkpointing each layer keeps its input, which the estimate counts, and nothing that is made inside it."""
    policy = load_policy(small_policies[kind], dtype="float32", lora={"r": 2, "vision": True})
    torch.manual_seed(0)
    t = trainer_of(policy, scenes, tmp_path)
    t.model.gradient_checkpointing_enable(t.args.gradient_checkpointing_kwargs)
    batch = t._prepare_inputs(next(iter(t.get_train_dataloader())))
    rows = LogProbs.of_batch(t, batch)
    kept, inside, inputs = {}, [], {}
    layers = [module for module in t.model.modules() if isinstance(module, GradientCheckpointingLayer)]

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor
        return tensor

    def note(_, values):
        inputs[values[0].data_ptr()] = values[0]

    for layer in layers:
        layer.register_forward_pre_hook(note)
        for part in layer.modules():
            if part is not layer:
                part.register_forward_hook(lambda *values: inside.append(values[-1]))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logps, _ = rows.shared(range(len(rows.input_ids)))
    assert logps.requires_grad
    shape = Geometry(policy.core.config)
    tokens = rows.pack(range(len(rows.input_ids)))[0].input_ids.numel()
    patches = len(batch["pixel_values"])
    counted = 4 * (shape.layers * tokens * shape.width + shape.vision_layers * patches * shape.vision_width)
    assert len(inputs) == len(layers) == shape.layers + shape.vision_layers
    assert sum(each.untyped_storage().nbytes() for each in inputs.values()) == counted
    assert inputs.keys() <= kept.keys()
    made = {each.data_ptr() for each in inside if torch.is_tensor(each)}
    assert len(made) > 10
    assert not made - inputs.keys() & kept.keys() - inputs.keys()


# Loading


@pytest.mark.parametrize("kind", KINDS)
def test_the_layout_of_the_published_files_loads(small_policies, scenes, tmp_path, kind):
    """A flat config.json and the weight names of transformers 4, as the hub has them."""
    folder = tmp_path / kind
    shutil.copytree(small_policies[kind], folder)
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    for key in ("model_type", "dtype"):
        text.pop(key, None)
    (folder / "config.json").write_text(json.dumps(text | config))
    weights = load_file(folder / "model.safetensors")
    old = {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): value
        for name, value in weights.items()
    }
    assert any(name.startswith("visual.") for name in old)
    assert any(name.startswith("model.layers.") for name in old)
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    published = load_policy(str(folder), verbose=False)
    assert torch.equal(
        logits(published, scenes[0]), logits(load_policy(small_policies[kind], verbose=False), scenes[0])
    )


def test_a_processor_that_pads_on_the_right_is_turned(small_policies, tmp_path):
    """Qwen2.5-VL's own files name no padding side, which means the right."""
    folder = tmp_path / "policy"
    shutil.copytree(small_policies["qwen2_5_vl"], folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": "right"}))
    assert load_policy(str(folder)).processor.tokenizer.padding_side == "left"


def test_pixels_bound_what_the_model_sees(small_policies, scenes):
    policy = load_policy(small_policies["qwen2_5_vl"], min_pixels=32 * 32, max_pixels=32 * 32)
    assert policy.frame((64, 64)) == (32, 32)
    assert inputs_of(policy, scenes[0])["image_grid_thw"].tolist() == [[1, 4, 4]]
    wide = load_policy(small_policies["qwen2_5_vl"], min_pixels=128 * 128, max_pixels=512 * 512)
    assert wide.frame((64, 64)) == (128, 128)
    assert inputs_of(wide, scenes[0])["image_grid_thw"].tolist() == [[1, 16, 16]]
    with pytest.raises(ValueError, match=r"min_pixels .4096. exceeds max_pixels .1024."):
        load_policy(small_policies["qwen2_5_vl"], min_pixels=4096, max_pixels=1024)


def test_what_was_chosen_is_said_in_one_line(small_policies, capsys):
    load_policy("tiny")
    assert capsys.readouterr().out == ""
    load_policy(small_policies["qwen2_5_vl"], profile="24GB", device="cpu")
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    for part in ("Qwen2_5_VLForConditionalGeneration", "bfloat16", "sdpa (FlashAttention-2 needs a GPU, not cpu)"):
        assert part in said
    assert "LoRA r=16 on language (" in said
    assert "images up to 1,000,000 pixels (3,906 tokens), on cpu, profile 24GB" in said


def test_a_profile_gives_way_to_what_is_said(small_policies):
    policy = load_policy(small_policies["qwen2_vl"], profile="24GB", dtype="float32", lora=False, max_pixels=4096)
    assert policy.core.dtype == torch.float32
    assert policy.model is policy.core
    assert policy.processor.image_processor.size["longest_edge"] == 4096


@pytest.mark.parametrize(
    ("memory", "name"), [(15.8e9, "16GB"), (24.1e9, "24GB"), (47e9, "24GB"), (85e9, "80GB"), (8e9, "16GB")]
)
def test_auto_takes_the_largest_profile_that_the_gpu_holds(monkeypatch, memory, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    card = type("Card", (), {"total_memory": memory})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert get_profile("auto")[0] == name


# Bad input, one sentence each


def test_options_that_cannot_be_had_are_one_sentence_each(small_policies, monkeypatch):
    folder = small_policies["qwen2_vl"]
    cases = {
        "no CUDA GPU here": {"device": "cuda"},
        "Unknown device 'gpu'": {"device": "gpu"},
        "FlashAttention-2 needs a GPU, not cpu": {"attn": "flash_attention_2"},
        "Unknown attention 'flash'": {"attn": "flash"},
        "Unknown dtype 'fp16'": {"dtype": "fp16"},
        'choose "4bit", "8bit" or None': {"quantization": "nf4"},
        "Unknown profile '48GB'": {"profile": "48GB"},
        "there is no CUDA GPU here": {"profile": "auto"},
        "LoRA has no setting 'rank'": {"lora": {"rank": 4}},
        "rank r of LoRA must be at least 1": {"lora": {"r": 0}},
        "LoRA on no part": {"lora": {"language": False}},
    }
    for message, options in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            load_policy(folder, **options)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("pr1kit.models.backends.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs bitsandbytes: pip install bitsandbytes"):
        load_policy(folder, quantization="4bit")


def test_flash_attention_is_taken_where_it_can_run_and_missed_in_words_where_not(monkeypatch):
    gpu, half = torch.device("cuda"), torch.bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr("pr1kit.models.backends.find_spec", lambda name: None)
    assert choose_attention("auto", gpu, half) == ("sdpa", "flash-attn is not installed")
    with pytest.raises(ValueError, match=r"flash-attn is not installed; attn=.sdpa. runs everywhere"):
        choose_attention("flash_attention_2", gpu, half)
    monkeypatch.setattr("pr1kit.models.backends.find_spec", lambda name: True)
    assert choose_attention("auto", gpu, half) == ("flash_attention_2", "")
    assert choose_attention("auto", gpu, torch.float32)[0] == "sdpa"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_attention("auto", gpu, half)[1] == "FlashAttention-2 needs an Ampere GPU or newer"


class Response:
    """As much of an answer of the hub as its errors want."""

    headers: dict = {}  # noqa: RUF012
    request = None
    status_code = 403


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (
            GatedRepoError,
            r"'Qwen/Some-VL' is gated: accept its terms at https://huggingface\.co/Qwen/Some-VL, then log",
        ),
        (RepositoryNotFoundError, r"The hub has no 'Qwen/Some-VL': check the spelling"),
        (ConnectionError, r"could not be fetched from the hub and is not in the cache: check the connection"),
    ],
)
def test_a_hub_id_that_cannot_be_had_is_one_sentence(monkeypatch, cause, message):
    def fail(*args, **kwargs):
        reason = cause("no") if cause is ConnectionError else cause("no", response=Response())
        raise OSError("a page of advice\nand a traceback") from reason

    monkeypatch.setattr("pr1kit.models.policy.AutoConfig.from_pretrained", fail)
    with pytest.raises(ValueError, match=message) as caught:
        load_policy("Qwen/Some-VL")
    assert "\n" not in str(caught.value)


def test_no_connection_is_said_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"'Kangheng/PR1-None' could not be fetched .* give the folder"):
        load_policy("Kangheng/PR1-None")


def test_too_little_memory_says_what_to_choose(small_policies, scenes, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")

    with monkeypatch.context() as patch:
        patch.setattr("pr1kit.models.policy.AutoModelForImageTextToText.from_pretrained", full)
        with pytest.raises(MemoryError, match=r'in this order, dtype="bfloat16", quantization="8bit"'):
            load_policy(small_policies["qwen2_vl"])
    settings = replace(SHORT, steps=2, save_steps=1)
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        real, calls = PerceptionGRPOTrainer.training_step, []

        def step(self, *args, **kwargs):
            calls.append(1)
            return full() if len(calls) == 4 else real(self, *args, **kwargs)

        patch.setattr(PerceptionGRPOTrainer, "training_step", step)
        with pytest.raises(MemoryError, match=r"saved up to step 1\. Lower in this order: micro_prompts=1, then grad"):
            train_grpo(load_policy("tiny"), scenes, folder, settings)
    lighter = replace(settings, gradient_checkpointing=True)
    assert [row["step"] for row in train_grpo(load_policy("tiny"), scenes, folder, lighter)] == [1, 2]


# Adapters

PARTS = list(itertools.product([True, False], repeat=3))[:-1]


@pytest.mark.parametrize("parts", PARTS, ids=lambda p: "".join("lvm"[i] for i in range(3) if p[i]))
@pytest.mark.parametrize("kind", KINDS)
def test_every_intended_layer_has_an_adapter_and_none_other(small_policies, kind, parts):
    settings = LoRASettings(r=2, **dict(zip(("language", "vision", "merger"), parts, strict=True)))
    policy = load_policy(small_policies[kind], lora=settings, verbose=False)
    adapted = {name.split(".lora_A")[0] for name, _ in policy.core.named_modules() if name.endswith("lora_A")}
    plain = load_policy(small_policies[kind], verbose=False).model
    linear = {name for name, module in plain.named_modules() if isinstance(module, torch.nn.Linear)}
    where = {
        "language": {name for name in linear if name.startswith("model.language_model.")},
        "vision": {name for name in linear if name.startswith("model.visual.") and "merger" not in name},
        "merger": {name for name in linear if name.startswith("model.visual.merger.")},
    }
    assert len(where["merger"]) == 2
    assert len(where["language"]) == 14
    assert adapted == set().union(*(where[part] for part in where if getattr(settings, part)))
    assert {name for name, p in policy.model.named_parameters() if p.requires_grad} == {
        name for name, _ in policy.model.named_parameters() if ".lora_" in name
    }


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_leaves_the_vision_towers_gradients_as_they_are(
    small_policies, scenes, tmp_path, kind, reentrant
):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        policy = load_policy(small_policies[kind], dtype="float32", lora={"r": 2, "vision": True, "merger": True})
        stir(policy)
        options = {"gradient_checkpointing": checkpointing}
        if checkpointing:
            options["gradient_checkpointing_kwargs"] = {"use_reentrant": reentrant}
        found.append(gradients(policy, scenes, tmp_path, **options))
    plain, checkpointed = found
    vision = [name for name in plain if "visual" in name]
    assert len(vision) >= 16
    for name in vision:
        assert checkpointed[name] is not None, f"{name} has no gradient"
        assert checkpointed[name].abs().max() > 0, f"{name} has a gradient of zero"
        assert torch.allclose(plain[name], checkpointed[name], rtol=1e-3, atol=1e-7), name


def test_training_all_weights_reaches_the_vision_tower_under_checkpointing(small_policies, scenes, tmp_path):
    found = gradients(load_policy(small_policies["qwen2_5_vl"], dtype="float32"), scenes, tmp_path)
    assert found["model.visual.patch_embed.proj.weight"].abs().max() > 0
    assert found["model.visual.blocks.0.attn.qkv.weight"].abs().max() > 0


def test_a_frozen_vision_tower_keeps_nothing_for_the_backward_pass(small_policies, scenes, tmp_path):
    policy = load_policy(small_policies["qwen2_5_vl"], dtype="float32", lora=True)
    seen = []
    policy.core.model.visual.blocks[-1].register_forward_hook(lambda m, i, out: seen.append(out.requires_grad))
    found = gradients(policy, scenes, tmp_path)
    assert seen
    assert not any(seen)
    assert all(grad.abs().max() > 0 for name, grad in found.items() if "lora_B" in name)


def test_an_adapter_is_trained_resumed_and_loaded_again(small_policies, scenes, tmp_path):
    settings = replace(SHORT, beta=0.04, learning_rate=1e-2, save_steps=1, steps=3, gradient_checkpointing=True)
    whole = load_policy(small_policies["qwen2_5_vl"], lora={"r": 4, "vision": True}, verbose=False)
    fresh = logits(whole, scenes[0])
    frozen = whole.core.model.visual.patch_embed.proj.weight.clone()
    rows = train_grpo(whole, scenes, tmp_path / "whole", settings)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert (logits(whole, scenes[0]) - fresh).abs().max() > 1e-3
    assert torch.equal(frozen, whole.core.model.visual.patch_embed.proj.weight)
    assert list(whole.model.peft_config) == ["default"]
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-3")
    for folder in ("cut", "whole"):  # one that was cut off, one that is finished
        again = load_policy(small_policies["qwen2_5_vl"], lora={"r": 4, "vision": True}, verbose=False)
        assert [row["step"] for row in train_grpo(again, scenes, tmp_path / folder, settings)] == [1, 2, 3]
        for (name, one), two in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
            assert torch.equal(one, two), name
    export_adapter(whole, tmp_path / "adapter")
    assert sum(file.stat().st_size for file in (tmp_path / "adapter").glob("adapter*")) < 2e5
    loaded = load_policy(str(tmp_path / "adapter"), verbose=False)
    assert torch.equal(logits(loaded, scenes[0]), logits(whole, scenes[0]))
    assert loaded.base == small_policies["qwen2_5_vl"]
    with pytest.raises(ValueError, match="other settings"):
        train_grpo(load_policy(small_policies["qwen2_5_vl"], verbose=False), scenes, tmp_path / "whole", settings)
    train_grpo(loaded, scenes, tmp_path / "more", settings)  # an adapter goes on learning
    assert not torch.equal(logits(loaded, scenes[0]), logits(whole, scenes[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_says_what_its_adapter_says(small_policies, scenes, tmp_path, kind):
    policy = load_policy(small_policies[kind], dtype="float32", lora={"vision": True, "merger": True}, verbose=False)
    untouched = logits(policy, scenes[0])
    stir(policy)
    mine = logits(policy, scenes[0])
    assert (mine - untouched).abs().max() > 0.01
    export_model(policy, tmp_path / "merged")
    assert torch.equal(logits(policy, scenes[0]), mine)  # the policy itself is left as it was
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    merged = load_policy(str(tmp_path / "merged"), verbose=False)
    assert merged.model is merged.core
    assert torch.allclose(logits(merged, scenes[0]), mine, atol=1e-4)


def test_what_has_no_adapter_is_exported_whole(small_policies, scenes, tmp_path):
    policy = load_policy(small_policies["qwen2_vl"], verbose=False)
    with pytest.raises(ValueError, match="has no adapter to export: export_model saves all its weights"):
        export_adapter(policy, tmp_path)
    export_model(policy, tmp_path)
    assert torch.equal(logits(load_policy(str(tmp_path), verbose=False), scenes[0]), logits(policy, scenes[0]))


def test_an_adapter_takes_no_second_one(small_policies, tmp_path):
    export_adapter(load_policy(small_policies["qwen2_vl"], lora=True, verbose=False), tmp_path)
    with pytest.raises(ValueError, match="is an adapter already"):
        load_policy(str(tmp_path), lora=True)
    again = load_policy(str(tmp_path), profile="24GB", dtype="float32", verbose=False)  # brings its own
    assert list(again.model.peft_config) == ["default"]


def test_rollouts_branch_with_adapters_as_without(small_policies, scenes):
    from pr1kit import generate_completions

    plain = load_policy(small_policies["qwen2_5_vl"], verbose=False)
    fresh = load_policy(small_policies["qwen2_5_vl"], lora=True, verbose=False)
    assert generate_completions(fresh, scenes, max_new_tokens=8) == generate_completions(
        plain, scenes, max_new_tokens=8
    )


# 4 and 8 bits, which bitsandbytes computes on the CPU too


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
@pytest.mark.parametrize("kind", KINDS)
def test_quantized_weights_answer_much_like_the_full_ones_and_keep_the_eyes(small_policies, scenes, kind, quantization):
    full = load_policy(small_policies[kind], dtype="float32", device="cpu", verbose=False)
    policy = load_policy(small_policies[kind], dtype="float32", device="cpu", quantization=quantization, verbose=False)
    small = [n for n, p in policy.model.named_parameters() if p.dtype in (torch.uint8, torch.int8)]
    assert len(small) == 14
    assert all("language_model.layers" in name for name in small)
    one, two = (torch.log_softmax(logits(p, scenes[0])[0, -1], -1) for p in (full, policy))
    near = {"4bit": 0.6, "8bit": 0.95}[quantization]  # of random weights
    assert torch.corrcoef(torch.stack([one, two]))[0, 1] > near


def test_four_bit_weights_alone_are_not_trained(small_policies, scenes, tmp_path):
    policy = load_policy(small_policies["qwen2_vl"], device="cpu", quantization="4bit", verbose=False)
    with pytest.raises(ValueError, match=r"cannot be trained themselves: load the policy with lora=True"):
        train_grpo(policy, scenes, tmp_path, SHORT)
    with pytest.raises(ValueError, match="no adapter: nothing was learned"):
        export_model(policy, tmp_path)


def test_float16_weights_train_with_adapters_alone(small_policies, scenes, tmp_path):
    """What `load_policy` makes of published bfloat16 weights on a T4."""
    whole = load_policy(small_policies["qwen2_vl"], dtype="float16", device="cpu", verbose=False)
    with pytest.raises(ValueError, match=r"float16 weights cannot be trained themselves.*lora=True") as caught:
        train_grpo(whole, scenes, tmp_path / "whole", SHORT)
    assert "\n" not in str(caught.value)
    adapted = load_policy(small_policies["qwen2_vl"], dtype="float16", device="cpu", lora=True, verbose=False)
    assert trainer_of(adapted, scenes, tmp_path).model is not None


def test_rollouts_by_vllm_take_no_quantized_weights(small_policies, scenes, tmp_path):
    policy = load_policy(small_policies["qwen2_vl"], device="cpu", quantization="4bit", lora=True, verbose=False)
    with pytest.raises(ValueError, match="--engine vllm cannot take 4-bit or 8-bit weights"):
        train_grpo(policy, scenes, tmp_path, SHORT, trl={"use_vllm": True})


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_on_four_bits_train_share_their_prefix_and_leave_merged(small_policies, scenes, tmp_path, kind):
    options = {"dtype": "float32", "device": "cpu", "verbose": False}
    policy = load_policy(small_policies[kind], quantization="4bit", lora={"r": 4, "vision": True}, **options)
    before = {name: p.clone() for name, p in policy.model.named_parameters() if "lora_B" in name}
    settings = replace(SHORT, beta=0.04, learning_rate=1e-2, gradient_checkpointing=True)
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Shared prefix is off")
        train_grpo(policy, scenes, tmp_path / "run", settings)
    after = dict(policy.model.named_parameters())
    assert all(after[name].dtype == torch.float32 for name in before)
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    stir(policy, 0.02)
    export_adapter(policy, tmp_path / "adapter")
    again = load_policy(str(tmp_path / "adapter"), quantization="4bit", **options)
    assert torch.equal(logits(again, scenes[0]), logits(policy, scenes[0]))
    export_model(policy, tmp_path / "merged", dtype="float32")
    merged, whole = (load_policy(str(tmp_path / name), **options) for name in ("merged", "adapter"))
    assert torch.allclose(logits(merged, scenes[0]), logits(whole, scenes[0]), atol=1e-4)  # on the base as published


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_over_four_bit_weights_score_as_trls_rows(small_policies, scenes, tmp_path, kind):
    policy = load_policy(
        small_policies[kind], dtype="float32", device="cpu", quantization="4bit", lora={"r": 4, "vision": True}
    )
    stir(policy)
    t = trainer_of(policy, scenes, tmp_path, gradient_checkpointing=False)
    rows = LogProbs.of_batch(t, t._prepare_inputs(next(iter(t.get_train_dataloader()))))
    results = []
    for path in (rows.shared, rows.per_row):
        t.model.zero_grad()
        logps, entropies = path(range(len(rows.input_ids)))[:2]
        (logps * rows.completion_mask).sum().backward()
        grads = {n: p.grad.clone() for n, p in t.model.named_parameters() if p.requires_grad}
        results.append((logps, entropies, grads))
    (logps, entropies, grads), (stock_logps, stock_entropies, stock_grads) = results
    assert (logps - stock_logps).abs().max() < 1e-4
    assert (entropies - stock_entropies).abs().max() < 1e-4
    for name, grad in stock_grads.items():
        assert (grads[name] - grad).norm() <= 1e-3 * grad.norm() + 1e-6, name
