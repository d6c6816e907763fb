"""The tiny policy's body and how policies are loaded: the real classes, one code path."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoProcessor, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from pr1kit import evaluate, generate_completions, load_policy, make_scenes
from pr1kit.data.sample import IMAGE_TASKS
from pr1kit.data.shipped import policy_folder
from pr1kit.models.policy import chat
from pr1kit.models.tiny import SPECIAL_TOKENS, build_model, build_processor
from pr1kit.rewards.tasks import get_task


@pytest.fixture(scope="module")
def processor():
    return build_processor()


SHIPPED = pytest.mark.parametrize("name", ["tiny", "tiny-demo"])


@SHIPPED
def test_the_shipped_policy_is_the_real_thing_and_small(name):
    policy, folder = load_policy(name), policy_folder(name)
    assert type(policy.model) is Qwen2_5_VLForConditionalGeneration
    assert type(policy.processor) is Qwen2_5_VLProcessor
    assert not policy.model.training
    assert policy.model.dtype == torch.float32
    assert sum(file.stat().st_size for file in folder.iterdir()) <= {"tiny": 8_200_000, "tiny-demo": 4_200_000}[name]
    card = json.loads((folder / "training.json").read_text())
    assert card["parameters"] == sum(p.numel() for p in policy.model.parameters())


@SHIPPED
def test_the_shipped_policy_is_a_useful_warm_start(name):
    """It answers some held-out questions of each task and not all, about as many as its model card says of 500."""
    policy, card = load_policy(name), json.loads((policy_folder(name) / "training.json").read_text())["final"]
    for task, headline in (("grounding", "mean_iou"), ("counting", "matched_iou"), ("ocr", "edit_distance")):
        scenes = make_scenes(task, 32, 0, split="test")
        answers = [answer for (answer,) in generate_completions(policy, scenes, temperature=0.0)]
        metrics = evaluate(task, answers, [scene.target for scene in scenes])
        assert 0.05 < metrics[headline] < 0.8
        said = card[f"{task} {headline}"]["greedy"]
        low, high = metrics.interval(headline)
        assert low - (high - low) / 2 <= said <= high + (high - low) / 2, f"{task}: {metrics[headline]}, card {said}"


def test_the_tokenizer_makes_one_token_of_a_coordinate_and_loses_no_text(processor):
    tokenizer = processor.tokenizer
    for number in range(65):
        assert len(tokenizer.encode(str(number))) == 1
    for text in ("Wörter 文字 🙂 {[(", "<think>", "a\n\n b", '[{"bbox_2d": [1, 22, 333, 4444], "label": "x"}]'):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for token in SPECIAL_TOKENS:
        assert len(tokenizer.encode(token)) == 1
    assert tokenizer.padding_side == "left"
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_prompts_end_where_the_assistant_begins_and_hold_16_image_tokens(processor, task):
    sample = make_scenes(task, 1)[0]
    text = processor.apply_chat_template(chat(sample), add_generation_prompt=True)
    assert text.endswith("<|im_start|>assistant\n")
    assert get_task(task).prompt(sample.question) in text
    inputs = processor(text=[text], images=[sample.image], return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 16
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8]]


def test_the_same_seed_gives_the_same_weights_and_saving_keeps_them(processor, tmp_path):
    model = build_model(processor, seed=3)
    again = build_model(processor, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = load_policy(str(tmp_path))
    sample = make_scenes("grounding", 1)[0]
    text = processor.apply_chat_template(chat(sample), add_generation_prompt=True)
    ours = processor(text=[text], images=[sample.image], return_tensors="pt")
    theirs = loaded.processor(text=[text], images=[sample.image], return_tensors="pt")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    with torch.no_grad():
        assert torch.equal(model.eval()(**ours).logits, loaded.model(**theirs).logits)


def test_frames_follow_the_model_family(processor):
    policy = load_policy("tiny")
    assert policy.frame((64, 64)) == (64, 64)
    assert policy.frame((70, 90)) == (64, 96)  # what smart_resize makes of it: multiples of 16


def test_a_folder_without_a_checkpoint_is_one_clear_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no checkpoint: it holds no config\.json"):
        load_policy(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="is no checkpoint"):
        load_policy("./nowhere")


def test_a_model_without_eyes_is_refused(tmp_path):
    AutoConfig.for_model("qwen2", hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not a vision-language model"):
        load_policy(str(tmp_path))


def test_a_processor_that_pads_on_the_right_is_made_to_pad_on_the_left(processor, tmp_path):
    build_model(processor, seed=0).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    wrong = AutoProcessor.from_pretrained(tmp_path)
    wrong.tokenizer.padding_side = "right"
    wrong.save_pretrained(tmp_path)
    assert load_policy(str(tmp_path)).processor.tokenizer.padding_side == "left"


def test_an_endless_chat_template_is_one_sentence(small_policies, tmp_path, monkeypatch):
    shutil.copytree(small_policies["qwen2_5_vl"], folder := tmp_path / "policy")
    loops = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    (folder / "chat_template.jinja").write_text(loops)
    monkeypatch.setattr("pr1kit.models.policy.TEMPLATE_SECONDS", 0.5)
    with pytest.raises(ValueError, match=r"The chat template of .* did not come to its end in 0\.5 s"):
        load_policy(str(folder))


def test_the_tiny_policy_is_loaded_and_asked_without_a_warning():
    """Nothing on stderr, whether it comes from warnings or from transformers' own log."""
    program = (
        "import sys, warnings, pr1kit.models.policy; from transformers import Qwen2_5_VLForConditionalGeneration;"
        "sys.stderr.write('LOADING'); warnings.simplefilter('always'); policy = pr1kit.load_policy('tiny');"
        "pr1kit.generate_completions(policy, pr1kit.make_scenes('grounding', 1), max_new_tokens=2)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.partition("LOADING")[2] == ""
