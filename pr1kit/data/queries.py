"""What can be asked about the tracks of a video, so that no single frame answers it?

After Unhackable Temporal Rewarding (arXiv 2502.12081): an object is named in one frame, by what it is or by where it
is among its kind, and asked for in all of them.

    tracking   its whole trajectory
    when       the frames in which it is visible, where it comes or goes
    what       which way it moves

Places are named in words, so that a question is the same in every model's frame of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pr1kit.data.boxes import centers
from pr1kit.data.tracks import Track, spans_of

PLACES = {"leftmost": (0, -1), "rightmost": (0, 1), "topmost": (1, -1), "lowest": (1, 1)}
CLEAR = 0.03  # of the picture's side, by which one is the leftmost, and so on
MOVED = 0.1  # of the picture's side, from which a move has a direction


def name_in_frame(tracks: Sequence[Track], chosen: int, size: tuple[int, int]) -> str | None:
    """The object `tracks[chosen]` by what it is, else by its place among its kind, in the first frame that allows it.

    `size` is the picture's (width, height). None where no frame tells it apart.

    >>> cat = Track([[0, 0, 9, 9], [20, 0, 29, 9]], "cat")
    >>> name_in_frame([cat, Track([[50, 0, 59, 9]] * 2, "cat")], 0, (64, 64))
    'the leftmost cat in frame 1'
    """
    track = tracks[chosen]
    kind = [each for i, each in enumerate(tracks) if i != chosen and each.label.casefold() == track.label.casefold()]
    label = track.label or "object"
    for frame in np.flatnonzero(track.seen).tolist():
        others = np.array([each.boxes[frame] for each in kind if each.seen[frame]]).reshape(-1, 4)
        if not len(others):
            return f"the {label} in frame {frame + 1}"
        apart = (centers(track.boxes[frame][None]) - centers(others)) / np.array(size)
        for name, (axis, sign) in PLACES.items():
            if (sign * apart[:, axis]).min() >= CLEAR:
                return f"the {name} {label} in frame {frame + 1}"
    return None


def ask_about_tracks(task: str, tracks: Sequence[Track], size: tuple[int, int]) -> list[tuple[str, dict]]:
    """The questions of `task` about each of the tracks, each with its truth as fields of a `Target`.

    An object that is seen in fewer than two frames, or that no frame tells apart, is not asked about; nor is one that
    is always there (`when`), or that does not clearly move (`what`).
    """
    found = []
    for number, track in enumerate(tracks):
        if track.seen.sum() < 2 or (name := name_in_frame(tracks, number, size)) is None:
            continue
        about = {"tracks": (track,)}
        if task == "tracking":
            found.append((name, about))
        elif task == "when" and not track.seen.all():
            found.append((f"is {name} visible", {**about, "spans": spans_of(track.seen)}))
        elif task == "what" and (words := direction(track, size)):
            found.append((f"Which way does {name} move", {**about, "text": words}))
    return found


def direction(track: Track, size: tuple[int, int]) -> str:
    """Where a track has gone from its first frame to its last: "left", "right", "up" or "down"; "" where not clearly.

    >>> direction(Track([[0, 0, 9, 9], [20, 2, 29, 11]]), (64, 64))
    'right'
    """
    first, *_, last = centers(track.boxes[track.seen])
    way = (last - first) / np.array(size)
    axis = int(np.abs(way).argmax())
    if abs(way[axis]) < MOVED or abs(way[axis]) < 2 * abs(way[1 - axis]):
        return ""
    return (("left", "right"), ("up", "down"))[axis][int(way[axis] > 0)]
