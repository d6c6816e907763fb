"""A critic that is itself a policy: it reads picture, question and answer, and writes a score and a reason.

The answer stands in a turn of its own, as if the critic had given it, and the request for a score in the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pr1kit.data.sample import Sample
from pr1kit.models.policy import Policy, chat, prompt_words
from pr1kit.rewards.critics import AGAIN, Critique, RewardCritic, as_critiques, disarm, read_critique
from pr1kit.rollouts.conversation import next_turn
from pr1kit.rollouts.generate import generate_completions
from pr1kit.rollouts.reflection import Dialogue, Dialogues, Turn

LONGEST = 4_000  # characters of an answer that the critic reads
SCORE_IT = "Score this answer from 0 to 10."


@dataclass(frozen=True)
class PolicyCritic:
    """`policy` as a critic, see `rewards.critics`: greedy, content from a score of `enough` on.

    Whatever it writes is data: without a score from 0 to 10 the critique's score is None, and its reason says why.
    """

    policy: Policy
    enough: float = 0.95
    max_new_tokens: int = 96
    batch_size: int | None = None

    def __call__(self, samples: Sequence[Sample], completions: Sequence[str], frames: Sequence) -> list[Critique]:
        asked = [question_to_critic(self.policy, *each) for each in zip(samples, completions, strict=True)]
        written = generate_completions(
            self.policy,
            asked,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            keep_special_tokens=True,
        )
        read = [read_critique(texts[0], self.enough) for texts in written]
        return [replace(critique, words=_asking(critique.words)) for critique in read]


def question_to_critic(policy: Policy, sample: Sample, completion: str) -> Sample:
    """What a critic is asked about an answer, as a sample with the same picture; its prompt holds all turns so far.

    Raises ValueError for a template that has no second turn.
    """
    words = prompt_words(sample)
    text = policy.processor.apply_chat_template(chat(sample), add_generation_prompt=True)
    opening = text.rpartition(words)[2]  # from the end of the question to the beginning of an answer
    asked = next_turn(policy, sample, SCORE_IT).removesuffix(opening)
    return replace(sample, prompt=f"{words}{opening}{disarm(completion[:LONGEST])}{asked}")


def critic_lessons(
    policy: Policy,
    samples: Sequence[Sample],
    completions: Sequence[str],
    frames: Sequence,
    teacher: Callable | None = None,
) -> Dialogues:
    """What `policy` learns to criticise from, by `train_reper`: answers, and what `teacher` says of each.

    The default teacher is the `RewardCritic` that tells all it may. Every lesson has one turn of score 1, so that the
    loss is that of supervision.
    """
    critiques = as_critiques((teacher or RewardCritic())(samples, completions, frames), len(samples))
    return Dialogues(
        Dialogue(
            question_to_critic(policy, sample, completion), (Turn(critique.words.removesuffix(AGAIN).strip(), 1.0),)
        )
        for sample, completion, critique in zip(samples, completions, critiques, strict=True)
    )


def _asking(words: str) -> str:
    return words if AGAIN in words else f"{words} {AGAIN}"
