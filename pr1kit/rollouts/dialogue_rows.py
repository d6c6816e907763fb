"""Dialogues as rows of tokens, each of which knows whether the policy wrote it, in which turn, and for which reward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from pr1kit.models.inputs import model_inputs, refuse_videos
from pr1kit.models.policy import Policy
from pr1kit.rewards.critics import disarm
from pr1kit.rollouts.conversation import encode, end_of_turn, next_turn
from pr1kit.rollouts.reflection import Dialogue


def dialogue_tokens(policy: Policy, dialogue: Dialogue, room: int) -> tuple[list, list, list]:
    """What stands after the prompt: tokens, σ of each and the number of its turn, both −1 for what the user says.

    An answer ends with the template's end of turn, which is the policy's own. In `room` tokens: the earliest turns are
    left out where the dialogue is longer, and the end of its last where that alone is.
    """
    end = end_of_turn(policy, dialogue.sample)
    pieces: list[tuple[list[int], float, int]] = []  # (tokens, σ, turn)
    for number, turn in enumerate(dialogue.turns):
        sigma = 1.0 if turn.score is None else float(turn.score)
        pieces.append(([*encode(policy, disarm(turn.completion)), *end], sigma, number))
        if number + 1 < len(dialogue.turns):
            said = encode(policy, next_turn(policy, dialogue.sample, turn.words))
            pieces.append((said[len(end) :] if said[: len(end)] == end else said, -1.0, -1))
    while len(pieces) > 1 and sum(len(tokens) for tokens, *_ in pieces) > room:
        pieces = pieces[2:]
    rows = [(token, sigma, number) for tokens, sigma, number in pieces for token in tokens][:room]
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def collate(policy: Policy, dialogues: Sequence[Dialogue], thinking: bool = False) -> dict[str, torch.Tensor]:
    """A batch of B dialogues for the model, padded on the right to L tokens.

    Beside the model's own inputs (B, L): `labels`, −100 for what the policy did not write; `sigma`, the reward of the
    answer to which a token belongs; `turns`, the number of that answer in the batch.
    """
    limit = policy.core.config.get_text_config().max_position_embeddings
    samples = [dialogue.sample for dialogue in dialogues]
    refuse_videos(samples, "Reflection")
    inputs = model_inputs(policy, samples, thinking)
    rows: dict[str, list] = {name: [] for name in ("input_ids", "mm_token_type_ids", "labels", "sigma", "turns")}
    before = 0  # answers in the rows before
    for i, dialogue in enumerate(dialogues):
        known = inputs["attention_mask"][i].bool()
        prompt, kinds = inputs["input_ids"][i][known], inputs["mm_token_type_ids"][i][known]
        room = max(1, limit - len(prompt))
        tokens, sigma, turns = (torch.tensor(each) for each in dialogue_tokens(policy, dialogue, room))
        blank = torch.full_like(prompt, -1)
        rows["input_ids"].append(torch.cat([prompt, tokens]))
        rows["mm_token_type_ids"].append(torch.cat([kinds, torch.zeros_like(tokens)]))
        rows["labels"].append(torch.cat([blank - 99, torch.where(turns >= 0, tokens, -100)]))
        rows["sigma"].append(torch.cat([blank.float(), sigma]))
        rows["turns"].append(torch.cat([blank, torch.where(turns >= 0, turns + before, -1)]))
        before += len(dialogue.turns)
    lengths = torch.tensor([[len(row)] for row in rows["input_ids"]])
    fill = {"input_ids": policy.processor.tokenizer.pad_token_id, "mm_token_type_ids": 0, "labels": -100}
    batch = {name: pad_sequence(each, True, fill.get(name, -1)) for name, each in rows.items()}
    batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths).long()
    return batch | {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
