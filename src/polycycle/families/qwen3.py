"""Qwen3."""

from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM, Qwen3MLP

from polycycle.families.family import Family
from polycycle.modeling import MoeBlockMixin, UpcycledConfigMixin, UpcycledModelMixin


class Qwen3MoeConfig(UpcycledConfigMixin, Qwen3Config):
    model_type = "polycycle_qwen3"


class Qwen3MoeBlock(MoeBlockMixin, Qwen3MLP):
    pass


class Qwen3MoeForCausalLM(UpcycledModelMixin, Qwen3ForCausalLM):
    config_class = Qwen3MoeConfig
    moe_block = Qwen3MoeBlock


FAMILY = Family(
    dense_model_type="qwen3",
    config_class=Qwen3MoeConfig,
    model_class=Qwen3MoeForCausalLM,
    routing_weights_dtype="hidden",
    export_targets=("qwen3_moe",),
)
