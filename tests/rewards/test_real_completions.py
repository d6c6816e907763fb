"""Thousands of raw completions of other people's models: read and scored under every recipe, none raises."""

import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest

from pr1kit.data.sample import IMAGE_TASKS
from pr1kit.rewards.score import RECIPES, parse, score

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "completions"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no shared/data/completions beside the repository")
HEAD, TAIL = r"^-{5,} [\d-]+ Accuracy reward: \S+ -{5,}\nContent: ", r"^Solution: <answer> ?(.*?) ?</answer>"
ENTRY = re.compile(HEAD + "(.*?)" + TAIL, re.M | re.S)
TRUTH = {"boxes": [[10, 10, 50, 50], [60, 60, 90, 90]], "labels": ["cat", "dog"], "text": "8", "image_size": (100, 100)}


def logged(name):
    """(completion, solution) pairs of a training log."""
    return ENTRY.findall((FOLDER / name).read_text())


def lines(name):
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


@pytest.mark.parametrize("name", ["r1v_counting_run1.txt", "r1v_docvqa_test4.txt"])
def test_every_logged_completion_scores_under_every_recipe(name):
    pairs = logged(name)
    assert len(pairs) > 400
    for text, solution in pairs:
        for task in IMAGE_TASKS:
            truth = {**TRUTH, "text": solution}
            if task == "grounding":
                truth |= {"boxes": TRUTH["boxes"][:1], "labels": ["cat"]}
            for recipe in RECIPES:
                result = score(task, text, truth, recipe=recipe)
                assert math.isfinite(result.total)
                assert recipe != "kit" or 0 <= result.total <= 1


def test_what_share_of_the_logs_is_read_and_why_the_rest_is_not(capsys):
    """Answers in words: all with text are OCR answers; next to none has a box (the rest are "no", and lists)."""
    for name in ("r1v_counting_run1.txt", "r1v_docvqa_test4.txt"):
        pairs = logged(name)
        words = Counter(parse("ocr", text).reason or "read" for text, _ in pairs)
        boxes = Counter(parse("counting", text).reason or "read" for text, _ in pairs)
        exact = sum(score("ocr", text, {"text": solution}).total == 1 for text, solution in pairs) / len(pairs)
        with capsys.disabled():
            print(f"\n{name}: {len(pairs)} completions, {exact:.0%} exactly the solution")
            print(f"  as text: {dict(words)}\n  as boxes: {dict(boxes)}")
        assert set(words) <= {"read", "no text", "the thought is not closed"}
        assert words["read"] / len(pairs) > 0.85
        assert boxes["no box in the answer"] / len(pairs) > 0.8, "these models were asked for words"
        assert 0.02 < exact < 0.9


def test_the_figures_of_the_paper_are_read_completely():
    """Special tokens were stripped by the authors: the boxes run together, and all of them are found."""
    for row in lines("pr1_paper_figures.jsonl"):
        answer = parse(row["task"], row["completion"])
        assert answer.format_score == 1, answer.reason
        assert len(answer.boxes) == row.get("num_boxes", 1 if row["task"] == "grounding" else 9)
    assert answer.labels[-1] == "chair"


def test_strings_from_public_issues():
    expected = {
        "GRPO debug log, REC": (1, ""),
        "RefCOCO eval, malformed boxes": (0, "swapped corners"),
        "RefCOCO eval, truncated box": (0, "not two or four numbers"),
        "RefCOCO eval": (1, ""),
        "RefCOCO eval, five numbers": (0, "not two or four numbers"),
        "GRPO rollout, CLEVR counting, Chinese thinking": (0, "no box in the answer"),
    }
    for row in lines("issue_and_demo_completions.jsonl"):
        text = row["raw"]
        if "Content: " in text:
            text = text.split("Content: ", 1)[1].split("\nSolution:")[0]
        answer = parse("grounding", text)
        boxes, reason = expected.get(row["kind"], (1, ""))
        assert len(answer.boxes) == boxes, row["kind"]
        assert reason in answer.reason
        for task in IMAGE_TASKS:
            truth = {**TRUTH, "boxes": TRUTH["boxes"][:1], "labels": ["cat"]} if task == "grounding" else TRUTH
            assert all(math.isfinite(score(task, text, truth, recipe=recipe).total) for recipe in RECIPES)
