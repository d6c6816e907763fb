"""How good are the answers? The metrics of a task over a dataset, each with an interval.

Answers go through the parser that the rewards use, or (official rules) are read as Perception-R1's evaluation scripts
read them. Intervals are over images (not answers: several answers to one image are no independent evidence), or over
groups of them (crops of one photograph): Wilson's for what lies in [0, 1], BCa for other means, for AP a bias-corrected
bootstrap, seeded; see `intervals`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pr1kit.data.sample import Target
from pr1kit.evaluation.average_precision import DetectionProtocol, answers_table, coco_detections, coco_table
from pr1kit.evaluation.intervals import (
    by_group,
    corrected_interval,
    mean_interval,
    numbered,
    resampling_weights,
    share_interval,
)
from pr1kit.rewards.official import EVALUATED
from pr1kit.rewards.score import check_target, completion_text, frames_of, read_answer
from pr1kit.rewards.tasks import COUNTED, Rules, get_task


class Metrics(Mapping):
    """A mapping from a metric's name to its value, with `.interval(name)`; shows itself as a table.

    `samples` is the number of images S, `units` that of the groups C that they are drawn in, S where each is its own;
    `note` says what the numbers depend on.
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
        per_sample: dict[str, np.ndarray] | None = None,
        groups: np.ndarray | None = None,
    ):
        self._group = np.arange(samples) if groups is None else groups  # (S,): the number of each image's group
        self.units = int(self._group.max()) + 1
        self.task, self.samples, self.note, self._per_sample = task, samples, note, per_sample
        self._values, self._weighted = values, weighted
        self._resamples, self._seed = resamples, seed
        self._drawn: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> float:
        if name not in self._values:
            raise KeyError(f"No metric {name!r}: there are {', '.join(self)}.")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def resampled(self, name: str) -> np.ndarray:
        """The metric's value in each of B bootstrap resamples, `(B,)`; the same resamples for every name and call."""
        if name not in self._drawn:
            self._drawn[name] = self._weighted(name, resampling_weights(self._group, self._resamples, self._seed))
        return self._drawn[name]

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """The interval of one metric, see `intervals`; nan where the metric is nan."""
        value = self[name]
        if math.isnan(value):
            return math.nan, math.nan
        if self._per_sample is None:  # AP and AR
            stable = self._weighted(name, np.ones((1, self.samples)))[0]
            low, high = corrected_interval(stable, self.resampled(name), self.units, level)
            # The number itself lies in its interval; why it may be too high, `average_precision` says.
            low = math.nextafter(value, 0) if low > value else low
            high = math.nextafter(value, 1) if high < value else high
            return max(low, 0.0), min(high, 1.0)
        values = self._per_sample[name]
        if values.min() >= 0 and values.max() <= 1 and name != "mae":
            return share_interval(self._by_unit(values), level)
        return mean_interval(self._by_unit(values), self.resampled(name), level)

    def _by_unit(self, values: np.ndarray) -> np.ndarray:
        return values if self.units == self.samples else by_group(values, self._group)

    def difference(self, other: Metrics, name: str, level: float = 0.95) -> tuple[float, float, float]:
        """This minus `other` on the same samples, `(difference, low, high)`, paired: BCa, or as `interval` for AP."""
        mine, theirs = ((m.task, m.samples, m._group.tolist(), m._seed, m._resamples) for m in (self, other))
        if mine != theirs:
            raise ValueError("Only metrics of one task over the same samples, groups and resamples can be paired.")
        change, drawn = self[name] - other[name], self.resampled(name) - other.resampled(name)
        if self._per_sample is None or other._per_sample is None:
            one = np.ones((1, self.samples))
            value = self._weighted(name, one)[0] - other._weighted(name, one)[0]
            return change, *corrected_interval(value, drawn, self.units, level)
        return change, *mean_interval(self._by_unit(self._per_sample[name] - other._per_sample[name]), drawn, level)

    def _size(self) -> str:
        return f"{self.samples} samples" + (f" of {self.units} groups" if self.units < self.samples else "")

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = []
        for name, value in self.items():
            low, high = self.interval(name)
            shown = "–" if math.isnan(value) else f"{value:.4f}"
            rows.append((name, shown, "" if math.isnan(value) else f"{low:.4f} to {high:.4f}"))
        return rows

    def __str__(self) -> str:
        lines = [f"{name:<14}{value:>8}   {between}" for name, value, between in self._rows()]
        return "\n".join([f"{self.task}, {self._size()}, 95 % intervals", *lines, self.note]).rstrip()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value:.4f}" for name, value in self.items())
        return f"Metrics({self.task}, {self._size()}: {shown})"

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{value}</td><td>{between}</td></tr>"
            for name, value, between in self._rows()
        )
        return (
            f"<table><tr><th>{html.escape(self.task)}</th><th>{self._size()}</th><th>95 % interval</th></tr>"
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
    rules: str = "kit",
    count_from: str | None = None,
    resamples: int | None = None,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Metrics:
    """The metrics of `task` over S samples: one completion each, or a list of K completions each (then their mean).

    `rules` are the "kit"'s or the "official" evaluation's, `count_from` (counting) is "boxes", "number" or "either":
    see `tasks.Rules`; both are printed with the numbers.
    `frame` is one for all or a list with one per sample; `protocol` (detection) overrides it with its own. `resamples`
    is the number of bootstrap draws, by default 1000, and 200 for detection. `coco` (detection) is a COCO truth of the
    same images in the same order: AP is then measured on it, with its crowds and areas. `groups` says of each sample
    which it belongs with, as crops of one photograph do (`crops.photographs`): intervals are then over groups. Raises
    ValueError for bad targets.

    >>> metrics = evaluate("counting", ["(1,1),(5,5)", "None"], [{"boxes": [[1, 1, 5, 5]]}, {"boxes": []}])
    >>> metrics["accuracy"], [round(v, 2) for v in metrics.interval("accuracy")]
    (1.0, [0.34, 1.0])
    """
    module, count, read_by = get_task(task), len(targets), _rules(rules, count_from)
    if not count or len(completions) != count:
        raise ValueError(f"Evaluation needs a completion for each target, got {len(completions)} for {count}.")
    truths = [check_target(task, target) for target in targets]
    if protocol is not None and frame == "pixel":
        frame = protocol.frame
    frames, answered = frames_of(frame, count), [_group(completion) for completion in completions]
    if len({len(texts) for texts in answered}) != 1 or not answered[0]:
        raise ValueError("Every sample needs the same number of completions, at least one.")
    parser = EVALUATED.get(task) if read_by.official else None
    rounds = [  # K lists of S answers
        [read_answer(task, *one, parser) for one in zip(texts, truths, frames, strict=True)]
        for texts in zip(*answered, strict=True)
    ]
    note, per_sample = read_by.said(task), None
    if task == "detection":
        shown = frame if not isinstance(frame, list) or len(frame) == 2 else "one per sample"
        protocol = DetectionProtocol(frame=shown) if protocol is None else protocol
        note = f"{protocol}; {note}"
        if read_by.official:
            rounds = [_letter_for_letter(answers, truths, protocol, coco) for answers in rounds]
        if coco is None:
            cocos = [answers_table(answers, truths, protocol) for answers in rounds]
        else:
            found = [coco_detections(answers, coco, protocol.box_score) for answers in rounds]
            cocos = [coco_table(coco, each, protocol) for each in found]
        values = {name: float(np.mean([coco.values[name] for coco in cocos])) for name in cocos[0].values}

        def weighted(name: str, weights: np.ndarray) -> np.ndarray:
            return np.array([np.mean([coco.weighted(name, row, stable=True) for coco in cocos]) for row in weights])
    else:
        columns = [module.metrics(answers, truths, read_by) for answers in rounds]
        per_sample = {name: np.mean([column[name] for column in columns], axis=0) for name in columns[0]}  # (S,)
        values = {name: float(column.mean()) for name, column in per_sample.items()}

        def weighted(name: str, weights: np.ndarray) -> np.ndarray:
            return weights @ per_sample[name] / weights.sum(1)

    draws = resamples or (200 if task == "detection" else 1000)
    options: dict[str, Any] = {"note": note, "resamples": draws, "seed": seed, "groups": numbered(groups, count)}
    return Metrics(task, values, weighted, count, per_sample=per_sample, **options)


def _rules(rules: str, count_from: str | None) -> Rules:
    if rules not in ("kit", "official"):
        raise ValueError(f"Unknown rules {rules!r}: choose kit or official.")
    if count_from not in (None, *COUNTED):
        raise ValueError(f"Unknown count_from {count_from!r}: choose one of {', '.join(COUNTED)}.")
    return Rules(rules == "official", count_from)


def _letter_for_letter(answers: list, truths: list[Target], protocol: DetectionProtocol, coco: dict | None) -> list:
    """The answers without the boxes whose label is no category, letter for letter."""
    if coco is not None:
        names = {category["name"] for category in coco["categories"]}
    else:
        names = set(protocol.categories or [label for target in truths for label in target.labels])
    kept = [[i for i, label in enumerate(answer.labels) if label in names] for answer in answers]
    return [
        replace(answer, boxes=answer.boxes[rows], labels=tuple(answer.labels[i] for i in rows))
        for answer, rows in zip(answers, kept, strict=True)
    ]


def count_confusion(
    completions: Sequence, targets: Sequence[Target | Mapping], count_from: str = "either"
) -> np.ndarray:
    """How often a true count (row) was answered by a count (column), `(T + 1, P + 1)`; several answers each count.

    >>> count_confusion(["(1,1),(5,5)", "None"], [{"boxes": [[1, 1, 5, 5]]}, {"boxes": [[1, 1, 5, 5]]}]).tolist()
    [[0, 0], [1, 1]]
    """
    counting = get_task("counting")
    cells = [
        counting.counts(counting.parse(text), check_target("counting", target), count_from)
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
