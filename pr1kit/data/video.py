"""Frames of a video and their seconds: from a folder of pictures, an animated picture (GIF, WebP, PNG), a film (MP4…).

    uniform   evenly from the first frame to the last
    fps       the first frame of every 1/fps seconds
    key       key frames of the film, evenly among them where there are more than wanted

Films are decoded by PyAV, which brings FFmpeg's libraries: an extra, `pip install 'pr1kit[video]'`, since frames are
more often kept as pictures, which need nothing. torchcodec was the other choice; it wants FFmpeg installed and one
release of torch.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageSequence

from pr1kit.data.images import MAX_PIXELS, image_size, opened, to_rgb
from pr1kit.data.sample import MOST_FRAMES

SAMPLINGS = ("uniform", "fps", "key")
PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
ANIMATED = (".apng", ".gif", ".png", ".webp")
FOLDER_FPS = 1.0  # frames a second of a folder of which nobody says it
STILL = 0.1  # seconds that a frame is shown where an animated picture says none, as browsers have it


def read_video(
    path: str | Path,
    frames: int = 8,
    *,
    sampling: str = "uniform",
    fps: float | None = None,
    source_fps: float = FOLDER_FPS,
) -> tuple[tuple, tuple[float, ...]]:
    """`(frames, times)` for a `Sample`: at most `frames` pictures of one size, and the second of each.

    `path` is a folder of pictures, in the order of the numbers in their names and `source_fps` a second (these stay on
    disk), an animated picture, or a film. `sampling` is one of `SAMPLINGS`; `fps` is how many frames a second to take,
    up to `frames`, and means sampling "fps". Raises FileNotFoundError, ImportError (a film without PyAV), or ValueError
    that names the file: what cannot be decoded, one frame, frames of different sizes, more than `MOST_FRAMES`.
    """
    sampling = "fps" if fps is not None else sampling
    if sampling not in SAMPLINGS:
        raise ValueError(f"Unknown sampling {sampling!r}: choose one of {', '.join(SAMPLINGS)}.")
    if not isinstance(frames, int) or not 2 <= frames <= MOST_FRAMES:
        raise ValueError(f"A video is read as 2 to {MOST_FRAMES:,} frames, got {frames!r}: sample fewer.")
    if sampling == "fps" and not (fps is not None and fps > 0):
        raise ValueError(f"Sampling by fps needs fps, frames a second above 0, got {fps!r}.")
    path = Path(path).expanduser()
    if not os.path.exists(path):
        raise FileNotFoundError(f"The video {str(path)[:300]!r} does not exist.")
    if os.path.isdir(path):
        return _folder(path, frames, sampling, fps, source_fps)
    if path.suffix.lower() in ANIMATED:
        return _animated(path, frames, sampling, fps)
    return _film(path, frames, sampling, fps)


def choose_frames(
    times: Sequence[float], frames: int, sampling: str = "uniform", fps: float | None = None, keys: Sequence[int] = ()
) -> list[int]:
    """The indices of at most `frames` frames of those at the seconds `times`; `keys` are those of key frames.

    >>> choose_frames([0, 1, 2, 3, 4], 3), choose_frames([0, 0.4, 0.8, 1.2], 8, "fps", 1.0)
    ([0, 2, 4], [0, 3])
    """
    if sampling == "fps" and fps:
        marks = times[0] + np.arange(frames) / fps
        found = np.searchsorted(np.asarray(times), marks - 1e-6)
        return sorted({int(i) for i in found if i < len(times)})
    among = list(keys) if sampling == "key" else list(range(len(times)))
    chosen = np.rint(np.linspace(0, len(among) - 1, min(frames, len(among)))).astype(int)
    return [among[i] for i in chosen.tolist()]


def _checked(path: Path, times: Sequence[float]) -> None:
    if len(times) < 2:
        count = f"{len(times)} frame{'s' * (len(times) != 1)}"
        raise ValueError(f"The video {str(path)!r} has {count}: it needs two or more.")
    for before, after in pairwise(times):
        if not before < after < math.inf:
            raise ValueError(f"Times of the video {str(path)!r} run backwards: {after:g} s after {before:g} s.")


def _folder(path: Path, frames: int, sampling: str, fps: float | None, source_fps: float) -> tuple[tuple, tuple]:
    if not source_fps > 0:
        raise ValueError(f"source_fps is the frames a second of the folder, above 0, got {source_fps!r}.")
    files = sorted((file for file in path.iterdir() if file.suffix.lower() in PICTURES), key=_number)
    times = [i / source_fps for i in range(len(files))]
    _checked(path, times)
    if sampling == "key":
        raise ValueError(f"The folder {str(path)!r} has no key frames: sample it uniform or by fps.")
    chosen = choose_frames(times, frames, sampling, fps)
    same_size([files[i] for i in chosen], str(path))
    return tuple(str(files[i]) for i in chosen), tuple(times[i] for i in chosen)


def same_size(files: Sequence[Any], name: str) -> tuple[int, int]:
    """The one `(width, height)` of pictures, from their headers. Raises ValueError where they differ."""
    first = image_size(files[0])
    for file in files[1:]:
        if (size := image_size(file)) != first:
            raise ValueError(f"Frames of {name!r} must have one size: the first has {first}, {str(file)!r} {size}.")
    return first


def _number(file: Path) -> tuple:
    """Names in the order of the numbers in them: 2 before 10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"([0-9]{1,18})", file.name))


def _animated(path: Path, frames: int, sampling: str, fps: float | None) -> tuple[tuple, tuple]:
    if sampling == "key":
        raise ValueError(f"The animated picture {str(path)!r} has no key frames: sample it uniform or by fps.")
    with opened(path, f"The video {str(path)!r}") as film:
        count = getattr(film, "n_frames", 1)
        if count > 100 * MOST_FRAMES:
            raise ValueError(f"it has {count:,} frames")
        pauses = []
        for step in ImageSequence.Iterator(film):
            pauses.append((step.info.get("duration") or 1000 * STILL) / 1000)
        times = [0.0, *np.cumsum(pauses)[:-1].tolist()]
    _checked(path, times)
    chosen, shown = choose_frames(times, frames, sampling, fps), {}
    with opened(path, f"The video {str(path)!r}") as film:
        for index, step in enumerate(ImageSequence.Iterator(film)):
            step.load()  # each is drawn over the one before: none may be passed over
            if index in chosen:
                shown[index] = to_rgb(step.convert("RGBA") if step.mode == "P" else step.copy())
    return tuple(shown[i] for i in chosen), tuple(times[i] for i in chosen)


def _film(path: Path, frames: int, sampling: str, fps: float | None) -> tuple[tuple, tuple]:
    try:
        import av
    except ImportError:
        raise ImportError(
            f"The film {str(path)!r} is decoded by PyAV: install it with pip install 'pr1kit[video]', or give its "
            "frames as a folder of pictures."
        ) from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("it has no video stream")
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                raise ValueError(f"its frames have more than {MAX_PIXELS:,} pixels")
            packets = sorted((p.pts, p.is_keyframe) for p in container.demux(stream) if p.pts is not None)
            base = float(stream.time_base or 1)
            start = packets[0][0] if packets else 0
            times = [(pts - start) * base for pts, _ in packets]
            keys = [i for i, (_, key) in enumerate(packets) if key]
            chosen = choose_frames(times, frames, sampling, fps, keys) if packets else []
            wanted = {packets[i][0]: times[i] for i in chosen}
            container.seek(0)
            shown = {}
            for frame in container.decode(stream):
                if frame.pts in wanted:
                    turn = getattr(frame, "rotation", 0) or 0  # phones store frames as the sensor lay
                    image = frame.to_image()
                    shown[frame.pts] = image.rotate(turn, expand=True) if turn else image
                if len(shown) == len(wanted):
                    break
    except (av.error.FFmpegError, ValueError, OSError, MemoryError) as error:
        said = getattr(error, "strerror", None) or str(error)  # FFmpeg's words without its number and the path again
        reason = said.splitlines()[0] if said else type(error).__name__
        raise ValueError(f"The video {str(path)!r} cannot be decoded: {reason}.") from None
    found = sorted(shown)
    if len(found) < len(wanted):
        lost = f"{len(wanted) - len(found)} of {len(wanted)}"
        raise ValueError(f"The video {str(path)!r} cannot be decoded: {lost} frames are damaged.")
    _checked(path, [wanted[pts] for pts in found])
    return tuple(shown[pts] for pts in found), tuple(wanted[pts] for pts in found)
