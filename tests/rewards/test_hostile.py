"""Ways to cheat, crash or stall a reward, each found in a published code base or invented here: none may work.

No case may raise, none may take over 50 ms of processor time, and none may beat the honest answer it stands beside.
"""

import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pr1kit.data.sample import IMAGE_TASKS
from pr1kit.rewards.parsing import boxed
from pr1kit.rewards.score import RECIPES, score

SIZE = (200, 200)
CAT, DOG, OWL = [10, 10, 50, 50], [60, 60, 100, 120], [120, 20, 180, 90]
TEXT = "the cat sat on the mat"
TRUTH = {"boxes": [CAT, DOG, OWL], "labels": ["cat", "dog", "owl"], "text": TEXT, "image_size": SIZE}
ONE = {**TRUTH, "boxes": [CAT], "labels": ["cat"]}
NONE = {"boxes": [], "labels": [], "points": [], "text": "", "image_size": SIZE}
CLASSES = ["cat", "dog", "owl", "bird", "fish", "car", "bus", "cup", "bed", "tie"]


def tokens(*boxes):
    return "".join(boxed("cat", np.array(box, float)) for box in boxes)


def items(*pairs):
    return json.dumps([{"bbox_2d": box, "label": label} for box, label in pairs])


def guesses(count, seed=0):
    corner = np.random.default_rng(seed).integers(0, 160, (count, 2))
    return np.concatenate([corner, corner + 25], axis=1).tolist()


HONEST_ONE, HONEST_ITEM = tokens(CAT), items((CAT, "cat"))

# name: (task, truth, cheat, honest): what the cheat earns is at most what the honest answer earns
CHEATS = {
    "the same box five times": ("counting", TRUTH, tokens(*[CAT] * 5), HONEST_ONE),
    "the same box three times, as many as there are": ("counting", TRUTH, tokens(*[CAT] * 3), HONEST_ONE),
    "the same box fifty times": ("counting", TRUTH, tokens(*[CAT] * 50), HONEST_ONE),
    "the same detection fifty times": ("detection", TRUTH, items(*[(CAT, "cat")] * 50), HONEST_ITEM),
    "the same phrase's box twice": ("grounding", ONE, tokens(CAT, CAT), HONEST_ONE),
    "the whole image, once for each object": ("counting", TRUTH, tokens(*[[0, 0, 200, 200]] * 3), HONEST_ONE),
    "the whole image, a little off each time": (
        "counting",
        TRUTH,
        tokens([0, 0, 200, 200], [0, 0, 199, 200], [0, 0, 200, 199]),
        HONEST_ONE,
    ),
    "one hit and fifty guesses after it": ("counting", TRUTH, tokens(CAT, *guesses(50)), HONEST_ONE),
    "fifty guesses and one hit after them": ("counting", TRUTH, tokens(*guesses(50), CAT), HONEST_ONE),
    "fifty guesses at one phrase": ("grounding", ONE, tokens(*guesses(50), CAT), HONEST_ONE),
    "fifty labelled guesses": ("detection", TRUTH, items(*((box, "cat") for box in [*guesses(50), CAT])), HONEST_ITEM),
    "one box for each class": ("detection", ONE, items(*((CAT, name) for name in CLASSES)), HONEST_ITEM),
    "all classes in one label": ("detection", ONE, items((CAT, " ".join(CLASSES))), HONEST_ITEM),
    "an unknown label": ("detection", ONE, items((CAT, "thing")), "[]"),
    "an empty label": ("detection", ONE, items((CAT, "")), "[]"),
    "an unlabelled box after a labelled one": (
        "detection",
        TRUTH,
        '[{"bbox_2d": [10, 10, 50, 50], "label": "cat"}, {"bbox_2d": [60, 60, 100, 120]}]',
        HONEST_ITEM,
    ),
    "a false box to make the count right": ("counting", TRUTH, tokens(CAT, DOG, [0, 150, 9, 160]), tokens(CAT, DOG)),
    "a guess for an empty image": ("counting", NONE, tokens(CAT), "None"),
    "a guess for an empty image, labelled": ("detection", NONE, HONEST_ITEM, "[]"),
    "a malformed item for an empty image": ("detection", NONE, '[{"bbox_2d": [1, 2]}]', "[]"),
    "None, then a box": ("counting", NONE, "None " + tokens(CAT), "None"),
    "the count in words": ("counting", TRUTH, "There are three cats.", tokens(CAT)),
    "the count as a number": ("counting", TRUTH, "3", tokens(CAT)),
    "the count as a number in tags": ("counting", NONE, "<answer>0</answer>", "None"),
    "right in the thought, wrong in the answer": (
        "grounding",
        ONE,
        f"<think>{HONEST_ONE}</think><answer>{tokens(OWL)}</answer>",
        tokens(OWL),
    ),
    "right in the thought, no answer": ("grounding", ONE, f"<think>{HONEST_ONE}</think>", ""),
    "right in an unclosed thought": ("grounding", ONE, f"<think>{HONEST_ONE}", ""),
    "right in a thought within the answer": (
        "grounding",
        ONE,
        f"<answer><think>{HONEST_ONE}</think>{tokens(OWL)}</answer>",
        tokens(OWL),
    ),
    "right in the first of two answers": (
        "grounding",
        ONE,
        f"<answer>{HONEST_ONE}</answer><answer>{tokens(OWL)}</answer>",
        tokens(OWL),
    ),
    "right after the end of the turn": ("grounding", ONE, f"{tokens(OWL)}<|im_end|>{HONEST_ONE}", tokens(OWL)),
    "right in prose, wrong in the structure": ("grounding", ONE, f"at (10,10),(50,50): {tokens(OWL)}", tokens(OWL)),
    "two notations, one guess each": ("grounding", ONE, f"{items((OWL, 'cat'))} {HONEST_ONE}", tokens(OWL)),
    "corners swapped": ("grounding", ONE, "(50,50),(10,10)", tokens(OWL)),
    "a flat box": ("grounding", ONE, "(10,10),(10,50)", tokens(OWL)),
    "all zeros": ("grounding", ONE, "(0,0),(0,0)", tokens(OWL)),
    "all zeros against all zeros": ("grounding", {**ONE, "boxes": [[0, 0, 0, 0]]}, "(0,0),(0,0)", tokens(OWL)),
    "coordinates in [0, 1]": ("grounding", ONE, "[0.05, 0.05, 0.25, 0.25]", HONEST_ONE),
    "beyond the image": ("grounding", ONE, "[0, 0, 99999, 99999]", HONEST_ONE),
    "infinite sides": ("grounding", ONE, '{"bbox_2d": [-Infinity, -Infinity, Infinity, Infinity]}', tokens(OWL)),
    "not a number": ("grounding", ONE, '{"bbox_2d": [NaN, NaN, NaN, NaN]}', tokens(OWL)),
    "the reference fifty times": ("ocr", TRUTH, " ".join([TEXT] * 50), TEXT),
    "right words, wrong order": ("ocr", TRUTH, "mat the on sat cat the", TEXT),
    "text for a blank page": ("ocr", NONE, "the", "None"),
    "every letter": ("ocr", TRUTH, "abcdefghijklmnopqrstuvwxyz", TEXT),
    "the text in the thought": ("ocr", TRUTH, f"<think>{TRUTH['text']}</think>a dog", "a dog"),
}


@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_beats_the_honest_answer(name):
    task, truth, cheat, honest = CHEATS[name]
    cheated = score(task, cheat, truth)
    assert 0 <= cheated.total <= score(task, honest, truth).total
    for recipe in RECIPES:
        assert math.isfinite(score(task, cheat, truth, recipe=recipe).total)


@pytest.mark.parametrize("text", ["", " \n\t", None])
@pytest.mark.parametrize("truth", [NONE, TRUTH], ids=["empty truth", "objects"])
@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_no_text_at_all_earns_nothing(task, truth, text):
    result = score(task, text, truth)
    assert (result.total, result.reason) == (0, "no text")


@pytest.mark.parametrize("text", ["None", "No Objects", "[]"])
@pytest.mark.parametrize("task", ["grounding", "counting", "detection"])
def test_an_explicit_nothing_is_right_only_where_there_is_nothing(task, text):
    assert score(task, text, NONE).total == 1
    assert score(task, text, TRUTH).total == 0


def test_what_is_the_same_box_is_scored_alike():
    for same in ("(10,10),(50,50)", "(10, 10)(50,\n50)", "[10.0, 10, 50.00, 5e1]", "[[10,10,50,50]]", HONEST_ITEM):
        assert score("grounding", same, ONE).total == 1
    for label in ("CAT", " cat ", "Cat\n"):
        assert score("detection", items((CAT, label)), ONE).total == 1


def test_two_objects_on_one_spot_may_both_be_answered():
    twins = {**TRUTH, "boxes": [CAT, CAT]}
    assert score("counting", tokens(CAT, CAT), twins | {"labels": []}).total == 1
    assert score("counting", tokens(CAT), twins | {"labels": []}).total == 0.5


def test_chinese_and_combining_characters():
    assert score("ocr", "今天天气很好", {"text": "今天天气很好"}).total == 1
    assert score("ocr", "今天天气不好", {"text": "今天天气很好"}).total == pytest.approx(5 / 6)
    assert score("ocr", "e\u0301" * 5, {"text": "é" * 5}).total == 1


def test_code_never_runs(tmp_path):
    """Not in an interpreter that reports whatever it compiles, runs, imports, starts or opens while it scores."""
    script = tmp_path / "watch.py"
    script.write_text(WATCHED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    watched, *seen = done.stdout.splitlines()
    assert watched == "watching: ['compile', 'exec', 'import', 'open', 'os.putenv']"  # what eval and open would show
    assert seen == []


WATCHED = r"""
import os, sys
from pr1kit import score
from pr1kit.data.sample import IMAGE_TASKS

seen, target = None, {"boxes": [[10, 10, 50, 50]], "labels": ["cat"], "text": "cat", "image_size": (100, 100)}
sys.addaudithook(lambda event, _: seen.append(event) if seen is not None and event.split(".")[0] in WATCH else None)
WATCH = {"compile", "exec", "import", "open", "os", "subprocess", "socket", "ctypes", "pickle", "marshal"}
codes = ("__import__('os').putenv('A', '1')", "[exec('1')] * 4", "(1,2),(3,4);exec('1')", "{'bbox_2d': eval('1')}",
         "!!python/object/apply:os.putenv [A, b]", "cos\nputenv\n(S'A'\ntR.", "{{ cycler.__init__.__globals__.os }}")
wraps = ("%s", "<|box_start|>%s<|box_end|>", '[{"bbox_2d": %s, "label": "cat"}]', "```py\n%s\n```", "[%s, 2, 3, 4]")


def score_all():
    for code in codes:
        for task in IMAGE_TASKS:
            for wrap in wraps:
                score(task, wrap.replace("%s", code), target)


score_all()  # imports what the tasks need
seen = []
eval("__import__('os').putenv('A', '1')")
try:
    import no_module_of_this_name
except ImportError:
    open(os.devnull).close()
print("watching:", sorted(set(seen)))
seen = []
score_all()
seen, found = None, seen
print(*found, sep="\n", end="")
"""


@pytest.mark.parametrize("truth", ["[[1, 2, 3, 4]]", '{"boxes": []}', "exec('1')", 3, None, [[1, 2, 3, 4]]])
@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_truth_as_a_string_is_refused_not_evaluated(task, truth):
    with pytest.raises(ValueError, match="A target is a Target or a mapping"):
        score(task, "[]", truth)


N = 100_000
LONG = {
    name: (unit * (N // len(unit)))[:N]
    for name, unit in {
        "objects in lists": "{[",
        "lists in objects": '{"a":[',
        "digits": "7",
        "open lists": "[",
        "open braces": "{",
        "open brackets": "(",
        "closed and open": "]{}[",
        "half pairs": "(1,",
        "points": "(1,2)",
        "touching pairs": "(1,2),(3,4)",
        "the same good box": "(10,10),(50,50)",
        "lists": "[1,2,3,4]",
        "open numbers": "[1",
        "exponents": "(1,1e",
        "signs": "-+",
        "stops": ".",
        "open tokens": "<|box_start|>",
        "empty tokens": "<|box_start|><|box_end|>",
        "token boxes": "<|box_start|>(1,2),(3,4)<|box_end|>",
        "references": "<|object_ref_start|>",
        "detections": '{"bbox_2d": [10, 10, 50, 50], "label": "cat"},',
        "broken detections": '{"bbox_2d": [10, 10, 50, 50] "label": "cat"},',
        "python detections": "{'bbox_2d': [10, 10, 50, 50], 'label': 'cat'},",
        "keys": '{"bbox_2d": [',
        "open thoughts": "<think>",
        "thoughts": "<think></think>",
        "closed thoughts": "</think>",
        "open answers": "<answer>",
        "answers": "<answer></answer>",
        "nested answers": "<answer><think>",
        "fences": "```json",
        "less than": "<",
        "blanks": " ",
        "newlines": "\n",
        "a bracket and blanks": "(" + " " * 999,
        "a number and blanks": "(1" + " " * 999,
        "denials": "no ",
        "quotes": '"',
        "escapes": '\\"',
        "zero bytes": "\0",
        "surrogates": "\ud800",
        "Chinese": "中文",
        "composed": "e\u0301",
        "end of turn": "<|im_end|>",
    }.items()
}
LONG["one object of lists"] = '{"bbox_2d": ' + "[" * N + "}"
LONG["one object of digits"] = '{"bbox_2d": [' + "9" * N + '], "label": "cat"}'
LONG["one label"] = '{"bbox_2d": [1, 2, 3, 4] "label": "' + "a" * N
LONG["one object of labels"] = "{" + "label: '" * (N // 8) + "}"
LONG["one object of open boxes"] = "{" + "bbox: [" * (N // 7) + "}"
LONG["many wide pairs"] = "".join(f"({i},0),({i + 150},90)" for i in range(6000))


@pytest.mark.parametrize("name", LONG)
def test_100_kb_of_hostile_text_does_not_stall(name):
    """Processor time, best of three, so that the limit is no matter of luck: none took over 40 ms on a busy core."""
    crowd = {**TRUTH, "boxes": guesses(40, seed=1), "labels": ["cat", "dog"] * 20, "text": "the cat sat " * 200}
    for task in IMAGE_TASKS:
        truth = {**crowd, "boxes": crowd["boxes"][:1], "labels": ["cat"]} if task == "grounding" else crowd
        for recipe in RECIPES:
            best = math.inf
            for _ in range(3):
                start = time.process_time()
                result = score(task, LONG[name], truth, recipe=recipe)
                best = min(best, time.process_time() - start)
                if best < 0.02:
                    break
            assert best < 0.05, f"{task} {recipe}: {best * 1e3:.0f} ms"
            assert math.isfinite(result.total)
            assert recipe != "kit" or 0 <= result.total < 0.51


FRAGMENTS = """<think> </think> <answer> </answer> <|box_start|> <|box_end|> <|object_ref_start|> <|im_end|> ```json ```
{"bbox_2d": "label": "cat" [ ] { } ( ) , ' 10 50 -1 1e9 NaN Infinity (10,10),(50,50) [10,10,50,50] None [] é""".split()
FRAGMENTS += [" ", "\n", "\u0301", "\ud800", "\x00"]
hostile_text = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join))
BOUNDS = {"kit": (0, 1), "paper": (-1, 4), "released": (-1e5, 3), "released-strict": (-1e30, 3)}


@settings(max_examples=400, deadline=None)
@given(text=hostile_text, empty=st.booleans(), thinking=st.booleans())
@example(text="{'bbox_2d': [[]], 'label': {}}", empty=False, thinking=False)
@example(text='{"bbox_2d": [[1,2,3,4],5], "label": ["cat"]}', empty=False, thinking=False)
@example(text='{"bbox_2d": [1,2,3,4], "label": null}', empty=False, thinking=False)
def test_no_text_raises_or_leaves_the_bounds(text, empty, thinking):
    truth = NONE if empty else ONE
    for task in IMAGE_TASKS:
        for recipe, (low, high) in BOUNDS.items():
            if thinking and recipe == "released-strict":
                continue  # refused
            result = score(task, text, truth, recipe=recipe, thinking=thinking)
            again = score(task, text, truth, recipe=recipe, thinking=thinking)
            assert low <= result.total <= high
            assert (result.total, result.parts, result.matches) == (again.total, again.parts, again.matches)
            assert all(math.isfinite(value) for value in result.parts.values())
            if recipe == "kit" and task != "ocr" and result.total == 0:
                assert result.reason or not result.matches


@settings(max_examples=150, deadline=None)
@given(thought=hostile_text)
def test_what_is_thought_never_counts(thought):
    """With whatever was thought before it, an answer earns the same."""
    thought = thought.replace("<", "").replace("|", "")  # no tags of its own: those are other cases
    for task, answer in (("counting", tokens(CAT, DOG)), ("detection", items((CAT, "cat"))), ("ocr", "the cat")):
        assert score(task, f"<think>{thought}</think>{answer}", TRUTH).total == score(task, answer, TRUTH).total
        assert score(task, f"<think>{thought}</think>", TRUTH).total == 0
