"""What does seeing the image once per group save? Stock TRL against the shared prefix, alternating in one process.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_shared_prefix.py --out data/benchmarks/shared_prefix_cpu.csv
    python tests/benchmarks/bench_shared_prefix.py --only videos --out data/benchmarks/shared_video_cpu.csv
    python tests/benchmarks/bench_shared_prefix.py --gpu --out shared_prefix_gpu.csv      # real geometries, one GPU

`--only` picks parts: `updates` (forward and backward of one group, against the ratio of tokens G(P + R) / (P + GR)),
`memory` (peak of the tensors alive in an update), `peers` (a text model: a row for each answer, Prefix Grouper where
it is installed, `shared_logprobs`), `steps` (rollout, rewards, update of whole steps, of the tiny policy and of 26
million parameters), `rollouts` (TRL's rows, `num_return_sequences`, branches), `videos` (updates and rollouts about
clips of 8 and 16 frames; not by default). On a CPU what is counted is processor
time, with one thread, so that other work on the machine matters little; medians of runs that alternate. A size that
already stands in the file is not measured again: a run that was cut off goes on, and a deleted row is made anew.
"""

import argparse
import csv
import multiprocessing
import platform
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from pr1kit import PerceptionGRPOTrainer, load_policy, make_clips, make_scenes, reward_function, shared_logprobs
from pr1kit.models.backends import quiet
from pr1kit.models.inputs import model_inputs
from pr1kit.models.policy import Policy
from pr1kit.models.tiny import SPECIAL_TOKENS, build_processor
from pr1kit.rollouts.branched_decoding import branches
from pr1kit.training.grpo import to_dataset
from pr1kit.training.grpo_settings import TINY
from pr1kit.training.shared_prefix.logprobs import WORTHWHILE, LogProbs

UPDATES = (  # model, prompt tokens, answer tokens, answers to one prompt
    ("5M", 106, 40, 8), ("5M", 298, 40, 8), ("5M", 1066, 60, 8), ("5M", 1066, 400, 8), ("5M", 1066, 400, 16),
    ("26M", 106, 40, 8), ("26M", 298, 40, 8), ("26M", 1066, 60, 8), ("26M", 1066, 400, 8),
    ("5M", 298, 1, 8), ("5M", 106, 1, 2), ("5M", 298, 40, 2), ("5M", 298, 40, 32), ("5M", 106, 400, 8),
    ("5M", 298, 1024, 2), ("5M", 1066, 1024, 8), ("5M", 1066, 2048, 8), ("5M", 1066, 2048, 2),
    ("5M", 106, 2048, 2), ("5M", 106, 1024, 8), ("5M", 298, 1, 32),
)  # fmt: skip
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


def make_trainer(
    policy, shared, *, prompts, group, answer, image_side=64, lora=False, bf16=False, task="detection", samples=None
):
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
    scenes = samples or make_scenes(task, 8 * prompts, 0, image_size=image_side)
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
    clock = time.perf_counter if device == "cuda" else time.process_time
    started = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


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


def group_rows(policy, prompt, answer, group, samples=None):
    """A trainer and one group of random answers, as `LogProbs`, and the prompt's tokens."""
    about = {"task": samples[0].task, "samples": samples} if samples else {"image_side": IMAGE_SIDE[prompt]}
    trainer = make_trainer(policy, True, prompts=1, group=group, answer=answer, **about)
    with torch.no_grad():
        trainer.generation_config.max_new_tokens = 1  # the answers are drawn below: lengths are what is measured
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    ids = torch.randint(300, 700, (group, answer))  # no special tokens
    tokens = batch["prompt_ids"].shape[1]
    kinds = torch.cat([batch["mm_token_type_ids"][:, :tokens], torch.zeros_like(ids)], 1)
    batch |= {"completion_ids": ids, "completion_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}
    return trainer, LogProbs.of_batch(trainer, batch), tokens


def alternating(ways: dict, runs: int, device="cpu") -> dict:
    """Median seconds of each of `ways`, which take turns; the first turn warms up where there are several."""
    times = {name: [] for name in ways}
    for run in range(runs + (runs > 1)):
        for name, work in ways.items():
            spent = seconds(work, device)
            if run or runs == 1:
                times[name].append(spent)
    return {name: float(np.median(values)) for name, values in times.items()}


def updates(policy, prompt, answer, group, runs, samples=None) -> tuple[float, float, int]:
    """Median seconds of forward and backward over one group: stock, shared, and the prompt's tokens.

    Where so little is saved that the trainer takes TRL's rows, the times are one and the same.
    """
    trainer, rows, tokens = group_rows(policy, prompt, answer, group, samples)

    def work(way):
        getattr(rows, way)(range(group))[0].sum().backward()
        trainer.model.zero_grad()

    ways = ("per_row", "shared") if rows.saving >= WORTHWHILE else ("per_row",)
    times = alternating({way: lambda way=way: work(way) for way in ways}, runs)
    return times["per_row"], times.get("shared", times["per_row"]), tokens


def peak_memory(size, prompt, answer, group) -> dict:
    """Peak bytes that forward and backward of one group add to a process that holds the model, each way in its own."""
    peaks = {}
    for way in ("per_row", "shared"):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            peaks[way] = process.submit(_peak, size, prompt, answer, group, way).result()
    return peaks


def _peak(size, prompt, answer, group, way) -> int:
    _, rows, _ = group_rows(random_policy(size), prompt, answer, group)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak from here on, not the parent's before it
    before = psutil.Process().memory_info().rss
    getattr(rows, way)(range(group))[0].sum().backward()
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]
    return int(peak) * 1024 - before


def text_peers(prompt, answer, group, runs) -> dict:
    """Seconds of an update of a text model of 5M: a row for each answer, Prefix Grouper, and `shared_logprobs`."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    shape = dict(hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4)
    model = Qwen2ForCausalLM(Qwen2Config(**shape, num_key_value_heads=4, vocab_size=1024))
    ids, answers = torch.randint(0, 1000, (1, prompt)), torch.randint(0, 1000, (group, answer))

    def score(logits, labels):
        return -torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")

    def per_row():
        rows = torch.cat([ids.expand(group, -1), answers], 1)
        logits = model(input_ids=rows, logits_to_keep=answer + 1, use_cache=False).logits[:, :-1]
        return score(logits, answers)

    ways = {"per_row": per_row, "shared": lambda: shared_logprobs(model, {"input_ids": ids}, answers).flatten()}
    if find_spec("prefix_grouper"):
        ways["Prefix Grouper"] = lambda: score(prefix_grouper_logits(model, ids, answers), answers)
    values = {name: way().detach() for name, way in ways.items()}
    for name, value in values.items():
        assert torch.allclose(value, values["per_row"], atol=1e-4), name

    def work(way):
        ways[way]().sum().backward()
        model.zero_grad()

    return alternating({way: lambda way=way: work(way) for way in ways}, runs)


def prefix_grouper_logits(model, ids, answers):
    """As its README has it, its attention on SDPA (it is written for FlashAttention, which has no CPU)."""
    from prefix_grouper import PrefixGrouper
    from prefix_grouper.forward import AttentionForward
    from transformers import AttentionInterface

    def sdpa(q, k, v, mask, *_):
        sees = (
            None
            if q.shape[2] == k.shape[2]
            else torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        )
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=sees, is_causal=sees is None)
        return out.transpose(1, 2)

    AttentionInterface.register(
        "prefix_grouper", lambda module, q, k, v, mask, prefix_grouper, **_: (
            AttentionForward(sdpa)(prefix_grouper, q, k, v), None
        )
    )  # fmt: skip
    grouper = PrefixGrouper.from_ungrouped_masks(
        prefix_mask=torch.ones_like(ids), suffix_mask=torch.ones_like(answers), group_sizes=len(answers),
        padding_mode="right", device=ids.device,
    )  # fmt: skip
    row = grouper.concat_input(ids, torch.ones_like(ids), answers, torch.ones_like(answers))
    own = torch.arange(answers.shape[1]) + ids.shape[1]
    positions = torch.cat([torch.arange(ids.shape[1]), own.repeat(len(answers))])[None]
    before, model.config._attn_implementation = model.config._attn_implementation, "prefix_grouper"
    try:
        logits = model(input_ids=row, position_ids=positions, prefix_grouper=grouper, use_cache=False).logits
    finally:
        model.config._attn_implementation = before
    return grouper.split_output(logits, include_prefix_last=1)[2][:, :-1]


def rollouts(policy, samples, group, runs) -> dict:
    """Seconds to answer each prompt `group` times: a row each, `num_return_sequences`, branches."""
    options = {"max_new_tokens": 96, "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}

    def generate(repeat, **more):
        inputs = model_inputs(policy, [sample for sample in samples for _ in range(repeat)])
        with torch.no_grad():
            policy.model.generate(**inputs, **options, **more)

    ways = {
        "a row for each answer": lambda: generate(group),
        "num_return_sequences": lambda: generate(1, num_return_sequences=group),
        "branches": lambda: generate(1, custom_generate=branches(group)),
    }
    torch.manual_seed(0)
    return alternating(ways, runs)


def token_ratio(prompt, answer, group):
    return group * (prompt + answer) / (prompt + group * answer)


FIELDS = ("what", "model", "prompt", "answer", "group", "stock_s", "shared_s", "ratio", "token_ratio", "device")


PARTS = ("updates", "memory", "peers", "steps", "rollouts", "videos")
CLIPS = ((8, 64), (16, 64), (8, 128), (16, 128))  # frames, and their side in pixels: 8 visual tokens a frame, or 32


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS[:-1])
    parser.add_argument("--out", default="")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--largest", type=int, default=10**9, help="leave out updates of more tokens in stock's rows")
    options = parser.parse_args()
    if not options.gpu:
        torch.set_num_threads(1)  # the processor time of threads that wait for one another says nothing
    device = (
        torch.cuda.get_device_name() if options.gpu else f"{torch.get_num_threads()} CPU thread, {platform.machine()}"
    )
    rows = list(csv.DictReader(Path(options.out).open())) if options.out and Path(options.out).exists() else []

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

    def known(*row) -> bool:
        return any(all(str(old[k]) == str(v) for k, v in zip(FIELDS, row, strict=False)) for old in rows)

    if options.gpu:
        gpu(report, options.runs)
    else:
        cpu(report, known, options.runs, options.only, options.largest)


def cpu(report, known, runs, parts, largest):
    if "updates" in parts:
        for size, prompt, answer, group in UPDATES:
            tokens = group * (prompt + answer)
            if tokens <= largest and not known("update", size, prompt, answer, group):
                repeats = 3 * runs if tokens < 2000 else runs if tokens < 4000 else 2 if tokens < 10000 else 1
                stock, shared, prompt = updates(random_policy(size), prompt, answer, group, repeats)
                report("update", size, prompt, answer, group, stock, shared, token_ratio(prompt, answer, group))
    if "memory" in parts:
        for size, prompt, answer, group in UPDATES[2:4]:
            if known("peak GiB of an update", size, prompt, answer, group):
                continue
            peak = peak_memory(size, prompt, answer, group)
            report("peak GiB of an update", size, prompt, answer, group, *(value / 2**30 for value in peak.values()))
    if "peers" in parts:
        for prompt, answer in ((298, 40), (1066, 60)):
            if known("update of a text model", "5M", prompt, answer, 8):
                continue
            times = text_peers(prompt, answer, 8, max(1, runs // 2))
            stock, shared = times["per_row"], times["shared"]
            report("update of a text model", "5M", prompt, answer, 8, stock, shared, token_ratio(prompt, answer, 8))
            if "Prefix Grouper" in times:
                theirs = times["Prefix Grouper"]
                report("update of a text model, Prefix Grouper", "5M", prompt, answer, 8, stock, theirs)
    if "rollouts" in parts:
        for task in ("grounding", "counting"):
            if known(f"{task} rollouts against num_return_sequences"):
                continue
            times = rollouts(load_policy("tiny"), make_scenes(task, 16), 8, runs)
            for peer in ("a row for each answer", "num_return_sequences"):
                report(f"{task} rollouts against {peer}", "tiny (2M)", "45", "drawn", 8, times[peer], times["branches"])
    if "videos" in parts:
        videos(report, known, runs)
    if "steps" in parts:
        whole = [("tiny", task, 16, 96, 64) for task in ("grounding", "counting")] + [("26M", "detection", 4, 40, 256)]
        for size, task, prompts, answer, side in whole:
            if known(f"{task if size == 'tiny' else 'random'} step"):
                continue
            lengths = {"prompts": prompts, "group": 8, "answer": answer, "image_side": side, "task": task}
            both = {}
            for name in ("stock", "shared"):
                policy = load_policy("tiny") if size == "tiny" else random_policy(size)
                both[name] = make_trainer(policy, name == "shared", **lengths)
            times, _ = whole_steps(both, runs if size == "tiny" else max(1, runs // 3))
            told = ("tiny (2M)", "45", "drawn") if size == "tiny" else (size, 298, answer)
            for part in ("rollout", "update", "step"):
                name = f"{task if size == 'tiny' else 'random'} {part}"
                report(name, *told, 8, times["stock"][part], times["shared"][part])


def videos(report, known, runs, answer=100, group=8):
    """A group of answers as long as a trajectory to one clip: the update, and 4 such groups decoded."""
    for frames, side in CLIPS:
        about, policy = f"{frames} frames of {side} x {side}", random_policy("5M")
        clips = make_clips("tracking", 8, frames=frames, size=side)
        prompt = model_inputs(policy, clips[:4])["input_ids"].shape[1]
        if not known(f"update, {about}"):
            stock, shared, prompt = updates(policy, None, answer, group, runs, clips)
            report(f"update, {about}", "5M", prompt, answer, group, stock, shared, token_ratio(prompt, answer, group))
        if known(f"rollouts against num_return_sequences, {about}"):
            continue
        times = rollouts(policy, clips[:4], group, runs)
        for peer in ("a row for each answer", "num_return_sequences"):
            report(f"rollouts against {peer}, {about}", "5M", prompt, "drawn", group, times[peer], times["branches"])


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
