"""What does the model see of an image file? It upright, in RGB, transparency over white; its boxes turn with it.

Cameras store a photograph as the sensor lay and note in EXIF how to turn it. The kit shows models the upright image, as
every viewer does; boxes annotated on the stored one turn with it (`upright_boxes`).
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = int(os.environ.get("PR1KIT_MAX_PIXELS") or 80_000_000)  # of every image that the kit opens; 240 MB as RGB
if Image.MAX_IMAGE_PIXELS is not None:  # Pillow's own limit: it refuses twice as many
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)
LARGEST_SIDE, LOSSLESS_SIDE = 1400, 512  # pixels of a picture in a page
ORIENTATION = 0x0112  # the EXIF tag
# Orientation: the upright image as (x and y swapped first?, then x mirrored?, then y mirrored?).
TURNS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none or it cannot be read."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises many kinds on damaged EXIF; the picture itself may be whole
        return 1
    return value if value in TURNS else 1


def upright_size(size: tuple[int, int], turn: int) -> tuple[int, int]:
    """`(width, height)` once an image stored with EXIF orientation `turn` is upright.

    >>> upright_size((640, 480), 6)
    (480, 640)
    """
    return size[::-1] if TURNS.get(turn, (False,))[0] else tuple(size)


def upright_points(points: np.ndarray, turn: int, size: tuple[int, int]) -> np.ndarray:
    """Points `(N, 2)` in pixels of the stored image of `size`, in pixels of the upright one.

    >>> upright_points(np.array([[0.0, 0.0]]), 6, (640, 480)).tolist()
    [[480.0, 0.0]]
    """
    points = np.array(points, float).reshape(-1, 2)
    swap, mirror_x, mirror_y = TURNS.get(turn, (False, False, False))
    if swap:
        points = points[:, ::-1]
    width, height = upright_size(size, turn)
    x = width - points[:, 0] if mirror_x else points[:, 0]
    y = height - points[:, 1] if mirror_y else points[:, 1]
    return np.stack([x, y], axis=1)


def upright_boxes(boxes: np.ndarray, turn: int, size: tuple[int, int]) -> np.ndarray:
    """Boxes `(N, 4)` in pixels of the stored image of `size`, in pixels of the upright one.

    >>> upright_boxes(np.array([[0, 0, 10, 20.0]]), 6, (640, 480)).tolist()
    [[460.0, 0.0, 480.0, 10.0]]
    """
    corners = upright_points(np.reshape(boxes, (-1, 2)), turn, size).reshape(-1, 2, 2)
    return np.concatenate([corners.min(1), corners.max(1)], axis=1)


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright and in RGB: palette, grey, 16-bit and float grey and CMYK converted, transparency over white.

    Raises ValueError for more than `MAX_PIXELS`, and for values of 32 bits whose white is not known.
    """
    _check_pixels(image.size)
    if orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        image = Image.fromarray(_eight_bits(np.asarray(image), image.mode))
    if image.mode != "RGB" and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey of 16 or 32 bits, whole or float, as uint8; a plain conversion would clip it to white or black."""
    low, high = float(values.min()), float(values.max())
    if mode.startswith("I;"):
        white = 65535
    elif not 0 <= low <= high <= (255 if mode == "F" else 65535):  # also where any value is NaN
        raise ValueError(f"its {mode} pixels run from {low:g} to {high:g}: save it with 8 or 16 bits, or float in 0–1")
    else:
        white = 1 if mode == "F" and high <= 1 else 255 if high <= 255 else 65535
    return np.floor(values * (255 / white) + 1e-9).clip(0, 255).astype(np.uint8)


@contextmanager
def opened(source: Any, name: str | None = None) -> Iterator[Image.Image]:
    """The PIL image of a path, of what has `.open()`, or as it is, not yet decoded; closed at the end.

    Whatever goes wrong inside is raised as FileNotFoundError or ValueError, one sentence that begins with `name`.
    """
    name = str(source)[:300] if name is None else name
    try:
        if isinstance(source, Image.Image):
            yield source
            return
        with Image.open(source) if isinstance(source, str | Path) else source.open() as image:
            _check_pixels(image.size)
            yield image
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} does not exist.") from None
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        if isinstance(error, Image.DecompressionBombError):
            error = f"it has more than {MAX_PIXELS:,} pixels"
        raise ValueError(f"{name} cannot be read as an image ({str(error) or type(error).__name__}).") from None


def load_image(source: Any, name: str | None = None) -> Image.Image:
    """The image at `source` (see `opened`) as the model sees it: decoded, upright, RGB."""
    with opened(source, name) as image:
        return to_rgb(image)


def probe(source: Any, decode: bool = True) -> tuple[tuple[int, int], int]:
    """`((width, height), orientation)` of an image as stored: a path, a PIL image, or what has `.open()`.

    With `decode` every pixel is read, so that a file cut short is found now; else the header alone. Raises as `opened`.
    """
    with opened(source) as image:
        size, turn = image.size, orientation(image)
        if decode and not isinstance(source, Image.Image):
            to_rgb(image) if image.mode[0] in "IF" else image.load()
    return size, turn


def image_size(source: Any) -> tuple[int, int]:
    """`(width, height)` of the upright image at `source`, from its header. Raises as `opened`."""
    return upright_size(*probe(source, decode=False))


def picture_url(image: Image.Image, largest: int = LARGEST_SIDE) -> str:
    """An image as a `data:` address for a page, scaled down to `largest` pixels; a small one keeps every pixel."""
    small, buffer = image.copy(), io.BytesIO()
    small.thumbnail((largest, largest))
    kind = "png" if max(small.size) <= LOSSLESS_SIDE else "jpeg"
    small.save(buffer, kind.upper(), quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def in_threads(function: Callable, items: Sequence) -> Iterator:
    """`function` of each item, in order: reading, decoding and hashing leave the interpreter lock."""
    with ThreadPoolExecutor(8) as pool:
        for start in range(0, len(items), 4096):  # a pool holds what it has been given
            yield from pool.map(function, items[start : start + 4096])


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"{size[0]}x{size[1]} is more than the limit of {MAX_PIXELS:,} pixels: "
            "make it smaller, or set the environment variable PR1KIT_MAX_PIXELS"
        )
