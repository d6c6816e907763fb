"""Grounding files: the official Perception-R1 JSON, and RefCOCO-style referring expressions.

official  {"image", "problem", "solution", "normalized_solution"}: a phrase and its box, in pixels and
          normalised to 0–1000; training files have `solution` alone, as text
rec       {"image", "sent" (or "expression", "phrase", …), "bbox", "width", "height"}; with a list of phrases
          ("sentences", or "answer" as on the hub) each phrase is a sample
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pr1kit.data.layouts.pixmo import read_clicks
from pr1kit.data.records import Record, as_numbers, as_question, first_of, image_of, stated_size

PHRASE = ("sent", "expression", "referring_expression", "phrase", "caption", "ref", "sentence")
PHRASES = ("sentences", "expressions", "answer")


def is_official(row: Mapping) -> bool:
    """Whether a row is of the official grounding files (their counting files hold points, and read alike)."""
    return "problem" in row and ("solution" in row or "normalized_solution" in row) and "clicks" not in row


def is_rec(row: Mapping) -> bool:
    """Whether a row is a referring expression with its box."""
    return "bbox" in row and first_of(row, (*PHRASE, *PHRASES)) is not None


def read_official(row: Mapping, name: str) -> Iterator[Record]:
    """One record; a `solution` of points, or of several boxes, is a counting row (see `pixmo`)."""
    solution, norm1000 = (as_numbers(row.get(key)) for key in ("solution", "normalized_solution"))
    written = solution if norm1000 is None else norm1000
    if not _is_box(written):
        yield from read_clicks({**row, "clicks": written}, name)
        return
    frame = "pixel" if norm1000 is None else "norm1000"
    pixels = [solution] if norm1000 is not None and _is_box(solution) else None
    yield Record(
        name, image_of(row), "grounding", as_question(row["problem"], "problem"), [written], frame=frame,
        pixel_boxes=pixels, size=stated_size(row),
    )  # fmt: skip


def read_rec(row: Mapping, name: str) -> Iterator[Record]:
    """One record for each phrase."""
    phrase = first_of(row, PHRASE)
    phrases = [phrase] if phrase is not None else first_of(row, PHRASES)
    phrases = [phrases] if isinstance(phrases, str) else list(phrases)
    box = as_numbers(row["bbox"])
    for i, phrase in enumerate(phrases):
        words = first_of(phrase, ("sent", "raw")) if isinstance(phrase, Mapping) else phrase
        own = name if len(phrases) == 1 else f"{name}.{i}"
        question = as_question(words, "phrase").strip()
        yield Record(own, image_of(row), "grounding", question, [box], size=stated_size(row))


def _is_box(value) -> bool:
    return isinstance(value, list | tuple) and len(value) == 4 and all(isinstance(v, int | float) for v in value)
