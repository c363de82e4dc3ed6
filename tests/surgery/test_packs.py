"""Language packs: smaller by the base, and back bit for bit."""

import pytest
import torch

from polycycle.allocation import assign_experts
from polycycle.checkpoint import content_hash, open_checkpoint
from polycycle.errors import CheckpointError, ConfigError, UpcycleError
from polycycle.surgery import grow, pack, tensor_bytes, unpack, upcycle
from tests.surgery.test_growing import finished
from tests.tiny import FAMILIES, load, save_dense, token_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_base_and_pack_are_the_model_bit_for_bit(tmp_path, family):
    model = finished(tmp_path, family, classifier_layers=[2], exact_retention=True)
    left_out = pack(model, tmp_path / "pack")
    base, packed = open_checkpoint(tmp_path / "dense"), open_checkpoint(tmp_path / "pack")
    assert not set(base.tensors) & set(packed.tensors)
    assert left_out == sum(info.num_bytes for info in base.tensors.values())
    sizes = tensor_bytes(open_checkpoint(model))
    assert sizes.base == left_out
    packed_bytes = sum(info.num_bytes for info in packed.tensors.values())
    assert sum(sizes.groups) + sizes.shared == packed_bytes
    assert sizes.shared == 2 * 32 * 4  # a classifier and a gate
    unpack(tmp_path / "dense", tmp_path / "pack", tmp_path / "back")
    assert content_hash(open_checkpoint(tmp_path / "back")) == content_hash(open_checkpoint(model))
    ids = token_ids(2, 12)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "back")(ids).logits, load(model)(ids).logits)


def test_the_last_group_can_be_left_out(tmp_path):
    model = finished(tmp_path)
    grow(model, tmp_path / "g2", new_experts=(2, 0, 1), languages=("bn",))
    pack(tmp_path / "g2", tmp_path / "pack")
    unpack(tmp_path / "dense", tmp_path / "pack", tmp_path / "first", groups=1)
    back = open_checkpoint(tmp_path / "first")
    assert content_hash(back) == content_hash(open_checkpoint(model))
    assert back.config["num_experts_per_layer"] == [3, 1, 4]
    one, both = (tensor_bytes(open_checkpoint(folder)) for folder in (model, tmp_path / "g2"))
    assert (both.base, both.groups[0]) == (one.base, one.groups[0])
    assert len(one.groups) == 1
    # Three experts of three matrices and a router row each, in float32.
    assert both.groups[1] == 3 * 4 * (3 * 32 * 48 + 32)
    assert back.config["language_groups"]["expanded"] == [["el", "tr"]]
    load(tmp_path / "first")
    # The group that was dropped leaves no trace, so that another can be added.
    grow(tmp_path / "first", tmp_path / "again", new_experts=1, languages=("hi",))
    with pytest.raises(UpcycleError, match="the pack has 2"):
        unpack(tmp_path / "dense", tmp_path / "pack", tmp_path / "third", groups=3)


def test_a_pack_names_the_commit_of_a_hub_base_and_asks_for_it_again(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    fetched = save_dense(tmp_path / "snapshots" / commit)
    asked = []

    def fetch(name, *, revision, allow_patterns):
        asked.append((name, revision))
        return str(fetched)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    upcycle("owner/base", tmp_path / "moe", num_experts=2, revision="main")
    pack(tmp_path / "moe", tmp_path / "pack")
    config = open_checkpoint(tmp_path / "pack").config
    assert (config["base_model"], config["base_revision"]) == ("owner/base", commit)
    unpack("owner/base", tmp_path / "pack", tmp_path / "back")
    unpack("owner/base", tmp_path / "pack", tmp_path / "back", revision="v2")
    assert asked == [("owner/base", "main"), ("owner/base", commit), ("owner/base", "v2")]
    assert content_hash(open_checkpoint(tmp_path / "back")) == content_hash(
        open_checkpoint(tmp_path / "moe")
    )
    assert open_checkpoint(save_dense(tmp_path / "dense")).revision is None


def test_whose_experts_are_grows_and_is_left_out_with_their_group(tmp_path):
    assignment = assign_experts({("el",): 1, ("tr",): 1}, [2, 0, 3], is_exact=False)
    model = finished(tmp_path, assignment=assignment)
    first = [[[], ["el"], ["tr"]], [[]], [[], ["el"], ["el"], ["tr"]]]
    assert open_checkpoint(model).config["expert_languages"] == first
    grow(model, tmp_path / "g2", new_experts=(2, 0, 1), languages=("bn",))
    added = [[[], []], [], [[]]]  # open to all
    grown = [old + new for old, new in zip(first, added, strict=True)]
    assert load(tmp_path / "g2").config.expert_languages == grown
    pack(tmp_path / "g2", tmp_path / "pack")
    unpack(tmp_path / "dense", tmp_path / "pack", tmp_path / "first", groups=1)
    assert load(tmp_path / "first").config.expert_languages == first


def test_a_wrong_base_and_what_is_no_pack_are_refused(tmp_path):
    model = finished(tmp_path)
    pack(model, tmp_path / "pack")
    other = save_dense(tmp_path / "other", initializer_range=0.2)
    with pytest.raises(CheckpointError, match="not the base of this pack"):
        unpack(other, tmp_path / "pack", tmp_path / "out")
    with pytest.raises(CheckpointError, match="no language pack"):
        unpack(tmp_path / "dense", model, tmp_path / "out")
    with pytest.raises(UpcycleError, match="has a pack"):
        pack(tmp_path / "dense", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for write in (
        lambda: pack(model, model),
        lambda: unpack(tmp_path / "dense", tmp_path / "pack", tmp_path / "dense"),
        lambda: unpack(tmp_path / "dense", tmp_path / "pack", tmp_path / "pack"),
    ):
        with pytest.raises(ConfigError, match="one of the models read"):
            write()
    upcycle(tmp_path / "dense", tmp_path / "again", num_experts=2)
    pack(tmp_path / "again", tmp_path / "small")
