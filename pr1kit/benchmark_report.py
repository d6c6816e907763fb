"""The paper's tables, row for row: what was measured, its interval, what the paper reports, and the protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pr1kit.benchmarks import COLUMNS, paper_rows
from pr1kit.sample import TASKS

if TYPE_CHECKING:
    from pr1kit.eval_command import Result

TITLES = {
    "grounding": "Grounding: share of boxes with at least that IoU, %",
    "counting": "Counting: share of images whose count is exact, %",
    "ocr": "OCR, %",
    "detection": "Detection: COCO AP, %",
}


def report(results: Sequence[Result]) -> str:
    """Markdown tables, one for each task: a row for each benchmark, the paper's numbers under it, then the protocols.

    Values are percent with their 95 % bootstrap intervals over images.
    """
    parts = []
    for task in TASKS:
        mine = [result for result in results if result.task == task]
        if mine:
            parts.append("\n".join([f"### {TITLES[task]}", "", *_table(task, mine), "", *map(_protocol, mine)]))
    return "\n\n".join(parts) + "\n"


def _table(task: str, results: Sequence[Result]) -> list[str]:
    rows = [["benchmark", "samples", *COLUMNS[task].values()]]
    for result in results:
        rows.append([result.name, f"{result.metrics.samples:,}", *(_cell(result, name) for name in COLUMNS[task])])
        for model, values in paper_rows(result.name, task):
            cells = (f"{values[name]:.1f}" if name in values else "" for name in COLUMNS[task])
            rows.append([f"*paper: {model}*", "", *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _cell(result: Result, name: str) -> str:
    value, (low, high) = result.metrics[name], result.metrics.interval(name)
    return "–" if math.isnan(value) else f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _protocol(result: Result) -> str:
    left_out = f"; {result.left_out}" if result.left_out else ""
    return f"- {result.name}: {result.protocol}{left_out}"
