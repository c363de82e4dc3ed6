"""Qwen1.5, Qwen2 and Qwen2.5."""

from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM, Qwen2MLP

from polycycle.families.family import Family
from polycycle.modeling import MoeBlockMixin, UpcycledConfigMixin, UpcycledModelMixin


class Qwen2MoeConfig(UpcycledConfigMixin, Qwen2Config):
    model_type = "polycycle_qwen2"


class Qwen2MoeBlock(MoeBlockMixin, Qwen2MLP):
    pass


class Qwen2MoeForCausalLM(UpcycledModelMixin, Qwen2ForCausalLM):
    config_class = Qwen2MoeConfig
    moe_block = Qwen2MoeBlock


FAMILY = Family(
    dense_model_type="qwen2",
    config_class=Qwen2MoeConfig,
    model_class=Qwen2MoeForCausalLM,
    routing_weights_dtype="hidden",
    export_targets=("qwen2_moe", "ernie4_5_moe"),
)
