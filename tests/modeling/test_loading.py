"""Our model class loads, saves and runs in every way that transformers offers, or says why not."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, pipeline

from polycycle.errors import CheckpointError, ConfigError
from tests.export.upcycled import save_upcycled
from tests.text import VOCAB_SIZE, make_tokenizer
from tests.tiny import aligned, load, token_ids

IDS = token_ids(2, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Unequal counts, a dense layer, a classifier: everything that our class adds."""
    settings = {"classifier_layers": (0,), "config": {"vocab_size": VOCAB_SIZE}}
    model = save_upcycled(
        tmp_path_factory.mktemp("loading"), "llama", num_experts=[4, 1, 3], **settings
    )
    make_tokenizer().save_pretrained(model)
    return model


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.fixture(scope="module")
def expected(folder):
    return logits(load(folder))


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}], ids=["cpu", "auto", "dict"])
def test_a_device_map_places_the_same_model(folder, expected, device_map):
    model = aligned(AutoModelForCausalLM.from_pretrained(folder, device_map=device_map).eval())
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize(
    "first", ["LlamaConfig", "LlamaForCausalLM", "Gemma3ForCausalLM", "AutoModelForCausalLM"]
)
def test_the_auto_classes_know_the_model_whatever_of_transformers_loads_first(folder, first):
    code = (
        "import sys, polycycle\n"
        "assert 'torch' not in sys.modules\n"
        f"from transformers import {first}\n"
        "from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig\n"
        f"assert isinstance(AutoConfig.from_pretrained({str(folder)!r}), LlamaConfig)\n"
        f"print(type(AutoModelForCausalLM.from_pretrained({str(folder)!r})).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["LlamaMoeForCausalLM"]


def test_layers_that_do_not_fit_can_lie_on_disk(folder, expected, tmp_path):
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    places |= {"lm_head": "cpu", "model.layers.0": "cpu"}
    places |= {"model.layers.1": "disk", "model.layers.2": "disk"}
    model = AutoModelForCausalLM.from_pretrained(
        folder, device_map=places, offload_folder=tmp_path / "offload"
    ).eval()
    assert model.model.layers[2].mlp.experts["g1"].down_proj.device.type == "meta"
    # What accelerate maps from disk lies where it lies (see tests.tiny.load): no bits to compare.
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_dtype_is_that_of_every_weight_and_of_the_logits(folder, expected, dtype):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    found = logits(model)
    assert found.dtype == dtype
    assert (found.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_can_be_chosen(folder, expected, name):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=name).eval()
    assert model.config._attn_implementation == name
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


def test_experts_have_one_implementation_and_another_is_refused(folder, expected):
    model = AutoModelForCausalLM.from_pretrained(folder, experts_implementation="eager").eval()
    assert torch.equal(logits(aligned(model)), expected)
    for name in ("grouped_mm", "batched_mm"):
        with pytest.raises(ConfigError, match=f"experts_implementation='{name}'.*Leave it out"):
            AutoModelForCausalLM.from_pretrained(folder, experts_implementation=name)
        with pytest.raises(ConfigError):
            model.set_experts_implementation(name)


def test_the_text_generation_pipeline_takes_the_folder(folder):
    generate = pipeline("text-generation", model=str(folder), device_map="cpu")
    settings = {"max_new_tokens": 8, "do_sample": False}
    (first,) = generate("the river runs", **settings)
    assert first["generated_text"].startswith("the river runs")
    assert len(first["generated_text"]) > len("the river runs")
    both = generate(["the river runs", "το ποτάμι"], batch_size=1, **settings)
    assert both[0] == [first]


def test_save_pretrained_gives_every_bit_and_the_whole_config_again(folder, tmp_path):
    load(folder).save_pretrained(tmp_path)
    before = load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    configs = [json.loads((one / "config.json").read_text()) for one in (folder, tmp_path)]
    assert configs[0] == configs[1]
    assert len(configs[0]["base_hash"]) == 64
    assert configs[0]["num_experts_per_layer"] == [4, 1, 3]


def test_save_pretrained_in_shards_loads_again(folder, tmp_path):
    load(folder).save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    before, after = load(folder).state_dict(), load(tmp_path).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


# torch's inductor uses what torch itself calls deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_forward_gives_the_same_logits(folder, expected, backend):
    torch._dynamo.reset()
    compiled = torch.compile(load(folder), backend=backend)
    torch.testing.assert_close(logits(compiled), expected, rtol=1e-4, atol=1e-4)


def test_quantised_loading_is_refused_and_says_what_to_do(folder):
    model = load(folder)
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(CheckpointError, match=r"bitsandbytes.*polycycle export"):
        type(model)(model.config)
