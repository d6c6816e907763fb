"""Device, precision, attention, quantization: what was asked for, what is there, and one sentence where they differ."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from transformers.utils import logging as hf_logging

ATTENTIONS = ("auto", "sdpa", "flash_attention_2", "eager", "flex_attention")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def choose_device(device: str | torch.device | None) -> torch.device:
    """This process's GPU where there is one, else the CPU; or what was asked for. Raises ValueError without CUDA."""
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(f'Unknown device {device!r}: "cpu", "cuda" or "cuda:1", for example.') from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"The device {str(device)!r} was asked for and there is no CUDA GPU here: "
            'on Colab choose a GPU runtime, or say device="cpu".'
        )
    return device


def choose_dtype(dtype: str | torch.dtype, config, device: torch.device) -> torch.dtype:
    """The weights' type: as asked, or ("auto") as published, float16 on GPUs that do not compute in bfloat16."""
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise ValueError(f"Unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}.")
        dtype = (getattr(config, "dtype", None) or torch.float32) if dtype == "auto" else dtype
    chosen: torch.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype  # some configurations have names
    return half_precision(device) if chosen == torch.bfloat16 else chosen


def half_precision(device: torch.device) -> torch.dtype:
    """bfloat16, or float16 on a GPU that has none (before Ampere, such as Colab's T4)."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def choose_attention(attn: str, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """`(implementation, why)`: for "auto" FlashAttention-2 where it is installed and can run, else SDPA.

    Raises ValueError where FlashAttention-2 is asked for and cannot run.
    """
    if attn not in ATTENTIONS:
        raise ValueError(f"Unknown attention {attn!r}: choose one of {', '.join(ATTENTIONS)}.")
    obstacle = ""
    if device.type != "cuda":
        obstacle = f"FlashAttention-2 needs a GPU, not {device.type}"
    elif find_spec("flash_attn") is None:
        obstacle = "flash-attn is not installed"
    elif torch.cuda.get_device_capability(device) < (8, 0):
        obstacle = "FlashAttention-2 needs an Ampere GPU or newer"
    elif dtype == torch.float32:
        obstacle = "FlashAttention-2 takes no float32 weights"
    if attn == "auto":
        return ("sdpa", obstacle) if obstacle else ("flash_attention_2", "")
    if attn == "flash_attention_2" and obstacle:
        raise ValueError(f'attn="flash_attention_2" cannot run: {obstacle}; attn="sdpa" runs everywhere.')
    return attn, ""


def quantization_config(quantization: str | None, dtype: torch.dtype):
    """bitsandbytes' configuration: "4bit" (NF4, scales quantized again), "8bit", or None; language layers only.

    The vision tower keeps its precision: it is a sixth of the weights, and small boxes hang on it.
    """
    if quantization is None:
        return None
    if quantization not in ("4bit", "8bit"):
        raise ValueError(f'Unknown quantization {quantization!r}: choose "4bit", "8bit" or None.')
    if find_spec("bitsandbytes") is None:
        raise ValueError(f"quantization={quantization!r} needs bitsandbytes: pip install bitsandbytes.")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=quantization == "4bit",
        load_in_8bit=quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["model.visual", "lm_head"],
    )


def check_trainable(model: torch.nn.Module) -> None:
    """Raises ValueError where the weights that `model` would train cannot take an optimizer's small steps."""
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    quantized = getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)
    if quantized and not hasattr(model, "peft_config"):
        raise ValueError("4-bit and 8-bit weights cannot be trained themselves: load the policy with lora=True.")
    if torch.float16 in kinds:
        raise ValueError(
            "float16 weights cannot be trained themselves, since their gradients underflow and cannot be unscaled: "
            'load the policy with lora=True, or with dtype="float32" where the memory allows (GPUs before Ampere, such '
            "as a T4, have no bfloat16)."
        )


@contextmanager
def time_limit(seconds: float, sentence: str) -> Iterator[None]:
    """Raises ValueError with `sentence` after `seconds`; in the main thread only, where signals can interrupt."""

    def stop(number, frame):
        raise ValueError(sentence)

    try:
        before = signal.signal(signal.SIGALRM, stop)
    except (ValueError, AttributeError):  # another thread, or Windows
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def explain_hub_error(name: str, error: OSError) -> ValueError:
    """What went wrong when `name` was fetched from the Hugging Face hub, and what to do, as one sentence."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    if any(isinstance(each, GatedRepoError) for each in chain):
        return ValueError(
            f"{name!r} is gated: accept its terms at https://huggingface.co/{name}, then log in with `hf auth login`."
        )
    if any(isinstance(each, RepositoryNotFoundError) for each in chain):
        return ValueError(
            f"The hub has no {name!r}: check the spelling, or log in with `hf auth login` if it is private."
        )
    return ValueError(
        f"{name!r} could not be fetched from the hub and is not in the cache: check the connection, "
        "or give the folder of a downloaded copy."
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No bars for each shard read or written, and no warning of names that TRL 1.16 uses and transformers 5.23 left, or
    of file systems on which checkpoints are ordered by their numbers (which is meant)."""
    bars, checkpoints = hf_logging.is_progress_bar_enabled(), hf_logging.get_logger("transformers.trainer_utils")
    hf_logging.disable_progress_bar()
    level = checkpoints.level
    checkpoints.setLevel(hf_logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing(_\w+)?` is deprecated", FutureWarning)
            yield
    finally:
        checkpoints.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()
