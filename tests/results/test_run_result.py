"""The schema: what goes in comes out, and what does not belong is refused."""

import json
import math

import pytest
from pydantic import ValidationError

from polycycle.errors import PolycycleError
from polycycle.results import RoutingTable, load_result, save_result
from tests.results.example import example_result


def test_a_saved_result_loads_as_it_was(tmp_path):
    result = example_result()
    assert load_result(save_result(result, tmp_path / "result.json")) == result


def test_a_diverged_loss_survives_the_trip_through_json(tmp_path):
    result = example_result()
    point = result.curves[0].training[0].model_copy(update={"loss": math.nan, "z_loss": math.inf})
    curves = result.curves[0].model_copy(update={"training": (point,)})
    path = save_result(result.model_copy(update={"curves": (curves,)}), tmp_path / "result.json")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = load_result(path).curves[0].training[0]
    assert math.isnan(again.loss)
    assert again.z_loss == math.inf


def test_another_schema_version_is_refused_by_number(tmp_path):
    path = _edited(tmp_path, schema_version=99)
    with pytest.raises(PolycycleError, match=r"result\.json: schema_version is 99, .* reads 1"):
        load_result(path)


def test_unknown_keys_are_refused_at_every_level(tmp_path):
    with pytest.raises(PolycycleError, match="colour: Extra inputs are not permitted"):
        load_result(_edited(tmp_path, colour="blue"))
    languages = {"original": ["en"], "seen": ["fr"]}
    with pytest.raises(PolycycleError, match=r"languages\.seen"):
        load_result(_edited(tmp_path, languages=languages))


def test_all_problems_of_a_file_are_listed(tmp_path):
    with pytest.raises(PolycycleError, match=r"seed: (.|\n)*alarms: "):
        load_result(_edited(tmp_path, seed="many", alarms=7))


def test_missing_and_cut_files_say_what_to_do(tmp_path):
    with pytest.raises(PolycycleError, match="no such file"):
        load_result(tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"schema_version": 1, "na')
    with pytest.raises(PolycycleError, match="not JSON"):
        load_result(tmp_path / "cut.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(PolycycleError, match="schema_version is None"):
        load_result(tmp_path / "list.json")


def test_models_begin_with_the_base_and_have_one_name_each():
    models = example_result().models
    with pytest.raises(ValidationError, match="must begin with 'base'"):
        example_result(models=models[1:])
    with pytest.raises(ValidationError, match="review stand here more than once"):
        example_result(models=(*models, models[-1]))


def test_routing_lists_must_run_over_the_moe_layers():
    with pytest.raises(ValidationError, match=r"expert0_share\[el\] has 1 layers, expected 2"):
        RoutingTable(num_experts=(2, 3), moe_layers=(0, 1), expert0_share={"el": (0.5,)}, usage={})
    with pytest.raises(ValidationError, match=r"usage\[el\] has \(2, 2\) experts"):
        RoutingTable(
            num_experts=(2, 3),
            moe_layers=(0, 1),
            expert0_share={},
            usage={"el": ((0.5, 0.5), (0.5, 0.5))},
        )


def test_asking_for_a_model_that_is_not_there_names_those_that_are():
    with pytest.raises(KeyError, match="there are base, post-pretrain, review"):
        example_result().model("reviewed")


def _edited(folder, **change):
    raw = json.loads(example_result().model_dump_json())
    path = folder / "result.json"
    path.write_text(json.dumps({**raw, **change}))
    return path
