"""What does an answer earn? The recipes by name, one completion or a batch, and as a reward function for TRL.

    kit              ours, and the one to train with: total in [0, 1], its properties proven and tested
    paper            as Perception-R1 (arXiv 2504.07954) describes it: format + answer reward
    released         the formula of its official code, constants included, on our parser
    released-strict  the official code as a whole, with its parser and its format gates, see `official`

A recipe of your own is a function `(answer, target, options) -> RewardResult`, as the kit's are, and stands where the
name of one could: `answer` is parsed and in pixels, `options` are the switches of `tasks.Options`. The parts of its
results are logged as the kit's are, and must have the same names each time.

The formulas stand at the top of each task's file. All recipes but the last read one parser and differ only in what they
make of an `Answer`. Bad model output scores low with a reason; a bad target or option raises ValueError.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite, nan
from typing import Any

from pr1kit.data.boxes import pixels_per_unit, to_pixels
from pr1kit.data.sample import VIDEO_TASKS, Target
from pr1kit.rewards.official import PARSERS
from pr1kit.rewards.parsing import is_tagged
from pr1kit.rewards.results import Answer, RewardResult
from pr1kit.rewards.tasks import Options, get_task

Recipe = str | Callable[[Answer, Target, Options], RewardResult]
FIRST = 32  # answers after which a reward function says that none has passed the format gate
RECIPES = ("kit", "paper", "released", "released-strict")


def score(
    task: str,
    completion: str | None,
    target: Target | Mapping,
    *,
    recipe: Recipe = "kit",
    frame: Any = "pixel",
    matching: str = "optimal",
    drop: Sequence[str] = (),
    threshold: float | None = None,
    aggregate: str = "max",
    thinking: bool = False,
) -> RewardResult:
    """What one completion earns for `task`, with its parts and matched pairs.

    `frame` is how the completion's numbers are meant (see `boxes`); the target's are pixels. `matching`, `drop`,
    `threshold` and `aggregate` are the ablation switches of `tasks.Options`. With `thinking`, a completion without the
    asked tags gets no format part (paper, released), or half its reward (kit). Raises ValueError for a bad target.

    >>> score("counting", "(0,0),(2,2)(4,4),(6,6)", {"boxes": [[0, 0, 2, 2]]}).total
    0.5
    >>> score("grounding", "(0,0),(500,500)", {"boxes": [[0, 0, 8, 4]], "image_size": (16, 8)}, frame="norm1000").total
    1.0
    """
    options = {"matching": matching, "drop": drop, "threshold": threshold, "aggregate": aggregate}
    return score_batch(task, [completion], [target], recipe=recipe, frame=frame, thinking=thinking, **options)[0]


def score_batch(
    task: str,
    completions: Sequence[str | None],
    targets: Sequence[Target | Mapping],
    *,
    recipe: Recipe = "kit",
    frame: Any = "pixel",
    thinking: bool = False,
    **options,
) -> list[RewardResult]:
    """What each of B completions earns against its target; `frame` is one for all, or a list with one for each.

    >>> [result.total for result in score_batch("ocr", ["STOP", "SHOP"], [{"text": "STOP"}] * 2)]
    [1.0, 0.75]
    """
    rule, switches = _recipe(task, recipe, options, thinking)
    frames = frames_of(frame, len(completions))
    if len(targets) != len(completions):
        raise ValueError(f"{len(completions)} completions need as many targets, got {len(targets)}.")
    return [
        _score(task, rule, completion, check_target(task, target), each, recipe, thinking, switches)
        for completion, target, each in zip(completions, targets, frames, strict=True)
    ]


def reward_function(
    task: str | Sequence[str],
    recipe: Recipe = "kit",
    *,
    frame: Any = "pixel",
    thinking: bool = False,
    decode: Callable | None = None,
    **options,
) -> Callable[..., list[float]]:
    """`score` as a reward function with TRL's signature `f(prompts, completions, **columns) -> list[float]`.

    Columns, one value per completion: what the task's truth needs of `boxes`, `labels`, `points`, `text`, `image_size`,
    and `frame` where it differs between samples. Other columns are ignored. Completions are text or conversations.
    Of several tasks the column `task` chooses one for each completion; the mean reward of each is a metric of its own.
    TRL logs each part, as the metric `reward/<part>` and as a column of its completions. Its attribute
    `columns` names what a dataset must have (one of each tuple). Warns once where none of the first answers passes the
    recipe's format gate: a policy whose layout earns nothing cannot learn from it. `decode`, from token ids to text, is
    for `released-strict`, which wants the special tokens that TRL takes off: it reads the column `completion_ids`.

    >>> reward_function("ocr")(prompts=["OCR this image."], completions=["SHOP"], text=["STOP"])
    [0.75]
    >>> truth = {"text": ["STOP", ""], "boxes": [[], [[0, 0, 2, 2]]], "task": ["ocr", "counting"]}
    >>> reward_function(["counting", "ocr"])(completions=["SHOP", "(0,0),(2,2)"], **truth)
    [0.75, 1.0]
    """
    tasks = (task,) if isinstance(task, str) else tuple(dict.fromkeys(task))
    if not tasks:
        raise ValueError("A reward function needs a task, or several.")
    for each in tasks:
        _recipe(each, recipe, options, thinking)
    pixels_per_unit(frame, (1, 1))
    seen: Counter[str] = Counter()
    passed: Counter[str] = Counter()

    def reward(prompts=None, completions=(), **columns) -> list[float]:
        texts = [completion_text(completion) for completion in completions]
        if decode is not None and columns.get("completion_ids") is not None:
            texts = [decode(ids) for ids in columns["completion_ids"]]
        names = [name for name in Target.__dataclass_fields__ if columns.get(name) is not None]
        targets = [{name: columns[name][i] for name in names} for i in range(len(texts))]
        frames = columns.get("frame") or [None] * len(texts)
        frames = [frame if each is None else each for each in frames]
        asked = tasks * len(texts) if len(tasks) == 1 else columns.get("task")
        if asked is None or not set(asked) <= set(tasks):
            raise ValueError(f"The column 'task' must say {' or '.join(tasks)} of each completion, got {asked}.")
        results: list = [None] * len(texts)
        for each in tasks:
            rows = [i for i in range(len(texts)) if asked[i] == each]
            for wanted in get_task(each).COLUMNS if rows else ():
                if all(columns.get(name) is None for name in wanted):
                    raise ValueError(f"The {each} reward needs the dataset column {' or '.join(map(repr, wanted))}.")
            mine = {"recipe": recipe, "frame": [frames[i] for i in rows], "thinking": thinking, **options}
            scored = score_batch(each, [texts[i] for i in rows], [targets[i] for i in rows], **mine)
            for i, result in zip(rows, scored, strict=True):
                results[i] = result
            if seen[each] < FIRST:
                seen[each] += len(scored)
                passed[each] += sum(result.parts.get("format", 1) > 0 for result in scored)
                if seen[each] >= FIRST and not passed[each] and isinstance(recipe, str):
                    warnings.warn(_nothing_passes(each, recipe, seen[each]), stacklevel=2)
            if len(tasks) > 1 and rows and "log_metric" in columns:
                columns["log_metric"](f"reward/{each}", sum(result.total for result in scored) / len(scored))
        if log_extra := columns.get("log_extra"):
            parts = {
                each: _parts(each, recipe, [r for r, a in zip(results, asked, strict=True) if a == each])
                for each in tasks
            }
            for part in dict.fromkeys(part for each in tasks for part in parts[each]):
                has = [part in parts[each] for each in asked]
                values = [r.parts.get(part, 0.0) if own else nan for r, own in zip(results, has, strict=True)]
                log_extra(part, values)
                if kept := [value for value, own in zip(values, has, strict=True) if own]:
                    columns["log_metric"](f"reward/{part}", sum(kept) / len(kept))
        return [result.total for result in results]

    reward.__name__ = f"{'+'.join(tasks)}_{recipe_name(recipe)}"
    needed = [names for each in tasks for names in get_task(each).COLUMNS]
    vars(reward)["columns"] = tuple(dict.fromkeys(needed + ([("task",)] if len(tasks) > 1 else [])))
    return reward


def parse(task: str, completion: Any) -> Answer:
    """The `Answer` that `completion` gives to `task`, in the completion's own frame. Never raises on any completion.

    >>> parse("detection", '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6').reason
    '1 of 2 items dropped: cut short'
    """
    return get_task(task).parse(completion)


def read_answer(
    task: str, completion: Any, target: Target, frame: Any = "pixel", parser: Callable | None = None
) -> Answer:
    """The parsed answer with its boxes and points in pixels of the original image.

    `parser` reads a completion, with its target, in place of the task's own: one of `official`.

    >>> read_answer("grounding", "(0,0),(500,1000)", Target(image_size=(64, 32)), "norm1000").boxes.tolist()
    [[0.0, 0.0, 32.0, 32.0]]
    """
    answer = get_task(task).parse(completion) if parser is None else parser(completion, target)
    nothing = not len(answer.boxes) and not len(answer.points)
    if nothing or (isinstance(frame, str) and frame == "pixel"):
        return answer
    boxes, points = (to_pixels(rows, frame, target.image_size) for rows in (answer.boxes, answer.points))
    return replace(answer, boxes=boxes, points=points, scale=pixels_per_unit(frame, target.image_size))


def completion_text(completion: Any) -> str | None:
    """The text of a completion: itself, or the last message of a conversation; None where there is none.

    >>> completion_text([{"role": "assistant", "content": "STOP"}])
    'STOP'
    """
    if isinstance(completion, Sequence) and not isinstance(completion, str) and completion:
        completion = completion[-1]
    if isinstance(completion, Mapping):
        completion = completion.get("content")
    if isinstance(completion, Sequence) and not isinstance(completion, str):
        texts = [part.get("text") for part in completion if isinstance(part, Mapping)]
        completion = "".join(text for text in texts if isinstance(text, str))
    return completion if isinstance(completion, str) else None


def check_target(task: str, target: Target | Mapping) -> Target:
    """`target` as a `Target` that has what `task` needs. Raises ValueError, one sentence that names what is missing."""
    if isinstance(target, Mapping):
        for names in get_task(task).COLUMNS:
            if all(target.get(name) is None for name in names) and not (names == ("labels",) and _empty(target)):
                raise ValueError(f"A {task} target needs {' or '.join(map(repr, names))}, got {sorted(target)}.")
    return Target.of(target)


def frames_of(frame: Any, count: int) -> list:
    """One frame for each of `count` completions, from one for all or from a list with one each.

    >>> frames_of("pixel", 2), frames_of((64, 48), 2)
    (['pixel', 'pixel'], [(64, 48), (64, 48)])
    """
    if isinstance(frame, list) and not (len(frame) == 2 and all(isinstance(side, int | float) for side in frame)):
        if len(frame) != count:
            raise ValueError(f"{count} completions need one frame or {count} frames, got {len(frame)}.")
        return frame
    pixels_per_unit(frame, (1, 1))
    return [frame] * count


def recipe_name(recipe: Recipe) -> str:
    """The name of a recipe, or of a function that is one."""
    return recipe if isinstance(recipe, str) else getattr(recipe, "__name__", type(recipe).__name__)


def _parts(task: str, recipe: Recipe, results: Sequence[RewardResult]) -> Sequence[str]:
    """The parts that a recipe has; of one's own, those that it gave."""
    if isinstance(recipe, str):
        return get_task(task).PARTS[recipe]
    return tuple(dict.fromkeys(part for result in results for part in result.parts))


def _score(task, rule, completion, target, frame, recipe, thinking, switches) -> RewardResult:
    answer = read_answer(task, completion, target, frame, PARSERS[task] if recipe == "released-strict" else None)
    if callable(recipe):
        rule = partial(_own, recipe, completion)
    if not thinking or is_tagged(completion):
        return rule(answer, target, switches)
    reason = answer.reason or "the thinking tags are missing"
    if recipe == "kit":
        result = rule(answer, target, switches)
        return replace(result, total=result.total / 2, reason=reason)
    return rule(replace(answer, format_score=0.0, reason=reason), target, switches)


def _own(rule: Callable, completion, answer: Answer, target: Target, options: Options) -> RewardResult:
    """What a recipe of one's own makes of an answer. Raises ValueError where that is no reward."""
    result = rule(answer, target, options)
    if not isinstance(result, RewardResult) or not isfinite(result.total):
        said = f"{recipe_name(rule)!r} made {str(result)[:80]} of {str(completion)[:80]!r}"
        raise ValueError(f"A recipe returns a RewardResult with a finite total: {said}.")
    return result


def _recipe(task: str, recipe: Recipe, options: Mapping, thinking: bool) -> tuple[Callable, Options]:
    module = get_task(task)
    if callable(recipe):
        return recipe, Options(**options)
    if recipe not in module.RECIPES:
        raise ValueError(f"Unknown recipe {recipe!r} of {task}: choose one of {', '.join(module.RECIPES)}.")
    if thinking and recipe == "released-strict":
        raise ValueError("The official rewards read no thinking answers: with thinking, take the recipe `released`.")
    switches = Options(**options)
    unknown = sorted(set(switches.drop) - set(module.PARTS[recipe]))
    if unknown:
        parts = ", ".join(module.PARTS[recipe])
        raise ValueError(f"The {recipe} reward of {task} has no part {unknown[0]!r} to drop: it has {parts}.")
    return module.RECIPES[recipe], switches


def _empty(target: Mapping) -> bool:
    return target.get("boxes") is not None and len(target["boxes"]) == 0


def _nothing_passes(task: str, recipe: str, answers: int) -> str:
    example: dict = {"boxes": [[10, 20, 30, 40]], "labels": ["cat"]}
    if task in VIDEO_TASKS:
        example = {"tracks": [{"boxes": [[10, 20, 30, 40]] * 2}], "spans": [[1, 4]], "text": "red, circle"}
    paid = get_task(task).write_answer(example, label="cat", recipe=recipe)
    kept = "; its special tokens must be kept where completions are decoded" if recipe == "released-strict" else ""
    return f"0 of {answers} answers pass the format gate of `{recipe}`: a {task} answer that does is {paid!r}{kept}."
