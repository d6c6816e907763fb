"""Nothing lost, nothing mistaken: a run goes on where it was, or says what is not as it was."""

import json
import resource
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from pr1kit import export_adapter, load_policy, make_scenes, train_sft
from pr1kit.data.durable_files import read_log
from pr1kit.data.run_folder import RunFolder
from pr1kit.data.sample import Sample, Target
from pr1kit.training import resumable_run
from pr1kit.training.curriculum import Stage, train_curriculum
from pr1kit.training.grpo import train_grpo
from pr1kit.training.grpo_settings import TINY
from pr1kit.training.sft import TINY_SFT
from pr1kit.training.weights import trained_weights, weights_fingerprint

RUN = replace(TINY, steps=3, prompts_per_step=2, micro_prompts=2, num_generations=4, max_completion_length=8)


@pytest.fixture
def load(small_policies):
    """Loads the small Qwen2.5-VL policy anew."""
    return lambda **options: load_policy(small_policies["qwen2_5_vl"], verbose=False, **options)


@pytest.fixture(scope="module")
def finished(small_policies, tmp_path_factory):
    """A finished run of three steps on pictures in files: `(folder, samples, rows, weights)`."""
    home = tmp_path_factory.mktemp("finished")
    samples = []
    for i, scene in enumerate(make_scenes("grounding", 6)):
        scene.load_image().save(home / f"{i}.png")
        samples.append(replace(scene, image=str(home / f"{i}.png")))
    policy = load_policy(small_policies["qwen2_5_vl"], verbose=False)
    rows = train_grpo(policy, samples, home / "run", RUN)
    return home, samples, rows, trained_weights(policy.model)


@pytest.fixture
def copied(finished, tmp_path):
    """That run in a place of its own, cut off in its last step: `(folder, samples, rows, weights)`."""
    home, samples, rows, weights = finished
    shutil.copytree(home, tmp_path / "home")
    (tmp_path / "home" / "run" / "finished.json").unlink()
    samples = [replace(s, image=str(tmp_path / "home" / s.image.rsplit("/", 1)[1])) for s in samples]
    shutil.rmtree(tmp_path / "home" / "run" / "checkpoint-3")
    return tmp_path / "home" / "run", samples, rows, weights


def same(weights, policy):
    now = trained_weights(policy.model)
    return weights.keys() == now.keys() and all(torch.equal(value, now[name]) for name, value in weights.items())


def test_a_run_in_another_place_goes_on_and_ends_equal(copied, load):
    folder, samples, rows, weights = copied
    policy = load()
    again = train_grpo(policy, samples, folder, RUN)
    assert [row["reward"] for row in again] == [row["reward"] for row in rows]
    assert same(weights, policy)


def test_other_samples_are_named(copied, load):
    folder, samples, *_ = copied
    moved = [replace(s, target=replace(s.target, boxes=s.target.boxes + 1)) for s in samples]
    with pytest.raises(ValueError, match=r"holds a run on other samples \(boxes of 2 samples differ"):
        train_grpo(load(), [*moved[:2], *samples[2:]], folder, RUN)
    with pytest.raises(ValueError, match="samples was 6, is 5"):
        train_grpo(load(), samples[:5], folder, RUN)
    Image.new("RGB", (64, 64), "red").save(samples[3].image)
    with pytest.raises(ValueError, match="pictures of 1 sample differ"):
        train_grpo(load(), samples, folder, RUN)


def test_other_settings_policies_and_weights_are_named(copied, load):
    folder, samples, *_ = copied
    with pytest.raises(ValueError, match=r"trl was \{\}, is \{'min_p': 0\.1\}"):
        train_grpo(load(), samples, folder, RUN, trl={"min_p": 0.1})
    with pytest.raises(ValueError, match="dtype was 'float32', is 'bfloat16'"):
        train_grpo(load(dtype="bfloat16"), samples, folder, RUN)
    with pytest.raises(ValueError, match=r"lora was None, is \{'r': 4, 'lora_alpha': 8"):
        train_grpo(load(lora={"r": 4, "alpha": 8}), samples, folder, RUN)
    with pytest.raises(ValueError, match="pixels was"):
        train_grpo(load(max_pixels=2048), samples, folder, RUN)
    policy = load()
    policy.model.lm_head.weight.data += 0.01
    with pytest.raises(ValueError, match="began with other weights than this policy has now"):
        train_grpo(policy, samples, folder, RUN)
    assert train_grpo(load(), samples, folder, replace(RUN, save_steps=7, micro_prompts=1))  # these may change


def test_a_trained_policy_finds_its_own_run_again(copied, load):
    """As when a notebook's cell is run twice."""
    folder, samples, rows, weights = copied
    policy = load()
    train_grpo(policy, samples, folder, RUN)
    again = train_grpo(policy, samples, folder, RUN)
    assert [row["reward"] for row in again] == [row["reward"] for row in rows]
    assert same(weights, policy)


def test_an_adapter_with_another_scale_or_base_is_named(load, tmp_path):
    samples, one = make_scenes("grounding", 2), replace(RUN, steps=1)
    train_grpo(load(lora={"r": 4, "alpha": 8}), samples, tmp_path, one)
    torch.manual_seed(5)  # another draw of fresh adapters is the same start
    assert train_grpo(load(lora={"r": 4, "alpha": 8}), samples, tmp_path, one)
    with pytest.raises(ValueError, match="'lora_alpha': 8"):
        train_grpo(load(lora={"r": 4, "alpha": 16}), samples, tmp_path, one)
    other = load(lora={"r": 4, "alpha": 8})
    other.core.lm_head.weight.data += 0.01
    with pytest.raises(ValueError, match="began with other weights"):
        train_grpo(other, samples, tmp_path, one)


def test_another_version_of_the_kit_is_said_and_not_refused(copied, load):
    folder, samples, *_ = copied
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(settings | {"kit": "0.0.1"}))
    with pytest.warns(UserWarning, match=r"was begun with pr1kit 0\.0\.1"):
        train_grpo(load(), samples, folder, RUN)


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "trainer_state.json"]
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(finished, copied, load, capsys, name):
    folder, samples, rows, weights = copied
    shutil.copytree(finished[0] / "run" / "checkpoint-3", folder / "checkpoint-3")
    file = folder / "checkpoint-3" / name
    file.write_bytes(file.read_bytes()[:-8])
    policy = load()
    again = train_grpo(policy, samples, folder, RUN)
    assert f"checkpoint-3 is damaged ({name} is not as it was written): set aside" in capsys.readouterr().out
    assert [row["reward"] for row in again] == [row["reward"] for row in rows]
    assert same(weights, policy)
    assert (folder / "damaged-checkpoint-3").is_dir()


def test_a_checkpoint_without_its_optimizer_is_refused(copied, load):
    folder, samples, *_ = copied
    checkpoint = folder / "checkpoint-2"
    (checkpoint / "optimizer.pt").unlink()
    notes = json.loads((checkpoint / "whole.json").read_text())
    del notes["files"]["optimizer.pt"]  # as TRL's option save_only_model writes it
    (checkpoint / "whole.json").write_text(json.dumps(notes))
    with pytest.raises(ValueError, match=r"has no optimizer\.pt: going on from it would be another run"):
        train_grpo(load(), samples, folder, RUN)


def test_no_whole_checkpoint_is_said_before_anything_begins_anew(copied, load, capsys):
    folder, samples, rows, weights = copied
    (folder / "checkpoint-2" / "whole.json").unlink()
    with pytest.raises(ValueError, match=r"No checkpoint in .* is whole: all are set aside"):
        train_grpo(load(), samples, folder, RUN)
    policy = load()
    assert [row["reward"] for row in train_grpo(policy, samples, folder, RUN)] == [row["reward"] for row in rows]
    assert same(weights, policy)
    assert len(read_log(folder / "log.until-3.jsonl")) == 3  # what was known is kept beside


def test_a_finished_run_without_checkpoints_is_not_run_again(copied, load):
    folder, samples, *_ = copied
    train_grpo(load(), samples, folder, RUN)
    RunFolder(folder).keep_newest(0)
    with pytest.raises(ValueError, match="holds a finished run whose checkpoints are gone"):
        train_grpo(load(), samples, folder, RUN)
    assert len(read_log(folder / "log.jsonl")) == 3


@pytest.mark.parametrize("damage", [None, "", '{"step": 1}\nnot json\n'])
def test_the_log_is_what_the_checkpoint_remembers(copied, load, damage):
    folder, samples, rows, _ = copied
    (folder / "log.jsonl").unlink() if damage is None else (folder / "log.jsonl").write_text(damage)
    again = train_grpo(load(), samples, folder, RUN)
    assert [row["step"] for row in again] == [1, 2, 3]
    assert [row["reward"] for row in again] == [row["reward"] for row in rows]


def test_a_second_process_is_refused(copied, load):
    folder, samples, *_ = copied
    with RunFolder(folder).lock():
        with pytest.raises(ValueError, match="is being written by process"):
            train_grpo(load(), samples, folder, RUN)


def test_a_full_disk_is_one_sentence_and_what_was_saved_stays(copied, load):
    folder, samples, rows, weights = copied
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = (folder / "checkpoint-2" / "model.safetensors").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, hard))
    try:
        with pytest.raises(OSError, match=r"The checkpoint of step 3 could not be written .* is saved up to step 2"):
            train_grpo(load(), samples, folder, RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (folder / ".saving").exists()
    policy = load()
    assert [row["reward"] for row in train_grpo(policy, samples, folder, RUN)] == [row["reward"] for row in rows]
    assert same(weights, policy)


def test_a_new_beginning_leaves_no_older_checkpoint(copied, load):
    folder, samples, *_ = copied
    train_grpo(load(), samples, folder, replace(RUN), resume=False)
    assert [path.name for path in RunFolder(folder).checkpoints()] == ["checkpoint-3", "checkpoint-2"]


def test_completions_with_unicode_line_ends_stay_one_line(load, tmp_path, monkeypatch):
    policy, samples = load(), make_scenes("grounding", 2)
    decode = type(policy.processor).batch_decode
    monkeypatch.setattr(
        type(policy.processor), "batch_decode", lambda *a, **k: [f"{text}\u2028\u0085" for text in decode(*a, **k)]
    )
    train_grpo(policy, samples, tmp_path, replace(RUN, steps=2))
    groups = read_log(tmp_path / "rollouts.jsonl")
    assert len(groups) == 4
    assert all("\u2028" in text for group in groups for text in group["completions"])
    shutil.rmtree(tmp_path / "checkpoint-2")
    train_grpo(load(), samples, tmp_path, replace(RUN, steps=2))
    assert len(read_log(tmp_path / "rollouts.jsonl")) == 4


def test_sft_is_resumed_equal_and_reads_pictures_when_they_are_asked_for(copied, load, tmp_path, monkeypatch):
    _, samples, *_ = copied
    settings = replace(TINY_SFT, steps=3, batch_size=2, micro_batch=2, save_steps=1)
    opened = []
    whole, cut = load(), load()
    monkeypatch.setattr(Sample, "load_image", lambda self, real=Sample.load_image: opened.append(self.id) or real(self))
    rows = train_sft(whole, samples, tmp_path / "sft", settings)
    assert len(opened) < 3 * len(samples)
    shutil.rmtree(tmp_path / "sft" / "checkpoint-3")
    again = train_sft(cut, samples, tmp_path / "sft", settings)
    assert [row["loss"] for row in again] == [row["loss"] for row in rows]
    assert same(trained_weights(whole.model), cut)


# The policy to which the KL term is measured


def test_the_reference_is_the_policy_at_the_start_not_the_files_it_came_from(load, tmp_path):
    samples = make_scenes("grounding", 4)
    policy = load()
    train_sft(policy, samples, tmp_path / "sft", replace(TINY_SFT, steps=2, batch_size=4, micro_batch=4))
    rows = train_grpo(policy, samples, tmp_path / "grpo", replace(RUN, steps=1, beta=0.1))
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)


def test_a_curriculum_has_one_reference_for_all_its_stages(load, tmp_path):
    samples = make_scenes("ocr", 4)
    stages = [Stage(samples[:2], 4, 2), Stage(samples[2:], 4, 1)]
    settings = replace(RUN, beta=0.1, learning_rate=1e-2)
    for lora in (None, {"r": 4}):
        rows = train_curriculum(load(lora=lora), stages, tmp_path / str(bool(lora)), settings)
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert rows[2]["kl"] > 1e-3  # the second stage is measured to where the first began


def test_a_kl_to_weights_that_are_gone_is_refused(load, tmp_path):
    samples, settings = make_scenes("ocr", 2), replace(RUN, steps=2, beta=0.1)
    policy = load()
    train_grpo(policy, samples, tmp_path, settings)
    shutil.rmtree(tmp_path / "checkpoint-2")
    with pytest.raises(ValueError, match="began with other weights than this policy has now: load the policy again"):
        train_grpo(policy, samples, tmp_path, settings)


def test_the_fingerprint_tells_weights_apart(load, tmp_path):
    policy = load(lora={"r": 4})
    assert weights_fingerprint(policy.model) == weights_fingerprint(load().model)  # adapters that change nothing yet
    with torch.no_grad():
        for name, value in policy.model.named_parameters():
            if "lora_B" in name:
                value.add_(0.1)
    trained = weights_fingerprint(policy.model)
    assert trained != weights_fingerprint(load().model)
    again = load_policy(str(export_adapter(policy, tmp_path)), verbose=False)
    assert weights_fingerprint(again.model) == trained


def test_quantized_weights_and_targets_without_files_have_fingerprints():
    assert resumable_run.is_sharded() is False
    sample = Sample(Image.new("RGB", (8, 8)), "ocr", "", Target(text="a"))
    assert resumable_run.fingerprint([sample, sample])["samples"].keys() == {"", "#2"}
