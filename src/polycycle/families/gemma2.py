"""Gemma 2; no stock mixture-of-experts architecture computes the same."""

from transformers.models.gemma2.configuration_gemma2 import Gemma2Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2ForCausalLM, Gemma2MLP

from polycycle.families.family import Family
from polycycle.modeling import MoeBlockMixin, UpcycledConfigMixin, UpcycledModelMixin


class Gemma2MoeConfig(UpcycledConfigMixin, Gemma2Config):
    model_type = "polycycle_gemma2"


class Gemma2MoeBlock(MoeBlockMixin, Gemma2MLP):
    pass


class Gemma2MoeForCausalLM(UpcycledModelMixin, Gemma2ForCausalLM):
    config_class = Gemma2MoeConfig
    moe_block = Gemma2MoeBlock


FAMILY = Family(
    dense_model_type="gemma2",
    config_class=Gemma2MoeConfig,
    model_class=Gemma2MoeForCausalLM,
    routing_weights_dtype="float32",
    export_targets=(),
)
