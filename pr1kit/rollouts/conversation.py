"""Chats of several turns about one picture each, in a batch, each picture encoded once: the cache goes on.

    read   tokens into the cache: the prompts with their pictures, later an answer and the critic's words on it
    write  an answer in each chat: branches that leave the cache as it is (`branched_decoding`)

What is read is as wide as its longest row; shorter ones are padded on the left, and the attention mask covers these
holes ever after. An answer is thus computed twice, the second time in one pass, and a chat that has ended its answer
costs nothing while others go on. Positions count a row's own tokens (M-RoPE). A state that
linear attention carries along (Qwen3.5) knows no mask: such models read the words one by one, and the state of a row
that a step passes over is put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from jinja2 import TemplateError
from transformers.cache_utils import DynamicLayer

from pr1kit.data.sample import Sample
from pr1kit.models.inputs import model_inputs, refuse_videos
from pr1kit.models.policy import Policy, chat
from pr1kit.rollouts.branch_attention import OwnLayer
from pr1kit.rollouts.branched_decoding import can_branch, decode_branches, draw
from pr1kit.rollouts.generate import to_end

_ANSWER, _WORDS = "the-answer-of-the-first-turn", "the-words-of-the-second-turn"


class Conversation:
    """One chat for each sample, its prompt and picture read; answers follow by `write`, the user's words by `read`.

    `tokens[i]` is everything that row i has said so far, prompt and its image tokens included; `written[i]` says of
    each token whether the policy wrote it. Raises ValueError for a model without M-RoPE positions or with a sliding
    window.
    """

    def __init__(self, policy: Policy, samples: Sequence[Sample], thinking: bool = False):
        self.model = policy.core
        if not can_branch(self.model):
            raise ValueError(
                f"{policy.name!r} ({type(self.model).__name__}) cannot go on from turn to turn: it has no M-RoPE "
                "positions, or a sliding window. Take one of the Qwen-VL families."
            )
        refuse_videos(samples, "Reflection")
        inputs = model_inputs(policy, samples, thinking).to(self.model.device)
        self.mask = inputs["attention_mask"].bool()  # (B, L), of all that the cache holds
        self.tokens = [ids[mask].tolist() for ids, mask in zip(inputs["input_ids"], self.mask, strict=True)]
        self.written = [[False] * len(tokens) for tokens in self.tokens]
        self.pending: list[list[int]] = [[] for _ in self.tokens]  # said, but not in the cache yet
        self.ends = _ends(policy)
        positions = self.model.model.get_rope_index(
            inputs["input_ids"],
            inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )[0]  # (3, B, L)
        self.position = positions.amax(dim=(0, 2)) + 1  # (B,), of each row's next token
        outputs = self.model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
        self.name = "cache" if "cache" in outputs else "past_key_values"  # as before transformers 5.24
        self.cache, self.logits = outputs[self.name], outputs.logits[:, -1]
        layers = self.cache.layers
        self.cache.layers = [OwnLayer(each) if type(each) is DynamicLayer else each for each in layers]
        self.linear = [each for each in layers if not isinstance(each, DynamicLayer)]

    def read(self, words: Sequence[Sequence[int]]) -> None:
        """Tokens for each chat, at least two, into the cache; an end of turn that was written is not read again."""
        pairs = zip(self.tokens, words, strict=True)
        fresh = [list(more[1:] if said[-1] == more[0] else more) for said, more in pairs]
        for tokens, written, more in zip(self.tokens, self.written, fresh, strict=True):
            tokens += more
            written += [False] * len(more)
        fed = [[*before, *more] for before, more in zip(self.pending, fresh, strict=True)]
        self.pending = [[] for _ in fed]
        longest = max(map(len, fed))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in fed], device=self.mask.device)
        read = torch.arange(longest, device=ids.device) >= longest - torch.tensor([[len(row)] for row in fed]).to(ids)
        self._forward(ids, read)

    def write(self, max_new_tokens: int, temperature: float = 0.0, draws: np.ndarray | None = None) -> list[list[int]]:
        """An answer in each chat, without the token that ends it (in `tokens` it stands); greedy at temperature 0.

        `draws` (B, max_new_tokens) in [0, 1) are the random numbers that choose the tokens.
        """
        device, batch = self.mask.device, len(self.tokens)
        ends = torch.tensor(self.ends, device=device)
        uniform = None if draws is None else torch.from_numpy(draws.astype(np.float32)).to(device)

        def choose(_, logits, step, rows):
            numbers = None if uniform is None else uniform[rows, step]
            return draw(logits.float() / temperature, numbers) if temperature > 0 else logits.float().argmax(-1)

        layers = self.cache.layers
        self.cache.layers = [each if isinstance(each, DynamicLayer) else deepcopy(each) for each in layers]
        ids = decode_branches(
            self.model,
            {self.name: self.cache},
            self.mask,
            torch.arange(batch, device=device),
            self.logits,
            self.position.expand(3, -1)[..., None],
            torch.zeros(batch, max_new_tokens, dtype=torch.long, device=device),
            max_new_tokens,
            choose,
            lambda ids: torch.isin(ids[:, -1], ends),
        )
        self.cache.layers = layers
        said = [to_end(row, self.ends) for row in ids.tolist()]
        self.pending = said
        for tokens, written, row in zip(self.tokens, self.written, said, strict=True):
            tokens += row
            written += [True] * len(row)
        return [row[:-1] if row[-1] in self.ends else row for row in said]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these chats alone, in this order; a chat named twice goes on twice."""
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.reorder_cache(index)
        self.mask, self.position, self.logits = self.mask[index], self.position[index], self.logits[index]
        self.tokens, self.written, self.pending = (
            [list(each[i]) for i in rows] for each in (self.tokens, self.written, self.pending)
        )

    def _forward(self, ids: torch.Tensor, counted: torch.Tensor) -> None:
        """Feed `ids` (B, N), of which those `counted` are said; a row with none keeps its last logits."""
        width = 1 if self.linear else ids.shape[1]
        for each, says in zip(ids.split(width, 1), counted.split(width, 1), strict=True):
            self._feed(each, says)

    def _feed(self, ids: torch.Tensor, counted: torch.Tensor) -> None:
        steps = counted.cumsum(1)  # (B, N), 1 at a row's first token
        self.mask = torch.cat([self.mask, counted], 1)
        positions = (self.position[:, None] + steps - 1).clamp(min=0).expand(3, -1, -1)
        whole, passed = bool(self.mask.all()), ~counted.any(1)
        before = [[state[passed] for state in _states(layer)] for layer in self.linear]
        logits = self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=None if whole else self.mask.long(),
            use_cache=True,
            logits_to_keep=1,
            **{self.name: self.cache},
        ).logits[:, -1]
        for layer, states in zip(self.linear, before, strict=True):
            for state, old in zip(_states(layer), states, strict=True):
                state[passed] = old
        self.position = self.position + steps[:, -1]
        self.logits = torch.where(counted[:, -1:], logits, self.logits)


def _states(layer) -> list[torch.Tensor]:
    """What a layer of linear attention carries along, each `(B, …)`."""
    values = [value.values() if isinstance(value, dict) else [value] for value in vars(layer).values()]
    return [state for each in values for state in each if torch.is_tensor(state)]


def _ends(policy: Policy) -> list[int]:
    """The tokens that end an answer."""
    said = policy.core.generation_config.eos_token_id
    found = {policy.processor.tokenizer.eos_token_id, *(said if isinstance(said, list) else [said])}
    return sorted(token for token in found if token is not None)


def next_turn(policy: Policy, sample: Sample, words: str) -> str:
    """What the chat template writes from the end of an answer to the beginning of the next, the user's `words` between.

    Raises ValueError for a template that has no second turn.
    """
    said = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in
            (("assistant", _ANSWER), ("user", _WORDS))]  # fmt: skip
    try:
        text = policy.processor.apply_chat_template([*chat(sample), *said], add_generation_prompt=True)
    except TemplateError as error:
        raise ValueError(f"The chat template of {policy.name!r} takes no second turn: {error}") from error
    between = text.partition(_ANSWER)[2]
    if between.count(_WORDS) != 1 or _ANSWER in between or text.count(_WORDS) != 1:
        raise ValueError(
            f"The chat template of {policy.name!r} has no second turn: it does not write what is said there."
        )
    return between.replace(_WORDS, words)


def end_of_turn(policy: Policy, sample: Sample) -> list[int]:
    """The token with which the policy's template closes an answer, in a list."""
    closing = policy.processor.tokenizer(next_turn(policy, sample, ""), add_special_tokens=False)["input_ids"]
    return closing[:1] if closing and closing[0] in _ends(policy) else [policy.processor.tokenizer.eos_token_id]


def encode(policy: Policy, text: str) -> list[int]:
    """The tokens of a text, no others added."""
    return policy.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
