"""What a training run leaves behind: one JSON line a step, and a clean stop when interrupted."""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping
from pathlib import Path

from transformers import TrainerCallback

from pr1kit.data.durable_files import append_lines


class RunLog(TrainerCallback):
    """Writes each step to `log.jsonl`, drives a progress bar, and stops at the end of a step when interrupted."""

    def __init__(self, folder: Path, bar=None):
        self.path, self.bar, self.stop = folder / "log.jsonl", bar, False
        self._handlers = {}

    def on_train_begin(self, args, state, control, **kwargs):
        def interrupt(number, frame):
            if self.stop:  # asked twice: now
                raise KeyboardInterrupt
            self.stop = True

        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._handlers[number] = signal.signal(number, interrupt)
            except ValueError:  # not in the main thread: the caller handles signals
                return

    def on_log(self, args, state, control, logs=None, **kwargs):
        if (row := log_row(state.global_step, logs)) and state.is_world_process_zero:
            append_lines(self.path, [row])
            if self.bar is not None:
                name = "reward" if "reward" in row else "loss"
                self.bar.set_postfix({name: f"{row[name]:.3f}" if name in row else "not finite"})

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
        if self.stop:
            control.should_save = control.should_training_stop = True

    def release_signals(self) -> None:
        """Give SIGINT and SIGTERM back to whom they belonged before training."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def log_row(step: int, logs: Mapping | None) -> dict | None:
    """The finite numbers that a trainer logged at a training step; None for other logs (evaluation, the summary)."""
    if not logs or "loss" not in logs:
        return None
    numbers = {key: value for key, value in logs.items() if isinstance(value, int | float) and math.isfinite(value)}
    return {"step": step} | numbers
