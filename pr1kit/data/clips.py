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

Names of place stand in words, not in coordinates, so that a question is the same in every model's frame of numbers.
Every clip is drawn from its own random stream `(seed, split, task, index)`, as scenes are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from PIL import Image

from pr1kit.data.sample import TASKS, VIDEO_TASKS, Sample, Target
from pr1kit.data.scenes import COLOURS, SHAPES, SPLITS, background, shape_mask
from pr1kit.data.tracks import Track, spans_of

KINDS = {
    "tracking": ("look", "place", "event"),
    "when": ("visible", "hidden", "moving", "colour"),
    "what": ("actor", "action"),
}
PROXY = "proxy"
EVENTS = {"colour": "changes colour", "appears": "appears", "disappears": "disappears", "hides": "hides"}
PLACES = {"leftmost": (0, -1), "rightmost": (0, 1), "topmost": (1, -1), "lowest": (1, 1)}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SEEN = 0.25  # share of an object's pixels from which it counts as visible
CLEAR = 2  # pixels by which an object is the leftmost, and so on
TRIES = 200


@dataclass(frozen=True)
class Motion:
    """The knobs of a clip; ranges are inclusive.

    `frames`: how many; `fps`: frames a second, for their times; `size`: side of the square image in pixels;
    `num_objects`; `sides`: of an object, in pixels; `speed`: of a moving one, in pixels a frame; `turns`: the chance
    that it turns on its way; `occlusion`: the chance that a mover passes behind another object; `distractors`: the
    chance that another object looks the same, in one of two respects or in both, and crosses its way; `movers`: the
    share of the other objects that move; `events`: the chance that one of them changes colour, appears or disappears.
    """

    frames: int = 8
    fps: float = 2.0
    size: int = 64
    num_objects: tuple[int, int] = (2, 3)
    sides: tuple[int, int] = (12, 20)
    speed: tuple[float, float] = (3.0, 7.0)
    turns: float = 0.25
    occlusion: float = 0.25
    distractors: float = 0.5
    movers: float = 0.5
    events: float = 0.25

    def __post_init__(self):
        for name in ("num_objects", "sides", "speed"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"Motion {name} must be a range (low, high) above 0, got {(low, high)}.")
        if self.sides[1] >= self.size:
            raise ValueError(f"Motion sides {self.sides} do not fit frames of {self.size} pixels.")
        if not 3 <= self.frames <= 1000:
            raise ValueError(f"A clip has 3 to 1,000 frames, got {self.frames}.")
        if not self.fps > 0:
            raise ValueError(f"Motion fps must be above 0, got {self.fps}.")


@dataclass
class Thing:
    """One object of a clip: `corners` (F, 2) of its box, `colours` F names, whether it is `there` (F,), its `event`.

    One of a greater `depth` is drawn before those of a lesser one; `visible` (F,) is where enough of it is seen.
    """

    shape: str
    side: int
    corners: np.ndarray
    colours: list[str]
    there: np.ndarray
    event: str = ""
    depth: int = 0
    visible: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def boxes(self) -> np.ndarray:
        """`(F, 4)` xyxy pixels, where it is and is not seen alike."""
        return np.concatenate([self.corners, self.corners + self.side], axis=1).astype(float)

    def look(self, frame: int) -> str:
        return f"{self.colours[frame]} {self.shape}"


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
        front = _look_through(things, knobs)
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
    asked = _thing(rng, knobs, moves=not still)
    things = [asked]
    event = _asked_event(task, kind, rng)
    if not still and (event == "hides" or (not event and rng.random() < knobs.occlusion)):
        things.append(_occluder(asked, rng, knobs))
    if event and event != "hides":
        _happen(asked, event, rng, knobs)
    asked.event = event
    count = int(rng.integers(knobs.num_objects[0], knobs.num_objects[1] + 1))
    while len(things) < count:
        other = _thing(rng, knobs, moves=rng.random() < knobs.movers)
        if rng.random() < knobs.distractors:
            _resemble(other, asked, kind, rng, knobs)
        if rng.random() < knobs.events:
            _happen(other, str(rng.choice(["colour", "appears", "disappears"])), rng, knobs)
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


def _thing(rng: np.random.Generator, knobs: Motion, moves: bool) -> Thing:
    colour, shape = (names[int(rng.integers(len(names)))] for names in (tuple(COLOURS), SHAPES))
    side = int(rng.integers(knobs.sides[0], knobs.sides[1] + 1))
    corners = _way(rng, knobs, side) if moves else np.tile(rng.integers(0, knobs.size - side + 1, 2), (knobs.frames, 1))
    return Thing(shape, side, corners, [colour] * knobs.frames, np.ones(knobs.frames, bool))


def _way(rng: np.random.Generator, knobs: Motion, side: int) -> np.ndarray:
    """Corners `(F, 2)` of a way along one axis, with a turn to the other where wanted, that stays in the picture."""
    first, second = rng.permutation(2)
    speeds = rng.uniform(*knobs.speed, 2) * rng.choice([-1, 1], 2)
    steps = np.zeros((knobs.frames, 2))
    turn = int(rng.integers(2, knobs.frames - 1)) if rng.random() < knobs.turns and knobs.frames > 3 else knobs.frames
    steps[1:turn, first], steps[turn:, second] = speeds[0], speeds[1]
    way, room = steps.cumsum(0), knobs.size - side
    extent = np.ptp(way, axis=0)
    way *= np.minimum(1, room / np.maximum(extent, 1e-9))  # slower, where the picture is too small
    free = room - np.ptp(way, axis=0)
    return np.rint(way - way.min(0) + rng.random(2) * free).astype(int)


def _occluder(asked: Thing, rng: np.random.Generator, knobs: Motion) -> Thing:
    """A still square before the object asked for, over its place in one of the frames between."""
    side = min(asked.side + int(rng.integers(2, 6)), knobs.size - 1)
    frame = int(rng.integers(1, knobs.frames - 1))
    corner = np.clip(asked.corners[frame] + (asked.side - side) // 2, 0, knobs.size - side)
    others = [name for name in COLOURS if name not in asked.colours]
    colours = [others[int(rng.integers(len(others)))]] * knobs.frames
    return Thing("square", side, np.tile(corner, (knobs.frames, 1)), colours, np.ones(knobs.frames, bool), depth=-1)


def _happen(thing: Thing, event: str, rng: np.random.Generator, knobs: Motion) -> None:
    """Let it appear, disappear, stop or change its colour at a frame between the first and the last."""
    thing.event, at = event, int(rng.integers(1, knobs.frames))
    if event == "colour":
        others = [name for name in COLOURS if name != thing.colours[0]]
        thing.colours[at:] = [others[int(rng.integers(len(others)))]] * (knobs.frames - at)
    elif event == "appears":
        thing.there[:at] = False
    elif event == "disappears":
        thing.there[at:] = False
    elif rng.random() < 0.5:
        thing.corners[at:] = thing.corners[at]  # goes on until then
    else:
        thing.corners[:at] = thing.corners[at]  # goes from then on


def _resemble(other: Thing, asked: Thing, kind: str, rng: np.random.Generator, knobs: Motion) -> None:
    """Let `other` share the colour or the shape, or both where the name is one of place, and cross its way."""
    alike = int(rng.integers(3)) if kind == "place" else int(rng.integers(2))
    if alike != 1:
        other.colours[:] = asked.colours
    if alike != 0:
        other.shape = asked.shape
    frame = int(rng.integers(knobs.frames))
    shift = asked.corners[frame] - other.corners[frame]
    room = knobs.size - other.side
    shift = np.clip(shift, -other.corners.min(0), room - other.corners.max(0))
    other.corners = other.corners + shift


def _look_through(things: list[Thing], knobs: Motion) -> np.ndarray:
    """Set in which frames each is seen; the index of the foremost object at each pixel, -1 for none: `(F, H, W)`."""
    front = np.full((knobs.frames, knobs.size, knobs.size), -1, np.int8)
    for number, thing in sorted(enumerate(things), key=lambda each: -each[1].depth):
        mask = shape_mask(thing.shape, thing.side)
        for frame in np.flatnonzero(thing.there).tolist():
            x, y = thing.corners[frame].tolist()
            front[frame, y : y + thing.side, x : x + thing.side][mask] = number
    for number, thing in enumerate(things):
        whole = int(shape_mask(thing.shape, thing.side).sum())
        thing.visible = (front == number).sum((1, 2)) >= SEEN * whole
    return front


def paint(things: list[Thing], front: np.ndarray, rng: np.random.Generator, knobs: Motion) -> np.ndarray:
    """The frames `(F, H, W, 3)` uint8; each has its own noise."""
    images = background(knobs.size) + rng.normal(0, 6, (knobs.frames, knobs.size, knobs.size, 1))
    images = np.clip(images, 0, 255).astype(np.uint8)
    paints = np.array([[COLOURS[name] for name in thing.colours] for thing in things], np.uint8)  # (N, F, 3)
    frame, y, x = np.nonzero(front >= 0)
    images[frame, y, x] = paints[front[frame, y, x], frame]
    return images


def _track(thing: Thing) -> Track:
    """Its track under its first visible look; not seen where hidden or away."""
    seen = np.flatnonzero(thing.visible)
    boxes = np.where(thing.visible[:, None], thing.boxes, np.nan)
    return Track(boxes, thing.look(int(seen[0])) if len(seen) else thing.look(0))


def _named_by_look(things: list[Thing], rng: np.random.Generator) -> tuple[int, str] | None:
    """A frame in which the first object is the only one seen of its colour and shape, and that name."""
    asked, *others = things
    frames = [
        frame
        for frame in np.flatnonzero(asked.visible).tolist()
        if not any(other.visible[frame] and other.look(frame) == asked.look(frame) for other in others)
    ]
    if not frames:
        return None
    frame = frames[int(rng.integers(len(frames)))]
    return frame, f"the {asked.look(frame)} in frame {frame + 1}"


def _named_by_place(things: list[Thing], rng: np.random.Generator) -> tuple[int, str] | None:
    """A frame in which the first object lies clearly farthest to one side of all that are seen, and that name."""
    names = []
    for frame in np.flatnonzero(things[0].visible).tolist():
        seen = [thing for thing in things[1:] if thing.visible[frame]]
        if not seen:
            continue
        centre = things[0].corners[frame] + things[0].side / 2
        rest = np.array([thing.corners[frame] + thing.side / 2 for thing in seen])
        for name, (axis, sign) in PLACES.items():
            if (sign * (centre[axis] - rest[:, axis])).min() >= CLEAR:
                names.append((frame, f"the {name} object in frame {frame + 1}"))
    return names[int(rng.integers(len(names)))] if names else None


def _alone_in_event(things: list[Thing]) -> bool:
    """Whether what happens to the first object is seen, and happens to no other one."""
    asked, *others = things
    return _seen_event(asked, asked.event) and not any(_seen_event(other, asked.event) for other in others)


def _seen_event(thing: Thing, event: str) -> bool:
    """Whether the frames show that it happens: a change of colour needs a sight of both."""
    seen = thing.visible
    if not seen.any():
        return False
    first, last = np.flatnonzero(seen)[[0, -1]].tolist()
    if event == "colour":
        return len({thing.colours[frame] for frame in np.flatnonzero(seen).tolist()}) > 1
    if event == "appears":
        return first > 0
    if event == "disappears":
        return last < len(seen) - 1
    return not seen[first : last + 1].all()


def _ask_tracking(kind: str, things: list[Thing], rng: np.random.Generator) -> tuple[str, dict] | None:
    asked = things[0]
    if asked.visible.sum() < 2:
        return None
    if kind == "event":
        named = (0, f"the object that {EVENTS[asked.event]}") if _alone_in_event(things) else None
    elif kind == PROXY:
        named = _named_by_look(things, rng) if asked.visible.all() else None
    else:
        named = (_named_by_look if kind == "look" else _named_by_place)(things, rng)
    return named and (named[1], {"tracks": (_track(asked),)})


def _ask_when(kind: str, things: list[Thing], rng: np.random.Generator) -> tuple[str, dict] | None:
    asked = things[0]
    looks = {asked.look(frame) for frame in range(len(asked.there))}
    if any(looks & {other.look(frame) for frame in range(len(other.there))} for other in things[1:]):
        return None  # its name must be its own all the time
    name = f"the {asked.look(0)}"
    if kind == "colour":
        shapes = [thing.shape for thing in things]
        colour = asked.colours[int(rng.integers(2)) - 1]
        holds = asked.visible & np.array([each == colour for each in asked.colours])
        words, fits = f"the {asked.shape} {colour}", shapes.count(asked.shape) == 1 and _seen_event(asked, "colour")
    elif kind == "moving":
        moved = np.abs(np.diff(asked.corners, axis=0)).sum(1) > 0
        holds = np.concatenate([[False], moved])
        words, fits = f"{name} elsewhere than in the frame before", asked.visible.all() and not moved.all()
    elif kind == "hidden":
        holds = ~asked.visible
        words, fits = f"{name} hidden", _seen_event(asked, "hides") and bool(asked.visible[[0, -1]].all())
    else:
        holds = asked.visible
        words, fits = f"{name} visible", holds.all() == (kind == PROXY)
    if not fits or not holds.any():
        return None
    return f"is {words}", {"spans": spans_of(holds), "tracks": (_track(asked),)}


def _ask_what(kind: str, things: list[Thing], rng: np.random.Generator) -> tuple[str, dict] | None:
    asked = things[0]
    if kind == "actor":
        if not _alone_in_event(things):
            return None
        look = f"{asked.colours[0]}, {asked.shape}"
        return f"Which object {EVENTS[asked.event]}", {"text": look, "tracks": (_track(asked),)}
    if (named := _named_by_place(things, rng)) is None:
        return None
    frame, name = named
    if kind == PROXY:
        return f"What is {name}", {"text": asked.look(frame).replace(" ", ", "), "tracks": (_track(asked),)}
    if (done := _deeds(asked)) is None:
        return None
    return f"What does {name} do", {"text": ", ".join(done), "tracks": (_track(asked),)}


def _deeds(thing: Thing) -> list[str] | None:
    """What a moving object is seen to do, its directions in their order, then its event; None where that is unclear."""
    seen = np.flatnonzero(thing.visible)
    if len(seen) < 3 or not thing.visible[seen[0] : seen[-1] + 1].all():
        return None
    steps = np.sign(np.diff(thing.corners[seen], axis=0))
    names = [name for step in steps for name, way in DIRECTIONS.items() if tuple(step.tolist()) == way]
    if len(names) < len(steps):
        return None
    said = [f"moves {name}" for name in dict.fromkeys(names)]
    for event in ("colour", "appears", "disappears"):
        if _seen_event(thing, event):
            said.append(f"becomes {thing.colours[seen[-1]]}" if event == "colour" else event)
    return said


ASK = {"tracking": _ask_tracking, "when": _ask_when, "what": _ask_what}
