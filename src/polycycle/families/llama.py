"""Llama 2, 3 and the many models of its shape."""

from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaMLP

from polycycle.families.family import Family
from polycycle.modeling import MoeBlockMixin, UpcycledConfigMixin, UpcycledModelMixin


class LlamaMoeConfig(UpcycledConfigMixin, LlamaConfig):
    model_type = "polycycle_llama"


class LlamaMoeBlock(MoeBlockMixin, LlamaMLP):
    pass


class LlamaMoeForCausalLM(UpcycledModelMixin, LlamaForCausalLM):
    config_class = LlamaMoeConfig
    moe_block = LlamaMoeBlock


FAMILY = Family(
    dense_model_type="llama",
    config_class=LlamaMoeConfig,
    model_class=LlamaMoeForCausalLM,
    routing_weights_dtype="float32",
    export_targets=("mixtral", "qwen2_moe", "ernie4_5_moe"),
)
