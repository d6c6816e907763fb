"""The tiny policy's body: the real Qwen2.5-VL classes at 1.7 million parameters, with a tokenizer of its own.

How it is trained is told in `warm_start`. Two choices make so small a model learn to localise: weights are initialised
with `width ** -0.5` (the library's 0.02 starves narrow layers), and a coordinate is one token.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from pr1kit.data.sample import IMAGE_TASKS
from pr1kit.data.scenes import CONSONANTS, VOWELS, make_scenes
from pr1kit.rewards.tasks import get_task

WIDTH, LAYERS, HEADS = 128, 4, 4
PATCH, MERGE, IMAGE_SIZE = 8, 2, 64
VOCABULARY = 1024
_SYLLABLE = f"[{CONSONANTS}][{VOWELS}]"
PIECES = rf"bbox_2d| ?{_SYLLABLE}(?={_SYLLABLE}\b)|\p{{N}}{{1,3}}| ?\p{{L}}+|[^\p{{L}}\p{{N}}\s]+ ?|\s+"
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# Qwen's conversation format; an image may stand anywhere in a turn.
CHAT_TEMPLATE = """\
{%- if messages[0].role != "system" %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}
{%- else %}
{%- for part in message.content %}
{%- if part.type == "image" %}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == "video" %}<|vision_start|><|video_pad|><|vision_end|>
{%- else %}{{ part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def _corpus() -> Iterable[str]:
    """What the vocabulary is learned from: the prompts and answers of the synthetic world, and all numbers."""
    for task in IMAGE_TASKS:
        story = get_task(task)
        for sample in make_scenes(task, 500, seed=0):
            prompt = story.prompt(sample.question, thinking=sample.id.endswith("0"))
            yield prompt.replace(". Think", " Think") if task == "counting" else prompt  # as it was for the weights
            yield story.write_answer(sample.target, label=sample.question)
    for number in range(201):
        yield from [f"({number},{number})", f" {number}"] * 20
    for _ in range(20):
        yield " ".join(c + v for c in CONSONANTS for v in VOWELS)
        yield "\n".join(c + v + d + w for c in CONSONANTS for v in VOWELS for d in CONSONANTS[::5] for w in VOWELS[::2])
        yield "<think>I see the objects in the image.</think><answer></answer>"
        yield "system\nYou are a helpful assistant. user\nassistant\n"


def build_tokenizer(
    corpus: Iterable[str] | None = None, pieces: str = PIECES, vocabulary: int = VOCABULARY
) -> PreTrainedTokenizerFast:
    """A byte-level BPE with Qwen's special tokens; any text encodes, a number up to three digits is one token.

    Its words are those of `corpus`, by default of the synthetic world; `pieces` is what a token may be a part of.
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pieces), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learned = vocabulary - len(SPECIAL_TOKENS)
    trainer = trainers.BpeTrainer(vocab_size=learned, initial_alphabet=alphabet, show_progress=False)
    lines = (line for text in (_corpus() if corpus is None else corpus) for line in _between_specials(text))
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL_TOKENS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _between_specials(text: str) -> list[str]:
    for token in SPECIAL_TOKENS:
        text = text.replace(token, "\0")
    return text.split("\0")


def build_processor(tokenizer: PreTrainedTokenizerFast | None = None, most: int = 256) -> Qwen2_5_VLProcessor:
    """The real processor over our tokenizer, or another; images of up to `most`×`most` pixels pass as they are, 64×64
    as 16 image tokens."""
    pixels = {"shortest_edge": 16 * 16, "longest_edge": most * most}
    shape = {"patch_size": PATCH, "merge_size": MERGE, "size": pixels}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shape),
        tokenizer=tokenizer or build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**shape),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: Qwen2_5_VLProcessor, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """The model with random weights drawn from `seed`."""
    ids = {token: processor.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    head = WIDTH // HEADS // 2
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": (len(processor.tokenizer) + 15) // 16 * 16,
            "hidden_size": WIDTH,
            "intermediate_size": 3 * WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 4096,
            "initializer_range": WIDTH**-0.5,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head - 2 * (head * 3 // 8), head * 3 // 8, head * 3 // 8],
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": LAYERS,
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_heads": HEADS,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "window_size": IMAGE_SIZE,
            "fullatt_block_indexes": list(range(LAYERS)),
            "out_hidden_size": WIDTH,
            "initializer_range": WIDTH**-0.5,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    config.vision_config.rope_parameters = None  # the default, whose name transformers 5.10 warns of when it reads it
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model
