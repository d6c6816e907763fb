"""What was answered, and what that earned.

Boxes and points are in the frame of the completion until `score.read_answer` has turned them into pixels.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field

import numpy as np

LONGEST_TABLE = 50  # rows; a longer one is cut where it is shown


@dataclass(frozen=True, eq=False)
class Answer:
    """What a completion says, in its own coordinate frame.

    Shapes: `boxes` (N, 4) valid boxes only, `labels` N names ("" where none was given), `points` (N', 2), `text` the
    answer region. `format_score` in [0, 1] is the share of well-formed items; `reason` says what was wrong, "" if
    nothing; `explicit` is False where there was no answer at all (empty text, an unclosed thought). `malformed` counts
    the items that were written but dropped; `scale` is how many pixels one unit of the completion's frame is, (x, y).
    Of a video: `frames` (N,) the frame of each box and `owners` (N,) the number of the track that it belongs to, or
    `spans` (K, 2) first and last frame, all counted from 0.
    """

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    labels: tuple[str, ...] = ()
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    text: str = ""
    reason: str = ""
    format_score: float = 0.0
    explicit: bool = True
    malformed: int = 0
    scale: tuple[float, float] = (1.0, 1.0)
    frames: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    owners: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    spans: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), int))

    def _repr_html_(self) -> str:
        labels = self.labels or ("",) * len(self.boxes)
        places = [(label, box) for label, box in zip(labels, self.boxes.tolist(), strict=True)]
        places += [("", point) for point in self.points.tolist()]
        rows = "".join(
            f"<tr><td>{i}</td><td>{html.escape(label)}</td><td>{', '.join(f'{value:g}' for value in values)}</td></tr>"
            for i, (label, values) in enumerate(places[:LONGEST_TABLE])
        )
        more = f"<br>and {len(places) - LONGEST_TABLE} more" if len(places) > LONGEST_TABLE else ""
        said = (
            f"<table>{rows}</table>{more}" if places else f"<pre>{html.escape(self.text[:2000]) or '(nothing)'}</pre>"
        )
        reason = f"<i>{html.escape(self.reason)}</i> " if self.reason else ""
        return f"{said}<small>{reason}format {self.format_score:.2f}</small>"


@dataclass(frozen=True, eq=False)
class RewardResult:
    """What an answer earned: `total`, its named `parts`, the `matches` (prediction, truth, score), and the `reason`."""

    total: float
    parts: dict[str, float]
    matches: tuple[tuple[int, int, float], ...] = ()
    reason: str = ""

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{html.escape(k)}</td><td>{v:.3f}</td></tr>" for k, v in self.parts.items())
        pairs = "<tr><th>pair</th><th>its score</th></tr>" if self.matches else ""
        pairs += "".join(
            f"<tr><td>prediction {p} &rarr; truth {t}</td><td>{s:.3f}</td></tr>" for p, t, s in self.matches
        )
        reason = f"<tr><td colspan=2><i>{html.escape(self.reason)}</i></td></tr>" if self.reason else ""
        return f"<table><tr><th>total</th><th>{self.total:.3f}</th></tr>{rows}{pairs}{reason}</table>"


@dataclass(frozen=True, eq=False)
class Rollout:
    """One sampled completion of one prompt, its reward and its advantage within its group."""

    completion: str
    reward: RewardResult
    advantage: float = 0.0
    token_ids: tuple[int, ...] = ()

    @property
    def total(self) -> float:
        return self.reward.total
