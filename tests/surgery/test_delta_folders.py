"""Saved deltas: the norms are right, exact is exact, and rounding is told."""

import json

import pytest
import torch

from polycycle.checkpoint import open_checkpoint
from polycycle.errors import ConfigError, GraftError
from polycycle.surgery import NORMS, save_delta
from tests.surgery.siblings import add_tokenizer, delta_of, post_trained, tensors
from tests.tiny import save_dense


def pair(folder, family="llama", dtype=torch.float32, std=0.05):
    base = save_dense(folder / "base", family, dtype=dtype)
    return base, post_trained(base, folder / "post", std=std)


def saved(base, post, out, **settings):
    return save_delta(open_checkpoint(base), open_checkpoint(post), out, **settings)


@pytest.mark.parametrize("family", ["qwen2", "phi3"])
@pytest.mark.parametrize(("dtype", "wide"), [("float32", "float64"), ("bfloat16", "float32")])
def test_a_delta_is_the_difference_one_precision_wider(tmp_path, family, dtype, wide):
    base, post = pair(tmp_path, family, getattr(torch, dtype))
    table = saved(base, post, tmp_path / "delta")
    b, p, d = (tensors(folder) for folder in (base, post, tmp_path / "delta"))
    assert d.keys() == b.keys()
    squares = {}
    for row in table.tensors:
        name, delta = row.name, d[row.name]
        assert delta.dtype == getattr(torch, wide)
        assert torch.equal(delta, p[name].to(delta.dtype) - b[name].to(delta.dtype))
        expected = (p[name].double() - b[name].double()).norm().item()
        assert row.norm == pytest.approx(expected, rel=1e-6)
        whole = b[name].double().norm().item()
        if whole:
            assert row.relative == pytest.approx(expected / whole, rel=1e-6)
        else:  # Qwen's biases begin at zero
            assert row.relative is None
        assert row.largest == delta.abs().max().item()
        squares[name] = expected**2, b[name].double().square().sum().item()
    whole = sum(one for one, _ in squares.values()) / sum(two for _, two in squares.values())
    assert table.relative == pytest.approx(whole**0.5, rel=1e-6)
    assert (table.stored_as, table.rounding_error) == ("exact", 0.0)
    assert json.loads((tmp_path / "delta" / NORMS).read_text()) == json.loads(
        json.dumps(table.to_json())
    )


def test_rounding_is_done_only_when_asked_and_told_per_tensor(tmp_path):
    base, post = pair(tmp_path)
    table = saved(base, post, tmp_path / "delta", dtype=torch.bfloat16)
    b, p, d = (tensors(folder) for folder in (base, post, tmp_path / "delta"))
    assert table.stored_as == "bfloat16"
    inexact = 0
    for row in table.tensors:
        exact = p[row.name].double() - b[row.name].double()
        error = (d[row.name].double() - exact).norm() / exact.norm()
        assert row.rounding_error == pytest.approx(error.item(), rel=1e-6)
        assert 0 < row.rounding_error < 2**-8
        again = (b[row.name].double() + d[row.name].double()).float()
        assert row.inexact == int((again != p[row.name]).sum())
        inexact += row.inexact
    assert table.inexact_share == inexact / sum(tensor.numel() for tensor in p.values()) > 0.9
    assert delta_of(tmp_path / "delta").stored_as == "bfloat16"
    assert delta_of(tmp_path / "delta", base).base_hash == delta_of(post, base).base_hash


def test_half_precision_weights_are_stored_exactly_in_float32_by_either_name(tmp_path):
    base, post = pair(tmp_path, dtype=torch.bfloat16)
    assert saved(base, post, tmp_path / "delta", dtype=torch.float32).stored_as == "exact"


def test_what_does_not_fit_and_a_delta_of_another_base_are_refused(tmp_path):
    base, post = pair(tmp_path, std=1e5)
    with pytest.raises(GraftError, match="does not fit into float16"):
        saved(base, post, tmp_path / "delta", dtype=torch.float16)
    assert not (tmp_path / "delta").exists()
    with pytest.raises(ConfigError, match="one of the models"):
        saved(base, post, post)
    add_tokenizer(post)
    saved(base, post, tmp_path / "delta")
    assert (tmp_path / "delta" / "tokenizer.json").exists()
    other = save_dense(tmp_path / "other", initializer_range=0.2)
    with pytest.raises(GraftError, match=r"is a delta from .*base .*polycycle delta .*other"):
        delta_of(tmp_path / "delta", other)
