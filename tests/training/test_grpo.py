"""GRPO runs: the settings reach TRL, every group is logged, a run that was cut off ends as if it had not been."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOTrainer

from pr1kit import PerceptionGRPOTrainer, RewardExplorer, make_scenes, reward_function
from pr1kit.data.durable_files import read_log
from pr1kit.data.sample import Target
from pr1kit.models.policy import load_policy
from pr1kit.models.tiny import build_model, build_processor
from pr1kit.rewards.groups import group_advantages
from pr1kit.rewards.results import RewardResult
from pr1kit.rollouts.generate import generate_completions
from pr1kit.training.advantages import scaled_advantages, update_spreads
from pr1kit.training.grpo import to_dataset, train_grpo
from pr1kit.training.grpo_settings import PAPER, TINY
from pr1kit.training.redraw import redraw
from pr1kit.training.rloo import train_rloo

SHORT = replace(TINY, steps=3, prompts_per_step=2, micro_prompts=2, num_generations=4, max_completion_length=24)


@pytest.fixture
def policy():
    return load_policy("tiny")


def weights(policy):
    return {name: value.clone() for name, value in policy.model.state_dict().items()}


def test_the_paper_settings_reach_trl(tmp_path):
    config = PAPER.config(tmp_path)
    assert config.learning_rate == 1e-6
    assert config.num_generations == 8
    assert config.beta == 0.04
    assert config.temperature == 1.0
    assert config.per_device_train_batch_size * config.gradient_accumulation_steps == 2 * 8
    assert config.epsilon == 0.2
    assert not PAPER.thinking


def test_a_run_logs_every_step_and_every_group_and_moves_the_weights(policy, tmp_path):
    before = weights(policy)
    rows = train_grpo(policy, make_scenes("counting", 6), tmp_path, SHORT)
    assert [row["step"] for row in rows] == [1, 2, 3]
    groups = read_log(tmp_path / "rollouts.jsonl")
    assert [group["step"] for group in groups] == [1, 1, 2, 2, 3, 3]
    for group in groups:
        assert len(group["completions"]) == len(group["rewards"]) == 4
        assert sum(group["advantages"]) == pytest.approx(0, abs=1e-3)
        assert set(group["parts"]) >= {"location", "count"}
    step = [value for group in groups[:2] for value in group["rewards"]]
    assert rows[0]["reward"] == pytest.approx(np.mean(step), abs=1e-4)
    assert rows[0]["reward/location"] == pytest.approx(
        np.mean([value for group in groups[:2] for value in group["parts"]["location"]]), abs=1e-4
    )
    assert any(not torch.equal(before[name], value) for name, value in policy.model.state_dict().items())


@pytest.mark.parametrize("scenes", [6, 4], ids=["in its first epoch", "between epochs"])
def test_a_run_that_was_cut_off_ends_with_the_weights_of_one_that_was_not(tmp_path, scenes):
    scenes = make_scenes("grounding", scenes)
    whole, cut = load_policy("tiny"), load_policy("tiny")
    rows = train_grpo(whole, scenes, tmp_path / "whole", SHORT)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-3")  # killed in the third step, with a torn line in its logs
    for name in ("log.jsonl", "rollouts.jsonl"):
        with (tmp_path / "cut" / name).open("a") as file:
            file.write('{"step": 3, "rew')
    again = train_grpo(cut, scenes, tmp_path / "cut", SHORT)
    assert [row["reward"] for row in again] == [row["reward"] for row in rows]
    assert len(read_log(tmp_path / "cut" / "rollouts.jsonl")) == 6
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, cut.model.state_dict()[name]), name


MIXED = [*make_scenes("counting", 4), *make_scenes("grounding", 4)]
PAIRS = replace(SHORT, prompts_per_step=4, micro_prompts=4, num_generations=2)  # of whose groups many are equal


@pytest.mark.parametrize(
    "settings",
    [
        replace(PAIRS, scale_rewards="task"),
        replace(PAIRS, dynamic_sampling=2),
        replace(PAIRS, beta=0.1, kl_estimator="k1 in the reward", scale_rewards="task"),
    ],
    ids=["scale per task", "drawn again", "KL in the reward"],
)
def test_a_run_on_several_tasks_that_was_cut_off_ends_as_one_that_was_not(tmp_path, settings):
    whole, cut = load_policy("tiny"), load_policy("tiny")
    rows = train_grpo(whole, MIXED, tmp_path / "whole", settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-3")
    again = train_grpo(cut, MIXED, tmp_path / "cut", settings)
    assert [measured(row) for row in again] == [measured(row) for row in rows]
    assert (tmp_path / "cut" / "rollouts.jsonl").read_text() == (tmp_path / "whole" / "rollouts.jsonl").read_text()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, cut.model.state_dict()[name]), name
    if settings.dynamic_sampling:
        assert sum(row["redrawn"] for row in rows) > 0
    if settings.beta:
        assert rows[-1]["kl"] > 0


def measured(row):
    return {name: value for name, value in row.items() if "time" not in name and "runtime" not in name}


def test_several_tasks_share_a_run_and_each_has_its_own_reward_and_scale(policy, tmp_path):
    rows = train_grpo(policy, MIXED, tmp_path, replace(SHORT, prompts_per_step=4, scale_rewards="task"))
    groups, moments = read_log(tmp_path / "rollouts.jsonl"), {}
    for row in rows:
        of_step = [group for group in groups if group["step"] == row["step"]]
        tasks = [group["id"].split("/")[1] for group in of_step]
        rewards = [np.mean(group["rewards"]) for group in of_step]
        paid = [(task, value) for task, group in zip(tasks, of_step, strict=True) for value in group["rewards"]]
        spreads = update_spreads(moments, [value for _, value in paid], [task for task, _ in paid])
        for task in set(tasks):
            own = [reward for reward, each in zip(rewards, tasks, strict=True) if each == task]
            assert row[f"reward/{task}"] == pytest.approx(np.mean(own), abs=1e-4)
            assert row[f"reward_spread/{task}"] == pytest.approx(spreads[task], abs=1e-4)
        for task, group, mean in zip(tasks, of_step, rewards, strict=True):
            wanted = (np.array(group["rewards"]) - mean) / (spreads[task] + 1e-4)
            assert group["advantages"] == pytest.approx(wanted, abs=2e-3)
            assert ("count" in group["parts"]) == (task == "counting")
    assert {group["id"].split("/")[1] for group in groups} == {"counting", "grounding"}


def test_a_finished_run_is_not_run_again(policy, tmp_path):
    scenes = make_scenes("grounding", 6)
    rows = train_grpo(policy, scenes, tmp_path, SHORT)
    fresh = load_policy("tiny")
    assert train_grpo(fresh, scenes, tmp_path, SHORT) == rows
    assert all(torch.equal(v, fresh.model.state_dict()[k]) for k, v in policy.model.state_dict().items())


def test_an_interrupt_stops_at_the_end_of_the_step_and_the_next_call_goes_on(policy, tmp_path):
    import os
    import signal

    class Interrupting:
        n = 0

        def update(self, steps):
            self.n += steps
            if self.n == 1:
                os.kill(os.getpid(), signal.SIGINT)

        def set_postfix(self, values):
            pass

    scenes = make_scenes("grounding", 6)
    with pytest.raises(KeyboardInterrupt, match="Stopped and saved"):
        train_grpo(policy, scenes, tmp_path, replace(SHORT, save_steps=50), bar=Interrupting())
    done = len(read_log(tmp_path / "log.jsonl"))
    assert 1 <= done < 3
    assert (tmp_path / f"checkpoint-{done}").is_dir()
    rows = train_grpo(load_policy("tiny"), scenes, tmp_path, replace(SHORT, save_steps=50))
    assert [row["step"] for row in rows] == [1, 2, 3]


def test_another_run_in_the_same_folder_is_refused(policy, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "settings.json").write_text(json.dumps({"task": "ocr"}))
    with pytest.raises(ValueError, match="holds a run of an earlier version of the kit"):
        train_grpo(policy, make_scenes("grounding", 2), tmp_path / "old", SHORT)
    one = replace(SHORT, steps=1)
    train_grpo(policy, make_scenes("grounding", 2), tmp_path / "run", one)
    with pytest.raises(ValueError, match=r"holds a run with other settings \(temperature was 1.0, is 0.5\)"):
        train_grpo(policy, make_scenes("grounding", 2), tmp_path / "run", replace(one, temperature=0.5))


def speaks_up(answer, target, options):
    return RewardResult(float(len(answer.boxes) > 1), {"boxes": float(len(answer.boxes))})


def test_a_recipe_of_ones_own_pays_a_run_and_a_mended_one_is_another_run(policy, tmp_path):
    scenes = make_scenes("counting", 6)
    rows = train_grpo(policy, scenes, tmp_path, SHORT, recipe=speaks_up)
    for group in read_log(tmp_path / "rollouts.jsonl"):
        assert [float(boxes > 1) for boxes in group["parts"]["boxes"]] == group["rewards"]
    assert all(row["reward/boxes"] > 0 for row in rows)
    assert train_grpo(policy, scenes, tmp_path, SHORT, recipe=speaks_up) == rows
    assert RewardExplorer.from_run(tmp_path).recipe == "kit"

    def mended(answer, target, options):
        return RewardResult(float(len(answer.boxes) > 2), {"boxes": float(len(answer.boxes))})

    mended.__name__ = "speaks_up"
    with pytest.raises(ValueError, match=r"other settings .*recipe was 'speaks_up"):
        train_grpo(policy, scenes, tmp_path, SHORT, recipe=mended)


def test_data_are_checked_before_training(policy, tmp_path):
    scenes = make_scenes("grounding", 4)
    mixed = [*scenes, *make_scenes("ocr", 1)]
    with pytest.raises(ValueError, match="takes one task, these samples hold grounding, ocr"):
        train_rloo(policy, mixed, tmp_path, SHORT)
    with pytest.raises(ValueError, match="no samples"):
        to_dataset([], policy)
    with pytest.raises(ValueError, match="no samples"):
        train_grpo(policy, [], tmp_path, SHORT)
    data = to_dataset(scenes, policy).remove_columns("boxes")
    arguments = {"args": SHORT.config(tmp_path), "reward_funcs": reward_function("grounding")}
    with pytest.raises(ValueError, match=r"lack the column .*boxes: they have prompt, image"):
        PerceptionGRPOTrainer(policy.model, train_dataset=data, processing_class=policy.processor, **arguments)
    policy.processor.tokenizer.padding_side = "right"
    with pytest.raises(ValueError, match="pads on the right"):
        PerceptionGRPOTrainer(
            policy.model, train_dataset=to_dataset(scenes, policy), processing_class=policy.processor, **arguments
        )


def test_a_box_outside_its_image_is_named_before_training(policy):
    scene = make_scenes("grounding", 1)[0]
    outside = replace(scene, target=Target(boxes=[[400, 10, 500, 60]], labels=[scene.question]))
    with pytest.raises(ValueError, match=rf"Sample '{scene.id}': Target box .* lies outside its image of 64x64 pixels"):
        to_dataset([outside], policy)
    stale = replace(scene, target=replace(scene.target, image_size=(640, 480)))
    with pytest.raises(ValueError, match=r"the image has .64, 64. pixels, its target says .640, 480"):
        to_dataset([stale], policy)


def test_a_missing_image_is_named_before_training(policy, tmp_path):
    scenes = make_scenes("grounding", 2)
    scenes[1] = replace(scenes[1], image=str(tmp_path / "gone.png"))
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        train_grpo(policy, scenes, tmp_path / "run", SHORT)


def test_advantages_of_a_group_sum_to_zero_and_equal_rewards_have_none():
    rewards = np.random.default_rng(0).random((20, 8))
    assert np.allclose(group_advantages(rewards).sum(-1), 0)
    assert np.allclose(group_advantages(rewards).std(-1, ddof=1), 1, atol=1e-2)
    assert (group_advantages(np.full((3, 8), 0.7)) == 0).all()


def test_tokens_and_pixels_are_the_same_for_trl_and_for_generate_completions(policy, tmp_path, monkeypatch):
    scene, seen = make_scenes("counting", 1)[0], []
    generate = type(policy.model).generate

    def watched(self, **inputs):
        seen.append({name: inputs[name][:1] for name in ("input_ids", "image_grid_thw", "mm_token_type_ids")})
        seen[-1]["pixel_values"] = inputs["pixel_values"][: int(inputs["image_grid_thw"][0].prod())]
        return generate(self, **inputs)

    monkeypatch.setattr(type(policy.model), "generate", watched)
    generate_completions(policy, [scene], num_generations=2, max_new_tokens=4)
    for shared in (True, False):
        trainer = make_trainer(policy, [scene], tmp_path, shared_prefix=shared)
        trainer.model.train()
        trainer._prepare_inputs([trainer.train_dataset[0]] * 4)
    ours, *trls = seen
    assert len(trls) == 2
    for theirs in trls:
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name


def make_trainer(policy, scenes, folder, *, settings=None, reward=None, **options):
    settings = settings or replace(SHORT, prompts_per_step=1, micro_prompts=1)
    return PerceptionGRPOTrainer(
        model=policy.model,
        reward_funcs=reward or reward_function(scenes[0].task),
        args=settings.config(folder),
        train_dataset=to_dataset(scenes, policy),
        processing_class=policy.processor,
        **options,
    )


def test_grpo_raises_the_reward_of_a_bandit(tmp_path):
    """Random weights, one token to choose, paid for a letter: after a few steps it is chosen far more often."""
    processor = build_processor()
    build_model(processor, 0).save_pretrained(tmp_path / "policy")
    processor.save_pretrained(tmp_path / "policy")
    policy = load_policy(str(tmp_path / "policy"), verbose=False)

    def letters(completions, **_):
        return [float(c[0]["content"].strip()[:1].isalpha()) for c in completions]

    settings = replace(TINY, steps=15, prompts_per_step=2, micro_prompts=2, num_generations=8, learning_rate=3e-3)
    settings = replace(settings, max_completion_length=1, save_steps=100)
    trainer = make_trainer(policy, make_scenes("grounding", 8), tmp_path, settings=settings, reward=letters)
    trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:3]) + 0.2, rewards


def test_a_group_decodes_its_image_once(policy, monkeypatch):
    scenes, decoded = make_scenes("grounding", 3), []
    data = to_dataset(scenes, policy)
    load = type(scenes[0]).load_image
    monkeypatch.setattr(type(scenes[0]), "load_image", lambda self: decoded.append(self.id) or load(self))
    rows = data.__getitems__([0, 0, 0, 0, 2, 2, 2, 2])  # as a data loader asks for a batch
    assert decoded == [scenes[0].id, scenes[2].id]
    assert all(row["image"] is rows[0]["image"] for row in rows[:4])


def test_a_random_policy_runs_too_and_starts_at_its_own_reference(tmp_path):
    processor = build_processor()
    build_model(processor, 0).save_pretrained(tmp_path / "policy")
    processor.save_pretrained(tmp_path / "policy")
    policy = load_policy(str(tmp_path / "policy"))
    settings = replace(SHORT, steps=1, beta=0.04)
    rows = train_grpo(policy, make_scenes("detection", 6), tmp_path / "run", settings)
    assert rows[0]["reward"] < 0.2
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("estimator", ["k1", "kimi"])
def test_another_kl_estimator_replaces_trls_in_value_and_gradient(policy, tmp_path, estimator):
    settings = replace(SHORT, beta=0.5, kl_estimator=estimator, steps=1)
    trainer = PerceptionGRPOTrainer(
        model=policy.model,
        reward_funcs=reward_function("counting"),
        args=settings.config(tmp_path),
        train_dataset=to_dataset(make_scenes("counting", 4), policy),
        processing_class=policy.processor,
        kl_estimator=estimator,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    batch["ref_per_token_logps"] = batch["ref_per_token_logps"] - 0.3
    batch["advantages"] = torch.zeros_like(batch["advantages"])  # the KL term alone is left
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(0.5 * {"k1": 0.3, "kimi": 0.3**2 / 2}[estimator], abs=1e-4)
    mask = batch["completion_mask"]
    slope = torch.autograd.grad(loss, trainer._logps)[0] * mask.sum(1, keepdim=True) * len(mask) / 0.5
    assert slope[mask.bool()] == pytest.approx({"k1": 1.0, "kimi": 0.3}[estimator], abs=1e-4)


def test_an_unknown_kl_estimator_or_a_loss_it_does_not_fit_is_refused(policy, tmp_path):
    kinds = {"model": policy.model, "reward_funcs": reward_function("counting"), "processing_class": policy.processor}
    kinds["train_dataset"] = to_dataset(make_scenes("counting", 4), policy)
    with pytest.raises(ValueError, match="Unknown KL estimator 'k4': choose one of k3, k1, kimi, k1 in the reward"):
        PerceptionGRPOTrainer(args=SHORT.config(tmp_path), kl_estimator="k4", **kinds)
    with pytest.raises(ValueError, match="needs loss_type"):
        PerceptionGRPOTrainer(args=replace(SHORT, loss_type="dapo").config(tmp_path), kl_estimator="k1", **kinds)


def test_a_kl_in_the_reward_is_taken_off_before_answers_are_compared(policy, tmp_path):
    settings = replace(SHORT, beta=0.5, kl_estimator="k1 in the reward", scale_rewards="none")
    far = {name: value * 1.05 for name, value in policy.model.state_dict().items()}
    trainer = make_trainer(policy, make_scenes("counting", 4), tmp_path, settings=settings, reference=far,
                           kl_estimator=settings.kl_estimator)  # fmt: skip
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer.draw(next(iter(trainer.get_train_dataloader())))
    tokens, seen = (torch.cat([batch[f"prompt_{k}"], batch[f"completion_{k}"]], 1) for k in ("ids", "mask"))
    trainer._group_of_row, rows = None, range(len(tokens))  # TRL's own path, and an image for each row
    images = {"pixel_values": batch["pixel_values"], "image_grid_thw": batch["image_grid_thw"]}
    patches = [int(grid.prod()) for grid in batch["image_grid_thw"]]
    per_row = [row // 4 for row in rows]
    images["pixel_values"] = torch.cat([batch["pixel_values"].split(patches)[i] for i in per_row])
    images["image_grid_thw"] = batch["image_grid_thw"][per_row]
    images |= {"num_images": [1] * len(tokens), "mm_token_type_ids": batch["mm_token_type_ids"]}
    with torch.no_grad():
        logps, of_reference = (
            GRPOTrainer._get_per_token_logps_and_entropies(
                trainer, model, tokens, seen, batch["completion_ids"].shape[1], **images
            )[0]
            for model in (trainer.model, trainer.ref_model)
        )
    kl = ((logps - of_reference) * batch["completion_mask"]).sum(1)
    assert kl.abs().max() > 0.05
    wanted = (torch.tensor(trainer.drawn_rewards) - 0.5 * kl).view(-1, 4)
    wanted = (wanted - wanted.mean(1, keepdim=True)).flatten()
    assert batch["advantages"] == pytest.approx(wanted, abs=1e-3)
    assert list(trainer._logs["advantages"]) == pytest.approx(wanted.tolist(), abs=1e-3)
    batch["advantages"] = torch.zeros_like(batch["advantages"])
    trainer._group_of_row = per_row
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(0, abs=1e-6)  # and not in the loss too


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_trls_where_trl_has_them(policy, tmp_path, scale):
    settings = replace(SHORT, scale_rewards=scale)
    trainer = make_trainer(policy, make_scenes("counting", 4), tmp_path, settings=settings)
    trainer.model.train()
    batch = trainer.draw(next(iter(trainer.get_train_dataloader())))
    ours = scaled_advantages(torch.tensor(trainer.drawn_rewards), 4, scale)
    assert batch["advantages"] == pytest.approx(ours, abs=1e-5)
    assert ours.abs().max() > 0.1


def test_groups_without_a_spread_are_drawn_again_from_other_prompts(policy, tmp_path):
    scenes = make_scenes("grounding", 16)
    dull, drawn = {scene.id for scene in scenes[:8]}, []

    def reward(completions, id, **_):
        drawn.extend(id)
        return [0.5 if each in dull else i % 2 for i, each in enumerate(id)]

    settings = replace(SHORT, prompts_per_step=6, micro_prompts=6)
    trainer = make_trainer(policy, scenes, tmp_path, settings=settings, reward=reward, dynamic_sampling=4,
                           rollout_log=tmp_path / "rollouts.jsonl")  # fmt: skip
    trainer.model.train()
    batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    metrics = trainer._metrics["train"]
    first = [drawn[i] for i in range(0, 24, 4)]
    assert metrics["redrawn"] == [len(drawn) // 4 - 6]
    assert 0 < sum(each in dull for each in first) <= metrics["redrawn"][0]
    assert metrics["without_spread"] == [0]
    assert metrics["frac_reward_zero_std"] == [pytest.approx(np.mean([each in dull for each in first]))]
    assert len(metrics["reward"]) == len(metrics["completions/mean_length"]) == 1  # of the first draw
    assert (batch["advantages"].view(6, 4).abs() > 0.5).all()
    assert batch["num_items_in_batch"] == batch["completion_mask"].sum()
    groups = read_log(tmp_path / "rollouts.jsonl")
    assert [group["id"] for group in groups] == drawn[::4]
    # each group that is trained on is one that was drawn, with its own picture
    rows = zip(batch["completion_ids"], batch["completion_mask"].bool(), strict=True)
    answers = [tokens[mask].tolist() for tokens, mask in rows]
    kept = [next(g["id"] for g in groups if g["token_ids"] == answers[i : i + 4]) for i in range(0, 24, 4)]
    assert not dull & set(kept)
    pictures = [scene.load_image() for each in kept for scene in scenes if scene.id == each]
    seen = policy.processor.image_processor(images=pictures, return_tensors="pt")
    assert torch.equal(batch["image_grid_thw"], seen["image_grid_thw"])
    assert torch.equal(batch["pixel_values"], seen["pixel_values"])


def test_redraws_are_bounded_and_a_batch_without_any_spread_teaches_nothing(policy, tmp_path):
    def reward(completions, **_):
        return [0.7] * len(completions)

    trainer = make_trainer(policy, make_scenes("grounding", 8), tmp_path, settings=SHORT, reward=reward,
                           dynamic_sampling=3)  # fmt: skip
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    assert trainer._metrics["train"]["redrawn"] == [2 * 3]
    assert trainer._metrics["train"]["without_spread"] == [2]
    loss = trainer.compute_loss(trainer.model, batch)
    assert all(slope.abs().max() < 1e-6 for slope in torch.autograd.grad(loss, trained(policy)))
    trainer.shared_prefix = False  # as where the first group tells that sharing would be wrong
    redraw(trainer, batch)
    assert trainer._metrics["train"]["redrawn"] == [2 * 3, 0]


def trained(policy):
    return [value for value in policy.model.parameters() if value.requires_grad]


def test_gspo_has_one_ratio_for_an_answer_and_on_its_own_answers_the_gradient_of_grpo(policy, tmp_path):
    slopes = {}
    for level in ("token", "sequence"):
        settings = replace(SHORT, importance_sampling=level)
        trainer = make_trainer(policy, make_scenes("counting", 4), tmp_path / level, settings=settings)
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        torch.manual_seed(0)
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        slopes[level] = torch.autograd.grad(trainer.compute_loss(trainer.model, batch), trained(policy))
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(*slopes.values(), strict=True))
    assert max(slope.abs().max() for slope in slopes["token"]) > 1e-3
    with torch.no_grad():
        tokens, seen = (torch.cat([batch[f"prompt_{k}"], batch[f"completion_{k}"]], 1) for k in ("ids", "mask"))
        fields = {name: batch[name] for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")}
        logps = trainer._get_per_token_logps_and_entropies(
            trainer.model, tokens, seen, batch["completion_ids"].shape[1], **fields
        )[0]
    mask = batch["completion_mask"]
    moved = torch.randn(logps.shape, generator=torch.Generator().manual_seed(0)) * mask
    ratio = ((moved * mask).sum(1) / mask.sum(1)).exp()
    assert ((ratio - 1).abs() > 0.2).any()  # clipped
    batch["old_per_token_logps"] = logps - moved
    worth = torch.minimum(ratio * batch["advantages"], ratio.clamp(0.8, 1.2) * batch["advantages"])
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(-worth.mean().item(), abs=1e-4)


def test_options_of_a_draw_are_checked_at_the_door(policy, tmp_path):
    with pytest.raises(ValueError, match="importance_sampling is token or sequence, got 'answer'"):
        replace(SHORT, importance_sampling="answer")
    with pytest.raises(ValueError, match="number of draws from 0 on, got -1"):
        replace(SHORT, dynamic_sampling=-1)
    config = replace(SHORT, scale_rewards="task", importance_sampling="sequence").config(tmp_path)
    assert (config.scale_rewards, config.importance_sampling_level) == ("none", "sequence")
    kinds = {"model": policy.model, "processing_class": policy.processor, "scale_per_task": True}
    kinds["train_dataset"] = to_dataset(make_scenes("counting", 4), policy)
    stream = Dataset.from_dict(kinds["train_dataset"][:2]).to_iterable_dataset()
    with pytest.raises(ValueError, match="needs one process and a dataset with a length"):
        PerceptionGRPOTrainer(args=SHORT.config(tmp_path), reward_funcs=reward_function("counting"),
                              dynamic_sampling=1, **kinds | {"train_dataset": stream})  # fmt: skip
    options = SHORT.config(tmp_path, multi_objective_aggregation="normalize_then_sum")
    with pytest.raises(ValueError, match="need multi_objective_aggregation"):
        PerceptionGRPOTrainer(args=options, reward_funcs=[reward_function("counting")] * 2, **kinds)
