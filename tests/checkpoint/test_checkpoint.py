"""Reading lazily, writing streamed, and saying what is wrong with a folder."""

import json
import shutil
from dataclasses import replace
from fnmatch import fnmatch

import pytest
import torch
from safetensors.torch import load_file, save_file

from polycycle.checkpoint import (
    TensorJob,
    content_hash,
    folder_hash,
    open_checkpoint,
    own_tokenizer,
    write_tensors,
)
from polycycle.errors import CheckpointError
from tests.surgery.siblings import add_tokenizer
from tests.text import VOCAB_SIZE, make_tokenizer
from tests.tiny import edit_config, save_dense


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return save_dense(tmp_path_factory.mktemp("dense") / "model")


def job(name, tensor, dtype):
    return TensorJob(name=name, dtype=dtype, shape=tuple(tensor.shape), make=lambda: tensor)


def test_safetensors_reads_what_we_streamed(tmp_path):
    tensors = {
        "a": (torch.randn(3, 4), "F32"),
        "b": (torch.randn(5).bfloat16(), "BF16"),
        "c": (torch.arange(6).reshape(2, 3).t(), "I64"),
        "empty": (torch.zeros(0, 4), "F32"),
        "scalar": (torch.tensor(2.5, dtype=torch.float16), "F16"),
    }
    write_tensors(tmp_path, [job(name, t, dtype) for name, (t, dtype) in tensors.items()])
    read = load_file(tmp_path / "model.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, (tensor, _) in tensors.items())


def test_a_tensor_that_is_not_as_planned_is_our_bug(tmp_path):
    wrong = TensorJob(name="a", dtype="F32", shape=(2,), make=lambda: torch.zeros(3))
    with pytest.raises(AssertionError, match="planned F32"):
        write_tensors(tmp_path, [wrong])


def test_the_content_hash_sees_names_dtypes_shapes_and_values(tmp_path):
    def hash_of(number, **tensors):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
        return content_hash(open_checkpoint(folder))

    ones = torch.ones(2, 2)
    variants = [
        {"a": ones},
        {"b": ones},
        {"a": ones.flatten()},
        {"a": ones * 2},
        {"a": ones.half()},
    ]
    hashes = [hash_of(number, **variant) for number, variant in enumerate(variants)]
    assert len(set(hashes)) == len(variants)
    assert hash_of("again", a=ones.clone()) == hashes[0]


def break_nothing(folder):
    shutil.rmtree(folder)


def remove_config(folder):
    (folder / "config.json").unlink()


def break_config(folder):
    (folder / "config.json").write_text("{")


def truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def only_pickles(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def missing_shard(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (break_nothing, "no such folder"),
        (remove_config, r"no config\.json"),
        (break_config, "not valid JSON"),
        (truncate, "truncated"),
        (only_pickles, "save_pretrained"),
        (no_weights, r"no model\.safetensors"),
        (missing_shard, "shard model-00001-of-00002.safetensors is missing"),
    ],
)
def test_a_broken_folder_is_refused_with_what_is_wrong(dense, tmp_path, harm, message):
    folder = shutil.copytree(dense, tmp_path / "model")
    harm(folder)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_the_longest_context_is_what_the_config_says_up_to_what_is_asked_for(dense):
    checkpoint = open_checkpoint(dense)
    said = {1000: 256, 100: 100}
    assert {most: checkpoint.longest_context(most) for most in said} == said
    assert replace(checkpoint, config={}).longest_context(1000) == 1000
    unlimited = {"max_position_embeddings": None}
    assert replace(checkpoint, config=unlimited).longest_context(1000) == 1000


def test_the_folder_hash_sees_config_and_what_travels_with_the_weights_wherever_they_lie(
    dense, tmp_path
):
    folder = shutil.copytree(dense, tmp_path / "model")
    seen = [folder_hash(open_checkpoint(dense)), folder_hash(open_checkpoint(folder))]
    (folder / "README.md").write_text("# No part of the model")
    seen.append(folder_hash(open_checkpoint(folder)))
    assert len(set(seen)) == 1
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    seen.append(folder_hash(open_checkpoint(folder)))
    (folder / "generation_config.json").write_text('{"do_sample": true}')
    seen.append(folder_hash(open_checkpoint(folder)))
    edit_config(folder, rms_norm_eps=0.5)
    seen.append(folder_hash(open_checkpoint(folder)))
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    seen.append(folder_hash(open_checkpoint(folder)))
    assert len(set(seen)) == 5


def test_a_hub_model_is_fetched_at_its_revision_without_pickles_or_code(dense, monkeypatch):
    asked = {}

    def snapshot_download(name, *, revision, allow_patterns):
        asked.update(name=name, revision=revision, allow=allow_patterns)
        return str(dense)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    checkpoint = open_checkpoint("org/model", revision="abc")
    assert checkpoint.name == "org/model"
    assert checkpoint.folder == dense
    assert (asked["name"], asked["revision"]) == ("org/model", "abc")
    wanted = ["model-00001-of-00002.safetensors", "config.json", "tokenizer.json", "NOTICE"]
    unwanted = ["pytorch_model.bin", "modeling_custom.py", "model.pt", "optimizer.pkl"]
    fits = [any(fnmatch(name, p) for p in asked["allow"]) for name in wanted + unwanted]
    assert fits == [True] * 4 + [False] * 4


def test_a_hub_id_that_cannot_be_fetched_says_what_to_try():
    with pytest.raises(CheckpointError, match="hf auth login"):
        open_checkpoint("nobody/nothing")


def test_a_models_own_tokenizer_is_used_where_its_ids_mean_the_same(tmp_path):
    given = make_tokenizer()
    model = open_checkpoint(save_dense(tmp_path / "model", vocab_size=VOCAB_SIZE))
    assert own_tokenizer(model, given) is given
    own = make_tokenizer()
    own.add_special_tokens({"eos_token": "<end>"})
    own.chat_template = "{{ messages }}"
    own.save_pretrained(model.folder)
    found = own_tokenizer(model, given)
    assert (found.eos_token, found.chat_template) == ("<end>", "{{ messages }}")
    add_tokenizer(model.folder, exchange=("e", "h"))
    assert own_tokenizer(model, given) is given
