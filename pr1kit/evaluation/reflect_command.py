"""`python -m pr1kit reflect`: a policy and a critic take turns over a folder of pictures, or over annotated data."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pr1kit.data.options import make_parser, option, read_flags
from pr1kit.data.run_folder import RunFolder
from pr1kit.data.sample import IMAGE_TASKS, Sample, Target
from pr1kit.rewards.critics import AGAIN, TELLS, RewardCritic

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
DESCRIPTION = """A policy answers, is criticised, and answers again, picture by picture.

    python -m pr1kit reflect --images photos/ --task counting --question bird --critic runs/critic/model
    python -m pr1kit reflect --data pixmo_val.json --task counting          the truth is known: its reward criticises

The dialogues go to `dialogues.jsonl` in --out, each as a filmstrip to `filmstrips/`."""


@dataclass(frozen=True)
class ReflectOptions:
    """What the turns are told; each field is a flag."""

    images: str | None = option(None, "a folder of pictures; with --data where its pictures are")
    data: str | None = option(None, "annotated data instead: scenes, or what pr1kit.load_dataset reads")
    task: str = option("", f"one of {', '.join(IMAGE_TASKS)}")
    question: str = option("", "what is asked for in each picture of a folder: a phrase, a class, a list of classes")
    policy: str = option("tiny", "who answers: tiny, a folder, or a hub id")
    critic: str | None = option(
        None,
        "who criticises: a policy trained for it; without one the reward (--data), or a plain request to try again",
    )
    tells: str = option("worst", "how much the reward's critic tells", choices=TELLS)
    turns: int = option(3, "answers to each picture at most")
    temperature: float = option(0.0, "of the answers; 0 takes the likeliest")
    seed: int = option(0, "of what is drawn")
    limit: int | None = option(None, "the first so many pictures")
    max_new_tokens: int = option(256, "longest answer")
    batch_size: int | None = option(None, "pictures at once (default: what the memory holds)")
    out: str = option("runs/reflect", "folder of the results")


def main(flags: Sequence[str]) -> int:
    """The subcommand: turns, then one line for each picture, a file of dialogues and a filmstrip of each."""
    options = ReflectOptions(
        **read_flags(make_parser((ReflectOptions,), "python -m pr1kit reflect", DESCRIPTION), flags)
    )
    if options.task not in IMAGE_TASKS:
        raise ValueError(f"Say what is asked with --task: one of {', '.join(IMAGE_TASKS)}.")
    samples = _annotated(options) if options.data else _pictures(options)

    from pr1kit.models.policy import load_policy
    from pr1kit.rollouts.policy_critic import PolicyCritic
    from pr1kit.rollouts.reflection import reflect

    policy = load_policy(options.policy)
    critic: Callable = _again
    if options.critic:
        critic = PolicyCritic(load_policy(options.critic), batch_size=options.batch_size)
    elif options.data:
        critic = RewardCritic(options.tells)
    how = {name: getattr(options, name) for name in ("temperature", "seed", "max_new_tokens", "batch_size")}
    dialogues = reflect(policy, critic, samples, options.turns, progress="pictures", **how)
    folder = RunFolder(options.out)
    with folder.lock():
        rows = [_row(dialogue, bool(options.data)) for dialogue in dialogues]
        folder.write("dialogues.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        for number, (dialogue, row) in enumerate(zip(dialogues, rows, strict=True)):
            _film(dialogue, folder.path / "filmstrips" / f"{number:04d}.png", bool(options.data))
            scores = [turn["score"] for turn in row["turns"]]
            said = " → ".join("?" if score is None else f"{score:.2f}" for score in scores)
            print(f"{row['id']}: {said} ({row['ended']}): {row['turns'][-1]['completion'][:100]!r}")
    print(f"{len(rows)} dialogues in {folder.path / 'dialogues.jsonl'}")
    return 0


def _annotated(options: ReflectOptions) -> list[Sample]:
    from pr1kit.data.load import load_dataset

    return list(load_dataset(options.data, options.task, limit=options.limit, images=options.images, seed=options.seed))


def _pictures(options: ReflectOptions) -> list[Sample]:
    """A sample without a truth for each picture of the folder; one that cannot be read is named and left out."""
    if not options.images:
        raise ValueError("Say which pictures with --images, a folder, or annotated data with --data.")
    folder = Path(options.images).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {options.images!r}.")
    if not options.question and options.task != "ocr":
        raise ValueError(f"Say what {options.task} is to find in the pictures with --question.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)[: options.limit]
    samples = []
    for path in files:
        sample = Sample(path, options.task, options.question, Target(), id=path.name)
        try:
            sample.load_image()
        except (ValueError, OSError) as error:
            print(f"pr1kit: left out: {error}", file=sys.stderr)
        else:
            samples.append(sample)
    if not samples:
        raise ValueError(f"{options.images!r} holds no picture that can be read ({', '.join(PICTURES)}).")
    return samples


def _again(samples, completions, frames) -> list[tuple[None, str]]:
    """The critic that knows nothing: it asks for another answer."""
    return [(None, AGAIN) for _ in completions]


def _row(dialogue, known: bool) -> dict[str, Any]:
    row = {"id": dialogue.sample.id, "question": dialogue.sample.question, "frame": dialogue.frame}
    row |= {"ended": dialogue.ended, "turns": [asdict(turn) for turn in dialogue.turns]}
    return row | ({"rewards": dialogue.rewards()} if known else {})


def _film(dialogue, path: Path, known: bool) -> None:
    import matplotlib.pyplot as plt

    from pr1kit.plots.filmstrip import plot_filmstrip

    notes = [(turn.score, turn.words or turn.reason) for turn in dialogue.turns]
    axes = plot_filmstrip(dialogue.sample, dialogue.completions, notes, frame=dialogue.frame, truth=known)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = axes[0].get_figure(root=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
