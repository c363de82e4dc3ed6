"""The microworld's base: its sizes."""

import json

import pytest
from typer.testing import CliRunner

from polycycle.cli import app
from polycycle.errors import ConfigError
from polycycle.stages import build_base, shipped_base
from polycycle.stages.base import HIDDEN_SIZE, _widths


def test_the_usual_size_is_that_of_the_shipped_base_and_others_are_in_proportion():
    config = json.loads((shipped_base() / "config.json").read_text("utf-8"))
    usual = _widths(HIDDEN_SIZE)
    assert {key: config[key] for key in usual} == usual
    for size in (32, 96, 256):
        widths = _widths(size)
        assert widths["hidden_size"] == 32 * widths["num_attention_heads"] == size
        assert widths["intermediate_size"] / size == pytest.approx(2.8, rel=0.1)


@pytest.mark.parametrize("size", [0, 16, 100])
def test_a_size_that_heads_do_not_fit_is_refused_before_anything_is_trained(tmp_path, size):
    with pytest.raises(ConfigError, match="multiple of that, such as 160"):
        build_base(tmp_path / "base", hidden_size=size)
    assert not (tmp_path / "base").exists()


def test_a_size_is_only_asked_for_with_a_base():
    done = CliRunner().invoke(app, ["microworld", "world", "--hidden-size", "96"])
    assert done.exit_code == 1
    assert "give --base, too" in done.output
