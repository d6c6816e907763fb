"""What a training run leaves behind: one JSON line a step, whole after a crash, and a clean stop when interrupted."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

from transformers import TrainerCallback


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
        if logs and "loss" in logs and state.is_world_process_zero:
            row = {"step": state.global_step}
            row |= {
                key: value for key, value in logs.items() if isinstance(value, int | float) and math.isfinite(value)
            }
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            if self.bar is not None:
                name = "reward" if "reward" in logs else "loss"
                self.bar.set_postfix({name: f"{logs[name]:.3f}"})

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
        if self.stop:
            control.should_save = control.should_training_stop = True

    def release_signals(self) -> None:
        """Give SIGINT and SIGTERM back to whom they belonged before training."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def cut_log(path: Path, last_step: int) -> None:
    """Drop a log's lines past `last_step`, and a half-written last line: a resumed run writes them again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= last_step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue
    path.with_suffix(".tmp").write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    path.with_suffix(".tmp").replace(path)


def read_log(path: str | Path) -> list[dict]:
    """The rows of a `log.jsonl` or `rollouts.jsonl`."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
