"""The synthetic world in motion: seeded clips of shapes that move, turn, come and go, hide and change colour.

A clip shows the objects of `scenes` on the same background; every object has an exact track. A clip is made for its
question, of one of these kinds (the last part of its id; see `query_kind`):

    tracking   look      the object named by its colour and shape in one frame
               place     the object named by its place in one frame, such as "the leftmost object in frame 3"
               event     the object that changes colour, appears, disappears or hides: attributes to a track
    when       visible, hidden, moving, colour: the frames in which that is so
    what       actor     which object does it: an event to attributes
               action    what an object does, named by its place in one frame: a track to attributes
    any        proxy     one frame answers it: the trajectory of an object that stands still, when an object is visible
                         that always is, the colour and shape of an object in a frame

The answer to a proxy of *when* is always "all frames", so that it needs no frame at all; that the shipped policy was
taught no others keeps it so.

Names of place stand in words, not in coordinates, so that a question is the same in every model's frame of numbers.
Every clip is drawn from its own random stream `(seed, split, task, index)`, as scenes are. What
moves is in `motion`, what is asked in `clip_questions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

import numpy as np
from PIL import Image

from pr1kit.data.clip_questions import ASK, EVENTS, KINDS, PROXY
from pr1kit.data.motion import Motion, Thing, draw_thing, happen, look_through, occluder, paint, resemble
from pr1kit.data.sample import TASKS, VIDEO_TASKS, Sample, Target
from pr1kit.data.scenes import SPLITS

TRIES = 200


def query_kind(sample: Sample) -> str:
    """The kind of a clip's query: `look`, `place`, …, or `proxy`.

    >>> query_kind(make_clips("tracking", 1, kinds=("proxy",))[0])
    'proxy'
    """
    return sample.id.rpartition("/")[2]


def make_clips(
    task: str,
    n: int,
    seed: int = 0,
    split: str = "train",
    *,
    start: int = 0,
    kinds: Sequence[str] | None = None,
    **motion,
) -> list[Sample]:
    """`n` video samples of `tracking`, `when` or `what`, the same for the same arguments.

    `kinds` are those of `KINDS` (all of the task's by default), or `proxy`; `motion` are fields of `Motion`, such as
    `frames=8, size=64`. Tracks are xyxy pixels, NaN where less than a quarter of the object is seen. Raises ValueError
    for an unknown task, split, kind or knob.

    >>> clip = make_clips("tracking", 1, seed=3)[0]
    >>> len(clip.frames), clip.target.tracks[0].boxes.shape
    (8, (8, 4))
    """
    if task not in VIDEO_TASKS:
        raise ValueError(f"Unknown task {task!r}: clips have {', '.join(VIDEO_TASKS)}.")
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: choose one of {', '.join(SPLITS)}.")
    known = {knob.name for knob in fields(Motion)}
    if unknown := set(motion) - known:
        raise ValueError(f"Unknown knob {', '.join(sorted(unknown))}: clips have {', '.join(sorted(known))}.")
    chosen = (kinds,) if isinstance(kinds, str) else tuple(kinds or KINDS[task])
    if odd := set(chosen) - {*KINDS[task], PROXY}:
        raise ValueError(f"Unknown kind {', '.join(sorted(odd))} of {task}: choose of {', '.join(KINDS[task])}, proxy.")
    knobs = Motion(**motion)
    return [_clip(task, seed, split, index, chosen, knobs) for index in range(start, start + n)]


def _clip(task: str, seed: int, split: str, index: int, kinds: tuple[str, ...], knobs: Motion) -> Sample:
    rng = np.random.default_rng([seed, SPLITS.index(split), TASKS.index(task), index])
    kind = kinds[int(rng.integers(len(kinds)))]
    things, front, (question, truth) = draw_clip(task, kind, rng, knobs)
    frames = tuple(Image.fromarray(image) for image in paint(things, front, rng, knobs))
    times = tuple(frame / knobs.fps for frame in range(knobs.frames))
    target = Target(image_size=(knobs.size, knobs.size), **truth)
    return Sample(frames[0], task, question, target, f"clips/{task}/{split}/{seed}/{index}/{kind}", "", frames, times)


def draw_clip(
    task: str, kind: str, rng: np.random.Generator, knobs: Motion
) -> tuple[list[Thing], np.ndarray, tuple[str, dict]]:
    """A clip made for a question: its objects, the one asked for first, the index of the foremost object at each pixel
    `(F, H, W)`, -1 for none, and the question with its truth. Raises ValueError where `TRIES` give none."""
    for _ in range(TRIES):
        things = _things(task, kind, rng, knobs)
        front = look_through(things, knobs)
        if (query := ASK[task](kind, things, rng)) is not None:
            return things, front, query
    raise ValueError(f"No clip of {task} {kind!r} can be made with {knobs}: give objects more room or speed.")


def further_questions(things: list[Thing], rng: np.random.Generator) -> Iterator[tuple[str, str, str, dict]]:
    """What else the same clip can be asked, in a random order: task, kind, question and truth."""
    for number in rng.permutation(len(things)).tolist():
        asked, others = things[number], [*things[:number], *things[number + 1 :]]
        kinds = [(task, kind) for task in KINDS for kind in (*KINDS[task], PROXY)]
        for place in rng.permutation(len(kinds)).tolist():
            task, kind = kinds[place]
            if kind in ("event", "actor") and asked.event not in EVENTS:
                continue
            if (task, kind) == ("tracking", PROXY) and np.ptp(asked.corners, axis=0).any():
                continue
            if (query := ASK[task](kind, [asked, *others], rng)) is not None:
                yield task, kind, *query


def _things(task: str, kind: str, rng: np.random.Generator, knobs: Motion) -> list[Thing]:
    """The objects of a clip, the one asked for first."""
    still = kind == PROXY and task != "what"
    asked = draw_thing(rng, knobs, moves=not still)
    things = [asked]
    event = _asked_event(task, kind, rng)
    if not still and (event == "hides" or (not event and rng.random() < knobs.occlusion)):
        things.append(occluder(asked, rng, knobs))
    if event and event != "hides":
        happen(asked, event, rng, knobs)
    asked.event = event
    count = int(rng.integers(knobs.num_objects[0], knobs.num_objects[1] + 1))
    while len(things) < count:
        other = draw_thing(rng, knobs, moves=rng.random() < knobs.movers)
        if rng.random() < knobs.distractors:
            resemble(other, asked, kind, rng, knobs)
        if rng.random() < knobs.events:
            happen(other, str(rng.choice(["colour", "appears", "disappears"])), rng, knobs)
        other.depth = int(rng.choice([-1, 1]))
        things.append(other)
    return things


def _asked_event(task: str, kind: str, rng: np.random.Generator) -> str:
    """What must happen to the object asked for, so that the question has its answer in time."""
    events = {
        "event": ("colour", "appears", "disappears", "hides"),
        "actor": ("colour", "appears", "disappears", "hides"),
        "action": ("", "colour", "appears", "disappears"),
        "visible": ("appears", "disappears"),
        "hidden": ("hides",),
        "moving": ("stops",),
        "colour": ("colour",),
    }.get(kind, ("",))
    return events[int(rng.integers(len(events)))]
