"""Growing: nothing changes until the new group trains, and the earlier groups never do."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from polycycle.checkpoint import open_checkpoint
from polycycle.errors import UpcycleError
from polycycle.languages import LanguageGroups
from polycycle.modeling import record_routing
from polycycle.surgery import freeze_for, grow, inspect_checkpoint, plan_growth, upcycle
from tests.tiny import FAMILIES, load, save_dense, token_ids

LANGUAGES = LanguageGroups(original=("en",), expanded=(("el", "tr"),))


def finished(folder, family="llama", dtype=torch.float32, num_experts=(3, 1, 4), **settings):
    """A trained-looking model of one group; its second layer is dense."""
    save_dense(folder / "dense", family, dtype=dtype)
    upcycle(
        folder / "dense", folder / "fresh", num_experts=num_experts, languages=LANGUAGES, **settings
    )
    model = load(folder / "fresh")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".experts." in name or ".router." in name:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator).to(dtype)
    model.save_pretrained(folder / "g1")
    return folder / "g1"


CASES = [
    *((family, torch.float32) for family in FAMILIES),
    ("llama", torch.bfloat16),
    ("qwen2", torch.bfloat16),
]


@torch.no_grad()
@pytest.mark.parametrize(("family", "dtype"), CASES, ids=lambda value: str(value))
def test_right_after_growing_not_a_bit_has_changed(tmp_path, family, dtype):
    source = finished(tmp_path, family, dtype)
    grow(source, tmp_path / "g2", new_experts=(2, 3, 0), languages=("bn", "hi"))
    before, after = load(source), load(tmp_path / "g2")
    assert after.config.num_experts_per_layer == [5, 4, 4]
    assert after.config.masked_groups == ["g2"]
    assert after.config.language_groups["expanded"] == [["el", "tr"], ["bn", "hi"]]
    ids = token_ids(3, 40)
    with record_routing(before) as one, record_routing(after) as other:
        pass
    with record_routing(after) as other:
        logits = after(ids).logits
    with record_routing(before) as one:
        expected = before(ids).logits
    assert torch.equal(logits, expected)
    assert [layer.layer_index for layer in other.layers] == [0, 2]
    for a, b in zip(one.layers, other.layers, strict=True):
        assert torch.equal(a.router_logits, b.router_logits)
    # Every tensor that was there is there, bit for bit.
    old = load_file(source / "model.safetensors")
    new = load_file(tmp_path / "g2" / "model.safetensors")
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
    assert new["model.layers.0.mlp.router.rows.g2"].shape[0] == 2
    assert new["model.layers.1.mlp.router.rows.g2"].shape[0] == 4  # with expert 0's row
    gate_up = new["model.layers.1.mlp.experts.g2.gate_up_proj"]
    assert all(torch.equal(gate_up[0], expert) for expert in gate_up)


@torch.no_grad()
def test_unmasked_the_new_experts_take_part_in_every_layer_that_has_them(tmp_path):
    grow(finished(tmp_path), tmp_path / "g2", new_experts=(2, 3, 0))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "g2", masked_groups=[]).eval()
    with record_routing(model) as routing:
        model(token_ids(8, 40))
    assert [layer.router_logits.shape[1] for layer in routing.layers] == [5, 4, 4]
    assert {0, 1, 2, 3, 4} == set(routing.layers[0].expert_ids.flatten().tolist())


def test_a_dense_layer_that_grows_still_computes_the_dense_block_when_unmasked(tmp_path):
    source = finished(tmp_path, num_experts=(1, 1, 4))
    grow(source, tmp_path / "g2", new_experts=(0, 3, 0))
    before = load(source)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "g2", masked_groups=[]).eval()
    with torch.no_grad():
        expected, got = before(token_ids(2, 20)).logits, after(token_ids(2, 20)).logits
    assert (got - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_post_pretraining_moves_the_newest_group_alone(tmp_path):
    grow(finished(tmp_path), tmp_path / "g2", new_experts=(2, 3, 1))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "g2", masked_groups=[])
    names = freeze_for(model, "post_pretrain")
    assert names
    assert all(".experts.g2." in name or name.endswith(".router.rows.g2") for name in names)
    assert {name.split(".")[2] for name in names} == {"0", "1", "2"}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    ids = token_ids(4, 20)
    for _ in range(2):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in names), name
    review = freeze_for(model, "review")
    assert {name.rsplit(".", 1)[1] for name in review} == {"g1", "g2"}


def test_inspection_counts_what_the_next_stages_train(tmp_path):
    grow(finished(tmp_path), tmp_path / "g2", new_experts=2)
    seen = inspect_checkpoint(open_checkpoint(tmp_path / "g2"))
    model = load(tmp_path / "g2")
    for stage in ("post_pretrain", "review"):
        names = set(freeze_for(model, stage))
        expected = sum(p.numel() for name, p in model.named_parameters() if name in names)
        assert seen.parameters_trainable[stage] == expected


def test_new_experts_may_be_copies_of_any_expert_that_is_there(tmp_path):
    source = finished(tmp_path)
    grow(source, tmp_path / "g2", new_experts=(2, 1, 1), copy_from=(2, 0, 3))
    grown = load_file(tmp_path / "g2" / "model.safetensors")
    for part in ("gate_up_proj", "down_proj"):
        for layer, place in ((0, 1), (2, 2)):
            experts = f"model.layers.{layer}.mlp.experts"
            for expert in grown[f"{experts}.g2.{part}"]:
                assert torch.equal(expert, grown[f"{experts}.g1.{part}"][place])
    original = grown["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(grown["model.layers.1.mlp.experts.g2.down_proj"][0], original)
    # A third group can copy from the second: experts are counted over all groups.
    ready = {**open_checkpoint(tmp_path / "g2").config, "masked_groups": None}
    (tmp_path / "g2" / "config.json").write_text(json.dumps(ready))
    grow(tmp_path / "g2", tmp_path / "g3", new_experts=(1, 0, 0), copy_from=(4, 0, 0))
    third = load_file(tmp_path / "g3" / "model.safetensors")
    down = "model.layers.0.mlp.experts.{}.down_proj".format
    assert torch.equal(third[down("g3")][0], grown[down("g2")][1])


def test_the_published_form_draws_all_routers_anew_and_trains_all_their_rows(tmp_path):
    source = finished(tmp_path, classifier_layers=(2,))
    grow(source, tmp_path / "g2", new_experts=(2, 3, 1), redraw_routers=True)
    old = load_file(source / "model.safetensors")
    new = load_file(tmp_path / "g2" / "model.safetensors")
    rows = {name for name in old if ".router.rows." in name}
    classifier = "model.layers.2.mlp.router.classifier.weight"
    changed = {name for name, tensor in old.items() if not torch.equal(new[name], tensor)}
    assert changed == {*rows, classifier}
    assert not new[classifier].any()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "g2", masked_groups=[])
    names = set(freeze_for(model, "post_pretrain"))
    assert names == {name for name in new if ".router.rows." in name or ".experts.g2." in name}
    seen = inspect_checkpoint(open_checkpoint(tmp_path / "g2"))
    assert seen.parameters_trainable["post_pretrain"] == sum(new[name].numel() for name in names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"new_experts": 1, "copy_from": (0, 1, 0)}, "layer 1 has no expert 1"),
        ({"new_experts": 1, "copy_from": (0, 1)}, "copy_from has 2 entries"),
        ({"new_experts": 0}, "at least one layer"),
        ({"new_experts": (1, 2)}, "2 entries, but the model has 3 layers"),
        ({"new_experts": (1, -1, 0)}, "layer 1"),
        ({"new_experts": 1, "languages": ("el",)}, "knows el already"),
    ],
)
def test_growth_that_does_not_fit_is_refused(tmp_path, settings, message):
    source = open_checkpoint(finished(tmp_path))
    with pytest.raises(UpcycleError, match=message):
        plan_growth(source, **settings)


def test_a_dense_model_an_untrained_group_and_a_layer_before_the_gate_are_refused(tmp_path):
    source = finished(tmp_path, num_experts=(1, 3, 3), exact_retention=True)
    with pytest.raises(UpcycleError, match="upcycle"):
        plan_growth(open_checkpoint(tmp_path / "dense"), new_experts=1)
    with pytest.raises(UpcycleError, match="before the retention gate of layer 1"):
        plan_growth(open_checkpoint(source), new_experts=1)
    grow(source, tmp_path / "g2", new_experts=(0, 1, 1))
    with pytest.raises(UpcycleError, match="g2 already"):
        plan_growth(open_checkpoint(tmp_path / "g2"), new_experts=(0, 1, 1))
