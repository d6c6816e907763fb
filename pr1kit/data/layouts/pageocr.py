"""OCR files: pages and their transcripts.

ocr   {"image", "conversations": [{"from": "human", …}, {"from": "gpt", "value": transcript}]}: PageOCR's layout
text  {"image", "text"}: any page with its transcript
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pr1kit.data.records import Record, as_text, image_of


def is_ocr(row: Mapping) -> bool:
    """Whether a row is a conversation about an image."""
    return "conversations" in row


def is_text(row: Mapping) -> bool:
    """Whether a row is an image and its text."""
    return isinstance(row.get("text"), str) and image_of(row) is not None


def read_ocr(row: Mapping, name: str) -> Iterator[Record]:
    """One record: the first answer in the conversation is the transcript. What was asked is the task's prompt."""
    turns = row["conversations"]
    answers = [turn for turn in turns if turn.get("from", turn.get("role")) in ("gpt", "assistant")]
    if not answers:
        raise ValueError("the conversation has no answer")
    text = as_text(answers[0].get("value", answers[0].get("content")), "transcript")
    yield Record(name, image_of(row), "ocr", text=text)


def read_text(row: Mapping, name: str) -> Iterator[Record]:
    """One record."""
    yield Record(name, image_of(row), "ocr", text=as_text(row["text"], "text"))
