"""LoRAMoE's model classes: each dense family's own class with LoRA experts in it."""

from functools import cache
from types import new_class
from typing import Any

from polycycle.families.family import Family
from polycycle.families.model_types import LORA_EXPERTS_PREFIX
from polycycle.modeling import LoraExpertsConfigMixin, LoraExpertsModelMixin


@cache
def lora_experts_classes(family: Family) -> tuple[type[Any], type[Any]]:
    """Config and causal language model of a family with LoRA experts.

    Made from the dense classes that the family's upcycled ones inherit from.
    """
    dense_config, dense_model = (
        next(base for base in one.__mro__ if base.__module__.startswith("transformers."))
        for one in (family.config_class, family.model_class)
    )
    config_class = _subclass(
        dense_config,
        LoraExpertsConfigMixin,
        model_type=f"{LORA_EXPERTS_PREFIX}{family.dense_model_type}",
    )
    return config_class, _subclass(dense_model, LoraExpertsModelMixin, config_class=config_class)


def _subclass(dense: type[Any], mixin: type[Any], **attributes: Any) -> type[Any]:
    name = f"LoraExperts{dense.__name__}"
    body = {
        **attributes,
        "__module__": __name__,
        "__doc__": f"`{dense.__name__}` and LoRA experts.",
    }
    return new_class(name, (mixin, dense), exec_body=lambda namespace: namespace.update(body))
