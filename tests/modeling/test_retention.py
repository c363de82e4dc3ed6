"""Laws of exact retention: text judged original is the dense model, bit for bit."""

import pytest
import torch
from transformers import GenerationConfig

from polycycle.errors import ConfigError
from polycycle.modeling import record_routing
from polycycle.routing import LanguageClassifier, RetentionGate, Router
from polycycle.surgery import freeze_for, upcycle
from tests.tiny import FAMILIES, VOCAB_SIZE, load, save_dense, token_ids

SETTINGS = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}


def gated(folder, family="llama", *, dtype=torch.float32, **settings):
    """(dense, moe with a gate), the new experts changed so that they show."""
    save_dense(folder / "dense", family, dtype=dtype)
    settings = {"num_experts": 4, "exact_retention": True, **settings}
    upcycle(folder / "dense", folder / "moe", **settings)
    moe = load(folder / "moe")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in moe.named_parameters():
        if ".experts." in name:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator).to(dtype)
        if "retention_gate" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
    return load(folder / "dense"), moe


def gate_of(moe):
    (gate,) = [module for module in moe.modules() if isinstance(module, RetentionGate)]
    return gate


def mixed_prompts(moe, count=12, length=9):
    """(prompts, which are judged original): about half, none of them close to the threshold."""
    prompts = token_ids(count, length, seed=5)
    gate_of(moe).threshold = 0.0
    with record_routing(moe) as routing, torch.no_grad():
        moe(prompts, use_cache=False)
    means = routing.gate_scores.mean(1)
    gate_of(moe).threshold = (means.median() + means[means > means.median()].min()).item() / 2
    return prompts, means > gate_of(moe).threshold


@pytest.fixture(
    scope="module",
    params=[(f, torch.float32) for f in FAMILIES]
    + [("llama", torch.bfloat16), ("qwen3", torch.bfloat16), ("gemma2", torch.bfloat16)],
    ids=lambda p: f"{p[0]}-{str(p[1])[6:]}",
)
def models(request, tmp_path_factory):
    family, dtype = request.param
    return gated(tmp_path_factory.mktemp("retention"), family, dtype=dtype)


@torch.no_grad()
def test_calls_judged_original_are_the_dense_model_bit_for_bit(models):
    dense, moe = models
    prompts, original = mixed_prompts(moe)
    assert 3 <= original.sum() <= 9
    kept = prompts[original]
    assert torch.equal(moe(kept).logits, dense(kept).logits)
    assert not torch.equal(moe(prompts[~original]).logits, dense(prompts[~original]).logits)
    # Prefill, then token by token with a cache that the model made itself.
    ours, theirs = moe(kept, use_cache=True), dense(kept, use_cache=True)
    for step in range(5):
        token = token_ids(len(kept), 1, seed=step)
        ours = moe(token, past_key_values=ours.past_key_values)
        theirs = dense(token, past_key_values=theirs.past_key_values)
        assert torch.equal(ours.logits, theirs.logits)


@torch.no_grad()
def test_recording_the_routing_changes_no_bit(models):
    dense, moe = models
    prompts, original = mixed_prompts(moe)
    with record_routing(moe) as routing:
        logits = moe(prompts[original]).logits
    assert torch.equal(logits, dense(prompts[original]).logits)
    assert len(routing.layers) == 3
    assert all(layer.judged_original.all() for layer in routing.layers)


@torch.no_grad()
def test_generate_splits_a_mixed_batch_and_keeps_its_order(models):
    dense, moe = models
    prompts, original = mixed_prompts(moe)
    mask = torch.ones_like(prompts)
    gate_of(moe).patience = 10**9
    together = moe.generate(prompts, attention_mask=mask, **SETTINGS)
    assert together.shape == (12, 17)
    kept = prompts[original]
    expected = dense.generate(kept, attention_mask=torch.ones_like(kept), **SETTINGS)
    assert torch.equal(together[original], expected)
    others = prompts[~original]
    alone = moe.generate(others, attention_mask=torch.ones_like(others), **SETTINGS)
    assert torch.equal(together[~original], alone)
    assert torch.equal(together[:, :9], prompts)


@torch.no_grad()
def test_an_answer_that_ends_sooner_is_filled_with_the_end_that_the_call_asks_for(tmp_path):
    _, moe = gated(tmp_path)
    prompts, original = mixed_prompts(moe)
    gate_of(moe).patience = 10**9
    moe.generation_config.pad_token_id = moe.generation_config.eos_token_id = None
    settings = {"max_new_tokens": 8, "do_sample": False}
    whole = moe.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)
    ending, going_on = next(
        (kept, other)
        for kept in whole[original]
        for other in whole[~original]
        if kept[9] not in other[9:]
    )
    two, end = torch.stack([ending[:9], going_on[:9]]), int(ending[9])
    got = moe.generate(two, attention_mask=torch.ones_like(two), eos_token_id=[end], **settings)
    assert torch.equal(got[1], going_on)
    assert got[0, 9:].tolist() == [end] * 8
    moe.generation_config.eos_token_id = end  # left out below
    own = GenerationConfig(**settings)
    got = moe.generate(two, attention_mask=torch.ones_like(two), generation_config=own)
    assert got[0, 9:].tolist() == [end] * 8


@torch.no_grad()
def test_an_original_call_runs_no_router(models, monkeypatch):
    _, moe = models
    prompts, original = mixed_prompts(moe)

    def fail(*args):
        raise AssertionError("a router was asked")

    monkeypatch.setattr(Router, "forward", fail)
    moe(prompts[original])


@torch.no_grad()
def test_padding_on_either_side_does_not_change_a_decision(models):
    _, moe = models
    prompts, original = mixed_prompts(moe)
    pad, mask = torch.ones(12, 4, dtype=torch.long), torch.ones_like(prompts)
    for padded, its_mask in (
        (torch.cat([pad, prompts], 1), torch.cat([0 * pad, mask], 1)),
        (torch.cat([prompts, pad], 1), torch.cat([mask, 0 * pad], 1)),
    ):
        assert torch.equal(moe.judge_original(padded, its_mask), original)
    assert torch.equal(moe.judge_original(prompts), original)


@torch.no_grad()
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_keeps_padded_prompts_exactly_with_every_kind_of_cache(models, cache):
    dense, moe = models
    prompts, original = mixed_prompts(moe)
    gate_of(moe).patience = 10**9
    pad, mask = torch.ones(12, 5, dtype=torch.long), torch.ones_like(prompts)
    padded, its_mask = torch.cat([pad, prompts], 1), torch.cat([0 * pad, mask], 1)
    settings = {**SETTINGS, "cache_implementation": cache}
    got = moe.generate(padded, attention_mask=its_mask, **settings)
    expected = dense.generate(padded[original], attention_mask=its_mask[original], **settings)
    assert torch.equal(got[original], expected)
    others = dense.generate(padded[~original], attention_mask=its_mask[~original], **settings)
    assert not torch.equal(got[~original], others)


@torch.no_grad()
def test_sampling_several_answers_to_original_prompts_draws_what_the_base_draws(models):
    dense, moe = models
    prompts, original = mixed_prompts(moe)
    gate_of(moe).patience = 10**9
    kept = prompts[original]
    sampled = {**SETTINGS, "do_sample": True, "num_return_sequences": 2}
    answers = []
    for model in (moe, dense):
        torch.manual_seed(3)
        answers.append(model.generate(kept, attention_mask=torch.ones_like(kept), **sampled))
    assert torch.equal(*answers)


@torch.no_grad()
def test_packed_documents_are_judged_each_by_itself(models):
    _, moe = models
    prompts, original = mixed_prompts(moe)
    positions = torch.arange(9).repeat(12)[None]
    with record_routing(moe) as routing:
        moe(prompts.reshape(1, -1), position_ids=positions, use_cache=False)
    judged = routing.layers[0].judged_original.reshape(12, 9)
    assert torch.equal(judged, original[:, None].expand(-1, 9))


@torch.no_grad()
def test_a_decision_changes_only_after_patience_tokens_against_it(tmp_path):
    _, moe = gated(tmp_path)
    gate = gate_of(moe)
    gate.patience = 3
    direction = gate.weight.data.clone()
    gate.threshold = 0.0
    gate.weight.data.zero_()
    cache = moe(token_ids(1, 4), use_cache=True).past_key_values  # scores 0: not original
    seen = []
    for step in range(6):
        # The sign of the score of this very token, times a weight that outvotes the past.
        gate.weight.data = direction * 1e6
        with record_routing(moe) as probe:
            moe(torch.tensor([[5 + step]]), use_cache=False)
        gate.weight.data = direction * 1e6 * probe.gate_scores.sign().item()
        with record_routing(moe) as routing:
            cache = moe(torch.tensor([[5 + step]]), past_key_values=cache).past_key_values
        seen.append(bool(routing.layers[0].judged_original[0]))
    assert seen[:2] == [False, False]
    assert True in seen


def test_in_training_nothing_is_decided_and_review_trains_the_gate(tmp_path):
    _, moe = gated(tmp_path)
    prompts, _ = mixed_prompts(moe)
    name = "model.layers.0.mlp.retention_gate.weight"
    assert name not in freeze_for(moe, "post_pretrain")
    assert name in freeze_for(moe, "review")
    moe.train()
    with record_routing(moe) as routing:
        moe(prompts, use_cache=False)
    assert routing.gate_scores.shape == prompts.shape
    assert routing.gate_scores.requires_grad
    assert all(layer.judged_original is None for layer in routing.layers)


def test_an_untrained_gate_keeps_nothing(tmp_path):
    save_dense(tmp_path / "dense")
    upcycle(tmp_path / "dense", tmp_path / "moe", num_experts=(1, 4, 4), exact_retention=True)
    moe = load(tmp_path / "moe")
    assert not moe.judge_original(token_ids(4, 6)).any()
    names = [name for name, _ in moe.named_parameters() if "retention_gate" in name]
    assert names == ["model.layers.1.mlp.retention_gate.weight"]


@torch.no_grad()
def test_what_cannot_be_kept_exactly_is_refused(tmp_path):
    _, moe = gated(tmp_path)
    prompts, _ = mixed_prompts(moe)
    mask = torch.ones_like(prompts)
    for refused in (
        {"num_beams": 2},
        {"use_cache": False},
        {"prefill_chunk_size": 4},
        {"prompt_lookup_num_tokens": 2},
        {"assistant_model": moe},
    ):
        with pytest.raises(ConfigError, match=f"{next(iter(refused))}: .*cannot follow"):
            moe.generate(prompts, attention_mask=mask, **refused, **SETTINGS)
    moe.generation_config.num_beams = 2  # which a config of the call's own does not change
    with pytest.raises(ConfigError, match=r"num_beams: .*cannot follow"):
        moe.generate(prompts, attention_mask=mask, generation_config=GenerationConfig(**SETTINGS))
    moe.generation_config.num_beams = None
    with pytest.raises(ConfigError, match="return_dict_in_generate"):
        moe.generate(prompts, attention_mask=mask, return_dict_in_generate=True, **SETTINGS)
    upcycle(tmp_path / "dense", tmp_path / "plain", num_experts=2)
    with pytest.raises(ConfigError, match="no retention gate"):
        load(tmp_path / "plain").judge_original(prompts)
    assert int(prompts.max()) < VOCAB_SIZE


def test_autocast_leaves_the_scores_of_gate_and_classifier_in_float32():
    hidden = torch.randn(3, 5, 32)
    for module in (
        RetentionGate(32, threshold=0.0, patience=1),
        LanguageClassifier(32, threshold=0.0, form="token"),
    ):
        module.weight.data = torch.randn(32)
        with torch.autocast("cpu", torch.bfloat16):
            scores = module(hidden)
        assert scores.dtype == torch.float32
        assert torch.equal(scores, module(hidden))
