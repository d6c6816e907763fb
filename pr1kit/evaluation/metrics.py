"""How good are the answers? The metrics of a task over a dataset, each with a bootstrap interval.

Answers go through the parser that the rewards use. Intervals resample images (not answers: several answers to one
image are no independent evidence), percentile bootstrap, seeded.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pr1kit.data.sample import Target
from pr1kit.evaluation.average_precision import DetectionProtocol, answers_table, coco_detections, coco_table
from pr1kit.rewards.score import check_target, completion_text, frames_of, read_answer
from pr1kit.rewards.tasks import get_task

__all__ = ["DetectionProtocol", "Metrics", "count_confusion", "evaluate"]


class Metrics(Mapping):
    """A mapping from a metric's name to its value, with `.interval(name)`; shows itself as a table.

    `samples` is the number of images S; `note` says what the numbers depend on.
    """

    def __init__(
        self,
        task: str,
        values: dict[str, float],
        weighted: Callable[[str, np.ndarray], np.ndarray],
        samples: int,
        *,
        note: str = "",
        resamples: int = 1000,
        seed: int = 0,
    ):
        self.task, self.samples, self.note = task, samples, note
        self._values, self._weighted = values, weighted
        self._resamples, self._seed = resamples, seed
        self._drawn: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def resampled(self, name: str) -> np.ndarray:
        """The metric's value in each of B bootstrap resamples, `(B,)`; the same resamples for every name and call."""
        if name not in self._values:
            raise KeyError(f"No metric {name!r}: there are {', '.join(self)}.")
        if name not in self._drawn:
            rng = np.random.default_rng(self._seed)
            share = np.full(self.samples, 1 / self.samples)
            weights = rng.multinomial(self.samples, share, size=self._resamples)  # (B, S)
            self._drawn[name] = self._weighted(name, weights.astype(float))
        return self._drawn[name]

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """The percentile bootstrap interval of one metric; nan where the metric is nan."""
        drawn = self.resampled(name)
        drawn = drawn[np.isfinite(drawn)]
        if not len(drawn) or math.isnan(self[name]):
            return math.nan, math.nan
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def difference(self, other: Metrics, name: str, level: float = 0.95) -> tuple[float, float, float]:
        """This less `other` on the same samples, `(difference, low, high)`: the paired percentile bootstrap."""
        if (self.task, self.samples, self._seed, self._resamples) != (
            other.task,
            other.samples,
            other._seed,
            other._resamples,
        ):
            raise ValueError("Only metrics of one task over the same samples and resamples can be paired.")
        drawn = self.resampled(name) - other.resampled(name)
        low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        return self[name] - other[name], float(low), float(high)

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = []
        for name, value in self.items():
            low, high = self.interval(name)
            shown = "–" if math.isnan(value) else f"{value:.4f}"
            rows.append((name, shown, "" if math.isnan(value) else f"{low:.4f} to {high:.4f}"))
        return rows

    def __str__(self) -> str:
        lines = [f"{name:<14}{value:>8}   {between}" for name, value, between in self._rows()]
        return "\n".join([f"{self.task}, {self.samples} samples, 95 % bootstrap intervals", *lines, self.note]).rstrip()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value:.4f}" for name, value in self.items())
        return f"Metrics({self.task}, {self.samples} samples: {shown})"

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{value}</td><td>{between}</td></tr>"
            for name, value, between in self._rows()
        )
        return (
            f"<table><tr><th>{html.escape(self.task)}</th><th>{self.samples} samples</th><th>95 % interval</th></tr>"
            f"{cells}</table><small>{html.escape(self.note)}</small>"
        )


def evaluate(
    task: str,
    completions: Sequence[str | None] | Sequence[Sequence[str | None]],
    targets: Sequence[Target | Mapping],
    *,
    frame: Any = "pixel",
    protocol: DetectionProtocol | None = None,
    coco: dict | None = None,
    resamples: int | None = None,
    seed: int = 0,
) -> Metrics:
    """The metrics of `task` over S samples: one completion each, or a list of K completions each (then their mean).

    `frame` is one for all or a list with one per sample; `protocol` (detection) overrides it with its own. `resamples`
    is the number of bootstrap draws, by default 1000, and 200 for detection. `coco` (detection) is a COCO truth of the
    same images in the same order: AP is then measured on it, with its crowds and areas. Raises ValueError for bad
    targets.

    >>> metrics = evaluate("counting", ["(1,1),(5,5)", "None"], [{"boxes": [[1, 1, 5, 5]]}, {"boxes": []}])
    >>> metrics["accuracy"], metrics.interval("accuracy")
    (1.0, (1.0, 1.0))
    """
    module, count = get_task(task), len(targets)
    if not count or len(completions) != count:
        raise ValueError(f"Evaluation needs a completion for each target, got {len(completions)} for {count}.")
    truths = [check_target(task, target) for target in targets]
    if protocol is not None and frame == "pixel":
        frame = protocol.frame
    frames, groups = frames_of(frame, count), [_group(completion) for completion in completions]
    if len({len(group) for group in groups}) != 1 or not groups[0]:
        raise ValueError("Every sample needs the same number of completions, at least one.")
    rounds = [  # K lists of S answers
        [read_answer(task, *one) for one in zip(texts, truths, frames, strict=True)]
        for texts in zip(*groups, strict=True)
    ]
    note = ""
    if task == "detection":
        shown = frame if not isinstance(frame, list) or len(frame) == 2 else "one per sample"
        protocol = DetectionProtocol(frame=shown) if protocol is None else protocol
        note = str(protocol)
        if coco is None:
            cocos = [answers_table(answers, truths, protocol) for answers in rounds]
        else:
            found = [coco_detections(answers, coco, protocol.box_score) for answers in rounds]
            cocos = [coco_table(coco, each, protocol) for each in found]
        values = {name: float(np.mean([coco.values[name] for coco in cocos])) for name in cocos[0].values}

        def weighted(name: str, weights: np.ndarray) -> np.ndarray:
            return np.array([np.mean([coco.weighted(name, row) for coco in cocos]) for row in weights])
    else:
        columns = [module.metrics(answers, truths) for answers in rounds]
        per_sample = {name: np.mean([column[name] for column in columns], axis=0) for name in columns[0]}  # (S,)
        values = {name: float(column.mean()) for name, column in per_sample.items()}

        def weighted(name: str, weights: np.ndarray) -> np.ndarray:
            return weights @ per_sample[name] / weights.sum(1)

    draws = resamples or (200 if task == "detection" else 1000)
    return Metrics(task, values, weighted, count, note=note, resamples=draws, seed=seed)


def count_confusion(completions: Sequence, targets: Sequence[Target | Mapping]) -> np.ndarray:
    """How often a true count (row) was answered by a count (column), `(T + 1, P + 1)`; several answers each count.

    >>> count_confusion(["(1,1),(5,5)", "None"], [{"boxes": [[1, 1, 5, 5]]}, {"boxes": [[1, 1, 5, 5]]}]).tolist()
    [[0, 0], [1, 1]]
    """
    counting = get_task("counting")
    cells = [
        counting.counts(counting.parse(text), check_target("counting", target))
        for group, target in zip(completions, targets, strict=True)
        for text in _group(group)
    ]
    said, true = np.array(cells).reshape(-1, 2).T
    table = np.zeros((true.max(initial=0) + 1, said.max(initial=0) + 1), int)
    np.add.at(table, (true, said), 1)
    return table


def _group(completion: Any) -> list[str | None]:
    """The completions of one sample, as texts; a conversation is one completion."""
    if isinstance(completion, Sequence) and not isinstance(completion, str):
        if not any(isinstance(message, Mapping) for message in completion):
            return [completion_text(each) for each in completion]
    return [completion_text(completion)]
