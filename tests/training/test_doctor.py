"""The doctor's page: what is here, what works, and what is outside the window."""

import json

import pytest
import torch

from pr1kit.__main__ import main
from pr1kit.training import doctor


def test_the_page_and_its_json_say_the_same(capsys):
    status = main(["doctor", "--device", "cpu", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert status == (1 if found["problems"] else 0)
    test = found["shared_prefix"]
    assert test["equal"]
    assert test["difference"] < 1e-4
    assert found["versions"]["torch"]["here"] == doctor._version("torch")
    assert found["attention"]["SDPA math"] == "works"
    assert found["attention"]["chosen"].startswith("sdpa (FlashAttention-2 needs a GPU")
    words = doctor.page(found)
    for fact in (found["vllm"], found["bitsandbytes"], found["advice"], f"{test['faster']} times as fast"):
        assert fact in words


def test_a_version_outside_the_window_and_one_that_is_missing_are_problems(monkeypatch):
    monkeypatch.setattr(doctor, "SHOWN", ("torch", "nothing-of-this-name"))
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: ["torch<1.0", "nothing-of-this-name>=1"])
    rows = doctor.versions()
    assert not rows["torch"]["fits"]
    assert rows["nothing-of-this-name"] == {"here": "", "window": ">=1", "fits": False}


def test_rows_that_differ_are_seen(monkeypatch):
    """The self-test can fail: a shared prefix that reads another answer is not equal."""
    import pr1kit.training.shared_prefix.logprobs as logprobs

    real = logprobs.shared_logprobs
    monkeypatch.setattr(logprobs, "shared_logprobs", lambda model, prompt, answers: real(model, prompt, answers[::-1]))
    model, name = doctor.probe_model(torch.device("cpu"))
    assert not doctor.self_test(model, name, side=4, group=2, answer=4)["equal"]


def test_no_gpu_is_one_sentence(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main(["doctor", "--device", "cuda"]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
