"""Truth about clips as a hasty annotator would give it: its faults leave reinforcement learning something to teach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pr1kit.data.boxes import clip
from pr1kit.data.sample import Target
from pr1kit.data.scenes import COLOURS, SHAPES
from pr1kit.data.tracks import Track


def spoil(target: Target, rng: np.random.Generator) -> Target:
    """The same truth as a hasty annotator of videos would give it.

    Boxes 12 % too large and jittered by 6 % of their sides, a third of the tracks a frame late, a sixth standing still
    from some frame on; four spans of ten a frame too long; one colour or shape of five another, one deed of five
    left out.
    """
    count, size = len(target.tracks[0]), target.image_size
    names = target.text.split(", ") if target.text else []
    for place, name in enumerate(names):
        known = next((known for known in (tuple(COLOURS), SHAPES) if name in known), ())
        if known and rng.random() < 0.2:
            names[place] = known[int(rng.integers(len(known)))]
    if len(names) > 1 and not {*names} & {*SHAPES} and rng.random() < 0.2:
        names.pop()
    spans = target.spans.copy()
    if len(spans) and rng.random() < 0.4:
        spans[-1, 1] = min(spans[-1, 1] + 1, count - 1)
        spans[0, 0] = max(spans[0, 0] - (spans[-1, 1] == target.spans[-1, 1]), 0)  # there, where the end is the clip's
    tracks = tuple(_spoil_track(track, size, rng) for track in target.tracks)
    return replace(target, tracks=tracks, spans=spans, text=", ".join(names))


def _spoil_track(track: Track, size: tuple[int, int], rng: np.random.Generator) -> Track:
    boxes, seen = track.boxes.copy(), np.flatnonzero(track.seen)
    fault = rng.random()
    if fault < 1 / 3:
        boxes[seen[1:]] = track.boxes[seen[:-1]]
    elif fault < 1 / 2 and len(seen) > 2:
        still = int(rng.integers(1, len(seen) - 1))
        boxes[seen[still:]] = boxes[seen[still]]
    side = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = boxes + side * (np.array([-0.06, -0.06, 0.06, 0.06]) + rng.normal(0, 0.06, boxes.shape))
    boxes[seen] = clip(np.sort(boxes[seen].reshape(-1, 2, 2), axis=1).reshape(-1, 4), size)
    return replace(track, boxes=boxes)
