"""Real vLLM: the evaluation engine against transformers, and TRL's way to hand it prompts. `make test-vllm` runs these
on the CPU, in an environment of their own, since vLLM brings its own torch."""

import os
import re
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pr1kit import load_policy, make_scenes
from pr1kit.evaluation.benchmarks import PROTOCOLS
from pr1kit.evaluation.engines import make_engine
from pr1kit.models.families import seen_size
from pr1kit.models.policy import chat
from pr1kit.models.vllm import check_prompts, require_vllm, send_prompts_whole, vllm_problem, vllm_version

real = pytest.mark.skipif(bool(vllm_problem()), reason=vllm_problem() or "vLLM is here")
OPTIONS = {"dtype": "float32", "enforce_eager": True, "max_model_len": 1024, "gpu_memory_utilization": 0.5}


@pytest.fixture(scope="module", autouse=True)
def _little_memory():
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"


@pytest.fixture(scope="module")
def scenes():
    """The world's own size, which passes unresized, and others that the processor resizes."""
    samples = [sample for task in ("grounding", "counting", "ocr") for sample in make_scenes(task, 3)]
    return [*samples, make_scenes("grounding", 1, image_size=100)[0]]


def engines(model: str):
    return make_engine("hf", model, dtype="float32", device="cpu", verbose=False), make_engine("vllm", model, **OPTIONS)


@real
@pytest.mark.parametrize("name", ["tiny", "qwen2_vl", "qwen3_vl"])
def test_vllm_answers_as_transformers_does(wider_policies, scenes, name):
    """Greedy, in float32, where no image is resized; the engine itself compares the counts of prompt tokens."""
    hf, vllm = engines(wider_policies.get(name, name))
    for task in ("grounding", "counting", "ocr"):
        same = [sample for sample in scenes if sample.task == task and sample.target.image_size == (64, 64)]
        protocol = replace(PROTOCOLS["paper"][task], max_new_tokens=40)
        assert vllm(same, protocol) == hf(same, protocol)
    (row,) = vllm([scenes[-1]], replace(PROTOCOLS["paper"]["grounding"], max_new_tokens=4))  # counted, though resized
    assert row["frame"] == ("norm1000" if name != "tiny" else (96, 96))


@real
@pytest.mark.parametrize("name", ["tiny", "qwen2_vl", "qwen3_vl"])
def test_trl_hands_vllm_the_prompt_that_it_trains_on(wider_policies, scenes, name):
    """TRL's own `VLLMGeneration.generate` on real vLLM: image tokens expanded, the raw image beside them."""
    import trl.generation.vllm_generation as trl_vllm
    import vllm

    trl_vllm.SamplingParams = vllm.SamplingParams  # TRL imports it for the package named vllm alone
    policy = load_policy(wider_policies.get(name, name), dtype="float32", device="cpu", verbose=False)
    llm = vllm.LLM(model=policy.model.name_or_path, limit_mm_per_prompt={"image": 1}, **OPTIONS)
    generation = trl_vllm.VLLMGeneration.__new__(trl_vllm.VLLMGeneration)
    settings = {"temperature": 0, "top_p": 1, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}
    generation.__dict__ |= settings | {
        "accelerator": SimpleNamespace(local_process_index=0), "mode": "colocate", "llm": llm, "logprobs": 0,
        "max_completion_length": 12, "generation_kwargs": {}, "structured_outputs_regex": None,
        "tensor_parallel_size": 1, "enable_sleep_mode": False, "model": policy.model,
    }  # fmt: skip
    ask = generation.generate
    send_prompts_whole(generation, policy.processor.image_token_id)
    for sample in (scenes[0], scenes[-1]):
        words = policy.processor.apply_chat_template(chat(sample), add_generation_prompt=True)
        ids = policy.processor(text=[words], images=[sample.load_image()])["input_ids"]
        read, *_ = generation.generate(list(ids), [[sample.load_image()]], 1, profiler=nullcontext())
        assert list(read[0]) == list(ids[0])
        read, *_ = ask(list(ids), [[sample.load_image()]], 1, profiler=nullcontext())  # as TRL sends it by itself
        assert len(read[0]) > len(ids[0])


def test_a_prompt_that_was_read_otherwise_is_refused():
    check_prompts([49, 50], [49, 50])
    with pytest.raises(ValueError, match="vLLM read prompt 1 as 65 tokens where 50 were sent"):
        check_prompts([49, 50], [49, 65])

    class Corrupted:
        """Puts the image's tokens in once more."""

        mode = "colocate"

        def generate(self, prompts, images, num_generations):
            return [[*ids, 0, 0, 0] for ids in prompts], [[1]] * len(prompts), None, None

    generation = Corrupted()
    send_prompts_whole(generation, 9)
    with pytest.raises(ValueError, match=r"as 5 tokens where 2 were sent.* use --engine hf for this model"):
        generation.generate([[1, 2]], [None], 1)


def test_vllm_takes_no_quantized_weights_and_its_absence_is_one_sentence():
    with pytest.raises(ValueError, match=r"cannot take 4bit weights.*take --engine hf") as caught:
        require_vllm("4bit")
    assert "\n" not in str(caught.value)
    if not vllm_version():
        with pytest.raises(ValueError, match=r"cannot run: vLLM is not installed: pip install 'pr1kit\[vllm\]'"):
            require_vllm()


def test_vllm_that_pins_another_torch_is_refused_by_name(monkeypatch):
    """The pins are read from the package's own metadata: here those of vLLM 0.31."""
    pins = ["torch==2.13.0", "transformers<5.18,>=5.10.4", "torch==2.13.0+cpu; platform_machine == 'none'", "numpy"]
    versions = {"vllm": "0.31.0", "torch": "2.15.0", "transformers": "5.17.1"}
    monkeypatch.setattr("pr1kit.models.vllm.vllm_version", lambda: "vllm 0.31.0")
    monkeypatch.setattr("pr1kit.models.vllm.metadata.requires", lambda name: pins)
    monkeypatch.setattr("pr1kit.models.vllm.metadata.version", versions.get)
    assert vllm_problem().startswith("vllm 0.31.0 wants torch==2.13.0 and torch 2.15.0 is installed")
    versions["torch"] = "2.13.0+cu130"
    assert vllm_problem() == ""
    versions["transformers"] = "5.23.0"
    assert re.search(r"wants transformers\S+ and transformers 5\.23\.0 is installed", vllm_problem())


def test_the_size_that_the_model_sees_is_the_processors(small_policies):
    policy = load_policy(small_policies["qwen2_vl"], verbose=False)
    for size in ((64, 64), (100, 100), (31, 200), (500, 300)):
        sample = make_scenes("grounding", 1)[0]
        words = policy.processor.apply_chat_template(chat(sample), add_generation_prompt=True)
        image = sample.load_image().resize(size)
        grid = policy.processor(text=[words], images=[image], return_tensors="pt")["image_grid_thw"][0]
        assert seen_size(size, policy.processor.image_processor) == (grid[2] * 8, grid[1] * 8)
