"""How does the policy answer the same held-out questions as it learns? Asked greedily at a few steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from pr1kit.data.durable_files import append_lines, read_log
from pr1kit.data.sample import Sample
from pr1kit.models.policy import Policy
from pr1kit.rollouts.generate import generate_completions
from pr1kit.rollouts.probes import FILE, probe_row

TIMES = 11  # how often a run is asked, before its first step and after its last included


def probe_steps(steps: int, times: int = TIMES) -> list[int]:
    """Evenly spaced steps of a run, from 0 (before training) to the last.

    >>> probe_steps(75)
    [0, 8, 15, 22, 30, 38, 45, 52, 60, 68, 75]
    >>> probe_steps(3)
    [0, 1, 2, 3]
    """
    return sorted({round(i * steps / (times - 1)) for i in range(times)})


class ProbeLog(TrainerCallback):
    """Writes the policy's greedy answers to `samples` at `probe_steps` to the folder's `probes.jsonl`.

    All answers of a step are written at once. Training is left as it was, its random numbers included. Every process
    asks, since a sharded model answers only to all of them; the first writes. Raises ValueError where two samples have
    one id, or a picture cannot be read.
    """

    def __init__(self, policy: Policy, samples: Sequence[Sample], folder: Path, steps: int, **generation):
        self.policy, self.samples, self.path = policy, list(samples), folder / FILE
        if len({sample.id for sample in self.samples}) < len(self.samples):
            raise ValueError("Probes are told apart by their ids: give each sample an id of its own.")
        self.steps, self.generation = probe_steps(steps), generation
        self.frames = [policy.frame_of(sample) for sample in self.samples]

    def on_train_begin(self, args, state, control, **kwargs):
        self._ask(state)

    def on_step_end(self, args, state, control, **kwargs):
        self._ask(state)

    def _ask(self, state) -> None:
        step = state.global_step
        if step not in self.steps or (self.path.exists() and step in {row["step"] for row in read_log(self.path)}):
            return
        answers = generate_completions(self.policy, self.samples, **self.generation)
        if state.is_world_process_zero:
            asked = zip(self.samples, self.frames, answers, strict=True)
            append_lines(self.path, [probe_row(step, sample, frame, texts[0]) for sample, frame, texts in asked])
