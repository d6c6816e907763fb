"""What: which object does it, and what does an object do? The answer is attributes, separated by commas.

    kit   attributes both said and true / max(attributes said, attributes true); one said twice counts once

After Unhackable Temporal Rewarding (arXiv 2502.12081), which asks from tracks to attributes as well as back; its
authors released no reward, so this one is ours alone. Attributes compare as labels do; an article before one is no part
of it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from pr1kit.data.sample import Target
from pr1kit.rewards.matching import aggregate
from pr1kit.rewards.parsing import LONGEST, build_prompt, is_nothing, normalize_label, read_text
from pr1kit.rewards.results import Answer, RewardResult
from pr1kit.rewards.tasks import KIT_RULES, Options, Rules

COLUMNS = (("text",),)
PARTS = {"kit": ("format", "attributes")}
_SEPARATOR = re.compile(r"[,;\n]")


def prompt(question: str, thinking: bool = False) -> str:
    """The user's words for what `question` asks.

    >>> prompt("Which object changes colour")
    'Which object changes colour? Answer with attributes separated by commas.'
    """
    return build_prompt(f"{question}? Answer with attributes separated by commas.", thinking)


def write_answer(target: Target, *, label: str = "", recipe: str = "kit") -> str:
    """The supervised answer: the attributes as they are; or `None`.

    >>> write_answer({"text": "red, circle"})
    'red, circle'
    """
    return Target.of(target).text or "None"


def parse(completion: Any) -> Answer:
    """The answer's text."""
    answer = read_text(completion)
    return replace(answer, text=answer.text[:LONGEST])


def kit(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 1]: the share of attributes that match."""
    said, true = attributes(answer.text), attributes(target.text)
    if not true:
        right = float(answer.explicit and is_nothing(answer.text))
        return RewardResult(right, {"format": answer.format_score}, reason=answer.reason)
    share = aggregate(len(said & true), len(said), len(true), options.aggregate)
    total = answer.format_score if "attributes" in options.drop else share
    return RewardResult(total, {"format": answer.format_score, "attributes": share}, reason=answer.reason)


def attributes(text: str) -> set[str]:
    """The attributes that a text names, as they are compared.

    >>> sorted(attributes("The red,  Circle."))
    ['circle', 'red']
    """
    names = (normalize_label(part).strip(" .!\"'") for part in _SEPARATOR.split(text))
    return {name.removeprefix("a ").removeprefix("an ").removeprefix("the ") for name in names if name}


RECIPES = {"kit": kit}


def metrics(answers: list[Answer], targets: list[Target], rules: Rules = KIT_RULES) -> dict[str, np.ndarray]:
    """Per-sample values `(S,)`: the share of attributes that match, and whether all do and none is too many."""
    total = np.array([kit(answer, target, Options()).total for answer, target in zip(answers, targets, strict=True)])
    return {"attributes": total, "exact": (total == 1).astype(float)}
