"""Which of the papers' claims do the logged experiments bear out? `python -m pr1kit experiments --claims` prints all.

A claim says that one level of a factor beats another; it holds where the 95 % interval of the paired difference over
seeds lies above zero. Of many claims some hold by luck: beside the verdict stands p, corrected for all claims about the
same paper (Holm).
"""

from __future__ import annotations

from pr1kit.experiments import cells
from pr1kit.experiments.beyond_claims import CLAIMS as BEYOND_CLAIMS
from pr1kit.experiments.claim import Claim, by_level
from pr1kit.experiments.headroom_claim import headroom_table
from pr1kit.experiments.paper_grids import GRIDS
from pr1kit.experiments.reflection_claims import reflection_table
from pr1kit.experiments.runs import ROOT, load_runs, log_file, read_lines
from pr1kit.experiments.statistics import holm, mean_interval, p_value, seeds_needed, verdict
from pr1kit.experiments.temporal_claims import VIDEO_GRIDS, temporal_table


def _reward_design() -> list[Claim]:
    steps = (  # what is added, to which rung, giving which; the paper's AP50
        ("IoU", "format", "+ IoU", "25.3, –"),
        ("the class", "+ IoU", "+ class", "27.3, 25.3"),
        ("F1 and the penalty for what is missed", "+ class", "+ missing", "42.0, 27.3"),
        ("the penalty alone", "+ F1", "+ missing", "42.0, 42.0"),
    )
    return [
        Claim(f"adding {what} helps", f"AP50 {paper}", "reward-design", {"reward": new}, {"reward": old})
        for what, old, new, paper in steps
    ]


PERPO = "PerPO, arXiv 2502.04371"
METHOD = {name: {"method": name} for name in ("PerPO", "GRPO", "DPO", "LiPO", "best of n")}
VARIANT = {"variant": "gamma 0.5, N 20"}


def _ranked(text: str, one: str, other: str | None, paper: str = "–", **how) -> Claim:
    """A claim about training on ranked answers; the paper's numbers are of RefCOCO val and of OCR edit distance."""
    levels = METHOD[one], METHOD[other] if other else None
    return Claim(f"{text}, mean of 4 tasks", paper, "preference", *levels, source=PERPO, **how)


def _ranked_claims() -> list[Claim]:
    variants = {
        "gamma 0.5 beats 0 (LiPO)": "gamma 0",
        "gamma 0.5 beats 1": "gamma 1",
        "20 candidates beat 5": "N 5",
    }
    ocr = "preference-variants"
    return [
        _ranked("PerPO beats no training", "PerPO", None, "63.8, 50.0; 0.58, 0.67"),
        _ranked("PerPO beats DPO", "PerPO", "DPO", "63.8, 60.6; 0.58, 0.61"),
        _ranked("PerPO beats LiPO", "PerPO", "LiPO"),
        _ranked("PerPO beats the best of n", "PerPO", "best of n", "63.8, 59.4 (SFT)"),
        _ranked("DPO beats the best of n", "DPO", "best of n", "60.6, 59.4 (SFT)"),
        _ranked("PerPO beats GRPO", "PerPO", "GRPO", "not compared"),
        _ranked("PerPO widens the margin over a blank image more than DPO", "PerPO", "DPO", "5.3, 3.6",
                image="a blank image"),
        *(Claim(f"{text}, ocr", "–", ocr, VARIANT, {"variant": v}, source=PERPO) for text, v in variants.items()),
        *(
            Claim(f"a policy's own candidates beat those from {age} RL steps before, ocr", "–", "preference-age",
                  {"age": "0"}, {"age": age}, source=PERPO)
            for age in ("12", "24")
        ),
    ]  # fmt: skip


SHUFFLED = {"order": "shuffled"}
EASY_TO_HARD = {
    "from easy to hard": "easy to hard",
    "from easy to hard, with more and more rollouts,": "easy to hard, more rollouts",
}
HIGH = {"counting": "78.1, 58.0", "detection": "AP 31.9, 25.9"}  # where the paper says that perplexity is high
CLAIMS = (
    *_reward_design(),
    Claim("optimal beats sequential matching, mean of 2 tasks", "78.1, 77.1; AP 31.9, 23.5", "matching",
          {"matching": "optimal"}, {"matching": "sequential"}),
    Claim("the same, truth in any order", "78.1, 77.1; AP 31.9, 23.5", "truth-order",
          {"training": "RL"}, {"training": "RL, sequential, any order"}),
    Claim("answering at once beats thinking first, mean of 4 tasks", "89.1, 75.1; 78.1, 74.9; 98.2, 93.8; 28.1, 25.7",
          "thinking", {"thinking": "no"}, {"thinking": "yes"}, gain=False),
    *by_level("RL beats SFT", {"grounding": "89.1, 88.2", "ocr": "98.2, 97.2", **HIGH}, "sft-and-rl",
              {"method": "rl"}, {"method": "sft"}),
    *by_level("RL beats SFT, truth in any order", HIGH, "truth-order",
              {"training": "RL"}, {"training": "SFT, any order"}),
    *(
        Claim(f"{more} rollouts beat {less}, mean of 2 tasks", "rises (Figure 2)", "rollouts",
              {"rollouts": more}, {"rollouts": less})
        for more, less in (("8", "4"), ("16", "8"), ("16", "4"))
    ),
    *(
        Claim(f"{text} beats a shuffled order", "used, not ablated", "curriculum", {"order": order}, SHUFFLED)
        for text, order in EASY_TO_HARD.items()
    ),
    *_ranked_claims(),
    *BEYOND_CLAIMS,
)  # fmt: skip


DROPPED = (  # as they would take too many seeds
    Claim("a second round of candidates helps", "–", "preference-variants", {"variant": "two rounds"}, VARIANT),
    Claim("wrong labels cost SFT more than RL", "–", "annotation-labels", {"method": "RL"}, {"method": "SFT"}),
    Claim("SFT on 2,000 scenes beats SFT on 192", "–", "annotation-amount",
          {"training": "SFT, 2,000 scenes"}, {"training": "SFT, 192 scenes"}),
    Claim("KL taken off the reward helps", "–", "algorithms-more",
          {"variant": "KL 0.04, k1 in the reward"}, {"variant": "GRPO"}),
)  # fmt: skip


def dropped_claims(root=ROOT) -> str:
    """The claims that are not asked, each with the number of seeds that would tell it to ± 0.02, by what is logged."""
    logged = [claim for claim in DROPPED if log_file(GRIDS[claim.grid], root).is_file()]
    needed = {c.text: seeds_needed(c.differences(load_runs(GRIDS[c.grid], root), "sampled")) for c in logged}
    return ", ".join(f"{text} ({seeds})" for text, seeds in needed.items()) or "none"


def claim_table(*grids: str, root=ROOT) -> str:
    """Markdown: every claim about these grids (where none is named: about all that were run), the paper's numbers,
    ours, p, and the verdict.

    p is that of all the logged claims about a paper together (Holm), whichever are shown; the verdict is each claim's
    by itself; beside it how many seeds there are, and how many would tell the difference to ± 0.02 (`seeds_needed`).
    All three are about sampled answers where those are compared. Raises FileNotFoundError where a grid that is asked
    for was not run.
    """
    lines = [
        "| claim | paper, one run | here, sampled answers | here, greedy answers | p, all claims together | holds? "
        "| seeds (for ± 0.02) |",
        "|---|---|---|---|---|---|---|",
    ]
    runs = {}
    for name in {claim.grid for claim in CLAIMS}:
        try:
            runs[name] = load_runs(GRIDS[name], root)
        except FileNotFoundError:
            if name in grids:
                raise
    claims = [claim for claim in CLAIMS if claim.grid in runs]
    found = {claim: {mode: claim.differences(runs[claim.grid], mode) for mode in claim.modes} for claim in claims}
    corrected = {}
    for source in {claim.source for claim in claims}:
        same = [claim for claim in claims if claim.source == source]
        values = holm([p_value(found[claim][claim.modes[0]]) for claim in same])
        corrected |= dict(zip(same, values, strict=True))
    for claim in claims:
        if not grids or claim.grid in grids:
            intervals = {mode: mean_interval(values) for mode, values in found[claim].items()}
            words = {mode: f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mode, (mean, low, high) in intervals.items()}
            numbers = f"{words.get('sampled', '–')} | {words['greedy']}"
            holds = verdict(intervals[claim.modes[0]])
            first = found[claim][claim.modes[0]]
            seeds = f"{len(first)} ({seeds_needed(first)})"
            lines.append(f"| {claim.text} | {claim.paper} | {numbers} | {corrected[claim]:.3f} | {holds} | {seeds} |")
    return "\n".join(lines)


def claims_page(root=ROOT) -> str:
    """The README of the logs under `root`: how they are read, and all claims; those on reflection and on video where
    the logs of their runs lie there too."""
    log = root.parent / "reflection" / "runs.jsonl"
    reflection = f"""
## Reflection

Runs of `python -m pr1kit.experiments.reflection`, see [data/reflection](../reflection/README.md). The claims are those
of RePer (arXiv 2504.07165: CAPTURE, precision, recall), and those that a reviewer would ask for. *Here* are the means
over seeds of what is said to be larger and of what it is compared with: mean reward of the `kit` recipe, greedy turns;
p is corrected for all of these claims together.

{reflection_table(log)}
""" if log.is_file() else ""  # fmt: skip
    predictor = headroom_table(root)
    headroom = f"""
## What RL will gain

Of nine measures of a policy's rollouts before training the mean reward went best with what RL gained, on the conditions
of the grid `headroom`. Here it is asked of others, on which nothing was chosen: Spearman's rank correlation over
conditions, the mean over seeds each, of the reward before with the gain in reward, sampled answers; 95 % intervals by
drawing whole tasks anew, as conditions of one task are related (of four tasks such intervals are rather too narrow).

{predictor}
""" if predictor else ""  # fmt: skip
    lines = read_lines(root / cells.LOG)
    photographs = f"""
## Real photographs

Crops of 240 pixels of BCCD's validation photographs, four fifths of whose training photographs `tiny-cells` was taught
on; 150 steps of GRPO under `kit`, as many processor seconds of supervision, or half of each, on crops of the same. Runs
of `python -m pr1kit.experiments.cells --data FOLDER`, settings fixed beforehand; intervals, bold where they exclude 0,
are paired, over photographs, and of one method over another over seeds.

{cells.report(lines)}

{cells.comparison(lines)}
""" if lines else ""  # fmt: skip
    video = f"""
## Video

Runs of the tiny policy by `python -m pr1kit.experiments.temporal_hacking` and `temporal_data`, and what they say of
temporal hacking (UTR, arXiv 2502.12081, whose numbers are of data sets under a real model). *Here* are the means over
seeds, and over the tasks that were measured (by GRPO, tracking alone), of what is said to be above zero: rewards of
greedy answers to held-out clips, nats a token, rank correlations; p is corrected for all of these claims together.

{temporal_table(root=root)}
""" if any(log_file(grid, root).is_file() for grid in VIDEO_GRIDS.values()) else ""  # fmt: skip
    return f"""# Logged runs, and what they say of the papers' claims

One compressed JSON Lines file for each grid of `paper_grids.py` and `beyond_grids.py`, one line for each run: its
`cell` and `seed`, `condition`, `environment`, `results` (metrics before and after, headroom before), training `steps`.
`pr1kit.experiments.runs.load_runs(grid)` reads them, notebooks replay them, `python -m pr1kit experiments` runs what is
missing; several processes may share the work.

Written by `python -m pr1kit experiments --claims --write`: paired differences over seeds with 95 % t-intervals, in mean
IoU, accuracy, AP50 or 1 − edit distance. A claim *holds* where the interval of sampled answers lies above zero; two are
*less than 0.02 apart* where it has zero and lies within ± 0.02; *not shown* is neither, and beside the number of seeds
stands how many would give ± 0.02, if seeds vary on as they do. Comparisons that the first three or five seeds left open
were given, once, as many as their variance asked for (`seeds_of` in the grids). What a paper claims of several tasks
alike is one claim here, in the mean over its tasks (each alone is in the notebooks); where it says that tasks differ,
each is one. F1 and the penalty for what is missed are one. The first claims are Perception-R1's (arXiv 2504.07954),
those on ranked answers PerPO's (arXiv 2502.04371: RefCOCO val, OCR edit distance, and the margin over a blank image on
RefCOCOg), the last of neither. Runs of the earlier grids under the recipe `kit` were trained before its rule about
near-duplicate boxes. GRPO's relatives take GRPO's learning rate: by the grid `algorithm-rates` (validation scenes)
rates rank alike for all whose gradient differs, and double the rate gains a little more.

Dropped, with the seeds that they would take to ± 0.02: {dropped_claims(root)}.

{claim_table(root=root)}
{headroom}{photographs}{reflection}{video}"""
