"""What the kit says of each model family, against the classes and processors of transformers."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from pr1kit import LoRASettings, generate_completions, load_policy, make_scenes, score
from pr1kit.experiments.condition import Condition
from pr1kit.models.families import FAMILIES, Family, family_of, seen_size
from pr1kit.models.policy import chat, scene_knobs
from pr1kit.models.published import published_config
from pr1kit.rewards.notations import read_notation, write_place

KINDS = tuple(FAMILIES)


@pytest.fixture(scope="module")
def scene():
    return make_scenes("grounding", 1)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_grid_is_that_of_transformers_own_configuration(kind):
    vision = AutoConfig.for_model(kind).vision_config
    assert family_of(kind).grid == vision.patch_size * vision.spatial_merge_size
    assert AutoConfig.for_model(kind).model_type == kind


@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_are_the_families_with_layers_of_linear_attention(kind):
    layers = getattr(AutoConfig.for_model(kind).get_text_config(), "layer_types", None) or []
    assert family_of(kind).recurrent == ("linear_attention" in layers)


@pytest.mark.parametrize("kind", KINDS)
def test_a_notation_is_one_that_the_parser_reads(kind):
    notation = family_of(kind).notation
    assert read_notation(write_place(notation, [1, 2, 3, 4], "cat"))[0] == notation


@pytest.mark.parametrize("size", [(64, 64), (70, 90), (31, 200)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_box_in_the_familys_frame_is_paid_in_full(small_policies, scene, kind, size):
    """What the family would write about an image of this size, by hand: 0–1000, or pixels of what the processor made
    of it."""
    policy = load_policy(small_policies[kind], verbose=False)
    image = scene.image.resize(size)
    text = policy.processor.apply_chat_template(chat(scene), add_generation_prompt=True)
    inputs = policy.processor(text=[text], images=[image], return_tensors="pt")
    _, rows, columns = inputs["image_grid_thw"][0].tolist()
    seen = (1000, 1000) if family_of(kind).frame == "norm1000" else (columns * 8, rows * 8)  # patches of 8 pixels
    share = [0.25, 0.5, 0.75, 1.0]
    truth = [value * side for value, side in zip(share, size * 2, strict=True)]
    written = [value * side for value, side in zip(share, seen * 2, strict=True)]
    answer = write_place(family_of(kind).notation, written, "thing")
    target = {"boxes": [truth], "labels": ["thing"], "image_size": size}
    assert score("grounding", answer, target, frame=policy.frame(size)).total == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_go_on_the_linear_layers_of_each_part(small_policies, kind):
    plain = load_policy(small_policies[kind], verbose=False).model
    linear = {name for name, module in plain.named_modules() if isinstance(module, torch.nn.Linear)} - {"lm_head"}
    found = {}
    for part in ("language", "vision", "merger"):
        chosen = {"language": False, part: True}
        policy = load_policy(small_policies[kind], lora={"r": 2, **chosen}, verbose=False)
        found[part] = set(policy.model.targeted_module_names)
    assert set().union(*found.values()) == linear
    assert sum(map(len, found.values())) == len(linear)
    assert all(".language_model." in name for name in found["language"])
    assert all("merger" in name for name in found["merger"])
    policy = load_policy(small_policies[kind], lora=LoRASettings(merger=True), verbose=False)
    from pr1kit.models.adapters import lora_of

    assert lora_of(policy.model) == LoRASettings(merger=True)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_come_from_the_image(small_policies, kind):
    policy = load_policy(small_policies[kind], verbose=False)
    one, two = make_scenes("grounding", 2)
    same = make_scenes("grounding", 1)[0]
    answers = [generate_completions(policy, [each], max_new_tokens=8)[0][0] for each in (one, two, same)]
    assert answers[0] == answers[2] != answers[1]


def test_an_unknown_family_is_refused_and_says_how_to_add_it(small_policies, tmp_path, monkeypatch):
    config = AutoConfig.for_model("llava")
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"family 'llava' is not known.*FAMILIES\['llava'\] a Family") as caught:
        load_policy(str(tmp_path))
    assert "\n" not in str(caught.value)
    policy = load_policy(small_policies["qwen2_vl"], verbose=False)
    monkeypatch.delitem(FAMILIES, "qwen2_vl")
    with pytest.raises(ValueError, match="family 'qwen2_vl' is not known"):
        policy.frame((64, 64))
    monkeypatch.setitem(FAMILIES, "qwen2_vl", Family("Mine", "norm1000", 28, "json", "fc1", r"merger\.mlp\.0"))
    assert load_policy(small_policies["qwen2_vl"], verbose=False).frame((64, 64)) == "norm1000"


def test_a_processor_of_another_patch_size_is_refused(small_policies, tmp_path):
    folder = tmp_path / "policy"
    shutil.copytree(small_policies["qwen3_vl"], folder)
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["patch_size"] = 14
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"into patches of 14 pixels, merged 2 by 2, its model takes 8") as caught:
        load_policy(str(folder))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_vision_tower_is_refused(tmp_path):
    AutoConfig.for_model("qwen2", hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no vision tower: choose one of the families .*Qwen3-VL"):
        load_policy(str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_has_what_the_kit_reaches_for(kind):
    """`get_rope_index` for branches and packed rows, `visual` and `language_model` for adapters and freezing."""
    config = AutoConfig.for_model(kind)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config).model
    assert hasattr(model, "get_rope_index")
    assert hasattr(model, "visual")
    assert hasattr(model, "language_model")


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen3-VL-2B-Instruct"])
def test_a_real_model_sees_scenes_of_256_tokens_and_the_tiny_policy_its_own(tmp_path, name):
    assert scene_knobs("tiny", "grounding") == scene_knobs(load_policy("tiny"), "grounding") == {}
    config = published_config(name)
    config.save_pretrained(tmp_path)
    images = SimpleNamespace(patch_size=config.vision_config.patch_size, merge_size=2)
    images.size = {"shortest_edge": 65536, "longest_edge": 1_000_000}
    for task in ("grounding", "counting", "detection", "ocr"):
        (sample,) = make_scenes(task, 1, **scene_knobs(str(tmp_path), task))
        size = sample.load_image().size
        assert seen_size(size, images) == size
        assert size[0] * size[1] // family_of(config.model_type).grid ** 2 == 256
        for x1, y1, x2, y2 in sample.target.boxes:
            assert min(x2 - x1, y2 - y1) >= 9 / 64 * size[0]  # as large in the picture as in the small world
        dark = np.asarray(sample.load_image().convert("L")).min(1) < 60  # lines of the picture that have ink in them
        assert task != "ocr" or dark.sum() >= 8 / 64 * size[0]
    condition = Condition(task="counting", policy=str(tmp_path), level="hard")
    assert condition.scenes(1, 0)[0].target.image_size == size
