"""A recipe with a graft: its last step, what it is measured against, and what is skipped."""

import pytest

from polycycle.checkpoint import content_hash, open_checkpoint
from polycycle.config import parse_recipe
from polycycle.errors import ConfigError, DataError, GraftError
from polycycle.report import model_card, verdict_of, write_report
from polycycle.results import retention
from polycycle.stages import plan_run, run_recipe, stage_folders
from polycycle.surgery import save_delta
from tests.stages.test_pipeline import recipe_settings  # noqa: F401  a fixture
from tests.surgery.siblings import add_tokenizer, config_of, post_trained
from tests.text import make_tokenizer, write_jsonl


@pytest.fixture
def grafting(recipe_settings, tmp_path):  # noqa: F811
    post = post_trained(tmp_path / "base", tmp_path / "post")
    add_tokenizer(post)
    recipe_settings["graft"] = {"post": str(post)}
    recipe_settings["experts"]["exact_retention"] = {}
    return recipe_settings


def carry_out(settings, notes=None, **how):
    return run_recipe(parse_recipe(settings), (notes if notes is not None else []).append, **how)


def test_a_whole_graft_is_measured_against_the_sibling(grafting, tmp_path):
    grafting["graft"]["review_after"] = True
    result = carry_out(grafting)
    names = ["base", "post-pretrain", "review", "post", "graft", "review-grafted"]
    assert [model.name for model in result.models] == names
    assert [model.reference for model in result.models] == ["base"] * 4 + ["post"] * 2
    hash_of_post = content_hash(open_checkpoint(tmp_path / "post"))
    assert {result.model(n).base_hash for n in ("post", "graft", "review-grafted")} == {
        hash_of_post
    }
    assert result.model("post").content_hash == hash_of_post
    assert result.final.retention is not None
    bits = [result.model(n).scores["en"].bits_per_byte for n in ("post", "review-grafted")]
    kept = retention(result, "review-grafted", "en", by="bits_per_byte")
    assert kept == pytest.approx(bits[0] / bits[1])
    assert result.method == "DeltaMoE"
    assert [curve.stage for curve in result.curves][-1] == "review-grafted"
    config = config_of(tmp_path / "run" / "review-grafted")
    assert (config["base_hash"], config["eos_token_id"]) == (hash_of_post, 7)
    # The review after the graft moved routers and the gate, and nothing else.
    one, other = (open_checkpoint(tmp_path / "run" / n) for n in ("graft", "review-grafted"))
    still = [n for n in one.tensors if ".router." not in n and ".retention_gate." not in n]
    assert content_hash(one, still) == content_hash(other, still)
    assert content_hash(one) != content_hash(other)
    card = " ".join(model_card(result).split())
    assert f"is that model's, bit for bit (content hash `{hash_of_post}`)" in card
    assert verdict_of(result).sentence in write_report(result, tmp_path / "report").read_text()
    plan = plan_run(parse_recipe(grafting))
    assert [stage.stage for stage in plan.stages] == ["post-pretrain", "review", "review-grafted"]


def test_another_scale_does_only_the_graft_again_and_claims_nothing_exact(grafting, tmp_path):
    carry_out(grafting)
    before = stage_folders(tmp_path / "run")
    notes = []
    carry_out(grafting, notes)
    assert sum("done before" in note for note in notes) == len(before)
    assert stage_folders(tmp_path / "run") == before
    grafting["graft"] = {"post": [{"model": grafting["graft"]["post"], "scale": 0.5}]}
    notes.clear()
    result = carry_out(grafting, notes)
    after = stage_folders(tmp_path / "run")
    assert {name for name in after if after[name] != before[name]} == {"graft", "evaluate-graft"}
    assert any("at scale 0.5, so no dense model" in note for note in notes)
    final = result.final
    assert (final.base_hash, final.reference, final.retention) == (None, "base", None)
    assert final.tensor_bytes is None  # it has no pack
    assert {scores.kl_from_base for scores in final.scores.values()} == {None}
    assert "no dense model as its base" in " ".join(model_card(result).split())
    write_report(result, tmp_path / "report")


def test_a_run_until_review_leaves_the_graft_out(grafting, tmp_path):
    assert carry_out(grafting, until="review").final.name == "review"
    assert not (tmp_path / "run" / "graft").exists()


def test_a_sibling_that_does_not_fit_is_refused_before_anything_is_done(grafting, tmp_path):
    add_tokenizer(tmp_path / "post", exchange=("e", "h"))
    with pytest.raises(GraftError, match="disagree on 2 ids"):
        carry_out(grafting)
    add_tokenizer(tmp_path / "post")
    save_delta(*(open_checkpoint(tmp_path / n) for n in ("base", "post")), tmp_path / "delta")
    grafting["graft"]["post"] = str(tmp_path / "delta")
    with pytest.raises(GraftError, match="is a saved delta"):
        carry_out(grafting)
    assert not (tmp_path / "run" / "upcycle").exists()


@pytest.mark.parametrize(
    ("graft", "review", "message"),
    [
        ({"post": "x", "review_after": True}, None, "needs the settings of `review`"),
        ({"post": "x", "target": "shared", "keep_ungrafted": True}, {}, "does nothing"),
        ({"post": []}, {}, "graft.post"),
        ({"post": [{"model": "x", "scal": 1}]}, {}, "scal: unknown setting"),
    ],
)
def test_settings_that_cannot_be_are_refused(grafting, graft, review, message):
    with pytest.raises(ConfigError, match=message):
        parse_recipe({**grafting, "graft": graft, "review": review})


def test_a_grafted_model_is_asked_with_its_siblings_tokenizer_and_template(
    grafting, tmp_path, monkeypatch
):
    task = {"path": "asked/{language}.jsonl", "chat": True}
    grafting["data"]["tasks"] = {"asked": task, "bare": task["path"]}
    write_jsonl(tmp_path / "asked" / "el.jsonl", [{"prompt": "the", "response": "river"}])
    with pytest.raises(ConfigError, match=r"data\.tasks\.asked\.chat: .* nobody can be asked"):
        carry_out(grafting)
    own = make_tokenizer()
    own.chat_template = "{{ raise_exception('a system message comes first') }}"
    own.save_pretrained(tmp_path / "post")
    with pytest.raises(DataError, match="a system message comes first"):
        carry_out(grafting)
    assert stage_folders(tmp_path / "run") == {}
    own.eos_token = "<pad>"
    own.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    own.save_pretrained(tmp_path / "post")
    asked = []

    def note_how(model, tokenizer, prompts, *, policy, with_template, **how):
        asked.append((with_template, tokenizer.eos_token, policy.eos))
        return [""] * len(prompts)

    monkeypatch.setattr("polycycle.stages.evaluate.complete_prompts", note_how)
    result = carry_out(grafting)
    names = [model.name for model in result.models]
    assert names == ["base", "post-pretrain", "review", "post", "graft"]
    plain, theirs = [(False, "<eos>", 0)], [(True, "<pad>", 0), (False, "<pad>", 0)]
    assert asked == 6 * plain + 2 * theirs

    # Another way of asking is another evaluation, and nothing else.
    before = stage_folders(tmp_path / "run")
    grafting["data"]["tasks"] = {"asked": task["path"], "bare": task["path"]}
    carry_out(grafting)
    after = stage_folders(tmp_path / "run")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {f"evaluate-{name}" for name in names}
