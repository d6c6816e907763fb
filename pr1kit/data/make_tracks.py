"""From a detector's boxes, frame by frame, to tracks: so that anybody's own detections become questions in time.

Who is who is decided by ByteTrack (Zhang et al. 2022) as the library `trackers` has it, an extra: `pip install
'pr1kit[tracking]'`. A track has a box only where there was a detection; gaps are not filled, since a guessed box is no
truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pr1kit.data.boxes import iou, is_valid
from pr1kit.data.sample import as_rows
from pr1kit.data.tracks import Track

FIRST = 0.1  # IoU of a track's first two boxes


def make_tracks(
    boxes: Sequence[Any], labels: Sequence[Sequence[str]] = (), scores: Sequence[Any] = (), *, fps: float = 30.0,
    min_frames: int = 2, **options,
) -> tuple[Track, ...]:  # fmt: skip
    """Tracks from the detections of F frames: `boxes` F arrays (N, 4) xyxy pixels, in the order of the frames.

    `labels` are F lists of N names (each name is tracked for itself), `scores` F lists of N confidences in [0, 1];
    without scores each detection may begin a track. `fps` is how many frames a second these are; tracks of fewer than
    `min_frames` boxes are left out. `options` are those of `trackers.ByteTrackTracker`. Raises ImportError without the
    library, ValueError where the lists do not fit each other or a box is inverted.
    """
    try:
        import supervision
        from trackers import ByteTrackTracker
    except ImportError:
        raise ImportError("Tracks are made by `trackers`: install it with pip install 'pr1kit[tracking]'.") from None
    rows = [as_rows(each, 4, f"Boxes of frame {frame}") for frame, each in enumerate(boxes)]
    names = [tuple(map(str, each)) for each in labels] if len(labels) else [("",) * len(each) for each in rows]
    sure = [np.asarray(each, float) for each in scores] if len(scores) else [np.ones(len(each)) for each in rows]
    for what, given in (("labels", names), ("scores", sure)):
        if len(given) != len(rows) or any(len(a) != len(b) for a, b in zip(given, rows, strict=True)):
            raise ValueError(f"Detections need as many {what} as boxes in every frame.")
    for frame, each in enumerate(rows):
        if not is_valid(each).all():
            raise ValueError(f"A detection of frame {frame} is not x1 <= x2, y1 <= y2 with finite numbers.")
        if not ((sure[frame] >= 0) & (sure[frame] <= 1)).all():
            raise ValueError(f"Scores of frame {frame} must lie in [0, 1].")
    settings = {"frame_rate": fps, "minimum_consecutive_frames": 1, **options}
    found = []
    for label in sorted({name for each in names for name in each}):
        tracker, own, loose = ByteTrackTracker(**settings), {}, np.zeros((0, 4))
        for frame, each in enumerate(rows):
            mine = np.array([name == label for name in names[frame]], bool)
            seen = supervision.Detections(xyxy=each[mine].reshape(-1, 4), confidence=sure[frame][mine])
            known = tracker.update(seen)
            for box, number in zip(known.xyxy, known.tracker_id, strict=True):
                if number < 0:
                    continue
                if number not in own:  # numbered from its second box on: the first is the one before that fits best
                    own[number] = np.full((len(rows), 4), np.nan)
                    overlap = iou(box[None], loose)[0]
                    if len(loose) and overlap.max() >= FIRST:
                        own[number][frame - 1] = loose[overlap.argmax()]
                own[number][frame] = box
            loose = known.xyxy[known.tracker_id < 0]
        kept = [track for track in own.values() if (~np.isnan(track[:, 0])).sum() >= min_frames]
        found += [Track(track, label, str(number)) for number, track in enumerate(kept, 1)]
    return tuple(found)
