"""Serving: the right command for every kind of model, and a server that answers."""

import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch

from polycycle.engines import serve_command
from polycycle.errors import CheckpointError, ConfigError, ExportError
from polycycle.export import export
from polycycle.files import write_json
from polycycle.inference import (
    Conversation,
    Sampling,
    load_speaker,
    open_model,
    run_server,
    ways_to_serve,
)
from polycycle.stages import shipped_base
from polycycle.surgery import upcycle
from tests.export.upcycled import save_upcycled
from tests.tiny import save_dense

PACKAGES = ("fastapi", "uvicorn", "openai")
missing = [name for name in PACKAGES if find_spec(name) is None]
needs_server = pytest.mark.skipif(
    bool(missing), reason=f"{', '.join(missing)} missing: pip install 'polycycle[serve]'"
)


def commands(model, **settings):
    return {way.engine: way.command for way in ways_to_serve(model, **settings)}


def test_our_own_format_is_served_by_transformers_with_polycycle_alone(tmp_path):
    folder = save_upcycled(tmp_path, "llama")
    assert commands(folder, host="0.0.0.0", port=9000) == {
        "transformers": f"polycycle serve {folder} --run --host 0.0.0.0 --port 9000"
    }
    (way,) = ways_to_serve(folder)
    assert f"polycycle export {folder}" in way.known


def test_a_dense_model_is_served_as_it_is(tmp_path):
    folder = save_dense(tmp_path / "a dense one")
    assert commands(folder) == {"transformers": f"transformers serve '{folder}'"}


def test_an_export_is_served_by_the_engines_it_is_right_for(tmp_path):
    model, out = save_upcycled(tmp_path, "qwen2"), tmp_path / "out"
    export(model, out, engine="vllm", with_verification=False)
    found = commands(out, port=9000)
    assert sorted(found) == ["sglang", "transformers", "vllm"]
    assert found["vllm"] == f"vllm serve {out} --port 9000"
    assert all("NOT PROVED" in way.known for way in ways_to_serve(out))
    write_json(out / "polycycle_verification.json", {"passed": True})
    assert not any("NOT PROVED" in way.known for way in ways_to_serve(out))


def test_an_export_whose_proof_failed_is_not_to_be_served(tmp_path):
    model, out = save_upcycled(tmp_path, "llama"), tmp_path / "out"
    export(model, out, with_verification=False)
    proof = {"passed": False, "failures": ["en: another text"]}
    write_json(out / "polycycle_verification.json", proof)
    with pytest.raises(ExportError, match="not to be served:\n  en: another text"):
        ways_to_serve(out)


def test_a_gguf_is_for_llama_cpp_alone(tmp_path):
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ExportError, match=r"no polycycle_export\.json"):
        ways_to_serve(tmp_path)
    record = {"right_for": {"llama.cpp": "run by verify"}, "exported_from": "x"}
    write_json(tmp_path / "polycycle_export.json", record)
    assert commands(tmp_path) == {"llama.cpp": f"llama-server --model {tmp_path}/model.gguf"}
    with pytest.raises(CheckpointError, match=r"is for llama\.cpp; `polycycle serve"):
        open_model(tmp_path)


def test_llama_cpp_converts_a_stock_folder_first():
    assert serve_command("llama.cpp", "out") == (
        "python convert_hf_to_gguf.py out --outfile out.gguf && llama-server --model out.gguf"
    )


def test_missing_packages_are_named_with_what_to_type(tmp_path, monkeypatch):
    from transformers.utils import import_utils

    monkeypatch.setattr(import_utils, "is_serve_available", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'polycycle\[serve\]'"):
        run_server(open_model(save_dense(tmp_path / "dense")))


def free_port():
    with socket.socket() as place:
        place.bind(("localhost", 0))
        return place.getsockname()[1]


@pytest.fixture
def served(request, tmp_path):
    """A server with an upcycled microworld of a family, its folder and address."""
    family, how = request.param
    base = shipped_base()
    folder = tmp_path / "moe"
    upcycle(base, folder, num_experts=3, init="random", **how)
    if family == "qwen2":  # of a name that transformers gives to another class
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model("qwen2", **_shape(base))
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "dense")
        folder = tmp_path / "moe-qwen2"
        upcycle(tmp_path / "dense", folder, num_experts=3, init="random", **how)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((base / name).read_bytes())
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    )
    port = free_port()
    log = tmp_path / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "polycycle", "serve", folder, "--run", "--port", str(port)],
            stdout=file,
            stderr=file,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
    try:
        _wait(server, f"http://localhost:{port}/health", log)
        yield folder, f"http://localhost:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def _shape(base: Path):
    import json

    config = json.loads((base / "config.json").read_text())
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads", "eos_token_id", "pad_token_id")
    return {name: config[name] for name in names}


def _wait(server, address, log, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            with urlopen(address) as answer:
                assert answer.status == 200
            return
        except URLError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


@needs_server
@pytest.mark.slow
@pytest.mark.parametrize(
    "served",
    [("llama", {"exact_retention": True}), ("qwen2", {})],
    indirect=True,
    ids=["llama with exact retention", "qwen2"],
)
def test_the_openai_client_gets_from_the_server_what_the_model_writes(served):
    from openai import OpenAI

    folder, address = served
    talk = Conversation(
        load_speaker(open_model(folder)), Sampling(max_new_tokens=12), with_template=True
    )
    expected = talk.answer("Maria lives in").text
    with OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        asked = {
            "model": str(folder),
            "messages": [{"role": "user", "content": "Maria lives in"}],
            "max_tokens": 12,
            "temperature": 0,
        }
        whole = client.chat.completions.create(**asked)
        assert whole.choices[0].message.content == expected
        with client.chat.completions.create(**asked, stream=True) as stream:
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert "".join(pieces) == expected
        plain = client.completions.create(
            model=str(folder), prompt="Maria lives in\n", max_tokens=12, temperature=0
        )
        assert plain.choices[0].text == expected
