"""Measure, train, measure again: how one condition is run, for a grid and for the demo alike.

Each stage leaves what it found in the run's folder and is not done twice: an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from pr1kit.data.durable_files import write_atomically
from pr1kit.data.label_noise import corrupt_labels
from pr1kit.data.sample import Sample
from pr1kit.evaluation.complexity import rl_headroom
from pr1kit.evaluation.metrics import Metrics, evaluate
from pr1kit.experiments.condition import HEADLINE, PHASES, Condition, templated_thought
from pr1kit.models.backends import quiet
from pr1kit.models.policy import Policy, load_policy
from pr1kit.rewards.score import score_batch
from pr1kit.rollouts.generate import generate_completions, sample_rollouts
from pr1kit.training.candidates import make_candidates
from pr1kit.training.curriculum import easy_to_hard, offline_difficulty, train_curriculum
from pr1kit.training.grpo import train_grpo
from pr1kit.training.grpo_settings import GRPOSettings
from pr1kit.training.perpo import train_perpo
from pr1kit.training.rloo import train_rloo
from pr1kit.training.sft import train_sft

PREPARATION_SEED = 1000
MOST_RL = 64  # steps whose scenes are drawn for a start after RL: a shorter one is the beginning of a longer one
BLANK = "#808080"


@dataclass(frozen=True)
class Measurement:
    """A policy's answers to held-out `samples`: `answers` has S lists of texts under `greedy` and under `sampled`."""

    samples: list[Sample]
    frames: list
    answers: dict[str, list[list[str]]]

    @cached_property
    def metrics(self) -> dict[str, Metrics]:
        task, targets = self.samples[0].task, [sample.target for sample in self.samples]
        return {mode: evaluate(task, texts, targets, frame=self.frames) for mode, texts in self.answers.items()}

    def summary(self) -> dict[str, dict[str, float]]:
        """For each mode the headline, the mean `kit` reward and the task's metrics, to five decimals."""
        task, found = self.samples[0].task, {}
        for mode, groups in self.answers.items():
            rewards = [
                result.total
                for group, sample, frame in zip(groups, self.samples, self.frames, strict=True)
                for result in score_batch(task, group, [sample.target] * len(group), frame=frame)
            ]
            value = self.metrics[mode][HEADLINE[task][0]]
            headline = 1 - value if task == "ocr" else value
            values = {"headline": headline, "reward": np.mean(rewards), **self.metrics[mode]}
            found[mode] = {name: round(float(number), 5) for name, number in values.items()}
        return found


@dataclass(frozen=True)
class Outcome:
    """What one run of a condition left: answers before and after, headroom before, a row for each training step."""

    before: Measurement
    after: Measurement
    headroom: dict[str, float]
    rows: list[dict]
    seconds: dict[str, dict[str, float]]  # by the clock (`train`) and of the processor, for each phase

    def results(self) -> dict:
        """The run's results as they are logged."""
        measured = {"before": self.before.summary(), "headroom": self.headroom, "after": self.after.summary()}
        return {"steps": len(self.rows), **measured, **{f"{name}_seconds": s for name, s in self.seconds.items()}}


def run_condition(condition: Condition, seed: int, folder: Path, work: Path, bar=None, *, watched: int = 0) -> Outcome:
    """Run one condition with one seed in `folder`, or what is left of it; `work` keeps prepared policies between runs.

    `bar`, one of tqdm's, counts training steps and says what is done. The first `watched` held-out scenes are answered
    greedily along an RL run as well (`train_grpo`'s `probes`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    say = (lambda what: bar.set_description_str(f"{condition.task}: {what}")) if bar else lambda what: None
    say("measuring before")
    policy = prepared(condition, work)
    held_out = condition.scenes(condition.held_out, condition.test_seed + seed, split="test")
    before = measure(policy, condition, held_out, seed, _before(condition, seed, work))
    headroom = _kept(folder / "headroom.json", lambda: _headroom(policy, condition, seed)) if condition.probes else {}
    say("training")
    seconds, rows = _kept(folder / "seconds.json", lambda: {"train": {}, "processor": {}}), []
    reinforce = partial(_reinforce, work=work, probes=held_out[:watched])
    train = {"sft": _supervise, "rl": reinforce, "ranked": partial(_rank, work=work)}
    for phase, share in PHASES[condition.method].items():
        started = time.perf_counter(), time.process_time()
        try:
            with quiet():
                log = train[phase](policy, condition, seed, share, folder / phase, bar)
        finally:
            clocks = zip(seconds, (time.perf_counter(), time.process_time()), started, strict=True)
            for name, now, then in clocks:
                seconds[name][phase] = round(seconds[name].get(phase, 0) + now - then, 1)
            write_atomically(folder / "seconds.json", json.dumps(seconds))
        rows += [{"phase": phase, **row} for row in log]
    say("measuring after")
    return Outcome(before, measure(policy, condition, held_out, seed, folder / "after.json"), headroom, rows, seconds)


def _kept(path: Path | None, make: Callable[[], dict]) -> dict:
    """What `path` holds, made where it is not there yet."""
    if path is None:
        return make()
    if not path.exists():
        write_atomically(path, json.dumps(make()))
    return json.loads(path.read_text(encoding="utf-8"))


def _before(condition: Condition, seed: int, work: Path) -> Path:
    """Where the answers before training are kept: conditions that start alike answer once."""
    names = ("policy", "task", "start", "level", "preparation", "rl_start", "held_out", "test_seed", "sampled", "blind")
    same = [getattr(condition, name) for name in (*names, "max_tokens")]
    return work / "before" / f"{hashlib.sha256(json.dumps(same).encode()).hexdigest()[:16]}-seed-{seed}.json"


def measure(
    policy: Policy, condition: Condition, samples: list[Sample], seed: int, path: Path | None = None
) -> Measurement:
    """One greedy answer of `policy` to each sample, and `condition.sampled` at temperature 1, or those in `path`.

    With `condition.blind` it also answers greedily with the next sample's image instead, and a blank one.
    """
    limits = {"max_new_tokens": condition.max_tokens, "thinking": condition.thinking, "seed": seed}
    pictures = {"": samples}
    if condition.blind:
        images = [sample.load_image() for sample in samples]
        blanks = [Image.new(image.mode, image.size, BLANK) for image in images]
        others = {", another image": images[1:] + images[:1], ", a blank image": blanks}
        for name, shown in others.items():
            pictures[name] = [replace(s, image=image) for s, image in zip(samples, shown, strict=True)]

    def ask() -> dict[str, list[list[str]]]:
        return {
            mode + name: generate_completions(policy, asked, num_generations=each, temperature=temperature, **limits)
            for name, asked in pictures.items()
            for mode, temperature, each in (("greedy", 0.0, 1), ("sampled", 1.0, condition.sampled))
            if mode == "greedy" or not name
        }

    return Measurement(samples, [policy.frame(sample.load_image().size) for sample in samples], _kept(path, ask))


def _headroom(policy: Policy, condition: Condition, seed: int) -> dict[str, float]:
    count = min(condition.probes, condition.held_out)
    probes = condition.scenes(count, condition.test_seed + seed, split="validation")
    limits = {"max_new_tokens": condition.max_tokens, "thinking": condition.thinking}
    values = asdict(rl_headroom(sample_rollouts(policy, probes, 8, seed=seed, **limits)))
    return {name: value for name, value in values.items() if name != "by_prompt"}


def _alone(folder: Path) -> FileLock:
    """What several runs start from is made in `folder` by one of them; other processes wait here."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{folder}.lock")


def prepared(condition: Condition, work: Path) -> Policy:
    """The policy from which training starts: as loaded, or after supervised steps on faulty answers or thoughts.

    What is prepared is the same for every seed, kept in `work`, and made only once.
    """
    if condition.start == "policy":
        return _after_rl(condition, condition.rl_start, work)
    key = f"{condition.task}-{condition.start}-{condition.level}-{condition.preparation}"
    folder = work / "prepared" / Path(condition.policy).name / key
    with _alone(folder):
        if folder.exists():
            return load_policy(str(folder), profile=condition.profile, verbose=False)
        policy = load_policy(condition.policy, profile=condition.profile)
        settings = replace(condition.sft_settings(), steps=condition.preparation)
        scenes = condition.scenes(condition.preparation * settings.batch_size, PREPARATION_SEED)
        faulty = [corrupt_labels(s, np.random.default_rng([PREPARATION_SEED, i])) for i, s in enumerate(scenes)]
        with tempfile.TemporaryDirectory() as run, quiet():
            train_sft(policy, faulty, run, settings, thought=templated_thought if condition.thinking else None)
            half = folder.with_name(f"{key}.tmp")
            shutil.rmtree(half, ignore_errors=True)
            policy.model.save_pretrained(half)
            policy.processor.save_pretrained(half)
        half.replace(folder)
    return load_policy(str(folder), profile=condition.profile, verbose=False)


def _after_rl(condition: Condition, steps: int, work: Path) -> Policy:
    """The policy after so many RL steps, the same for every seed and the first of any longer run; made only once."""
    if not steps:
        return load_policy(condition.policy, profile=condition.profile)
    folder = work / "prepared" / Path(condition.policy).name / f"{condition.task}-rl-{condition.level}-{steps}"
    policy = load_policy(condition.policy, profile=condition.profile)
    settings = replace(Condition(condition.task, steps=steps).rl_settings(PREPARATION_SEED), save_steps=steps)
    scenes = condition.scenes(MOST_RL * settings.prompts_per_step, PREPARATION_SEED)
    with _alone(folder), quiet():
        train_grpo(policy, scenes, folder, settings)  # done once: the folder's checkpoint is then loaded
    return policy


def _supervise(policy: Policy, condition: Condition, seed: int, share: float, folder: Path, bar) -> list[dict]:
    settings = condition.sft_settings(seed, share)
    count = settings.steps * settings.batch_size
    count = min(count, condition.distinct_scenes or condition.steps * condition.prompts_per_step)
    thought = templated_thought if condition.thinking else None
    return train_sft(policy, condition.training_scenes(count, seed), folder, settings, thought=thought, bar=bar)


def _rank(
    policy: Policy, condition: Condition, seed: int, share: float, folder: Path, bar, *, work: Path
) -> list[dict]:
    settings, log = condition.ranked_settings(seed), []
    scenes = condition.training_scenes(condition.ranked_prompts, seed)
    for i in range(condition.rounds):
        writer = _after_rl(condition, condition.rl_start - condition.age, work) if condition.age else policy
        options = {"seed": seed, "recipe": condition.recipe, "max_new_tokens": condition.max_tokens}
        path = folder / f"sampled-{i + 1}.jsonl"
        candidates = make_candidates(
            writer, scenes[i :: condition.rounds], condition.num_candidates, path=path, **options
        )
        rows = train_perpo(policy, candidates, folder / f"round-{i + 1}", settings, bar=bar)
        log += [{**row, "step": row["step"] + (log[-1]["step"] if log else 0)} for row in rows]
    return log


def _reinforce(
    policy: Policy,
    condition: Condition,
    seed: int,
    share: float,
    folder: Path,
    bar,
    *,
    work: Path,
    probes: Sequence[Sample] = (),
) -> list[dict]:
    settings = condition.rl_settings(seed, share)
    if condition.together:
        return _together(policy, condition, settings, work, bar)
    scenes = condition.training_scenes(condition.steps * condition.prompts_per_step, seed)
    if condition.order == "shuffled":
        if condition.algorithm == "rloo":
            return train_rloo(policy, scenes, folder, settings, bar=bar)
        return train_grpo(policy, scenes, folder, settings, bar=bar, probes=probes)
    rollouts = {"recipe": condition.recipe, "seed": seed, "max_new_tokens": condition.max_tokens}
    difficulty = offline_difficulty(policy, scenes, **rollouts)
    generations = (4, 8, 16) if "more" in condition.order else (condition.num_generations,) * 3
    return train_curriculum(policy, easy_to_hard(scenes, difficulty, settings.steps, generations), folder, settings)


def _together(policy: Policy, condition: Condition, settings: GRPOSettings, work: Path, bar) -> list[dict]:
    """One run on samples of several tasks, the same whichever of them is measured; made only once, kept in `work`."""
    tasks, scenes = sorted({condition.task, *condition.together}), []
    settings = replace(settings, steps=settings.steps * len(tasks))
    for task in tasks:
        own = replace(condition, task=task)
        scenes += own.training_scenes(condition.steps * condition.prompts_per_step, settings.seed)
    names = ("level", "truth_order", "fault", "fault_size", "distinct_scenes")
    decides = [tasks, *(getattr(condition, name) for name in names), asdict(settings)]
    folder = work / "together" / hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
    with _alone(folder):
        return train_grpo(policy, scenes, folder, settings, bar=bar)
