"""Which model fits on which GPU, and how long do 100 steps take at least? Computed, nothing measured, as Markdown.

    python tests/benchmarks/gpu_plan.py

A step is two prompts with G answers each, as in Perception-R1, an image of a million pixels and 60 tokens of text a
prompt. Memory is `estimate_memory` with answers of 768 tokens; it fits where it takes at most nine tenths of a card.
In one forward pass of a group of answers of R tokens, its prompt seen once, the language layers and the head take L
FLOPs and the vision tower V, at 2 for each weight and token (and patch):

    seconds = (prefill + update) / speed + R x max(bytes / bandwidth, FLOPs / speed, layers x 50 x 10 microseconds)
    update = 4 L + 2 V (adapters), 5 L + 5 V (all weights): reference, policy, checkpointing, backward

`bytes` are the language weights as they are held and the cache, half of its answers full. Speed is 40 % of the data
sheet's, bandwidth 70 %, an operation at least 10 microseconds: assumed. The tiny policy takes 50 operations a layer and
token (counted in tests/models/test_gpu_plan.py). Attention, the optimizer, widening 4-bit weights, rewards, data and
checkpoints are left out: the minutes are the least to hope for, not a promise.
The committed tables are in `data/choosing/README.md`.
"""

from pr1kit import LoRASettings
from pr1kit.models.memory import BYTES, GIB, QUANTIZED, Geometry, estimate_memory

# The data sheets of NVIDIA: GB, dense half-precision TFLOPS, GB/s.
CARDS = {
    "T4, 16 GB": (16, 65, 320),
    "L4, 24 GB": (24, 121, 300),
    "RTX 4090, 24 GB": (24, 165, 1008),
    "A100, 40 GB": (40, 312, 1555),
    "A100, 80 GB": (80, 312, 2039),
    "H100, 80 GB": (80, 989, 3350),
}
MODELS = ("Qwen2-VL-2B", "Qwen2.5-VL-3B", "Qwen3-VL-4B", "Qwen3-VL-8B")
WAYS = {  # as in pr1kit/models/profiles.py
    "LoRA, 4-bit": {"lora": LoRASettings(), "quantization": "4bit"},
    "LoRA, bfloat16": {"lora": LoRASettings()},
    "all weights": {"dtype": "float32", "optimizer": "adamw_bnb_8bit"},
}
ROWS = [(model, way) for model in MODELS for way in WAYS]
GROUPS, ANSWERS, PROMPTS, TEXT, STEPS = (4, 8, 16), (60, 768), 2, 60, 100
SPEED, BANDWIDTH, OPERATIONS, LAUNCH = 0.4, 0.7, 50, 10e-6


def needed(shape, way, group):
    return estimate_memory(shape, image_tokens=10**6 // shape.grid**2, num_generations=group, **WAYS[way]).total


def minutes(shape, way, group, answer, tflops, gigabytes):
    """Of `STEPS` steps, at least."""
    lora, width, image = "lora" in WAYS[way], BYTES[WAYS[way].get("dtype", "bfloat16")], 10**6 // shape.grid**2
    body, head = shape.quantizable, shape.vocabulary * shape.width
    vision = 2 * image * shape.merge**2 * sum(a * b for name, (a, b) in shape.linear.items() if ".blocks." in name)
    language = 2 * body * (image + TEXT + group * answer) + 2 * head * group * answer
    update = 4 * language + 2 * vision if lora else 5 * (language + vision)
    held = body * (QUANTIZED["4bit"] if "quantization" in WAYS[way] else width) + head * width
    held += 2 * PROMPTS * (image + TEXT + group * answer / 2) * shape.cached
    speed, bandwidth = SPEED * tflops * 1e12, BANDWIDTH * gigabytes * 1e9
    token = max(held / bandwidth, 2 * (body + head) * PROMPTS * group / speed, shape.layers * OPERATIONS * LAUNCH)
    prefill = 2 * body * (image + TEXT) + vision
    return STEPS * (PROMPTS * (prefill + update) / speed + answer * token) / 60


def plan():
    shapes = {name: Geometry(f"Qwen/{name}-Instruct") for name in MODELS}
    peak = {(m, way, g): needed(shapes[m], way, g) for m, way in ROWS for g in GROUPS}
    fits = {at: [card for card, (size, *_) in CARDS.items() if total <= 0.9e9 * size] for at, total in peak.items()}
    lines = ["| model | trained | G = 4 | G = 8 | G = 16 |", "|---|---|---|---|---|"]
    for m, way in ROWS:
        size = [f"{CARDS[fits[m, way, g][0]][0]} GB" if fits[m, way, g] else "over 80 GB" for g in GROUPS]
        cells = [f"{peak[m, way, g] / GIB:.1f} GiB: {on}" for g, on in zip(GROUPS, size, strict=True)]
        lines.append(f"| {m} | {way} | {' | '.join(cells)} |")
    for answer in ANSWERS:
        lines += ["", f"| {answer} tokens an answer | trained | {' | '.join(CARDS)} |", "|---" * (2 + len(CARDS)) + "|"]
        for m, way in ROWS:
            row = [
                [f"{minutes(shapes[m], way, g, answer, *of):.0f}" if card in fits[m, way, g] else "–" for g in GROUPS]
                for card, (_, *of) in CARDS.items()
            ]
            cells = [" / ".join(each) if set(each) != {"–"} else "–" for each in row]
            if set(cells) != {"–"}:
                lines.append(f"| {m} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(plan())
