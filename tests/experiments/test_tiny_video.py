"""The tiny policy that sees clips: what it is shown, what it is asked, and that it can be made and loaded."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from pr1kit.__main__ import main
from pr1kit.data.clip_questions import KINDS, PROXY
from pr1kit.data.clips import draw_clip, further_questions, make_clips
from pr1kit.data.motion import Motion
from pr1kit.data.sample import Sample
from pr1kit.data.scenes import COLOURS, SHAPES
from pr1kit.experiments.tiny_policy.clip_vision import ClipHead, clip_loss, clip_truth
from pr1kit.experiments.tiny_policy.video import KNOBS, answer_loss, begin, draw_batch, hide, see, words_of
from pr1kit.models.answers import answer_ids
from pr1kit.models.inputs import model_inputs
from pr1kit.models.policy import load_policy, scene_knobs
from pr1kit.rollouts.likelihood import answer_logprobs

KNOBS_OF_CLIPS = Motion(**KNOBS)


@pytest.fixture(scope="module")
def policy():
    return begin(0)


def test_what_stands_where_is_in_the_order_of_the_vision_tower(policy):
    things, front, _ = draw_clip("tracking", "look", np.random.default_rng(0), Motion())
    truth = clip_truth(things, front)
    painted = np.repeat((front >= 0)[..., None], 3, axis=3).astype(np.uint8) * 255  # white where an object is
    pixels = policy.processor.video_processor([painted], do_sample_frames=False, return_tensors="pt")
    centre = pixels["pixel_values_videos"].view(-1, 3, 2, 8, 8)[:, 0, :, 4, 4]  # [patches, frames of the pair]
    assert truth[:, 0].any()
    assert ((centre > 0).reshape(-1).numpy() == (truth[:, 0] > 0)).all()
    looks = {(SHAPES.index(t.shape) + 1, list(COLOURS).index(name)) for t in things for name in t.colours}
    assert {(int(a), int(b)) for a, b in truth[truth[:, 0] > 0, :2]} <= looks


def test_a_clip_can_be_asked_more_and_every_answer_is_true_of_it():
    for number in range(12):
        rng = np.random.default_rng(number)
        things, front, _ = draw_clip("tracking", "look", rng, KNOBS_OF_CLIPS)
        for task, kind, _, truth in further_questions(things, rng):
            assert kind in (*KINDS[task], PROXY)
            (track,) = truth["tracks"]
            asked = next(t for t in things if np.array_equal(t.visible, track.seen) and
                         np.array_equal(t.boxes[t.visible], track.boxes[track.seen]))  # fmt: skip
            shown = [(front == things.index(asked))[f].any() for f in range(8)]
            assert (np.array(shown) >= track.seen).all()
            if (task, kind) == ("tracking", PROXY):
                assert (track.boxes == track.boxes[0]).all()


def test_clips_are_the_same_for_the_same_step_and_asked_about_all_tasks():
    one, again, next_one = (draw_batch(0, step, 4, 4, KNOBS_OF_CLIPS) for step in (0, 0, 1))
    assert (one.frames == again.frames).all()
    assert [row[:3] for row in one.rows] == [row[:3] for row in again.rows]
    assert (one.frames != next_one.frames).any()
    assert {task for batch in (one, next_one) for _, task, *_ in batch.rows} == set(KINDS)
    for number in range(4):
        asked = [row[1] for row in one.rows if row[0] == number]
        assert 1 <= len(asked) <= 4


def test_a_new_token_begins_as_the_mean_of_what_it_was(policy):
    old = load_policy("tiny")
    before, after = (each.model.get_input_embeddings().weight for each in (old, policy))
    ids, were = policy.processor.tokenizer.get_vocab(), old.processor.tokenizer.get_vocab()
    assert torch.equal(after[ids["37"]], before[were["37"]])
    assert torch.allclose(after[ids["37,"]], (before[were["37"]] + before[were[","]]) / 2)
    assert torch.equal(policy.model.model.visual.merger.ln_q.weight, old.model.model.visual.merger.ln_q.weight)
    assert len(policy.processor.tokenizer("Frame 1:[37,43,52,58];")["input_ids"]) == 8


def test_a_clip_seen_once_gives_the_loss_of_clips_seen_for_every_question(policy):
    batch = draw_batch(3, 0, 2, 3, KNOBS_OF_CLIPS)
    rows = [row for row in batch.rows if row[1] != "tracking"]
    with torch.no_grad():
        tokens, grid = see(policy, batch.frames)
        loss = answer_loss(policy, tokens, grid, rows, 1.0)
    samples, answers = [], []
    for number, task, question, target in rows:
        frames = tuple(Image.fromarray(frame) for frame in batch.frames[number])
        times = tuple(f / 2 for f in range(8))
        samples.append(Sample(frames[0], task, question, target, "", "", frames, times))
        answers.append(answer_ids(policy, words_of(policy, rows[len(answers)], 16)[1].removesuffix("<|im_end|>")))
    ids = model_inputs(policy, samples[:1])["input_ids"][0].tolist()
    assert ids == policy.processor.tokenizer(words_of(policy, rows[0], tokens.shape[1])[0])["input_ids"]
    told = np.concatenate(answer_logprobs(policy, samples, answers))
    assert loss.item() == pytest.approx(-told.mean(), rel=1e-4)


def test_the_dense_loss_falls_where_the_head_learns(policy):
    batch = draw_batch(1, 0, 2, 1, KNOBS_OF_CLIPS)
    head = ClipHead()
    with torch.no_grad():
        tokens, _ = see(policy, batch.frames)
    optimizer = torch.optim.Adam(head.parameters(), 0.01)
    losses = []
    for _ in range(20):
        loss = clip_loss(head, tokens.flatten(0, 1), batch.truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_policy_is_made_by_one_command_and_loads_with_the_knobs_it_was_taught(tmp_path):
    out = tmp_path / "policy"
    assert main(["make-tiny-policy", "--video", "--fast", "--out", str(out), "--work", str(tmp_path / "work")]) == 0
    policy = load_policy(str(out), verbose=False)
    assert policy.model.dtype == torch.float32
    assert (out / "model.safetensors").stat().st_size < 4_000_000
    assert scene_knobs(policy, "tracking") == KNOBS
    assert make_clips("when", 1, **scene_knobs(str(out), "when"))[0].is_video
    card = json.loads((out / "training.json").read_text())
    assert set(card["final"]) == {f"{task}, {queries}" for task in KINDS for queries in ("UTR", "proxy")}
    assert "python -m pr1kit make-tiny-policy --video" in (out / "README.md").read_text()


def test_hidden_numbers_are_other_coordinates_and_all_else_stays(policy):
    tokenizer = policy.processor.tokenizer
    text = ";".join(f"Frame {frame}:[37,43,52,58]" for frame in range(1, 9))
    ids = tokenizer([text] * 32, return_tensors="pt")["input_ids"]
    torch.manual_seed(0)
    hidden = hide(tokenizer, ids, torch.ones_like(ids, dtype=torch.bool))
    shares = []
    for row in tokenizer.batch_decode(hidden):
        assert re.findall(r"Frame (\d):\[", row) == list("12345678")
        assert row.count(",") == 24
        numbers = [int(number) for number in re.findall(r"(?<!Frame )\d+", row)]
        assert len(numbers) == 32
        assert max(numbers) <= 64
        shares.append(np.mean([a != b for a, b in zip(numbers, [37, 43, 52, 58] * 8, strict=True)]))
    assert min(shares) < 0.2
    assert max(shares) > 0.8
    assert torch.equal(hide(tokenizer, ids, torch.zeros_like(ids, dtype=torch.bool)), ids)
