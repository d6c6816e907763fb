"""Two attention calls give what one under a dense mask gives, on every kernel; what cannot be shared says so."""

import inspect
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM, modeling_flash_attention_utils
from transformers.integrations.sdpa_attention import repeat_kv

from pr1kit import make_scenes, shared_logprobs
from pr1kit.models.policy import chat, load_policy
from pr1kit.rollouts.branched_decoding import branches
from pr1kit.training.shared_prefix import attention
from pr1kit.training.shared_prefix.attention import packed_attention, share, unshare, unsupported_reason
from pr1kit.training.shared_prefix.packing import Layout

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def dense_mask(layout: Layout) -> torch.Tensor:
    """Who sees whom in the packed row, `(L, L)`, written down place by place."""
    owner = [(g, 0, t) for g, p in enumerate(layout.prefixes) for t in range(p)]
    owner += [(g, j, t) for g, own in enumerate(layout.branches) for j, r in enumerate(own, 1) for t in range(r)]
    return torch.tensor(
        [
            [g == h and ((j == 0 and i != 0) or (i == j and s <= t)) for h, j, s in owner]  # a prefix, or itself
            for g, i, t in owner
        ]
    )


def sdpa_call(module, *tensors, **options):
    return attention._sdpa(module, *tensors, scaling=None, dropout=0.0, **options)


def eager_call(module, *tensors, **options):
    return attention._eager(module, *tensors, scaling=tensors[0].shape[-1] ** -0.5, dropout=0.0, **options)


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.tuples(st.integers(0, 6), st.lists(st.integers(0, 7), min_size=1, max_size=3)), max_size=4),
    block=st.sampled_from([1, 3, 512]),
    eager=st.booleans(),
)
def test_two_calls_give_what_a_dense_mask_gives(groups, block, eager):
    """Any prefixes and ragged branches, in any blocks, grouped heads: values and gradients."""
    groups = [(2, [3, 1]), *groups]
    layout = Layout([p for p, _ in groups], [own for _, own in groups], "cpu")
    torch.manual_seed(0)
    shapes = ((1, 4, layout.length, 8), (1, 2, layout.length, 8), (1, 2, layout.length, 8))
    q, k, v = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    old = attention.QUERIES
    for place in (attention, inspect.getmodule(Layout)):
        place.QUERIES = block
    own, attention._own_eager = attention._own_eager, lambda _: _eager_of_qwen2
    try:
        mine = packed_attention(module, q, k, v, layout, eager_call if eager else sdpa_call)[0].transpose(0, 1)
        weights = torch.randn_like(mine)
        grads = torch.autograd.grad((mine * weights).sum(), (q, k, v))
    finally:
        attention._own_eager = own
        for place in (attention, inspect.getmodule(Layout)):
            place.QUERIES = old
    theirs = F.scaled_dot_product_attention(q, repeat_kv(k, 2), repeat_kv(v, 2), attn_mask=dense_mask(layout))[0]
    tolerance = 1e-5 if eager else 1e-10  # the models' eager softmax is float32
    assert torch.allclose(mine, theirs, atol=tolerance)
    for mine_grad, grad in zip(grads, torch.autograd.grad((theirs * weights).sum(), (q, k, v)), strict=True):
        assert torch.allclose(mine_grad, grad, atol=10 * tolerance)


def _eager_of_qwen2(*args, **kwargs):
    from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward

    return eager_attention_forward(*args, **kwargs)


def test_no_tensor_has_the_square_of_the_row():
    """What is allocated for 1,000 prefix tokens and 8 × 100 grows with the row, not with its square."""
    layout = Layout([1000], [[100] * 8], "cpu")
    q = torch.randn(1, 2, layout.length, 16, requires_grad=True)
    k, v = (torch.randn(1, 1, layout.length, 16, requires_grad=True) for _ in range(2))
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(x))
            return out

    with Sizes():
        packed_attention(None, q, k, v, layout, sdpa_call).sum().backward()
    expanded = 8 * 1100 * 16 * (1 if attention.GROUPS_ON_CPU else 2)  # the keys: G (P + R) times the width, a head each
    assert max(sizes) <= expanded  # the square would be 3,240,000


# The kernels in their models


def prompt_of(policy, index=0):
    scene = make_scenes("counting", 3)[index]
    text = policy.processor.apply_chat_template(chat(scene), add_generation_prompt=True)
    return policy.processor(text=[text], images=[scene.load_image()], return_tensors="pt")


ANSWERS = [[40, 41, 42, 43, 44], [50, 51], [60, 61, 62]]


def one_by_one(model, prompt, answers):
    """Log-probabilities from a plain forward pass for each answer, (G, R)."""
    out = torch.zeros(len(answers), max(map(len, answers)))
    rows = []
    for answer in answers:
        inputs = dict(prompt)
        tokens = torch.tensor([answer])
        inputs["input_ids"] = torch.cat([prompt["input_ids"], tokens], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "mm_token_type_ids" in prompt:
            inputs["mm_token_type_ids"] = F.pad(prompt["mm_token_type_ids"], (0, len(answer)))
        logits = model(**inputs).logits[0, -len(answer) - 1 : -1].float()
        values = logits.log_softmax(-1).gather(1, tokens[0][:, None])[:, 0]
        rows.append(F.pad(values, (0, out.shape[1] - len(answer))))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", [*KINDS, "tiny"])
def test_shared_logprobs_are_those_of_a_pass_for_each_answer(small_policies, kind):
    policy = load_policy(small_policies.get(kind, "tiny"))
    prompt = prompt_of(policy)
    results = []
    for way in (
        lambda: shared_logprobs(policy.model, prompt, ANSWERS),
        lambda: one_by_one(policy.model, prompt, ANSWERS),
    ):
        policy.model.zero_grad()
        logps = way()
        (logps * torch.arange(15.0).view(3, 5)).sum().backward()
        results.append((logps.detach(), {n: p.grad.clone() for n, p in policy.model.named_parameters()}))
    (mine, grads), (theirs, their_grads) = results
    assert mine.shape == (3, 5)
    assert (mine[1, 2:] == 0).all()
    assert torch.allclose(mine, theirs, atol=1e-5)
    for name, grad in their_grads.items():
        assert (grads[name] - grad).norm() <= 1e-4 * grad.norm() + 1e-6, name
    with torch.no_grad():
        assert torch.allclose(shared_logprobs(policy.model, prompt, ANSWERS[:1]), theirs[:1], atol=1e-5)
    hot = shared_logprobs(policy.model, prompt, ANSWERS, temperature=2.0)
    assert not torch.allclose(hot, mine, atol=1e-2)


def test_shared_logprobs_of_a_model_of_text_alone_with_an_adapter_and_a_padded_prompt():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
    config = Qwen2Config(**shape, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3)
    model = Qwen2ForCausalLM(config).eval()
    prompt = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    expected = one_by_one(model, prompt, ANSWERS)
    assert torch.allclose(shared_logprobs(model, prompt, ANSWERS), expected, atol=1e-5)
    padded = {"input_ids": torch.tensor([[0, 0, 5, 6, 7, 8]]), "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1]])}
    assert torch.allclose(shared_logprobs(model, padded, ANSWERS), expected, atol=1e-5)
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    theirs = one_by_one(adapted, prompt, ANSWERS)
    assert not torch.allclose(theirs, expected, atol=1e-3)
    assert torch.allclose(shared_logprobs(adapted, prompt, ANSWERS), theirs, atol=1e-5)


def test_the_other_passes_of_a_model_are_as_before(small_policies):
    """Plain passes and generation of a model that reads packed rows, and its name when it is taken back."""
    policy = load_policy(small_policies["qwen2_5_vl"])
    prompt, text = prompt_of(policy), policy.model.config.text_config
    before, tokens = policy.model(**prompt).logits, policy.model.generate(**prompt, max_new_tokens=8, do_sample=False)
    share(policy.model)
    share(policy.model)
    assert text._attn_implementation == "shared_prefix:sdpa"
    assert policy.model.config.vision_config._attn_implementation == "sdpa"
    assert torch.equal(policy.model(**prompt).logits, before)
    assert torch.equal(policy.model.generate(**prompt, max_new_tokens=8, do_sample=False), tokens)
    unshare(policy.model)
    assert text._attn_implementation == "sdpa"


def varlen_in_words(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal, **_):
    """`flash_attn_varlen_func` as its documentation has it: sequences end to end, causal from the bottom right."""
    assert causal
    outputs = []
    for (a, b), (c, d) in zip(cu_seqlens_q.unfold(0, 2, 1), cu_seqlens_k.unfold(0, 2, 1), strict=True):
        assert 0 < b - a <= max_seqlen_q
        assert b - a <= d - c <= max_seqlen_k
        query, key, value = (x.transpose(0, 1)[None] for x in (q[a:b], k[c:d], v[c:d]))
        key, value = (repeat_kv(x, query.shape[1] // x.shape[1]) for x in (key, value))
        sees = torch.ones(b - a, d - c, dtype=torch.bool).tril(d - c - (b - a))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=sees, scale=softmax_scale)
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def flash_on_cpu(monkeypatch):
    """FlashAttention runs on GPUs only: its documented contract in its place, called by transformers' own code."""
    calls = []

    def varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None, causal=False):
        calls.append(len(cu_seqlens_q) - 1)
        return varlen_in_words(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal)

    utils = modeling_flash_attention_utils
    names = []

    def load(implementation, *_, **__):
        names.append(implementation)
        return None, varlen, None, utils._pad_input, utils._unpad_input

    monkeypatch.setattr(utils, "_lazy_imports", load)
    monkeypatch.setattr(utils, "_loaded_implementation", None)
    return SimpleNamespace(calls=calls, names=names)


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flash_attention_3"])
@pytest.mark.parametrize("kind", KINDS)
def test_flash_attention_gets_sequences_without_padding_and_no_mask(small_policies, flash_on_cpu, kind, kernel):
    policy = load_policy(small_policies[kind])
    prompt, text = prompt_of(policy), policy.model.config.text_config
    expected = one_by_one(policy.model, prompt, ANSWERS).detach()
    text._attn_implementation = kernel
    logps = shared_logprobs(policy.model, prompt, [*ANSWERS, []])
    assert torch.allclose(logps[:3], expected, atol=1e-5)
    assert flash_on_cpu.calls == [4, 4]  # one call a layer: a prefix and three branches
    assert set(flash_on_cpu.names) == {kernel}
    assert text._attn_implementation == f"shared_prefix:{kernel}"
    logps.sum().backward()
    assert all(p.grad is not None for n, p in policy.model.named_parameters() if "self_attn.k_proj" in n)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_and_bfloat16_weights_are_as_near_as_plain_passes(small_policies, kind, attention):
    """Against float32, packed rows may be three times as far as a pass for each answer in the same precision."""
    policy = load_policy(small_policies[kind], dtype="float32", verbose=False)
    policy.model.config.get_text_config()._attn_implementation = attention
    prompt, model = prompt_of(policy), policy.model
    reference = one_by_one(model, prompt, ANSWERS).detach()

    def distances():
        ways = [shared_logprobs(model, prompt, ANSWERS), one_by_one(model, prompt, ANSWERS)]
        ways[0].sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        return [(way.detach().float() - reference).abs().mean() for way in ways]

    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = distances()
    assert 0 < mine <= 3 * theirs
    model.bfloat16()
    mine, theirs = distances()
    assert 0 < mine <= 3 * theirs


def test_a_compiled_model_reads_packed_rows_and_decodes_branches(small_policies):
    policy = load_policy(small_policies["qwen2_5_vl"])
    prompt, greedy = prompt_of(policy), {"max_new_tokens": 6, "do_sample": False}
    tokens = policy.model.generate(**prompt, **greedy).expand(3, -1)
    expected = shared_logprobs(policy.model, prompt, ANSWERS).detach()
    policy.model.model.language_model.compile(backend="aot_eager")
    logps = shared_logprobs(policy.model, prompt, ANSWERS)
    assert torch.allclose(logps, expected, atol=1e-5)
    logps.sum().backward()
    assert torch.equal(policy.model.generate(**prompt, **greedy, custom_generate=branches(3)), tokens)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_are_computed_again_as_packed_rows(small_policies, reentrant):
    policy = load_policy(small_policies["qwen2_5_vl"])
    prompt, grads = prompt_of(policy), []
    policy.model.train()
    for checkpointed in (False, True):
        policy.model.zero_grad()
        if checkpointed:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                policy.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
                policy.model.enable_input_require_grads()
        shared_logprobs(policy.model, prompt, ANSWERS).sum().backward()
        grads.append({n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        assert torch.allclose(grads[1][name], grad, atol=1e-5), name


# What cannot be shared, and says so


def refused(model) -> str:
    with pytest.raises(ValueError, match="The prompt cannot be shared") as error:
        shared_logprobs(model, {"input_ids": torch.tensor([[5, 6, 7, 8]])}, ANSWERS)
    assert str(error.value) == f"The prompt cannot be shared: {unsupported_reason(model)}."
    return str(error.value)


def test_windows_linear_layers_and_unknown_kernels_are_refused():
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    sliding = Qwen2ForCausalLM(Qwen2Config(**shape, use_sliding_window=True, sliding_window=8, max_window_layers=1))
    assert "layers of sliding attention" in refused(sliding)
    from transformers import MistralConfig, MistralForCausalLM, Qwen3_5ForCausalLM, Qwen3_5TextConfig

    assert "sees a sliding window of 8 tokens" in refused(MistralForCausalLM(MistralConfig(**shape, sliding_window=8)))
    linear = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**shape, layer_types=["linear_attention", "full_attention"]))
    assert "layers of linear attention" in refused(linear)
    model = Qwen2ForCausalLM(Qwen2Config(**shape))
    model.config._attn_implementation = "flex_attention"
    assert "'flex_attention' takes no packed row" in refused(model)


def test_a_model_whose_layers_keep_keyword_arguments_to_themselves_is_refused(small_policies, monkeypatch):
    policy = load_policy(small_policies["qwen2_5_vl"])
    layer = type(policy.model.model.language_model.layers[0])
    forward = layer.forward

    def deaf(self, *args, shared_prefix=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", deaf)
    with pytest.raises(ValueError, match="do not pass keyword arguments on"):
        shared_logprobs(policy.model, prompt_of(policy), ANSWERS)


def test_no_answers_and_several_prompts_are_refused(small_policies):
    policy = load_policy(small_policies["qwen2_5_vl"])
    with pytest.raises(ValueError, match="at least one answer are needed, got 1 and 0"):
        shared_logprobs(policy.model, prompt_of(policy), [])
    with pytest.raises(ValueError, match="got 2 and 3"):
        shared_logprobs(policy.model, {"input_ids": torch.ones(2, 4, dtype=torch.long)}, ANSWERS)
