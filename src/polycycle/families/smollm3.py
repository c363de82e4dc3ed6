"""SmolLM3; no stock mixture-of-experts architecture computes the same."""

from transformers.models.smollm3.configuration_smollm3 import SmolLM3Config
from transformers.models.smollm3.modeling_smollm3 import SmolLM3ForCausalLM, SmolLM3MLP

from polycycle.families.family import Family
from polycycle.modeling import MoeBlockMixin, UpcycledConfigMixin, UpcycledModelMixin


class SmolLM3MoeConfig(UpcycledConfigMixin, SmolLM3Config):
    model_type = "polycycle_smollm3"


class SmolLM3MoeBlock(MoeBlockMixin, SmolLM3MLP):
    pass


class SmolLM3MoeForCausalLM(UpcycledModelMixin, SmolLM3ForCausalLM):
    config_class = SmolLM3MoeConfig
    moe_block = SmolLM3MoeBlock


FAMILY = Family(
    dense_model_type="smollm3",
    config_class=SmolLM3MoeConfig,
    model_class=SmolLM3MoeForCausalLM,
    routing_weights_dtype="float32",
    export_targets=(),
)
