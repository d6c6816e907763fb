"""Drag a box, edit the text, flip a switch: what does the reward pay, and why? A widget for notebooks.

`RewardExplorer` holds one question, one completion, and the switches of the reward; whatever changes, it computes a new
`readout` (see `pr1kit.readout`) with the rewards of training and sends it to the page, which only draws. The completion
is the state: a moved box is written into the text, and the text is read again.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from pr1kit.boxes import from_pixels, pixels_per_unit
from pr1kit.explorer_picture import draw_explorer
from pr1kit.matching import MATCHINGS
from pr1kit.readout import read_out, rewrite
from pr1kit.rewards import RECIPES
from pr1kit.rollout_log import RolloutLog, scene_of
from pr1kit.sample import TASKS, Sample, Target
from pr1kit.tasks import get_task

STATIC = Path(__file__).with_name("static")
LARGEST_SIDE = 1400  # pixels of the picture that is sent; coordinates stay those of the original
LONGEST_TEXT = 1_000_000
HISTORY = 200


class RewardExplorer(anywidget.AnyWidget):
    """A picture, its truth, one answer, and what the answer earns, all of it to be moved by hand.

    `sample` is a `Sample`; `completion` a raw answer in `frame` (by default the perfect one); `recipe`, `compare` (a
    second recipe, or ""), `matching` and `drop` are the switches of `pr1kit.score`. `frame` is "pixel", "norm1000",
    (width, height), or a function of the image's size, as `Policy.frame` is. `group` holds the other answers to the
    question, as completions or as rewards: with it, every answer gets an advantage.

    `text`, `task`, `recipe`, `compare`, `matching`, `drop`, `group` and `member` are traits: set, observe or link them.
    `readout` is what is shown. Bad settings raise one sentence; a bad completion gets a low reward and a reason.

    >>> from pr1kit.datasets.scenes import make_scenes
    >>> explorer = RewardExplorer(make_scenes("grounding", 1)[0])
    >>> explorer.readout["results"][0]["total"]
    1.0
    """

    _esm = "".join((STATIC / f"{name}.js").read_text(encoding="utf-8") for name in ("dom", "stage", "panel", "explorer"))
    _css = (STATIC / "explorer.css").read_text(encoding="utf-8")

    scene = traitlets.Dict().tag(sync=True)
    readout = traitlets.Dict().tag(sync=True)
    run = traitlets.Dict().tag(sync=True)

    text = traitlets.Unicode()
    task = traitlets.Enum(TASKS, "grounding")
    recipe = traitlets.Enum(RECIPES, "kit")
    compare = traitlets.Enum(("", *RECIPES), "")
    matching = traitlets.Enum(MATCHINGS, "optimal")
    drop = traitlets.List(traitlets.Unicode())
    group = traitlets.List()
    member = traitlets.Int(None, allow_none=True)

    def __init__(
        self,
        sample: Sample,
        completion: str | None = None,
        recipe: str = "kit",
        *,
        compare: str = "",
        matching: str = "optimal",
        drop: Sequence[str] = (),
        frame: Any = "pixel",
        group: Sequence[str | float] = (),
        **kwargs,
    ):
        self._frame, self._quiet, self._past, self._future, self._gesture = frame, True, [], [], None
        self._log, self._samples, self._groups = None, {}, []
        super().__init__(**kwargs)
        self._show(sample, completion)
        switches = {"recipe": recipe, "compare": compare, "matching": matching}
        for name, value in switches.items():
            self._choose(name, value)
        self.drop, self.group = list(drop), list(group)
        self._quiet = False
        self._refresh()
        self.observe(self._on_change, ["text", "task", "recipe", "compare", "matching", "drop", "group", "member"])
        self.on_msg(self._receive)

    @classmethod
    def from_run(
        cls, folder: str | Path, samples: Sequence[Sample] | Mapping[str, Sample] = (), *, step: int | None = None,
        **options,
    ) -> RewardExplorer:  # fmt: skip
        """The logged rollouts of a training run: every step, every group, every answer.

        `samples` are those trained on (synthetic scenes are drawn again from their ids); `options` as for the class,
        recipe and task by default those of the run. Raises FileNotFoundError or ValueError, one sentence, where there
        is no log or no sample for its first group.
        """
        log = RolloutLog(folder)
        known = dict(samples) if isinstance(samples, Mapping) else {sample.id: sample for sample in samples}
        start = log.first_step if step is None else step
        first = log.groups(start)
        if not first:
            raise ValueError(f"{str(log.path)!r} holds no group at step {start}: it has {log.first_step} to {log.last_step}.")
        options.setdefault("recipe", log.settings.get("recipe", "kit"))
        explorer = cls(known.get(first[0]["id"]) or scene_of(first[0]["id"], first[0]["prompt"]), **options)
        explorer._log, explorer._samples = log, known
        explorer.open_step(start)
        return explorer

    @property
    def sample(self) -> Sample:
        """The question that is shown, with its truth."""
        return self._sample

    @sample.setter
    def sample(self, sample: Sample) -> None:
        self._quiet = True
        try:
            self.group, self.member = [], None
            self._show(sample, None)
        finally:
            self._quiet = False
        self._refresh()

    @property
    def frame(self) -> Any:
        """How the completion's numbers are read for this picture."""
        return self._frame(self._size) if callable(self._frame) else self._frame

    def undo(self) -> None:
        """The text before the last change; nothing where there is none."""
        self._travel(self._past, self._future)

    def redo(self) -> None:
        """What `undo` took back."""
        self._travel(self._future, self._past)

    def open_step(self, step: int, group: int = 0, member: int = 0) -> None:
        """Show an answer of a logged group. Without a run: ValueError."""
        if self._log is None:
            raise ValueError("There is no run to step through: begin with RewardExplorer.from_run(folder).")
        step = min(max(int(step), self._log.first_step), self._log.last_step)
        if not self._groups or self._groups[0]["step"] != step:
            self._groups = self._log.groups(step)
        if not self._groups:
            raise ValueError(f"Step {step} holds no whole group: the run was cut off while it wrote it.")
        index = min(max(int(group), 0), len(self._groups) - 1)
        row = self._groups[index]
        sample = self._samples.get(row["id"]) or scene_of(row["id"], row["prompt"])
        self._quiet = True
        try:
            self._past.clear()
            self._future.clear()
            self.group, self.member = row["completions"], min(max(int(member), 0), len(row["completions"]) - 1)
            self._show(sample, row["completions"][self.member])
        finally:
            self._quiet = False
        self.run = {
            "name": self._log.path.parent.name,
            "first": self._log.first_step,
            "last": self._log.last_step,
            "step": row["step"],
            "index": index,
            "questions": [each["prompt"][:120] for each in self._groups],
            "rewards": row["rewards"],
            "advantages": row["advantages"],
            "recipe": self._log.settings.get("recipe", ""),
            "curve": self.run.get("curve") or self._log.curve(),
            "again": self._log.steps_with(row["id"]),
        }
        self._refresh()

    def picture(self) -> bytes:
        """What is shown, as a PNG: what a page without the widget's JavaScript gets."""
        return draw_explorer(self._sample, self.readout, self.matching)

    def _show(self, sample: Sample, completion: str | None) -> None:
        image = sample.load_image()
        self._size = image.size
        target = Target.of(sample.target)
        sample = replace(sample, image=image, target=replace(target, image_size=target.image_size or image.size))
        self._sample, self.task = sample, sample.task
        self.text = self._perfect() if completion is None else completion
        small = image.copy()
        small.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        buffer = io.BytesIO()
        small.save(buffer, "PNG" if max(small.size) <= 512 else "JPEG", quality=88)
        kind = "png" if max(small.size) <= 512 else "jpeg"
        picture = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
        self.scene = {"picture": picture, "size": list(image.size), **self._truth()}

    def _truth(self) -> dict:
        truth = self._sample.target.to_dict()
        return {"id": self._sample.id, "question": self._sample.question, "truth": truth}

    def _perfect(self) -> str:
        sample, frame = self._sample, self.frame
        boxes = from_pixels(sample.target.boxes, frame, sample.target.image_size)
        target = replace(sample.target, boxes=boxes, image_size=None)
        return get_task(sample.task).write_answer(target, label=sample.question)

    def _choose(self, name: str, value: Any) -> None:
        """Set one switch; a wrong one raises one sentence."""
        choices = self.traits()[name].values
        if value not in choices:
            named = ", ".join(choice for choice in choices if choice)
            raise ValueError(f"Unknown {name} {value!r}: choose one of {named}.")
        setattr(self, name, value)

    def _on_change(self, change) -> None:
        if self._quiet:
            return
        if change["name"] == "text":
            self._remember(change["old"])
        self._refresh()

    def _refresh(self, *, number: int = 0, error: str = "") -> None:
        """Compute the readout and send it; where a reward cannot be computed (no labels, say) it tells why."""
        recipes = [self.recipe, *([self.compare] if self.compare else [])]
        switches = {"matching": self.matching, "drop": self.drop, "frame": self.frame}
        try:
            seen = read_out(
                self.text, self._sample.target, task=self.task, recipes=recipes, group=self.group, member=self.member,
                **switches,
            )  # fmt: skip
        except ValueError as problem:
            blank = {"region": [0, 0], "reason": "", "items": [], "results": [], "overlap": [], "transcript": []}
            seen, error = {**blank, "text": self.text, "predictions": 0, "sums": {}}, error or str(problem)
        chosen = {name: getattr(self, name) for name in ("task", "recipe", "compare", "matching", "drop")}
        self.readout = {
            **_for_javascript(self.text, seen),
            **chosen,
            "unit": self._unit(),
            "undo": len(self._past),
            "redo": len(self._future),
            "number": number,
            "error": error,
        }

    def _unit(self) -> list[float]:
        """Pixels per unit of the completion's frame: boxes snap to what the text can say."""
        return list(pixels_per_unit(self.frame, self._size))

    def _remember(self, text: str) -> None:
        self._past.append(text)
        del self._past[:-HISTORY]
        self._future.clear()
        self._gesture = None

    def _travel(self, source: list, goal: list) -> None:
        if source:
            goal.append(self.text)
            self._quiet, self._gesture = True, None
            self.text, self._quiet = source.pop(), False
            self._refresh()

    def _receive(self, widget, message: Any, buffers) -> None:
        """Do what the page asks. Whatever it sends, the widget stays alive: a refusal is one sentence in the readout."""
        error, self._quiet = "", True
        try:
            self._act(message)
        except (ValueError, OSError, traitlets.TraitError) as problem:
            error = str(problem)
        except (TypeError, KeyError, AttributeError):
            error = "The page sent a change that cannot be read; nothing was changed."
        finally:
            self._quiet = False
        number = message.get("number") if isinstance(message, dict) else 0
        with self.hold_sync():
            self._refresh(number=number if isinstance(number, int) else 0, error=error)

    def _act(self, message: dict) -> None:
        action, gesture = message["action"], message.get("gesture")
        if action == "items":
            going_on = gesture is not None and gesture == self._gesture and self._past
            base = self._past[-1] if going_on else self.text
            self._write(rewrite(base, message["items"], self._sample.target, task=self.task, frame=self.frame), gesture)
        elif action == "text":
            self._write(_clean(message["text"]), gesture)
        elif action == "set":
            for name in ("task", "recipe", "compare", "matching"):
                if name in message:
                    self._choose(name, message[name])
            self.drop = message.get("drop", self.drop)
        elif action == "truth":
            self._set_truth(message["truth"])
        elif action == "undo":
            self.undo()
        elif action == "redo":
            self.redo()
        elif action == "join":  # the answer shown becomes one of the group
            self.group, self.member = [*self.group, self.text], len(self.group)
        elif action == "leave":
            self.group, self.member = [], None
        elif action == "member":
            self._visit(int(message["member"]))
        elif action == "step":
            self.open_step(message["step"], message.get("group", 0))
        else:
            raise ValueError(f"There is no action {action!r}.")

    def _write(self, text: str, gesture: Any) -> None:
        if text != self.text:
            if gesture is None or gesture != self._gesture:  # one entry for each gesture, however many moves it has
                self._remember(self.text)
            self.text, self._gesture = text, gesture

    def _visit(self, member: int) -> None:
        """Show another answer of the group; what was changed in this one is left behind, and `undo` brings it back."""
        if not 0 <= member < len(self.group):
            raise ValueError(f"The group has {len(self.group)} answers, there is no number {member}.")
        self.member = member
        if isinstance(self.group[member], str):
            self._write(self.group[member], None)

    def _set_truth(self, written: str) -> None:
        target, size = read_annotations(written), self._size
        target = replace(target, image_size=size)  # checks the boxes against this picture
        self._sample = replace(self._sample, target=target)
        self.scene = {**self.scene, **self._truth()}

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        if os.environ.get("PR1KIT_STATIC"):  # executed to be read: there is no page that could show the widget
            data.pop("application/vnd.jupyter.widget-view+json", None)
        return {**data, "text/plain": repr(self), "image/png": base64.b64encode(self.picture()).decode()}, metadata

    def __repr__(self) -> str:
        totals = ", ".join(f"{each['recipe']} {each['total']:.3f}" for each in self.readout.get("results", []))
        return f"RewardExplorer({self.task}: {self._sample.question!r}, {totals})"

    @traitlets.validate("drop")
    def _known_parts(self, proposal):
        known = dict.fromkeys(name for task in TASKS for parts in get_task(task).PARTS.values() for name in parts)
        unknown = [name for name in proposal["value"] if name not in known]
        if unknown:
            raise ValueError(f"No reward has a part {unknown[0]!r} to drop: there are {', '.join(known)}.")
        return proposal["value"]


def read_annotations(written: str) -> Target:
    """A truth from JSON text, a mapping with the keys of `Target`. Raises ValueError, one sentence.

    >>> read_annotations('{"boxes": [[1, 2, 3, 4]]}').boxes.tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """
    try:
        value = json.loads(written)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"The annotations are no JSON: {str(problem)[:80]}.") from None
    if not isinstance(value, dict):
        raise ValueError('The annotations must be an object like {"boxes": [[x1, y1, x2, y2]], "labels": ["cat"]}.')
    if not {"boxes", "points", "text"} & value.keys():
        raise ValueError(f"The annotations need boxes, points or text, got {', '.join(map(repr, value)) or 'nothing'}.")
    return Target.of(value)


def _clean(text: Any) -> str:
    """A text as it can be sent back: half of a surrogate pair, which a page may send, becomes a question mark."""
    if not isinstance(text, str):
        raise ValueError("A completion is text.")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"The text has {len(text):,} characters; the explorer takes {LONGEST_TEXT:,}.")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _for_javascript(text: str, seen: dict) -> dict:
    """`seen` with its spans counted in UTF-16 units, as JavaScript counts: an emoji has two."""
    if not text or max(text) <= "\uffff":
        return seen

    def units(span: list[int]) -> list[int]:
        return [len(text[:at].encode("utf-16-le")) // 2 for at in span]

    items = [{**item, "span": units(item["span"])} for item in seen["items"]]
    return {**seen, "items": items, "region": units(seen["region"])}
