"""Laws of the language classifier in front of the router, in every family."""

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP

from polycycle.errors import ConfigError, UpcycleError
from polycycle.modeling import record_routing
from polycycle.routing import LanguageClassifier, dispatch
from polycycle.surgery import freeze_for, upcycle
from tests.tiny import FAMILIES, load, save_dense, token_ids

LAYERS = [0, 2]


def classified(folder, family="llama", **settings):
    """(dense, moe with classifiers on two of three layers)."""
    save_dense(folder / "dense", family)
    settings = {"num_experts": 4, "classifier_layers": LAYERS, **settings}
    upcycle(folder / "dense", folder / "moe", **settings)
    return load(folder / "dense"), load(folder / "moe")


def classifiers(moe):
    return [module for module in moe.modules() if isinstance(module, LanguageClassifier)]


def set_scores(moe, *, seed=0, threshold=0.0):
    generator = torch.Generator().manual_seed(seed)
    for classifier in classifiers(moe):
        classifier.weight.data = torch.randn(classifier.weight.shape, generator=generator)
        classifier.threshold = threshold


def decisions(routing):
    return [layer.classifier_scores > 0 for layer in routing.layers if layer.layer_index in LAYERS]


@pytest.fixture(scope="module", params=FAMILIES)
def models(request, tmp_path_factory):
    return classified(tmp_path_factory.mktemp("classifier"), request.param)


@torch.no_grad()
def test_an_untrained_classifier_judges_nothing_original(models):
    dense, moe = models
    for classifier in classifiers(moe):
        classifier.weight.data.zero_()
        classifier.threshold = 0.0
    ids = token_ids(2, 20)
    with record_routing(moe) as routing:
        logits = moe(ids).logits
    assert len(classifiers(moe)) == 2
    assert all((layer.expert_ids >= 0).all() for layer in routing.layers)
    expected = dense(ids).logits
    assert (logits - expected).abs().max() <= 2e-6 * expected.abs().max()


@torch.no_grad()
def test_tokens_judged_original_take_expert_0_alone_and_others_are_routed(models):
    _, moe = models
    set_scores(moe)
    with record_routing(moe) as routing:
        moe(token_ids(2, 30))
    for layer in routing.layers:
        if layer.layer_index not in LAYERS:
            assert layer.classifier_scores is None
            continue
        judged = layer.classifier_scores > 0
        assert judged.any()
        assert not judged.all()
        assert (layer.expert_ids[judged] == torch.tensor([0, -1])).all()
        assert (layer.expert_weights[judged] == torch.tensor([1.0, 0.0])).all()
        assert (layer.expert_ids[~judged] >= 0).all()


@torch.no_grad()
def test_prefill_decoding_padding_and_packing_do_not_change_a_decision(models):
    _, moe = models
    set_scores(moe)
    first, second = token_ids(1, 9, seed=1), token_ids(1, 12, seed=2)
    alone = []
    for document in (first, second):
        with record_routing(moe) as routing:
            moe(document, use_cache=False)
        alone.append(decisions(routing))

    cache = None
    with record_routing(moe) as steps:
        for position in range(first.shape[1]):
            token = first[:, position : position + 1]
            cache = moe(token, past_key_values=cache, use_cache=True).past_key_values
    assert all(map(torch.equal, decisions(steps), alone[0]))

    padded = torch.cat([torch.cat([first, torch.ones(1, 3, dtype=torch.long)], 1), second])
    mask = torch.cat([(torch.arange(12) < 9)[None], torch.ones(1, 12, dtype=torch.bool)]).long()
    with record_routing(moe) as together:
        moe(padded, attention_mask=mask)
    for got, one, two in zip(decisions(together), *alone, strict=True):
        assert torch.equal(got[:9], one)
        assert torch.equal(got[12:], two)

    positions = torch.cat([torch.arange(9), torch.arange(12)])[None]
    with record_routing(moe) as packed:
        moe(torch.cat([first, second], 1), position_ids=positions, use_cache=False)
    for got, one, two in zip(decisions(packed), *alone, strict=True):
        assert torch.equal(got, torch.cat([one, two]))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_every_token_judged_original_in_every_layer_the_model_is_the_dense_one(
    tmp_path, dtype
):
    dense, moe = classified(tmp_path, classifier_layers=[0, 1, 2])
    dense, moe = dense.to(dtype), moe.to(dtype)
    set_scores(moe, threshold=-1e9)
    ids = token_ids(2, 20)
    assert torch.equal(moe(ids).logits, dense(ids).logits)


def test_classifiers_are_trained_in_review_and_frozen_before(tmp_path):
    _, moe = classified(tmp_path)
    names = {f"model.layers.{layer}.mlp.router.classifier.weight" for layer in LAYERS}
    assert not names & set(freeze_for(moe, "post_pretrain"))
    assert names <= set(freeze_for(moe, "review"))


def test_while_new_experts_learn_no_classifier_keeps_text_from_them(tmp_path):
    _, moe = classified(tmp_path)
    set_scores(moe, threshold=-1e9)  # as one that takes a language it has not met for original
    ids, judged = token_ids(2, 20), {}
    for stage in ("post_pretrain", "review"):
        freeze_for(moe, stage)
        for mode in (True, False):
            moe.train(mode)
            with record_routing(moe) as routing:
                moe(ids, use_cache=False)
            judged[stage, mode] = routing.layers[0].judged_original.float().mean().item()
    assert judged == {
        ("post_pretrain", True): 0.0,
        ("post_pretrain", False): 1.0,
        ("review", True): 1.0,
        ("review", False): 1.0,
    }


@torch.no_grad()
def test_new_experts_are_run_for_no_token_that_is_judged_original(tmp_path, monkeypatch):
    _, moe = classified(tmp_path, classifier_layers=[0, 1, 2])
    set_scores(moe)
    rows = {"frozen": [], "new": []}
    run_new, run_frozen = dispatch._run_new_experts, LlamaMLP.forward

    def count_new(inputs, counts, *rest):
        rows["new"].append(len(inputs))
        return run_new(inputs, counts, *rest)

    def count_frozen(self, hidden):
        rows["frozen"].append(hidden.reshape(-1, hidden.shape[-1]).shape[0])
        return run_frozen(self, hidden)

    monkeypatch.setattr(dispatch, "_run_new_experts", count_new)
    monkeypatch.setattr(LlamaMLP, "forward", count_frozen)
    with record_routing(moe) as routing:
        moe(token_ids(2, 30), use_cache=False)
    for layer, new, frozen in zip(routing.layers, rows["new"], rows["frozen"], strict=True):
        others = layer.expert_ids[~layer.judged_original]
        assert new == (others > 0).sum()
        assert frozen == layer.judged_original.sum() + (others == 0).sum()
        assert new < 2 * 60
    # Judged original without exception, no new expert runs at all.
    set_scores(moe, threshold=-1e9)
    rows["new"].clear()
    moe(token_ids(2, 30), use_cache=False)
    assert rows["new"] == []


@torch.no_grad()
def test_the_published_form_decides_once_per_sequence(tmp_path):
    _, moe = classified(tmp_path, classifier_form="sequence")
    set_scores(moe)
    with record_routing(moe) as routing:
        moe(token_ids(6, 10), use_cache=False)
    for decided in decisions(routing):
        rows = decided.reshape(6, 10)
        assert (rows == rows[:, :1]).all()
        assert 0 < rows[:, 0].sum() < 6


@torch.no_grad()
def test_the_published_form_refuses_caches_and_packed_rows(tmp_path):
    _, moe = classified(tmp_path, classifier_form="sequence")
    ids = token_ids(1, 8)
    with pytest.raises(ConfigError, match="use_cache=False"):
        moe.generate(ids, max_new_tokens=3, attention_mask=torch.ones_like(ids))
    positions = torch.cat([torch.arange(4), torch.arange(4)])[None]
    with pytest.raises(ConfigError, match="packed documents"):
        moe(ids, position_ids=positions, use_cache=False)


@pytest.mark.parametrize(("layer", "num_experts"), [(3, 4), (-1, 4), (1, (4, 1, 4))])
def test_a_layer_that_is_no_mixture_of_experts_gets_no_classifier(tmp_path, layer, num_experts):
    with pytest.raises(UpcycleError, match=r"choose among \[0"):
        classified(tmp_path, classifier_layers=[layer], num_experts=num_experts)
