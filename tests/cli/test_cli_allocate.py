"""`polycycle allocate`: the rule from the command line, without torch."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from polycycle.cli import app


@pytest.fixture
def similarity(tmp_path):
    """Three layers; the rule's worked example."""
    path = tmp_path / "similarity.json"
    path.write_text('{"per_layer": [0.25, 0.5, 1.0]}')
    return path


def call(similarity, *arguments):
    return CliRunner().invoke(app, ["allocate", "--similarity", str(similarity), *arguments])


def test_json_is_all_that_is_printed_and_nothing_is_written(similarity):
    done = call(similarity, "--total-experts", "10", "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["num_experts_per_layer"] == [5, 3, 2]
    assert plan["meets_budget"]
    assert list(similarity.parent.iterdir()) == [similarity]


@pytest.mark.parametrize(
    ("budget", "counts"),
    [
        (["--new-experts", "7"], [5, 3, 2]),
        (["--share-of-uniform", "0.5", "--num-experts", "6"], [5, 3, 2]),
        (["--share-of-uniform", "0.5"], [5, 3, 2]),
        (["--total-experts", "9", "--max-experts", "3"], [3, 3, 3]),
        (["--total-experts", "5", "--min-experts", "1"], [2, 1, 1]),
        (["--total-experts", "8", "--export-friendly"], [4, 1, 1]),
        (["--total-experts", "8", "--dense-layers", "0"], [1, 4, 2]),
    ],
)
def test_every_way_to_say_a_budget(similarity, budget, counts):
    done = call(similarity, *budget, "--json")
    assert json.loads(done.stdout)["num_experts_per_layer"] == counts


def test_the_table_says_when_the_budget_cannot_be_met_and_out_keeps_the_plan(similarity):
    file = similarity.parent / "plan.json"
    done = call(similarity, "--total-experts", "9", "--out", str(file))
    assert "9 cannot be met exactly: the next total the rule can give is 10" in done.stdout
    assert "num_experts: 4,2,2" in done.stdout
    assert json.loads(file.read_text())["num_experts_per_layer"] == [4, 2, 2]
    full = call(similarity, "--total-experts", "11", "--max-experts", "3")
    assert "every layer has the most it may have (3)" in full.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no budget: give exactly one of --total-experts"),
        (["--total-experts", "9", "--new-experts", "6"], "--total-experts and --new-experts"),
        (["--total-experts", "5"], "Say --total-experts 6 (or --new-experts 3)"),
        (["--total-experts", "9", "--num-experts", "6"], "yardstick of --share-of-uniform"),
        (["--share-of-uniform", "0"], "number above 0"),
        (["--share-of-uniform", "0.4", "--num-experts", "1"], "at least 2"),
        (["--total-experts", "9", "--min-experts", "0"], "--min-experts 0"),
        (["--total-experts", "9", "--max-experts", "1"], "--max-experts 2"),
        (
            ["--total-experts", "9", "--dense-layers", "first"],
            "--dense-layers 'first': write layers counted from 0",
        ),
        (
            ["--total-experts", "9", "--min-experts", "2", "--export-friendly"],
            "--export-friendly leaves layers dense",
        ),
    ],
)
def test_errors_name_the_option_and_what_to_type(similarity, arguments, message):
    done = call(similarity, *arguments)
    assert done.exit_code == 1
    assert message in " ".join(done.output.split())


def test_a_similarity_that_is_not_finite_is_refused(similarity):
    similarity.write_text('{"per_layer": [0.5, NaN]}')
    done = call(similarity, "--total-experts", "9", "--json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "layer 1: similarity nan" in done.stderr


def test_it_loads_no_torch(similarity):
    code = (
        "import sys\n"
        f"sys.argv = ['polycycle', 'allocate', '--similarity', {str(similarity)!r},"
        " '--total-experts', '10', '--json']\n"
        "from polycycle.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["num_experts_per_layer"] == [5, 3, 2]
