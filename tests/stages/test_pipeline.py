"""A whole run at the smallest scale: what it writes, what it skips, what it does again."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from polycycle.allocation import SimilarityTable, allocate_experts, read_table
from polycycle.config import parse_recipe
from polycycle.data import document_policy
from polycycle.errors import CheckpointError, ConfigError, DataError
from polycycle.evaluation import complete_prompts
from polycycle.report import write_report
from polycycle.results import load_result, save_result
from polycycle.stages import Run, plan_run, run_recipe, stage_folders
from polycycle.stages.similarity import similarity
from polycycle.stages.upcycle import upcycle
from tests.config.test_recipe import settings
from tests.text import VOCAB_SIZE, make_tokenizer, sentences, write_jsonl
from tests.tiny import edit_config, save_dense
from tests.training.test_two_processes import torchrun


@pytest.fixture
def recipe_settings(tmp_path):
    base = save_dense(tmp_path / "base", vocab_size=VOCAB_SIZE, dtype=torch.bfloat16)
    make_tokenizer().save_pretrained(base)
    for language in ("en", "es", "el", "tr"):
        for part, seed, count in (("train", 0, 80), ("valid", 1, 10)):
            rows = [{"text": text} for text in sentences(language, count, seed=seed)]
            write_jsonl(tmp_path / part / f"{language}.jsonl", rows)
        asked = [
            {"prompt": "the", "choices": [" river", " town"], "answer": n % 2} for n in range(4)
        ]
        write_jsonl(tmp_path / "questions" / f"{language}.jsonl", asked)
    return {
        "base": str(base),
        "output": str(tmp_path / "run"),
        "languages": {"original": ["en"], "unseen_original": ["es"], "expanded": ["el", "tr"]},
        "data": {
            "root": str(tmp_path),
            "train": "train/{language}.jsonl",
            "valid": "valid/{language}.jsonl",
            "questions": "questions/{language}.jsonl",
        },
        "experts": {"num_experts": 3},
        "post_pretrain": {"tokens": 2000, "batch_size": 4, "sequence_length": 32},
        "review": {
            "replay_documents": 20,
            "expanded_documents": 20,
            "batch_size": 4,
            "sequence_length": 32,
        },
    }


def test_a_run_keeps_the_base_bit_for_bit_and_is_skipped_when_repeated(recipe_settings, tmp_path):
    notes = []
    result = run_recipe(parse_recipe(recipe_settings), notes.append)
    assert [model.name for model in result.models] == ["base", "post-pretrain", "review"]
    base = load_file(tmp_path / "base" / "model.safetensors")
    previous = load_file(tmp_path / "run" / "upcycle" / "model.safetensors")
    for stage, moving in (("post-pretrain", (".experts.", ".router.")), ("review", (".router.",))):
        tensors = load_file(tmp_path / "run" / stage / "model.safetensors")
        assert all(torch.equal(tensors[name], tensor) for name, tensor in base.items())
        moved = {name for name in tensors if not torch.equal(tensors[name], previous[name])}
        assert moved
        assert all(any(part in name for part in moving) for name in moved)
        previous = tensors
    hashes = {model.base_hash for model in result.models}
    assert len(hashes) == 1
    review = result.model("review").scores
    assert review["en"].kl_from_base is not None
    assert review["en"].questions == 4
    assert review["es"].is_unseen_original
    assert {(d.language, d.part) for d in result.data} >= {("el", "train"), ("en", "replay")}
    assert not (tmp_path / "run" / ".work").exists() or not any(
        (tmp_path / "run" / ".work").iterdir()
    )
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "review")
    assert loaded.dtype == torch.bfloat16
    assert not list((tmp_path / "run" / "review").glob("*.bin"))

    notes.clear()
    manifests = stage_folders(tmp_path / "run")
    again = run_recipe(parse_recipe(recipe_settings), notes.append)
    assert sum("done before" in note for note in notes) == 6
    assert stage_folders(tmp_path / "run") == manifests
    assert again.models == result.models
    path = save_result(result, tmp_path / "result.json")
    assert load_result(path) == result


def test_a_changed_review_does_only_the_review_again(recipe_settings, tmp_path):
    run_recipe(parse_recipe(recipe_settings), lambda note: None)
    before = stage_folders(tmp_path / "run")
    recipe_settings["review"]["prior_coef"] = 0.5
    run_recipe(parse_recipe(recipe_settings), lambda note: None)
    after = stage_folders(tmp_path / "run")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"review", "evaluate-review"}


def test_what_another_run_has_made_from_the_same_inputs_is_taken_over(recipe_settings, tmp_path):
    first = run_recipe(parse_recipe(recipe_settings), lambda note: None)
    recipe_settings["review"]["prior_coef"] = 0.5
    elsewhere = {**recipe_settings, "output": str(tmp_path / "other")}
    alone = run_recipe(parse_recipe(elsewhere), lambda note: None)
    notes = []
    sharing = {**elsewhere, "output": str(tmp_path / "sharing"), "reuse": [str(tmp_path / "run")]}
    shared = run_recipe(parse_recipe(sharing), notes.append)
    taken = {note.split(":")[0] for note in notes if "taken over" in note}
    assert taken == {"upcycle", "evaluate-base", "post-pretrain", "evaluate-post-pretrain"}
    weights = [tmp_path / run / "review" / "model.safetensors" for run in ("other", "sharing")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert shared.model("review").scores == alone.model("review").scores
    assert shared.model("post-pretrain").scores == first.model("post-pretrain").scores
    assert shared.model("post-pretrain").folder == str(tmp_path / "sharing" / "post-pretrain")


def test_a_run_without_review_ends_after_post_pretraining(recipe_settings):
    recipe_settings["review"] = None
    result = run_recipe(parse_recipe(recipe_settings), lambda note: None)
    assert result.final.name == "post-pretrain"


def test_bad_lines_are_counted_and_told_when_they_may_be_skipped(recipe_settings, tmp_path):
    with (tmp_path / "train" / "el.jsonl").open("r+", encoding="utf-8") as file:
        lines = file.readlines()
        lines.insert(2, "not json\n")
        file.seek(0)
        file.writelines(lines)
    with pytest.raises(DataError, match=r"el\.jsonl:3"):
        run_recipe(parse_recipe(recipe_settings), lambda note: None)
    recipe_settings["data"]["on_bad_document"] = "skip"
    recipe_settings["review"] = None
    notes = []
    result = run_recipe(parse_recipe(recipe_settings), notes.append)
    assert any("1 bad documents of el" in note for note in notes)
    assert [d.skipped for d in result.data if (d.language, d.part) == ("el", "train")] == [1]


def test_too_little_text_is_refused_before_anything_is_made_and_too_few_documents_are_told(
    recipe_settings, tmp_path
):
    recipe_settings["post_pretrain"]["tokens"] = 10**6
    with pytest.raises(DataError, match=r"'el': the recipe asks for 500,000 tokens but the corpus"):
        run_recipe(parse_recipe(recipe_settings), lambda note: None)
    assert stage_folders(tmp_path / "run") == {}
    recipe_settings["data"]["repeat"] = True
    recipe_settings["review"]["replay_documents"] = 10**6
    notes = []
    assert Run(parse_recipe(recipe_settings), notes.append).corpora.budgets["el"] == 500_000
    wanted = "en has 80 documents for review, fewer than review.replay_documents: 1000000"
    assert [note for note in notes if "fewer than" in note] == [
        f"data: {wanted}; all of them are taken"
    ]


def test_a_training_that_begins_anew_because_settings_changed_says_so(recipe_settings, tmp_path):
    recipe_settings["review"] = None
    recipe_settings["post_pretrain"]["save_every_steps"] = 1
    told = []

    def interrupt(note):
        told.append(note)
        if note.startswith("evaluate-base"):
            begun = tmp_path / "run" / ".work" / f"post-pretrain-{'0' * 16}"
            (begun / "checkpoint-3").mkdir(parents=True, exist_ok=True)

    run_recipe(parse_recipe(recipe_settings), interrupt, until="post_pretrain")
    run_recipe(parse_recipe(recipe_settings), interrupt, until="post_pretrain")
    assert not any("begins anew" in note for note in told)
    recipe_settings["post_pretrain"]["learning_rate"] = 1e-4
    run_recipe(parse_recipe(recipe_settings), interrupt, until="post_pretrain")
    (note,) = [note for note in told if "begins anew" in note]
    assert f"post-pretrain-{'0' * 16}" in note


def test_a_base_without_a_tokenizer_is_refused_before_anything_is_done(recipe_settings, tmp_path):
    for path in (tmp_path / "base").glob("*token*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        run_recipe(parse_recipe(recipe_settings), lambda note: None)
    assert not (tmp_path / "run" / "upcycle").exists()


def test_the_plan_counts_what_the_run_will_have(recipe_settings, tmp_path):
    plan = plan_run(parse_recipe(recipe_settings))
    result = run_recipe(parse_recipe(recipe_settings), lambda note: None)
    assert plan.parameters_total == result.final.parameters_total
    assert plan.parameters_active == result.final.parameters_active
    costs = {cost.stage: cost for cost in result.costs}
    for stage in plan.stages:
        assert stage.parameters_trainable == costs[stage.stage].parameters_trainable
    assert plan.stages[0].steps == costs["post-pretrain"].steps
    size = (tmp_path / "run" / "review" / "model.safetensors").stat().st_size
    assert size == pytest.approx(plan.checkpoint_bytes, rel=0.1)
    manifest = json.loads((tmp_path / "run" / "review" / "manifest.json").read_text())
    assert manifest["costs"]["steps"] == costs["review"].steps
    assert sorted(plan.folders) == sorted(stage_folders(tmp_path / "run"))


def test_a_run_with_unequal_layers_and_a_classifier_says_what_it_judged(recipe_settings, tmp_path):
    recipe_settings["experts"] = {"num_experts": [4, 1, 2], "classifier": {"layers": [2]}}
    result = run_recipe(parse_recipe(recipe_settings), lambda note: None)
    before, after = (result.model(name).routing for name in ("post-pretrain", "review"))
    assert after.moe_layers == (0, 2)
    assert after.num_experts == (4, 2)
    assert before.judged_original["en"] == (None, 0.0)
    assert 0 <= after.judged_original["en"][1] <= 1
    page = write_report(result, tmp_path / "report").read_text()
    assert "the language classifiers judged rightly" in page
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "review")
    assert loaded.config.classifier_layers == [2]
    moved = load_file(tmp_path / "run" / "review" / "model.safetensors")
    assert moved["model.layers.2.mlp.router.classifier.weight"].any()


def test_a_layermoe_run_measures_similarity_once_and_shares_its_experts_out(
    recipe_settings, tmp_path
):
    recipe_settings["experts"] = {
        "num_experts": 4,
        "allocation": {"total_experts": 8, "tokens_per_language": 200},
        "classifier": {"layers": 1},
    }
    result = run_recipe(parse_recipe(recipe_settings), lambda note: None)
    assert result.method == "LayerMoE"
    table = read_table(tmp_path / "run" / "similarity" / "similarity.json")
    assert table.languages == ("en", "el", "tr")
    routing = result.model("review").routing
    assert list(routing.num_experts) == list(
        allocate_experts(table.per_layer, 8).num_experts_per_layer
    )
    alike = table.expanded_original
    (judging,) = [i for i, share in enumerate(routing.judged_original["en"]) if share is not None]
    assert alike[judging] == max(alike)
    (noted,) = result.similarities
    assert (noted.group, noted.model, noted.is_allocated) == (1, "base", True)
    assert noted.per_layer == table.per_layer
    assert noted.new_experts == tuple(count - 1 for count in routing.num_experts)
    assert noted.classifier_layers == (routing.moe_layers[judging],)
    # Another replay changes nothing before the review.
    recipe_settings["review"]["replay_documents"] = 10
    notes = []
    run_recipe(parse_recipe(recipe_settings), notes.append)
    done = [note.split(":")[0] for note in notes if note.endswith("done before, unchanged")]
    evaluated = ["evaluate-base", "post-pretrain", "evaluate-post-pretrain"]
    assert done == ["similarity", "upcycle", *evaluated]
    recipe_settings["experts"]["allocation"]["total_experts"] = 9
    notes = []
    run_recipe(parse_recipe(recipe_settings), notes.append)
    assert "similarity: done before, unchanged" in notes
    assert "upcycle: done before, unchanged" not in notes


def test_a_run_with_exact_retention_reports_its_rates_and_keeps_what_it_judged(
    recipe_settings, tmp_path
):
    # A gate that keeps everything: every language is the base, bit for bit.
    recipe_settings["experts"] = {"num_experts": 3, "exact_retention": {"threshold": -1e9}}
    result = run_recipe(parse_recipe(recipe_settings), lambda note: None)
    base, review = result.model("base"), result.model("review")
    for language in ("en", "es", "el", "tr"):
        assert review.retention.set_point.text_rate[language] == 1.0
        assert review.scores[language].kl_from_base == 0.0
        before, after = (m.scores[language].bits_per_byte for m in (base, review))
        assert after == pytest.approx(before, rel=1e-6)
    page = write_report(result, tmp_path / "report").read_text()
    assert "Exact retention" in page
    assert "−∞" in page
    again = load_result(save_result(result, tmp_path / "result.json"))
    assert again.model("review").retention == review.retention


def test_exact_retention_is_measured_on_text_of_two_languages_and_for_speed(recipe_settings):
    recipe_settings["languages"]["expanded"] = [["el"], ["tr"]]
    recipe_settings["experts"] = {"num_experts": 3, "exact_retention": {"threshold": -1e9}}
    recipe_settings["review"] = None
    found = run_recipe(parse_recipe(recipe_settings), lambda note: None, until="post_pretrain")
    trade = found.final.retention
    halves = [(one.language, one.begins) for one in trade.mixed]
    assert halves == [(tag, first) for tag in ("el", "tr") for first in ("original", "expanded")]
    assert {(one.texts, one.text_rate, one.token_rate) for one in trade.mixed} == {(10, 1.0, 1.0)}
    assert min(trade.speed.base, trade.speed.kept, trade.speed.mixture) > 0


def write_task(tmp_path, language, response):
    examples = [{"prompt": text, "response": response} for text in sentences(language, 5)]
    write_jsonl(tmp_path / "tell" / f"{language}.jsonl", examples)


def test_a_run_with_tasks_scores_what_the_models_wrote(recipe_settings, tmp_path):
    recipe_settings["data"]["tasks"] = {"tell": "tell/{language}.jsonl"}
    recipe_settings["evaluation"] = {"max_task_examples": 4, "max_new_tokens": 5}
    recipe_settings["review"] = None
    for language in ("en", "el"):
        write_task(tmp_path, language, "the river")
    notes = []
    result = run_recipe(parse_recipe(recipe_settings), notes.append)
    assert notes.count("tasks: no file of tell for es, tr; passed over there") == 1
    for model in result.models:
        assert set(model.scores["en"].tasks) == set(model.scores["el"].tasks) == {"tell"}
        assert model.scores["es"].tasks == {}
        assert model.scores["el"].tasks["tell"].examples == 4
        assert model.scores["el"].tasks["tell"].exact_match == 0
    assert load_result(save_result(result, tmp_path / "result.json")) == result

    # What the base really writes is the right answer: a changed file is evaluated anew, alone.
    model = AutoModelForCausalLM.from_pretrained(recipe_settings["base"], dtype=torch.float32)
    tokenizer = make_tokenizer()
    policy = document_policy(tokenizer)
    prompts = sentences("el", 5)
    written = complete_prompts(model, tokenizer, prompts, policy=policy, max_new_tokens=5)
    rows = [{"prompt": p, "response": w} for p, w in zip(prompts, written, strict=True)]
    write_jsonl(tmp_path / "tell" / "el.jsonl", rows)
    before = stage_folders(tmp_path / "run")
    again = run_recipe(parse_recipe(recipe_settings), notes.append)
    after = stage_folders(tmp_path / "run")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"evaluate-base", "evaluate-post-pretrain"}
    right = again.model("base").scores["el"].tasks["tell"]
    assert (right.exact_match, right.chrf) == (1, 100)
    assert again.model("base").scores["en"].tasks["tell"].exact_match == 0


def test_a_task_without_a_file_in_any_language_is_an_error(recipe_settings):
    recipe_settings["data"]["tasks"] = {"tell": "tel/{language}.jsonl"}
    with pytest.raises(DataError, match=r"data\.tasks\.tell: no file .*tel/\{language\}\.jsonl"):
        run_recipe(parse_recipe(recipe_settings), lambda note: None)


def test_a_second_group_leaves_the_first_as_it_was(recipe_settings, tmp_path):
    recipe_settings["languages"] = {
        "original": ["en"],
        "unseen_original": ["es"],
        "expanded": [["el"], ["tr"]],
    }
    recipe_settings["review"]["prior_form"] = "group"
    result = run_recipe(parse_recipe(recipe_settings), lambda note: None)
    names = ["base", "post-pretrain", "review", "post-pretrain-g2", "review-g2"]
    assert [model.name for model in result.models] == names
    assert [cost.stage for cost in result.costs] == names[1:]
    trained_on = [{tag for p in curve.training for tag in p.lm_loss} for curve in result.curves]
    assert trained_on == [{"el"}, {"en", "el"}, {"tr"}, {"en", "el", "tr"}]
    review, grown, second, last = (
        load_file(tmp_path / "run" / name / "model.safetensors")
        for name in ("review", "grow-g2", "post-pretrain-g2", "review-g2")
    )
    # What unmasking alone changed is on record; the finished model is as its stage left it.
    unmasked = {curve.stage: curve.unmasking for curve in result.curves if curve.unmasking}
    assert set(unmasked) == {"post-pretrain-g2"}
    change = unmasked["post-pretrain-g2"]
    at_the_end = result.curves[1].validations[-1].bits_per_byte
    assert set(change.after) == {"en", "es", "el", "tr"}
    for tag in ("en", "es", "el"):  # the first group's stages know nothing of Turkish
        assert change.before[tag] == pytest.approx(at_the_end[tag], rel=1e-2)  # bfloat16 weights
        assert change.after[tag] != change.before[tag]
    # Growing and post-pretraining the second group: everything earlier stays bit for bit.
    for name, tensor in review.items():
        assert torch.equal(grown[name], tensor)
        assert torch.equal(second[name], tensor)
    moved = {name for name in second if not torch.equal(second[name], grown[name])}
    assert moved
    assert all(".experts.g2." in name or name.endswith(".rows.g2") for name in moved)
    reviewed = {name for name in last if not torch.equal(last[name], second[name])}
    assert reviewed
    assert all(".router.rows." in name for name in reviewed)
    assert result.final.routing.num_experts == (5, 5, 5)
    of_groups = [model.tensor_bytes for model in result.models if model.tensor_bytes]
    assert [len(one.groups) for one in of_groups] == [1, 1, 2, 2]
    assert len({one.base for one in of_groups}) == 1
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "review-g2").config
    assert not config.masked_groups
    assert config.language_groups["expanded"] == [["el"], ["tr"]]
    page = write_report(result, tmp_path / "report").read_text()
    assert "review-g2" in page
    assert "began to take part, before the first step of post-pretrain-g2" in page


@pytest.mark.parametrize("review", [None, {"replay_documents": 0, "prior_coef": 0}])
def test_other_original_text_is_measured_again_though_nothing_trains_on_it(
    recipe_settings, tmp_path, review
):
    budget = {"total_experts": 8, "tokens_per_language": 200}
    recipe_settings["experts"] = {"num_experts": 4, "allocation": budget}
    recipe_settings["review"] = review

    def key():
        run = Run(parse_recipe(recipe_settings), lambda note: None)
        similarity(run, 1, run.recipe.base)
        return run.keys["similarity"]

    first = key()
    assert key() == first
    rows = [{"text": text} for text in sentences("en", 80, seed=7)]
    write_jsonl(tmp_path / "train" / "en.jsonl", rows)
    assert key() != first


def test_another_config_of_the_base_is_measured_again(recipe_settings, tmp_path):
    budget = {"total_experts": 8, "tokens_per_language": 200}
    recipe_settings["experts"] = {"num_experts": 4, "allocation": budget}

    def table():
        run = Run(parse_recipe(recipe_settings), lambda note: None)
        return similarity(run, 1, run.recipe.base)

    first = table()
    edit_config(tmp_path / "base", rms_norm_eps=0.5)
    assert table() != first


def test_what_travels_with_the_base_is_copied_anew_where_it_changed(recipe_settings, tmp_path):
    for template in ("{{ 'one' }}", "{{ 'two' }}"):
        (tmp_path / "base" / "chat_template.jinja").write_text(template)
        folder = upcycle(Run(parse_recipe(recipe_settings), lambda note: None))
        assert (folder / "chat_template.jinja").read_text() == template


def test_a_group_added_to_a_finished_run_makes_nothing_again(recipe_settings):
    recipe_settings["experts"] = {
        "num_experts": 4,
        "allocation": {"total_experts": 8, "tokens_per_language": 200},
    }
    recipe_settings["languages"] = {"original": ["en"], "expanded": [["el", "tr"]]}
    recipe_settings["data"]["repeat"] = True
    run_recipe(parse_recipe(recipe_settings), lambda note: None)
    recipe_settings["languages"]["expanded"] = [["el", "tr"], ["es"]]
    recipe_settings["review"]["prior_form"] = "group"
    notes = []
    result = run_recipe(parse_recipe(recipe_settings), notes.append)
    done = ("similarity", "upcycle", "post-pretrain", "review")
    assert [note for note in notes if note.endswith("done before, unchanged")] == [
        f"{name}: done before, unchanged" for name in done
    ]
    assert result.final.name == "review-g2"
    assert set(result.models[0].scores) == {"en", "el", "tr", "es"}


def test_a_later_group_that_spoils_an_earlier_one_is_told(recipe_settings, tmp_path):
    recipe_settings["languages"] = {"original": ["en"], "expanded": [["el"], ["tr"]]}
    settings = {"learning_rate": 0.05, "validate_every_steps": 5, "scheduler": "constant"}
    recipe_settings["post_pretrain"] |= settings
    notes = []
    result = run_recipe(parse_recipe(recipe_settings), notes.append)
    told = {(one.stage, one.kind): one.message for one in result.alarms if "G1" in one.message}
    message = told["post-pretrain-g2", "forgetting"]
    assert any("G1 (el)" in note for note in notes)
    # Held to what the finished model of the first group needed.
    finished, later = (
        next(curve for curve in result.curves if curve.stage == stage).validations
        for stage in ("review", "post-pretrain-g2")
    )
    ratios = [point.bits_per_byte["el"] / finished[-1].bits_per_byte["el"] for point in later]
    ratio = float(re.search(r"need ([\d.]+) ×", message)[1])
    assert min(abs(ratio - one) for one in ratios) < 0.01 * ratio


@pytest.mark.slow
def test_two_sharded_processes_add_a_second_group_as_one_does(recipe_settings, tmp_path):
    recipe_settings["languages"] = {"original": ["en"], "expanded": [["el"], ["tr"]]}
    recipe_settings["experts"] = {"num_experts": [3, 1, 4], "classifier": {"layers": [0]}}
    recipe_settings["review"]["prior_form"] = "group"
    for stage in ("post_pretrain", "review"):
        recipe_settings[stage]["fsdp"] = True
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe_settings))  # JSON is YAML
    torchrun("-m", "polycycle", "run", str(path))
    two = load_result(tmp_path / "run" / "result.json")
    elsewhere = {**recipe_settings, "output": str(tmp_path / "one")}
    one = run_recipe(parse_recipe(elsewhere), lambda note: None)
    assert [model.name for model in two.models] == [model.name for model in one.models]
    for together, alone in zip(two.models, one.models, strict=True):
        for language, scores in alone.scores.items():
            found = together.scores[language].bits_per_byte
            assert found == pytest.approx(scores.bits_per_byte, rel=1e-3)
    review = load_file(tmp_path / "run" / "review" / "model.safetensors")
    second = load_file(tmp_path / "run" / "post-pretrain-g2" / "model.safetensors")
    assert all(torch.equal(second[name], tensor) for name, tensor in review.items())
    assert two.curves[2].unmasking.after == pytest.approx(one.curves[2].unmasking.after, rel=1e-3)


@pytest.mark.slow
def test_a_run_of_two_sharded_processes_writes_each_stage_once(recipe_settings, tmp_path):
    recipe_settings["post_pretrain"]["fsdp"] = True
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe_settings))  # JSON is YAML
    done = torchrun("-m", "polycycle", "run", str(path))
    assert done.stdout.count("report:") + done.stderr.count("report:") == 1
    two = load_result(tmp_path / "run" / "result.json")
    one = run_recipe(
        parse_recipe({**recipe_settings, "output": str(tmp_path / "one")}), lambda note: None
    )
    for language in ("en", "es", "el", "tr"):
        together, alone = (r.model("review").scores[language] for r in (two, one))
        assert together.bits_per_byte == pytest.approx(alone.bits_per_byte, rel=1e-3)
    base = load_file(tmp_path / "base" / "model.safetensors")
    tensors = load_file(tmp_path / "run" / "review" / "model.safetensors")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in base.items())


def test_a_second_group_in_the_published_form_copies_the_most_used_expert(
    recipe_settings, tmp_path
):
    recipe_settings["languages"] = {"original": ["en"], "expanded": [["el"], ["tr"]]}
    recipe_settings["experts"]["growth"] = {"routers": "redraw", "copy_from": "most_used"}
    result = run_recipe(parse_recipe(recipe_settings), lambda note: None)
    routing = result.model("review").routing
    review, grown, second = (
        load_file(tmp_path / "run" / name / "model.safetensors")
        for name in ("review", "grow-g2", "post-pretrain-g2")
    )
    for position, layer in enumerate(routing.moe_layers):
        mlp = f"model.layers.{layer}.mlp"
        usage = routing.usage["tr"][position]
        most_used = usage.index(max(usage))
        experts = [
            review[f"{mlp}.down_proj.weight"],
            *review[f"{mlp}.experts.g1.down_proj"],
        ]
        assert torch.equal(grown[f"{mlp}.experts.g2.down_proj"][0], experts[most_used])
        rows = f"{mlp}.router.rows.g1"
        assert not torch.equal(grown[rows], review[rows])
        assert not torch.equal(second[rows], grown[rows])
        old_experts = f"{mlp}.experts.g1.down_proj"
        assert torch.equal(second[old_experts], review[old_experts])


def test_the_published_classifiers_go_through_a_run_of_two_groups(recipe_settings, monkeypatch):
    recipe_settings["languages"] = {"original": ["en"], "expanded": [["el"], ["tr"]]}
    recipe_settings["data"]["packing"] = "concatenate"
    recipe_settings["experts"] = {
        "num_experts": 4,
        "allocation": {"total_experts": 8, "tokens_per_language": 200},
        "classifier": {"layers": [1], "form": "sequence"},
    }
    # Random weights: similarities may fall below zero, which the rule refuses.
    monkeypatch.setattr(SimilarityTable, "per_layer", (0.5, 0.25, 0.5))
    result = run_recipe(parse_recipe(recipe_settings), lambda note: None)
    assert [one.group for one in result.similarities] == [1, 2]
    assert result.final.name == "review-g2"
    assert result.final.scores["el"].accuracy is not None
    judged = [share for share in result.final.routing.judged_original["en"] if share is not None]
    assert len(judged) == 1


def test_a_run_whose_folder_is_a_file_ends_before_it_begins(tmp_path):
    (tmp_path / "run").write_text("a file")
    recipe = parse_recipe(settings(output=str(tmp_path / "run")))
    with pytest.raises(ConfigError, match=r"output: .*run cannot be a folder to write in"):
        run_recipe(recipe, lambda note: None)
