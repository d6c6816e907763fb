"""Video samples from people's tracks: each video is cut into clips, and each clip asked about its tracks.

load_videos("MOT17/train", "tracking")                      MOT challenge sequences
load_videos("instances.json", "when", images="JPEGImages")  COCO-style video JSON (YouTube-VIS)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from pr1kit.data.assemble import Samples
from pr1kit.data.images import image_size
from pr1kit.data.layouts.video import TrackedVideo, find_file, find_sequences, read_mot, read_vis
from pr1kit.data.queries import ask_about_tracks
from pr1kit.data.sample import MOST_FRAMES, VIDEO_TASKS, Sample, Target
from pr1kit.data.tracks import Track

VIS_FPS = 6.0  # YouTube-VIS annotates every fifth frame of 30 a second


def load_videos(
    path: str | Path,
    task: str = "tracking",
    *,
    frames: int = 8,
    fps: float | None = 2.0,
    images: str | Path | None = None,
    limit: int | None = None,
    shuffle_seed: int | None = None,
) -> Samples:
    """Samples of `tracking`, `when` or `what` from the tracks of videos, frames as paths, not yet decoded.

    A video is cut into clips of `frames` frames, `fps` a second (None: every one; never more than it has), one after
    another; each object of a clip that its first frames tell apart is a sample. `path` is a folder of MOT sequences or
    a COCO-style JSON, whose frames lie below `images` (by default beside the file). Raises FileNotFoundError or
    ValueError: no such layout, damaged tracks of a sequence, nothing to ask. A clip whose frames are missing or of
    another size is left out, and named in `.skipped`. `limit` takes the first so many samples, with `shuffle_seed` so
    many at random, in their order.
    """
    if task not in VIDEO_TASKS:
        raise ValueError(f"Videos are asked {', '.join(VIDEO_TASKS)}, not {task!r}.")
    if not isinstance(frames, int) or not 2 <= frames <= MOST_FRAMES:
        raise ValueError(f"A clip has 2 to {MOST_FRAMES:,} frames, got {frames!r}.")
    if fps is not None and not fps > 0:
        raise ValueError(f"fps is how many frames a second to take, above 0, got {fps!r}.")
    path = Path(path).expanduser()
    skipped: list[tuple[str, str]] = []
    if os.path.isdir(path):
        videos: Sequence[TrackedVideo] = [read_mot(folder) for folder in find_sequences(path)]
        if not videos:
            raise ValueError(f"The folder {str(path)!r} holds no MOT sequence: none has a seqinfo.ini.")
        folders = []
    else:
        videos = read_vis(path, VIS_FPS, skipped)
        folders = [Path(images).expanduser()] if images is not None else [path.parent, path.parent / "JPEGImages"]
    every = (each for video in videos for each in _samples(video, task, frames, fps, folders, skipped))
    samples = list(islice(every, limit if shuffle_seed is None else None))
    if limit is not None and len(samples) > limit:
        chosen = np.random.default_rng(shuffle_seed).choice(len(samples), limit, replace=False)
        samples = [samples[i] for i in sorted(chosen.tolist())]
    if not samples:
        left = f" {len(skipped)} clips were left out, the first as {skipped[0][1]}." if skipped else ""
        raise ValueError(f"{path} gives nothing to ask of {task}.{left}")
    found = Samples(samples, str(path), skipped)
    if skipped:
        warnings.warn(str(found), stacklevel=2)
    return found


def _samples(
    video: TrackedVideo, task: str, frames: int, fps: float | None, folders: list[Path], skipped: list
) -> Iterator[Sample]:
    step = 1 if fps is None else max(1, round(video.fps / fps))
    for start in range(0, len(video.files) - step, frames * step):
        chosen = np.arange(start, min(start + frames * step, len(video.files)), step)
        name = f"{video.name}/{start + 1}"
        tracks = [
            Track(boxes[chosen], label, owner)
            for label, owner, boxes in video.objects
            if not np.isnan(boxes[chosen, 0]).all()
        ]
        questions = ask_about_tracks(task, tracks, video.size)
        if len(chosen) < 2 or not questions:
            continue
        files = [find_file(video.files[i], folders) for i in chosen.tolist()]
        if reason := _fault(files, [video.files[i] for i in chosen.tolist()], video.size):
            skipped.append((name, reason))
            continue
        times = tuple(((chosen - start) / video.fps).tolist())
        for number, (question, truth) in enumerate(questions):
            target = Target(image_size=video.size, **truth)
            yield Sample(files[0], task, question, target, f"{name}/{task}/{number}", "", tuple(files), times)


def _fault(files: Sequence[str | None], names: Sequence[str], size: tuple[int, int]) -> str:
    """What is wrong with the frames of a clip, "" if nothing; of sizes, only the first frame's is looked at here."""
    if None in files:
        return f"its frame {names[files.index(None)][:200]!r} is missing"
    try:
        found = image_size(files[0])
    except (ValueError, OSError) as error:
        return str(error).rstrip(".")
    return "" if found == size else f"its frame {files[0]!r} has {found[0]}x{found[1]} pixels, not {size[0]}x{size[1]}"
