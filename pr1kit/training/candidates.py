"""Ranked answers to learn from: sampled now, read from a file, or from the rollouts that a GRPO run logged.

A file is JSON Lines, a line a prompt:

    id            of the sample
    completions   N answers as text
    rewards       N numbers, higher is better
    token_ids     N lists, the end of sequence included. Without them `completions` are tokenized and ended: they must
                  then be as the policy writes them, its special tokens included
    prompt, frame the question's words and the frame of the numbers, checked where they are given
    written_by    the policy that wrote them
    reference     log-probability of each answer under the weights whose fingerprint is `reference_weights`

`rollouts.jsonl` of a GRPO run is such a file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pr1kit.data.durable_files import append_lines, read_log, write_atomically
from pr1kit.data.sample import Sample
from pr1kit.models.answers import answer_ids, supervised_answer
from pr1kit.models.policy import Policy, prompt_words
from pr1kit.rewards.groups import EQUAL
from pr1kit.rewards.score import score_batch
from pr1kit.rollouts.generate import sample_rollouts
from pr1kit.rollouts.log import scene_of
from pr1kit.training.weights import weights_fingerprint

AT_ONCE = 64  # prompts that are sampled before they are written


@dataclass(frozen=True, eq=False)
class Candidates:
    """N answers to one prompt, with their rewards. Raises ValueError for rewards that are not finite numbers."""

    sample: Sample
    completions: Sequence[str]
    rewards: Sequence[float]
    token_ids: Sequence[Sequence[int]]
    written_by: str = ""
    thinking: bool = False
    reference: Sequence[float] | None = None
    reference_weights: str = ""

    def __post_init__(self):
        lengths = {len(self.completions), len(self.rewards), len(self.token_ids)}
        if len(lengths) != 1:
            raise ValueError(f"Candidates of {self.sample.id!r}: as many rewards as answers are needed.")
        for i, reward in enumerate(self.rewards):
            if not isinstance(reward, int | float) or not np.isfinite(reward):
                raise ValueError(f"Candidates of {self.sample.id!r}: answer {i} has the reward {reward}.")
        if not all(len(ids) for ids in self.token_ids):
            raise ValueError(f"Candidates of {self.sample.id!r}: an answer has no token, not even its end.")

    @property
    def gap(self) -> float:
        """Best reward minus worst."""
        return max(self.rewards) - min(self.rewards)

    def only(self, chosen: Sequence[int]) -> Candidates:
        """Those answers alone."""
        columns = ("completions", "rewards", "token_ids", *(("reference",) if self.reference is not None else ()))
        return replace(self, **{name: [getattr(self, name)[i] for i in chosen] for name in columns})


def make_candidates(
    policy: Policy,
    samples: Sequence[Sample],
    n: int = 20,
    *,
    temperature: float = 1.0,
    seed: int = 0,
    recipe: str = "kit",
    truth: bool = False,
    path: str | Path | None = None,
    first: int = 0,
    bar=None,
    **generation,
) -> list[Candidates]:
    """`n` answers of `policy` to each sample, scored under `recipe`; with `truth` the true answer is one more.

    `path` keeps them as they are made: an interrupted call goes on there. `first` is the place of the first sample,
    where several processes share the work. `generation` goes to `generate_tokens`.
    Raises ValueError for fewer than two answers, and where `path` holds answers of other weights or samples.
    """
    if n + truth < 2:
        raise ValueError(f"Answers are ranked against each other: sample at least two, got {n}.")
    how = {"temperature": temperature, "seed": seed, "recipe": recipe, "truth": truth, **generation}
    said = ", ".join(f"{name} {value}" for name, value in sorted(how.items()) if name != "batch_size")
    written_by, thinking = f"{policy.name} ({weights_fingerprint(policy.model)}), {said}", how.get("thinking", False)
    made = read_candidates(path, policy, samples) if path and Path(path).exists() else []
    asked = [(sample.id, written_by, n + truth) for sample in samples[: len(made)]]
    if asked != [(each.sample.id, each.written_by, len(each.rewards)) for each in made]:
        raise ValueError(f"{str(path)!r} holds other candidates ({made[0].written_by}): choose another file.")
    for start in range(len(made), len(samples), AT_ONCE):
        batch = samples[start : start + AT_ONCE]
        groups = sample_rollouts(policy, batch, n, temperature, seed, recipe=recipe, first=first + start, **generation)
        new = [
            Candidates(
                sample,
                [rollout.completion for rollout in group],
                [rollout.total for rollout in group],
                [list(rollout.token_ids) for rollout in group],
                written_by,
                thinking,
            )
            for sample, group in zip(batch, groups, strict=True)
        ]
        new = [_with_truth(policy, each, recipe) for each in new] if truth else new
        if path:
            append_lines(Path(path), [_line(policy, each) for each in new])
        if bar is not None:
            bar.update(len(new))
        made += new
    return made


def _with_truth(policy: Policy, candidates: Candidates, recipe: str) -> Candidates:
    text, sample = supervised_answer(candidates.sample, policy, recipe=recipe), candidates.sample
    frame = policy.frame_of(sample)
    (result,) = score_batch(sample.task, [text], [sample.target], recipe=recipe, frame=frame)
    ids = answer_ids(policy, text)
    return replace(
        candidates,
        completions=[*candidates.completions, policy.processor.decode(ids, skip_special_tokens=True)],
        rewards=[*candidates.rewards, result.total],
        token_ids=[*candidates.token_ids, ids],
    )


# Which of them teach


def select_candidates(
    candidates: Sequence[Candidates], *, min_gap: float = 0.0, n: int | None = None
) -> tuple[list[Candidates], dict[str, int]]:
    """The lists whose best and worst rewards are `min_gap` or more apart (and not equal), each cut to `n` answers whose
    rewards spread from the best to the worst; and how many lists were `kept`, or left out and why."""
    kept, counts = [], Counter({"kept": 0})
    for each in candidates:
        if len(each.rewards) < 2:
            counts["one answer"] += 1
        elif each.gap <= EQUAL:
            counts["equal rewards"] += 1
        elif each.gap < min_gap - EQUAL:
            counts[f"best - worst below {min_gap:g}"] += 1
        else:
            counts["kept"] += 1
            kept.append(each.only(_spread(each.rewards, n)) if n and n < len(each.rewards) else each)
    return kept, dict(counts)


def _spread(rewards: Sequence[float], n: int) -> list[int]:
    """Which `n` of the answers have rewards nearest to `n` evenly spaced ones, best and worst included."""
    left, chosen = list(range(len(rewards))), []
    levels = np.linspace(min(rewards), max(rewards), n)
    for level in (levels[0], levels[-1], *levels[1:-1])[:n]:
        nearest = min(left, key=lambda i: abs(rewards[i] - level))
        left.remove(nearest)
        chosen.append(nearest)
    return sorted(chosen)


# Files


def save_candidates(policy: Policy, candidates: Sequence[Candidates], path: str | Path) -> Path:
    """Write a file that `read_candidates` reads."""
    return write_atomically(Path(path), "".join(json.dumps(_line(policy, c)) + "\n" for c in candidates))


def _line(policy: Policy, candidates: Candidates) -> dict[str, Any]:
    sample = candidates.sample
    line = {name: getattr(candidates, name) for name in ("completions", "rewards", "token_ids", "written_by")}
    line |= {"id": sample.id, "prompt": prompt_words(sample, candidates.thinking)}
    line |= {"frame": policy.frame_of(sample)}
    if candidates.reference is not None:
        line |= {"reference": candidates.reference, "reference_weights": candidates.reference_weights}
    return line


def read_candidates(
    path: str | Path, policy: Policy, samples: Sequence[Sample] = (), *, steps: tuple[int, int] | None = None
) -> list[Candidates]:
    """The candidates in a file, or in a run's folder: of a GRPO run those of `steps` (first, last), all by default.

    `samples` are those that the ids name; synthetic scenes need none, they are drawn again. Raises FileNotFoundError,
    and ValueError that names the line: an id that no sample has, a reward that is no finite number, answers to another
    prompt, in another frame, of another tokenizer, and a log of an earlier version of the kit, which held no tokens.
    """
    path = Path(path)
    if path.is_dir():
        path = next((file for file in (path / "rollouts.jsonl", path / "candidates.jsonl") if file.exists()), path)
    by_id: dict[str, Sample] = {}
    for sample in samples:
        if by_id.setdefault(sample.id, sample) is not sample:
            raise ValueError(f"Two samples have the id {sample.id!r}: candidates name their sample by it.")
    candidates = []
    for number, line in enumerate(_lines(path), start=1):
        if steps and not steps[0] <= line.get("step", steps[0]) <= steps[1]:
            continue
        try:
            candidates.append(_candidates(line, policy, by_id, path))
        except ValueError as error:
            raise ValueError(f"Line {number} of {str(path)!r}: {error}") from None
    return candidates


def _lines(path: Path) -> Iterator[dict]:
    if not path.is_file():
        raise FileNotFoundError(f"There are no candidates {str(path)!r}: name a JSON Lines file or a run's folder.")
    if path.name == "rollouts.jsonl":
        yield from read_log(path)
        return
    texts = path.read_bytes().split(b"\n")
    for number, text in enumerate(texts, start=1):
        try:
            if text.strip():
                yield json.loads(text)
        except ValueError:
            if number < len(texts):  # else cut short by a crash
                raise ValueError(f"Line {number} of {str(path)!r} is no JSON.") from None


def _candidates(line: dict, policy: Policy, by_id: dict[str, Sample], path: Path) -> Candidates:
    if missing := [name for name in ("id", "completions", "rewards") if name not in line]:
        raise ValueError(f"it has no {missing[0]!r}.")
    if by_id and line["id"] not in by_id:
        raise ValueError(f"no sample has the id {line['id']!r}.")
    sample = by_id[line["id"]] if by_id else scene_of(line["id"], line.get("prompt", ""))
    asked, prompt = (prompt_words(sample), prompt_words(sample, thinking=True)), line.get("prompt")
    if prompt is not None and prompt not in asked:
        raise ValueError(f"the candidates of {sample.id!r} answer {prompt!r}, the sample asks {asked[0]!r}.")
    frame = policy.frame_of(sample)
    if line.get("frame") is not None and line["frame"] != (list(frame) if isinstance(frame, tuple) else frame):
        raise ValueError(f"the candidates of {sample.id!r} are in the frame {line['frame']}, the policy's is {frame}.")
    tokens, decode = line.get("token_ids"), policy.processor.batch_decode
    if tokens is None and "advantages" in line:
        raise ValueError("a GRPO log of an earlier version, which kept no token_ids: run GRPO again.")
    if tokens is None:
        tokens = [answer_ids(policy, text) for text in line["completions"]]
    elif tokens and decode(tokens, skip_special_tokens=True) != list(line["completions"]):
        raise ValueError(f"the token ids of {sample.id!r} say other words than its completions: another tokenizer's?")
    step = f"{path.parent.name}, step {line['step']}" if "step" in line else ""
    return Candidates(
        sample,
        line["completions"],
        line["rewards"],
        tokens,
        line.get("written_by", step),
        prompt == asked[1] != asked[0],
        line.get("reference"),
        line.get("reference_weights", ""),
    )
