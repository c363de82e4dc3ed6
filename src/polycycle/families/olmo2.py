"""OLMo 2."""

from transformers.models.olmo2.configuration_olmo2 import Olmo2Config
from transformers.models.olmo2.modeling_olmo2 import Olmo2ForCausalLM, Olmo2MLP

from polycycle.families.family import Family
from polycycle.modeling import MoeBlockMixin, UpcycledConfigMixin, UpcycledModelMixin


class Olmo2MoeConfig(UpcycledConfigMixin, Olmo2Config):
    model_type = "polycycle_olmo2"


class Olmo2MoeBlock(MoeBlockMixin, Olmo2MLP):
    pass


class Olmo2MoeForCausalLM(UpcycledModelMixin, Olmo2ForCausalLM):
    config_class = Olmo2MoeConfig
    moe_block = Olmo2MoeBlock


FAMILY = Family(
    dense_model_type="olmo2",
    config_class=Olmo2MoeConfig,
    model_class=Olmo2MoeForCausalLM,
    routing_weights_dtype="hidden",
    export_targets=("flex_olmo",),
)
