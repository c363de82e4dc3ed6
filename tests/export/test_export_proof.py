"""A proof that cannot fail proves nothing: what is changed in an export is found."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from polycycle.errors import ExportError
from polycycle.export import execute_export, exporting, plan_export, verify
from tests.export.upcycled import save_upcycled
from tests.text import make_tokenizer
from tests.tiny import edit_config

GATE = "model.layers.1.block_sparse_moe.gate.weight"


def exported(tmp_path, dtype=torch.float32, **settings):
    model = save_upcycled(tmp_path, "llama", dtype=dtype, **settings)
    out = tmp_path / "out"
    execute_export(plan_export(model), out, with_verification=False)
    return model, out


def change(out, name, how):
    path = out / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = how(tensors[name]).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swapped_router_rows_are_found(tmp_path, dtype):
    model, out = exported(tmp_path, dtype)
    change(out, GATE, lambda rows: rows.flip(0))
    result = verify(out, model)
    assert not result["passed"]
    assert any("argmax agrees" in failure for failure in result["failures"])
    if dtype == torch.bfloat16:
        assert any(failure.startswith("in float32, ") for failure in result["failures"])


def test_half_precision_that_rounds_elsewhere_is_settled_in_float32(tmp_path):
    """Ernie's attention rounds otherwise than Llama's; both are as far from float32."""
    model, out = tmp_path / "moe", tmp_path / "ernie"
    save_upcycled(tmp_path, "llama", num_experts=[4, 3, 2], dtype=torch.bfloat16)
    execute_export(plan_export(model, target="ernie4_5_moe"), out, with_verification=False)
    result = verify(out, model)
    assert result["passed"]
    settled = result["settled_in_float32"]
    assert any("argmax agrees" in reason for reason in settled["because"])
    (compared,) = settled["languages"].values()
    assert compared["argmax_agreement"] == 1.0
    change(out, "model.layers.0.mlp.experts.0.up_proj.weight", lambda weight: weight * 1.1)
    assert not verify(out, model)["passed"]


def test_a_missing_and_an_unknown_tensor_are_found(tmp_path):
    model, out = exported(tmp_path)
    path = out / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.surplus.weight"] = tensors.pop("model.norm.weight").clone()
    save_file(tensors, path, metadata={"format": "pt"})
    failures = " ".join(verify(out, model)["failures"])
    assert "missing tensor names: model.norm.weight" in failures
    assert "unexpected tensor names: model.layers.0.surplus.weight" in failures


def test_lost_rope_scaling_is_found(tmp_path):
    scaled = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    model, out = exported(tmp_path, config={"rope_parameters": scaled})
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    edit_config(out, rope_parameters=plain, rope_scaling=plain)
    assert not verify(out, model)["passed"]


def test_another_tokenizer_is_found_on_real_text(tmp_path):
    model, out = exported(tmp_path, config={"vocab_size": 320})
    make_tokenizer().save_pretrained(model)
    other = make_tokenizer()
    other.add_tokens(["river"])
    other.save_pretrained(out)
    texts = {"en": ["the river runs down to the old town"], "el": ["το ποτάμι τρέχει"]}
    result = verify(out, model, texts=texts)
    assert result["failures"] == ["en: the exported tokenizer gives other token ids"]
    make_tokenizer().save_pretrained(out)
    assert verify(out, model, texts=texts)["passed"]


def test_a_folder_that_does_not_load_is_a_failed_proof(tmp_path):
    model, out = exported(tmp_path)
    (out / "model.safetensors").write_bytes(b"nothing")
    (failure,) = verify(out, model)["failures"]
    assert failure.startswith("the exported folder does not load or run: ")


def test_an_export_that_fails_its_proof_is_kept_aside_and_replaces_nothing(tmp_path, monkeypatch):
    model, out = exported(tmp_path)
    before = (out / "model.safetensors").read_bytes()
    monkeypatch.setattr(
        exporting, "verify", lambda *_, **__: {"passed": False, "failures": ["mean KL 3"]}
    )
    with pytest.raises(ExportError, match="mean KL 3"):
        execute_export(plan_export(model), out)
    assert (out / "model.safetensors").read_bytes() == before
    assert (tmp_path / "out.failed" / "config.json").is_file()
    assert not (tmp_path / "out.unverified").exists()
