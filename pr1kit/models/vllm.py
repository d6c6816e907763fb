"""vLLM beside the kit: whether it is here and fits, and whether it reads the prompts that it is sent.

TRL hands vLLM a prompt whose image tokens are expanded already, with the raw image beside it. Where vLLM expands them
again, the model answers about another prompt than the one that is trained on, and nothing says so but the count.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from importlib import metadata
from importlib.util import find_spec


def vllm_version() -> str:
    """The installed version, with its package's name; "" where there is none."""
    found = metadata.packages_distributions().get("vllm", []) if find_spec("vllm") else []
    return f"{found[0]} {metadata.version(found[0])}" if found else ""


def vllm_problem() -> str:
    """Why vLLM cannot run here, "" where nothing is known to be in the way: it is absent, or pins another torch."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    if not (found := vllm_version()):
        return "vLLM is not installed: pip install 'pr1kit[vllm]' in an environment of its own"
    name = found.split()[0]
    for text in metadata.requires(name) or ():
        wanted = Requirement(text)
        if wanted.name not in ("torch", "transformers") or (wanted.marker and not wanted.marker.evaluate()):
            continue
        here = Version(metadata.version(wanted.name)).public
        pins = ",".join(f"{each.operator}{each.version.split('+')[0]}" for each in wanted.specifier)
        if not Requirement(f"{wanted.name}{pins}").specifier.contains(here, prereleases=True):
            return f"{found} wants {wanted.name}{pins} and {wanted.name} {here} is installed: give vLLM its environment"
    return ""


def require_vllm(quantization: str | None = None) -> None:
    """Raises ValueError, one sentence, where `--engine vllm` cannot run here or with weights of this quantization."""
    if quantization:
        raise ValueError(
            f"--engine vllm cannot take {quantization} weights, which live in transformers' layers: take --engine hf, "
            "or vLLM without --quantization."
        )
    if problem := vllm_problem():
        raise ValueError(f"--engine vllm cannot run: {problem}; or use --engine hf.")


def check_prompts(sent: Sequence[int], read: Sequence[int]) -> None:
    """Compare the number of tokens of each prompt as sent, image tokens expanded, and as vLLM says that it read it.

    Raises ValueError for the first that differs.
    """
    for i, (mine, its) in enumerate(zip(sent, read, strict=True)):
        if mine != its:
            raise ValueError(
                f"vLLM read prompt {i} as {its} tokens where {mine} were sent: it expands the image's tokens another "
                "way, so that it would answer about another prompt; use --engine hf for this model."
            )


def send_prompts_whole(generation, image_token: int) -> None:
    """Have TRL's `VLLMGeneration` answer the prompts that are trained on, and refuse what vLLM read otherwise.

    Beside vLLM in this process (`vllm_mode="colocate"`) TRL 1.16 sends image tokens that are expanded already, of which
    vLLM expands the first again; they are sent one for each image instead. In server mode TRL places the features
    itself. Either way the counts are compared, at every call.
    """
    ask = generation.generate

    @wraps(ask)
    def generate(prompts, *args, **kwargs):
        sent = prompts if generation.mode == "server" else [one_per_image(ids, image_token) for ids in prompts]
        answers = ask(sent, *args, **kwargs)
        check_prompts([len(ids) for ids in prompts], [len(ids) for ids in answers[0]])
        return answers

    generation.generate = generate


def one_per_image(ids: Sequence[int], image_token: int) -> list[int]:
    """The prompt with every run of image tokens as one.

    >>> one_per_image([5, 9, 9, 9, 6, 9, 9], 9)
    [5, 9, 6, 9]
    """
    return [token for i, token in enumerate(ids) if token != image_token or i == 0 or ids[i - 1] != image_token]
