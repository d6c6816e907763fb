"""Tracking: name one object by its look, place or deed, and give its box in every frame in which it is seen.

After Unhackable Temporal Rewarding (arXiv 2502.12081), whose queries ask for whole trajectories so that no single frame
answers them; its authors released no reward, so this is ours alone. With n_t boxes answered and m_t true in frame t:

    kit   location × identity = Σ IoU of matched tracks, over all frames / Σ_t max(n_t, m_t)
          location   the same with every frame matched for itself, whoever is who
          identity   what is left of it where each track answers one object from beginning to end

So a frame left out, a frame too many, and a frame given twice cost as a miss does; a switch of identities costs the
frames behind it. A malformed box, and one in a frame that the video does not have, counts as answered. A box that
stands still earns its mean overlap with where the object has been.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pr1kit.data.boxes import clip, iou
from pr1kit.data.sample import Target
from pr1kit.data.tracks import Track
from pr1kit.rewards.matching import aggregate, match, own_share
from pr1kit.rewards.parsing import build_prompt, read_steps, whole
from pr1kit.rewards.results import Answer, RewardResult
from pr1kit.rewards.tasks import KIT_RULES, Options, Rules, says_nothing

COLUMNS = (("tracks",),)
PARTS = {"kit": ("format", "location", "identity")}


def prompt(question: str, thinking: bool = False) -> str:
    """The user's words for the object `question`.

    >>> prompt("the red circle in frame 3")
    'Output the boxes of the red circle in frame 3 in all frames as Frame t:[x1,y1,x2,y2];…'
    """
    return build_prompt(f"Output the boxes of {question} in all frames as Frame t:[x1,y1,x2,y2];…", thinking)


def write_answer(target: Target, *, label: str = "", recipe: str = "kit") -> str:
    """The supervised answer: one track's frames, or several in Merlin's notation with their names; or `None`.

    >>> write_answer({"tracks": [{"boxes": [[1, 2, 3.2, 4], None, [2, 2, 4, 4]]}]})
    'Frame 1:[1,2,3,4];Frame 3:[2,2,4,4]'
    """
    tracks = [track for track in Target.of(target).tracks if track.seen.any()]
    if len(tracks) < 2:
        return _write(tracks[0]) if tracks else "None"
    return "".join(f"Track{i}: <{track.label}><Id{i}>{_write(track)}</Id{i}>" for i, track in enumerate(tracks, 1))


def _write(track: Track) -> str:
    frames = np.flatnonzero(track.seen).tolist()
    return ";".join(f"Frame {frame + 1}:[{','.join(map(str, whole(track.boxes[frame])))}]" for frame in frames)


def parse(completion: Any) -> Answer:
    """Boxes `(N, 4)` in the completion's own frame of numbers, with the video frame and the track of each."""
    return read_steps(completion)


def kit(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 1]: the overlap of whole tracks, shared among all the frames that are true or answered."""
    truth = true_tracks(target)
    if not len(truth):
        return RewardResult(float(says_nothing(answer)), {"format": answer.format_score}, reason=answer.reason)
    overlap, predicted, outside = overlaps(answer, truth)
    true = ~np.isnan(truth[:, :, 0])
    broken = (
        answer.malformed if "format" not in options.drop else 0
    )  # stand where boxes are missing, then for themselves
    missing = int(np.maximum(true.sum(0) - predicted, 0).sum())
    union = float(np.maximum(predicted, true.sum(0)).sum() + max(broken - missing, 0) + outside)
    written, there = float(predicted.sum() + broken + outside), float(true.sum())
    pairs = match(overlap.sum(2), options.matching)
    kept = sum(score for *_, score in pairs)
    anyone = kept
    if overlap.shape[0] * overlap.shape[1] > 1:
        anyone = sum(score for frame in overlap.transpose(2, 0, 1) for *_, score in match(frame, options.matching))
    # "max" shares among the frames of either, frame by frame
    n, m = (union, union) if options.aggregate == "max" else (written, there)
    parts = {
        "format": answer.format_score,
        "location": aggregate(anyone, n, m, options.aggregate),
        "identity": min(kept / anyone, 1.0) if anyone else 1.0,
    }
    if "location" in options.drop:
        total = answer.format_score
    else:
        total = aggregate(anyone if "identity" in options.drop else kept, n, m, options.aggregate)
    matches = tuple((p, t, score / float(true[t].sum())) for p, t, score in pairs)
    return RewardResult(total, parts, matches, answer.reason)


def true_tracks(target: Target) -> np.ndarray:
    """The boxes `(M, F, 4)` of the tracks that can be answered: those seen in some frame."""
    return np.array([track.boxes for track in target.tracks if track.seen.any()])


def overlaps(answer: Answer, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """IoU `(P, M, F)` of answered and true tracks, the boxes answered in each frame `(F,)`, and in no frame."""
    count = truth.shape[1]
    inside = answer.frames < count
    owners = np.unique(answer.owners, return_inverse=True)[1] if len(answer.owners) else answer.owners
    overlap = np.zeros((int(owners.max()) + 1 if len(owners) else 0, len(truth), count))
    for frame in np.unique(answer.frames[inside]).tolist():
        here = answer.frames == frame
        seen = ~np.isnan(truth[:, frame, 0])
        if seen.any():
            boxes = truth[seen, frame]
            scores = iou(answer.boxes[here], boxes)
            overlap[np.ix_(owners[here], seen, [frame])] = (scores * own_share(scores, boxes))[..., None]
    return overlap, np.bincount(answer.frames[inside], minlength=count), int((~inside).sum())


def answered_tracks(answer: Answer, count: int, size: tuple[int, int] | None = None) -> tuple[Track, ...]:
    """The tracks of an answer over `count` frames, cut at the edges of pictures of `size`; later frames are left out.

    >>> answered_tracks(parse("Frame 2:[1,2,30,4]"), 2, (8, 8))[0].boxes[1].tolist()
    [1.0, 2.0, 8.0, 4.0]
    """
    boxes = clip(answer.boxes, size) if size else answer.boxes
    found: dict[int, np.ndarray] = {}
    for frame, owner, box in zip(answer.frames.tolist(), answer.owners.tolist(), boxes, strict=True):
        if frame < count:
            found.setdefault(owner, np.full((count, 4), np.nan))[frame] = box
    return tuple(map(Track, found.values()))


RECIPES = {"kit": kit}


def metrics(answers: list[Answer], targets: list[Target], rules: Rules = KIT_RULES) -> dict[str, np.ndarray]:
    """Per-sample values `(S,)`: mean IoU over frames under the optimal matching of tracks, whether that reaches 0.5,
    the share of identities kept, and the mean IoU where every frame is matched for itself."""
    results = [kit(answer, target, Options()) for answer, target in zip(answers, targets, strict=True)]
    total = np.array([result.total for result in results])
    return {
        "track_iou": total,
        "track@0.5": (total >= 0.5).astype(float),
        "identity": np.array([result.parts.get("identity", 1.0) for result in results]),
        "frame_iou": np.array([result.parts.get("location", result.total) for result in results]),
    }
