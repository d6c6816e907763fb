"""Are these the same data as before? Digests of questions, truths, pictures and model files; differences in words.

Digests are of content: two files of the same name differ, two copies of one file do not. A file is read once: its
digest is kept while size, inode, modification and status-change time stay, in memory and, for large files, on disk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from PIL import Image

from pr1kit.data.durable_files import write_atomically
from pr1kit.data.images import in_threads
from pr1kit.data.sample import Sample

LARGE = 2**26  # bytes from which a digest is kept on disk: reading costs more than looking it up
SETTLED = 2.0  # seconds: within one tick of the clock a file can change once more and keep its times
NAMED = 3
PARTS = ("questions", "boxes", "labels", "points", "texts", "tracks", "spans", "counts", "image sizes", "pictures")
_known: dict[tuple, str] = {}


def file_fingerprint(path: str | Path) -> str:
    """The sha256 of a file's bytes, 64 hexadecimal digits. Raises FileNotFoundError or OSError that names it."""
    path = os.path.realpath(path)
    about = os.stat(path)
    key = (path, about.st_size, about.st_ino, about.st_mtime_ns, about.st_ctime_ns)
    if key in _known:
        return _known[key]
    kept = _kept(key) if about.st_size >= LARGE else None
    try:
        digest = kept.read_text() if kept else ""
    except (OSError, ValueError):
        digest = ""
    if len(digest) == 64:
        _known[key] = digest
        return digest
    with open(path, "rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    if time.time() - about.st_ctime > SETTLED and os.stat(path).st_ctime_ns == about.st_ctime_ns:
        _known[key] = digest
        if kept:
            with suppress(OSError):  # read-only or full: the file is read again next time
                write_atomically(kept, digest)
    return digest


def folder_fingerprint(folder: str | Path, patterns: Iterable[str] = ("*",)) -> dict[str, str]:
    """{name: sha256} of the files in `folder` that match any of the glob `patterns`; {} where none does."""
    folder = Path(folder)
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return {path.relative_to(folder).as_posix(): file_fingerprint(path) for path in files}


def fingerprint(samples: Sequence[Sample]) -> dict:
    """The digests of samples in their order, fit for JSON: `{"digest": of all, "samples": {id: {part: digest}}}`.

    Parts are `PARTS`, those that are empty left out. Samples that share an id are told apart as `id`, `id#2`, ….
    Raises FileNotFoundError or ValueError where a picture cannot be read.
    """
    named: dict[str, dict] = {}
    seen: dict[str, int] = {}
    for sample, own in zip(samples, in_threads(_parts, samples), strict=True):
        seen[sample.id] = seen.get(sample.id, 0) + 1
        named[sample.id if seen[sample.id] == 1 else f"{sample.id}#{seen[sample.id]}"] = own
    return {"digest": _digest(*(f"{name} {sorted(own.items())}" for name, own in named.items())), "samples": named}


def differences(old: Mapping, new: Mapping) -> list[str]:
    """What differs between two results of `fingerprint`, in words with counts; [] where nothing does.

    >>> old = {"samples": {"a": {"boxes": "1"}, "b": {"boxes": "2"}}}
    >>> differences(old, {"samples": {"a": {"boxes": "3"}, "c": {"boxes": "2"}}})
    ['boxes of 1 sample differ (a)', '1 sample is new (c)', '1 sample is missing (b)']
    """
    before, after = old.get("samples", {}), new.get("samples", {})
    both = [name for name in after if name in before]
    said = []
    for part in PARTS:
        apart = [name for name in both if before[name].get(part) != after[name].get(part)]
        if apart:
            said.append(f"{part} of {_count(apart)} differ{_names(apart)}")
    for apart, word in (
        ([n for n in after if n not in before], "new"),
        ([n for n in before if n not in after], "missing"),
    ):
        if apart:
            said.append(f"{_count(apart)} {'is' if len(apart) == 1 else 'are'} {word}{_names(apart)}")
    if both != [name for name in before if name in after]:
        said.append("the samples are in another order")
    return said


def file_differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """What differs between two results of `folder_fingerprint`, in words.

    >>> file_differences({"a": "1", "b": "2"}, {"a": "3", "c": "2"})
    ['a differs', 'b is missing', 'c is new']
    """
    changed = [name for name in old | new if old.get(name) != new.get(name)]
    return [f"{n} {'is missing' if n not in new else 'is new' if n not in old else 'differs'}" for n in changed]


def _parts(sample: Sample) -> dict[str, str]:
    """The digests of a sample's parts; 64 bits each: they are compared one by one, not searched for collisions."""
    target = sample.target
    parts = {
        "questions": _digest(sample.task, sample.question, sample.prompt),
        "boxes": _digest((target.boxes + 0.0).tobytes()) if len(target.boxes) else "",  # + 0.0: no minus zero
        "labels": _digest(*target.labels) if target.labels else "",
        "points": _digest((target.points + 0.0).tobytes()) if len(target.points) else "",
        "texts": _digest(target.text) if target.text else "",
        "tracks": _digest(*(f"{one.label} {one.boxes.tolist()}" for one in target.tracks)) if target.tracks else "",
        "spans": str(target.spans.tolist()) if len(target.spans) else "",
        "counts": "" if target.count is None else str(target.count),
        "image sizes": "x".join(map(str, target.image_size or ())),
        "pictures": _picture(sample),
    }
    return {part: digest for part, digest in parts.items() if digest}


def _picture(sample: Sample) -> str:
    """The digest of a file's or a table cell's bytes, and of the pixels of an image that is in memory; of a video, of
    all frames and their times."""
    if sample.is_video:
        frames = (_picture(replace(sample, image=frame, frames=(), times=())) for frame in sample.frames)
        return _digest(str(sample.times), *frames)
    image: Any = sample.image
    if not isinstance(image, str | Path | Image.Image) and hasattr(image, "content"):
        image = image.content()
    if isinstance(image, bytes):
        return _digest(image)
    if isinstance(image, str | Path) and Path(image).is_file():
        return file_fingerprint(image)[:16]
    image = sample.load_image()
    return _digest(str(image.size), image.tobytes())


def _digest(*contents: str | bytes) -> str:
    """Lengths go in too, so that what ends here and begins there cannot be told as one."""
    total = sha256()
    for content in contents:
        content = content.encode(errors="surrogatepass") if isinstance(content, str) else content
        total.update(b"%d:" % len(content))
        total.update(content)
    return total.hexdigest()[:16]


def _kept(key: tuple) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "pr1kit" / "digests" / _digest(repr(key))


def _count(names: Sequence[str]) -> str:
    return f"{len(names):,} sample{'s' * (len(names) != 1)}"


def _names(names: Sequence[str]) -> str:
    shown = [str(name)[:60] for name in names[:NAMED] if name]
    return f" ({', '.join(shown)}{', …' if len(names) > NAMED else ''})" if shown else ""
