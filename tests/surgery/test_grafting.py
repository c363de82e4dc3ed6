"""Grafting: targets, records, references, vocabularies, and what is refused."""

import pytest
import torch

from polycycle.checkpoint import content_hash, open_checkpoint
from polycycle.errors import CheckpointError, ConfigError, GraftError, UpcycleError
from polycycle.modeling import frozen_expert_only, why_no_dense_reference
from polycycle.surgery import (
    deltas,
    graft,
    grow,
    inspect_checkpoint,
    pack,
    save_delta,
    ungraft,
    unpack,
    upcycle,
)
from tests.surgery.siblings import (
    add_tokenizer,
    change,
    config_of,
    delta_of,
    post_trained,
    siblings,
    tensors,
)
from tests.surgery.test_growing import finished
from tests.text import VOCAB_SIZE
from tests.tiny import edit_config, load, save_dense, token_ids

DTYPES = (torch.float32, torch.bfloat16)


TARGETS = {
    "all": {"shared", "frozen", "new"},
    "shared": {"shared"},
    "experts": {"frozen", "new"},
    "frozen-expert": {"frozen"},
}


@pytest.mark.parametrize("on", TARGETS)
@pytest.mark.parametrize("family", ["qwen2", "phi3", "gemma3_text"])
def test_a_graft_changes_what_it_was_told_to_and_nothing_else(tmp_path, family, on):
    moe, base, post = siblings(tmp_path, family, classifier_layers=[2], exact_retention=True)
    graft(moe, [delta_of(post, base)], tmp_path / "out", on=on)
    before, after = tensors(moe), tensors(tmp_path / "out")
    for name in before:
        part = "shared"
        if ".mlp." in name:
            part = "frozen" if name in tensors(base) else "new" if ".experts." in name else "router"
        assert torch.equal(before[name], after[name]) == (part not in TARGETS[on]), name
    if on != "all":
        assert "only part of the tensors" in why_no_dense_reference(config_of(tmp_path / "out"))


def test_ungrafting_takes_all_grafts_away_and_wants_every_delta(tmp_path):
    moe, base, post = siblings(tmp_path)
    other = post_trained(base, tmp_path / "other", seed=2)
    one, two = delta_of(post, base), delta_of(other, base, 0.5)
    graft(moe, [one], tmp_path / "first")
    graft(tmp_path / "first", [two], tmp_path / "second")
    dense = open_checkpoint(base)
    with pytest.raises(GraftError, match=r"other.*not among --post"):
        ungraft(tmp_path / "second", dense, [one], tmp_path / "out")
    with pytest.raises(GraftError, match="not the base"):
        ungraft(tmp_path / "second", open_checkpoint(post), [one, two], tmp_path / "out")
    with pytest.raises(GraftError, match="has not been grafted"):
        ungraft(moe, dense, [one], tmp_path / "out")
    ungraft(tmp_path / "second", dense, [one, two], tmp_path / "out")
    back, before = tensors(tmp_path / "out"), tensors(moe)
    for name, tensor in before.items():
        assert torch.allclose(back[name], tensor, rtol=0, atol=1e-6), name
        assert torch.equal(back[name], tensor) or ".experts." in name


def test_kept_experts_that_were_trained_since_are_not_put_back(tmp_path):
    moe, base, post = siblings(tmp_path)
    delta = delta_of(post, base)
    graft(moe, [delta], tmp_path / "out", keep_ungrafted=True)
    change(tmp_path / "out", "model.layers.0.mlp.router.rows.g1", lambda rows: rows + 1)
    ungraft(tmp_path / "out", open_checkpoint(base), [delta], tmp_path / "reviewed")
    change(tmp_path / "out", "model.layers.0.mlp.experts.g1.down_proj", lambda pack: pack + 1)
    with pytest.raises(GraftError, match="trained after the graft"):
        ungraft(tmp_path / "out", open_checkpoint(base), [delta], tmp_path / "back")
    with pytest.raises(GraftError, match="graft all deltas at once"):
        graft(tmp_path / "out", [delta], tmp_path / "again", keep_ungrafted=True)


def test_a_grown_model_is_grafted_in_all_its_groups(tmp_path):
    moe, base, post = siblings(tmp_path)
    grow(moe, tmp_path / "g2", new_experts=(2, 3, 0))
    graft(tmp_path / "g2", [delta_of(post, base)], tmp_path / "out")
    before, after, dense = tensors(tmp_path / "g2"), tensors(tmp_path / "out"), tensors(post)
    new = "model.layers.1.mlp.experts.g2.down_proj"
    assert all(torch.equal(one, dense["model.layers.1.mlp.down_proj.weight"]) for one in after[new])
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) == (".router." in name), name
    assert config_of(tmp_path / "out")["masked_groups"] == ["g2"]
    load(tmp_path / "out")


@torch.no_grad()
def test_a_whole_graft_is_packed_onto_the_sibling_and_others_have_no_pack(tmp_path):
    moe, base, post = siblings(tmp_path)
    graft(moe, [delta_of(post, base)], tmp_path / "whole")
    pack(tmp_path / "whole", tmp_path / "pack")
    unpack(post, tmp_path / "pack", tmp_path / "back")
    ids = token_ids(2, 12)
    assert torch.equal(load(tmp_path / "back")(ids).logits, load(tmp_path / "whole")(ids).logits)
    with pytest.raises(CheckpointError, match="not the base of this pack"):
        unpack(base, tmp_path / "pack", tmp_path / "wrong")
    graft(moe, [delta_of(post, base, 0.5)], tmp_path / "half")
    with pytest.raises(UpcycleError, match=r"no dense model is its base .* at scale 0\.5"):
        pack(tmp_path / "half", tmp_path / "no")
    seen = inspect_checkpoint(open_checkpoint(tmp_path / "half"))
    assert (seen.base_hash, seen.no_reference) == (None, "the delta was added at scale 0.5")


def test_a_second_sibling_from_the_first_is_a_whole_graft_too(tmp_path):
    moe, base, post = siblings(tmp_path)
    later = post_trained(post, tmp_path / "later", seed=2)
    graft(moe, [delta_of(post, base)], tmp_path / "one")
    graft(tmp_path / "one", [delta_of(later, post)], tmp_path / "two")
    assert config_of(tmp_path / "two")["base_hash"] == content_hash(open_checkpoint(later))
    graft(tmp_path / "one", [delta_of(later, base)], tmp_path / "sum")
    assert "does not start from" in why_no_dense_reference(config_of(tmp_path / "sum"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_saved_delta_grafts_what_the_two_models_graft(tmp_path, dtype):
    moe, base, post = siblings(tmp_path, "qwen2", dtype)
    table = save_delta(open_checkpoint(base), open_checkpoint(post), tmp_path / "delta")
    graft(moe, [delta_of(post, base)], tmp_path / "one")
    graft(moe, [delta_of(tmp_path / "delta")], tmp_path / "other")
    one, other = (open_checkpoint(tmp_path / name) for name in ("one", "other"))
    experts = [name for name in one.tensors if ".experts." in name]
    assert content_hash(one, experts) == content_hash(other, experts)
    assert table.stored_as == "exact"
    if table.inexact_share == 0:  # then its dense tensors are POST's, and so is the hash
        assert content_hash(one) == content_hash(other)
        assert other.config["base_hash"] == content_hash(open_checkpoint(post))
    else:
        assert "bit for bit" in why_no_dense_reference(other.config)
    ungraft(tmp_path / "one", open_checkpoint(base), [delta_of(tmp_path / "delta")], tmp_path / "b")


def test_blocks_of_rows_make_no_difference(tmp_path, monkeypatch):
    moe, base, post = siblings(tmp_path, "phi3")
    graft(moe, [delta_of(post, base, 0.3)], tmp_path / "one")
    monkeypatch.setattr(deltas, "_BLOCK_ELEMENTS", 100)
    graft(moe, [delta_of(post, base, 0.3)], tmp_path / "other")
    hashes = {content_hash(open_checkpoint(tmp_path / name)) for name in ("one", "other")}
    assert len(hashes) == 1


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("rows", [120, 136])
def test_the_sibling_may_have_more_or_fewer_padding_rows(tmp_path, family, rows):
    moe, base, post = siblings(tmp_path, family)
    model = load(post)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(post)
    delta = delta_of(post, base)
    assert f"has {rows} token rows" in delta.notes[0]
    graft(moe, [delta], tmp_path / "whole")
    assert config_of(tmp_path / "whole")["base_hash"] == content_hash(open_checkpoint(post))
    ids = token_ids(2, 12) % 100
    with frozen_expert_only():
        assert torch.equal(load(tmp_path / "whole")(ids).logits, load(post)(ids).logits)
    save_delta(open_checkpoint(base), open_checkpoint(post), tmp_path / "delta")
    for number, one in enumerate(
        (delta_of(post, base, 0.5), delta_of(tmp_path / "delta", None, 0.5))
    ):
        graft(moe, [one], tmp_path / f"half{number}")
        got = tensors(tmp_path / f"half{number}")["model.embed_tokens.weight"]
        b, p = (tensors(folder)["model.embed_tokens.weight"] for folder in (base, post))
        common = min(len(b), len(p))
        expected = (b[:common].double() + 0.5 * (p[:common].double() - b[:common].double())).float()
        assert torch.equal(got[:common], expected)
        assert torch.equal(got[common:], p[common:])
        assert load(tmp_path / f"half{number}")(ids).logits.shape[-1] == rows
    ungraft(tmp_path / "whole", open_checkpoint(base), [delta], tmp_path / "back")
    assert load(tmp_path / "back").config.vocab_size == 128
    if rows > 128:
        with pytest.raises(GraftError, match="rows that are not there"):
            graft(moe, [delta], tmp_path / "no", on="experts")


def test_tokenizer_template_and_end_of_text_come_from_the_sibling(tmp_path):
    base = save_dense(tmp_path / "dense", vocab_size=VOCAB_SIZE)
    add_tokenizer(base)
    (base / "LICENSE").write_text("of the base")
    upcycle(base, tmp_path / "moe", num_experts=2)
    post = post_trained(base, tmp_path / "post")
    add_tokenizer(post)
    (post / "chat_template.jinja").write_text("{{ messages }}")
    graft(tmp_path / "moe", [delta_of(post, base, 0.5)], tmp_path / "out")
    out = tmp_path / "out"
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (out / "LICENSE").read_text() == "of the base"
    assert config_of(out)["eos_token_id"] == 7
    assert load(out).generation_config.eos_token_id == 7
    assert not config_of(out)["grafts"][0]["warnings"]


def test_a_whole_graft_has_the_siblings_settings_and_others_say_what_they_kept(tmp_path):
    moe, base, post = siblings(tmp_path, "qwen2")
    edit_config(post, max_position_embeddings=512, rms_norm_eps=1e-5)
    graft(moe, [delta_of(post, base)], tmp_path / "whole")
    assert config_of(tmp_path / "whole")["rms_norm_eps"] == 1e-5
    graft(moe, [delta_of(post, base, 2.0)], tmp_path / "twice")
    assert config_of(tmp_path / "twice")["rms_norm_eps"] != 1e-5
    warnings = config_of(tmp_path / "twice")["grafts"][0]["warnings"]
    assert [w.split(" is ")[0] for w in warnings if "is kept" in w] == [
        "max_position_embeddings",
        "rms_norm_eps",
    ]


def test_another_base_is_refused_unless_forced_and_then_on_record(tmp_path):
    moe, _, _ = siblings(tmp_path)
    wrong = save_dense(tmp_path / "wrong", initializer_range=0.2)
    delta = delta_of(post_trained(wrong, tmp_path / "sibling"), wrong)
    with pytest.raises(GraftError, match=r"not the base of .* --force"):
        graft(moe, [delta], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    plan = graft(moe, [delta], tmp_path / "out", force=True)
    assert any("forced" in warning for warning in plan.warnings)
    assert "does not start from" in why_no_dense_reference(config_of(tmp_path / "out"))
    with pytest.raises(GraftError, match="by --force"):
        ungraft(tmp_path / "out", open_checkpoint(wrong), [delta], tmp_path / "back")
    with pytest.raises(GraftError, match="not the base of"):  # still not its base
        graft(tmp_path / "out", [delta], tmp_path / "again")


def test_siblings_that_are_none_are_refused(tmp_path):
    base = save_dense(tmp_path / "base", vocab_size=VOCAB_SIZE)

    def refused(message, **settings):
        post = save_dense(tmp_path / "post", **{"vocab_size": VOCAB_SIZE, **settings})
        with pytest.raises(GraftError, match=message):
            delta_of(post, base)

    refused("a llama model and .* a mistral model", family="mistral")
    refused("ties its head", tie_word_embeddings=True)
    refused("only the number of token rows may differ", hidden_size=64)
    refused(r"has no tensor 'model\.layers\.3", num_hidden_layers=4)
    refused("has no tensor .*bias", attention_bias=True)
    post = post_trained(base, tmp_path / "post")
    with pytest.raises(GraftError, match="--base BASE"):
        delta_of(post)
    with pytest.raises(UpcycleError, match="already upcycled"):
        delta_of(finished(tmp_path / "moe"), base)
    add_tokenizer(base)
    assert "tokenizers were not compared: none beside" in delta_of(post, base).notes[0]
    add_tokenizer(post, exchange=("e", "h"))
    with pytest.raises(GraftError, match=r"disagree on 2 ids .*'e' and 'h'"):
        delta_of(post, base)


@pytest.mark.parametrize("broken", ["dense", "post", "g1"])
def test_values_that_are_not_finite_are_refused(tmp_path, broken):
    moe, base, post = siblings(tmp_path)
    place = "model.layers.0.mlp.down_proj.weight"
    if broken == "g1":
        place = "model.layers.0.mlp.experts.g1.down_proj"
    change(tmp_path / broken, place, lambda tensor: tensor.clone().fill_(torch.nan))
    with pytest.raises(GraftError, match=r"layers\.0\.mlp.*not finite"):
        graft(moe, [delta_of(post, base)], tmp_path / "out", force=True)
    assert not (tmp_path / "out").exists()


def test_a_sum_that_overflows_and_a_frozen_tensor_that_moved_are_refused(tmp_path):
    moe, base, post = siblings(tmp_path, dtype=torch.float16)
    with pytest.raises(GraftError, match="smaller scale"):
        graft(moe, [delta_of(post, base, 1e7)], tmp_path / "out")
    change(moe, "model.norm.weight", lambda norm: norm + 1)
    with pytest.raises(GraftError, match=r"model\.norm\.weight .* trained by other means"):
        graft(moe, [delta_of(post, base)], tmp_path / "out")
    with pytest.raises(ConfigError, match="one of the models"):
        graft(moe, [delta_of(post, base)], post)
    with pytest.raises(GraftError, match="nothing to graft"):
        graft(moe, [], tmp_path / "out")
    with pytest.raises(GraftError, match="choose one of all, shared"):
        graft(moe, [delta_of(post, base)], tmp_path / "out", on="head")
