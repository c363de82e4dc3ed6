"""Gemma 3, text models; no stock mixture-of-experts architecture computes the same."""

from transformers.models.gemma3.configuration_gemma3 import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForCausalLM, Gemma3MLP

from polycycle.families.family import Family
from polycycle.modeling import MoeBlockMixin, UpcycledConfigMixin, UpcycledModelMixin


class Gemma3MoeConfig(UpcycledConfigMixin, Gemma3TextConfig):
    model_type = "polycycle_gemma3_text"


class Gemma3MoeBlock(MoeBlockMixin, Gemma3MLP):
    pass


class Gemma3MoeForCausalLM(UpcycledModelMixin, Gemma3ForCausalLM):
    config_class = Gemma3MoeConfig
    moe_block = Gemma3MoeBlock


FAMILY = Family(
    dense_model_type="gemma3_text",
    config_class=Gemma3MoeConfig,
    model_class=Gemma3MoeForCausalLM,
    routing_weights_dtype="float32",
    export_targets=(),
)
