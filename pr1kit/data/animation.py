"""Frames as one moving picture: GIF for pages and files, PNG (animated) for what shows PNG alone, as GitHub does."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import pairwise

from PIL import Image

COLOURS = 128  # of all frames together
LARGEST_SIDE = 480  # pixels


def animation_bytes(
    frames: Sequence[Image.Image], times: Sequence[float], kind: str = "GIF", kept: Sequence[tuple[int, ...]] = ()
) -> bytes:
    """RGB frames of one size, each shown until the second of the next, for ever; `kind` is "GIF" or "PNG".

    Longer sides than `LARGEST_SIDE` are scaled down; all frames share one palette of `COLOURS`, besides those `kept`.

    >>> animation_bytes([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), "red")], [0, 0.5])[:6]
    b'GIF89a'
    """
    small = []
    for frame in frames:
        frame = frame.convert("RGB")
        frame.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        small.append(frame)
    width, height = small[0].size
    film = Image.new("RGB", (width, height * len(small)))
    for number, frame in enumerate(small):
        film.paste(frame, (0, number * height))
    palette = Image.new("P", (1, 1))
    own = film.quantize(COLOURS).getpalette() or []
    palette.putpalette(own[: 3 * COLOURS] + [value for colour in kept for value in colour[:3]])
    film = film.quantize(palette=palette, dither=Image.Dither.NONE)
    steps = [film.crop((0, number * height, width, (number + 1) * height)) for number in range(len(small))]
    pauses = [max(20, round(1000 * (b - a))) for a, b in pairwise(times)]
    buffer, duration = io.BytesIO(), [*pauses, pauses[-1] if pauses else 500]
    steps[0].save(buffer, kind, save_all=True, append_images=steps[1:], duration=duration, loop=0)
    return buffer.getvalue()


def animation_url(frames: Sequence[Image.Image], times: Sequence[float]) -> str:
    """The GIF of `animation_bytes` as a `data:` address for a page."""
    return f"data:image/gif;base64,{base64.b64encode(animation_bytes(frames, times)).decode()}"
