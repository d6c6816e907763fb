"""`python -m pr1kit eval`: a model on benchmark files, its completions kept, its numbers beside the paper's.

Samples go to processes in whole batches, the same batches whatever the number of processes, so the completions are the
same too. Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pr1kit.data.assemble import Samples
from pr1kit.data.boxes import parse_frame
from pr1kit.data.load import LAYOUTS, load_dataset
from pr1kit.data.options import make_parser, option, read_flags
from pr1kit.data.run_folder import RunFolder
from pr1kit.data.safe_files import read_json
from pr1kit.data.sample import TASKS
from pr1kit.evaluation.benchmarks import PROTOCOLS, Protocol, official_files
from pr1kit.evaluation.completion_store import CompletionStore, completion_digests, model_digest, read_completions
from pr1kit.evaluation.report import report, score_completions
from pr1kit.rewards.tasks import COUNTED

BATCH = {"hf": 16, "vllm": 512}
SEEN = ("quantization", "max_pixels")  # what of `load_policy` changes the answers
DESCRIPTION = """A model on benchmark files, its completions kept, its numbers beside the paper's.

    python -m pr1kit eval --policy Qwen/Qwen2-VL-2B-Instruct --data refcoco_val.json --images coco/
    accelerate launch -m pr1kit eval …                      the same, on every GPU of the machine
    python -m pr1kit eval --completions runs/eval/refcoco_val.jsonl --data refcoco_val.json --images coco/"""


@dataclass(frozen=True)
class EvalOptions:
    """What an evaluation is told; each field is a flag."""

    data: list[str] = option([], "annotation files, hub ids, `scenes`, or the official eval folder")
    policy: str = option("tiny", "hub id, folder or `tiny`", aliases=["--model"])
    images: str | None = option(None, "folder of the pictures (default: that of the file)")
    task: str | None = option(None, "where the data leave it open", choices=TASKS)
    layout: str = option("auto", "of the data (default: by its fields)", choices=("auto", "coco", *LAYOUTS))
    split: str | None = option(None, "of a dataset that has several")
    limit: int | None = option(None, "the first so many samples of each")
    frame: str | None = option(None, "how the data write boxes: pixel, norm1000, resized or WxH")
    box_format: str | None = option(None, "corners, or corner and size, where that is open", choices=("xyxy", "xywh"))
    frames: int = option(8, "of a clip, where the data are videos")
    fps: float | None = option(2.0, "frames a second to take of videos")
    out: str = option("runs/eval", "folder of the results")
    completions: str | None = option(None, "score these instead of asking a model")
    answer_frame: str | None = option(None, "how --completions without a frame of their own write boxes")
    protocol: str = option("paper", "the paper's prompts or those of its released scripts", choices=tuple(PROTOCOLS))
    prompt: str | None = option(None, 'other words, with "{question}" in them')
    max_new_tokens: int | None = option(None, "longest completion (default: the protocol's)")
    count_from: str | None = option(None, "what of a counting answer is its count (default: either)", choices=COUNTED)
    thinking: bool = option(False, "ask to think first")
    engine: str = option("hf", "transformers or vLLM", choices=tuple(BATCH))
    batch_size: int | None = option(None, f"prompts at once (default: {BATCH['hf']}, vllm {BATCH['vllm']})")
    dtype: str = option("auto", "of the weights, such as bfloat16 (auto: the checkpoint's)")
    quantization: str | None = option(None, "of the language model's weights (hf)", choices=("4bit", "8bit"))
    max_pixels: int | None = option(None, "largest image that the model sees (hf; default: the checkpoint's)")
    attn: str = option("auto", "attention of transformers (hf; default: the best that runs here)")
    tensor_parallel: int = option(1, "GPUs that share one model (vllm)")


def main(flags: Sequence[str]) -> int:
    """The subcommand: ask, keep, score, print; the report and each benchmark's `.results.json` go to `--out`."""
    arguments = EvalOptions(**read_flags(make_parser((EvalOptions,), "python -m pr1kit eval", DESCRIPTION), flags))
    frame, answer_frame = (each and parse_frame(each) for each in (arguments.frame, arguments.answer_frame))
    plan, world, folder = _plan(arguments), _world(arguments), RunFolder(arguments.out)
    with folder.lock() if world.rank == 0 else nullcontext():
        results, engine = [], None
        for name, path, images in plan:
            split = arguments.split or ("test" if path == "scenes" else None)
            data = (path, arguments.task, arguments.layout, split, arguments.limit, frame)
            told = {"images": images, "box_format": arguments.box_format}
            samples = _load(world, *data, **told, frames=arguments.frames, fps=arguments.fps)
            if arguments.completions is not None:
                file = Path(arguments.completions)
                rows, made_by = read_completions(file), _made_by(file)
            else:
                engine = engine or _engine(arguments, world)
                made_by = _about(arguments, samples[0].task)
                store = CompletionStore(folder.path, name, world.rank, world.processes)
                rows = _ask(samples, store, made_by, engine, arguments.batch_size or BATCH[arguments.engine], world)
            if world.rank == 0:
                results.append(score_completions(samples, rows, name, made_by, answer_frame, arguments.count_from))
        if world.rank == 0:
            text = report(results)
            folder.write("report.md", text)
            for result in results:
                folder.write(f"{result.name}.results.json", json.dumps(result.to_dict(), indent=1))
            print(text)
        world.wait()
    return 0


def _about(arguments: EvalOptions, task: str) -> dict:
    """What makes the completions: everything that changes them besides their question and picture."""
    made_by: dict[str, Any] = {"model": arguments.policy, "engine": arguments.engine, "dtype": arguments.dtype}
    made_by |= {name: getattr(arguments, name) for name in SEEN if getattr(arguments, name) is not None}
    made_by |= {"task": task, "protocol": asdict(_protocol(arguments, task))}
    return made_by | {"weights": model_digest(arguments.policy)}


def _plan(arguments: EvalOptions) -> list[tuple[str, str, Any]]:
    """(name, data, images) of each benchmark; names are distinct."""
    if not arguments.data:
        raise ValueError("Say what to evaluate on with --data: annotation files, hub ids, scenes, or the eval folder.")
    plan: dict[str, tuple] = {}
    for data in arguments.data:
        folder = Path(data).expanduser()
        found = official_files(folder) if (folder / "jsons").is_dir() else [(data, arguments.images)]
        if not found:
            raise ValueError(f"{data!r} has a folder `jsons` without benchmark files that the kit knows in it.")
        for path, images in found:
            name = f"scenes_{arguments.task}" if str(path) == "scenes" else Path(path).stem
            name = name if arguments.split is None else f"{name}_{arguments.split}"
            if name in plan:
                raise ValueError(f"Two of the data are called {name!r}: evaluate them one by one, each with its --out.")
            plan[name] = (name, str(path), images)
    if arguments.completions is not None and len(plan) > 1:
        raise ValueError(f"--completions are of one --data, got {len(plan)}.")
    return list(plan.values())


def _load(world: World, *data, **options) -> Samples:
    """The samples; what was left out is said in one line, by one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        samples = load_dataset(*data, **options)
    if samples.skipped and world.rank == 0:
        print(f"pr1kit: {samples}", file=sys.stderr)
    return samples


def _protocol(arguments: EvalOptions, task: str) -> Protocol:
    protocol = PROTOCOLS[arguments.protocol][task]
    prompt, tokens = arguments.prompt or protocol.prompt, arguments.max_new_tokens or protocol.max_new_tokens
    return replace(protocol, prompt=prompt, max_new_tokens=tokens, thinking=arguments.thinking)


def _engine(arguments: EvalOptions, world: World):
    from pr1kit.evaluation.engines import make_engine

    options = {name: getattr(arguments, name) for name in ("dtype", *SEEN)}
    if arguments.engine == "hf":
        return make_engine("hf", arguments.policy, device=world.device, attn=arguments.attn, **options)
    if world.processes > 1:
        raise ValueError(
            "vLLM spreads over GPUs by itself: run it without accelerate launch, with --tensor-parallel N."
        )
    return make_engine("vllm", arguments.policy, tensor_parallel_size=arguments.tensor_parallel, **options)


def _ask(samples, store: CompletionStore, made_by: dict, engine, batch_size: int, world: World) -> dict[str, dict]:
    """Completions of all samples by id, those already kept not asked for again."""
    from tqdm.auto import tqdm

    if world.rank == 0:
        store.check_same_run(made_by)
    world.wait()
    digests = completion_digests(samples, made_by)
    kept, stale = store.fitting(digests)
    if stale and world.rank == 0:
        which = f"{len(stale)} kept completions of {store.name} ({stale[0]}{', …' if len(stale) > 1 else ''})"
        print(f"pr1kit: {which} are of another question, picture or model, and are asked again.", file=sys.stderr)
    world.wait()  # all have read before any writes
    batches = [samples[start : start + batch_size] for start in range(0, len(samples), batch_size)]
    missing = [batch for batch in batches if any(sample.id not in kept for sample in batch)]
    mine = missing[world.rank :: world.processes]
    protocol = Protocol(**made_by["protocol"])
    for batch in tqdm(mine, desc=store.name, disable=world.rank > 0 or not mine, file=sys.stderr):
        rows = [row | {"of": digests[row["id"]]} for row in engine(batch, protocol)]
        store.append([row for row in rows if row["id"] not in kept])
    world.wait()
    if world.rank == 0:
        store.join(sample.id for sample in samples)
    world.wait()
    return store.kept()


@dataclass(frozen=True)
class World:
    """This process among those that `accelerate launch` started; alone by default."""

    rank: int = 0
    processes: int = 1
    device: str | None = None
    state: Any = None

    def wait(self) -> None:
        """Until all processes have come so far."""
        if self.state is not None:
            self.state.wait_for_everyone()


def _world(arguments: EvalOptions) -> World:
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched == 1 or arguments.completions is not None or arguments.engine != "hf":
        return World(processes=launched)
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
    if state.num_processes != launched:
        raise ValueError(f"{launched} processes were launched, but {state.num_processes} found each other.")
    return World(state.process_index, state.num_processes, str(state.device), state)


def _made_by(path: Path) -> dict | None:
    about = path.with_suffix(".settings.json")
    made_by = read_json(about) if about.is_file() else {}
    known = isinstance(made_by, dict) and {"model", "engine", "dtype", "protocol"} <= made_by.keys()
    return made_by if known else None
