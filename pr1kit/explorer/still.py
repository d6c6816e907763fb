"""The reward explorer as a still picture: for GitHub, for printed notebooks, for wherever no JavaScript runs."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from typing import Any

import numpy as np

from pr1kit.data.sample import Sample
from pr1kit.rewards.matching import MATCHINGS

WIDTH, LINES = 58, 4  # characters of the completion on a line, and lines
ROW = 8  # frames of a video side by side


def draw_explorer(sample: Sample, readout: dict, matching: str, frame: Any) -> bytes:
    """PNG bytes: the picture with truth, predictions and matching lines; beside it total, parts, text, switches.

    A video is a strip of frames, and these are under it; `frame` is how its answer's numbers are read.
    """
    import matplotlib.pyplot as plt

    from pr1kit.plots.clips import plot_clip
    from pr1kit.plots.drawing import compact_png, style
    from pr1kit.plots.pictures import plot_boxes, plot_matching

    with style():
        figure = plt.figure(figsize=(8.6, 5.4 if len(sample.frames) > ROW else 4.1))
        try:
            if sample.is_video:
                ratios = (1, 1 if len(sample.frames) > ROW else 1.7)
                left, right = figure.subfigures(2, 1, height_ratios=ratios, squeeze=False)[:, 0]
            else:
                left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15), squeeze=False)[0]
            results = readout["results"]
            boxes = np.array([i["values"] for i in readout["items"] if len(i["values"]) == 4]).reshape(-1, 4)
            picture = left.subplots()
            if sample.is_video:
                shown = replace(sample, task=readout["task"])
                plot_clip(shown, readout["text"], frame=frame, columns=ROW, most=2 * ROW, ax=picture)
            elif readout["task"] == "ocr":
                plot_boxes(sample, completion=readout["text"], task="ocr", ax=picture)
            else:
                matches = [pair for pair in results[0]["matches"] if pair[0] < len(boxes)] if results else []
                plot_matching(sample, boxes, matches if len(sample.target.boxes) else [], ax=picture)
            rows = {"ncols": 2} if sample.is_video else {"nrows": 2, "height_ratios": (1, 0.9)}
            parts, words = right.subplots(**rows)
            _draw_parts(parts, results or [], readout["error"])
            _write_words(words, readout, matching)
            return compact_png(figure, dpi=100)
        finally:
            plt.close(figure)


def _draw_parts(ax, results: list[dict], error: str) -> None:
    """A bar for each part; of two recipes the second in sky blue."""
    from pr1kit.plots.drawing import INK

    names = list(dict.fromkeys(part["name"] for result in results for part in result["parts"]))
    height = 0.56 / max(len(results), 1)
    for k, (result, colour) in enumerate(zip(results, (INK, "#56B4E9"), strict=False)):
        for part in result["parts"]:
            y = names.index(part["name"]) + (k - (len(results) - 1) / 2) * height
            ax.barh(y, part["value"], height=height * 0.92, color=colour, alpha=0.3 if part["dropped"] else 1)
            shown = f"{part['value']:.2f}{', dropped' if part['dropped'] else ''}".replace("-", "−")
            ax.text(max(part["value"], 0) + 0.02, y, shown, va="center", fontsize=8, color=colour if k else INK)
    totals = "     ".join(f"{result['recipe']} {result['total']:.3f}" for result in results) or "no reward"
    if results and results[0]["advantage"] is not None:
        totals += f"     advantage {results[0]['advantage']:+.2f}"
    ax.set_title(totals.replace("-", "−"), fontsize=14, fontweight="bold")
    if error:
        ax.text(0, 0.9, textwrap.fill(error, WIDTH), va="top", fontsize=8, transform=ax.transAxes)
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.set(xlim=(min(0, ax.get_xlim()[0]), 1.3), ylim=(max(len(names), 2) - 0.5, -0.5), xticks=[])
    ax.tick_params(axis="y", length=0)
    ax.spines["bottom"].set_visible(False)
    ax.grid(False)


def _write_words(ax, readout: dict, matching: str) -> None:
    from pr1kit.plots.drawing import NEUTRAL, WORSE

    words = " ".join(readout["text"][:2000].split()) or "(nothing)"
    ax.text(0, 0.98, f"completion ({readout['task']})", transform=ax.transAxes, va="top", fontsize=8, color=NEUTRAL)
    said = textwrap.fill(words, WIDTH, max_lines=LINES, placeholder=" …")
    ax.text(0, 0.86, said, transform=ax.transAxes, va="top", fontsize=8, family="monospace", parse_math=False)
    if readout["reason"]:
        ax.text(0, 0.22, textwrap.shorten(readout["reason"], WIDTH), transform=ax.transAxes, fontsize=8, color=WORSE)
    paid_by = [result["recipe"] for result in readout["results"] or []]
    switches = ("recipe", readout["recipes"], paid_by), ("matching", MATCHINGS, [matching])
    for y, (name, values, chosen) in zip((0.11, 0), switches, strict=True):  # as in the live explorer
        shown = "  ".join(f"[{value}]" if value in chosen else value for value in values)
        ax.text(0, y, f"{name:9}{shown}", transform=ax.transAxes, fontsize=8, family="monospace", color=NEUTRAL)
    ax.set_axis_off()
