"""Similarity of languages: against all pairs of tokens, in every family, however it is batched."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from polycycle.allocation import similarity_table
from polycycle.errors import CheckpointError, UpcycleError
from polycycle.evaluation import mean_unit_vectors
from polycycle.languages import LanguageGroups
from polycycle.surgery import upcycle
from tests.tiny import FAMILIES, load, save_dense, token_ids


def texts(seed, lengths=(17, 5, 40, 1, 23)):
    """Documents of random tokens."""
    return [token_ids(n, seed=100 * seed + i).int().numpy() for i, n in enumerate(lengths)]


@torch.no_grad()
def ffn_inputs(model, documents):
    """[T, D] per layer: every FFN input, one document at a time, as the released code takes it."""
    kept = [[] for _ in model.model.layers]
    handles = [
        layer.mlp.register_forward_pre_hook(lambda _, args, i=i: kept[i].append(args[0][0]))
        for i, layer in enumerate(model.model.layers)
    ]
    for document in documents:
        model(input_ids=torch.from_numpy(document).long()[None])
    for handle in handles:
        handle.remove()
    return [torch.cat(rows) for rows in kept]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_mean_cosine_over_all_pairs_of_tokens(family, tmp_path):
    model = load(save_dense(tmp_path, family), torch.float64)
    el, en, hu = texts(1), texts(2), texts(3)
    groups = LanguageGroups(original=("en",), expanded=(("el", "hu"),))
    by_language = {"en": en, "el": el, "hu": hu}
    means = {tag: mean_unit_vectors(model, docs).numpy() for tag, docs in by_language.items()}
    table = similarity_table(means, groups)
    inputs = {tag: ffn_inputs(model, docs) for tag, docs in by_language.items()}
    for layer in range(3):
        for i, a in enumerate(table.languages):
            for j, b in enumerate(table.languages):
                pairs = torch.cosine_similarity(
                    inputs[a][layer][:, None], inputs[b][layer][None], dim=-1
                )
                assert pairs.shape == (86, 86)
                # Gemma 2's attention computes its softmax in float32: 6e-10 seen.
                rounding = 1e-8 if family == "gemma2" else 1e-12
                assert table.values[layer][i][j] == pytest.approx(pairs.mean().item(), abs=rounding)


@pytest.mark.parametrize("row_tokens", [1, 30, 64, 10_000])
def test_neither_order_nor_rows_change_it(row_tokens, tmp_path):
    model = load(save_dense(tmp_path), torch.float64)
    documents = texts(1)
    expected = mean_unit_vectors(model, documents)
    got = mean_unit_vectors(model, documents[::-1], row_tokens=row_tokens)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_a_fresh_upcycle_gives_the_dense_models_table(tmp_path):
    dense = save_dense(tmp_path / "dense")
    upcycle(dense, tmp_path / "moe", num_experts=(3, 1, 4))
    vectors = [
        mean_unit_vectors(load(folder, torch.float64), texts(1))
        for folder in (dense, tmp_path / "moe")
    ]
    torch.testing.assert_close(*vectors, rtol=0, atol=1e-12)


def test_where_classifiers_judge_whole_rows_every_document_has_its_own(tmp_path):
    upcycle(
        save_dense(tmp_path / "dense"),
        tmp_path / "moe",
        num_experts=4,
        classifier_layers=[0, 1],
        classifier_form="sequence",
    )
    model = load(tmp_path / "moe", torch.float64)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "classifier" in name or ".experts." in name:
            parameter.data += torch.randn_like(parameter)
    got = mean_unit_vectors(model, texts(1), row_tokens=10_000)
    slowly = [F.normalize(inputs, dim=-1).mean(0) for inputs in ffn_inputs(model, texts(1))]
    torch.testing.assert_close(got, torch.stack(slowly), rtol=0, atol=1e-12)


def test_the_model_is_left_as_it_was(tmp_path):
    model = load(save_dense(tmp_path)).train()
    seen = []
    means = mean_unit_vectors(model, texts(1), row_tokens=30, progress=seen.append)
    assert model.training
    assert not any(layer.mlp._forward_pre_hooks for layer in model.model.layers)
    assert means.dtype == torch.float64
    assert sum(seen) == 86
    assert max(seen) == 40
    assert (means.norm(dim=-1) <= 1).all()


def test_a_language_with_itself_has_the_squared_length_of_its_mean(tmp_path):
    means = mean_unit_vectors(load(save_dense(tmp_path)), texts(1)).numpy()
    groups = LanguageGroups(original=("en",), expanded=(("el",),))
    table = similarity_table({"en": means, "el": means}, groups)
    assert np.allclose(table.per_layer, (means**2).sum(-1))


def test_a_model_without_feed_forward_layers_is_refused(tmp_path):
    model = load(save_dense(tmp_path))
    del model.model.layers[1].mlp
    with pytest.raises(UpcycleError, match="no feed-forward block"):
        mean_unit_vectors(model, texts(1))
    with pytest.raises(UpcycleError, match="Linear has no feed-forward block"):
        mean_unit_vectors(torch.nn.Linear(2, 2), texts(1))


def test_weights_that_overflow_are_named_by_layer(tmp_path):
    model = load(save_dense(tmp_path))
    model.model.layers[1].self_attn.o_proj.weight.data.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="layer 1"):
        mean_unit_vectors(model, texts(1))


def test_no_text_is_our_callers_bug(tmp_path):
    with pytest.raises(ValueError, match="no documents"):
        mean_unit_vectors(load(save_dense(tmp_path)), [])
