"""Does reflection help? Quality by turn before and after RePer, beside best-of-n and self-consistency at equal tokens.

    python -m pr1kit.experiments.reflection --seeds 0 1 2 3 4

A seed is a set of training scenes, the policy's own answers to them, the order of training, and held-out scenes. Every
finished run is one line of `data/reflection/runs.jsonl`; the command goes on where it was interrupted. Counting scenes,
greedy turns, the `kit` reward.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from pr1kit.data.durable_files import write_atomically
from pr1kit.data.sample import Sample
from pr1kit.data.scenes import make_scenes
from pr1kit.data.shipped import shipped
from pr1kit.evaluation.calibration import calibrate
from pr1kit.experiments.runs import environment
from pr1kit.models.policy import Policy, load_policy
from pr1kit.rewards.consensus import most_agreed
from pr1kit.rewards.counting import closeness
from pr1kit.rewards.critics import RewardCritic
from pr1kit.rewards.matching import match
from pr1kit.rewards.score import read_answer, score_batch
from pr1kit.rollouts.attention import image_attention
from pr1kit.rollouts.conversation import encode
from pr1kit.rollouts.dialogues import make_dialogues
from pr1kit.rollouts.generate import generate_completions
from pr1kit.rollouts.policy_critic import PolicyCritic, critic_lessons
from pr1kit.rollouts.reflection import Dialogue, Dialogues, Turn, reflect
from pr1kit.training.candidates import make_candidates
from pr1kit.training.perpo import train_perpo
from pr1kit.training.preference_settings import TINY_PERPO
from pr1kit.training.reflection_rl import train_reflection
from pr1kit.training.reflection_settings import PAYS, TINY_REFLECTION
from pr1kit.training.reper import train_reper
from pr1kit.training.reper_settings import TINY_REPER

LOG, WORK = shipped("reflection") / "runs.jsonl", Path("runs/reflection")
TRAINING, HELD_OUT, LONGEST, SAMPLED = 192, 48, 96, 8  # scenes, scenes, tokens of an answer, answers to a scene
SETTINGS = replace(TINY_REPER, steps=30, batch_size=16, micro_batch=16, save_steps=10_000)
CRITIC, CRITICISED = replace(SETTINGS, steps=120, learning_rate=1e-3), 640  # scenes whose answers it learns from
RL = replace(TINY_REFLECTION, steps=10, prompts_per_step=4, micro_prompts=4, save_steps=10_000)
ALPHAS = (0.0, 0.1, 1.0, 10.0)
TURNS = 5
CONDITIONS = (
    "before", "sft on the best", *(f"reper, alpha {alpha:g}" for alpha in ALPHAS), "reper, learned critic",
    *(f"rl, {pays}" for pays in PAYS), "dpo", "perpo",
    *(f"{name}, learned critic" for name in ("before", "sft on the best", "dpo", "perpo")),
)  # fmt: skip
WHOLE = ("before", "sft on the best", "reper, alpha 0.1")  # measured with all controls


def main(flags: Sequence[str] | None = None) -> None:
    """The command: what is not in the log yet, condition by condition."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--conditions", nargs="+", default=CONDITIONS, choices=CONDITIONS)
    parser.add_argument("--out", type=Path, default=LOG)
    parser.add_argument("--work", type=Path, default=WORK, help="dialogues and checkpoints, to go on from")
    parser.add_argument("--fast", action="store_true", help="a few scenes and steps, to see that it runs")
    said = parser.parse_args(flags)
    for condition in said.conditions:
        for seed in said.seeds:
            if (condition, seed) in {(row["condition"], row["seed"]) for row in read_reflection_runs(said.out)}:
                continue
            began, cpu = time.time(), time.process_time()
            row = {"condition": condition, "seed": seed, **run(condition, seed, said.work, fast=said.fast)}
            row |= {"cpu_seconds": round(time.process_time() - cpu, 1), "environment": environment(time.time() - began)}
            done = [*read_reflection_runs(said.out), row]
            write_atomically(said.out, "".join(json.dumps(each) + "\n" for each in done))
            print(f"{condition}, seed {seed}: {row['by_turn']}", flush=True)


def read_reflection_runs(path: Path = LOG) -> list[dict]:
    """The finished runs in `path`; none where there is no such file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def run(condition: str, seed: int, work: Path = WORK, *, fast: bool = False) -> dict:
    """One condition with one seed: what it measured, as it is logged."""
    scenes = make_scenes("counting", 12 if fast else TRAINING, 500 + seed)
    test = make_scenes("counting", 4 if fast else HELD_OUT, 500 + seed, split="test")
    few = {"steps": 2, "batch_size": 2, "micro_batch": 2} if fast else {}
    trained = condition.removesuffix(", learned critic")
    trained = "reper, alpha 0.1" if trained == "reper" else trained
    policy, folder, log = load_policy("tiny"), work / f"{trained.replace(', ', '-').replace(' ', '-')}-{seed}", []
    if condition.startswith("rl"):
        settings = replace(RL, seed=seed, pays=condition.removeprefix("rl, "))
        if fast:
            settings = replace(settings, steps=1, prompts_per_step=1, micro_prompts=1)
        log = train_reflection(policy, scenes, folder, settings)
        turns = {f"train_turn_{turn}": [round(row[f"reward/turn_{turn}"], 4) for row in log] for turn in (1, 2)}
        return turns | by_turn(policy, reflect(policy, RewardCritic(), test, 2, max_new_tokens=LONGEST), 2)
    found: dict = {}
    if trained in ("dpo", "perpo"):
        candidates = make_candidates(policy, scenes, SAMPLED, seed=seed, max_new_tokens=LONGEST)
        own = replace(TINY_PERPO, method=trained, steps=1 if fast else SETTINGS.steps, seed=seed)
        found = {"loss": [round(row["loss"], 4) for row in train_perpo(policy, candidates, folder, own)]}
    elif trained != "before":
        dialogues = _dialogues(scenes, seed, work)
        best = [replace(d, turns=(Turn(d.turns[-1].completion, 1.0),)) for d in dialogues]
        alpha = float(trained.rpartition(" ")[2]) if "alpha" in trained else 0.1
        lessons, settings = best if "best" in trained else dialogues, replace(SETTINGS, alpha=alpha, seed=seed, **few)
        log = train_reper(policy, lessons, folder, settings)
        found = {"dialogues": dialogues.statistics, "loss": [round(row["loss"], 4) for row in log]}
    if condition.endswith("learned critic"):
        scenes = make_scenes("counting", 12 if fast else CRITICISED, 500 + seed)
        critic = replace(CRITIC, seed=seed, **few)
        return found | _with_learned_critic(policy, scenes, test, critic, work, seed, 2 if fast else TURNS)
    turns = 2 if fast else TURNS
    dialogues = reflect(policy, RewardCritic(), test, turns, max_new_tokens=LONGEST)
    found |= by_turn(policy, dialogues, turns)
    if condition in WHOLE:
        plain = reflect(policy, RewardCritic("again"), test, min(turns, 3), max_new_tokens=LONGEST)
        found["plain_request"] = _round(plain.rewards_by_turn(min(turns, 3)).mean(0))
        found |= sampled(policy, test, seed) | {"attention": _attention(policy, dialogues[:8], turns)}
    return found


def _dialogues(scenes: Sequence[Sample], seed: int, work: Path) -> Dialogues:
    """The dialogues of a seed, made once and kept."""
    path = work / f"dialogues-{seed}.json"
    if not path.exists():
        made = make_dialogues(load_policy("tiny"), scenes, critic=RewardCritic(), seed=seed, max_new_tokens=LONGEST)
        rows = [(scenes.index(d.sample), [asdict(turn) for turn in d.turns], d.frame) for d in made]
        write_atomically(path, json.dumps([rows, made.statistics]))
    rows, statistics = json.loads(path.read_text(encoding="utf-8"))
    kept = [Dialogue(scenes[i], tuple(Turn(**turn) for turn in turns), frame) for i, turns, frame in rows]
    return Dialogues(kept, statistics)


def by_turn(policy: Policy, dialogues: Dialogues, turns: int) -> dict:
    """Reward of the answer that stands after each turn and of the best so far; precision, recall; tokens so far."""
    rewards = dialogues.rewards_by_turn(turns)
    precision, recall = np.array([_precision_recall(dialogue, turns) for dialogue in dialogues]).mean(0)
    written, read = np.zeros((2, turns))
    for dialogue in dialogues:
        for turn, said in enumerate(dialogue.turns):
            written[turn:] += said.tokens / len(dialogues)
            if turn + 1 < len(dialogue.turns):
                read[turn + 1 :] += len(encode(policy, said.words)) / len(dialogues)
    return {
        "by_turn": _round(rewards.mean(0)),
        "best_so_far": _round(np.maximum.accumulate(rewards, 1).mean(0)),
        "precision": _round(precision),
        "recall": _round(recall),
        "tokens_written": _round(written),
        "tokens_read": _round(read),
        "turns_taken": round(float(np.mean([len(d.turns) for d in dialogues])), 3),
    }


def sampled(policy: Policy, samples: Sequence[Sample], seed: int) -> dict:
    """Best of n and self-consistency of n answers at temperature 1, n = 1 … 8, and an answer's tokens."""
    groups = generate_completions(
        policy, samples, num_generations=SAMPLED, temperature=1.0, seed=seed, max_new_tokens=LONGEST,
        keep_special_tokens=True,
    )  # fmt: skip
    frames = [policy.frame(sample.load_image().size) for sample in samples]
    rewards = np.array(
        [
            [result.total for result in score_batch(s.task, group, [s.target] * SAMPLED, frame=frame)]
            for s, group, frame in zip(samples, groups, frames, strict=True)
        ]
    )  # (N, n)
    agreed = [
        [row[most_agreed(s, group[:n], frame)] for n in range(1, SAMPLED + 1)]
        for s, group, frame, row in zip(samples, groups, frames, rewards, strict=True)
    ]
    tokens = np.mean([len(encode(policy, text)) for group in groups for text in group])
    return {
        "best_of": _round(np.maximum.accumulate(rewards, 1).mean(0)),
        "agreed_of": _round(np.mean(agreed, 0)),
        "tokens_sampled": round(float(tokens), 2),
    }


def _with_learned_critic(policy: Policy, scenes, test, settings, work: Path, seed: int, turns: int) -> dict:
    """A critic trained on the reward critic's words about sampled answers, its calibration, and turns with it."""
    learner = load_policy("tiny")
    how = {"temperature": 1.0, "max_new_tokens": LONGEST, "keep_special_tokens": True}
    answers = [group[0] for group in generate_completions(learner, scenes, seed=100 + seed, **how)]
    lessons = critic_lessons(learner, scenes, answers, [learner.frame(s.load_image().size) for s in scenes])
    log = train_reper(learner, lessons, work / f"critic-{seed}", settings)
    critic, frames = PolicyCritic(learner), [policy.frame(s.load_image().size) for s in test]
    answers = [group[0] for group in generate_completions(policy, test, seed=200 + seed, **how)]
    scores = [critique.score for critique in critic(test, answers, frames)]
    rewards = [
        score_batch(s.task, [answer], [s.target], frame=frame)[0].total
        for s, answer, frame in zip(test, answers, frames, strict=True)
    ]
    known = calibrate(scores, rewards) if any(score is not None for score in scores) else None
    dialogues = reflect(policy, critic, test, turns, max_new_tokens=LONGEST)
    return {
        **by_turn(policy, dialogues, turns),
        "critic_scores": scores,
        "critic_rewards": _round(rewards),
        "rank_correlation": known and round(known.rank_correlation, 4),
        "critic_error": known and round(known.error, 4),
        "critic_loss": [round(step["loss"], 4) for step in log],
    }


def _precision_recall(dialogue, turns: int) -> np.ndarray:
    """(2, turns): shares of boxes that match an object at IoU 0.5 or more, and of objects that are matched."""
    found = []
    for text in dialogue.completions:
        answer = read_answer(dialogue.sample.task, text, dialogue.sample.target, dialogue.frame)
        hits = len(match((closeness(answer.boxes, dialogue.sample.target) >= 0.5).astype(float)))
        n, m = len(answer.boxes), len(dialogue.sample.target.boxes)
        found.append((hits / n if n else 0.0, hits / m if m else 1.0))
    return np.array(found + found[-1:] * (turns - len(found))).T


def _attention(policy: Policy, dialogues: Sequence, turns: int) -> list[float | None]:
    """The mean share of attention on the picture by turn, over the dialogues that have it; None where none has."""
    shares: list[list[float]] = [[] for _ in range(turns)]
    for dialogue in dialogues:
        for turn, each in enumerate(image_attention(policy, dialogue)):
            shares[turn].append(float(each.sum()))
    return [round(float(np.mean(each)), 4) if each else None for each in shares]


def _round(values) -> list[float]:
    return [round(float(value), 4) for value in values]


if __name__ == "__main__":
    main()
