"""Counting: name a class, box every one of it; the number of boxes is the count.

The truth is boxes, or (PixMo-Count) one point on each object, or (its evaluation splits) a count alone, which can be
evaluated but not rewarded. With n boxes answered and m objects:

    closeness  IoU with a true box; or 1 − d / (a tenth of the image's diagonal), floored at 0, where d is the distance
               from the box's centre to a true point
    kit        Σ (½ closeness + ½ [closeness >= 0.1]) / max(n, m) over matched pairs: half where, half how many;
               a malformed box counts in n, a box written twice is an extra
    paper      format + Σ Φ / m over matched pairs, Φ = 1 − d / diagonal (section 4.2: Euclidean), or with true boxes,
               which is ours, the IoU
    released   format × min(n, m) / max(n, m) × (1 − mean d / (1000·√2)), matched by d, normalised to 0–1000; negative
               where boxes lie far outside the image
    released-strict  the same, read and gated as the official code does it, see `official`
    number     for answers that state a number and no box: the mean of exact, [n = m], and closeness,
               1 − |n − m| / max(n, m); `drop` one of them to have the other

Under `kit` a box answers the object that it overlaps most, or to which it is nearest, see `matching.own_share`: one
over a crowd answers none of it, so that moving it a little and writing it again earns nothing.
Why no bonus for n = m: one could buy it with a false box. A hit that counts only where it lies cannot be bought.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pr1kit.data.boxes import centers, iou
from pr1kit.data.sample import Target
from pr1kit.rewards.matching import aggregate, assign, match, nearest_share, own_share
from pr1kit.rewards.parsing import boxed, build_prompt, read_number, read_places
from pr1kit.rewards.results import Answer, RewardResult
from pr1kit.rewards.tasks import COUNTED, KIT_RULES, Options, Rules, says_nothing

COLUMNS = (("boxes", "points", "count"),)
PARTS = {
    "kit": ("format", "location", "count"),
    "paper": ("format", "location"),
    "released": ("format", "location", "count"),
    "released-strict": ("format", "location", "count"),
    "number": ("exact", "closeness"),
}
HIT = 0.1  # closeness from which an object counts as found: loose, since `location` already asks for precision
REACH = 0.1  # of the diagonal: how far from a true point a centre still earns something


def prompt(question: str, thinking: bool = False) -> str:
    """The user's words for the class `question`.

    >>> prompt("bird")
    'Output all the bounding boxes of the bird'
    """
    return build_prompt(f"Output all the bounding boxes of the {question}{'.' if thinking else ''}", thinking)


def write_answer(target: Target, *, label: str = "", recipe: str = "kit") -> str:
    """The supervised answer in the layout that `recipe` pays, objects in the order given; `None` where there is none.

    `label` and box for each object; for `released-strict` one label, then boxes, then the end of the turn; for `number`
    the count alone.

    >>> write_answer({"boxes": []}, label="bird"), write_answer({"count": 4}, recipe="number")
    ('None', '4')
    >>> write_answer({"boxes": [[1, 2, 3, 4]]}, label="bird", recipe="released-strict")
    '<|object_ref_start|>bird<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|><|im_end|>'
    """
    target = Target.of(target)
    if recipe == "number":
        return str(_objects(target))
    named = [boxed(label, box) for box in target.boxes]
    if named and recipe == "released-strict":
        return named[0] + "".join(box[box.index("<|box_start|>") :] for box in named[1:]) + "<|im_end|>"
    return "".join(named) or "None"


def parse(completion: Any) -> Answer:
    """Boxes `(N, 4)` and points `(N', 2)` of a completion, in its own frame."""
    return read_places(completion)


def kit(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 1]: matched closeness and matched hits, each shared among max(n, m)."""
    m = _placed(target)
    if not m:
        return RewardResult(float(says_nothing(answer)), {"format": answer.format_score}, reason=answer.reason)
    places = _places(answer)
    n = len(places) + (answer.malformed if "format" not in options.drop else 0)
    near, hit = closeness(places, target), options.threshold or HIT
    own = _own(places, near, target)
    near, found = near * own, (near >= hit) * own  # (N, M)
    pair_scores = options.mean({"location": near, "count": found})
    if isinstance(pair_scores, float):  # both dropped: the format alone
        return RewardResult(answer.format_score, {"format": answer.format_score}, reason=answer.reason)
    pairs = match(pair_scores, options.matching)
    parts = {
        "format": answer.format_score,
        "location": aggregate(sum(float(near[p, t]) for p, t, _ in pairs), n, m, options.aggregate),
        "count": aggregate(sum(float(found[p, t]) for p, t, _ in pairs), n, m, options.aggregate),
    }
    total = aggregate(sum(score for *_, score in pairs), n, m, options.aggregate)
    return RewardResult(total, parts, tuple(pairs), answer.reason)


def paper(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 2]: format and the matched score per object; extras cost nothing."""
    m, places = _placed(target), _places(answer)
    pairs = match(closeness(places, target, reach=1.0), options.matching)
    location = sum(score for *_, score in pairs) / m if m else float(says_nothing(answer))
    parts = {"format": float(answer.format_score == 1), "location": location}
    total = sum(value for name, value in parts.items() if name not in options.drop)
    return RewardResult(total, parts, tuple(pairs), answer.reason)


def released(answer: Answer, target: Target, options: Options) -> RewardResult:
    """At most 1: the format opens the gate; behind it the ratio of counts times how near the centres are."""
    m, places = _placed(target), _places(answer)
    well_formed = float(answer.format_score == 1 and len(places) > 0)
    if not m or not len(places):
        return RewardResult(0.0, {"format": well_formed, "location": 0.0, "count": 0.0}, reason=answer.reason)
    norm1000 = 1000 / np.array(_size(target), float)
    truth = centers(target.boxes) if len(target.boxes) else target.points
    distance = _distances(centers(places) * norm1000, truth * norm1000)
    pairs = list(zip(*assign(-distance, options.matching), strict=True))  # the nearest pairs in sum
    mean = float(sum(distance[p, t] for p, t in pairs)) / len(pairs)
    parts = {
        "format": well_formed,
        "location": 1 - mean / (1000 * math.sqrt(2)),
        "count": min(len(places), m) / max(len(places), m),
    }
    total = math.prod(value for name, value in parts.items() if name not in options.drop)
    matches = tuple((p, t, float(1 - distance[p, t] / (1000 * math.sqrt(2)))) for p, t in pairs)
    return RewardResult(float(total), parts, matches, answer.reason)


def number(answer: Answer, target: Target, options: Options) -> RewardResult:
    """In [0, 1]: the mean of `exact`, is the stated number right, and `closeness`, 1 − |error| / max(number, true)."""
    n, m = count_of(answer, "number"), _objects(target)
    if n is None:
        parts = {"format": 0.0, "exact": 0.0, "closeness": 0.0}
        return RewardResult(0.0, parts, reason="no number, or several, in the answer")
    parts = {"exact": float(n == m), "closeness": 1 - abs(n - m) / max(n, m, 1)}
    return RewardResult(float(options.mean(parts)), {"format": 1.0, **parts})


RECIPES = {"kit": kit, "paper": paper, "released": released, "released-strict": released, "number": number}


def count_of(answer: Answer, count_from: str = "either") -> int | None:
    """How many objects an answer says there are: its boxes, the one number that it states, or either.

    `either` takes the number only where no box is given. None where neither is there, or where several numbers are;
    an explicit "nothing" is 0.

    >>> count_of(parse("<answer> 4 </answer>")), count_of(parse("(1,1),(2,2)")), count_of(parse("3 or 4"))
    (4, 1, None)
    """
    if count_from not in COUNTED:
        raise ValueError(f"Unknown count_from {count_from!r}: choose one of {', '.join(COUNTED)}.")
    boxes = len(_places(answer))
    if says_nothing(answer) or (count_from != "number" and (boxes or count_from == "boxes")):
        return boxes
    if boxes or answer.malformed or not answer.explicit:
        return None
    return read_number(answer.text)


def closeness(places: np.ndarray, target: Target, reach: float = REACH) -> np.ndarray:
    """How well each of `places` `(N, 4)` answers each object `(N, M)` in [0, 1]: IoU, or nearness to a true point.

    >>> closeness(np.array([[0, 0, 2, 2.0]]), Target(points=[[1, 1], [9, 9]], image_size=(20, 20))).tolist()
    [[1.0, 0.0]]
    """
    if len(target.boxes) or not len(target.points):
        return iou(places, target.boxes)
    distance = _distances(centers(places), target.points)
    return np.maximum(0.0, 1 - distance / (reach * math.hypot(*_size(target))))


def metrics(answers: list[Answer], targets: list[Target], rules: Rules = KIT_RULES) -> dict[str, np.ndarray]:
    """Per-sample values `(S,)`: is the count exact, how far off is it, and the matched closeness / max(n, m).

    The count is read as `count_of` says; an answer without one is wrong, and off by all the objects. Where only the
    count is known, the closeness is nan.
    """
    count_from = rules.count_from or ("boxes" if rules.official else "either")
    accuracy, error, location = np.zeros((3, len(answers)))
    for i, (answer, target) in enumerate(zip(answers, targets, strict=True)):
        said, m, places = count_of(answer, count_from), _objects(target), _places(answer)
        accuracy[i] = said == m and (m > 0 or says_nothing(answer) or count_from != "boxes")
        error[i] = abs((said or 0) - m)
        matched = sum(score for *_, score in match(closeness(places, target)))
        location[i] = matched / max(len(places), m) if m else accuracy[i]
        if m and not len(target.boxes) and not len(target.points):
            location[i] = math.nan
    return {"accuracy": accuracy, "mae": error, "matched_iou": location}


def counts(answer: Answer, target: Target, count_from: str = "either") -> tuple[int, int]:
    """How many objects the answer counts and how many there are: one cell of the confusion matrix."""
    return count_of(answer, count_from) or 0, _objects(target)


def _places(answer: Answer) -> np.ndarray:
    """The answer's boxes, and its points as flat boxes, `(N, 4)`."""
    return np.concatenate([answer.boxes, np.tile(answer.points, 2)]) if len(answer.points) else answer.boxes


def _own(places: np.ndarray, near: np.ndarray, target: Target) -> np.ndarray:
    if len(target.boxes) or not len(target.points):
        return own_share(near, target.boxes)
    return nearest_share(_distances(centers(places), target.points))


def _objects(target: Target) -> int:
    return len(target.boxes) or len(target.points) or target.count or 0


def _placed(target: Target) -> int:
    """How many objects there are. Raises ValueError where nothing says where they are."""
    m = _objects(target)
    if m and not len(target.boxes) and not len(target.points):
        raise ValueError(f"The counting reward needs boxes or points, this target has only the count {m}.")
    return m


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1))  # (N, 2), (M, 2) -> (N, M)


def _size(target: Target) -> tuple[int, int]:
    if target.image_size is None:
        raise ValueError("Counting by distance needs the target's image_size (width, height).")
    return target.image_size
