"""What a clip can be asked: one object named by look, place or event, and the truth about it.

Each `_ask_…` gives the question about the first of a clip's objects and its truth (fields of `Target`), None where the
clip does not answer it beyond doubt. For the kinds of questions see `clips`.
"""

from __future__ import annotations

import numpy as np

from pr1kit.data.motion import Thing, track_of
from pr1kit.data.tracks import spans_of

KINDS = {
    "tracking": ("look", "place", "event"),
    "when": ("visible", "hidden", "moving", "colour"),
    "what": ("actor", "action"),
}
PROXY = "proxy"
EVENTS = {"colour": "changes colour", "appears": "appears", "disappears": "disappears", "hides": "hides"}
PLACES = {"leftmost": (0, -1), "rightmost": (0, 1), "topmost": (1, -1), "lowest": (1, 1)}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
CLEAR = 2  # pixels by which an object is the leftmost, and so on


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
    return named and (named[1], {"tracks": (track_of(asked),)})


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
    return f"is {words}", {"spans": spans_of(holds), "tracks": (track_of(asked),)}


def _ask_what(kind: str, things: list[Thing], rng: np.random.Generator) -> tuple[str, dict] | None:
    asked = things[0]
    if kind == "actor":
        if not _alone_in_event(things):
            return None
        look = f"{asked.colours[0]}, {asked.shape}"
        return f"Which object {EVENTS[asked.event]}", {"text": look, "tracks": (track_of(asked),)}
    if (named := _named_by_place(things, rng)) is None:
        return None
    frame, name = named
    if kind == PROXY:
        return f"What is {name}", {"text": asked.look(frame).replace(" ", ", "), "tracks": (track_of(asked),)}
    if (done := _deeds(asked)) is None:
        return None
    return f"What does {name} do", {"text": ", ".join(done), "tracks": (track_of(asked),)}


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
