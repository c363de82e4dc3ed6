"""Mistral."""

from transformers.models.mistral.configuration_mistral import MistralConfig
from transformers.models.mistral.modeling_mistral import MistralForCausalLM, MistralMLP

from polycycle.families.family import Family
from polycycle.modeling import MoeBlockMixin, UpcycledConfigMixin, UpcycledModelMixin


class MistralMoeConfig(UpcycledConfigMixin, MistralConfig):
    model_type = "polycycle_mistral"


class MistralMoeBlock(MoeBlockMixin, MistralMLP):
    pass


class MistralMoeForCausalLM(UpcycledModelMixin, MistralForCausalLM):
    config_class = MistralMoeConfig
    moe_block = MistralMoeBlock


FAMILY = Family(
    dense_model_type="mistral",
    config_class=MistralMoeConfig,
    model_class=MistralMoeForCausalLM,
    routing_weights_dtype="float32",
    export_targets=("mixtral", "qwen2_moe", "ernie4_5_moe"),
)
