"""Rewards in time: tracking, when and what, by hand, by brute force, and against hostile text."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pr1kit import evaluate, make_clips, parse, reward_function, score
from pr1kit.data.boxes import from_pixels, iou
from pr1kit.data.sample import VIDEO_TASKS, Sample, Target
from pr1kit.data.tracks import Track, frames_in
from pr1kit.rewards.consensus import most_agreed
from pr1kit.rewards.critics import faults
from pr1kit.rewards.tasks import get_task

A = [[0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10], [30, 0, 40, 10]]
B = [[0, 50, 10, 60], [10, 50, 20, 60], [20, 50, 30, 60], [30, 50, 40, 60]]
ONE = {"tracks": [{"boxes": A}]}
GAP = {"tracks": [{"boxes": [A[0], None, A[2], A[3]]}]}
TWO = {"tracks": [{"boxes": A, "label": "cat"}, {"boxes": B, "label": "dog"}]}
NEVER = {"tracks": [], "spans": [], "text": ""}
TRUTH = {**TWO, "spans": [[0, 0], [2, 3]], "text": "red, circle"}


def steps(boxes, start=1):
    return ";".join(f"Frame {t}:[{','.join(map(str, box))}]" for t, box in enumerate(boxes, start) if box)


def merlin(*tracks):
    return "".join(f"Track{i}: <cat><Id{i}>{steps(boxes)}</Id{i}>" for i, boxes in enumerate(tracks, 1))


def total(task, text, target, **options):
    return pytest.approx(score(task, text, target, **options).total)


# Tracking


def test_tracking_by_hand():
    assert total("tracking", steps(A), ONE) == 1
    assert total("tracking", steps(A[:2]), ONE) == 0.5, "two of four frames"
    assert total("tracking", steps(A), GAP) == 0.75, "a frame too many"
    assert total("tracking", steps([*A, A[3]]), ONE) == 0.8, "a fifth frame of a video of four"
    assert total("tracking", steps(A) + f";{steps(A[:1])}", ONE) == 0.8, "a frame given twice"
    assert total("tracking", steps([[0, 0, 10, 5], *A[1:]]), ONE) == 3.5 / 4
    assert total("tracking", steps([A[0]] * 4), ONE) == 0.25, "a standing box"
    assert total("tracking", steps(A[::-1]), ONE) == 0, "frames in the wrong order"
    result = score("tracking", "Frame 1:[0,0,10,10];Frame 2:[9,9,1,1];Frame 3:[1,2", ONE)
    assert (result.total, result.parts["format"]) == (0.25, pytest.approx(1 / 3))
    assert result.reason == "2 of 3 frames dropped: swapped corners"


def test_the_order_of_frames_and_of_tracks_is_free():
    assert total("tracking", ";".join(reversed(steps(A).split(";"))), ONE) == 1
    assert total("tracking", merlin(B, A), TWO) == 1
    assert total("tracking", merlin(A), TWO) == 0.5
    assert total("tracking", merlin(A, B, A), TWO) == pytest.approx(8 / 12)


def test_identity_switches_cost():
    swapped = merlin(A[:2] + B[2:], B[:2] + A[2:])
    result = score("tracking", swapped, TWO)
    assert result.parts == {"format": 1, "location": 1, "identity": 0.5}
    assert result.total == 0.5
    assert score("tracking", swapped, TWO, drop="identity").total == 1
    late = score("tracking", merlin(A[:3] + B[3:], B[:3] + A[3:]), TWO)
    assert late.total == 0.75
    one_id = score("tracking", steps(A[:2] + B[2:]), TWO)
    assert (one_id.total, one_id.parts["identity"]) == (0.25, 0.5)


def test_merlins_notation_and_plain_frames_are_read_alike():
    answer = parse("tracking", "Track1: <red circle><Id1>Frame 1:[1,2,3,4];Frame 2: [2, 2, 4, 4]</Id1>")
    assert answer.boxes.tolist() == [[1, 2, 3, 4], [2, 2, 4, 4]]
    assert (answer.frames.tolist(), answer.owners.tolist(), answer.labels) == ([0, 1], [0, 0], ("red circle",) * 2)
    for text in (steps(A), steps(A).replace(";", "\n"), steps(A).replace(":", " : "), merlin(A), steps(A).lower(),
                 f"<answer>{steps(A)}</answer>", f"The track: {steps(A)}."):  # fmt: skip
        assert total("tracking", text, ONE) == 1, text
    two = parse("tracking", "Track1: catFrame 1:[1,2,3,4] Track2: dog Frame 1:[5,6,7,8]")
    assert (two.owners.tolist(), two.labels) == ([0, 1], ("cat", "dog"))
    nested = parse("tracking", "<Id1>Frame 1:[1,2,3,4]<Id2>Frame 1:[1,2,3,4]</Id2></Id1>Frame 1:[1,2,3,4]")
    assert (nested.owners.tolist(), nested.malformed) == ([0, 1, 2], 0)
    again = parse("tracking", "<Id1>Frame 1:[1,2,3,4]</Id1><Id1>Frame 1:[1,2,3,4];Frame 2:[1,2,3,4]</Id1>")
    assert (again.owners.tolist(), again.malformed) == ([0, 0], 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Frame 999999999999:[1,2,3,4]", "1 of 1 frames dropped: no such frame"),
        ("Frame 0:[1,2,3,4]", "1 of 1 frames dropped: no such frame"),
        ("Frame 1:[NaN,2,3,4]", "1 of 1 frames dropped: cut short"),
        ("Frame 1:[1,2,3]", "1 of 1 frames dropped: not four numbers"),
        ("Frame 1:[1,2]", "1 of 1 frames dropped: not four numbers"),
        ("Frame 1:[1,2,1e9,4]", "1 of 1 frames dropped: cut short"),
        ("Frame 1:[1,2,9999999999,4]", "1 of 1 frames dropped: not four numbers"),
        ("Frame 1:[1,2,999999999,4]", "1 of 1 frames dropped: a number beyond any image"),
        ("Frame 1: gone", "1 of 1 frames dropped: no box"),
        ("[1,2,3,4]", "no frame in the answer"),
        ("Frame one:[1,2,3,4]", "no frame in the answer"),
        ("<think>Frame 1:[1,2,3,4]", "the thought is not closed"),
    ],
)
def test_a_bad_step_has_a_reason(text, reason):
    result = score("tracking", text, ONE)
    assert (result.total, result.reason) == (0, reason)


def brute_force(predicted, truth):
    """The best sum of IoU over all one-to-one pairings of tracks, frames shared among the larger number of each."""
    frames = range(truth.shape[1])
    small, large = sorted((predicted, truth), key=len)
    pair = [[sum(_one(a[t], b[t]) for t in frames) for b in large] for a in small]
    best = max(
        sum(pair[i][j] for i, j in enumerate(order)) for order in itertools.permutations(range(len(large)), len(small))
    )
    seen = [(~np.isnan(tracks[:, :, 0])).sum(0) for tracks in (predicted, truth)]
    return best / np.maximum(*seen).sum()


def _one(a, b):
    return 0.0 if np.isnan([a, b]).any() else float(iou(a[None], b[None])[0, 0])


@pytest.mark.parametrize("seed", range(30))
def test_optimal_matching_of_tracks_is_that_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    n, m, frames = (int(rng.integers(1, 4)) for _ in range(3))

    def tracks(count):  # far apart, so that a box is never one over a crowd
        corners = rng.integers(0, 6, (count, frames, 2)) + 100 * rng.permutation(4)[:count, None, None]
        boxes = np.concatenate([corners, corners + rng.integers(6, 12, (count, frames, 2))], axis=2).astype(float)
        boxes[rng.random((count, frames)) < 0.3] = np.nan
        unseen = np.isnan(boxes[:, :, 0]).all(1)
        boxes[unseen, 0] = np.array([0, 0, 9, 9]) + 500 * np.arange(1, unseen.sum() + 1)[:, None]
        return boxes

    predicted, truth = tracks(n), tracks(m)
    text = merlin(*([None if np.isnan(b).any() else b.tolist() for b in track] for track in predicted))
    target = Target(tracks=[Track(boxes) for boxes in truth])
    assert score("tracking", text, target).total == pytest.approx(brute_force(predicted, truth))


def test_coordinates_go_through_the_frame_of_numbers():
    for clip in make_clips("tracking", 5, seed=1):
        for frame in ("norm1000", (28, 56)):
            tracks = [Track(from_pixels(track.boxes, frame, (64, 64))) for track in clip.target.tracks]
            text = get_task("tracking").write_answer(Target(tracks=tracks))
            assert score("tracking", text, clip.target, frame=frame).total > (0.97 if frame == "norm1000" else 0.6)
            assert score("tracking", text, clip.target).total < 0.6


# When


def test_when_by_hand():
    target = {"spans": [[1, 4]]}
    for text in ("Frame 2-5", "Frames 2 to 5", "2-5", "frame 2, 3, 4 and 5", "Frame 2-3;Frame 4-5", "Frame 2–5."):
        assert total("when", text, target) == 1, text
    assert total("when", "Frame 2-4", target) == 0.75
    assert total("when", "Frame 1-8", target) == 0.5
    assert total("when", "Frame 6-8", target) == 0
    assert total("when", "Frame 2-5;Frame 2-5", target) == 1, "said twice, but not more"
    assert total("when", "Frame 2-5;Frame 9-8", target) == 0.8, "a malformed span counts as a frame"
    assert total("when", "Frame 2-9999", target) == pytest.approx(4 / 9998)
    assert total("when", "Frame 2-99999999999", target) == 0
    assert score("when", "soon", target).reason == "no frame in the answer"
    assert score("when", "Frame 5-2", target).reason == "1 of 1 spans dropped: last frame before the first"


@given(st.lists(st.integers(0, 511).map(lambda bits: [bits >> i & 1 for i in range(9)]), min_size=2, max_size=2))
@settings(max_examples=60, deadline=None)
def test_when_is_the_overlap_of_sets(rows):
    from pr1kit.data.tracks import spans_of

    said, true = (np.array(row, bool) for row in rows)
    text = get_task("when").write_answer({"spans": spans_of(said)})
    assert (frames_in(parse("when", text).spans, 9) == said).all()
    union = (said | true).sum()
    wanted = (said & true).sum() / union if union else 1
    assert score("when", text, {"spans": spans_of(true)}).total == pytest.approx(wanted)


# What


def test_what_by_hand():
    target = {"text": "red, circle"}
    for text in ("red, circle", "Circle; RED", "a red\nthe circle.", "red, red, circle"):
        assert total("what", text, target) == 1, text
    assert total("what", "red", target) == 0.5
    assert total("what", "red, circle, square, cross", target) == 0.5, "guesses share it"
    assert total("what", "red circle", target) == 0
    assert score("what", "moves left", {"text": "moves left, becomes red"}).total == 0.5


# All three


@pytest.mark.parametrize("task", VIDEO_TASKS)
def test_the_supervised_answer_earns_the_most(task):
    for clip in make_clips(task, 12, seed=4):
        answer = get_task(task).write_answer(clip.target)
        best = score(task, answer, clip.target).total
        assert best == 1
        assert score(task, f"<think>Frame 1-8</think><answer>{answer}</answer>", clip.target, thinking=True).total == 1
        assert score(task, answer + "<|im_end|>", clip.target).total == 1
        assert score(task, answer[: len(answer) // 2], clip.target).total < best


@pytest.mark.parametrize("task", VIDEO_TASKS)
def test_nothing_is_right_only_where_there_is_nothing(task):
    for text in ("None", "[]"):
        assert score(task, text, NEVER).total == 1
        assert score(task, text, TRUTH).total == 0
    assert get_task(task).write_answer(NEVER) == "None"
    for text in ("", None, " \n"):
        for target in (NEVER, TRUTH):
            assert score(task, text, target).total == 0
    busy = get_task(task).write_answer(TRUTH)
    assert score(task, busy, NEVER).total == 0


@pytest.mark.parametrize("task", VIDEO_TASKS)
def test_a_truth_that_lacks_what_the_task_needs_is_refused(task):
    with pytest.raises(ValueError, match=f"A {task} target needs"):
        score(task, "None", {"boxes": []})
    with pytest.raises(ValueError, match="Unknown recipe 'released'"):
        score(task, "None", NEVER, recipe="released")


def test_the_reward_function_reads_the_columns_of_a_row():
    rows = [Target.of(TRUTH).to_dict()] * 2
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    answers = {"tracking": merlin(A, B), "when": "Frame 1;Frame 3-4", "what": "red, circle"}
    for task, answer in answers.items():
        assert reward_function(task)(completions=[answer, "?"], **columns) == [1, 0]


def test_metrics_by_hand():
    swapped = merlin(A[:2] + B[2:], B[:2] + A[2:])
    metrics = evaluate("tracking", [merlin(A, B), swapped], [TWO, TWO])
    assert dict(metrics) == {"track_iou": 0.75, "track@0.5": 1, "identity": 0.75, "frame_iou": 1}
    assert dict(evaluate("when", ["Frame 1-4", "Frame 1"], [{"spans": [[0, 3]]}] * 2)) == {
        "time_iou": 0.625,
        "exact": 0.5,
    }
    assert dict(evaluate("what", ["red", "red, circle"], [{"text": "red, circle"}] * 2)) == {
        "attributes": 0.75,
        "exact": 0.5,
    }


def test_the_answer_that_others_agree_with_most():
    clip = make_clips("tracking", 1, kinds="proxy")[0]
    write = get_task("tracking").write_answer
    right, moved = (write(Target(tracks=(Track(clip.target.tracks[0].boxes + by),))) for by in (0, 2))
    assert most_agreed(clip, ["Frame 1:[0,0,2,2]", right, moved, right]) == 1
    when = make_clips("when", 1)[0]
    assert most_agreed(when, ["Frame 1", "Frame 2-5", "Frame 3-5", "Frame 3-9"]) == 2
    assert most_agreed(make_clips("what", 1)[0], ["red, circle", "blue", "blue"]) == 1


def test_a_critic_names_the_frame():
    clip = Sample(None, "tracking", "it", Target.of(GAP), frames="abcd", times=range(4))
    assert faults(clip, steps([A[0], None, A[2], A[3]])) == []
    assert faults(clip, steps(A)) == ["Frame 2 is too many."]
    assert faults(clip, steps([A[0], None, [20, 0, 30, 4]])) == ["Frame 4 is missing.", "The box of frame 3 is off."]
    when = Sample(None, "when", "is it", Target(spans=[[1, 2]]), frames="abcd", times=range(4))
    assert faults(when, "Frame 3-4") == ["Frame 2 is missing.", "Frame 4 is too many."]
    assert faults(when, "Frame 2-3") == []
    what = Sample(None, "what", "Which", Target(text="red, circle"), frames="abcd", times=range(4))
    assert faults(what, "blue, circle") == ["'blue' is wrong.", "An attribute is missing."]
    assert faults(what, "") == ["The answer cannot be read."]


# Hostile text

N = 100_000
HOSTILE = {
    name: (unit * (N // len(unit)))[:N]
    for name, unit in {
        "steps": "Frame 1:[1,2,3,4];",
        "no stops": "Frame 1:[1,2,3,4]",
        "open steps": "Frame 1:[",
        "frames": "Frame ",
        "huge frames": "Frame 999999999999:[1,2,3,4];",
        "many digits": "Frame 9" + "9" * 500,
        "nested ids": "<Id1>",
        "closed ids": "</Id1>",
        "tracks": "Track1:",
        "track of tracks": "Track1: <Id1>Frame 1:[1,2,3,4]",
        "blanks": "Frame" + " " * 900,
        "spans": "1-2;",
        "spans of spans": "Frame 1-9999;",
        "to": "1 to ",
        "commas": ", ",
        "attributes": "red, ",
        "articles": "the a an ",
        "brackets": "[[[(((",
        "NaN": "Frame 1:[NaN,NaN,NaN,NaN];",
    }.items()
}
HOSTILE["ids"] = "".join(f"<Id{i}>Frame 1:[10,10,50,50];</Id{i}>" for i in range(3000))
HOSTILE["a thousand frames"] = "".join(f"Frame {i}:[0,0,10,10];" for i in range(1, 5000))
HOSTILE["words"] = ", ".join(map(str, range(20_000)))


@pytest.mark.parametrize("name", HOSTILE)
def test_100_kb_of_hostile_text_does_not_stall(name):
    """Processor time, best of three, so that the limit is no matter of luck."""
    crowd = [{"boxes": [[x, y, x + 12, y + 12]] * 64} for x in range(0, 60, 12) for y in range(0, 60, 12)]
    truth = {
        "tracks": crowd,
        "spans": [[2 * i, 2 * i] for i in range(30)],
        "text": ", ".join(f"a{i}" for i in range(99)),
    }
    for task in VIDEO_TASKS:
        best = math.inf
        for _ in range(3):
            start = time.process_time()
            result = score(task, HOSTILE[name], truth)
            best = min(best, time.process_time() - start)
            if best < 0.02:
                break
        assert best < 0.05, f"{task}: {best * 1e3:.0f} ms"
        assert 0 <= result.total < 0.51


FRAGMENTS = """Frame 1:[1,2,3,4] Frame 2:[5,6,7,8]; 2-5 1 to 3 Track1: <Id1> </Id1> <cat> Frame Frames : ; , [ ] ( )
0 99999999999 -1 1e9 NaN None [] red circle the <think> </think> <answer> </answer> ``` é""".split()
hostile_text = st.one_of(
    st.text(max_size=60), st.lists(st.sampled_from([*FRAGMENTS, " ", "\n"]), max_size=25).map("".join)
)


@settings(max_examples=300, deadline=None)
@given(text=hostile_text, empty=st.booleans())
def test_no_text_raises_or_leaves_the_bounds(text, empty):
    for task in VIDEO_TASKS:
        result = score(task, text, NEVER if empty else TRUTH)
        again = score(task, text, NEVER if empty else TRUTH)
        assert 0 <= result.total <= 1
        assert (result.total, result.parts, result.matches) == (again.total, again.parts, again.matches)
        assert all(0 <= value <= 1 for value in result.parts.values())
        assert all(0 <= value <= 1 for *_, value in result.matches)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(range(8)), min_size=1, max_size=12), st.integers(0, 2))
def test_writing_anything_twice_or_more_never_raises_the_reward(chosen, task):
    """Frames of the truth, some of them more than once, earn what each once earns, or less."""
    task = VIDEO_TASKS[task]
    every = [*steps(A).split(";"), *(f"Frame {i}" for i in range(1, 9)), "red", "circle"][:8]
    if task == "when":
        every = [f"Frame {i}" for i in range(1, 9)]
    elif task == "what":
        every = ["red", "circle", "blue", "square", "a", "b", "c", "d"]
    glue = ", " if task == "what" else ";"
    target = {**TRUTH, **ONE}
    once = glue.join(every[i] for i in dict.fromkeys(chosen))
    assert score(task, glue.join(every[i] for i in chosen), target).total <= score(task, once, target).total + 1e-9
