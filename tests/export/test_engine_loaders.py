"""Exported folders hold exactly what the loaders of vLLM and SGLang take (read, not run)."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from polycycle.errors import ExportError
from polycycle.export import READ_FROM, TARGETS, execute_export, plan_export
from polycycle.export.engines import right_engines
from tests.export.loaders import ALWAYS_REFUSED, FILES, LOADERS, THROUGH_TRANSFORMERS, Loader
from tests.export.upcycled import save_upcycled

NO_SCALING: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
BIASES: dict[str, Any] = {"attention_bias": True}
ONE_WINDOW: dict[str, Any] = {
    "use_sliding_window": True,
    "sliding_window": 8,
    "max_window_layers": 0,
}
# engine, target, family, experts, settings of the dense model
CASES: dict[str, tuple[str, str, str, Any, dict[str, Any]]] = {
    "vllm-mixtral-llama": ("vllm", "mixtral", "llama", [4, 1, 4], {"head_dim": 12}),
    "vllm-mixtral-mistral-window": ("vllm", "mixtral", "mistral", 4, {}),
    "vllm-qwen2_moe-qwen2": ("vllm", "qwen2_moe", "qwen2", [4, 1, 4], {}),
    "vllm-qwen2_moe-llama": ("vllm", "qwen2_moe", "llama", 4, {}),
    "vllm-qwen3_moe-qwen3": ("vllm", "qwen3_moe", "qwen3", [4, 1, 4], {}),
    "vllm-qwen3_moe-qwen3-window": ("vllm", "qwen3_moe", "qwen3", 4, ONE_WINDOW),
    "vllm-ernie-llama": ("vllm", "ernie4_5_moe", "llama", [4, 3, 1], {}),
    "vllm-ernie-qwen2": ("vllm", "ernie4_5_moe", "qwen2", [4, 3, 2], {}),
    "sglang-mixtral-llama": ("sglang", "mixtral", "llama", [4, 1, 4], NO_SCALING),
    "sglang-qwen2_moe-llama": ("sglang", "qwen2_moe", "llama", [4, 1, 4], {}),
    "sglang-qwen2_moe-qwen2": ("sglang", "qwen2_moe", "qwen2", 4, {}),
    "sglang-qwen3_moe-qwen3": ("sglang", "qwen3_moe", "qwen3", [4, 1, 4], {}),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Loader, dict[str, Any], Path]:
    """The engine's loader, the upcycled model's config and the exported folder."""
    engine, target, family, experts, settings = CASES[request.param]
    model = save_upcycled(tmp_path, family, num_experts=experts, config=settings)
    plan = plan_export(model, target=target, engine=engine)
    assert right_engines(plan)[engine].startswith(f"read from the source of {READ_FROM[engine]}")
    execute_export(plan, tmp_path / "out", engine=engine, with_verification=False)
    ours = json.loads((model / "config.json").read_text())
    return LOADERS[engine, target], ours, tmp_path / "out"


def _sizes(ours: dict[str, Any]) -> dict[str, Any]:
    heads = ours.get("head_dim") or ours["hidden_size"] // ours["num_attention_heads"]
    return {
        "V": ours["vocab_size"],
        "D": ours["hidden_size"],
        "F": ours["intermediate_size"],
        "Q": heads * ours["num_attention_heads"],
        "KV": heads * ours["num_key_value_heads"],
        "hd": heads,
        "E": max(ours["num_experts_per_layer"]),
        "K": ours["num_experts_per_tok"],
        "L": ours["num_hidden_layers"],
        "L - 1": ours["num_hidden_layers"] - 1,
        "S": 256,
        "1": 1,
        "rope": ours["rope_parameters"],
        "window": ours.get("sliding_window"),
    }


def _tensors(
    loader: Loader, sizes: dict[str, Any], *, biases: bool, dense: list[int]
) -> dict[str, tuple[int, ...]]:
    """Every name that the loader has a place for, with its shape."""
    names = dict(loader.once)
    for layer in range(sizes["L"]):
        block = loader.dense if layer in dense else loader.moe
        experts = () if layer in dense else range(sizes["E"])
        for name, shape in (loader.layer | block).items():
            names[name.replace("{l}", str(layer))] = shape
        for expert in experts:
            for name, shape in loader.expert.items():
                names[name.replace("{l}", str(layer)).replace("{e}", str(expert))] = shape
    return {
        name: tuple(sizes[letter] for letter in shape.split())
        for name, shape in names.items()
        if biases or not name.endswith("_proj.bias")
    }


def test_every_tensor_has_its_place_and_every_place_its_tensor(
    case: tuple[Loader, dict[str, Any], Path],
) -> None:
    loader, ours, out = case
    config = json.loads((out / "config.json").read_text())
    tensors = load_file(out / "model.safetensors")
    dropped = {name for name in tensors if any(_is(name, one) for one in loader.dropped)}
    places = _tensors(
        loader,
        _sizes(ours),
        biases=config.get("use_bias", True),
        dense=config.get("mlp_only_layers", []),
    )
    assert {n: tuple(t.shape) for n, t in tensors.items() if n not in dropped} == places
    assert not any(tensors[name].any() for name in dropped)


def _is(name: str, template: str) -> bool:
    return template == ".".join("{l}" if part.isdigit() else part for part in name.split("."))


def test_every_field_that_the_engine_reads_says_what_it_must(
    case: tuple[Loader, dict[str, Any], Path],
) -> None:
    loader, ours, out = case
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == [loader.architecture]
    sizes = _sizes(ours) | {"has_biases": ours["model_type"] == "polycycle_qwen2"}
    for name, meaning in loader.config.items():
        wanted = ours[name] if meaning == "same" else meaning
        if meaning != "same" and isinstance(meaning, str) and meaning in sizes:
            wanted = sizes[meaning]
        assert config[name] == wanted, name
    # Engines of before transformers 5 look there.
    scaled = ours["rope_parameters"] if ours["rope_parameters"]["rope_type"] != "default" else None
    assert (config["rope_theta"], config["rope_scaling"]) == (10000.0, scaled)


def test_every_engine_and_target_is_in_a_table_or_refused() -> None:
    pairs = {(engine, target) for engine in READ_FROM for target in TARGETS}
    assert pairs == set(LOADERS) | THROUGH_TRANSFORMERS | ALWAYS_REFUSED
    assert set(LOADERS) == set(FILES)
    assert set(LOADERS) == {(engine, target) for engine, target, *_ in CASES.values()}


# engine, target, family, experts, settings of the dense model, what the message says
WRONG: dict[str, tuple[str, str, str, Any, dict[str, Any], str]] = {
    "vllm-ernie-biases": ("vllm", "ernie4_5_moe", "llama", 4, BIASES, "no o_proj bias"),
    "vllm-qwen3-biases": ("vllm", "qwen3_moe", "qwen3", 4, BIASES, "no o_proj bias"),
    "vllm-qwen2-window": (
        "vllm",
        "qwen2_moe",
        "qwen2",
        4,
        {**ONE_WINDOW, "max_window_layers": 1},
        "no sliding window",
    ),
    "sglang-mixtral-rope": ("sglang", "mixtral", "llama", 4, {}, r"ignores rope scaling \(llama3"),
    "sglang-mixtral-heads": (
        "sglang",
        "mixtral",
        "llama",
        4,
        {**NO_SCALING, "head_dim": 12},
        r"ignores head_dim \(12\)",
    ),
    "sglang-mixtral-window": ("sglang", "mixtral", "mistral", 4, {}, "ignores sliding windows"),
    "sglang-qwen3-window": ("sglang", "qwen3_moe", "qwen3", 4, ONE_WINDOW, "ignores sliding"),
    "sglang-ernie": ("sglang", "ernie4_5_moe", "llama", [4, 3, 2], {}, "not known to be exact"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_an_engine_would_compute_otherwise_is_refused_there(tmp_path: Path, name: str) -> None:
    engine, target, family, experts, settings, reason = WRONG[name]
    model = save_upcycled(tmp_path, family, num_experts=experts, config=settings)
    with pytest.raises(ExportError, match=reason):
        plan_export(model, target=target, engine=engine)
    assert engine not in right_engines(plan_export(model, target=target))


def test_dense_layers_are_filled_where_an_engine_has_experts_everywhere(tmp_path: Path) -> None:
    model = save_upcycled(tmp_path, "qwen3", num_experts=[4, 1, 4])
    kept = plan_export(model)
    assert kept.config["mlp_only_layers"] == [1]
    assert "sglang" not in right_engines(kept)
    filled = plan_export(model, engine="sglang")
    assert filled.config["mlp_only_layers"] == []
    assert {"transformers", "vllm", "sglang"} <= set(right_engines(filled))


def test_a_classifiers_row_is_kept_from_float16(tmp_path: Path) -> None:
    model = save_upcycled(tmp_path, "qwen2", classifier_layers=(0, 1, 2))
    assert "not in float16" in right_engines(plan_export(model))["vllm"]
