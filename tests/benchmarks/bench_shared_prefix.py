"""What does seeing the image once per group save? Stock TRL against the shared prefix, alternating in one process.

    python tests/benchmarks/bench_shared_prefix.py --out shared_prefix_cpu.csv
    python tests/benchmarks/bench_shared_prefix.py --gpu --out shared_prefix_gpu.csv      # real geometries, one GPU

(a) whole steps (rollout, rewards, update) and their parts: the tiny policy as in the demo, and 26 million parameters at
298 prompt and 40 answer tokens; (b) the update alone at four lengths and three group sizes, against the token ratio
G(P + R) / (P + GR); (c) on a GPU, whole steps at the geometry of Qwen2-VL-2B and Qwen2.5-VL-3B with random weights,
LoRA and bf16. Medians of alternating runs; nothing else should run on the machine.
"""

import argparse
import csv
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from pr1kit import PerceptionGRPOTrainer, load_policy, make_scenes, reward_function
from pr1kit.models.backends import quiet
from pr1kit.models.policy import Policy
from pr1kit.models.tiny import SPECIAL_TOKENS, build_processor
from pr1kit.training.grpo import to_dataset
from pr1kit.training.grpo_settings import TINY
from pr1kit.training.shared_prefix.logprobs import LogProbs

LENGTHS = ((106, 40), (298, 40), (1066, 60), (1066, 400))
GROUPS = (4, 8, 16)
IMAGE_SIDE = {106: 128, 298: 256, 1066: 512}  # 16 pixels a token, and 42 tokens of words
QUESTION = "circle, square, triangle, cross, circle, square, cross"
# width, layers, feed-forward width, heads, key-value heads, vision width, vision layers, vocabulary
SIZES = {
    "5M": (256, 4, 768, 4, 4, 128, 4, 1024),
    "26M": (512, 6, 1536, 8, 8, 256, 4, 1024),
    "Qwen2-VL-2B": (1536, 28, 8960, 12, 2, 1280, 32, 151936),
    "Qwen2.5-VL-3B": (2048, 36, 11008, 16, 2, 1280, 32, 151936),
}


def random_policy(size: str, device: str = "cpu", dtype=torch.float32) -> Policy:
    """Random weights at one of `SIZES`, over the tiny policy's processor; the real ones keep their patches of 14."""
    width, layers, inner, heads, kv_heads, vision_width, vision_layers, vocabulary = SIZES[size]
    processor = build_processor()
    real = size.startswith("Qwen")
    patch = 14 if real else 8
    for images in (processor.image_processor, processor.video_processor):
        images.patch_size = patch
        images.size = {"shortest_edge": 16 * 16, "longest_edge": 4096 * 4096}
    ids = {token: processor.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    section = width // heads // 2
    text = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [section - 2 * (section * 3 // 8), section * 3 // 8, section * 3 // 8],
        },
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": True,
    }
    vision = {"depth": vision_layers, "num_heads": 16 if real else 4, "patch_size": patch, "spatial_merge_size": 2}
    tokens = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": True,
    }
    if size == "Qwen2-VL-2B":
        vision |= {"embed_dim": vision_width, "hidden_size": width}
        config, model_class = (
            Qwen2VLConfig(text_config=text, vision_config=vision, **tokens),
            Qwen2VLForConditionalGeneration,
        )
    else:
        vision |= {"hidden_size": vision_width, "out_hidden_size": width}
        vision |= {"intermediate_size": 3420 if real else 2 * vision_width, "window_size": 112 if real else 64}
        vision |= {"fullatt_block_indexes": [7, 15, 23, 31] if real else list(range(vision_layers))}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
        model_class = Qwen2_5_VLForConditionalGeneration
    torch.manual_seed(0)
    with torch.device(device):
        model = model_class._from_config(config, dtype=dtype)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return Policy(model, processor, size)


def make_trainer(policy, shared, *, prompts, group, answer, image_side=64, lora=False, bf16=False, task="detection"):
    settings = replace(
        TINY, prompts_per_step=prompts, micro_prompts=prompts, num_generations=group, max_completion_length=answer,
        learning_rate=1e-9, gradient_checkpointing=lora,
    )  # fmt: skip
    args = settings.config(tempfile.mkdtemp())
    args.bf16 = bf16
    peft = None
    if lora:
        from peft import LoraConfig

        peft = LoraConfig(r=16, target_modules=r".*language_model.*(q|k|v|o|up|down|gate)_proj")
    scenes = make_scenes(task, 8 * prompts, 0, image_size=image_side)
    if image_side != 64:
        scenes = [replace(scene, question=QUESTION) for scene in scenes]
    with quiet():
        trainer = PerceptionGRPOTrainer(
            model=policy.model, reward_funcs=reward_function(task), args=args, peft_config=peft,
            train_dataset=to_dataset(scenes, policy), processing_class=policy.processor, shared_prefix=shared,
        )  # fmt: skip
        trainer.create_optimizer()
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer._checked = True
    return trainer


def seconds(work, device):
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def whole_steps(trainers: dict, runs: int, device="cpu") -> dict:
    """Seconds of rollout with rewards, of update, and of both, for `{"stock": …, "shared": …}`, alternating."""
    times = {name: {"rollout": [], "update": [], "step": []} for name in trainers}
    batches = {name: list(iter(t.get_train_dataloader()))[: runs + 1] for name, t in trainers.items()}
    memory = {}
    for run in range(runs + 1):
        for name, trainer in trainers.items():
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            torch.manual_seed(run)
            trainer._step = run * trainer.args.steps_per_generation
            held = {}

            def rollout(trainer=trainer, batch=batches[name][run], held=held):
                held["inputs"] = trainer._prepare_inputs(batch)

            def update(trainer=trainer, held=held):
                with trainer.compute_loss_context_manager():
                    loss = trainer.compute_loss(trainer.model, held["inputs"])
                trainer.accelerator.backward(loss)
                trainer.optimizer.step()
                trainer.optimizer.zero_grad()

            first, second = seconds(rollout, device), seconds(update, device)
            if run:  # the first warms up
                for part, value in (("rollout", first), ("update", second), ("step", first + second)):
                    times[name][part].append(value)
            if device == "cuda":
                memory[name] = torch.cuda.max_memory_allocated() / 2**30
    return {name: {part: float(np.median(v)) for part, v in parts.items()} for name, parts in times.items()}, memory


def updates(policy, prompt, answer, group, runs) -> tuple[float, float, int]:
    """Median seconds of forward and backward over one group: stock, shared, and the prompt's tokens."""
    trainer = make_trainer(policy, True, prompts=1, group=group, answer=answer, image_side=IMAGE_SIDE[prompt])
    with torch.no_grad():
        trainer.generation_config.max_new_tokens = 1  # the answers are drawn below: lengths are what is measured
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    ids = torch.randint(300, 700, (group, answer))  # no special tokens
    tokens = batch["prompt_ids"].shape[1]
    kinds = torch.cat([batch["mm_token_type_ids"][:, :tokens], torch.zeros_like(ids)], 1)
    batch |= {"completion_ids": ids, "completion_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}
    rows = LogProbs.of_batch(trainer, batch)
    times = {"stock": [], "packed": []}
    for run in range(runs + 1):
        for name in times:

            def work(name=name):
                getattr(rows, name)(range(group))[0].sum().backward()
                trainer.model.zero_grad()

            spent = seconds(work, "cpu")
            if run or runs == 1:
                times[name].append(spent)
    return float(np.median(times["stock"])), float(np.median(times["packed"])), tokens


def token_ratio(prompt, answer, group):
    return group * (prompt + answer) / (prompt + group * answer)


FIELDS = ("what", "model", "prompt", "answer", "group", "stock_s", "shared_s", "ratio", "token_ratio", "device")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--out", default="")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prompts", type=int, nargs="+", help="only the updates at these prompt lengths, such as 106")
    options = parser.parse_args()
    device = (
        torch.cuda.get_device_name() if options.gpu else f"{torch.get_num_threads()} CPU threads, {platform.machine()}"
    )
    rows = list(csv.DictReader(Path(options.out).open())) if options.prompts and options.out else []

    def report(what, model, prompt, answer, group, stock, shared, ratio=None, **more):
        values = (what, model, prompt, answer, group, f"{stock:.3f}", f"{shared:.3f}", f"{stock / shared:.2f}")
        row = dict(zip(FIELDS, (*values, "" if ratio is None else f"{ratio:.2f}", device), strict=True)) | more
        place = [i for i, old in enumerate(rows) if all(str(old[k]) == str(row[k]) for k in FIELDS[:5])]
        rows[place[0] if place else len(rows) : (place[0] if place else len(rows)) + 1] = [row]
        print("  ".join(f"{value}" for value in row.values()), flush=True)
        if options.out:
            with Path(options.out).open("w", newline="") as file:
                writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
                writer.writeheader()
                writer.writerows(rows)

    if options.prompts:
        all_updates(report, options.runs, options.prompts)
    else:
        (gpu if options.gpu else cpu)(report, options.runs)


def cpu(report, runs):
    for task, answer in (("grounding", 96), ("counting", 96)):
        both = {
            name: make_trainer(load_policy("tiny"), name == "shared", prompts=16, group=8, answer=answer, task=task)
            for name in ("stock", "shared")
        }
        times, _ = whole_steps(both, runs)
        for part in ("rollout", "update", "step"):
            report(f"{task} {part}", "tiny (2M)", "45", "drawn", 8, times["stock"][part], times["shared"][part])
    policies = {name: random_policy("26M") for name in ("stock", "shared")}
    both = {
        name: make_trainer(policy, name == "shared", prompts=4, group=8, answer=40, image_side=256)
        for name, policy in policies.items()
    }
    times, _ = whole_steps(both, max(2, runs // 2))
    for part in ("rollout", "update", "step"):
        report(f"random {part}", "26M", 298, 40, 8, times["stock"][part], times["shared"][part])
    all_updates(report, runs, list(IMAGE_SIDE))


def all_updates(report, runs, prompts):
    for size, groups in (("5M", GROUPS), ("26M", (8,))):
        policy = random_policy(size)
        for prompt, answer in LENGTHS:
            for group in groups if prompt in prompts else ():
                repeats = 3 * runs if prompt + answer < 400 else runs if prompt < 1000 else max(1, runs // 3)
                stock, shared, tokens = updates(policy, prompt, answer, group, repeats)
                report("update", size, tokens, answer, group, stock, shared, token_ratio(tokens, answer, group))


def gpu(report, runs):
    for size in ("Qwen2-VL-2B", "Qwen2.5-VL-3B"):
        for answer in (60, 400):
            results, more = {}, {}
            for name in ("stock", "shared"):  # one after the other: both do not fit beside each other
                trainer = gpu_trainer(size, name == "shared", prompts=2, group=8, answer=answer)
                times, peak = whole_steps({name: trainer}, runs, "cuda")
                results[name] = times[name]
                more |= {
                    f"{name}_gib": f"{peak[name]:.1f}",
                    f"{name}_tokens_per_s": f"{2 * 8 * answer / times[name]['step']:.0f}",
                }
                del trainer
                torch.cuda.empty_cache()
            for part in ("rollout", "update", "step"):
                report(part, size, 1066, answer, 8, results["stock"][part], results["shared"][part], **more)
        for limit in (16, 24, 80):
            largest = {f"{name}_group": largest_group(size, name == "shared", limit) for name in ("stock", "shared")}
            report(f"largest group in {limit} GiB", size, 1066, 60, "", np.nan, np.nan, **largest)


def gpu_trainer(size, shared, **lengths):
    policy = random_policy(size, "cuda", torch.bfloat16)
    trainer = make_trainer(policy, shared, image_side=896, lora=True, bf16=True, **lengths)
    trainer.model.to("cuda")
    return trainer


def largest_group(size, shared, gib) -> int:
    """The largest of 4, 8, … 128 rollouts of 60 tokens to one prompt whose step fits into `gib`; 0 for none."""
    total, fits = torch.cuda.get_device_properties(0).total_memory, 0
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / total))
    for group in (4, 8, 16, 32, 64, 128):
        try:
            trainer = gpu_trainer(size, shared, prompts=1, group=group, answer=60)
            whole_steps({"": trainer}, 1, "cuda")
        except torch.cuda.OutOfMemoryError:
            break
        finally:
            trainer = None
            torch.cuda.empty_cache()
        fits = group
    torch.cuda.set_per_process_memory_fraction(1.0)
    return fits


if __name__ == "__main__":
    main()
