"""`python -m pr1kit explore RUN --export FOLDER`: what a run taught, as one page without a server, to send or to host.

The page shows the probes of the run (`rollouts.probes`): the same held-out pictures, the boxes of each step. Whatever
it can show was computed here with `read_out`; its script draws, and pays nothing.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pr1kit.data.durable_files import read_log, write_atomically
from pr1kit.data.sample import Sample
from pr1kit.explorer.readout import read_out
from pr1kit.explorer.wire import count_in_utf16, open_sample, scene_of_page
from pr1kit.rewards.score import score
from pr1kit.rollouts.probes import FILE, probed_sample, read_probes

STATIC = Path(__file__).with_name("static")
SCRIPTS = ("dom.js", "stage.js", "frames.js", "panel.js", "editor.js", "replay.js")  # together one script
STYLES = ("explorer.css", "replay.css")
SWITCH = ("released", "paper", "kit")
LONGEST_CURVE = 400  # steps of the training curve that are drawn; a longer run's are averaged
# No address is ever asked for, whatever a model wrote: the page is whole.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<noscript>This page needs JavaScript; it loads nothing.</noscript>
<script type="application/json" id="runs">{runs}</script>
<script>{script}</script>
</body>
</html>
"""


def export_explorer(run: str | Path, folder: str | Path, samples: Sequence[Sample] = ()) -> Path:
    """Write `index.html` in `folder`: a slider over the steps of a run, its boxes and its rewards at each; its path.

    `run` is the folder of a run with probes (`train_grpo(…, probes=…)`), or one that holds several: then the page has
    a switch between them. `samples` are the probes, where they are neither synthetic scenes nor pictures that still lie
    where they lay. A run that is not finished is shown as far as it is. Raises FileNotFoundError where there are no
    probes, ValueError where a file is damaged or a sample is not known.
    """
    run = Path(run)
    below = [run] if (run / FILE).is_file() else sorted(path.parent for path in run.glob(f"**/{FILE}"))
    shown = [_read_run(each, samples) for each in below or [run]]
    title = f"What a policy learned: {' and '.join(dict.fromkeys(each['task'] for each in shown))}"
    runs = json.dumps(shown, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    style, script = (
        "\n".join((STATIC / name).read_text(encoding="utf-8") for name in names) for names in (STYLES, SCRIPTS)
    )
    page = PAGE.format(policy=POLICY, title=html.escape(title), style=style, runs=runs, script=script)
    return write_atomically(Path(folder) / "index.html", page.encode("utf-8", "replace"))


def _read_run(folder: Path, samples: Sequence[Sample]) -> dict[str, Any]:
    """Everything that the page shows of one run, as plain values.

    `readouts` has a row for each of `steps` and in it what `read_out` says of each of `scenes`; `means`, for each
    recipe and step, the mean reward of its answers; `curve`, the logged mean reward of training.
    """
    steps = read_probes(folder)
    first = next(iter(steps.values()))
    asked = [open_sample(probed_sample(row, samples)) for row in first.values()]
    recipes = [name for name in SWITCH if all(_pays(name, sample) for sample in asked)]
    if not recipes:
        raise ValueError(f"No reward of {', '.join(SWITCH)} can be computed for the probes of {str(folder)!r}.")
    readouts = [[_shown(rows[sample.id], sample, recipes) for sample in asked] for rows in steps.values()]
    totals = np.array([[[each["total"] for each in seen["results"]] for seen in row] for row in readouts])
    settings = _settings(folder)
    return {
        "name": folder.parent.name if folder.name == "rl" else folder.resolve().name,
        "task": " and ".join(sorted({sample.task for sample in asked})),
        "recipe": settings.get("recipe", ""),
        "recipes": recipes,
        "last": max(int(settings.get("steps", 0)), *steps),
        "steps": list(steps),
        "scenes": [scene_of_page(sample) for sample in asked],
        "readouts": readouts,
        "means": dict(zip(recipes, totals.mean(1).T.tolist(), strict=True)),
        "curve": _curve(folder),
    }


def _pays(recipe: str, sample: Sample) -> bool:
    """Whether this reward can be computed of what is known of the sample (detection needs labels, say)."""
    with suppress(ValueError):
        score(sample.task, "", sample.target, recipe=recipe)
        return True
    return False


def _shown(row: dict, sample: Sample, recipes: Sequence[str]) -> dict:
    seen = read_out(row["completion"], sample.target, task=sample.task, recipes=recipes, frame=row["frame"])
    for result in seen["results"]:
        for name in ("group", "pair_weights", "place", "advantage"):  # of answers beside it: here there are none
            del result[name]
    for name in ("overlap", "sums", "predictions"):  # of all pairs: the page draws those that are matched
        del seen[name]
    return count_in_utf16(row["completion"], seen)


def _settings(folder: Path) -> dict:
    path = folder / "settings.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _curve(folder: Path) -> list[list[float]]:
    """`[step, mean reward]` of the run's log, means of as many steps where there are more than `LONGEST_CURVE`."""
    path = folder / "log.jsonl"
    rows = [(row["step"], row["reward"]) for row in read_log(path) if "reward" in row] if path.is_file() else []
    if not rows:
        return []
    parts = np.array_split(np.array(rows, float), min(len(rows), LONGEST_CURVE))
    return [part.mean(0).tolist() for part in parts]
