"""Does a policy that is paid for what one frame tells stop watching? Trained on clips, measured with and without time.

    python -m pr1kit.experiments.temporal_hacking                 # what is missing of all grids
    python -m pr1kit.experiments.temporal_hacking temporal-hacking --seeds 0 1 2

Held-out clips of every kind are answered greedily as they are and with their frames shuffled; beside the rewards
stands the temporal perplexity of the truth. Temporal hacking (UTR, arXiv 2502.12081) is a reward that does not mind
the shuffling. Runs are lines of `data/runs/<grid>.jsonl.gz`, read by `load_runs`; modes of their results are kinds of
query, such as "tracking, UTR".
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from pr1kit.data.clip_questions import KINDS, PROXY
from pr1kit.data.clips import make_clips, query_kind
from pr1kit.data.durable_files import write_atomically
from pr1kit.data.sample import VIDEO_TASKS, Sample
from pr1kit.evaluation.temporal import temporal_perplexity
from pr1kit.experiments.grid import Grid, from_factors
from pr1kit.experiments.runs import FORMAT, ROOT, add_line, environment, log_file, read_lines, step_rows
from pr1kit.models.backends import quiet
from pr1kit.models.policy import Policy, load_policy, scene_knobs
from pr1kit.rewards.score import score_batch
from pr1kit.rollouts.generate import generate_completions
from pr1kit.training.grpo import TINY, train_grpo
from pr1kit.training.sft import TINY_SFT, train_sft

MOST_TOKENS = 72  # a box in each of eight frames
QUERIES = ("UTR", "proxy")
TRUTHS = ("all frames", "key frame")
# The policy's own clips, and what is changed of them.
DIFFICULTY: dict[str, dict] = {
    "own": {},
    "fast": {"speed": (6.0, 10.0)},
    "hidden": {"occlusion": 0.8},
    "crowded": {"num_objects": (3, 5)},
}
MIXED = "mixed"


@dataclass(frozen=True)
class ClipCondition:
    """Everything that decides a run besides its seed.

    `method`: GRPO (`rl`) or supervision (`sft`), for `steps`; `tasks` and `queries`: what is trained on, all kinds of
    the tasks (`UTR`) or those that one frame answers (`proxy`); `truth`: that of all frames, or what `of_key_frame`
    makes of it (tracking); `difficulty`: a name of `DIFFICULTY`, or `mixed`, all in turn; `held_out` clips of each of
    the tasks `measured` and each query, of `held_out_difficulty`, drawn from `test_seed` + the run's seed, measure it;
    the rest are fields of `GRPOSettings`, or, for `sft`, `batch_size`.
    """

    policy: str = "tiny-video"
    method: str = "rl"
    tasks: tuple[str, ...] = VIDEO_TASKS
    queries: str = "UTR"
    truth: str = "all frames"
    difficulty: str = "own"
    steps: int = 24
    prompts_per_step: int = 12
    num_generations: int = 8
    learning_rate: float = 1.5e-4
    batch_size: int = 32
    measured: tuple[str, ...] = VIDEO_TASKS
    held_out: int = 30
    held_out_difficulty: str = "own"
    test_seed: int = 300

    def __post_init__(self):
        for name in ("tasks", "measured"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.method not in ("rl", "sft") or self.queries not in QUERIES:
            raise ValueError(f"Unknown method {self.method!r} or queries {self.queries!r}: rl or sft, UTR or proxy.")
        if self.truth not in TRUTHS or (self.truth == "key frame" and self.tasks != ("tracking",)):
            raise ValueError(f"Unknown truth {self.truth!r} of {', '.join(self.tasks)}: that of all frames, or for "
                             "tracking that of the key frame.")  # fmt: skip
        for name in (self.difficulty, self.held_out_difficulty):
            if name not in (*DIFFICULTY, MIXED):
                raise ValueError(f"Unknown difficulty {name!r}: choose of {', '.join(DIFFICULTY)}, {MIXED}.")

    @classmethod
    def of(cls, values: dict) -> ClipCondition:
        """A condition from its factors. Raises ValueError for a factor that there is not."""
        return from_factors(cls, values)

    def training_clips(self, policy: Policy, seed: int) -> list[Sample]:
        each = self.steps * (self.prompts_per_step if self.method == "rl" else self.batch_size) // len(self.tasks) + 1
        clips = [clips_for(policy, task, self.queries, each, seed, "train", self.difficulty) for task in self.tasks]
        clips = [clip for together in zip(*clips, strict=True) for clip in together]
        return clips if self.truth == "all frames" else [of_key_frame(clip) for clip in clips]

    def held_out_clips(self, policy: Policy, seed: int) -> dict[str, list[Sample]]:
        """By "task, queries"."""
        return {
            f"{task}, {queries}": clips_for(
                policy, task, queries, self.held_out, self.test_seed + seed, "test", self.held_out_difficulty
            )
            for task in self.measured
            for queries in QUERIES
        }


def clips_for(
    policy: Policy, task: str, queries: str, count: int, seed: int, split: str, difficulty: str = "own"
) -> list[Sample]:
    """`count` clips of a task that `policy` can read, of the kinds that `queries` names."""
    kinds, knobs = KINDS[task] if queries == "UTR" else (PROXY,), scene_knobs(policy, task)
    if difficulty != MIXED:
        return make_clips(task, count, seed, split, kinds=kinds, **knobs | DIFFICULTY[difficulty])
    levels = list(DIFFICULTY.values())
    return [
        clip
        for i in range(count)
        for clip in make_clips(task, 1, seed, split, start=i, kinds=kinds, **knobs | levels[i % len(levels)])
    ]


def of_key_frame(clip: Sample) -> Sample:
    """The clip with the truth of an annotator who has seen the middle frame alone: in every frame the box of that one,
    or of the frame nearest to it in which the object is seen."""
    tracks = []
    for track in clip.target.tracks:
        seen = np.flatnonzero(track.seen)
        key = seen[np.abs(seen - len(track) // 2).argmin()]
        tracks.append(replace(track, boxes=np.tile(track.boxes[key], (len(track), 1))))
    return replace(clip, target=replace(clip.target, tracks=tuple(tracks)))


FIVE = (0, 1, 2, 3, 4)
HACKING = {"queries": {name: {"queries": name} for name in QUERIES}}
GRIDS = {
    grid.name: grid
    for grid in (
        Grid(
            "temporal-hacking-sft",
            "A policy taught proxies stops watching: temporal perplexity falls, shuffled frames cost nothing; one "
            "taught UTR's watches more (UTR, arXiv 2502.12081, whose training is supervision).",
            HACKING,
            {"method": "sft", "learning_rate": 5e-4, "held_out": 24},
            FIVE,
        ),
        # Of tracking alone: elsewhere the policy hardly watches before training, and has little to unlearn.
        Grid(
            "temporal-hacking",
            "GRPO on UTR's queries raises the tracking reward of held-out clips; paid for what one frame tells, a "
            "policy stops watching. One frame tells the truth of proxies, whose objects stand still, and, of moving "
            "objects, that of an annotator who has seen the key frame alone.",
            {"queries": HACKING["queries"] | {"UTR, key frame": {"queries": "UTR", "truth": "key frame"}}},
            {"tasks": ("tracking",), "measured": ("tracking",), "held_out": 60, "steps": 80},
            FIVE,
        ),
    )
}


def shuffled(sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample with its frames in another order; question, times and truth stay."""
    order = rng.permutation(len(sample.frames)).tolist()
    frames = tuple(sample.frames[i] for i in order)
    return replace(sample, image=frames[0], frames=frames)


def rewards(policy: Policy, samples: Sequence[Sample], **sampling) -> np.ndarray:
    """The mean `kit` reward of each sample's answers, `(S,)`."""
    return scored(policy, samples, generate_completions(policy, samples, max_new_tokens=MOST_TOKENS, **sampling))


def scored(policy: Policy, samples: Sequence[Sample], answers: Sequence[Sequence[str]]) -> np.ndarray:
    """The mean `kit` reward of the answers `(S, K)` to each sample, `(S,)`."""
    scores = [
        score_batch(sample.task, texts, [sample.target] * len(texts), frame=policy.frame_of(sample))
        for sample, texts in zip(samples, answers, strict=True)
    ]
    return np.array([np.mean([result.total for result in group]) for group in scores])


def measure(policy: Policy, held_out: dict[str, list[Sample]], seed: int) -> dict[str, dict]:
    """For each kind of query: the mean reward of greedy answers to clips as they are and with shuffled frames, of
    sampled ones to them as they are, and the temporal perplexity per token; for tracking also what the truth of the key
    frame pays the greedy answers; and of each of the `clips` its kind, its reward as it is and its temporal perplexity.
    """
    found = {}
    for name, clips in held_out.items():
        rng = np.random.default_rng([seed, 1])
        answers = generate_completions(policy, clips, max_new_tokens=MOST_TOKENS)
        each = scored(policy, clips, answers)
        whole, mixed = each.mean(), rewards(policy, [shuffled(clip, rng) for clip in clips]).mean()
        tpl = temporal_perplexity(policy, clips, seed=seed)
        values = {
            "as it is": whole,
            "shuffled": mixed,
            "shuffling costs": whole - mixed,
            "sampled": rewards(policy, clips, temperature=1.0, num_generations=2, seed=seed).mean(),
            "temporal perplexity": tpl.mean,
        }
        if clips[0].task == "tracking":
            values["paid by the key frame"] = scored(policy, [of_key_frame(clip) for clip in clips], answers).mean()
        found[name] = {key: round(float(value), 5) for key, value in values.items()}
        found[name]["clips"] = {
            "kind": [query_kind(clip) for clip in clips],
            "reward": each.round(3).tolist(),
            "temporal perplexity": tpl.per_token.round(3).tolist(),
        }
    return found


def train(policy: Policy, clips: Sequence[Sample], condition: ClipCondition, seed: int, bar=None) -> list[dict]:
    """Train `policy` on `clips` as `condition` says; the rows of the run's log."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        own = {"steps": condition.steps, "learning_rate": condition.learning_rate, "save_steps": condition.steps}
        if condition.method == "sft":
            size = {"batch_size": condition.batch_size, "micro_batch": condition.batch_size}
            return train_sft(policy, clips, folder, replace(TINY_SFT, **own, **size, seed=seed), bar=bar)
        settings = replace(TINY, **own, num_generations=condition.num_generations, seed=seed,
                           prompts_per_step=condition.prompts_per_step, micro_prompts=condition.prompts_per_step,
                           max_completion_length=MOST_TOKENS)  # fmt: skip
        return train_grpo(policy, clips, folder, settings, bar=bar)


def run(condition: ClipCondition, seed: int, before: Path, bar=None) -> tuple[dict, list[dict]]:
    """Measure, train, measure again; the results and the rows of training. `before` keeps what was measured before."""
    policy = load_policy(condition.policy, verbose=False)
    held_out = condition.held_out_clips(policy, seed)
    if not before.exists():
        write_atomically(before, json.dumps(measure(policy, held_out, seed)))
    clips, started = condition.training_clips(policy, seed), time.process_time()
    rows = train(policy, clips, condition, seed, bar)
    seconds = round(time.process_time() - started, 1)
    results = {"before": json.loads(before.read_text()), "after": measure(policy, held_out, seed)}
    return {"steps": len(rows), **results, "processor_seconds": {condition.method: seconds}}, rows


def log_run(
    path: Path, cell: str, seed: int, condition: ClipCondition, results: dict, rows: Sequence[dict], seconds: float
) -> None:
    """Log a run that took `seconds`, with the `rows` of its training, as a line of `path`."""
    name = {"format": FORMAT, "cell": cell, "seed": seed, "condition": asdict(condition)}
    steps = step_rows([{"phase": condition.method, **row} for row in rows])
    add_line(path, {**name, "environment": environment(seconds), "results": results, "steps": steps})


def run_grid(grid: Grid, root: Path = ROOT, work: Path = Path("runs/video")) -> None:
    """Run what is missing of `grid`, seed by seed, so that a grid that was cut off has whole seeds."""
    path, conditions = log_file(grid, root), {cell: ClipCondition.of(each) for cell, each in grid.cells().items()}
    done = {(line["cell"], line["seed"]) for line in read_lines(path)}
    left = [(cell, seed) for seed in grid.seeds for cell in conditions if (cell, seed) not in done]
    for cell, seed in tqdm(left, desc=grid.name):
        condition, started = conditions[cell], time.time()
        work.mkdir(parents=True, exist_ok=True)
        same = (Path(condition.policy).name, *condition.measured, condition.held_out, condition.test_seed, seed)
        before = work / f"before-{'-'.join(map(str, same))}.json"
        results, rows = run(condition, seed, before)
        log_run(path, cell, seed, condition, results, rows, time.time() - started)


def main(run: Callable[[Grid, Path], None], grids: Mapping[str, Grid], description: str | None) -> None:
    """The command line that runs what is missing of `grids`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("grids", nargs="*", choices=[*grids, []], help="all where none is named")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of each grid's own")
    parser.add_argument("--out", type=Path, default=ROOT, help="where the logs are (default: %(default)s)")
    arguments = parser.parse_args()
    for name in arguments.grids or grids:
        grid = grids[name]
        run(replace(grid, seeds=tuple(arguments.seeds)) if arguments.seeds else grid, arguments.out)


if __name__ == "__main__":
    main(run_grid, GRIDS, __doc__)
