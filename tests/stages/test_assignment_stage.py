"""Runs in which experts belong to languages: config, keys, results, report, several groups."""

import copy
import json

import pytest
from safetensors.torch import load_file

from polycycle.checkpoint import open_checkpoint
from polycycle.config import parse_recipe
from polycycle.errors import ConfigError
from polycycle.report import write_report
from polycycle.report.assignment import assignment_table
from polycycle.results import load_result, save_result
from polycycle.stages import plan_run, run_recipe, stage_folders
from polycycle.stages.upcycle import plan_recipe
from tests.stages.test_pipeline import recipe_settings  # noqa: F401
from tests.stages.test_upcycle import table

DEDICATED = {"el": 2, "tr": 1}


@pytest.fixture
def settings(recipe_settings):  # noqa: F811
    recipe_settings["experts"] = {"num_experts": [4, 1, 4], "assignment": DEDICATED}
    recipe_settings["post_pretrain"]["assignment_hard_steps"] = 5
    recipe_settings["post_pretrain"]["log_every_steps"] = 1
    return recipe_settings


def run(settings):
    return run_recipe(parse_recipe(settings), lambda note: None)


def config(settings, stage):
    folder = f"{settings['output']}/{stage}/config.json"
    with open(folder, encoding="utf-8") as file:
        return json.load(file)


def test_a_run_says_everywhere_whose_its_experts_are(settings, tmp_path):
    result = run(settings)
    owners = [[[], ["el"], ["el"], ["tr"]], [[]], [[], ["el"], ["el"], ["tr"]]]
    for stage in ("upcycle", "post-pretrain", "review"):
        assert config(settings, stage)["expert_languages"] == owners
    metrics = (tmp_path / "run" / "post-pretrain" / "metrics.jsonl").read_text().splitlines()
    first = json.loads(metrics[0])
    assert first["own_experts_share"] == {"el": 1.0, "tr": 1.0}
    curve = result.curves[0].routing
    assert curve[0].own_experts_share == first["own_experts_share"]
    routing = result.final.routing
    assert routing.expert_languages == (((), ("el",), ("el",), ("tr",)),) * 2
    save_result(result, tmp_path / "result.json")
    assert load_result(tmp_path / "result.json") == result
    shown = assignment_table(result)
    assert [section.title for section in shown.sections][-1] == "Expanded"
    cells = {str(row[0]).split("<code>")[1][:2]: row[1:] for s in shown.sections for row in s.rows}
    assert [cells[tag][0] for tag in ("el", "tr", "en")] == ["2.0", "1.0", "—"]
    own = sum(layer[3] for layer in routing.usage["tr"]) / 2
    assert cells["tr"][2] == f"{100 * own:.1f}%"
    page = write_report(result, tmp_path / "report").read_text()
    assert "Whose experts each language uses" in page
    assert "Tokens that reach an expert of their own language" in page


def test_shared_experts_are_the_default_and_leave_config_and_page_as_they_were(settings, tmp_path):
    settings["experts"] = {"num_experts": 3}
    del settings["post_pretrain"]["assignment_hard_steps"]
    result = run(settings)
    assert "expert_languages" not in config(settings, "review")
    assert "assignment" not in stage_folders(tmp_path / "run")["upcycle"]["inputs"]
    assert assignment_table(result) is None
    explicit = copy.deepcopy(settings) | {"experts": {"num_experts": 3, "assignment": "shared"}}
    notes = []
    run_recipe(parse_recipe(explicit), notes.append)
    told = [note for note in notes if not note.startswith("tokenizer")]
    assert len(told) == 6
    assert all(note.endswith("done before, unchanged") for note in told)


def test_only_order_and_shares_of_a_groups_own_entries_make_its_model_anew(settings, tmp_path):
    settings["languages"]["expanded"] = [["el"], ["tr"]]
    settings["experts"] = {"num_experts": 3, "assignment": {"el": 2}}
    settings["review"]["prior_form"] = "group"
    run(settings)
    open_to_all = [[], ["el"], ["el"], [], []]
    assert config(settings, "review-g2")["expert_languages"] == [open_to_all] * 3
    notes = []
    settings["experts"]["assignment"] = {"el": 2, "tr": 2}
    run_recipe(parse_recipe(settings), notes.append)
    done = [note.split(":")[0] for note in notes if "done before" in note]
    assert "review" in done
    assert "grow-g2" not in done
    both = [[], ["el"], ["el"], ["tr"], ["tr"]]
    assert config(settings, "review-g2")["expert_languages"] == [both] * 3


def test_assigned_and_shared_start_from_the_same_tensors_and_train_apart(settings, tmp_path):
    run(settings)
    shared = copy.deepcopy(settings) | {"output": str(tmp_path / "shared")}
    shared["experts"] = {"num_experts": [4, 1, 4]}
    del shared["post_pretrain"]["assignment_hard_steps"]
    run(shared)

    def tensors(folder, stage):
        return load_file(tmp_path / folder / stage / "model.safetensors")

    fresh = tensors("run", "upcycle"), tensors("shared", "upcycle")
    assert all(fresh[0][name].equal(tensor) for name, tensor in fresh[1].items())
    trained = tensors("run", "post-pretrain"), tensors("shared", "post-pretrain")
    assert any(not trained[0][name].equal(tensor) for name, tensor in trained[1].items())


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ({"num_experts": 3, "assignment": DEDICATED}, "layer 0 gets 2 new experts, but el: 2, tr"),
        ({"num_experts": [1, 6, 6], "assignment": DEDICATED}, "layer 1 gets 5 new experts"),
        ({"num_experts": [1, 2, 1], "assignment": {"el": 1, "tr": 1}}, "add up to 2"),
        (
            {
                "num_experts": 2,
                "assignment": {"el": 1, "tr": 1},
                "allocation": {"share_of_uniform": 1.0},
            },
            "no layer has an expert for each of the 2 entries",
        ),
    ],
)
def test_counts_that_do_not_fit_are_refused_before_anything_is_done(settings, experts, message):
    settings["experts"] = experts
    with pytest.raises(ConfigError, match=message):
        plan_run(parse_recipe(settings))


def test_a_later_group_that_does_not_fit_is_refused_before_the_first_trains(settings, tmp_path):
    settings["languages"]["expanded"] = [["el"], ["tr"]]
    settings["experts"] = {"num_experts": 3, "assignment": {"el": 2, "tr": 3}}
    with pytest.raises(ConfigError, match="tr: 3 add up to 3"):
        run(settings)
    assert not (tmp_path / "run" / "upcycle").exists()


def test_an_allocation_scales_the_shares_layer_by_layer(settings):
    settings["experts"] = {
        "assignment": DEDICATED,
        "allocation": {"total_experts": 14, "min_experts": 2},
    }
    recipe = parse_recipe(settings)
    base = open_checkpoint(recipe.base)
    plan = plan_recipe(recipe, base, table((0.9, 0.5, 0.2), (0.9, 0.5, 0.2)))
    counts = plan.config["num_experts_per_layer"]
    owners = plan.config["expert_languages"]
    assert [len(layer) for layer in owners] == counts
    assert counts[0] == 2  # one new expert for two languages: open to all
    assert owners[0] == [[], []]
    assert {tuple(tags) for tags in owners[2][1:]} == {("el",), ("tr",)}
