"""The objects of a clip: how they move, come and go, hide and change colour, and what is seen of them in each frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pr1kit.data.scenes import COLOURS, SHAPES, background, shape_mask
from pr1kit.data.tracks import Track

SEEN = 0.25  # share of an object's pixels from which it counts as visible


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


def draw_thing(rng: np.random.Generator, knobs: Motion, moves: bool) -> Thing:
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


def occluder(asked: Thing, rng: np.random.Generator, knobs: Motion) -> Thing:
    """A still square before the object asked for, over its place in one of the frames between."""
    side = min(asked.side + int(rng.integers(2, 6)), knobs.size - 1)
    frame = int(rng.integers(1, knobs.frames - 1))
    corner = np.clip(asked.corners[frame] + (asked.side - side) // 2, 0, knobs.size - side)
    others = [name for name in COLOURS if name not in asked.colours]
    colours = [others[int(rng.integers(len(others)))]] * knobs.frames
    return Thing("square", side, np.tile(corner, (knobs.frames, 1)), colours, np.ones(knobs.frames, bool), depth=-1)


def happen(thing: Thing, event: str, rng: np.random.Generator, knobs: Motion) -> None:
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


def resemble(other: Thing, asked: Thing, kind: str, rng: np.random.Generator, knobs: Motion) -> None:
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


def look_through(things: list[Thing], knobs: Motion) -> np.ndarray:
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


def track_of(thing: Thing) -> Track:
    """Its track under its first visible look; not seen where hidden or away."""
    seen = np.flatnonzero(thing.visible)
    boxes = np.where(thing.visible[:, None], thing.boxes, np.nan)
    return Track(boxes, thing.look(int(seen[0])) if len(seen) else thing.look(0))
