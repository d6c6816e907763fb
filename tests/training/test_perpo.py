"""Learning from ranked answers: candidates made, read and selected; runs logged, resumed, shared and refused."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pr1kit import (
    Candidates,
    export_adapter,
    load_policy,
    make_candidates,
    make_scenes,
    read_candidates,
    save_candidates,
    select_candidates,
    train_grpo,
    train_perpo,
)
from pr1kit.data.durable_files import read_log
from pr1kit.models.memory import estimate_run
from pr1kit.training import candidates as module
from pr1kit.training.grpo_settings import PAPER, TINY
from pr1kit.training.perpo import PreferenceTrainer, estimate_perpo
from pr1kit.training.preference_settings import TINY_PERPO, PerPOSettings
from pr1kit.training.shared_prefix.logprobs import row_logprobs
from pr1kit.training.weights import trained_weights, weights_fingerprint

RUN = replace(TINY_PERPO, prompts_per_step=2, min_gap=0.0, save_steps=1)


@pytest.fixture
def load(small_policies):
    return lambda kind="qwen2_5_vl", **options: load_policy(small_policies[kind], verbose=False, **options)


def drawn(policy, n=6, answers=5, seed=0, task="grounding"):
    """Candidates without sampling: random digits and rewards, of different lengths."""
    rng, lists = np.random.default_rng(seed), []
    words = policy.processor.tokenizer.convert_tokens_to_ids(["a", "b", "0", "1", "2"])
    for scene in make_scenes(task, n, seed):
        tokens = [[*rng.choice(words, rng.integers(1, 9)).tolist(), 0] for _ in range(answers)]
        texts = policy.processor.batch_decode(tokens, skip_special_tokens=True)
        lists.append(Candidates(scene, texts, rng.random(answers).round(3).tolist(), tokens))
    return lists


def same(weights, policy):
    now = trained_weights(policy.model)
    return weights.keys() == now.keys() and all(torch.equal(value, now[name]) for name, value in weights.items())


# Candidates


def test_candidates_are_sampled_scored_and_gone_on_with(tmp_path, monkeypatch):
    policy, scenes = load_policy("tiny"), make_scenes("grounding", 5, 3)
    options = {"max_new_tokens": 40, "seed": 2}
    whole = make_candidates(policy, scenes, 4, **options)
    for scene, each in zip(scenes, whole, strict=True):
        assert each.sample is scene
        assert len(each.completions) == len(each.rewards) == len(each.token_ids) == 4
        assert policy.processor.batch_decode(each.token_ids, skip_special_tokens=True) == each.completions
        assert each.written_by.startswith(f"tiny ({weights_fingerprint(policy.model)}), max_new_tokens 40, recipe kit")
        ended = [ids[-1] == policy.model.generation_config.eos_token_id for ids in each.token_ids]
        assert all(done or len(ids) == 40 for done, ids in zip(ended, each.token_ids, strict=True))
    monkeypatch.setattr(module, "AT_ONCE", 2)
    path = tmp_path / "kept.jsonl"
    make_candidates(policy, scenes[:2], 4, path=path, **options)
    with path.open("a") as file:
        file.write('{"id": "torn')
    parts = make_candidates(policy, scenes, 4, path=path, **options)
    assert [each.completions for each in parts] == [each.completions for each in whole]
    monkeypatch.setattr(module, "sample_rollouts", lambda *a, **k: pytest.fail("sampled again"))
    again = make_candidates(policy, scenes, 4, path=path, **options)
    assert [each.rewards for each in again] == [each.rewards for each in whole]
    with pytest.raises(ValueError, match=r"holds other candidates \(tiny .* seed 2.*\): choose another file"):
        make_candidates(policy, scenes, 4, path=path, max_new_tokens=40, seed=3)
    with pytest.raises(ValueError, match="sample at least two, got 1"):
        make_candidates(policy, scenes, 1)


def test_the_truth_is_a_candidate_only_where_it_is_asked_for():
    policy, scenes = load_policy("tiny"), make_scenes("detection", 2, 3)
    for scene, each in zip(scenes, make_candidates(policy, scenes, 2, truth=True, max_new_tokens=20), strict=True):
        assert len(each.rewards) == 3
        assert each.rewards[-1] == 1.0
        assert f'"label": "{scene.target.labels[0]}"' in each.completions[-1]


def test_lists_are_kept_by_their_gap_and_what_is_dropped_is_counted(load):
    scene, policy = make_scenes("ocr", 1)[0], load()
    lists = [
        Candidates(scene, [""] * len(r), r, [[1]] * len(r))
        for r in ([0.1, 0.9], [0.5], [0.3, 0.3], [0.1, 0.89], [0.2, 0.5, 1.0])
    ]
    kept, counts = select_candidates(lists, min_gap=0.8)
    assert [each.rewards for each in kept] == [[0.1, 0.9], [0.2, 0.5, 1.0]]
    assert counts == {"kept": 2, "one answer": 1, "equal rewards": 1, "best - worst below 0.8": 1}
    rewards = [0.0, 0.01, 0.02, 1.0, 0.5, 0.03, 0.98]
    (few,), _ = select_candidates([Candidates(scene, [*"abcdefg"], rewards, [[i] for i in range(7)])], n=3)
    assert (few.rewards, few.completions, few.token_ids) == ([0.0, 1.0, 0.5], ["a", "d", "e"], [[0], [3], [4]])
    with pytest.raises(ValueError, match=r"None of 3 lists .* \(one answer: 1, equal rewards: 1, best - worst below"):
        train_perpo(policy, lists[1:4], "never", PerPOSettings())
    with pytest.raises(ValueError, match="None of 0 lists"):
        train_perpo(policy, [], "never", PerPOSettings())


def test_a_file_gives_back_what_was_saved_and_texts_are_tokenized(load, tmp_path):
    policy = load()
    lists = drawn(policy, 3)
    lists[1] = replace(lists[1], reference=[-1.5] * 5, reference_weights="abc", written_by="me")
    again = read_candidates(save_candidates(policy, lists, tmp_path / "a.jsonl"), policy)
    for one, other in zip(lists, again, strict=True):
        assert one.sample.id == other.sample.id
        for name in ("completions", "rewards", "token_ids", "reference", "reference_weights", "written_by"):
            assert getattr(one, name) == getattr(other, name), name
    row = {"id": lists[0].sample.id, "completions": ["a(1,2)<|box_end|>", "b"], "rewards": [1, 0]}
    (tmp_path / "b.jsonl").write_text(json.dumps(row))
    (read,) = read_candidates(tmp_path / "b.jsonl", policy, [lists[0].sample])
    assert policy.processor.batch_decode(read.token_ids) == ["a(1,2)<|box_end|><|im_end|>", "b<|im_end|>"]


def test_candidates_that_do_not_belong_here_are_one_sentence(load, tmp_path):
    policy = load()
    (each,) = drawn(policy, 1)
    line = json.loads(save_candidates(policy, [each], tmp_path / "a.jsonl").read_text())

    def said(**changes):
        row = {name: value for name, value in (line | changes).items() if value is not ...}
        (tmp_path / "b.jsonl").write_text("\n" + json.dumps(row) + "\n")
        with pytest.raises(ValueError, match=r"Line 1 of|Line 2 of") as error:
            read_candidates(tmp_path / "b.jsonl", policy, [each.sample])
        assert str(error.value).count("\n") == 0
        return str(error.value)

    assert "Candidates of 'scenes/grounding/train/0/0': answer 1 has the reward nan" in said(
        rewards=[0.1, float("nan"), 0.2, 0.3, 0.4]
    )
    assert "answer 4 has the reward None" in said(rewards=[0.1, 0.2, 0.2, 0.3, None])
    assert "as many rewards as answers" in said(rewards=[0.1])
    assert "answer 'Where is Paul?', the sample asks 'Output the bounding box" in said(prompt="Where is Paul?")
    assert "are in the frame norm1000, the policy's is (64, 64)" in said(frame="norm1000")
    assert "say other words than its completions: another tokenizer's?" in said(token_ids=[[5]] * 5)
    assert "no sample has the id 'other'" in said(id="other")
    assert "it has no 'rewards'" in said(rewards=...)
    assert "a GRPO log of an earlier version, which kept no token_ids" in said(token_ids=..., advantages=[0] * 5)
    (tmp_path / "b.jsonl").write_text("nonsense\n\n")
    with pytest.raises(ValueError, match=r"Line 1 of .* is no JSON"):
        read_candidates(tmp_path / "b.jsonl", policy)
    with pytest.raises(FileNotFoundError, match=r"There are no candidates .*gone"):
        read_candidates(tmp_path / "gone", policy)
    other = replace(each.sample, question="another")
    with pytest.raises(ValueError, match="Two samples have the id"):
        read_candidates(tmp_path / "a.jsonl", policy, [each.sample, other])
    with pytest.raises(ValueError, match="an answer has no token"):
        replace(each, token_ids=[[], *each.token_ids[1:]])


def test_the_rollouts_of_a_grpo_run_are_candidates(load, tmp_path):
    policy, scenes = load(), make_scenes("ocr", 4)
    settings = replace(TINY, steps=2, prompts_per_step=2, micro_prompts=2, num_generations=4, max_completion_length=12)
    train_grpo(policy, scenes, tmp_path / "run", settings)
    lists = read_candidates(tmp_path / "run", policy)
    logged = read_log(tmp_path / "run" / "rollouts.jsonl")
    assert [each.rewards for each in lists] == [row["rewards"] for row in logged]
    assert [each.written_by for each in lists] == ["run, step 1"] * 2 + ["run, step 2"] * 2
    assert [each.sample.id for each in read_candidates(tmp_path / "run", policy, scenes, steps=(2, 2))] == [
        row["id"] for row in logged[2:]
    ]
    with pytest.raises(ValueError, match=r"Line 1 of .* are in the frame \[64, 64\], the policy's is norm1000"):
        read_candidates(tmp_path / "run", load("qwen2_vl"))  # which writes boxes otherwise
    # what the run sampled at its first step are answers of its start: their log-probabilities are those of its rollout
    start = load()
    inputs = PreferenceTrainer._collate(_holder(start), lists[:1])
    with torch.no_grad():
        assert torch.isfinite(row_logprobs(start.model, inputs["prompt"], inputs["answers"])).all()


def _holder(policy):
    return type("Holder", (), {"policy": policy, "settings": RUN})()


# Packed lists


@pytest.mark.parametrize("lora", [None, {"r": 4, "vision": True}])
@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_packed_list_has_the_loss_and_the_gradient_of_a_row_for_each_answer(load, tmp_path, kind, lora, recwarn):
    ends = []
    for shared in (True, False):
        torch.manual_seed(0)
        policy = load(kind, lora=lora)
        settings = replace(RUN, shared_prefix=shared)
        lists = drawn(policy, 1)
        trainer = PreferenceTrainer(policy, lists, settings, tmp_path / str(shared), args=settings.config(tmp_path))
        assert trainer._shared == shared
        with torch.no_grad():  # away from the reference
            for parameter in policy.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.02)
        loss = trainer.compute_loss(policy.model, trainer._prepare_inputs(trainer._collate(trainer.train_dataset)))
        loss.backward()
        gradients = {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}
        ends.append((loss.item(), trainer.train_dataset[0].reference, gradients))
    (loss, reference, gradients), (other_loss, other_reference, others) = ends
    assert loss == pytest.approx(other_loss, abs=1e-5)
    assert abs(loss - np.log(2)) > 1e-4
    assert reference == pytest.approx(other_reference, abs=1e-3)
    assert gradients.keys() == others.keys()
    for name, value in gradients.items():
        assert (value - others[name]).norm() <= 2e-3 * others[name].norm() + 1e-6, name
    assert not [w for w in recwarn if "Shared prefix is off" in str(w.message)]


def test_a_model_that_cannot_share_says_so_and_trains(load, tmp_path):
    policy = load("qwen3_5")
    with pytest.warns(UserWarning, match="Shared prefix is off: .* linear attention"):
        rows = train_perpo(policy, drawn(policy, 2), tmp_path, RUN)
    assert np.isfinite(rows[0]["loss"])


# Runs


@pytest.mark.parametrize("method", ["perpo", "best_of_n"])
def test_a_run_learns_and_ends_as_one_that_was_cut_off(load, tmp_path, method):
    settings = replace(RUN, method=method, steps=9, learning_rate=1e-3)
    policy = load()
    lists = drawn(policy)
    rows = train_perpo(policy, lists, tmp_path / "whole", settings)
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert rows[-1]["loss"] < rows[0]["loss"]
    if method == "perpo":
        assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
        assert rows[0]["margin"] == pytest.approx(0, abs=1e-4)
        assert rows[-1]["accuracy"] > 0.6
        assert rows[-1]["margin"] > 0.1
    known = json.loads((tmp_path / "whole" / "settings.json").read_text())
    assert known["lists"] == {"kept": 6}
    assert known["method"] == method
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-9")
    (tmp_path / "cut" / "finished.json").unlink()
    other = load()
    again = train_perpo(other, lists, tmp_path / "cut", settings)
    assert [row["loss"] for row in again] == [row["loss"] for row in rows]
    assert same(trained_weights(policy.model), other)
    third = load()
    train_perpo(third, lists, tmp_path / "whole", settings)  # finished: read, not trained
    assert same(trained_weights(policy.model), third)
    with pytest.raises(ValueError, match=r"candidates was '.*', is '"):
        train_perpo(
            load(), [replace(lists[0], rewards=[0.1, 0.2, 0.3, 0.4, 0.5]), *lists[1:]], tmp_path / "cut", settings
        )


def test_one_pass_over_the_kept_lists_is_the_default(load, tmp_path):
    policy = load()
    assert len(train_perpo(policy, drawn(policy, 5), tmp_path, RUN)) == 3


def test_the_reference_is_computed_once_and_is_the_policy_at_the_start(load, tmp_path, monkeypatch):
    policy = load()
    lists = drawn(policy, 2)
    train_perpo(policy, lists, tmp_path / "a", replace(RUN, steps=2, learning_rate=1e-2))
    kept = read_candidates(tmp_path / "a", load())
    start = load()
    for each in kept:
        assert each.reference_weights == weights_fingerprint(start.model)
        inputs = PreferenceTrainer._collate(_holder(start), [each])
        with torch.no_grad():
            found = row_logprobs(start.model, inputs["prompt"], inputs["answers"]).sum(1)
        assert each.reference == pytest.approx(found.tolist(), abs=1e-3)
    monkeypatch.setattr(PreferenceTrainer, "_logps_of", _once(PreferenceTrainer._logps_of))
    train_perpo(start, kept, tmp_path / "b", replace(RUN, method="lipo"))  # with another loss: the same reference
    shutil.rmtree(tmp_path / "a" / "checkpoint-2")
    train_perpo(load(), lists, tmp_path / "a", replace(RUN, steps=2, learning_rate=1e-2))
    with pytest.raises(AssertionError, match="computed again"):  # other weights: not theirs
        train_perpo(policy, kept, tmp_path / "c", RUN)


def _once(real):
    """Two answers at the door are compared both ways; a whole list is never asked."""

    def logps_of(self, candidates):
        assert len(candidates.rewards) == 2, "computed again"
        return real(self, candidates)

    return logps_of


def test_with_adapters_the_reference_is_the_adapter_off_or_as_it_was_loaded(load, tmp_path):
    torch.manual_seed(0)
    policy = load(lora={"r": 4, "dropout": 0.1})
    lists = drawn(policy, 2)
    settings = replace(RUN, steps=3, learning_rate=1e-2, gradient_checkpointing=True)
    train_perpo(policy, lists, tmp_path / "a", settings)
    kept = read_candidates(tmp_path / "a" / "candidates.jsonl", policy)
    inputs = PreferenceTrainer._collate(_holder(policy), kept[:1])

    def now(some):
        some.model.eval()
        with torch.no_grad():
            return row_logprobs(some.model, inputs["prompt"], inputs["answers"]).sum(1).tolist()

    with policy.model.disable_adapter():
        assert kept[0].reference == pytest.approx(now(policy), abs=1e-3)
    assert kept[0].reference != pytest.approx(now(policy), abs=1e-1)
    again = load_policy(str(export_adapter(policy, tmp_path / "adapter")), verbose=False)
    train_perpo(again, lists, tmp_path / "b", replace(settings, steps=1, learning_rate=0.0))
    (second, _) = read_candidates(tmp_path / "b" / "candidates.jsonl", policy)
    assert second.reference == pytest.approx(now(policy), abs=1e-3)


def test_the_vision_tower_has_a_learning_rate_of_its_own(load, tmp_path):
    policy = load(lora={"r": 2, "vision": True})
    settings = replace(RUN, vision_learning_rate=1e-7, steps=1)
    args = settings.config(tmp_path)
    trainer = PreferenceTrainer(policy, drawn(policy, 1), settings, tmp_path, args=args)
    groups = trainer.create_optimizer().param_groups
    names = {id(p): name for name, p in policy.model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert rates.keys() == {name for name, p in policy.model.named_parameters() if p.requires_grad}
    assert {rate for name, rate in rates.items() if "visual.blocks" in name} == {1e-7}
    assert {rate for name, rate in rates.items() if "visual.blocks" not in name} == {RUN.learning_rate}


def test_ranked_answers_need_no_memory_for_rollouts_or_a_second_model():
    policy = load_policy("tiny")
    same = {"optim": PAPER.optim, "num_candidates": PAPER.num_generations, "gradient_checkpointing": True}
    ours = estimate_perpo(policy, replace(TINY_PERPO, **same, max_completion_length=PAPER.max_completion_length))
    grpo = estimate_run(policy, PAPER)
    assert ours.reference == 0 < grpo.reference
    assert ours.cache < grpo.cache
    assert ours.total < grpo.total
    assert ours.activations == grpo.activations


STARVED = """
import resource, sys
sys.path.insert(0, "tests/training")
import torch
from test_perpo import RUN, drawn
from pr1kit import load_policy, train_perpo
from dataclasses import replace
policy = load_policy("tiny", verbose=False)
lists = [replace(each, token_ids=[ids * 20_000 for ids in each.token_ids]) for each in drawn(policy, 1)]
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**30, held + 2**30))
try:
    train_perpo(policy, lists, sys.argv[1], RUN)
except MemoryError as error:
    print(error)
"""


def test_a_list_longer_than_memory_is_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STARVED, tmp_path], capture_output=True, text=True, timeout=600, env={**os.environ}
    )
    assert "The memory was not enough; " in done.stdout, done.stderr[-2000:]
    assert "has no checkpoint yet. In this order: gradient_checkpointing=True" in done.stdout
    assert "then lower num_candidates" in done.stdout


SHARED = """
import sys
sys.path.insert(0, "tests/training")
from test_perpo import RUN, drawn
from pr1kit import export_adapter, load_policy, train_perpo
from dataclasses import replace
import torch
torch.manual_seed(0)
policy = load_policy(sys.argv[1], lora={"r": 4}, verbose=False)
settings = replace(RUN, steps=3, learning_rate=1.0, optim="sgd")
train_perpo(policy, drawn(policy), sys.argv[2], settings)
"""


def test_two_processes_train_what_one_does(small_policies, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SHARED)
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    for name, launcher in (("one", []), ("two", launch)):
        done = subprocess.run(
            [sys.executable, *launcher, script, small_policies["qwen2_5_vl"], tmp_path / name],
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
            timeout=600,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = ([row for row in read_log(tmp_path / name / "log.jsonl")] for name in ("one", "two"))
    for name in ("loss", "margin", "log_ratio"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], abs=1e-4), name
    assert one[-1]["loss"] != pytest.approx(one[0]["loss"], abs=1e-3)
    ends = [load_file(tmp_path / name / "checkpoint-3" / "adapter_model.safetensors") for name in ("one", "two")]
    for name, value in ends[0].items():
        assert (ends[1][name] - value).norm() <= 1e-3 * value.norm() + 1e-6, name
