"""Granite 3; no export target proved yet."""

from transformers.models.granite.configuration_granite import GraniteConfig
from transformers.models.granite.modeling_granite import GraniteForCausalLM, GraniteMLP

from polycycle.families.family import Family
from polycycle.modeling import MoeBlockMixin, UpcycledConfigMixin, UpcycledModelMixin


class GraniteMoeConfig(UpcycledConfigMixin, GraniteConfig):
    model_type = "polycycle_granite"


class GraniteMoeBlock(MoeBlockMixin, GraniteMLP):
    pass


class GraniteMoeForCausalLM(UpcycledModelMixin, GraniteForCausalLM):
    config_class = GraniteMoeConfig
    moe_block = GraniteMoeBlock


FAMILY = Family(
    dense_model_type="granite",
    config_class=GraniteMoeConfig,
    model_class=GraniteMoeForCausalLM,
    routing_weights_dtype="float32",
    export_targets=(),
)
