"""Source-shielded updates: which columns are frozen, and that nothing moves them."""

import pytest
import torch

from polycycle.baselines import (
    column_scores,
    highest_columns,
    shield_columns,
    shielded_tensors,
)
from polycycle.baselines.shielded import ShieldedLinear, linear_maps
from polycycle.checkpoint import open_checkpoint
from polycycle.surgery import write_trained
from tests.tiny import FAMILIES, load, save_dense, token_ids


def documents(count=6, length=20):
    return [token_ids(length - n, seed=n).to(torch.int32).numpy() for n in range(count)]


def logits(model):
    with torch.no_grad():
        return model(token_ids(2, 20)).logits


def shielded(folder, family="llama", share=0.5, **settings):
    model = load(save_dense(folder, family, **settings))
    frozen = highest_columns(column_scores(model, documents()), share)
    shield_columns(model, frozen)
    return model, frozen


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shielded_model_computes_what_the_base_computed_bit_for_bit(tmp_path, family, dtype):
    model, frozen = shielded(tmp_path, family, dtype=dtype)
    base = load(tmp_path)
    assert torch.equal(logits(model), logits(base))
    assert set(frozen) == set(linear_maps(base))
    assert not any("lm_head" in name for name in frozen)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_step_and_no_weight_decay_moves_a_frozen_column(tmp_path, family):
    model, frozen = shielded(tmp_path / "base", family, initializer_range=0.1)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.5)
    for seed in range(3):
        ids = token_ids(2, 12, seed=seed)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    base = open_checkpoint(tmp_path / "base")
    tensors = shielded_tensors(model)
    assert set(tensors) == set(base.tensors)
    for name, tensor in tensors.items():
        same = tensor == base.read(name)
        columns = frozen.get(name.removesuffix(".weight"))
        if columns is None:
            assert not same.all(), name
            continue
        free = torch.ones(tensor.shape[1], dtype=torch.bool)
        free[columns] = False
        assert same[:, columns].all(), name
        assert not same[:, free].all(0).any(), name
    (tmp_path / "out").mkdir()
    write_trained(base, tensors, tmp_path / "out")
    again = load(tmp_path / "out")
    assert type(again) is type(load(tmp_path / "base"))
    assert torch.equal(logits(again), logits(model.eval()))


def test_scores_are_the_formula(tmp_path):
    model = load(save_dense(tmp_path))
    seen = {}
    name = "model.layers.1.mlp.down_proj"
    linear = linear_maps(model)[name]
    hook = linear.register_forward_pre_hook(lambda _, args: seen.setdefault("x", args[0]))
    (document,) = documents(1)
    score = column_scores(model, [document])[name]
    hook.remove()
    x, weight = seen["x"][0].double(), linear.weight.detach().double()
    for column in (0, 7, 47):
        norm = sum(float(value) ** 2 for value in x[:, column]) ** 0.5
        wanted = sum(abs(float(one)) * norm for one in weight[:, column])
        assert score[column].item() == pytest.approx(wanted, rel=1e-9)


def test_neither_order_nor_rows_of_documents_change_scores(tmp_path):
    model = load(save_dense(tmp_path)).double()
    together = column_scores(model, documents())
    alone = column_scores(model, documents()[::-1], row_tokens=1)
    for name, score in together.items():
        torch.testing.assert_close(alone[name], score, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("share", "count"), [(0.5, 16), (0.25, 8), (0.99, 31), (0.01, 0)])
def test_the_share_with_the_highest_scores_is_frozen(share, count):
    scores = {"map": torch.arange(32, dtype=torch.float64).flip(0)}
    assert highest_columns(scores, share)["map"].tolist() == list(range(count))


def test_only_what_is_free_has_gradients_and_is_counted(tmp_path):
    model, frozen = shielded(tmp_path, share=0.75)
    for name, module in model.named_modules():
        if isinstance(module, ShieldedLinear):
            assert isinstance(module, torch.nn.Linear)
            assert list(dict(module.named_parameters())) == ["columns"]
            assert module.columns.shape[1] == module.in_features - len(frozen[name])
            assert module.weight.shape == (module.out_features, module.in_features)
