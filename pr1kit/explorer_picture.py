"""The reward explorer as a still picture: for GitHub, for printed notebooks, for wherever no JavaScript runs."""

from __future__ import annotations

import io
import textwrap

import numpy as np

from pr1kit.sample import Sample

WIDTH = 42  # characters of the completion on a line


def draw_explorer(sample: Sample, readout: dict, matching: str) -> bytes:
    """PNG bytes: the picture with truth, predictions and matching lines; beside it the parts, the total, the text."""
    import matplotlib.pyplot as plt

    from pr1kit.drawing import style
    from pr1kit.plots import plot_boxes, plot_matching

    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 4), width_ratios=(1, 1.05))
        try:
            results = readout["results"]
            boxes = np.array([i["values"] for i in readout["items"] if len(i["values"]) == 4]).reshape(-1, 4)
            if readout["task"] == "ocr":
                plot_boxes(sample, completion=readout["text"], task="ocr", ax=left)
            else:
                matches = [pair for pair in results[0]["matches"] if pair[0] < len(boxes)] if results else []
                with_boxes = len(sample.target.boxes) > 0
                plot_matching(sample, boxes, matches if with_boxes else [], ax=left)
            _draw_numbers(right, readout, matching)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
        finally:
            plt.close(figure)
    return _compact(buffer)


def _draw_numbers(ax, readout: dict, matching: str) -> None:
    from pr1kit.drawing import INK, NEUTRAL

    results, looks = readout["results"], (INK, "#56B4E9")
    names = list(dict.fromkeys(part["name"] for result in results for part in result["parts"]))
    height = 0.8 / max(len(results), 1)
    for k, (result, colour) in enumerate(zip(results, looks, strict=False)):
        values = {part["name"]: part for part in result["parts"]}
        for row, name in enumerate(names):
            if name not in values:
                continue
            value, dropped = values[name]["value"], values[name]["dropped"]
            y = row + (k - (len(results) - 1) / 2) * height
            ax.barh(y, value, height=height * 0.9, color=colour, alpha=0.3 if dropped else 1)
            ax.text(max(value, 0) + 0.02, y, f"{value:.2f}{' (dropped)' if dropped else ''}", va="center", fontsize=8)
    title = "   ".join(f"{result['recipe']} {result['total']:.3f}" for result in results) or readout["error"]
    if results and results[0]["advantage"] is not None:
        title += f"   advantage {results[0]['advantage']:+.2f}".replace("-", "−")
    ax.set_title(f"reward  {title}")
    ax.set_yticks(range(len(names)), names)
    ax.set(xlim=(min(0, ax.get_xlim()[0]), 1.3), ylim=(len(names) - 0.4, -0.6), xticks=[0, 0.5, 1])
    ax.tick_params(axis="y", length=0)
    ax.grid(False)
    text = textwrap.shorten(" ".join(readout["text"][:600].split()), 5 * WIDTH, placeholder=" …")
    said = "\n".join(textwrap.wrap(text, WIDTH)) or "(nothing)"
    note = f"{readout['task']}, {matching} matching" + (f"; {readout['reason'][:80]}" if readout["reason"] else "")
    ax.text(0, -0.14, note, transform=ax.transAxes, va="top", fontsize=8, color=NEUTRAL)
    ax.text(0, -0.23, said, transform=ax.transAxes, va="top", fontsize=8, family="monospace", parse_math=False)


def _compact(buffer: io.BytesIO, colours: int = 160) -> bytes:
    """The same picture in few colours: a notebook that holds several stays small."""
    from PIL import Image

    small = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(colours).save(small, "PNG", optimize=True)
    return small.getvalue()
