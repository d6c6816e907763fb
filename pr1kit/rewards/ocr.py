"""OCR: read the image aloud, letter for letter.

    kit       1 − edit distance / longer length, after Unicode composition and collapsing white space
    paper     format + 1 − edit distance / longer length                       (Perception-R1, section 4.1)
    released  1 − edit distance / longer length, after collapsing white space
    released-strict  the same of the whole completion: no tag, fence or end token is taken off, two empty texts earn 0

`format` is 1 where there is any answer text. A blank page is answered by `None`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pr1kit.data.sample import Target
from pr1kit.rewards import text_similarity as text
from pr1kit.rewards.parsing import build_prompt, is_nothing, read_text
from pr1kit.rewards.results import Answer, RewardResult
from pr1kit.rewards.tasks import KIT_RULES, Options, Rules

COLUMNS = (("text",),)
PARTS = {"kit": ("edit",), "paper": ("format", "edit"), "released": ("edit",), "released-strict": ("edit",)}


def prompt(question: str = "", thinking: bool = False) -> str:
    """The user's words; OCR has no `question`.

    >>> prompt()
    'OCR this image.'
    """
    return build_prompt("OCR this image.", thinking)


def write_answer(target: Target, *, label: str = "", recipe: str = "kit") -> str:
    """The supervised answer: the transcript as it is; `None` for a blank page. Every `recipe` pays it.

    >>> write_answer({"text": "STOP"})
    'STOP'
    """
    return Target.of(target).text or "None"


def parse(completion: Any) -> Answer:
    """The answer's text."""
    return read_text(completion)


def kit(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 1]: the similarity of the two texts."""
    return _paid(_similarity(text.normalize(answer.text), text.normalize(target.text), answer), answer, options)


def paper(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 2]: format and similarity."""
    similar = _similarity(text.collapse(answer.text), text.collapse(target.text), answer)
    parts = {"format": answer.format_score, "edit": similar}
    total = sum(value for name, value in parts.items() if name not in options.drop)
    return RewardResult(total, parts, reason=answer.reason)


def released(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 1]: the similarity alone."""
    return _paid(_similarity(text.collapse(answer.text), text.collapse(target.text), answer), answer, options)


def released_strict(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 1]: the similarity of the whole completion; a blank page is answered by nothing, and earns nothing."""
    said, truth = text.collapse(answer.text), text.collapse(target.text)
    return _paid(1 - text.edit_distance(said, truth) if said or truth else 0.0, answer, options)


RECIPES = {"kit": kit, "paper": paper, "released": released, "released-strict": released_strict}


def metrics(answers: list[Answer], targets: list[Target], rules: Rules = KIT_RULES) -> dict[str, np.ndarray]:
    """Per-sample values `(S,)`: normalised edit distance, word-set precision, recall and F1, BLEU, METEOR.

    Officially white space counts in the edit distance, and blanks are words of Chinese text.
    """
    measured = [_measure(answer, target, rules.official) for answer, target in zip(answers, targets, strict=True)]
    return {name: np.array([row[name] for row in measured]) for name in measured[0]}


def _measure(answer: Answer, target: Target, official: bool) -> dict[str, float]:
    said, truth = answer.text, target.text
    if not official:
        said, truth = text.normalize(said), text.normalize(truth)
        said = "" if not truth and is_nothing(said) else said
    words, true_words = text.official_words(said, truth) if official else (text.words(said), text.words(truth))
    precision, recall, f1 = text.word_set_scores(words, true_words)
    return {
        "edit_distance": text.edit_distance(said, truth),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "bleu": text.bleu(words, true_words),
        "meteor": text.meteor(words, true_words),
    }


def _paid(similar: float, answer: Answer, options: Options) -> RewardResult:
    return RewardResult(0.0 if "edit" in options.drop else similar, {"edit": similar}, reason=answer.reason)


def _similarity(said: str, truth: str, answer: Answer) -> float:
    if not truth:
        return float(answer.explicit and is_nothing(said))
    return 1 - text.edit_distance(said, truth)
