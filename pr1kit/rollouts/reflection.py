"""Perception in reflection: answer, be criticised, answer better, up to T turns (RePer, arXiv 2504.07165, section 3).

    a_t ~ policy( · | picture, question, a_1, f_1, …, a_{t-1}, f_{t-1}),    f_t = critic(picture, question, a_t)

Critics are in `rewards.critics` and, learned ones, in `policy_critic`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from pr1kit.data.sample import Sample
from pr1kit.models.policy import Policy
from pr1kit.plots.filmstrip import plot_filmstrip
from pr1kit.rewards.critics import as_critiques
from pr1kit.rewards.parsing import END
from pr1kit.rewards.score import score_batch
from pr1kit.rollouts.conversation import Conversation, encode, next_turn
from pr1kit.rollouts.generate import answers_at_once

SHOWN = 4  # dialogues of a list that a notebook shows


@dataclass(frozen=True)
class Turn:
    """One answer and what the critic said of it: `score` in [0, 1] or None, its `words`, and `reason`, why that score.

    `tokens` counts what the policy wrote.
    """

    completion: str
    score: float | None = None
    words: str = ""
    reason: str = ""
    tokens: int = 0


@dataclass(frozen=True, eq=False)
class Dialogue:
    """The turns about one sample; `frame` is that of the answers, `ended` says why there are no more turns."""

    sample: Sample
    turns: tuple[Turn, ...]
    frame: Any = "pixel"
    ended: str = ""

    @property
    def completions(self) -> list[str]:
        return [turn.completion for turn in self.turns]

    def rewards(self, recipe: str = "kit") -> list[float]:
        """What each turn's answer truly earns."""
        targets = [self.sample.target] * len(self.turns)
        results = score_batch(self.sample.task, self.completions, targets, recipe=recipe, frame=self.frame)
        return [result.total for result in results]

    def _repr_html_(self) -> str:
        import matplotlib.pyplot as plt

        notes = [(turn.score, turn.words or turn.reason) for turn in self.turns]
        axes = plot_filmstrip(self.sample, self.completions, notes, frame=self.frame)
        buffer, figure = io.BytesIO(), axes[0].get_figure(root=True)
        figure.savefig(buffer, format="png", dpi=80)
        plt.close(figure)
        return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


class Dialogues(list):
    """A list of `Dialogue` that a notebook shows as filmstrips; `statistics` says how it was made."""

    def __init__(self, dialogues: Iterable[Dialogue] = (), statistics: Mapping | None = None):
        super().__init__(dialogues)
        self.statistics = dict(statistics or {})

    def rewards_by_turn(self, turns: int, recipe: str = "kit") -> np.ndarray:
        """`(N, turns)` true rewards of the answer that stands after each turn: a dialogue that ended keeps its last."""
        earned = [dialogue.rewards(recipe)[:turns] for dialogue in self]
        return np.array([row + row[-1:] * (turns - len(row)) for row in earned]).reshape(len(self), turns)

    def _repr_html_(self) -> str:
        more = f"<br>and {len(self) - SHOWN} more dialogues" if len(self) > SHOWN else ""
        return "<br>".join(dialogue._repr_html_() for dialogue in self[:SHOWN]) + more


@torch.no_grad()
def reflect(
    policy: Policy,
    critic: Callable,
    samples: Sequence[Sample],
    turns: int = 3,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 128,
    batch_size: int | None = None,
    thinking: bool = False,
    progress: str = "",
) -> Dialogues:
    """Up to `turns` answers to each sample, each after the critic's words on the one before; it ends where content.

    `critic(samples, completions, frames)` gives one critique for each answer, see `rewards.critics`. A picture is
    encoded once for its dialogue. Greedy at temperature 0; the same seed gives the same answers whatever the batch
    size, up to rounding. A dialogue that would outgrow the model's context ends, and says so. Raises ValueError for
    fewer than one turn, a chat template without a second turn, a model that cannot go on, and a critic that does not
    return one critique for each answer.
    """
    if turns < 1 or max_new_tokens < 1:
        raise ValueError(f"A dialogue has at least one turn of one token, got {turns=}, {max_new_tokens=}.")
    at_once = batch_size or answers_at_once(policy, turns * 2 * max_new_tokens)
    dialogues, was_training = Dialogues(), policy.core.training
    policy.core.eval()
    try:
        for start in tqdm(range(0, len(samples), at_once), desc=progress, disable=not progress, leave=False):
            batch = samples[start : start + at_once]
            conversation = Conversation(policy, batch, thinking)
            numbers = [np.random.default_rng([seed, start + i]) for i in range(len(batch))]
            dialogues += converse(policy, conversation, critic, batch, turns, numbers, temperature, max_new_tokens)[0]
    finally:
        policy.core.train(was_training)
    return dialogues


def converse(
    policy: Policy,
    conversation: Conversation,
    critic: Callable,
    samples: Sequence[Sample],
    turns: int,
    numbers: Sequence[np.random.Generator],
    temperature: float,
    max_new_tokens: int,
) -> tuple[list[Dialogue], list[tuple[list[int], list[bool]]]]:
    """Let the chats of `conversation` run to their end; returns dialogues, and of each the tokens and who wrote them.

    `samples` and `numbers`, the random numbers of each row, are in the order of its rows.
    """
    tokenizer, limit = policy.processor.tokenizer, policy.core.config.get_text_config().max_position_embeddings
    frames = [policy.frame(sample.load_image().size) for sample in samples]
    said: list[list[Turn]] = [[] for _ in samples]
    ended = [f"after {turns} turns"] * len(samples)
    spoken: list[tuple[list[int], list[bool]]] = [([], [])] * len(samples)
    rows = list(range(len(samples)))  # where the chats that go on belong
    for number in range(1, turns + 1):
        draws = np.stack([numbers[i].random(max_new_tokens) for i in rows]) if temperature > 0 else None
        written = conversation.write(max_new_tokens, temperature, draws)
        texts = [END.split(tokenizer.decode(tokens), maxsplit=1)[0] for tokens in written]
        critiques = as_critiques(critic([samples[i] for i in rows], texts, [frames[i] for i in rows]), len(rows))
        going, words = [], []
        for place, (i, text, tokens, critique) in enumerate(zip(rows, texts, written, critiques, strict=True)):
            said[i].append(Turn(text, critique.score, critique.words, critique.reason, len(tokens)))
            spoken[i] = (list(conversation.tokens[place]), list(conversation.written[place]))
            if critique.content:
                ended[i] = "the critic is content"
            elif number < turns:
                more = encode(policy, next_turn(policy, samples[i], critique.words))
                if len(conversation.tokens[place]) + len(more) + max_new_tokens > limit:
                    ended[i] = f"another turn would outgrow the model's context of {limit} tokens"
                    continue
                going.append(place)
                words.append(more)
        if not going:
            break
        if len(going) < len(rows):
            conversation.keep(going)
        rows = [rows[place] for place in going]
        conversation.read(words)
    dialogues = [Dialogue(*each) for each in zip(samples, map(tuple, said), frames, ended, strict=True)]
    return dialogues, spoken
