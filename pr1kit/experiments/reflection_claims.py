"""What do the logged runs of reflection say of RePer's claims (arXiv 2504.07165), and of what it leaves out?

A claim says that one number of a seed's runs is larger than another; each seed has its own training scenes, its own
dialogues and its own held-out scenes. Verdict, p and interval as in `paper_claims`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pr1kit.experiments.reflection import CONDITIONS, LOG, read_reflection_runs
from pr1kit.experiments.statistics import holm, mean_interval, p_value, seeds_needed, verdict

Seed = Mapping[str, dict]  # the runs of one seed by condition
Number = Callable[[Seed], float]
BEFORE, SFT, REPER, LEARNED = "before", "sft on the best", "reper, alpha 0.1", "reper, learned critic"


@dataclass(frozen=True, eq=False)
class ReflectionClaim:
    """That the number `one` is larger than `other`; `paper`: its numbers for the two, from one run each."""

    text: str
    one: Number
    other: Number
    paper: str = "–"


def value(condition: str, turn: int, of: str = "by_turn") -> Number:
    """What a run logged for one of its turns, counted from 1."""
    return lambda seed: seed[condition][of][turn - 1]


def equal_tokens(run: Mapping, sampled: Mapping, of: str, turn: int) -> float:
    """What n answers of `sampled` earn, `best_of` or `agreed_of` them, at the tokens that `run` spent by a turn.

    Those are what it wrote, and the critic's words; n is rounded down, at least 1, and at most what was sampled.

    >>> run = {"tokens_written": [10, 25], "tokens_read": [0, 20]}
    >>> equal_tokens(run, {"best_of": [0.1, 0.2, 0.3, 0.4, 0.5], "tokens_sampled": 11.0}, "best_of", 2)  # 45 tokens
    0.4
    """
    tokens = run["tokens_written"][turn - 1] + run["tokens_read"][turn - 1]
    count = int(np.clip(tokens // sampled["tokens_sampled"], 1, len(sampled[of])))
    return sampled[of][count - 1]


def rank_correlation(condition: str) -> Number:
    """Of the learned critic's scores and the true rewards; 0 where no score could be read."""
    return lambda seed: seed[condition]["rank_correlation"] or 0.0


def control(sampled_from: str, of: str, condition: str = REPER, turn: int = 3) -> Number:
    """What `sampled_from` earns by `equal_tokens` with a run's dialogue."""
    return lambda seed: equal_tokens(seed[condition], seed[sampled_from], of, turn)


def _claims() -> list[ReflectionClaim]:
    claim, third = ReflectionClaim, value(REPER, 3)
    return [
        claim("before training, the second answer beats the first", value(BEFORE, 2), value(BEFORE, 1)),
        claim("before training, the third answer beats the first", value(BEFORE, 3), value(BEFORE, 1)),
        claim("after SFT on the best answers, the second beats the first", value(SFT, 2), value(SFT, 1)),
        claim("after RePer, the second answer beats the first", value(REPER, 2), value(REPER, 1), "54.68, 54.29"),
        claim("after RePer, the third answer beats the first", third, value(REPER, 1), "54.73, 54.29"),
        claim("after RePer, the fifth answer beats the first", value(REPER, 5), value(REPER, 1)),
        claim("RePer raises the first answer", value(REPER, 1), value(BEFORE, 1)),
        claim("RePer raises the second answer", value(REPER, 2), value(BEFORE, 2)),
        claim("RePer raises the third answer", third, value(BEFORE, 3)),
        claim("RePer beats SFT on the best answers, turn 3", third, value(SFT, 3)),
        claim("RePer beats DPO, turn 3", third, value("dpo", 3), "54.73, 50.5"),
        claim("RePer beats PerPO, turn 3", third, value("perpo", 3), "54.73, 52.3 (LiPO)"),
        claim("three turns after RePer beat one answer before training", third, value(BEFORE, 1)),
        claim("three turns after RePer beat one answer after SFT on the best", third, value(SFT, 1)),
        claim("three turns after RePer beat one answer after DPO", third, value("dpo", 1)),
        claim("three turns after RePer beat one answer after PerPO", third, value("perpo", 1)),
        claim("alpha 0.1 beats 0, turn 3", third, value("reper, alpha 0", 3), "54.73, 53.85 (without the loss)"),
        claim("alpha 0.1 beats 0, turn 1", value(REPER, 1), value("reper, alpha 0", 1),
              "54.29, 51.22 (without the loss)"),
        claim("alpha 1 beats 0.1, turn 3", value("reper, alpha 1", 3), third, "rises to 10"),
        claim("alpha 10 beats 0.1, turn 3", value("reper, alpha 10", 3), third, "rises to 10"),
        claim("RePer lowers a first answer that is drawn", value(BEFORE, 1, "best_of"), value(REPER, 1, "best_of")),
        claim("best of three turns beats best of n of the same tokens, before training",
              value(REPER, 3, "best_so_far"), control(BEFORE, "best_of")),
        claim("best of three turns beats best of n of the same tokens, after SFT on the best",
              value(REPER, 3, "best_so_far"), control(SFT, "best_of")),
        claim("best of three turns beats best of n of the same tokens, after RePer",
              value(REPER, 3, "best_so_far"), control(REPER, "best_of")),
        claim("the third answer beats self-consistency of the same tokens, before training",
              third, control(BEFORE, "agreed_of")),
        claim("the third answer beats self-consistency of the same tokens, after SFT on the best",
              third, control(SFT, "agreed_of")),
        claim("the critic's words beat a plain request, before training, turn 2",
              value(BEFORE, 2), value(BEFORE, 2, "plain_request")),
        claim("the critic's words beat a plain request, after RePer, turn 2",
              value(REPER, 2), value(REPER, 2, "plain_request")),
        claim("the reward critic beats the learned one, turn 2", value(REPER, 2), value(LEARNED, 2)),
        claim("the reward critic beats the learned one, turn 3", third, value(LEARNED, 3)),
        claim("with the learned critic, the second answer beats the first", value(LEARNED, 2), value(LEARNED, 1)),
        *(
            claim(f"the learned critic's scores follow the rewards {when} (rank correlation)",
                  rank_correlation(condition), lambda seed: 0.0)
            for when, condition in (("before training", "before, learned critic"), ("after RePer", LEARNED))
        ),
        claim("precision falls from turn 1 to 3 after RePer", value(REPER, 1, "precision"),
              value(REPER, 3, "precision"), "66.3, 64.7"),
        claim("recall rises from turn 1 to 3 after RePer", value(REPER, 3, "recall"), value(REPER, 1, "recall"),
              "49.1, 43.8"),
        claim("attention on the picture grows from turn 1 to 3 after RePer", value(REPER, 3, "attention"),
              value(REPER, 1, "attention"), "grows"),
        *(
            each
            for pays in ("improvement", "last", "every")
            for each in (
                claim(f"RL paid for {pays} lowers the first answer", value(BEFORE, 1), value(f"rl, {pays}", 1)),
                claim(f"RL paid for {pays} raises the second answer", value(f"rl, {pays}", 2), value(BEFORE, 2)),
            )
        ),
        *(
            claim(f"RL paid for {pays} keeps first answers better than paid for improvement",
                  value(f"rl, {pays}", 1), value("rl, improvement", 1))
            for pays in ("every", "last")
        ),
    ]  # fmt: skip


CLAIMS = tuple(_claims())


def by_seed(runs: Sequence[dict]) -> list[Seed]:
    """The runs of each seed by condition, of the seeds that have all conditions.

    Raises ValueError where none has, naming what is missing.
    """
    seeds: dict[int, dict[str, dict]] = {}
    for run in runs:
        seeds.setdefault(run["seed"], {})[run["condition"]] = run
    whole = [seeds[number] for number in sorted(seeds) if set(CONDITIONS) <= set(seeds[number])]
    if not whole:
        missing = set(CONDITIONS) - {run["condition"] for run in runs}
        raise ValueError(f"No seed has runs of all conditions (of none: {', '.join(sorted(missing)) or '–'}).")
    return whole


def reflection_table(path: Path = LOG) -> str:
    """Markdown: every claim, the paper's numbers, ours with their paired difference over seeds, p, and the verdict."""
    seeds = by_seed(read_reflection_runs(path))
    found = [np.array([(claim.one(seed), claim.other(seed)) for seed in seeds]) for claim in CLAIMS]  # (seeds, 2) each
    differences = [pair[:, 0] - pair[:, 1] for pair in found]
    corrected = holm([p_value(each) for each in differences])
    lines = [
        "| claim | paper, one run | here | difference | p, all claims together | holds? | seeds (for ± 0.02) |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim, pair, each, p in zip(CLAIMS, found, differences, corrected, strict=True):
        mean, low, high = mean_interval(each)
        one, other = pair.mean(0)
        words = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] | {p:.3f} | {verdict((mean, low, high))}"
        lines.append(
            f"| {claim.text} | {claim.paper} | {one:.3f}, {other:.3f} | {words} | {len(each)} ({seeds_needed(each)}) |"
        )
    return "\n".join(lines)
