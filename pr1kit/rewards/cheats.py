"""What does an answer earn that has not watched the video? Cheats in time, under queries of one frame and of many.

A cheat knows less than the clip shows, and answers as well as it can from that:

    the truth         nothing is withheld
    one frame         one frame, drawn at random: what is seen there is said of all
    the last frame    the same of the last frame in which there is something to see
    a standing box    where the object is on average, for ever (tracking)
    always            every frame (when)
    shuffled frames   every frame is seen, in a wrong order
    the prior         no frame at all: the one answer that earns most on other clips

A query of the proxy kind pays a cheat as it pays the truth; Unhackable Temporal Rewarding (arXiv 2502.12081) asks so
that it does not. Answers of `what` are words about the whole clip: only the prior can be had without it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pr1kit.data.sample import Sample, Target
from pr1kit.data.tracks import Track, frames_in, spans_of
from pr1kit.rewards.score import score_batch
from pr1kit.rewards.tasks import get_task


def cheats_in_time(sample: Sample, rng: np.random.Generator) -> dict[str, str]:
    """The answer of each cheat to one sample, but for the prior, and the truth.

    >>> track = Track([[0, 0, 4, 4], [4, 0, 8, 4]])
    >>> sample = Sample(None, "tracking", "it", Target(tracks=[track]), frames=("a", "b"), times=(0, 1))
    >>> cheats_in_time(sample, np.random.default_rng(0))["a standing box"]
    'Frame 1:[2,0,6,4];Frame 2:[2,0,6,4]'
    """
    write, target = get_task(sample.task).write_answer, sample.target
    answers = {"the truth": write(target)}
    if sample.task == "tracking":
        answers |= {name: write(Target(tracks=tuple(tracks))) for name, tracks in _still(target.tracks, rng).items()}
    elif sample.task == "when":
        holds = frames_in(target.spans, len(sample.frames))
        views = {"one frame": np.full_like(holds, rng.choice(holds)), "the last frame": np.full_like(holds, holds[-1])}
        views |= {"always": np.ones_like(holds), "shuffled frames": rng.permutation(holds)}
        answers |= {name: write(Target(spans=spans_of(view))) for name, view in views.items()}
    return answers


def _still(tracks: Sequence[Track], rng: np.random.Generator) -> dict[str, list[Track]]:
    """Tracks that stand where they were seen in one frame, in the last one, or on average, and shuffled ones."""
    count = len(tracks[0])
    order = rng.permutation(count)
    found: dict[str, list[Track]] = {"shuffled frames": [Track(track.boxes[order], track.label) for track in tracks]}
    for name in ("one frame", "the last frame", "a standing box"):
        found[name] = []
        for track in tracks:
            seen = track.boxes[track.seen]
            if len(seen):
                box = {"one frame": seen[rng.integers(len(seen))], "the last frame": seen[-1]}.get(name, seen.mean(0))
                found[name].append(Track(np.tile(box, (count, 1)), track.label))
    return found


def prior_answer(samples: Sequence[Sample]) -> str:
    """The one answer, of those that are right for a sample, that earns most on all of them. Raises ValueError for none.

    The samples, of one task, are those to learn the prior from, not those to cheat on.
    """
    if not samples:
        raise ValueError("There is no sample to take the prior from.")
    task, targets = samples[0].task, [sample.target for sample in samples]
    candidates = list(dict.fromkeys(get_task(task).write_answer(target) for target in targets))
    paid = [sum(result.total for result in score_batch(task, [text] * len(targets), targets)) for text in candidates]
    return candidates[int(np.argmax(paid))]


def what_cheats_earn(samples: Sequence[Sample], others: Sequence[Sample], seed: int = 0) -> dict[str, np.ndarray]:
    """The `kit` reward `(S,)` of each cheat on `samples` of one task; the prior is learned from `others`.

    >>> from pr1kit.data.clips import make_clips
    >>> proxy, many = (
    ...     what_cheats_earn(make_clips("tracking", 8, kinds=kinds), make_clips("tracking", 8, 1, kinds=kinds))
    ...     for kinds in ("proxy", ("look", "place"))
    ... )
    >>> bool(proxy["one frame"].min() == 1 and many["one frame"].max() < 1)
    True
    """
    rng, prior = np.random.default_rng(seed), prior_answer(others)
    answers = [{**cheats_in_time(sample, rng), "the prior": prior} for sample in samples]
    targets = [sample.target for sample in samples]
    return {
        name: np.array([r.total for r in score_batch(samples[0].task, [each[name] for each in answers], targets)])
        for name in answers[0]
    }
