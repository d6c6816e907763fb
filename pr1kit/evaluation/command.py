"""`python -m pr1kit eval`: a model on benchmark files, its completions kept, its numbers beside the paper's.

    python -m pr1kit eval --model Qwen/Qwen2-VL-2B-Instruct --data refcoco_val.json --images coco/
    accelerate launch -m pr1kit eval …                      the same, on every GPU of the machine
    python -m pr1kit eval --completions runs/eval/refcoco_val.jsonl --data refcoco_val.json --images coco/

Samples go to processes in whole batches, the same batches whatever the number of processes, so the completions are the
same too. Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pr1kit.data.assemble import Samples
from pr1kit.data.load import LAYOUTS, load_dataset
from pr1kit.data.sample import TASKS
from pr1kit.evaluation.benchmarks import PROTOCOLS, Protocol, official_files
from pr1kit.evaluation.completion_store import CompletionStore, read_completions, write_atomically
from pr1kit.evaluation.report import report, score_completions
from pr1kit.rewards.tasks import COUNTED

BATCH = {"hf": 16, "vllm": 512}
SEEN = ("quantization", "max_pixels")  # what of `load_policy` changes the answers


def add_command(commands: Any) -> None:
    """`eval` among the commands of `python -m pr1kit`."""
    parser = commands.add_parser("eval", help="measure a model on benchmark files, beside the paper's numbers")
    add_arguments(parser)
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m pr1kit eval`."""
    add = parser.add_argument
    add("--data", nargs="+", required=True, help="annotation files, hub ids, `scenes`, or the official eval folder")
    add("--model", default="tiny", help="hub id, folder or `tiny` (default: %(default)s)")
    add("--images", help="folder of the pictures (default: that of the file)")
    add("--task", choices=TASKS, help="where the data leave it open")
    add("--layout", default="auto", choices=("auto", "coco", *LAYOUTS), help="of the data (default: by its fields)")
    add("--split", help="of a dataset that has several")
    add("--limit", type=int, help="the first so many samples of each")
    add(
        "--frame",
        type=parse_frame,
        help="how the data write boxes: pixel, norm1000, resized or WxH, where that is open",
    )
    add("--box-format", choices=("xyxy", "xywh"), help="corners, or corner and size, where that is open")
    add("--out", type=Path, default=Path("runs/eval"), help="folder of the results (default: %(default)s)")
    add("--completions", type=Path, help="score these instead of asking a model")
    add("--answer-frame", type=parse_frame, help="how --completions without a frame of their own write boxes")
    add("--protocol", default="paper", choices=PROTOCOLS, help="the paper's prompts or those of its released scripts")
    add("--prompt", help='other words, with "{question}" in them')
    add("--max-new-tokens", type=int, help="longest completion (default: the protocol's)")
    add("--count-from", choices=COUNTED, help="what of a counting answer is its count (default: either)")
    add("--thinking", action="store_true", help="ask to think first")
    add("--engine", default="hf", choices=BATCH, help="transformers or vLLM (default: %(default)s)")
    add("--batch-size", type=int, help=f"prompts at once (default: {BATCH['hf']}, vllm {BATCH['vllm']})")
    add("--dtype", default="auto", help="of the weights, such as bfloat16 (default: the checkpoint's)")
    add("--quantization", choices=("4bit", "8bit"), help="of the language model's weights (hf)")
    add("--max-pixels", type=int, help="largest image that the model sees (hf; default: the checkpoint's)")
    add("--attn", default="auto", help="attention of transformers (hf; default: the best that runs here)")
    add("--tensor-parallel", type=int, default=1, help="GPUs that share one model (vllm)")


def parse_frame(text: str) -> Any:
    """`pixel`, `norm1000`, `resized` (of data), or `WxH` as (W, H); argparse shows what is wrong with any other.

    >>> parse_frame("1x1")
    (1.0, 1.0)
    """
    if text in ("pixel", "norm1000", "resized"):
        return text
    try:
        width, height = (float(side) for side in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not pixel, norm1000 or WxH (or, of data, resized)") from None
    return width, height


def run(arguments: argparse.Namespace) -> int:
    """Ask, keep, score, print; the report and each benchmark's `.results.json` go to `--out`."""
    world, engine, results = _world(arguments), None, []
    for name, path, images in _plan(arguments):
        samples = _load(
            world,
            path, arguments.task, arguments.layout, _split(arguments, path), arguments.limit, arguments.frame,
            images=images, box_format=arguments.box_format,
        )  # fmt: skip
        protocol, task = _protocol(arguments, samples[0].task), samples[0].task
        if arguments.completions is not None:
            rows, made_by = read_completions(arguments.completions), _made_by(arguments.completions)
        else:
            engine = engine or _engine(arguments, world)
            made_by = {"model": arguments.model, "engine": arguments.engine, "dtype": arguments.dtype}
            made_by |= {name: getattr(arguments, name) for name in SEEN if getattr(arguments, name) is not None}
            made_by |= {"task": task, "protocol": protocol.to_dict()}
            rows = _ask(samples, CompletionStore(arguments.out, name, world.rank, world.processes), made_by, engine,
                        arguments.batch_size or BATCH[arguments.engine], world)  # fmt: skip
        if world.rank == 0:
            frame, count_from = arguments.answer_frame, arguments.count_from
            results.append(score_completions(samples, rows, name, made_by, frame, count_from))
    if world.rank == 0:
        text = report(results)
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_atomically(arguments.out / "report.md", text)
        for result in results:
            write_atomically(arguments.out / f"{result.name}.results.json", json.dumps(result.to_dict(), indent=1))
        print(text)
    world.wait()
    return 0


def _plan(arguments: argparse.Namespace) -> list[tuple[str, str, Any]]:
    """(name, data, images) of each benchmark; names are distinct."""
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


def _split(arguments: argparse.Namespace, path: str) -> str | None:
    return "test" if path == "scenes" and arguments.split is None else arguments.split


def _protocol(arguments: argparse.Namespace, task: str) -> Protocol:
    protocol = PROTOCOLS[arguments.protocol][task]
    changes = {"prompt": arguments.prompt, "max_new_tokens": arguments.max_new_tokens}
    changes = {name: value for name, value in changes.items() if value is not None}
    return replace(protocol, **changes, thinking=arguments.thinking)


def _engine(arguments: argparse.Namespace, world: World):
    from pr1kit.evaluation.engines import make_engine

    if arguments.engine == "vllm":
        if world.processes > 1:
            raise ValueError(
                "vLLM spreads over GPUs by itself: run it without accelerate launch, with --tensor-parallel N."
            )
        return make_engine(
            "vllm", arguments.model, dtype=arguments.dtype, tensor_parallel_size=arguments.tensor_parallel
        )
    options = {name: getattr(arguments, name) for name in ("dtype", "attn", *SEEN)}
    return make_engine("hf", arguments.model, device=world.device, **options)


def _ask(samples, store: CompletionStore, made_by: dict, engine, batch_size: int, world: World) -> dict[str, dict]:
    """Completions of all samples by id, those already kept not asked for again."""
    from tqdm.auto import tqdm

    if world.rank == 0:
        store.check_same_run(made_by)
    world.wait()
    kept = store.kept()
    world.wait()  # all have read before any writes
    batches = [samples[start : start + batch_size] for start in range(0, len(samples), batch_size)]
    missing = [batch for batch in batches if any(sample.id not in kept for sample in batch)]
    mine = missing[world.rank :: world.processes]
    protocol = Protocol(**made_by["protocol"])
    for batch in tqdm(mine, desc=store.name, disable=world.rank > 0 or not mine, file=sys.stderr):
        store.append([row for row in engine(batch, protocol) if row["id"] not in kept])
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


def _world(arguments: argparse.Namespace) -> World:
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
    made_by = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    return made_by if {"model", "engine", "dtype", "protocol"} <= made_by.keys() else None
