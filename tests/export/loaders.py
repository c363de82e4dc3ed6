"""What the loaders of vLLM and SGLang take, as read from their released packages; nothing was run.

A loader is a table: every tensor that its model has a place for, with its shape, and every config
field that its model reads. `READ_FROM` in polycycle.export.engines names the releases, FILES the
files in them. When an engine's loader changes, read it again and change table and release together.

Letters in shapes: V vocabulary, D hidden size, F intermediate size, Q and KV rows of the query and
key-value projections, hd size of a head, E experts of a layer, S intermediate size of the shared
expert. In names: {l} a layer, {e} an expert.
"""

from dataclasses import dataclass, field
from typing import Any

FILES = {
    ("vllm", "mixtral"): "vllm/model_executor/models/mixtral.py",
    ("vllm", "qwen2_moe"): "vllm/model_executor/models/qwen2_moe.py",
    ("vllm", "qwen3_moe"): "vllm/model_executor/models/qwen3_moe.py",
    ("vllm", "ernie4_5_moe"): "vllm/model_executor/models/ernie45_moe.py",
    ("sglang", "mixtral"): "sglang/srt/models/mixtral.py",
    ("sglang", "qwen2_moe"): "sglang/srt/models/qwen2_moe.py",
    ("sglang", "qwen3_moe"): "sglang/srt/models/qwen3_moe.py",
}
# No class of their own: transformers' model runs there, with transformers' names. vLLM lists it in
# its registry as TransformersMoEForCausalLM; SGLang falls back on models/transformers.py.
THROUGH_TRANSFORMERS = {("vllm", "flex_olmo"), ("sglang", "flex_olmo")}
# Its selection bias goes through kernels that were not read to the end.
ALWAYS_REFUSED = {("sglang", "ernie4_5_moe")}


@dataclass(frozen=True, kw_only=True)
class Loader:
    """What one engine takes for one architecture.

    Attributes:
        architecture: the entry of `architectures` by which the engine picks its class.
        once: tensors outside of layers.
        layer: tensors of every layer.
        moe: tensors of a layer with experts.
        expert: tensors of each of its experts.
        dense: tensors of a layer without experts; empty where the engine has no such layer.
        dropped: tensors that the loader has no place for and skips without a word, so that they
            must hold zeros.
        config: field → its value as letters, or the value itself; `K` is experts per token, `L`
            layers, `rope` the rotary parameters, `window` the sliding window, `same` whatever the
            upcycled model's config has under this name.
    """

    architecture: str
    once: dict[str, str]
    layer: dict[str, str]
    moe: dict[str, str]
    expert: dict[str, str]
    dense: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any]


ONCE = {
    "model.embed_tokens.weight": "V D",
    "model.norm.weight": "D",
    "lm_head.weight": "V D",
}
LAYER = {
    "model.layers.{l}.input_layernorm.weight": "D",
    "model.layers.{l}.post_attention_layernorm.weight": "D",
    "model.layers.{l}.self_attn.q_proj.weight": "Q D",
    "model.layers.{l}.self_attn.k_proj.weight": "KV D",
    "model.layers.{l}.self_attn.v_proj.weight": "KV D",
    "model.layers.{l}.self_attn.o_proj.weight": "D Q",
}
QKV_BIAS = {
    "model.layers.{l}.self_attn.q_proj.bias": "Q",
    "model.layers.{l}.self_attn.k_proj.bias": "KV",
    "model.layers.{l}.self_attn.v_proj.bias": "KV",
}
QK_NORM = {
    "model.layers.{l}.self_attn.q_norm.weight": "hd",
    "model.layers.{l}.self_attn.k_norm.weight": "hd",
}
ROUTER = {"model.layers.{l}.mlp.gate.weight": "E D"}
EXPERT = {
    "model.layers.{l}.mlp.experts.{e}.gate_proj.weight": "F D",
    "model.layers.{l}.mlp.experts.{e}.up_proj.weight": "F D",
    "model.layers.{l}.mlp.experts.{e}.down_proj.weight": "D F",
}
DENSE = {
    "model.layers.{l}.mlp.gate_proj.weight": "F D",
    "model.layers.{l}.mlp.up_proj.weight": "F D",
    "model.layers.{l}.mlp.down_proj.weight": "D F",
}
SHARED_EXPERT = {
    "model.layers.{l}.mlp.shared_expert.gate_proj.weight": "S D",
    "model.layers.{l}.mlp.shared_expert.up_proj.weight": "S D",
    "model.layers.{l}.mlp.shared_expert.down_proj.weight": "D S",
    "model.layers.{l}.mlp.shared_expert_gate.weight": "1 D",
}
MIXTRAL_ROUTER = {"model.layers.{l}.block_sparse_moe.gate.weight": "E D"}
MIXTRAL_EXPERT = {
    "model.layers.{l}.block_sparse_moe.experts.{e}.w1.weight": "F D",
    "model.layers.{l}.block_sparse_moe.experts.{e}.w3.weight": "F D",
    "model.layers.{l}.block_sparse_moe.experts.{e}.w2.weight": "D F",
}

# Fields that all of these models read.
EVERYWHERE: dict[str, Any] = {
    "vocab_size": "V",
    "hidden_size": "D",
    "num_hidden_layers": "L",
    "num_attention_heads": "same",
    "num_key_value_heads": "same",
    "max_position_embeddings": "same",
    "rms_norm_eps": "same",
    "rope_parameters": "rope",
    "tie_word_embeddings": False,
}
MIXTRAL: dict[str, Any] = {
    **EVERYWHERE,
    "num_local_experts": "E",
    "num_experts_per_tok": "K",
    "intermediate_size": "F",
}
QWEN: dict[str, Any] = {
    **EVERYWHERE,
    "num_experts": "E",
    "num_experts_per_tok": "K",
    "moe_intermediate_size": "F",
    "norm_topk_prob": True,
    "hidden_act": "silu",
}
# How vLLM decides which layers have experts; SGLang takes every layer for one that has.
SPARSE_LAYERS: dict[str, Any] = {"decoder_sparse_step": 1, "intermediate_size": "F"}
NO_WINDOW_IN_VLLM: dict[str, Any] = {"sliding_window": 0}  # it takes 0 for none

LOADERS: dict[tuple[str, str], Loader] = {
    ("vllm", "mixtral"): Loader(
        architecture="MixtralForCausalLM",
        once=ONCE,
        layer=LAYER,
        moe=MIXTRAL_ROUTER,
        expert=MIXTRAL_EXPERT,
        config={**MIXTRAL, "head_dim": "hd", "sliding_window": "window"},
    ),
    ("vllm", "qwen2_moe"): Loader(
        architecture="Qwen2MoeForCausalLM",
        once=ONCE,
        layer=LAYER | QKV_BIAS,
        moe=ROUTER | SHARED_EXPERT,
        expert=EXPERT,
        config={
            **QWEN,
            **SPARSE_LAYERS,
            **NO_WINDOW_IN_VLLM,
            "mlp_only_layers": [],
            "shared_expert_intermediate_size": "S",
        },
    ),
    ("vllm", "qwen3_moe"): Loader(
        architecture="Qwen3MoeForCausalLM",
        once=ONCE,
        layer=LAYER | QK_NORM,
        moe=ROUTER,
        expert=EXPERT,
        dense=DENSE,
        config={
            **QWEN,
            **SPARSE_LAYERS,
            "head_dim": "hd",
            "attention_bias": False,
            "sliding_window": "window",
        },
    ),
    ("vllm", "ernie4_5_moe"): Loader(
        architecture="Ernie4_5_MoeForCausalLM",
        once=ONCE,
        layer=LAYER | QKV_BIAS,
        moe=ROUTER | {"model.layers.{l}.mlp.moe_statics.e_score_correction_bias": "1 E"},
        expert=EXPERT,
        dropped={"model.layers.{l}.self_attn.o_proj.bias": "D", "lm_head.bias": "V"},
        config={
            **EVERYWHERE,
            "head_dim": "hd",
            "moe_num_experts": "E",
            "moe_k": "K",
            "moe_intermediate_size": "F",
            "intermediate_size": "F",
            "moe_num_shared_experts": 0,
            "moe_layer_start_index": 0,
            "moe_layer_end_index": "L - 1",
            "moe_layer_interval": 1,
            "use_bias": "has_biases",
            "hidden_act": "silu",
        },
    ),
    ("sglang", "mixtral"): Loader(  # heads have size D / H, rotary positions are not scaled
        architecture="MixtralForCausalLM",
        once=ONCE,
        layer=LAYER,
        moe=MIXTRAL_ROUTER,
        expert=MIXTRAL_EXPERT,
        config=MIXTRAL,
    ),
    ("sglang", "qwen2_moe"): Loader(  # heads have size D / H
        architecture="Qwen2MoeForCausalLM",
        once=ONCE,
        layer=LAYER | QKV_BIAS,
        moe=ROUTER | SHARED_EXPERT,
        expert=EXPERT,
        config={**QWEN, "qkv_bias": True, "shared_expert_intermediate_size": "S"},
    ),
    ("sglang", "qwen3_moe"): Loader(
        architecture="Qwen3MoeForCausalLM",
        once=ONCE,
        layer=LAYER | QK_NORM,
        moe=ROUTER,
        expert=EXPERT,
        config={**QWEN, "head_dim": "hd", "attention_bias": False},
    ),
}
