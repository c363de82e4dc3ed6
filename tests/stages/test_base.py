"""The microworld's base in its sizes and families, and siblings of any base."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from polycycle.checkpoint import open_checkpoint
from polycycle.errors import ConfigError
from polycycle.families import SUPPORTED
from polycycle.stages import (
    HIDDEN_SIZE,
    build_base,
    build_sibling,
    shipped_base,
    write_siblings,
)
from polycycle.stages import base as building
from polycycle.stages.base import _widths
from polycycle.surgery import check_siblings
from polycycle.training import use_one_gpu
from tests.text import VOCAB_SIZE, make_tokenizer
from tests.tiny import save_dense


@pytest.mark.parametrize("family", SUPPORTED)
def test_a_base_has_the_same_shape_in_every_family(family):
    shape = building._shape(family, HIDDEN_SIZE)
    config = AutoConfig.for_model(family, vocab_size=2048, **shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert (config.num_hidden_layers, config.eos_token_id) == (4, 0)
    assert 1.59e6 < model.num_parameters() < 1.61e6


def test_the_usual_size_is_that_of_the_shipped_base_and_others_are_in_proportion():
    config = json.loads((shipped_base() / "config.json").read_text("utf-8"))
    usual = _widths(HIDDEN_SIZE)
    assert {key: config[key] for key in usual} == usual
    for size in (32, 96, 256):
        widths = _widths(size)
        assert widths["hidden_size"] == 32 * widths["num_attention_heads"] == size
        assert widths["intermediate_size"] / size == pytest.approx(2.8, rel=0.1)


@pytest.mark.parametrize("size", [0, 16, 100])
def test_a_size_that_heads_do_not_fit_is_refused_before_anything_is_trained(tmp_path, size):
    with pytest.raises(ConfigError, match="multiple of that, such as 160"):
        build_base(tmp_path / "base", hidden_size=size)
    assert not (tmp_path / "base").exists()


def test_an_unknown_family_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigError, match=r"no family 'qwen4'\. Did you mean 'qwen"):
        build_base(tmp_path / "base", family="qwen4")
    assert not (tmp_path / "base").exists()


@pytest.mark.slow
def test_a_base_of_another_family_and_its_sibling_are_siblings(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "TRACE_TOKENS", 400)
    build_base(tmp_path / "base", family="qwen3", tokens=30_000)
    build_sibling(tmp_path / "post", tmp_path / "base", form="equation", tokens=3_000)
    base, post = (open_checkpoint(tmp_path / name) for name in ("base", "post"))
    assert base.config["model_type"] == "qwen3"
    assert check_siblings(base, post) == []


def test_any_dense_model_gets_a_sibling_without_a_padding_token_too(tmp_path):
    base = save_dense(tmp_path / "base", "mistral", vocab_size=VOCAB_SIZE, dtype=torch.bfloat16)
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(base)
    build_sibling(tmp_path / "post", str(base), form="reading", tokens=9_000, learning_rate=1e-2)
    one, other = (open_checkpoint(folder) for folder in (base, tmp_path / "post"))
    assert check_siblings(one, other) == []
    name = "model.layers.1.mlp.up_proj.weight"
    assert other.info(name).dtype == "BF16"
    assert not torch.equal(one.read(name), other.read(name))
    assert AutoTokenizer.from_pretrained(other.folder).pad_token is None


def test_one_process_trains_on_one_gpu_where_it_sees_several(tmp_path, monkeypatch):
    seeing_four = SimpleNamespace(device="cuda:0", n_gpu=4, _n_gpu=4)
    use_one_gpu(seeing_four)
    assert seeing_four._n_gpu == 1
    seeing_none = SimpleNamespace(device="cpu", n_gpu=0, _n_gpu=0)
    use_one_gpu(seeing_none)
    assert seeing_none._n_gpu == 0

    asked = []
    monkeypatch.setattr(building, "use_one_gpu", asked.append)
    base = save_dense(tmp_path / "base", vocab_size=VOCAB_SIZE)
    make_tokenizer().save_pretrained(base)
    build_sibling(tmp_path / "post", base, form="brackets", tokens=1_000)
    assert len(asked) == 1


def test_a_sibling_of_another_base_than_the_one_that_is_there_is_not_taken(tmp_path, monkeypatch):
    base = save_dense(tmp_path / "base", vocab_size=VOCAB_SIZE)
    make_tokenizer().save_pretrained(base)
    build_sibling(tmp_path / "brackets", base, form="brackets", tokens=1_000)
    monkeypatch.setattr("polycycle.stages.demo.build_sibling", None)  # none is made again
    write_siblings(tmp_path, base, ["brackets"], seed=0, tell=lambda note: None)

    shutil.rmtree(base)
    make_tokenizer().save_pretrained(save_dense(base, vocab_size=VOCAB_SIZE, num_hidden_layers=1))
    with pytest.raises(ConfigError, match=r"brackets is a sibling of another base .* Remove"):
        write_siblings(tmp_path, base, ["brackets"], seed=0, tell=lambda note: None)

    (tmp_path / "brackets" / "sibling.json").unlink()  # of an older polycycle: on trust
    write_siblings(tmp_path, base, ["brackets"], seed=0, tell=lambda note: None)
