"""`python -m pr1kit doctor`: what this machine has, what of it works, and which profile it is for, on one page."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from importlib.util import find_spec

SHOWN = ("torch", "torchvision", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "pillow")
KERNELS = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")


def examine(device: str | None = None) -> dict:
    """Everything on the page, as JSON takes it. Raises ValueError for a device that is not there."""
    from pr1kit.models.backends import choose_device
    from pr1kit.models.vllm import vllm_problem, vllm_version

    chosen = choose_device(device)
    found = {
        "kit": _version("pr1kit"),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": versions(),
        "device": device_facts(chosen),
        "attention": attention_kernels(chosen),
        "bitsandbytes": four_bit(chosen),
        "vllm": vllm_problem() or f"{vllm_version()} fits",
        "shared_prefix": _tried(lambda: self_test(*probe_model(chosen))),
        "advice": advice(chosen),
    }
    outside = [f"{name} {row['here'] or 'is missing'}, wanted {row['window']}"
               for name, row in found["versions"].items() if not row["fits"]]  # fmt: skip
    test = found["shared_prefix"]
    broken = [] if isinstance(test, dict) and test["equal"] else [f"shared prefix: {test}"]
    return found | {"problems": outside + broken}


def versions() -> dict[str, dict]:
    """For each package that matters the version here, the window that the kit was tested with, and whether it fits."""
    from packaging.requirements import Requirement

    try:
        wanted = {each.name: each.specifier for each in map(Requirement, importlib.metadata.requires("pr1kit") or ())
                  if each.marker is None}  # fmt: skip
    except importlib.metadata.PackageNotFoundError:  # imported from a folder that was never installed
        wanted = {}
    rows = {}
    for name in SHOWN:
        here, window = _version(name), wanted.get(name)
        fits = bool(here) and (window is None or window.contains(here.split("+")[0], prereleases=True))
        rows[name] = {"here": here, "window": str(window or "unknown: the kit is not installed"), "fits": fits}
    return rows


def device_facts(device) -> dict:
    """Name, memory and precision of the device."""
    import torch

    from pr1kit.models.backends import half_precision

    if device.type != "cuda":
        return {"name": f"{device}, {torch.get_num_threads()} threads", "memory_gib": None, "precision": "float32"}
    card = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "name": f"{card.name}, compute capability {card.major}.{card.minor}, CUDA {torch.version.cuda}",
        "memory_gib": round(total / 2**30, 1),
        "free_gib": round(free / 2**30, 1),
        "precision": str(half_precision(device)).removeprefix("torch."),
    }


def attention_kernels(device) -> dict[str, str]:
    """Which attention kernels run here, each tried on a small tensor: "works", or why not."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    from pr1kit.models.backends import choose_attention, half_precision

    dtype = half_precision(device) if device.type == "cuda" else torch.float32
    q = torch.zeros(1, 2, 16, 64, device=device, dtype=dtype)

    def attend(kernel):
        with sdpa_kernel(getattr(SDPBackend, kernel)):
            scaled_dot_product_attention(q, q, q)
        return "works"

    tried = {f"SDPA {name.lower()}": _tried(lambda name=name: attend(name)) for name in KERNELS}
    tried = {name: "not on this device" if "No viable backend" in state else state for name, state in tried.items()}
    taken, why = choose_attention("auto", device, dtype)
    return tried | {"chosen": f"{taken} ({why})" if why else taken}


def four_bit(device) -> str:
    """Whether bitsandbytes multiplies with 4-bit weights on this device."""
    import torch

    if find_spec("bitsandbytes") is None:
        return "not installed: pip install 'pr1kit[gpu]' for 4-bit weights and 8-bit optimizers"

    def multiply():
        from bitsandbytes.nn import Linear4bit

        layer = Linear4bit(64, 64, compute_dtype=torch.float32, quant_type="nf4").to(device)
        layer(torch.zeros(1, 64, device=device))
        return f"{_version('bitsandbytes')} works"

    return _tried(multiply)


def probe_model(device):
    """`(model, name)` for the self-test: on a GPU random weights in the shape of the model that its memory suggests,
    with adapters; on the CPU the tiny policy."""
    import torch

    from pr1kit.models.adapters import LoRASettings, add_lora
    from pr1kit.models.backends import half_precision
    from pr1kit.models.policy import load_policy
    from pr1kit.models.profiles import get_profile
    from pr1kit.models.published import random_model

    if device.type != "cuda":
        return load_policy("tiny", device=device, verbose=False).model, "the tiny policy"
    name = "Qwen/Qwen3-VL-2B-Instruct" if get_profile("auto")[0] == "16GB" else "Qwen/Qwen3-VL-4B-Instruct"
    torch.manual_seed(0)
    return add_lora(random_model(name, device, half_precision(device)), LoRASettings()), f"{name}, random weights"


def self_test(model, name: str, *, side: int = 0, group: int = 8, answer: int = 0) -> dict:
    """The shared prefix on this device against a row for each answer: equality, speed and peak memory of one update.

    One prompt with an image of `side` × `side` visual tokens and `group` answers of `answer` tokens (0: what suits the
    device), forward and backward. `difference` is the mean over tokens between log-probabilities of both ways, `noise`
    that of the second way with one row at a time: what rounding alone makes.
    """
    import torch

    from pr1kit.models.published import synthetic_prompt
    from pr1kit.training.shared_prefix.logprobs import shared_logprobs

    base = model.get_base_model() if hasattr(model, "peft_config") else model
    device, cuda = base.device, base.device.type == "cuda"
    side, answer = side or (32 if cuda else 8), answer or (64 if cuda else 24)
    prompt = synthetic_prompt(base.config, side, device)
    generator = torch.Generator().manual_seed(0)
    answers = torch.randint(10, 500, (group, answer), generator=generator).to(device)

    def per_row(count: int = group):
        values = []
        for start in range(0, group, count):
            rows = answers[start : start + count]
            fields = {key: value.repeat_interleave(len(rows), 0) if key not in ("pixel_values", "image_grid_thw")
                      else value.repeat(len(rows), 1) for key, value in prompt.items()}  # fmt: skip
            fields["input_ids"] = torch.cat([fields["input_ids"], rows], 1)
            fields["attention_mask"] = torch.ones_like(fields["input_ids"])
            fields["mm_token_type_ids"] = torch.nn.functional.pad(fields["mm_token_type_ids"], (0, answer))
            logits = model(**fields, logits_to_keep=answer + 1, use_cache=False).logits[:, :-1].float()
            values.append(torch.log_softmax(logits, -1).gather(-1, rows[..., None])[..., 0])
        return torch.cat(values)

    ways = {"shared": lambda: shared_logprobs(model, prompt, list(answers)), "per_row": per_row}
    with torch.no_grad():
        shared, stock, alone = ways["shared"](), per_row(), per_row(1)
    difference, noise = ((each - stock).abs().mean().item() for each in (shared, alone))
    found = {name: _measured(model, way, cuda) for name, way in ways.items()}
    exact = next(base.parameters()).dtype == torch.float32
    return {
        "model": name,
        "dtype": str(base.dtype).removeprefix("torch."),
        "prompt_tokens": prompt["input_ids"].shape[1],
        "answers": f"{group} of {answer} tokens",
        "equal": bool(difference <= (1e-4 if exact else 1e-3 + 3 * noise)),
        "difference": float(f"{difference:.3g}"),
        "noise": float(f"{noise:.3g}"),
        **{f"{way}_{what}": value for way, row in found.items() for what, value in row.items()},
        "faster": round(found["per_row"]["seconds"] / found["shared"]["seconds"], 2),
    }


def advice(device) -> str:
    """Which profile and which model to begin with."""
    from pr1kit.models.profiles import PROFILES, get_profile

    if device.type != "cuda":
        return "no GPU: the tiny policy (python -m pr1kit demo); a real model wants a GPU of 16 GB or more"
    name, _ = get_profile("auto")
    return f"python -m pr1kit train --policy {PROFILES[name].model} --profile {name} --config grounding --data …"


def page(found: dict) -> str:
    """The facts for reading."""
    device, test = found["device"], found["shared_prefix"]
    lines = [f"pr1kit {found['kit'] or '(not installed)'} on {found['system']}", "", "Versions (tested window)"]
    lines += [f"  {name:14}{row['here'] or '-':16}{row['window']}{'' if row['fits'] else '   OUTSIDE'}"
              for name, row in found["versions"].items()]  # fmt: skip
    memory = f", {device['free_gib']} of {device['memory_gib']} GiB free" if device["memory_gib"] else ""
    lines += ["", f"Device          {device['name']}{memory}; trains in {device['precision']}"]
    lines += [f"  {name:28}{state}" for name, state in found["attention"].items()]
    lines += [f"bitsandbytes    {found['bitsandbytes']}", f"vLLM            {found['vllm']}", ""]
    if isinstance(test, dict):
        peaks = f"; peak {test['per_row_peak_gib']} and {test['shared_peak_gib']} GiB" if device["memory_gib"] else ""
        lines += [
            f"Shared prefix   {'equal' if test['equal'] else 'NOT EQUAL'} on {test['model']}, {test['dtype']}: mean "
            f"difference {test['difference']} (rounding alone: {test['noise']})",
            f"                {test['prompt_tokens']} prompt tokens, {test['answers']}: "
            f"{test['per_row_seconds']} s a row each, {test['shared_seconds']} s shared, "
            f"{test['faster']} times as fast{peaks}",
        ]
    else:
        lines += [f"Shared prefix   {test}"]
    return "\n".join(
        [*lines, "", f"Begin with      {found['advice']}", *(f"PROBLEM: {each}" for each in found["problems"])]
    )


def _measured(model, way, cuda: bool, runs: int = 3) -> dict:
    """The least seconds of forward and backward, and the peak memory in GiB on a GPU; the first run warms up."""
    import torch

    spent = []
    for _ in range(runs + 1):
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        way().sum().backward()
        if cuda:
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - started)
        model.zero_grad()
    peak = round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None
    return {"seconds": float(f"{min(spent[1:]):.3g}"), "peak_gib": peak}


def _tried(work):
    """What `work` returns, or the first line of what it raises."""
    try:
        return work()
    except Exception as error:
        return f"fails: {(str(error).strip().splitlines() or [type(error).__name__])[0][:160]}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
