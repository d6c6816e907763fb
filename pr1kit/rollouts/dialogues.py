"""Dialogues to learn reflection from: a policy's own answers, worst first, best last (RePer, arXiv 2504.07165).

Eight answers to each sample at temperatures 0, 0.2, …, 1.4 are scored by rule. A sample is kept where its best answer
is good and far better than its worst. Its dialogue has one to three turns and ends with the best answer; one of several
turns begins with the worst. Between turns stands the request for a better answer, or what a critic says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pr1kit.data.sample import Sample
from pr1kit.models.policy import Policy
from pr1kit.rewards.critics import AGAIN, as_critiques
from pr1kit.rewards.score import score_batch
from pr1kit.rollouts.generate import generate_completions
from pr1kit.rollouts.reflection import Dialogue, Dialogues, Turn

TEMPERATURES = tuple(round(0.2 * i, 1) for i in range(8))


def make_dialogues(
    policy: Policy,
    samples: Sequence[Sample],
    temperatures: Sequence[float] = TEMPERATURES,
    *,
    turns: Sequence[int] = (1, 2, 3),
    least_best: float = 0.55,
    least_gap: float = 0.2,
    critic: Callable | None = None,
    seed: int = 0,
    progress: str = "",
    **generation,
) -> Dialogues:
    """One dialogue for each sample whose best reward exceeds `least_best`, and its worst by more than `least_gap`.

    Each has one of `turns` turns, drawn with the seed (fewer where there are not so many different rewards); `score`
    of a turn is its reward of the `kit` recipe, in [0, 1]. `critic` says the words between turns (`rewards.critics`),
    by default a plain request. `generation` goes to `generate_completions`. The result's `statistics` count what was
    kept and why the rest was not; where nothing was, it is an empty list. Raises ValueError without a temperature or a
    number of turns.
    """
    if not temperatures or not turns or min(turns) < 1:
        raise ValueError(f"Dialogues need temperatures and turns >= 1, got {list(temperatures)} and {list(turns)}.")
    columns = [
        generate_completions(
            policy,
            samples,
            temperature=temperature,
            seed=seed + i,
            keep_special_tokens=True,
            progress=progress and f"{progress}, temperature {temperature:g}",
            **generation,
        )
        for i, temperature in enumerate(temperatures)
    ]
    dialogues, low_best, low_gap = [], 0, 0
    for i, sample in enumerate(samples):
        completions = [column[i][0] for column in columns]
        frame = policy.frame(sample.load_image().size)
        targets = [sample.target] * len(completions)
        rewards = [r.total for r in score_batch(sample.task, completions, targets, frame=frame)]
        if max(rewards) <= least_best:
            low_best += 1
        elif max(rewards) - min(rewards) <= least_gap:
            low_gap += 1
        else:
            number = int(np.random.default_rng([seed, i]).choice(list(turns)))
            chosen = [Turn(completions[k], rewards[k]) for k in worst_to_best(rewards, number)]
            dialogues.append(Dialogue(sample, _with_words(sample, chosen, frame, critic), frame))
    counts = {number: sum(len(d.turns) == number for d in dialogues) for number in sorted(set(turns))}
    ends = np.array([(d.turns[0].score, d.turns[-1].score) for d in dialogues if len(d.turns) > 1], float).reshape(
        -1, 2
    )
    statistics = {
        "samples": len(samples),
        "kept": len(dialogues),
        f"best not above {least_best:g}": low_best,
        f"gap not above {least_gap:g}": low_gap,
        **{f"with {number} turn{'s' * (number > 1)}": count for number, count in counts.items()},
        "mean best": _mean([d.turns[-1].score for d in dialogues]),
        "mean first of several": _mean(ends[:, 0]),
    }
    return Dialogues(dialogues, statistics)


def worst_to_best(rewards: Sequence[float], number: int) -> list[int]:
    """Up to `number` of these answers by rising reward: the best last, the worst first where there are several.

    >>> worst_to_best([0.5, 0.1, 0.9, 0.6], 3), worst_to_best([0.5, 0.1, 0.9], 1), worst_to_best([0.2, 0.2], 3)
    ([1, 3, 2], [2], [0])
    """
    best, worst = int(np.argmax(rewards)), int(np.argmin(rewards))
    if number < 2 or rewards[best] == rewards[worst]:
        return [best]
    between: dict[float, int] = {}  # one answer for each reward
    for k in sorted(range(len(rewards)), key=lambda k: rewards[k]):
        if rewards[worst] < rewards[k] < rewards[best]:
            between.setdefault(rewards[k], k)
    middle, count = list(between.values()), min(number - 2, len(between))
    places = [(2 * i + 1) * len(middle) // (2 * count) for i in range(count)]  # spread evenly by rank
    return [worst, *(middle[place] for place in places), best]


def _with_words(sample: Sample, turns: Sequence[Turn], frame, critic: Callable | None) -> tuple[Turn, ...]:
    """The turns with what is said after each but the last."""
    words, count = [AGAIN] * (len(turns) - 1), len(turns) - 1
    if critic is not None and count:
        said = critic([sample] * count, [turn.completion for turn in turns[:-1]], [frame] * count)
        words = [critique.words for critique in as_critiques(said, count)]
    return tuple(Turn(turn.completion, turn.score, said) for turn, said in zip(turns, [*words, ""], strict=True))


def _mean(values) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None
