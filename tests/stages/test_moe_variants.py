"""The paper's ablations as settings: everything trained, and wrong labels in review."""

import pytest
import torch

from polycycle.checkpoint import open_checkpoint
from polycycle.config import parse_recipe
from polycycle.errors import ConfigError, UpcycleError
from polycycle.languages import NO_LANGUAGE
from polycycle.modeling import why_no_dense_reference
from polycycle.report import model_card, terminal_table, write_report
from polycycle.stages import Run, plan_run, run_recipe
from polycycle.stages.train import training_data
from polycycle.surgery import inspect_checkpoint, pack
from tests.stages.test_baseline_stage import settings, world

__all__ = ["world"]  # the fixture


def changed(world, output, post_pretrain=None, review=None, **more):
    found = settings(world, output, experts={"num_experts": 3, **more.pop("experts", {})}, **more)
    found["post_pretrain"] |= post_pretrain or {}
    if review == "none":
        found["review"] = None
    else:
        found["review"] |= review or {}
    return found


def run(*args, **kwargs):
    return run_recipe(parse_recipe(changed(*args, **kwargs)), lambda note: None)


ONE_STAGE = {"tokens": 2000, "replay_share": 0.3}


def test_with_everything_trained_every_tensor_moves_and_nothing_claims_a_base(world, tmp_path):
    result = run(
        world,
        tmp_path / "run",
        {**ONE_STAGE, "trains": "everything", "validate_every_steps": 5},
        "none",
    )
    assert result.method == "MoE, everything trained"
    assert [model.name for model in result.models] == ["base", "post-pretrain"]
    before = open_checkpoint(tmp_path / "run" / "upcycle")
    after = open_checkpoint(result.final.folder)
    assert not [n for n in before.tensors if torch.equal(before.read(n), after.read(n))]
    assert result.costs[0].parameters_trainable == result.final.parameters_total
    assert why_no_dense_reference(after.config)
    assert result.final.base_hash is None
    assert result.final.scores["en"].kl_from_base is None
    assert result.final.tensor_bytes is None
    assert "trained the base's tensors" in inspect_checkpoint(after).no_reference
    with pytest.raises(UpcycleError, match="no dense model is its base"):
        pack(result.final.folder, tmp_path / "pack")
    assert result.curves[0].training[-1].lm_loss.keys() == {"en", "el", "tr"}
    write_report(result, tmp_path / "report")
    terminal_table(result)
    assert "no dense model is its base any more" in model_card(result)
    recipe = parse_recipe(
        changed(world, tmp_path / "run", {**ONE_STAGE, "trains": "everything"}, "none")
    )
    assert plan_run(recipe).stages[0].parameters_trainable == result.final.parameters_total


def test_a_review_after_everything_was_trained_moves_routers_alone(world, tmp_path):
    result = run(world, tmp_path / "run", {"trains": "everything"})
    before, after = (open_checkpoint(model.folder) for model in result.models[1:])
    moved = [n for n in after.tensors if not torch.equal(before.read(n), after.read(n))]
    assert moved
    assert all(".router." in name for name in moved)
    assert result.final.base_hash is None


def test_what_needs_a_frozen_base_is_refused_where_everything_trains(world, tmp_path):
    for more in (
        {"baseline": "full"},
        {"experts": {"exact_retention": {}}},
    ):
        with pytest.raises(ConfigError, match="leaves no frozen base"):
            parse_recipe(changed(world, tmp_path, {"trains": "everything"}, **more))


def test_a_share_of_the_reviewed_documents_gets_labels_of_the_other_kind(world, tmp_path):
    def labels(wrong):
        recipe = parse_recipe(
            changed(
                world,
                tmp_path / "run",
                review={"replay_documents": 60, "expanded_documents": 60, "wrong_labels": wrong},
            )
        )
        corpora = Run(recipe, lambda note: None).corpora
        parts = {}
        for stage in ("post_pretrain", "review"):
            dataset = training_data(recipe, stage, corpora, pad_token=1)
            items = [dataset[index] for index in range(len(dataset))]
            parts[stage] = {key: torch.cat([item[key] for item in items]) for key in items[0]}
        return parts

    right, some, most = labels(0.0), labels(0.3), labels(0.99)
    assert all(
        torch.equal(right["post_pretrain"][key], some["post_pretrain"][key])
        for key in right["post_pretrain"]
    )
    was, found = right["review"], some["review"]
    assert all(torch.equal(was[key], found[key]) for key in was if key != "language_ids")
    is_real = was["language_ids"] != NO_LANGUAGE
    differs = was["language_ids"] != found["language_ids"]
    assert 0.15 < differs[is_real].float().mean() < 0.45
    assert not differs[~is_real].any()
    # Original text to an expanded language (ids 2 and 3), expanded text to the original one.
    english = was["language_ids"] == 0
    assert set(found["language_ids"][english & differs].tolist()) == {2, 3}
    assert set(found["language_ids"][~english & differs].tolist()) == {0}
    assert (most["review"]["language_ids"] != was["language_ids"])[is_real].float().mean() > 0.9


def test_wrong_labels_change_what_review_learns(world, tmp_path):
    right = run(world, tmp_path / "right")
    wrong = run(
        world,
        tmp_path / "wrong",
        review={"wrong_labels": 0.9},
        reuse=[str(tmp_path / "right")],
    )
    shares = [result.final.scores["en"].expert0_share for result in (right, wrong)]
    assert shares[0] > shares[1]
    assert right.models[1].content_hash == wrong.models[1].content_hash


def test_reviews_of_any_replay_share_one_post_pretraining_and_none_reads_no_original(
    world, tmp_path
):
    run(world, tmp_path / "some")
    none = {"replay_documents": 0, "prior_coef": 0}
    for name, review in (("none", none), ("more", {"replay_documents": 40}), ("left", "none")):
        notes = []
        reuse = [str(tmp_path / "some")]
        recipe = parse_recipe(changed(world, tmp_path / name, review=review, reuse=reuse))
        result = run_recipe(recipe, notes.append)
        assert any(note.startswith("post-pretrain: taken over from") for note in notes), notes
        assert not any(note.startswith("review: taken over") for note in notes)
        if name == "none":
            assert result.curves[-1].stage == "review"
            assert result.curves[-1].training[-1].lm_loss.keys() == {"el", "tr"}


def test_what_learns_from_original_text_is_refused_where_none_is_replayed(world, tmp_path):
    none = {"replay_documents": 0}
    with pytest.raises(ConfigError, match=r"review\.prior_coef: .*or set this to 0"):
        parse_recipe(changed(world, tmp_path, review=none))
    none["prior_coef"] = 0
    parse_recipe(changed(world, tmp_path, review=none))
    for more in ({"classifier": {"layers": [1]}}, {"exact_retention": {}}):
        with pytest.raises(ConfigError, match=r"experts\.\w+: .*or leave this out"):
            parse_recipe(changed(world, tmp_path, review=none, experts=more))
