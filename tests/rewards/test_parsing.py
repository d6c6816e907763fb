"""Parsing: every notation that real models write, and what counts as the answer."""

import numpy as np
import pytest

from pr1kit.data.sample import TASKS
from pr1kit.rewards.parsing import boxed, is_nothing, is_tagged, locate_answer, read_places, read_text
from pr1kit.rewards.score import parse

GOOD = [[10.0, 20.0, 30.0, 40.0]]
REGION = {
    "plain": ("box", "box"),
    "answer tags": ("so <answer>box</answer> it is", "box"),
    "thought, then answer": ("<think>guess</think>\n<answer> box </answer>", "box"),
    "thought, then text": ("<think>guess</think> box", "box"),
    "thought begun in the prompt": ("guess</think> box", "box"),
    "thought within a thought": ("<think>a<think>b</think>guess</think>box", "box"),
    "thought inside the answer": ("<answer><think>guess</think>box</answer>", "box"),
    "answer inside the thought": ("<think><answer>guess</answer></think><answer>box</answer>", "box"),
    "thought after the answer": ("<answer>box</answer><think>guess</think>", "box"),
    "two answers": ("<answer>guess</answer> no: <answer>box</answer>", "box"),
    "closed answer, then a cut one": ("<answer>box</answer><answer>guess", "box"),
    "only a cut answer": ("guess <answer>box", "box"),
    "upper case": ("<THINK>guess</Think><ANSWER>box</Answer>", "box"),
    "after the end of turn": ("box<|im_end|>guess", "box"),
    "tags in a fence": ("```\n<answer>box</answer>\n```", "box"),
    "stray closing tag": ("<answer>box</answer> guess </answer>", "box"),
    "unclosed thought": ("<think>box", ""),
    "answer, then unclosed thought": ("<answer>box</answer><think>hm", ""),
    "empty": ("", ""),
    "blank": (" \n\t ", ""),
}


@pytest.mark.parametrize("name", REGION)
def test_only_the_answer_region_counts(name):
    completion, region = REGION[name]
    text, _, reason = locate_answer(completion)
    assert text == region
    assert bool(reason) == (region == "")


NOTATIONS = {
    "box tokens": boxed("cat", np.array(GOOD[0])),
    "box tokens without label": "<|box_start|>(10,20),(30,40)<|box_end|>",
    "box tokens, spaces and newlines": "<|box_start|> ( 10 ,\n20 ) , ( 30 , 40 ) <|box_end|><|im_end|>",
    "tokens stripped": "cat(10,20),(30,40)",
    "tokens stripped, no comma": "cat (10, 20) (30, 40)",
    "list": "[10, 20, 30, 40]",
    "nested list": "<|ref|>cat<|/ref|><|det|>[[10, 20, 30, 40]]<|/det|><｜end▁of▁sentence｜>",
    "list in prose": "The cat [see below] is at [10, 20, 30, 40].",
    "floats": "[10.0, 20.000, 30., 4e1]",
    "json": '[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]',
    "json object": '{"bbox_2d": [10, 20, 30, 40], "label": "cat"}',
    "json in a fence": '```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "cat"}\n]\n```',
    "json within an object": '{"objects": [{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]}',
    "json, nested box": '{"bbox_2d": [[10, 20, 30, 40]], "label": "cat"}',
    "json, another key": '{"bbox": [10.0, 20.0, 30.0, 40.0]}',
    "python dict": "[{'bbox_2d': [10, 20, 30, 40], 'label': 'cat'}]",
    "stray comma": '[{"bbox_2d": [10, 20, 30, 40], "label": "cat",},]',
    "prose first, structure second": 'About (1,1),(2,2): {"bbox_2d": [10, 20, 30, 40], "label": "cat"}',
    "prose first, tokens second": "About (1,1),(2,2): <|box_start|>(10,20),(30,40)<|box_end|>",
}


@pytest.mark.parametrize("name", NOTATIONS)
def test_every_notation_gives_the_box(name):
    answer = parse("grounding", NOTATIONS[name])
    assert answer.boxes.tolist() == GOOD
    assert answer.format_score == 1, answer.reason
    assert answer.explicit


BAD_ITEMS = {
    "swapped corners": "[30, 20, 10, 40]",
    "swapped in y": "[10, 40, 30, 20]",
    "five numbers": "[0, 5329, 5310, 9, 99999]",
    "three numbers": "[10, 20, 30]",
    "one number": "[[470,]]",
    "not a number": '{"bbox_2d": [NaN, 20, 30, 40], "label": "cat"}',
    "infinite": '{"bbox_2d": [10, 20, Infinity, 40], "label": "cat"}',
    "a number too long to be one": '{"bbox_2d": [10, 20, 1e400, 40], "label": "cat"}',
    "digits without end": f'{{"bbox_2d": [10, 20, {"9" * 5000}, 40], "label": "cat"}}',
    "booleans": '{"bbox_2d": [true, true, true, true], "label": "cat"}',
    "strings": '{"bbox_2d": ["10", "20", "30", "40"], "label": "cat"}',
    "no box": '{"label": "cat"}',
    "box is null": '{"bbox_2d": null, "label": "cat"}',
    "code in box tokens": "<|box_start|>__import__('os').abort()<|box_end|>",
    "sum in box tokens": "<|box_start|>(1+1,2),(3,4)<|box_end|>",
    "words after the numbers": "<|box_start|>(1,2),(3,4);exit()<|box_end|>",
    "a blank inside a number": "<|box_start|>(1 0,20),(30,40)<|box_end|>",
    "cut in tokens": "<|box_start|>(10,20),(3",
    "cut in json": '[{"bbox_2d": [10, 20, 30',
    "cut in a list": "[10, 20, 30",
}


@pytest.mark.parametrize("name", BAD_ITEMS)
def test_a_bad_item_is_dropped_with_a_reason(name):
    answer = parse("grounding", BAD_ITEMS[name])
    assert len(answer.boxes) == 0
    assert answer.format_score == 0
    assert answer.malformed >= 1
    assert "dropped" in answer.reason


@pytest.mark.parametrize("cut", range(100, 140))
def test_json_cut_within_its_third_item_keeps_two(cut):
    text = "[" + ", ".join(f'{{"bbox_2d": [{i}, {i}, {i + 5}, {i + 5}], "label": "c{i}"}}' for i in (10, 20, 30)) + "]"
    assert text[:cut].count("{") == 3
    assert text[:cut].count("}") == 2
    answer = parse("detection", text[:cut])
    assert answer.labels == ("c10", "c20")
    assert (answer.malformed, answer.format_score) == (1, pytest.approx(2 / 3))
    assert "cut short" in answer.reason


def test_one_bad_item_drops_itself_not_its_neighbours():
    good = '{"bbox_2d": [1, 2, 3, 4], "label": "cat"}'
    for bad in ('{"bbox_2d": [1, 2, 3], "label": "cat"}', '{"bbox_2d": [1, 2, 3, 4]}', "{}", '{"bbox_2d": [9, oops]}'):
        answer = parse("detection", f"[{good}, {bad}, {good}]")
        assert answer.labels == ("cat", "cat")
        assert answer.malformed == 1
        assert answer.format_score == pytest.approx(2 / 3)


def test_an_unlabelled_box_after_a_labelled_one_takes_no_label_from_it():
    answer = parse("detection", '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6, 7, 8]}]')
    assert (answer.labels, answer.malformed) == (("cat",), 1)
    assert parse("counting", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6, 7, 8]}]').labels == ("a", "")


def test_a_token_label_holds_until_the_next():
    text = boxed("cat", np.array(GOOD[0])) + "<|box_start|>(1,2),(3,4)<|box_end|>" + boxed("dog", np.array(GOOD[0]))
    assert parse("detection", text).labels == ("cat", "cat", "dog")


def test_stripped_boxes_run_together():
    answer = parse("counting", "bird(1,2),(3,4)(5,6),(7,8)(9,9),(10,10)")
    assert answer.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 10, 10]]
    assert answer.labels == ("bird", "", "")


def test_points():
    answer = parse("counting", '[{"point_2d": [5, 6], "label": "cat"}, {"point_2d": [7.5, 8]}]')
    assert answer.points.tolist() == [[5, 6], [7.5, 8]]
    assert parse("counting", "<|box_start|>(5,6)<|box_end|>").points.tolist() == [[5, 6]]


@pytest.mark.parametrize(
    "text", ["[]", " [ ] ", "None", "none.", "No Objects", "No boxes", "null", "```json\n[]\n```", "There are no cats."]
)
def test_nothing_can_be_said_explicitly(text):
    assert is_nothing(text)
    answer = parse("detection", text)
    assert (answer.format_score, len(answer.boxes), answer.explicit, answer.reason) == (1, 0, True, "")


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "3",
        '"cat"',
        "{}",
        "[[]]",
        "three cats",
        "There are 3 cats",
        "nowhere",
        "{",
        '{"bbox_2d": {"x1": 1}, "a": 2}',
    ],
)
def test_other_words_are_no_explicit_nothing(text):
    answer = parse("detection", text)
    assert (answer.format_score, len(answer.boxes)) == (0, 0)
    assert answer.reason


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("completion", [None, 3, b"[]", [], {}, "", "  ", "<think>", "\x00", "\ud800"])
def test_parse_never_raises(task, completion):
    answer = parse(task, completion)
    if not isinstance(completion, str) or not completion.strip():
        assert (answer.explicit, answer.reason, answer.format_score) == (False, "no text", 0)


def test_text_answers():
    assert read_text("<think>hm</think>\n STOP \n").text == "STOP"
    assert read_text("```text\nSTOP\nHERE\n```").text == "STOP\nHERE"
    assert read_text("<think>STOP").explicit is False
    assert read_text("STOP<|im_end|><|endoftext|>").text == "STOP"


def test_tagged():
    assert is_tagged(" <think>\nhm\n</think>\n<answer>[]</answer><|im_end|>")
    for text in (
        None,
        "",
        "[]",
        "<answer>[]</answer>",
        "<answer>[]</answer><think>hm</think>",
        "<think><answer></answer>",
    ):
        assert not is_tagged(text)
    for text in ("x<think>a</think><answer>b</answer>", "<think>a</think><answer>b</answer> c"):
        assert not is_tagged(text)


def test_a_very_long_answer_is_read_from_its_beginning():
    answer = read_places("(1,1),(2,2)" * 50_000)
    assert 1000 < len(answer.boxes) < 4000
