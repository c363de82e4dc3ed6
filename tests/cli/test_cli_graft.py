"""`graft`, `ungraft` and `delta`: what they write, say and refuse."""

import json

import pytest

from polycycle.checkpoint import content_hash, open_checkpoint
from polycycle.cli.graft import parse_post
from polycycle.errors import ConfigError
from tests.cli.test_cli import call
from tests.surgery.siblings import config_of, post_trained, siblings


def words(done):
    return " ".join(done.output.split())


@pytest.fixture
def folders(tmp_path):
    return siblings(tmp_path, "qwen2")


def test_graft_says_what_the_base_is_now_and_ungraft_how_exact_it_was(folders, tmp_path):
    moe, base, post = folders
    out = tmp_path / "out"
    done = call("graft", moe, "--base", base, "--post", post, "--out", out, "--keep-ungrafted")
    assert done.exit_code == 0, done.output
    assert f"its base is now {post}" in words(done)
    assert "tokenizers were not compared" in words(done)
    seen = words(call("inspect", out))
    assert "grafted 1 × (" in seen
    assert "on all" in seen
    done = call("ungraft", out, "--base", base, "--post", post, "--out", tmp_path / "back")
    assert "new experts exact" in words(done)
    assert content_hash(open_checkpoint(tmp_path / "back")) == content_hash(open_checkpoint(moe))
    done = call("pack", out, tmp_path / "pack")
    assert done.exit_code == 0, done.output


def test_several_deltas_with_scales_leave_no_dense_base(folders, tmp_path):
    moe, base, post = folders
    other = post_trained(base, tmp_path / "other", seed=2)
    settings = ["--base", base, "--post", f"{post}:0.5", "--post", other, "--scale", "0.25"]
    done = call("graft", moe, *settings, "--out", tmp_path / "out")
    assert "no dense model: several deltas" in words(done)
    added = config_of(tmp_path / "out")["grafts"][0]["deltas"]
    assert [(one["post"], one["scale"]) for one in added] == [(str(post), 0.5), (str(other), 0.25)]
    assert "no dense model any more: several deltas" in words(call("inspect", tmp_path / "out"))
    seen = json.loads(call("inspect", tmp_path / "out", "--json").stdout)
    assert (seen["base_hash"], seen["no_reference"]) == (None, "several deltas were added up")
    done = call("pack", tmp_path / "out", tmp_path / "pack")
    assert done.exit_code == 1
    assert "several deltas" in words(done)
    both = ["--base", base, "--post", post, "--post", other]
    done = call("ungraft", tmp_path / "out", *both, "--out", tmp_path / "back")
    assert "new experts within" in words(done)


def test_a_saved_delta_is_shown_and_grafted_without_the_base(folders, tmp_path):
    moe, base, post = folders
    done = call("delta", base, post, "--out", tmp_path / "delta")
    assert done.exit_code == 0, done.output
    assert "of their norm. Stored as exact" in words(done)
    page = (tmp_path / "delta" / "norms.html").read_text()
    assert "model.layers.2.self_attn.q_proj.bias" in page
    assert "<svg" in page
    assert "http" not in page
    done = call("graft", moe, "--post", tmp_path / "delta", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert config_of(tmp_path / "out")["base_hash"] == content_hash(open_checkpoint(post))
    done = call("delta", base, post, "--out", tmp_path / "d2", "--dtype", "bfloat16", "--json")
    norms = json.loads(done.stdout[: done.stdout.rindex("}") + 1])
    assert (norms["stored_as"], norms["rounding_error"] > 0) == ("bfloat16", True)


def test_a_dry_run_of_a_graft_writes_nothing(folders, tmp_path):
    moe, base, post = folders
    settings = ["--base", base, "--post", post, "--out", tmp_path / "out"]
    done = call("graft", moe, *settings, "--dry-run")
    names = {one["name"] for one in json.loads(done.stdout)["tensors"]}
    assert names == set(open_checkpoint(moe).tensors)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["graft", "{moe}", "--post", "{post}", "--out", "{tmp}/out"], "--base BASE"),
        (["graft", "{moe}", "--post", "{post}:much", "--out", "{tmp}/out"], "write POST or"),
        (["graft", "{moe}", "--post", "{post}", "--on", "head", "--out", "{tmp}/o"], "--on 'head'"),
        (["graft", "{moe}", "--post", "{post}", "--out", "{moe}"], "--force"),
        (
            ["graft", "{base}", "--base", "{base}", "--post", "{post}", "--out", "{tmp}/o"],
            "upcycle",
        ),
        (["graft", "{moe}", "--base", "{post}", "--post", "{base}", "--out", "{tmp}/o"], "--force"),
        (
            ["ungraft", "{moe}", "--base", "{base}", "--post", "{post}", "--out", "{tmp}/o"],
            "grafted",
        ),
        (["delta", "{base}", "{post}", "--out", "{tmp}/o", "--dtype", "int8"], "--dtype 'int8'"),
        (["delta", "{base}", "{moe}", "--out", "{tmp}/o"], "already upcycled"),
    ],
)
def test_what_cannot_be_is_refused_in_one_message(folders, tmp_path, arguments, message):
    names = dict(zip(("moe", "base", "post"), folders, strict=True), tmp=tmp_path)
    done = call(*(argument.format(**names) for argument in arguments))
    assert done.exit_code == 1
    assert message in words(done)
    assert "Traceback" not in done.output


def test_a_scale_may_follow_a_name_and_a_folder_may_hold_a_colon(tmp_path):
    (tmp_path / "a:b").mkdir()
    assert parse_post(f"{tmp_path}/a:b", 1.0) == (f"{tmp_path}/a:b", 1.0)
    assert parse_post("owner/name:-0.5", 1.0) == ("owner/name", -0.5)
    assert parse_post("owner/name", 0.7) == ("owner/name", 0.7)
    with pytest.raises(ConfigError, match="finite"):
        parse_post("owner/name:inf", 1.0)
