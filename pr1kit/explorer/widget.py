"""Drag a box, edit the text, flip a switch: what does the reward pay, and why? A widget for notebooks.

`RewardExplorer` holds one question, one completion, and the switches of the reward; whatever changes, it computes a new
`readout` (see `readout`) with the rewards of training and sends it to the page, which only draws. The completion
is the state: a moved box is written into the text, and the text is read again.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from pr1kit.data.annotations import read_annotations
from pr1kit.data.boxes import pixels_per_unit
from pr1kit.data.sample import IMAGE_TASKS, TASKS, VIDEO_TASKS, Sample
from pr1kit.explorer.readout import perfect_answer, read_out
from pr1kit.explorer.rewrite import rewrite
from pr1kit.explorer.still import draw_explorer
from pr1kit.explorer.wire import clean_text, count_in_utf16, open_sample, scene_of_page, truth_of_page
from pr1kit.rewards.matching import MATCHINGS
from pr1kit.rewards.score import RECIPES
from pr1kit.rewards.tasks import get_task
from pr1kit.rollouts.log import RolloutLog, scene_of

STATIC = Path(__file__).with_name("static")
SCRIPTS = ("dom.js", "link.js", "stage.js", "frames.js", "panel.js", "editor.js", "explorer.js")  # together one module
UNREAD = {"items": [], "region": [0, 0], "reason": "", "overlap": [], "sums": {}, "transcript": [], "results": []}
HISTORY = 200  # texts that undo can bring back


class RewardExplorer(anywidget.AnyWidget):
    """A picture, its truth, one answer, and what the answer earns, all of it to be moved by hand.

    `sample` is a `Sample`; `completion` a raw answer in `frame` (by default the perfect one); `recipe`, `compare` (a
    second recipe, or ""), `matching` and `drop` are the switches of `pr1kit.score`. `frame` is "pixel", "norm1000",
    (width, height), or a function of the image's size, as `Policy.frame` is. `group` holds the other answers to the
    question, as completions or as rewards: with it, every answer gets an advantage.

    `text`, `task`, `recipe`, `compare`, `matching`, `drop`, `group` and `member` are traits: set, observe or link them.
    `readout` is what is shown. Bad settings raise one sentence; a bad completion gets a low reward and a reason.

    >>> from pr1kit.data.scenes import make_scenes
    >>> explorer = RewardExplorer(make_scenes("grounding", 1)[0])
    >>> explorer.readout["results"][0]["total"]
    1.0
    """

    _esm = "".join((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS)
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
    group = traitlets.List(traitlets.Union([traitlets.Unicode(), traitlets.Float()]))
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
        self._frame, self._quiet, self._gesture = frame, True, None
        self._past: list[str] = []
        self._future: list[str] = []
        self._log: RolloutLog | None = None
        self._samples: dict[str, Sample] = {}
        super().__init__(**kwargs)
        self._show(sample, completion)
        self.recipe, self.compare, self.matching = recipe, compare, matching
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
        by default the reward of the run. Raises FileNotFoundError or ValueError, one sentence, where there is no
        log or no sample for the group to begin with.
        """
        log = RolloutLog(folder)
        known = dict(samples) if isinstance(samples, Mapping) else {sample.id: sample for sample in samples}
        row = log.groups_at(log.first_step if step is None else step)[0]
        switches = {name: log.settings[name] for name in ("recipe", "matching", "drop") if name in log.settings}
        if switches.get("recipe") not in RECIPES:  # one's own, which its name does not bring back
            switches.pop("recipe", None)
        explorer = cls(known.get(row["id"]) or scene_of(row["id"], row["prompt"]), **switches | options)
        explorer._log, explorer._samples = log, known
        explorer.open_step(row["step"])
        return explorer

    @property
    def sample(self) -> Sample:
        """The question that is shown, with its truth."""
        return self._sample

    @sample.setter
    def sample(self, sample: Sample) -> None:
        with self._all_at_once():
            self.group, self.member = [], None
            self._show(sample, None)

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

    def open_step(self, step: int, group: int | str = 0, member: int = 0) -> None:
        """Show an answer of a logged group; `group` is its number in the step, or the id of its sample.

        Takes the nearest where there is none so numbered. Without a run, or such a sample in the step: ValueError.
        """
        if self._log is None:
            raise ValueError("There is no run to step through: begin with RewardExplorer.from_run(folder).")
        rows = self._log.groups_at(step)
        ids = [row["id"] for row in rows]
        if isinstance(group, str) and group not in ids:
            raise ValueError(f"Step {rows[0]['step']} has no group {group!r}: its first is {ids[0]!r}.")
        index = ids.index(group) if isinstance(group, str) else min(max(int(group), 0), len(rows) - 1)
        row = rows[index]
        sample = self._samples.get(row["id"]) or scene_of(row["id"], row["prompt"])
        with self._all_at_once():
            self._past.clear()
            self._future.clear()
            place = min(max(int(member), 0), len(row["completions"]) - 1)
            self._show(sample, row["completions"][place])
            self.group, self.member = row["completions"], place
            self.run = self._log.describe(rows, index) | {"curve": self.run.get("curve") or self._log.curve()}

    def picture(self) -> bytes:
        """What is shown, as a PNG: what a page without the widget's JavaScript gets."""
        return draw_explorer(self._sample, self.readout, self.matching, self.frame)

    def _show(self, sample: Sample, completion: str | None) -> None:
        self._sample = open_sample(sample)
        self._size = self._sample.image.size
        self.task = sample.task
        self.text = perfect_answer(self._sample, self.frame) if completion is None else completion
        self.scene = scene_of_page(self._sample)

    def _on_change(self, change) -> None:
        if self._quiet:
            return
        if change["name"] == "text":
            self._remember(change["old"])
        self._refresh()

    @contextmanager
    def _all_at_once(self) -> Iterator[dict]:
        """Several changes make one readout and one message to the page; yields the notes that go with it."""
        notes = {"asked": "", "error": ""}
        if self._quiet:  # part of a larger change
            yield notes
            return
        self._quiet = True
        with self.hold_sync():
            try:
                yield notes
            finally:
                self._quiet = False
                self._refresh(**notes)

    def _refresh(self, *, asked: str = "", error: str = "") -> None:
        """Compute the readout and send it; where a reward cannot be computed (no labels, say) it tells why."""
        recipes = [self.recipe, *([self.compare] if self.compare else [])]
        switches: dict[str, Any] = {"matching": self.matching, "drop": self.drop, "frame": self.frame}
        group: dict[str, Any] = {"group": self.group, "member": self.member}
        try:
            seen = read_out(self.text, self._sample.target, task=self.task, recipes=recipes, **switches, **group)
        except ValueError as problem:
            seen, error = {**UNREAD, "text": self.text}, error or str(problem)
        self.readout = {
            **count_in_utf16(self.text, seen),
            **{name: getattr(self, name) for name in ("task", "recipe", "compare", "matching", "drop")},
            "tasks": list(VIDEO_TASKS if self._sample.is_video else IMAGE_TASKS),
            "recipes": [name for name in RECIPES if name in get_task(self.task).RECIPES],
            "unit": list(pixels_per_unit(self.frame, self._size)),  # boxes snap to what the text can say
            "undo": len(self._past),
            "redo": len(self._future),
            "asked": asked,
            "error": error,
        }

    def _remember(self, text: str) -> None:
        self._past.append(text)
        del self._past[:-HISTORY]
        self._future.clear()
        self._gesture = None

    def _travel(self, source: list, goal: list) -> None:
        if source:
            with self._all_at_once():
                goal.append(self.text)
                self.text, self._gesture = source.pop(), None

    def _receive(self, widget, message: Any, buffers) -> None:
        """Do what the page asks. Whatever it sends, the widget lives on: a refusal is one sentence in the readout."""
        with self._all_at_once() as notes:
            try:
                notes["asked"] = str(message["asked"])
                self._act(message)
            except (ValueError, OSError, traitlets.TraitError) as problem:
                notes["error"] = str(problem)
            except (TypeError, KeyError, AttributeError):
                notes["error"] = "The page sent a change that cannot be read; nothing was changed."

    def _act(self, message: dict) -> None:
        action, gesture = message["action"], message.get("gesture")
        if action == "items":
            going_on = gesture is not None and gesture == self._gesture and self._past
            base = self._past[-1] if going_on else self.text
            self._write(rewrite(base, message["items"], self._sample.target, task=self.task, frame=self.frame), gesture)
        elif action == "text":
            self._write(clean_text(message["text"]), gesture)
        elif action == "set":
            for name in ("task", "recipe", "compare", "matching"):
                setattr(self, name, message.get(name, getattr(self, name)))
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
        elif action == "again" and self._log:
            self.run = {**self.run, "again": self._log.steps_with(self._sample.id)}
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
        self.scene = {**self.scene, **truth_of_page(self._sample)}

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
