"""The command line: quick to start, clear when wrong, and the same as the library."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from polycycle.allocation import assign_experts
from polycycle.cli import app
from polycycle.config.load import parse_override
from polycycle.surgery import upcycle
from tests.tiny import save_dense

VERBS = [
    "allocate",
    "chat",
    "delta",
    "demo",
    "env",
    "evaluate",
    "export",
    "generate",
    "graft",
    "grow",
    "inspect",
    "lm-eval",
    "microworld",
    "pack",
    "plan",
    "post-pretrain",
    "push",
    "report",
    "review",
    "run",
    "serve",
    "similarity",
    "ungraft",
    "unpack",
    "upcycle",
    "verify",
]


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_demo_goes_where_it_is_told_whatever_yaml_makes_of_the_name(monkeypatch):
    asked = []
    monkeypatch.setattr("polycycle.stages.write_demo", lambda folder, **how: folder / "recipe.yaml")
    monkeypatch.setattr(
        "polycycle.cli.run.carry_out", lambda path, overrides, until: asked.extend(overrides)
    )
    assert call("demo", "--out", "[ελ]: x").exit_code == 0
    assert dict(map(parse_override, asked))["output"] == "[ελ]: x/run"


def test_help_lists_every_verb_and_loads_no_torch():
    code = (
        "import sys; sys.argv = ['polycycle', '--help']\n"
        "from polycycle.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in VERBS:
        assert name in done.stdout


@pytest.mark.parametrize("first", ["polycycle", "transformers"])
def test_auto_classes_know_our_models_in_either_import_order(first, tmp_path):
    second = "transformers" if first == "polycycle" else "polycycle"
    code = (
        f"import {first}, {second}\n"
        "from transformers import AutoConfig, AutoModelForCausalLM\n"
        "config = AutoConfig.for_model('polycycle_llama', num_hidden_layers=1)\n"
        "assert type(config).__name__ == 'LlamaMoeConfig'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_family_loads_before_anyone_asked_for_the_auto_classes():
    code = (
        "from polycycle.families import family_of_dense\n"
        "family = family_of_dense({'model_type': 'llama'}, where='here')\n"
        "assert family.moe_model_type == 'polycycle_llama'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_polycycle_loads_neither_torch_nor_transformers():
    code = "import sys, polycycle; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_explains_itself(name):
    done = call(name, "--help")
    assert done.exit_code == 0
    assert len(done.stdout) > 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--of", "x"), "--of is of a --sibling"),
        (("--tokens", "9"), "--tokens is of a --sibling"),
        (("--family", "qwen3"), "--family is that of a base to train; give --base"),
        (("--hidden-size", "96"), "--hidden-size is that of a base to train; give --base"),
        (("--base", "--sibling", "brackets"), "two models"),
        (("--base", "--num-documents", "9"), "--num-documents is of the world's text"),
        (("--base", "--family", "qwen4"), "Did you mean 'qwen"),
        (("--sibling", "brakets"), "Did you mean 'brackets'"),
        (("--sibling", "brackets", "--learning-rate", "0"), "give a rate between 0 and 1"),
    ],
)
def test_microworld_refuses_options_that_would_do_nothing(options, message, tmp_path):
    done = call("microworld", tmp_path / "out", *options)
    assert done.exit_code == 1
    assert message in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_a_sibling_of_no_tokens_is_refused_and_not_given_the_usual_number(tmp_path):
    done = call("microworld", tmp_path / "out", "--sibling", "brackets", "--tokens", "0")
    assert done.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [(), ("--base",), ("--sibling", "brackets")])
def test_microworld_writes_over_no_folder_unasked(options, tmp_path):
    done = call("microworld", tmp_path, *options)
    assert done.exit_code == 1
    assert "choose another folder, or say --force" in " ".join(done.output.split())
    assert tmp_path.is_dir()


def test_upcycle_and_inspect_agree(tmp_path):
    dense = save_dense(tmp_path / "dense")
    done = call("upcycle", dense, tmp_path / "moe", "--num-experts", "4,1,2")
    assert done.exit_code == 0, done.output
    assert "has no tokenizer" in done.output
    seen = json.loads(call("inspect", tmp_path / "moe", "--json").stdout)
    assert seen["num_experts_per_layer"] == [4, 1, 2]
    assert seen["parameters_trainable"]["review"] == (4 + 2) * 32
    hashed = json.loads(call("inspect", dense, "--hash", "--json").stdout)
    assert hashed["base_hash"] == seen["base_hash"]
    assert "4, 1, 2" in call("inspect", tmp_path / "moe").stdout


def test_inspect_says_whose_the_experts_are(tmp_path):
    save_dense(tmp_path / "dense")
    assignment = assign_experts({("el",): 2, ("hu", "tr"): 1}, [3, 0, 1], is_exact=False)
    upcycle(tmp_path / "dense", tmp_path / "moe", num_experts=(4, 1, 2), assignment=assignment)
    shown = " ".join(call("inspect", tmp_path / "moe").stdout.split())
    assert "layer 0: el 1-2, hu+tr 3; layer 2: all 1" in shown
    seen = json.loads(call("inspect", tmp_path / "moe", "--json").stdout)
    assert seen["expert_languages"] == [[[], ["el"], ["el"], ["hu", "tr"]], [[]], [[], []]]


def test_a_dry_run_writes_nothing(tmp_path):
    dense = save_dense(tmp_path / "dense")
    done = call("upcycle", dense, tmp_path / "moe", "--dry-run")
    assert any(t["name"].endswith("router.rows.g1") for t in json.loads(done.stdout)["tensors"])
    assert not (tmp_path / "moe").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["upcycle", "{dense}", "{dense}"], "--force"),
        (["upcycle", "{tmp}/none", "{tmp}/out"], "no such folder"),
        (["upcycle", "{dense}", "{tmp}/out", "--num-experts", "many"], "write one number"),
        (["upcycle", "{dense}", "{tmp}/out", "--init", "zero"], "choose copy or random"),
        (["upcycle", "{dense}", "{tmp}/out", "--top-k", "7"], "num_experts_per_tok=7"),
        (["run", "{tmp}/none.yaml"], "no recipe at"),
        (["report", "{tmp}"], "result.json"),
    ],
)
def test_our_errors_are_one_message_and_exit_code_1(tmp_path, arguments, message):
    dense = save_dense(tmp_path / "dense")
    filled = [argument.format(dense=dense, tmp=tmp_path) for argument in arguments]
    done = call(*filled)
    assert done.exit_code == 1
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_wrong_usage_is_exit_code_2():
    assert call("upcycle").exit_code == 2
    assert call("fly").exit_code == 2


def test_what_allocate_wrote_goes_into_upcycle_and_grow_by_its_name(tmp_path):
    similarity, counts = tmp_path / "similarity.json", tmp_path / "allocation.json"
    similarity.write_text('{"per_layer": [0.25, 0.5, 1.0]}')
    dense = save_dense(tmp_path / "dense")
    allocate = ("allocate", "--similarity", similarity, "--out", counts, "--total-experts")
    assert call(*allocate, 10).exit_code == 0  # 5 3 2
    moe, grown = tmp_path / "moe", tmp_path / "grown"
    assert call("upcycle", dense, moe, "--num-experts", counts).exit_code == 0
    assert call(*allocate, 8, "--min-experts", 1).exit_code == 0  # 4 2 1
    assert call("grow", moe, grown, "--new-experts", counts).exit_code == 0
    seen = json.loads(call("inspect", grown, "--json").stdout)
    assert seen["new_experts_by_group"] == [[4, 2, 1], [3, 1, 0]]
    assert seen["num_experts_per_layer"] == [8, 4, 2]
    assert "[3, 1, 0], masked until it is trained" in " ".join(
        call("inspect", grown).output.split()
    )
    refused = call("grow", moe, tmp_path / "no", "--new-experts", similarity)
    assert refused.exit_code == 1
    assert "no allocation to read (KeyError)" in " ".join(refused.output.split())


def test_grow_appends_a_group_and_says_what_came_out(tmp_path):
    save_dense(tmp_path / "dense")
    assert call("upcycle", tmp_path / "dense", tmp_path / "moe", "--num-experts", 3).exit_code == 0
    grown = ("grow", tmp_path / "moe", tmp_path / "grown", "--new-experts")
    done = call(*grown, "2,0,1", "--languages", "bn,hi")
    assert done.exit_code == 0, done.output
    assert "group g2, experts per layer [5, 3, 4]" in done.output
    config = json.loads((tmp_path / "grown" / "config.json").read_text())
    assert config["language_groups"]["expanded"][-1] == ["bn", "hi"]
    assert call(*grown, "1").exit_code == 1  # the folder is there
    assert "--new-experts 'two'" in call(*grown, "two", "--force").output


def test_pack_and_unpack_say_what_they_wrote(tmp_path):
    save_dense(tmp_path / "dense")
    call("upcycle", tmp_path / "dense", tmp_path / "moe", "--num-experts", 3)
    packed = call("pack", tmp_path / "moe", tmp_path / "pack")
    assert packed.exit_code == 0, packed.output
    assert "are left out" in packed.output
    back = call("unpack", tmp_path / "dense", tmp_path / "pack", tmp_path / "back")
    assert back.exit_code == 0, back.output
    assert (tmp_path / "back" / "model.safetensors").exists()
    again = call("pack", tmp_path / "moe", tmp_path / "pack")
    assert again.exit_code == 1
    assert "--force" in again.output


def test_ctrl_c_outside_training_says_that_the_same_command_goes_on(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("polycycle.surgery.execute_upcycle", interrupted)
    done = call("upcycle", save_dense(tmp_path / "dense"), tmp_path / "moe")
    assert done.exit_code == 130
    assert "the same command goes on" in done.stderr
    assert not (tmp_path / "moe").exists()


def test_json_is_nothing_but_json_where_colours_are_forced(tmp_path):
    command = [
        sys.executable,
        "-m",
        "polycycle",
        "inspect",
        save_dense(tmp_path / "[el]"),
        "--json",
    ]
    environment = {**os.environ, "FORCE_COLOR": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["family"] == "llama"


def test_a_terminal_that_cannot_write_our_letters_gets_escapes_and_no_crash():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "polycycle", "run", "ελ.yaml"], env=environment, capture_output=True
    )
    assert done.returncode == 1
    assert b"no recipe at \\u03b5\\u03bb.yaml" in done.stderr
