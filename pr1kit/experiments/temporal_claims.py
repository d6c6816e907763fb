"""What do the logged runs on clips say of UTR's claims (arXiv 2502.12081)?

A claim says that a number of a seed's runs lies above zero; each seed has its own training clips, order and held-out
clips. Verdict, p and interval as in `paper_claims`. The paper's numbers are of other things: its TPL is that of a set
of training data under one model, read off a chart. All of it is evidence about the tiny policy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from pr1kit.data.sample import VIDEO_TASKS
from pr1kit.experiments import temporal_data, temporal_hacking
from pr1kit.experiments.grid import Grid
from pr1kit.experiments.runs import ROOT, Run, load_runs, log_file
from pr1kit.experiments.statistics import holm, mean_interval, p_value, seeds_needed, verdict
from pr1kit.experiments.temporal_hacking import QUERIES

VIDEO_GRIDS = temporal_hacking.GRIDS | temporal_data.GRIDS
Seed = Mapping[str, Run]  # the runs of one seed by cell
TPL, SHUFFLING = "temporal perplexity", "shuffling costs"
GREEDY, LIKELIHOOD = "as it is", "log-likelihood"


@dataclass(frozen=True, eq=False)
class TemporalClaim:
    """That `value` of each seed's runs of `grid` lies above zero; `paper`: what it has to say."""

    text: str
    grid: str
    value: Callable[[Seed], float]
    paper: str = "–"


def gain(run: Run, name: str, queries: str) -> float:
    """After minus before, the mean over the tasks that were measured, of queries of one kind."""
    return float(np.mean([run.gain(name, mode) for mode in _measured(run, queries)]))


def after(run: Run, name: str, queries: str) -> float:
    """After training, the mean over the tasks that were measured."""
    return float(np.mean([run.results["after"][mode][name] for mode in _measured(run, queries)]))


def _measured(run: Run, queries: str) -> list[str]:
    return [mode for task in VIDEO_TASKS if (mode := f"{task}, {queries}") in run.results["after"]]


def gain_over_clips(run: Run, queries: str) -> tuple[float, float, float]:
    """The gain in the reward of greedy answers and its 95 % interval over one run's held-out clips, paired."""
    before, now = (np.array(run.results[when][queries]["clips"]["reward"]) for when in ("before", "after"))
    return mean_interval(now - before)


def rank_of_gain(run: Run, queries: Sequence[str]) -> float:
    """Spearman's rank correlation, over kinds of query, of temporal perplexity before training with the gain after it.

    `queries` are modes of the run's results, such as "tracking, UTR".
    """
    gains: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for name in queries:
        before, now = (run.results[when][name]["clips"] for when in ("before", "after"))
        for kind, tpl, was, is_now in zip(
            before["kind"], before["temporal perplexity"], before["reward"], now["reward"], strict=True
        ):
            gains.setdefault((name, kind), []).append((tpl, is_now - was))
    tpl, gained = np.array([np.mean(values, axis=0) for values in gains.values()]).T
    return float(spearmanr(tpl, gained).statistic)


def rank_over_data(seed: Seed, name: str, within: str = "") -> float:
    """Spearman's rank correlation, over data sets, of temporal perplexity before training with the gain in `name`.

    With `within`, a factor ("task" or "level"), the mean of those among the data sets that share its level.
    """
    groups: dict[str, list[Run]] = {}
    for run in seed.values():
        groups.setdefault(run.factors[within] if within else "", []).append(run)
    found = [
        spearmanr([run.results["data"][TPL] for run in runs], [run.gain(name, "mix") for run in runs]).statistic
        for runs in groups.values()
    ]
    return float(np.mean(found))


def _data_claims() -> list[TemporalClaim]:
    few, same, many = temporal_data.GRIDS["temporal-amount"].factors["data"]
    chart = "TPL 0.004, 0.030: score 54.0, 58.8"
    claims = []
    for name, what in ((GREEDY, "reward"), (LIKELIHOOD, "log-likelihood of the truth")):
        after = {
            f"data's temporal perplexity predicts the gain in {what} (rank correlation, 12 data sets)": "",
            f"the same among data of one kind of query, {what}": "task",
            f"the same among data of one difficulty, {what}": "level",
        }
        claims += [
            TemporalClaim(
                text,
                "temporal-data",
                lambda s, name=name, within=within: rank_over_data(s, name, within),
                "–" if within else chart,
            )
            for text, within in after.items()
        ]
        claims += [
            TemporalClaim(
                f"UTR's data beat four times as many proxies, {what}",
                "temporal-amount",
                lambda s, name=name: s[few].gain(name, "mix") - s[many].gain(name, "mix"),
                "anti-scaling",
            ),
            TemporalClaim(
                f"four times as many proxies are worse than a quarter of them, {what}",
                "temporal-amount",
                lambda s, name=name: s[same].gain(name, "mix") - s[many].gain(name, "mix"),
                "anti-scaling",
            ),
        ]
    return claims


def _claims(method: str, grid: str) -> list[TemporalClaim]:
    proxy, utr = QUERIES[1], QUERIES[0]

    def claim(text: str, value: Callable[[Seed], float], paper: str = "–") -> TemporalClaim:
        return TemporalClaim(f"{text}, {method}", grid, value, paper)

    tpl = "data of TPL 0.004, 0.030: score 54.0, 58.8"
    return [
        claim("trained on proxies, their reward rises", lambda s: gain(s[proxy], GREEDY, "proxy")),
        claim("trained on proxies, the reward of UTR's queries falls", lambda s: -gain(s[proxy], GREEDY, "UTR"),
              "54.0 (lowest TPL)"),
        claim("trained on proxies, temporal perplexity falls (UTR's queries)", lambda s: -gain(s[proxy], TPL, "UTR")),
        claim("trained on proxies, shuffling costs less than before (UTR's queries)",
              lambda s: -gain(s[proxy], SHUFFLING, "UTR")),
        claim("trained on proxies, shuffling costs them less than 0.02",
              lambda s: 0.02 - after(s[proxy], SHUFFLING, "proxy")),
        claim("trained on UTR's queries, their reward rises", lambda s: gain(s[utr], GREEDY, "UTR"), "58.8"),
        claim("trained on UTR's queries, temporal perplexity rises", lambda s: gain(s[utr], TPL, "UTR")),
        claim("trained on UTR's queries, shuffling costs more than before", lambda s: gain(s[utr], SHUFFLING, "UTR")),
        claim("UTR's queries beat proxies, reward of UTR's queries",
              lambda s: after(s[utr], GREEDY, "UTR") - after(s[proxy], GREEDY, "UTR"), tpl),
        claim("UTR's queries beat proxies, temporal perplexity",
              lambda s: after(s[utr], TPL, "UTR") - after(s[proxy], TPL, "UTR"), "0.030, 0.004 (of data)"),
    ]  # fmt: skip


def _key_frame_claims() -> list[TemporalClaim]:
    utr, key = "UTR", "UTR, key frame"
    paid = "paid for the truth of the key frame"
    values: dict[str, Callable[[Seed], float]] = {
        f"{paid}, that reward rises": lambda s: gain(s[key], "paid by the key frame", utr),
        f"{paid}, the reward of the truth falls": lambda s: -gain(s[key], GREEDY, utr),
        f"{paid}, temporal perplexity falls": lambda s: -gain(s[key], TPL, utr),
        f"{paid}, shuffling costs less than before": lambda s: -gain(s[key], SHUFFLING, utr),
        "the truth of all frames beats that of the key frame, reward of the truth": lambda s: (
            after(s[utr], GREEDY, utr) - after(s[key], GREEDY, utr)
        ),
        "the truth of all frames beats that of the key frame, temporal perplexity": lambda s: (
            after(s[utr], TPL, utr) - after(s[key], TPL, utr)
        ),
        "the truth of all frames beats that of the key frame, what shuffling costs": lambda s: (
            after(s[utr], SHUFFLING, utr) - after(s[key], SHUFFLING, utr)
        ),
    }
    return [TemporalClaim(f"{text}, GRPO", "temporal-hacking", value) for text, value in values.items()]


CLAIMS = (
    TemporalClaim("trained on UTR's queries, their reward rises, sampled answers, GRPO", "temporal-hacking",
                  lambda s: gain(s["UTR"], "sampled", "UTR")),
    TemporalClaim("trained on proxies, their reward rises, sampled answers, GRPO", "temporal-hacking",
                  lambda s: gain(s["proxy"], "sampled", "proxy")),
    *_claims("SFT", "temporal-hacking-sft"),
    *_claims("GRPO", "temporal-hacking"),
    *_key_frame_claims(),
    *_data_claims(),
)  # fmt: skip


def by_seed(grid: Grid, root=ROOT) -> list[Seed]:
    """The logged runs of each seed by cell, of the seeds that have all cells."""
    runs = load_runs(grid, root) if log_file(grid, root).is_file() else []
    found = ({run.cell: run for run in runs if run.seed == seed} for seed in sorted({run.seed for run in runs}))
    return [each for each in found if set(each) == set(grid.cells())]


def temporal_table(*grids: str, root=ROOT) -> str:
    """Markdown: the claims about these grids (where none is named: all that were run), the paper's numbers, ours over
    seeds, p of all the claims together, whichever are shown (Holm), and the verdict of each by itself."""
    seeds = {name: by_seed(grid, root) for name, grid in VIDEO_GRIDS.items()}
    claims = [claim for claim in CLAIMS if seeds[claim.grid]]
    found = [[claim.value(seed) for seed in seeds[claim.grid]] for claim in claims]
    corrected = holm([p_value(values) for values in found])
    lines = [
        "| claim | paper | here, above zero | p, all claims together | holds? | seeds (for ± 0.02) |",
        "|---|---|---|---|---|---|",
    ]
    for claim, values, p in zip(claims, found, corrected, strict=True):
        if grids and claim.grid not in grids:
            continue
        mean, low, high = mean_interval(values)
        lines.append(
            f"| {claim.text} | {claim.paper} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] | {p:.3f} "
            f"| {verdict((mean, low, high))} | {len(values)} ({seeds_needed(values)}) |"
        )
    return "\n".join(lines)
