"""From a config's `model_type` to its family, and from our model types to the Auto classes."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from polycycle.errors import UpcycleError
from polycycle.families.model_types import (
    LORA_EXPERTS_PREFIX,
    UPCYCLED_PREFIX,
    has_lora_experts,
    is_upcycled,
)

if TYPE_CHECKING:
    from polycycle.families.family import Family

# model_type of the dense config → our file for it.
SUPPORTED: Mapping[str, str] = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "olmo2": "olmo2",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "smollm3": "smollm3",
    "granite": "granite",
    "phi3": "phi3",
}
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_AUTO_CLASSES = "transformers.models.auto.modeling_auto"
_DENSE_MODULES = tuple(
    f"transformers.models.{name}.{kind}_"
    for name in SUPPORTED.values()
    for kind in ("configuration", "modeling")
)


def family_of_dense(config: Mapping[str, Any], *, where: str) -> Family:
    """The family of a dense model.

    Args:
        config: its config.json.
        where: the folder or hub id, for messages.

    Raises:
        UpcycleError: it is a mixture of experts already, or of a family that is not supported, or
            has something (biases in its feed-forward blocks) that the packed experts do not.
    """
    model_type = str(config.get("model_type"))
    if is_upcycled(config) or has_lora_experts(config):
        what = "upcycled" if is_upcycled(config) else "expanded by LoRA experts"
        raise UpcycleError(
            f"{where} is already {what} ({model_type}). Give the dense model, "
            f"{config.get('base_model') or 'the one it was made from'}"
        )
    counts = [name for name in _EXPERT_COUNTS if (config.get(name) or 0) > 1]
    if counts:
        raise UpcycleError(
            f"{where} is already a mixture of experts ({model_type}, {counts[0]}="
            f"{config[counts[0]]}); polycycle expands dense models"
        )
    if model_type not in SUPPORTED:
        raise UpcycleError(_unsupported(model_type, where))
    if config.get("mlp_bias"):
        raise UpcycleError(
            f"{where}: mlp_bias is true, and packed experts have no biases. "
            "Supported are models whose feed-forward blocks have none"
        )
    return _load(SUPPORTED[model_type])


def family_of_upcycled(config: Mapping[str, Any], *, where: str) -> Family:
    """The family of an upcycled model.

    Raises:
        UpcycleError: it is not one of ours.
    """
    model_type = str(config.get("model_type"))
    name = SUPPORTED.get(model_type.removeprefix(UPCYCLED_PREFIX))
    if not is_upcycled(config) or name is None:
        raise UpcycleError(
            f"{where} is not an upcycled model (model_type {model_type!r}); "
            f"make one with `polycycle upcycle {where} OUT`"
        )
    return _load(name)


def family_of(config: Mapping[str, Any], *, where: str) -> Family:
    """The family of a dense model, an upcycled one, or one with LoRA experts.

    Raises:
        UpcycleError: it is not supported.
    """
    if is_upcycled(config):
        return family_of_upcycled(config, where=where)
    if has_lora_experts(config):
        model_type = str(config["model_type"]).removeprefix(LORA_EXPERTS_PREFIX)
        return family_of_dense({**config, "model_type": model_type}, where=where)
    return family_of_dense(config, where=where)


def register_when_transformers_loads() -> None:
    """Make the Auto classes know our models: now if they are loaded, else when they will be.

    `import polycycle` calls this, and stays instant: neither torch nor transformers is imported.
    """
    if _AUTO_CLASSES in sys.modules:
        _register_all()
    elif not any(isinstance(finder, _AutoClassesFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AutoClassesFinder())


def _load(name: str) -> Family:
    # First, because a dense family's own module loads the Auto classes half-way through, which
    # would register our families while this one is not there yet.
    importlib.import_module(_AUTO_CLASSES)
    return cast("Family", importlib.import_module(f"polycycle.families.{name}").FAMILY)


def _register_all() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from polycycle.families.lora_experts import lora_experts_classes

    for name in SUPPORTED.values():
        family = _load(name)
        ours = (family.config_class, family.model_class)
        for config_class, model_class in (ours, lora_experts_classes(family)):
            AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
            AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)


def _unsupported(model_type: str, where: str) -> str:
    hint = {
        "gemma3": "This is the multimodal Gemma 3; only its text model (gemma3_text) fits. ",
        "gpt2": "Its feed-forward block has no gate. ",
    }.get(model_type, "")
    return (
        f"{where}: model_type {model_type!r} is not supported. {hint}Supported: "
        f"{', '.join(sorted(SUPPORTED))}. A family needs a decoder whose layers hold a gated "
        "feed-forward block called `mlp` (gate, up and down projection without biases); adding "
        "one is about ten lines, see docs/adding_a_family.md"
    )


class _AutoClassesFinder(importlib.abc.MetaPathFinder):
    """Before transformers' Auto classes or a dense family load, loads them all and registers ours.

    Before, because a family that loads first asks for the Auto classes half-way through, to write
    its docstrings, and our families cannot inherit from one that is not there yet.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _AUTO_CLASSES and not fullname.startswith(_DENSE_MODULES):
            return None
        sys.meta_path.remove(self)
        importlib.import_module(_AUTO_CLASSES)
        _register_all()
        loaded = sys.modules.get(fullname)
        if loaded is None:
            return None
        # importlib takes the spec of a module that appeared while it was looked for.
        loaded.__spec__ = ModuleSpec(fullname, _LoadedLoader(loaded))
        return loaded.__spec__


class _LoadedLoader(importlib.abc.Loader):
    """Gives an import under way the module that was loaded meanwhile."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
