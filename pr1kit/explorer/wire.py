"""What crosses between Python and the explorer's page: texts that JavaScript counts in other units."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

LONGEST_TEXT = 1_000_000


def clean_text(text: Any) -> str:
    """A text from the page, fit to be sent back: half of a surrogate pair becomes the replacement character.

    >>> clean_text("a cat \\ud83d")
    'a cat \ufffd'
    """
    if not isinstance(text, str):
        raise ValueError("A completion is text.")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"The text has {len(text):,} characters; the explorer takes {LONGEST_TEXT:,}.")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def count_in_utf16(text: str, seen: dict) -> dict:
    """`seen` (of `read_out`) with its spans counted in UTF-16 units, as JavaScript counts: an emoji has two.

    >>> count_in_utf16("\N{CAT FACE}(1,2)", {"region": [1, 6], "items": []})["region"]
    [2, 7]
    """
    wide = [place for place, character in enumerate(text) if character > "\uffff"]
    if not wide:
        return seen

    def units(span: list[int]) -> list[int]:
        return [at + bisect_left(wide, at) for at in span]

    items = [{**item, "span": units(item["span"])} for item in seen["items"]]
    return {**seen, "items": items, "region": units(seen["region"])}
