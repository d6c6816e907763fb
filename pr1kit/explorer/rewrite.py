"""How does a completion read once its boxes were moved by hand? Only what was moved is written anew."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pr1kit.data.boxes import from_pixels, pixels_per_unit
from pr1kit.data.sample import Target
from pr1kit.rewards.notations import MOST_FRAMES, find_fault, read_notation, read_tracks, write_place
from pr1kit.rewards.parsing import LONGEST, locate_answer

_NUMBERED = re.compile(r"(?:track|id)\s{0,9}+([0-9]{1,6}+)", re.IGNORECASE)


def rewrite(text: str, items: Sequence[Mapping], target: Target | Mapping, *, task: str, frame: Any = "pixel") -> str:
    """`text` with its boxes and points replaced by `items`, in the notation that it uses; all around them stays.

    An item is `values` (4 or 2 pixels), `label`, and `place`, its index among `read_out`'s items (None: a new one, in
    tracking in the video's frame `at`, from 0). What is not named any more goes; what could not be read stays as it was
    written. Raises ValueError for values that are no box or point.

    >>> rewrite("<think>hm</think>a cat(1,2),(3,4)", [{"values": [2, 2, 4, 4], "label": "a cat", "place": 0}], {},
    ...         task="grounding")
    '<think>hm</think>a cat(2,2),(4,4)'
    """
    target = Target.of(target)
    region, (start, end), reason = locate_answer(text)
    kept = {item.get("place"): item for item in items if item.get("place") is not None}
    new = [item for item in items if item.get("place") is None]
    write = _tracks if task == "tracking" else _places
    body = write(region, kept, new, target, frame, task)
    closing = "</think>" if reason and text[start:end].lower().startswith("<think>") else ""
    return text[:end] + closing + body + text[end:] if reason else text[:start] + body + text[end:]


def _places(region: str, kept: Mapping, new: Sequence[Mapping], target: Target, frame: Any, task: str) -> str:
    notation, places = read_notation(region[:LONGEST])
    notation = notation or ("json" if task == "detection" else "tokens")
    pieces = []
    for i, place in sorted(enumerate(places), key=lambda pair: pair[1].span):
        if find_fault(place, task == "detection"):
            pieces.append(region[slice(*place.span)])
        elif i in kept:
            pieces.append(_written(kept[i], notation, frame, target.image_size))
    pieces += [_written(item, notation, frame, target.image_size) for item in new]
    body = (", " if notation in ("json", "lists") else "").join(pieces)
    if not pieces:
        return "[]" if notation == "json" else "None"
    if places:
        spans = [place.span for place in places]
        return region[: min(spans)[0]] + body + region[max(last for _, last in spans) :]
    return f"[{body}]" if notation == "json" else body


def _tracks(region: str, kept: Mapping, new: Sequence[Mapping], target: Target, frame: Any, task: str) -> str:
    """A step that did not move stays to the letter. A new box goes into the first track without one in its frame."""
    size, count = target.image_size, len(target.tracks[0]) if target.tracks else MOST_FRAMES
    scale = np.array(pixels_per_unit(frame, size) * 2)
    chain: list[tuple[str, str, int, int]] = []  # what stands before a step, the step ("": gone), its track, its frame
    end = 0
    for i, step in enumerate(read_tracks(region[:LONGEST])):
        start, last = step.place.span
        piece = region[start:last]
        if i in kept:
            moved = _step(step.frame, kept[i], frame, size)
            piece = piece if np.allclose(kept[i]["values"], np.array(step.place.values) * scale) else moved
        elif not find_fault(step.place, False) and step.frame < count:
            piece = ""
        chain.append((region[end:start], piece, step.owner, step.frame))
        end = last
    tail = region[end:] if chain else ""
    for item in new:
        at = item.get("at")
        if not isinstance(at, int) or not 0 <= at < count:
            raise ValueError(f"A box of a track stands in a frame of the video, got {at!r}.")
        piece = _step(at, item, frame, size)
        there = [(owner, when) for _, said, owner, when in chain if said]
        owner = next((each for each, _ in there if (each, at) not in there), None)
        if owner is not None:
            mine = [k for k, (_, said, each, _) in enumerate(chain) if said and each == owner]
            before = [k for k in mine if chain[k][3] < at]
            k = before[-1] + 1 if before else mine[0]
            chain.insert(k, (";" if before else chain[k][0], piece, owner, at))
            if not before:
                chain[k + 1] = (";", *chain[k + 1][1:])
        elif there:
            number = 1 + max(map(int, _NUMBERED.findall(region)), default=1)
            tail += f"Track{number}: <{item.get('label') or ''}><Id{number}>{piece}</Id{number}>"
        else:
            chain, tail = [("", piece, 0, at)], ""
    return _join(chain, tail) if any(piece for _, piece, *_ in chain) else "None"


def _join(chain: Sequence[tuple[str, str, int, int]], tail: str) -> str:
    """The steps with what stands between them: words stay, a separator goes with its step."""
    body, gaps = "", []
    for gap, piece, *_ in (*chain, (tail, "", 0, 0)):
        gaps.append(gap)
        if piece:
            words = [each for each in gaps if each.strip("; ,\n\t")]
            body += gap if len(gaps) == 1 else "".join(words) or (gap if body else "")
            body, gaps = body + piece, []
    return body + (tail if len(gaps) == 1 else "".join(each for each in gaps if each.strip("; ,\n\t")))


def _step(at: int, item: Mapping, frame: Any, size: tuple[int, int] | None) -> str:
    return f"Frame {at + 1}:{_written({**item, 'label': ''}, 'lists', frame, size).replace(' ', '')}"


def _written(item: Mapping, notation: str, frame: Any, size: tuple[int, int] | None) -> str:
    values, label = item.get("values"), item.get("label") or ""
    if not isinstance(values, list) or len(values) not in (2, 4) or not isinstance(label, str):
        raise ValueError(f"A box is four numbers and a label, got {values!r} and {label!r}.")
    if not all(isinstance(value, int | float) and abs(value) < 1e6 for value in values):
        raise ValueError(f"A box is four finite numbers, got {values!r}.")
    return write_place(notation, from_pixels(np.array([values], float), frame, size)[0].tolist(), label)
