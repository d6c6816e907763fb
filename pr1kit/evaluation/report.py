"""The paper's tables, row for row: what was measured, its interval, what the paper reports, and the protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pr1kit.data.assemble import Samples
from pr1kit.data.sample import TASKS
from pr1kit.evaluation.average_precision import DetectionProtocol
from pr1kit.evaluation.benchmarks import REPORTED, Protocol, paper_rows
from pr1kit.evaluation.metrics import Metrics, evaluate
from pr1kit.rewards.tasks import Rules

TITLES = {
    "grounding": "Grounding: share of boxes with at least that IoU, %",
    "counting": "Counting: share of images whose count is exact, %",
    "ocr": "OCR, %",
    "detection": "Detection: COCO AP, %",
    "tracking": "Tracking: mean IoU over frames, %",
    "when": "When: IoU of frames, %",
    "what": "What: share of attributes that match, %",
}
WORDS = ("ocr", "when", "what")  # their answers hold no coordinates


@dataclass(frozen=True)
class Result:
    """One benchmark's numbers by the kit's rules and by the official ones, and what they depend on."""

    name: str
    task: str
    metrics: Metrics
    protocol: str
    left_out: str = ""
    official: Metrics | None = None

    def to_dict(self) -> dict:
        """Values with their intervals (None where there is nothing to measure) and the protocol, fit for JSON."""
        about = {
            "name": self.name,
            "task": self.task,
            "samples": self.metrics.samples,
            "metrics": _values(self.metrics),
        }
        if self.official is not None:
            about["official"] = _values(self.official)
        return {**about, "protocol": self.protocol, "left_out": self.left_out}


def _values(metrics: Metrics) -> dict[str, list]:
    rows = {name: [value, *metrics.interval(name)] for name, value in metrics.items()}
    return {name: [None if math.isnan(each) else each for each in row] for name, row in rows.items()}


def score_completions(
    samples: Sequence,
    rows: dict[str, dict],
    name: str = "",
    made_by: dict | None = None,
    frame: Any = None,
    count_from: str | None = None,
) -> Result:
    """The metrics of kept completions, `rows` by id; `frame` reads rows without one of their own.

    `count_from` says what of a counting answer the kit's rules count, see `tasks.Rules`.

    Raises ValueError where a sample has no completion, or one whose coordinates nobody says how to read.
    """
    missing = [sample.id for sample in samples if sample.id not in rows]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(samples)} samples of {name or 'the data'} have no completion, {missing[0]!r} the "
            "first: are these the completions of this file, or was the run cut short?"
        )
    chosen = [rows[sample.id] for sample in samples]
    task = samples[0].task
    frames: Any = [row.get("frame") or frame for row in chosen]
    if None in frames:
        if task not in WORDS:
            raise ValueError(
                f"The completion of {chosen[frames.index(None)]['id']!r} does not say how its numbers are to be read: "
                "say --answer-frame pixel, norm1000 or WxH."
            )
        frames = "pixel"
    texts, targets = [row["completion"] for row in chosen], [sample.target for sample in samples]
    options = {"frame": frames, "coco": getattr(samples, "coco", None)}
    metrics = evaluate(task, texts, targets, count_from=count_from, **options)
    official = evaluate(task, texts, targets, rules="official", **options)
    protocol = _told(made_by, () if task in WORDS else frames)
    protocol += f"; {Rules(count_from=count_from).said(task)}; {Rules(official=True).said(task)}"
    if task == "detection":
        protocol += f"; {_coco_rules(samples)}"
    left_out = samples.left_out() if isinstance(samples, Samples) else ""
    return Result(name, task, metrics, protocol, left_out, official)


def report(results: Sequence[Result]) -> str:
    """Markdown tables, one for each task: a row for each benchmark, the paper's numbers under it, then the protocols.

    Values are percent with their 95 % intervals over images, by the kit's rules; where the official rules give other
    numbers, these stand in a row of their own.
    """
    parts = []
    for task in TASKS:
        mine = [result for result in results if result.task == task]
        if mine:
            parts.append("\n".join([f"### {TITLES[task]}", "", *_table(task, mine), "", *map(_protocol, mine)]))
    return "\n\n".join(parts) + "\n"


def _table(task: str, results: Sequence[Result]) -> list[str]:
    rows = [["benchmark", "samples", *REPORTED[task].values()]]
    for result in results:
        rows.append([result.name, f"{result.metrics.samples:,}", *_cells(result.metrics, task)])
        if result.official is not None and (cells := _cells(result.official, task)) != rows[-1][2:]:
            rows.append([f"{result.name}, official rules", "", *cells])
        for model, values in paper_rows(result.name, task):
            cells = [f"{values[name]:.1f}" if name in values else "" for name in REPORTED[task]]
            rows.append([f"*paper: {model}*", "", *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _cells(metrics: Metrics, task: str) -> list[str]:
    cells = []
    for name in REPORTED[task]:
        value, (low, high) = metrics[name], metrics.interval(name)
        cells.append("–" if math.isnan(value) else f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
    return cells


def _protocol(result: Result) -> str:
    left_out = f"; {result.left_out}" if result.left_out else ""
    return f"- {result.name}: {result.protocol}{left_out}"


def _told(made_by: dict | None, frames: Sequence) -> str:
    """One line that says how the numbers came about."""
    shown = {{"norm1000": "0–1000", "pixel": "pixels"}.get(str(f), "pixels of the resized image") for f in frames}
    read = f"coordinates in {' and '.join(sorted(shown))}" if shown else ""
    if made_by is None:
        return "; ".join(filter(None, ("completions of unknown origin", read)))
    protocol, engine = Protocol(**made_by["protocol"]), made_by["engine"]
    return "; ".join(filter(None, (f"{made_by['model']} ({engine}, {made_by['dtype']})", str(protocol), read)))


def _coco_rules(samples: Sequence) -> str:
    rules = DetectionProtocol()
    truth = "the COCO file, crowds and areas included" if getattr(samples, "coco", None) else "the samples' boxes"
    kept = "/".join(map(str, rules.max_detections))
    return f"every box scored {rules.box_score:g}, at most {kept} a class and image, measured on {truth}"
