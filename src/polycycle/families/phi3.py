"""Phi-3 and Phi-4; gate and up projection are one fused tensor."""

from transformers.models.phi3.configuration_phi3 import Phi3Config
from transformers.models.phi3.modeling_phi3 import Phi3ForCausalLM, Phi3MLP

from polycycle.families.family import Family
from polycycle.modeling import MoeBlockMixin, UpcycledConfigMixin, UpcycledModelMixin


class Phi3MoeConfig(UpcycledConfigMixin, Phi3Config):
    model_type = "polycycle_phi3"


class Phi3MoeBlock(MoeBlockMixin, Phi3MLP):
    pass


class Phi3MoeForCausalLM(UpcycledModelMixin, Phi3ForCausalLM):
    config_class = Phi3MoeConfig
    moe_block = Phi3MoeBlock


FAMILY = Family(
    dense_model_type="phi3",
    config_class=Phi3MoeConfig,
    model_class=Phi3MoeForCausalLM,
    routing_weights_dtype="float32",
    export_targets=(),
    gate_up_names=("gate_up_proj",),
)
