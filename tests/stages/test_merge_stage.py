"""What a mixture with a graft is compared with: merges into dense baselines, and post-training."""

import json

import pytest
import torch

from polycycle.checkpoint import open_checkpoint
from polycycle.config import parse_recipe
from polycycle.errors import ConfigError, DataError
from polycycle.modeling import why_no_dense_reference
from polycycle.report import model_card, terminal_table, write_report
from polycycle.results import retention
from polycycle.stages import plan_run, run_recipe, stage_folders
from tests.stages.test_baseline_stage import settings
from tests.surgery.siblings import add_tokenizer, post_trained
from tests.text import VOCAB_SIZE, sentences, write_jsonl
from tests.tiny import save_dense

POST_TRAIN = {
    "data": "chat/{language}.jsonl",
    "tokens": 600,
    "batch_size": 4,
    "sequence_length": 32,
    "learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("merging")
    base = save_dense(folder / "base", vocab_size=VOCAB_SIZE, dtype=torch.bfloat16)
    add_tokenizer(base)
    add_tokenizer(post_trained(base, folder / "post"))
    for language in ("en", "es", "el", "tr"):
        for part, seed, count in (("train", 0, 80), ("valid", 1, 10), ("chat", 2, 10)):
            rows = [{"text": text} for text in sentences(language, count, seed=seed)]
            write_jsonl(folder / part / f"{language}.jsonl", rows)
        asked = [{"prompt": "the", "response": "river", "form": "[a-z]+"}]
        write_jsonl(folder / "asked" / f"{language}.jsonl", asked)
    return folder


def recipe_of(world, output, **changes):
    """With what earlier runs of this module made; `changes` are whole sections."""
    found = settings(world, output, **changes)
    found["data"]["tasks"] = {"asked": "asked/{language}.jsonl"}
    found["evaluation"] = {"max_new_tokens": 4}
    done = [str(path) for path in sorted((world / "runs").glob("*"))]
    return parse_recipe({**found, "reuse": done})


def run(world, name, notes=None, **changes):
    recipe = recipe_of(world, world / "runs" / name, **changes)
    return run_recipe(recipe, (notes if notes is not None else []).append)


def graft_to(world, **merge):
    return {"post": [{"model": str(world / "post"), "scale": 0.5}], **merge}


def test_a_dense_baseline_takes_the_post_training_by_every_rule_and_trains_once(world):
    rules = {
        "add": {},
        "task_arithmetic": {"language_scale": 0.5},
        "ties": {"density": 0.5},
        "dare": {"density": 0.5},
    }
    hashes = set()
    for number, (rule, more) in enumerate(rules.items()):
        notes = []
        graft = graft_to(world, merge=rule, **more)
        result = run(world, rule, notes, baseline="full", graft=graft)
        names = ["base", "full-fine-tuning", "post", "graft"]
        assert [model.name for model in result.models] == names
        assert {model.reference for model in result.models} == {"base"}
        if number:
            taken = {note.split(":")[0] for note in notes if "taken over" in note}
            assert {"full-fine-tuning", "evaluate-full-fine-tuning", "evaluate-post"} <= taken
        hashes.add(result.final.content_hash)
        assert result.final.scores["el"].tasks["asked"].in_form is not None
        assert [cost.stage for cost in result.costs] == ["full-fine-tuning"]
        # Kept and gained are measured against the base, which is in no merge whole.
        bits = [result.model(n).scores["en"].bits_per_byte for n in ("base", "graft")]
        kept = retention(result, "graft", "en", by="bits_per_byte")
        assert kept == pytest.approx(bits[0] / bits[1])
    assert len(hashes) == len(rules)
    assert result.method == "Full fine-tuning, DARE"
    folder = world / "runs" / "add"
    base, trained, post, merged = (
        open_checkpoint(path)
        for path in (
            world / "base",
            folder / "full-fine-tuning",
            world / "post",
            folder / "graft",
        )
    )
    assert set(base.tensors) == set(merged.tensors)
    for name in base.tensors:
        wide = [one.read(name).float() for one in (base, trained, post)]
        expected = (wide[1] + 0.5 * (wide[2] - wide[0])).bfloat16()
        assert torch.equal(merged.read(name), expected), name
    assert merged.config["eos_token_id"] == 7
    record = json.loads((world / "runs" / "dare" / "graft" / "merge.json").read_text())
    assert (record["rule"], record["density"], record["seed"]) == ("dare", 0.5, 0)
    planned = plan_run(parse_recipe(result.recipe))
    assert set(planned.folders) == set(stage_folders(world / "runs" / "dare"))
    write_report(result, world / "report")
    terminal_table(result)
    card = model_card(result)
    assert "import polycycle" not in card
    assert "xpert" not in card


def test_a_changed_density_merges_again_and_trains_nothing(world):
    for density in (0.5, 0.25):
        notes = []
        graft = graft_to(world, merge="ties", density=density)
        run(world, "ties-again", notes, baseline="full", graft=graft)
    redone = {note.split(":")[0] for note in notes if "done before" not in note}
    assert not redone & {"full-fine-tuning", "evaluate-post", "evaluate-base"}
    found = json.loads((world / "runs/ties-again/graft/merge.json").read_text())
    assert found["density"] == 0.25


@pytest.mark.parametrize("method", ["lora", "half", {"method": "llama_pro", "every": 2}])
def test_other_dense_baselines_take_it_too(world, method):
    name = method if isinstance(method, str) else method["method"]
    result = run(world, name, baseline=method, graft=graft_to(world))
    assert result.final.name == "graft"
    assert result.final.parameters_total == result.models[1].parameters_total
    assert result.final.content_hash != result.models[1].content_hash


def test_everything_trained_takes_a_graft_that_leaves_no_base(world):
    changed = {
        "experts": {"num_experts": 3},
        "post_pretrain": {
            **settings(world, world)["post_pretrain"],
            "trains": "everything",
            "replay_share": 0.3,
        },
        "review": None,
        "graft": {"post": str(world / "post")},
    }
    notes = []
    result = run(world, "everything", notes, **changed)
    assert [model.name for model in result.models] == ["base", "post-pretrain", "post", "graft"]
    assert (result.final.base_hash, result.final.reference) == (None, "base")
    assert any("cannot be checked" in note for note in notes)
    assert result.method == "MoE, everything trained, grafted"
    one, other = (open_checkpoint(world / f"runs/everything/{n}") for n in ("upcycle", "graft"))
    still = [n for n in one.tensors if torch.equal(one.read(n), other.read(n))]
    assert not still
    model_card(result)


def test_a_graft_before_review_is_reviewed_once_and_shares_what_came_before(world):
    mixture = {"experts": {"num_experts": 3}}
    graft = {"post": str(world / "post")}
    after = run(world, "after", **mixture, graft=graft)
    notes = []
    before = run(world, "before", notes, **mixture, graft={**graft, "when": "before_review"})
    taken = {note.split(":")[0] for note in notes if "taken over" in note}
    assert taken >= {"upcycle", "post-pretrain", "evaluate-post-pretrain", "evaluate-post"}
    names = ["base", "post-pretrain", "post", "graft", "review-grafted"]
    assert [model.name for model in before.models] == names
    assert before.final.reference == "post"
    assert before.final.base_hash == after.final.base_hash
    # A graft at the end is keyed as it was before there were other ones.
    manifest = json.loads((world / "runs/after/graft/manifest.json").read_text())
    assert set(manifest["inputs"]) == {"source", "base", "post", "settings"}
    assert manifest["inputs"]["settings"] == {"target": "all", "keep_ungrafted": False}
    # Experts are the same; routers learned on other hidden states.
    one, other = (
        open_checkpoint(world / "runs" / path) for path in ("after/graft", "before/review-grafted")
    )
    differs = {n for n in one.tensors if not torch.equal(one.read(n), other.read(n))}
    assert differs
    assert all(".router." in name for name in differs)
    planned = plan_run(recipe_of(world, "x", **mixture, graft={**graft, "when": "before_review"}))
    assert [one.stage for one in planned.stages] == ["post-pretrain", "review-grafted"]
    assert set(planned.folders) == set(stage_folders(world / "runs" / "before"))
    recipe = recipe_of(world, world / "runs" / "until", **mixture, graft=before.recipe["graft"])
    assert run_recipe(recipe, notes.append, until="review").final.name == "review"


@pytest.mark.parametrize("trains", ["everything", "new_experts"])
def test_the_expanded_model_is_post_trained_as_a_whole_or_in_its_new_experts(world, trains):
    mixture = {"experts": {"num_experts": 3}}
    result = run(world, f"pt-{trains}", **mixture, post_train={**POST_TRAIN, "trains": trains})
    assert [one.name for one in result.models] == ["base", "post-pretrain", "review", "post-train"]
    assert result.method == "MoE-LPR, post-trained"
    cost = result.costs[-1]
    assert (cost.stage, cost.tokens) == ("post-train", 600)
    before, after = (open_checkpoint(one.folder) for one in result.models[-2:])
    moved = {n for n in after.tensors if not torch.equal(before.read(n), after.read(n))}
    if trains == "everything":
        assert moved == set(before.tensors)
        assert "trained the base's tensors" in why_no_dense_reference(after.config)
        assert result.final.base_hash is None
        assert cost.parameters_trainable == result.final.parameters_total
    else:
        assert moved
        assert all(".experts." in name or ".router." in name for name in moved)
        assert result.final.base_hash == result.models[0].base_hash
    # English alone: it is the only replayed original language.
    assert set(result.curves[-1].training[-1].lm_loss) == {"en"}
    recipe = recipe_of(world, world / "x", **mixture, post_train={**POST_TRAIN, "trains": trains})
    planned = plan_run(recipe)
    assert planned.stages[-1].parameters_trainable == cost.parameters_trainable
    assert set(planned.folders) == set(stage_folders(world / "runs" / f"pt-{trains}"))
    model_card(result)
    terminal_table(result)
    write_report(result, world / "report")


def test_a_dense_baseline_is_post_trained_and_its_texts_are_chosen_by_language(world):
    sources = {"en": {"path": "chat/en.jsonl", "weight": 3.0}, "es": "chat/es.jsonl"}
    changed = {**POST_TRAIN, "data": sources}
    result = run(world, "dense-pt", baseline="full", post_train=changed)
    assert result.final.name == "post-train"
    assert result.method == "Full fine-tuning, post-trained"
    assert set(result.curves[-1].training[-1].lm_loss) == {"en", "es"}
    notes = []
    run(world, "dense-pt", notes, baseline="full", post_train={**changed, "tokens": 700})
    assert "post-train: done before, unchanged" not in notes
    assert "full-fine-tuning: done before, unchanged" in notes


def test_held_out_text_is_not_post_trained_on(world):
    changed = {**POST_TRAIN, "data": "valid/{language}.jsonl"}
    with pytest.raises(DataError, match=r"stand in post_train\.data"):
        run(world, "leak", baseline="full", post_train=changed)
    # Before anything is trained.
    assert not (world / "runs" / "leak" / "full-fine-tuning").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graft": {"merge": "ties"}}, "merges into a dense `baseline`"),
        ({"graft": {"density": 0.5}}, "density does nothing with `merge: add`"),
        ({"graft": {"language_scale": 0.5}}, "language_scale does nothing"),
        ({"graft": {"merge": "slerp"}}, "graft.merge"),
        ({"graft": {"when": "before_review"}, "review": None}, "needs `review`"),
        ({"graft": {"when": "before_review", "review_after": True}}, "leave one of them out"),
        ({"baseline": "full", "graft": {"target": "shared"}}, "graft.target: needs a mixture"),
        ({"baseline": "full", "graft": {"review_after": True}}, "graft.review_after: needs"),
        ({"baseline": "full", "graft": {"when": "before_review"}}, "graft.when: needs a mixture"),
        ({"baseline": "full", "graft": {"keep_ungrafted": True}}, "graft.keep_ungrafted: needs"),
        ({"baseline": "loramoe", "graft": {}}, "leave `baseline` or `graft` out"),
        ({"baseline": "llama_pro", "graft": {"merge": "ties"}}, "use add"),
        ({"graft": {}, "post_train": POST_TRAIN}, "leave `post_train` or `graft` out"),
        ({"baseline": "loramoe", "post_train": POST_TRAIN}, "post_train: LoRAMoE"),
        ({"baseline": "full", "post_train": {**POST_TRAIN, "trains": "new_experts"}}, "no experts"),
        ({"post_train": {**POST_TRAIN, "data": "chat.jsonl"}}, r"must contain \{language\}"),
        ({"post_train": {**POST_TRAIN, "data": {"hu": "hu.jsonl"}}}, "hu stand in no language"),
        (
            {"experts": {"exact_retention": {}}, "post_train": POST_TRAIN},
            "leaves no frozen base",
        ),
    ],
)
def test_settings_that_would_do_nothing_or_cannot_be_are_refused(world, changes, message):
    if "graft" in changes:
        changes = {**changes, "graft": {"post": "sibling", **changes["graft"]}}
    with pytest.raises(ConfigError, match=message):
        recipe_of(world, "out", **changes)
