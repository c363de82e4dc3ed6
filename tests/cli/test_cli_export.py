"""`export`, `verify` and `push`: what they write, say and refuse."""

import json

import pytest

from polycycle.errors import ExportError
from polycycle.export import plan_export, plan_push, upload
from tests.cli.test_cli import call
from tests.export.upcycled import save_upcycled
from tests.text import make_tokenizer, sentences, write_jsonl
from tests.tiny import edit_config


def words(done):
    return " ".join(done.output.split())


@pytest.fixture
def model(tmp_path):
    folder = save_upcycled(tmp_path, "qwen2", config={"vocab_size": 320})
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def texts(tmp_path):
    options = []
    for language in ("en", "el"):
        rows = [{"text": text} for text in sentences(language, 5)]
        path = write_jsonl(tmp_path / "text" / f"{language}.jsonl", rows)
        options += ["--text", f"{language}={path}"]
    return options


def test_export_proves_on_text_of_each_language_and_writes_the_card(model, texts, tmp_path):
    out = tmp_path / "out"
    done = call("export", model, out, *texts)
    assert done.exit_code == 0, done.output
    assert "target: qwen2_moe" in words(done)
    assert "It computes the same. Compared in float32 on real text" in words(done)
    card = (out / "README.md").read_text()
    assert "| Greek (el) |" in card
    assert "llama.cpp: would not compute this model right" in card
    assert "vllm: `vllm serve THIS_FOLDER` (read from the source of" in card
    assert json.loads((out / "polycycle_export.json").read_text())["target"] == "qwen2_moe"
    assert call("export", model, out).exit_code == 1  # it is there already
    done = call("verify", out, *texts, "--json")
    proof = json.loads(done.stdout)
    assert (proof["passed"], sorted(proof["languages"])) == (True, ["el", "en"])


def test_a_failed_verification_ends_with_code_one_and_says_so_in_the_card(model, texts, tmp_path):
    out = tmp_path / "out"
    assert call("export", model, out, *texts).exit_code == 0
    config = out / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_experts_per_tok": 1}))
    done = call("verify", out, *texts)
    assert done.exit_code == 1
    assert "does not compute what" in words(done)
    assert "IT DOES NOT COMPUTE THE SAME" in (out / "README.md").read_text()
    done = call("push", out, "me/model")
    assert done.exit_code == 1
    assert "failed its proof" in words(done)


def test_without_text_the_note_says_what_is_compared(model, tmp_path):
    done = call("export", model, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "is in no run folder, so random token ids are compared" in words(done)
    assert "seeded random token ids" in words(done)


def test_a_model_without_tokenizer_is_compared_on_random_ids(tmp_path):
    model = save_upcycled(tmp_path, "llama")
    done = call("export", model, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "has no tokenizer, so random token ids" in words(done)
    done = call("export", model, tmp_path / "out2", "--text", "en=en.jsonl")
    assert "leave it out" in words(done)


def test_wrong_choices_name_the_right_ones(model, tmp_path):
    done = call("export", model, tmp_path / "out", "--target", "mixtrel")
    assert "choose among auto, mixtral" in words(done)
    done = call("export", model, tmp_path / "out", "--engine", "vlm")
    assert "choose among transformers, vllm" in words(done)
    done = call("export", model, tmp_path / "out", "--text", "en.jsonl")
    assert "write LANGUAGE=FILE" in words(done)
    done = call("verify", model)
    assert "is no export" in words(done)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(model, tmp_path):
    done = call("export", model, tmp_path / "out", "--dry-run")
    names = {tensor["name"] for tensor in json.loads(done.stdout)["tensors"]}
    assert "model.layers.0.mlp.experts.3.down_proj.weight" in names
    assert not (tmp_path / "out").exists()


def test_an_unproved_export_is_not_pushed(model, tmp_path):
    out = tmp_path / "out"
    done = call("export", model, out, "--no-verify")
    assert "not proved yet: polycycle verify" in words(done)
    assert "has no model card" in words(call("push", out, "me/model", "--dry-run"))
    done = call("push", out, "me/model", "--dry-run", "--force")
    assert done.exit_code == 0, done.output
    assert "model.safetensors" in words(done)
    assert "nothing was uploaded" in words(done)
    assert "owner/name" in words(call("push", out, "model", "--dry-run", "--force"))


class Hub:
    """Stands in for the hub: what it was told."""

    def __init__(self):
        self.calls = []

    def create_repo(self, repo, **settings):
        self.calls.append(("create", repo, settings))
        return f"https://hub.example/{repo}"

    def upload_folder(self, **settings):
        self.calls.append(("upload", settings))


def test_push_creates_the_repository_and_uploads_the_folder_in_one_commit(model, texts, tmp_path):
    out = tmp_path / "out"
    call("export", model, out, *texts)
    (out / "manifest.json").write_text("{}")
    plan = plan_push(out, "me/model")
    assert "manifest.json" not in dict(plan.files)
    assert {"README.md", "config.json", "tokenizer.json"} <= set(dict(plan.files))
    hub = Hub()
    assert upload(plan, private=True, message="why", api=hub) == "https://hub.example/me/model"
    assert hub.calls[0] == ("create", "me/model", {"private": True, "exist_ok": True})
    assert hub.calls[1][1]["folder_path"] == out
    assert "manifest.json" in hub.calls[1][1]["ignore_patterns"]
    with pytest.raises(ExportError, match=r"neither config\.json nor model\.gguf"):
        plan_push(tmp_path, "me/model")


def test_a_gguf_file_with_its_card_is_a_folder_to_push(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "README.md").write_text("card")
    assert dict(plan_push(tmp_path, "me/model").files) == {"README.md": 4, "model.gguf": 4}


def test_languages_of_the_model_without_text_are_named(model, texts, tmp_path):
    edit_config(model, language_groups={"original": ["en"], "expanded": [["el", "hu"]]})
    done = call("export", model, tmp_path / "out", *texts)
    assert done.exit_code == 0, done.output
    assert "nothing is compared in hu; say --text for each of them" in words(done)
    assert "language:\n- en\n- el\n- hu\n" in (tmp_path / "out" / "README.md").read_text()


def test_llama_cpp_gets_its_own_file_or_what_its_converter_reads(tmp_path):
    pytest.importorskip("gguf")
    settings = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    folder = save_upcycled(tmp_path, "llama", config={"vocab_size": 320, **settings})
    make_tokenizer().save_pretrained(folder)
    assert plan_export(folder, engine="llama.cpp").target_name == "gguf"
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert plan_export(folder, engine="llama.cpp").target_name == "mixtral"
    unequal = save_upcycled(tmp_path / "unequal", "llama", num_experts=[4, 3, 2])
    with pytest.raises(ExportError, match="gguf: layer 1 needs 3 slots"):
        plan_export(unequal, engine="llama.cpp")
