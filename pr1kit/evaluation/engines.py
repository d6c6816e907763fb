"""Inference backends: transformers on this process's device, or vLLM, behind one call: samples in, raw completions out.

Special tokens stay in a completion, for a box token is part of the answer; what ends it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from PIL import Image

from pr1kit.data.sample import Sample
from pr1kit.evaluation.benchmarks import Protocol
from pr1kit.models.vllm import check_prompts, require_vllm
from pr1kit.rewards.parsing import END, build_prompt

Engine = Callable[[Sequence[Sample], Protocol], list[dict]]


def make_engine(engine: str, model: str, **options: Any) -> Engine:
    """A function from samples and a protocol to rows `{"id", "completion", "frame"}`. Raises ValueError, one sentence.

    `options` go to `load_policy` (hf) or to `vllm.LLM` (vllm).
    """
    if engine not in ENGINES:
        raise ValueError(f"Unknown engine {engine!r}: choose one of {', '.join(ENGINES)}.")
    return ENGINES[engine](model, **options)


def asked(sample: Sample, protocol: Protocol) -> Sample:
    """The sample with the protocol's words."""
    words = protocol.prompt.replace("{question}", sample.question)
    return replace(sample, prompt=build_prompt(words, protocol.thinking))


def _hf(model: str, **options: Any) -> Engine:
    import torch

    from pr1kit.models.policy import load_policy
    from pr1kit.rollouts.generate import generate_completions

    policy = load_policy(model, **options)

    def answer(samples: Sequence[Sample], protocol: Protocol) -> list[dict]:
        try:
            texts = generate_completions(
                policy,
                [asked(sample, protocol) for sample in samples],
                max_new_tokens=protocol.max_new_tokens,
                repetition_penalty=protocol.repetition_penalty,
                keep_special_tokens=True,
                batch_size=len(samples),
            )
        except torch.OutOfMemoryError:
            raise ValueError(
                f"The device's memory does not hold {len(samples)} answers of {protocol.max_new_tokens} tokens: "
                "lower --batch-size first, then --max-new-tokens; the completions so far are kept."
            ) from None
        return _rows(samples, [text for (text,) in texts], policy)

    return answer


def _vllm(model: str, quantization: str | None = None, max_pixels: int | None = None, **options: Any) -> Engine:
    require_vllm(quantization)
    from transformers import AutoConfig, AutoProcessor
    from vllm import LLM, SamplingParams

    from pr1kit.data.shipped import policy_folder
    from pr1kit.models.families import seen_size
    from pr1kit.models.inputs import refuse_videos
    from pr1kit.models.policy import Policy, bound_pixels, chat

    source = str(policy_folder(model) or model)
    config, processor = AutoConfig.from_pretrained(source), AutoProcessor.from_pretrained(source)
    bound_pixels(processor, None, max_pixels)
    policy = Policy(SimpleNamespace(config=config), processor, model)
    policy.frame((64, 64))  # an unknown family is refused before its weights are read
    images = processor.image_processor
    llm = LLM(model=source, limit_mm_per_prompt={"image": 1}, **options)

    def request(sample: Sample, protocol: Protocol) -> tuple[dict, int]:
        """What vLLM is sent, and how many tokens it should read. The image comes in the size that the model sees, so
        that nobody resizes it again."""
        words = processor.apply_chat_template(chat(asked(sample, protocol)), add_generation_prompt=True, tokenize=False)
        image = sample.load_image()
        width, height = seen_size(image.size, images)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        visual = width * height // (images.patch_size * images.merge_size) ** 2
        tokens = len(processor.tokenizer(words)["input_ids"]) - 1 + visual
        return {"prompt": words, "multi_modal_data": {"image": image}}, tokens

    def answer(samples: Sequence[Sample], protocol: Protocol) -> list[dict]:
        settings = SamplingParams(
            temperature=0,
            max_tokens=protocol.max_new_tokens,
            repetition_penalty=protocol.repetition_penalty,
            detokenize=False,
        )
        refuse_videos(samples, "The vLLM engine")
        requests, tokens = zip(*(request(sample, protocol) for sample in samples), strict=True)
        outputs = llm.generate(list(requests), settings, use_tqdm=False)
        check_prompts(tokens, [len(output.prompt_token_ids) for output in outputs])
        # decoded as transformers does: vLLM's own text differs where a token is part of a character
        texts = processor.batch_decode([output.outputs[0].token_ids for output in outputs], skip_special_tokens=False)
        return _rows(samples, [END.split(text, maxsplit=1)[0] for text in texts], policy)

    return answer


def _rows(samples: Sequence[Sample], texts: Sequence[str], policy: Any) -> list[dict]:
    rows = []
    for sample, text in zip(samples, texts, strict=True):
        frame = policy.frame(sample.target.image_size or sample.load_image().size, sample.is_video)
        rows.append({"id": sample.id, "completion": text, "frame": frame})
    return rows


ENGINES: dict[str, Callable[..., Engine]] = {"hf": _hf, "vllm": _vllm}
