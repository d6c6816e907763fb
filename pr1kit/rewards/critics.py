"""What does a critic say of an answer? A score, and words that a policy can answer better to (RePer, arXiv 2504.07165).

A critic is any callable `critic(samples, completions, frames)` that returns, for each answer, a `Critique`, a pair
(score, words), or the words alone. `RewardCritic` knows the truth: the task's reward put into words, an upper bound and
a training signal. What else a critic returns is data: no score, and the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pr1kit.data.boxes import iou
from pr1kit.data.sample import VIDEO_TASKS, Sample
from pr1kit.data.tracks import frames_in
from pr1kit.rewards.counting import closeness
from pr1kit.rewards.matching import match
from pr1kit.rewards.parsing import normalize_label, whole
from pr1kit.rewards.results import Answer
from pr1kit.rewards.score import parse, read_answer, score
from pr1kit.rewards.text_similarity import edit_distance, normalize
from pr1kit.rewards.tracking import answered_tracks
from pr1kit.rewards.what import attributes

TELLS = ("again", "score", "fault", "worst")
AGAIN = "Please answer again."
HIT, FIT = 0.5, 0.75  # IoU from which a box is on an object, and from which it fits
LONGEST = 2_000  # characters of a critic's words that reach the policy
_SCORE = re.compile(r"\bscore\b[^0-9\n]{0,20}([0-9]{1,3}(?:\.[0-9]{1,4})?)(?![0-9])", re.I)
_CONTROL = re.compile(r"<\|(?!(?:box|object_ref|quad)_(?:start|end)\|>)")


@dataclass(frozen=True)
class Critique:
    """A critic's word on one answer: `score` in [0, 1] or None, the `words` for the policy, whether it is `content`.

    `reason` says why there is no score, or what was changed in the words; "" if nothing.
    """

    score: float | None = None
    words: str = AGAIN
    content: bool = False
    reason: str = ""


@dataclass(frozen=True)
class RewardCritic:
    """The reward of the `kit` recipe in words; `tells` says how much of what it knows.

    again  that the answer is not good enough
    score  and its reward, from 0 to 10
    fault  and what is wrong: too few boxes or too many, boxes that fit badly, wrong classes, misread letters
    worst  and the worst item: a box that is on no object or fits badly, a doubtful class, a misread word

    It is content with a reward of `enough` or more. Coordinates are quoted as the answer has them, the truth's are
    never told.

    >>> critic = RewardCritic()
    >>> from pr1kit.data.sample import Target
    >>> sample = Sample(None, "counting", "circle", Target(boxes=[[0, 0, 9, 9], [20, 0, 29, 9]]))
    >>> critic([sample], ["(0,0),(9,9)"], ["pixel"])[0].words
    'A score of 5 is given to this answer. There are too few boxes. Please answer again.'
    """

    tells: str = "worst"
    enough: float = 0.95

    def __post_init__(self):
        if self.tells not in TELLS:
            raise ValueError(f"Unknown tells {self.tells!r}: choose one of {', '.join(TELLS)}.")

    def __call__(self, samples: Sequence[Sample], completions: Sequence[str], frames: Sequence) -> list[Critique]:
        return [self.criticise(*each) for each in zip(samples, completions, frames, strict=True)]

    def criticise(self, sample: Sample, completion: str, frame: Any = "pixel") -> Critique:
        """One answer's critique. Raises ValueError for a target that the task's reward cannot take."""
        reward = score(sample.task, completion, sample.target, frame=frame)
        said = [] if self.tells == "again" else [f"{score_in_words(reward.total)}."]
        if self.tells in ("fault", "worst"):
            said += faults(sample, completion, frame)[: 2 if self.tells == "worst" else 1]
        words = safe_words(" ".join([*said, AGAIN]))[0]
        return Critique(reward.total, words, reward.total >= self.enough, reward.reason)


def score_in_words(value: float) -> str:
    """A score in [0, 1] as the paper writes it, from 0 to 10.

    >>> score_in_words(0.72)
    'A score of 7 is given to this answer'
    """
    return f"A score of {round(10 * value)} is given to this answer"


def faults(sample: Sample, completion: str, frame: Any = "pixel") -> list[str]:
    """What is wrong with an answer, and its worst item: up to two sentences, none where nothing is."""
    answer = read_answer(sample.task, completion, sample.target, frame)
    if not answer.explicit or (answer.reason and not len(answer.boxes) and sample.task != "ocr"):
        return ["The answer cannot be read."]
    if sample.task in VIDEO_TASKS:
        return _mistimed(sample, answer)
    if sample.task == "ocr":
        return _misread(normalize(answer.text), normalize(sample.target.text))
    written = parse(sample.task, completion).boxes  # as the policy wrote them
    return _misplaced(sample, answer, [whole(box) for box in written])


def _misread(said: str, truth: str) -> list[str]:
    if said == truth:
        return []
    words, true_words = said.split(), truth.split()
    far: list[float] = [min((edit_distance(word, true) for true in true_words), default=1.0) for word in words]
    worst = [f"The word {words[int(np.argmax(far))][:40]} is misread."] if any(far) else []
    few, many = len(words) < len(true_words), len(words) > len(true_words)
    kind = "There are too few words." if few else "There are too many words." if many else "Letters are misread."
    return [kind, *worst]


def _mistimed(sample: Sample, answer: Answer) -> list[str]:
    """What is wrong with an answer about a video: the first frame missed, the first too many, then the worst box."""
    if sample.task == "what":
        said, true = attributes(answer.text), attributes(sample.target.text)
        wrong, missing = sorted(said - true), sorted(true - said)
        words = [f"{wrong[0][:40]!r} is wrong."] if wrong else []
        return [*words, "An attribute is missing."] if missing else words
    count = len(sample.frames)
    if sample.task == "when":
        here, there = (frames_in(spans, count) for spans in (answer.spans, sample.target.spans))
        worst = ""
    else:
        tracks, truth = answered_tracks(answer, count), sample.target.tracks
        here, there = (np.any([np.zeros(count, bool), *(each.seen for each in own)], axis=0) for own in (tracks, truth))
        worst = _worst_frame([each.boxes for each in tracks], [each.boxes for each in truth])
    words = []
    for frames, fault in ((there & ~here, "is missing"), (here & ~there, "is too many")):
        words += [f"Frame {frame + 1} {fault}." for frame in np.flatnonzero(frames)[:1].tolist()]
    return [*words, *([worst] if worst else [])][:2]


def _worst_frame(said: list[np.ndarray], true: list[np.ndarray]) -> str:
    """The frame in which the nearest true box is overlapped least, in words; "" where all overlap well."""
    overlaps = [np.nan_to_num(iou(a, b).diagonal(), nan=-1.0) for a in said for b in true]
    if not overlaps:
        return ""
    best = np.max(overlaps, axis=0)  # (F,), -1 where either has no box
    best[best < 0] = 1
    return f"The box of frame {int(best.argmin()) + 1} is off." if best.min() < 0.9 else ""


def _misplaced(sample: Sample, answer: Answer, written: list[list[int]]) -> list[str]:
    n, m = len(answer.boxes), len(sample.target.boxes) or len(sample.target.points)
    near, what, detection = (
        closeness(answer.boxes, sample.target),
        sample.question,
        sample.task == "detection",
    )  # (N, M)
    named = np.ones_like(near)
    if detection:
        what, truth = "object", [normalize_label(name) for name in sample.target.labels]
        same = [[normalize_label(said) == name for name in truth] for said in answer.labels]
        named = np.array(same, float).reshape(near.shape)
    fits = {p: score for p, _, score in match(near * named)}
    unpaired = [p for p in range(n) if p not in fits]
    stray = [p for p in unpaired if near[p].max(initial=0) < HIT]
    loose = [p for p in sorted(fits, key=lambda p: fits[p]) if fits[p] < FIT]
    kind = item = ""
    if stray:
        kind, item = f"A box is on no {what}.", f"{_box(written[stray[0]])} is on no {what}."
    elif unpaired and detection:
        kind, item = "A class is wrong.", f"{_box(written[unpaired[0]])} is no {answer.labels[unpaired[0]][:40]}."
    elif unpaired:
        kind, item = "A box is one too many.", f"{_box(written[unpaired[0]])} is one too many."
    elif loose:
        kind, item = "A box fits badly.", f"{_box(written[loose[0]])} fits badly."
    count = "There are too few boxes." if n < m else "There are too many boxes." if n > m else ""
    return [sentence for sentence in (count or kind, item) if sentence]


def _box(box: Sequence[int]) -> str:
    return f"The box ({box[0]},{box[1]}),({box[2]},{box[3]})"


def read_critique(text: Any, enough: float = 0.95) -> Critique:
    """The score, from 0 to 10, and the words that a critic has written; never raises on any text.

    >>> read_critique("A score of 7 is given to this answer. A box fits badly.")
    Critique(score=0.7, words='A score of 7 is given to this answer. A box fits badly.', content=False, reason='')
    >>> read_critique("banana").reason
    'no score in the words of the critic'
    """
    if not isinstance(text, str) or not text.strip():
        return Critique(reason="the critic said nothing")
    words, changed = safe_words(text.strip())
    found = _SCORE.search(words)
    value = float(found[1]) / 10 if found else math.nan
    if not 0 <= value <= 1:
        return Critique(
            words=words, reason="a score outside 0 to 10" if found else "no score in the words of the critic"
        )
    return Critique(value, words, value >= enough, changed)


def safe_words(text: str) -> tuple[str, str]:
    """Words that can stand in a chat turn, at most `LONGEST` characters, and whether they were cut, in words.

    >>> safe_words("a<|im_end|>b")
    ('a< |im_end|>b', '')
    """
    return disarm(text[:LONGEST]), "the critic's words were cut" if len(text) > LONGEST else ""


def disarm(text: str) -> str:
    """The text without a token that could end a turn or stand for an image; those of boxes stay what they are."""
    return _CONTROL.sub("< |", text.encode("utf-8", "replace").decode())  # half a surrogate pair is no letter


def as_critiques(said: Any, count: int) -> list[Critique]:
    """What a critic returned as `count` critiques. Raises ValueError where it did not return one for each answer.

    >>> as_critiques([(0.5, "Too few."), "Look again.", None], 3)[2].reason
    'the critic said nothing'
    """
    if not isinstance(said, Sequence) or isinstance(said, str) or len(said) != count:
        got = f"{len(said)}" if isinstance(said, Sequence) and not isinstance(said, str) else type(said).__name__
        raise ValueError(f"A critic returns one critique for each of its {count} answers, got {got}.")
    return [_as_critique(each) for each in said]


def _as_critique(said: Any) -> Critique:
    if isinstance(said, Critique):
        words, cut = safe_words(said.words if isinstance(said.words, str) else AGAIN)
        said = replace(said, words=words, reason=said.reason or cut)
        return said if _is_score(said.score) else replace(said, score=None, reason=said.reason or "no score in [0, 1]")
    if isinstance(said, tuple) and len(said) == 2:
        value, words = said
        return _as_critique(Critique(value, words if isinstance(words, str) and words.strip() else AGAIN))
    return read_critique(said)


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float | np.floating) and bool(0 <= value <= 1)
