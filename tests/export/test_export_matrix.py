"""Every family × target × allocation × dtype: proved exact in a process of its own, or refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from polycycle.errors import ExportError
from polycycle.export import TARGETS, Pair, execute_export, plan_export, verify_all
from polycycle.families import SUPPORTED, family_of_dense
from polycycle.surgery import grow
from tests.export.upcycled import save_upcycled
from tests.tiny import edit_config

EQUAL, WITH_DENSE, UNEQUAL = 4, [4, 1, 4], [4, 3, 2]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NO_WINDOW: dict[str, Any] = {"sliding_window": None}
USUAL_HEADS: dict[str, Any] = {"head_dim": 8}
DEFAULT_ROPE: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
YARN: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }
}
QWEN_WINDOW: dict[str, Any] = {
    "use_sliding_window": True,
    "sliding_window": 8,
    "max_window_layers": 1,
}

# family, target, experts, settings of upcycle and of the dense model
EXACT: dict[str, tuple[str, str, Any, dict[str, Any]]] = {
    "llama-mixtral": ("llama", "mixtral", EQUAL, {}),
    "llama-mixtral-dense-layer": ("llama", "mixtral", WITH_DENSE, {}),
    "llama-mixtral-top-1": ("llama", "mixtral", EQUAL, {"top_k": 1}),
    "llama-mixtral-top-3": ("llama", "mixtral", EQUAL, {"top_k": 3}),
    "llama-mixtral-odd-heads": ("llama", "mixtral", EQUAL, {"config": {"head_dim": 12}}),
    "llama-mixtral-tied": ("llama", "mixtral", EQUAL, {"config": {"tie_word_embeddings": True}}),
    "llama-mixtral-yarn": ("llama", "mixtral", EQUAL, {"config": YARN}),
    "llama-mixtral-classifier": ("llama", "mixtral", EQUAL, {"classifier_layers": (0, 1, 2)}),
    "llama-qwen2_moe": ("llama", "qwen2_moe", EQUAL, {}),
    "llama-ernie-biases": (
        "llama",
        "ernie4_5_moe",
        UNEQUAL,
        {"config": {"attention_bias": True}},
    ),
    "llama-ernie-odd-heads": ("llama", "ernie4_5_moe", UNEQUAL, {"config": {"head_dim": 12}}),
    "llama-ernie": ("llama", "ernie4_5_moe", EQUAL, {}),
    "llama-ernie-unequal": ("llama", "ernie4_5_moe", UNEQUAL, {}),
    "llama-ernie-unequal-dense": ("llama", "ernie4_5_moe", [4, 3, 1], {}),
    "llama-ernie-classifier": ("llama", "ernie4_5_moe", UNEQUAL, {"classifier_layers": (0, 2)}),
    "llama-ernie-repeated": ("llama", "ernie4_5_moe", [5, 4, 2], {"top_k": 4}),
    "mistral-mixtral": ("mistral", "mixtral", EQUAL, {}),
    "mistral-mixtral-dense-layer": ("mistral", "mixtral", WITH_DENSE, {}),
    "mistral-mixtral-odd-heads": ("mistral", "mixtral", EQUAL, {"config": {"head_dim": 12}}),
    "mistral-qwen2_moe": ("mistral", "qwen2_moe", EQUAL, {"config": NO_WINDOW}),
    "mistral-ernie": ("mistral", "ernie4_5_moe", EQUAL, {"config": NO_WINDOW}),
    "mistral-ernie-unequal": ("mistral", "ernie4_5_moe", UNEQUAL, {"config": NO_WINDOW}),
    "qwen2-qwen2_moe": ("qwen2", "qwen2_moe", EQUAL, {}),
    "qwen2-qwen2_moe-dense-layer": ("qwen2", "qwen2_moe", WITH_DENSE, {}),
    "qwen2-qwen2_moe-plain-weights": ("qwen2", "qwen2_moe", EQUAL, {"renormalize": False}),
    "qwen2-qwen2_moe-window": ("qwen2", "qwen2_moe", EQUAL, {"config": QWEN_WINDOW}),
    "qwen2-qwen2_moe-classifier": ("qwen2", "qwen2_moe", EQUAL, {"classifier_layers": (0, 1, 2)}),
    "qwen2-ernie": ("qwen2", "ernie4_5_moe", EQUAL, {}),
    "qwen2-ernie-unequal": ("qwen2", "ernie4_5_moe", UNEQUAL, {}),
    "qwen3-qwen3_moe": ("qwen3", "qwen3_moe", EQUAL, {}),
    "qwen3-qwen3_moe-dense-layer": ("qwen3", "qwen3_moe", WITH_DENSE, {}),
    "qwen3-qwen3_moe-classifier": ("qwen3", "qwen3_moe", [4, 1, 4], {"classifier_layers": (0, 2)}),
    "qwen3-qwen3_moe-classifier-evens": ("qwen3", "qwen3_moe", [4, 3], {"classifier_layers": (1,)}),
    "qwen3-qwen3_moe-tied": (
        "qwen3",
        "qwen3_moe",
        EQUAL,
        {"config": {"tie_word_embeddings": True}},
    ),
    "qwen3-qwen3_moe-plain-weights": ("qwen3", "qwen3_moe", EQUAL, {"renormalize": False}),
    "qwen3-qwen3_moe-biases": (
        "qwen3",
        "qwen3_moe",
        EQUAL,
        {"config": {"attention_bias": True}},
    ),
    "olmo2-flex_olmo-biases": (
        "olmo2",
        "flex_olmo",
        EQUAL,
        {"config": {"attention_bias": True}},
    ),
    "olmo2-flex_olmo": ("olmo2", "flex_olmo", EQUAL, {}),
    "olmo2-flex_olmo-dense-layer": ("olmo2", "flex_olmo", WITH_DENSE, {}),
    "olmo2-flex_olmo-classifier": ("olmo2", "flex_olmo", EQUAL, {"classifier_layers": (0, 1, 2)}),
}

# family, target, experts, settings, what the message says
REFUSED: dict[str, tuple[str, str, Any, dict[str, Any], str]] = {
    "llama-mixtral-unequal": ("llama", "mixtral", UNEQUAL, {}, r"layer 1 needs 3 slots"),
    "llama-mixtral-bias": (
        "llama",
        "mixtral",
        EQUAL,
        {"config": {"attention_bias": True}},
        "attention has no biases",
    ),
    "llama-mixtral-plain-weights": (
        "llama",
        "mixtral",
        EQUAL,
        {"renormalize": False},
        "always scales chosen weights",
    ),
    "llama-qwen2_moe-odd-heads": (
        "llama",
        "qwen2_moe",
        EQUAL,
        {"config": {"head_dim": 12}},
        "heads have size 12|model's have size 12",
    ),
    "llama-qwen2_moe-unequal": ("llama", "qwen2_moe", UNEQUAL, {}, "needs 3 slots"),
    "mistral-mixtral-unequal": ("mistral", "mixtral", UNEQUAL, {}, "needs 3 slots"),
    "mistral-qwen2_moe-unequal": (
        "mistral",
        "qwen2_moe",
        UNEQUAL,
        {"config": NO_WINDOW},
        "needs 3 slots",
    ),
    "llama-classifier-in-some-layers": (
        "llama",
        "mixtral",
        EQUAL,
        {"classifier_layers": (0, 2)},
        r"layer 1 needs 4 slots .4 experts., the largest layer 5",
    ),
    "llama-ernie-no-multiple": ("llama", "ernie4_5_moe", [5, 4, 3], {"top_k": 4}, "no multiple"),
    "llama-flex_olmo": ("llama", "flex_olmo", EQUAL, {}, "other attention, norms or positions"),
    "mistral-qwen2_moe-window": ("mistral", "qwen2_moe", EQUAL, {}, "sliding"),
    "mistral-ernie-window": ("mistral", "ernie4_5_moe", UNEQUAL, {}, "no sliding window"),
    "qwen2-qwen2_moe-unequal": ("qwen2", "qwen2_moe", UNEQUAL, {}, "needs 3 slots"),
    "qwen3-qwen3_moe-unequal": ("qwen3", "qwen3_moe", UNEQUAL, {}, "needs 3 slots"),
    "olmo2-flex_olmo-unequal": ("olmo2", "flex_olmo", UNEQUAL, {}, "needs 3 slots"),
    "qwen3-qwen3_moe-windows": (
        "qwen3",
        "qwen3_moe",
        EQUAL,
        {"config": QWEN_WINDOW},
        "same sliding window",
    ),
}


def _save(folder: Path, family: str, experts: Any, settings: dict[str, Any], dtype: str) -> Path:
    settings = dict(settings)
    if isinstance(experts, list) and len(experts) != 3:
        settings["config"] = {**settings.get("config", {}), "num_hidden_layers": len(experts)}
    return save_upcycled(folder, family, num_experts=experts, dtype=DTYPES[dtype], **settings)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """The verification of every exact case in both dtypes, by one process for all."""
    folder = tmp_path_factory.mktemp("matrix")
    pairs = {}
    for name, (family, target, experts, settings) in EXACT.items():
        for dtype in DTYPES:
            model = _save(folder / name / dtype, family, experts, settings, dtype)
            out = folder / name / dtype / "export"
            execute_export(plan_export(model, target=target), out, with_verification=False)
            pairs[name, dtype] = Pair(exported=out, against=model)
    return dict(zip(pairs, verify_all(list(pairs.values())), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT)
def test_the_export_is_proved_exact(
    matrix: dict[tuple[str, str], dict[str, Any]], name: str, dtype: str
) -> None:
    result = matrix[name, dtype]
    assert result["failures"] == []
    assert result["passed"]
    assert result["dtype"] == dtype
    assert result["tensor_names"] == {"missing": [], "unexpected": [], "mismatched": []}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    family, target, experts, settings, reason = REFUSED[name]
    model = _save(tmp_path, family, experts, settings, "float32")
    with pytest.raises(ExportError, match=reason):
        plan_export(model, target=target)


def targets_of(family: str) -> tuple[str, ...]:
    return family_of_dense({"model_type": family}, where="test").export_targets


def test_every_target_of_every_family_is_in_the_table_with_equal_and_unequal_counts() -> None:
    named = {(family, target) for family in SUPPORTED for target in targets_of(family)}
    assert {target for _, target in named} == set(TARGETS)
    for experts in (EQUAL, UNEQUAL):
        cases = [case[:3] for case in [*EXACT.values(), *REFUSED.values()]]
        of_targets = {(family, target) for family, target, counts in cases if counts == experts}
        assert named <= of_targets


def test_models_with_several_groups_and_a_masked_one_are_exported_as_they_route(
    tmp_path: Path,
) -> None:
    first = save_upcycled(tmp_path, "llama", num_experts=3)
    grow(first, tmp_path / "masked", new_experts=2, languages=["hu"], init="random")
    shutil.copytree(tmp_path / "masked", tmp_path / "grown")
    edit_config(tmp_path / "grown", masked_groups=None)
    pairs = []
    for name, slots in (("grown", 5), ("masked", 3)):
        plan = plan_export(tmp_path / name)
        assert plan.slots.num_slots == slots
        execute_export(plan, tmp_path / f"{name}-export", with_verification=False)
        pairs.append(Pair(exported=tmp_path / f"{name}-export", against=tmp_path / name))
    assert [result["failures"] for result in verify_all(pairs)] == [[], []]


@pytest.mark.parametrize("family", [name for name in SUPPORTED if not targets_of(name)])
def test_a_family_without_a_target_says_how_to_serve_it(tmp_path: Path, family: str) -> None:
    model = save_upcycled(tmp_path, family)
    with pytest.raises(ExportError, match="Serve it with transformers"):
        plan_export(model)
