"""Does an answer need the video? Temporal perplexity (UTR, arXiv 2502.12081): all frames against one of them.

    TPL = log π(truth | all frames) − log π(truth | one frame)

High where the true answer is likelier to a policy that watches than to one that sees a frame; about 0 where one frame
tells it. The paper draws the frame at random and gives its chart as loss with one frame − loss with 32; it does not say
how the loss is averaged, a training loss is over all tokens. We take the mean over samples of the mean over an answer's
tokens, so that long answers count no more than short ones, and show the paper's reading and the sum over an answer's
tokens beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path

import numpy as np

from pr1kit.data.clip_questions import KINDS, PROXY
from pr1kit.data.clips import query_kind
from pr1kit.data.sample import Sample
from pr1kit.evaluation.intervals import by_group, mean_interval, numbered, resampling_weights
from pr1kit.models.answers import answer_ids, supervised_answer
from pr1kit.models.policy import Policy
from pr1kit.rollouts.likelihood import answer_logprobs

RESAMPLES = 2000
COLUMNS = ("samples", "per token", "95 % interval", "per answer", "over all tokens (paper)")


@dataclass(frozen=True, eq=False, repr=False)
class TemporalPerplexity:
    """Log-likelihoods (nats) of S true answers; arrays `(S,)` in the order of the samples.

    `all_frames` and `one_frame`: log-likelihood of the answer, summed over its `tokens`; `frame`: which frame was
    given; `kinds`: what each sample asks for; `groups`: the number, from 0, of the clip that it asks about, None where
    each asks about its own.
    """

    all_frames: np.ndarray
    one_frame: np.ndarray
    tokens: np.ndarray
    frame: np.ndarray
    kinds: tuple[str, ...]
    groups: np.ndarray | None = None

    @cached_property
    def per_answer(self) -> np.ndarray:
        """Of each sample, summed over its answer's tokens."""
        return self.all_frames - self.one_frame

    @cached_property
    def per_token(self) -> np.ndarray:
        """Of each sample, the mean over its answer's tokens."""
        return self.per_answer / self.tokens

    @property
    def mean(self) -> float:
        """The mean over samples of `per_token`."""
        return float(self.per_token.mean())

    @property
    def paper(self) -> float:
        """Loss with one frame − loss with all, each the mean over all tokens of all answers."""
        return float(self.per_answer.sum() / self.tokens.sum())

    def interval(self, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """The bootstrap interval of `mean` over clips, with all that is asked about each; nan for fewer than two."""
        group = numbered(None, len(self.tokens)) if self.groups is None else self.groups
        weights = resampling_weights(group, RESAMPLES, seed)  # (B, S)
        return mean_interval(by_group(self.per_token, group), weights @ self.per_token / weights.sum(1), level)

    def of_kind(self, kind: str) -> TemporalPerplexity:
        """The samples that ask for `kind` alone. Raises ValueError where none does."""
        chosen = np.array([each == kind for each in self.kinds])
        if not chosen.any():
            raise ValueError(f"No sample is of the kind {kind!r}: there are {', '.join(sorted(set(self.kinds)))}.")
        arrays = {name: getattr(self, name)[chosen] for name in ("all_frames", "one_frame", "tokens", "frame")}
        groups = None if self.groups is None else numbered(self.groups[chosen].tolist(), int(chosen.sum()))
        return TemporalPerplexity(**arrays, kinds=(kind,) * int(chosen.sum()), groups=groups)

    def rows(self) -> dict[str, tuple]:
        """For all samples, then for each kind where there are several, the values of `COLUMNS`."""
        kinds = sorted(set(self.kinds))
        parts = {"all": self, **{kind: self.of_kind(kind) for kind in kinds if len(kinds) > 1}}
        return {
            name: (len(part.tokens), part.mean, part.interval(), float(part.per_answer.mean()), part.paper)
            for name, part in parts.items()
        }

    def __repr__(self) -> str:
        low, high = self.interval()
        size = f"{len(self.tokens)} samples"
        if self.groups is not None and (clips := int(self.groups.max()) + 1) < len(self.tokens):
            size += f" of {clips} clips"
        return f"TemporalPerplexity({self.mean:.3f} [{low:.3f}, {high:.3f}] nats a token, {size})"

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><td>{escape(name)}</td><td>{count}</td><td>{mean:.3f}</td><td>[{low:.3f}, {high:.3f}]</td>"
            f"<td>{answer:.2f}</td><td>{paper:.3f}</td></tr>"
            for name, (count, mean, (low, high), answer, paper) in self.rows().items()
        )
        head = "".join(f"<th>{column}</th>" for column in ("temporal perplexity, nats", *COLUMNS))
        return f"<table><tr>{head}</tr>{body}</table>"


def temporal_perplexity(
    policy: Policy,
    samples: Sequence[Sample],
    frames: str | Sequence[int] = "random",
    *,
    shown: str = "still",
    seed: int = 0,
    kind: Callable[[Sample], str] | None = None,
    answers: Sequence[str] | None = None,
    groups: Sequence[Hashable] | None = None,
    recipe: str = "kit",
    batch_size: int | None = None,
    progress: str = "",
) -> TemporalPerplexity:
    """How much likelier the true answer to each video is to `policy` given all frames than given one of them.

    `frames`: which one, "random" (from `seed` and the sample's place), "key" (the middle one), or an index for each
    sample. `shown`: as a "still", the frame in every frame's place, so that length, positions and times stay and only
    what is seen differs; or as an "image". `kind` names what a sample asks for, by default its task and a
    clip's kind of query. `answers` replace the truth as supervision writes it under `recipe`. `groups` says of each
    sample which it belongs with, by default those of the same frames: intervals are over groups. Batched, equal to one
    by one up to rounding. Raises ValueError for no samples, a sample that is no video, an index that its video lacks,
    and other names.

    >>> temporal_perplexity(policy, clips).of_kind("tracking, look").interval()  # doctest: +SKIP
    """
    if not samples:
        raise ValueError("Temporal perplexity needs at least one sample.")
    if still := next((sample for sample in samples if not sample.is_video), None):
        raise ValueError(f"Temporal perplexity is of videos, sample {still.id!r} is an image.")
    if shown not in ("still", "image"):
        raise ValueError(f"A frame is shown as a 'still' or as an 'image', got {shown!r}.")
    chosen = _choose(samples, frames, seed)
    group = numbered([_clip(sample) for sample in samples] if groups is None else groups, len(samples))
    texts = answers or [supervised_answer(sample, policy, recipe=recipe) for sample in samples]
    tokens = [answer_ids(policy, text) for text in texts]
    alone = [_alone(sample, place, shown) for sample, place in zip(samples, chosen, strict=True)]
    both = answer_logprobs(policy, [*samples, *alone], tokens * 2, batch_size=batch_size, progress=progress)
    sums = np.array([row.sum(dtype=float) for row in both])
    return TemporalPerplexity(
        all_frames=sums[: len(samples)],
        one_frame=sums[len(samples) :],
        tokens=np.array([len(each) for each in tokens]),
        frame=np.array(chosen),
        kinds=tuple((kind or _kind)(sample) for sample in samples),
        groups=group,
    )


def _kind(sample: Sample) -> str:
    kind = query_kind(sample)
    return f"{sample.task}, {kind}" if kind in (*KINDS.get(sample.task, ()), PROXY) else sample.task


def _clip(sample: Sample) -> Hashable:
    """The same for samples about the same frames."""
    return tuple(frame if isinstance(frame, str | Path) else id(frame) for frame in sample.frames)


def _choose(samples: Sequence[Sample], frames: str | Sequence[int], seed: int) -> list[int]:
    counts = [len(sample.frames) for sample in samples]
    if frames == "random":
        return [int(np.random.default_rng([seed, place]).integers(count)) for place, count in enumerate(counts)]
    if frames == "key":
        return [count // 2 for count in counts]
    if isinstance(frames, str):
        raise ValueError(f"The frame is 'random', 'key' or an index for each sample, got {frames!r}.")
    if len(frames) != len(samples):
        raise ValueError(f"{len(samples)} samples need as many frame indices, got {len(frames)}.")
    for sample, place, count in zip(samples, frames, counts, strict=True):
        if not 0 <= place < count:
            raise ValueError(f"Sample {sample.id!r} has {count} frames, counted from 0, and no frame {place}.")
    return list(frames)


def _alone(sample: Sample, place: int, shown: str) -> Sample:
    frame = sample.frames[place]
    if shown == "image":
        return replace(sample, image=frame, frames=(), times=())
    return replace(sample, image=frame, frames=(frame,) * len(sample.frames))
