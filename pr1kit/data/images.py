"""What does the model see of an image file? It upright, in RGB, transparency over white; its boxes turn with it.

Cameras store a photograph as the sensor lay and note in EXIF how to turn it. The kit shows models the upright image, as
every viewer does; boxes annotated on the stored one turn with it (`upright_boxes`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

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
    """The image upright and in RGB: palette, grey, 16-bit grey and CMYK converted, transparency laid over white."""
    if orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey, which a plain conversion would clip to white
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode != "RGB" and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def probe(source: Any, decode: bool = True) -> tuple[tuple[int, int], int]:
    """`((width, height), orientation)` of an image as stored: a path, a PIL image, or what has `.open()`.

    With `decode` every pixel is read, so that a file cut short is found now. Raises FileNotFoundError, and ValueError
    with the reason where the file is no readable image.
    """
    if isinstance(source, Image.Image):
        return source.size, orientation(source)
    try:
        with Image.open(source) if isinstance(source, str | Path) else source.open() as image:
            size, turn = image.size, orientation(image)
            if decode:
                image.load()
    except FileNotFoundError:
        raise FileNotFoundError(f"{source} does not exist") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{source} cannot be read as an image ({error})") from None
    return size, turn
