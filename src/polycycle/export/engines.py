"""Which serving engine computes which stock architecture as transformers does.

Read from the engines' sources (`READ_FROM`), not run, except transformers itself. A rule that is
not known to hold counts as broken. What the loaders of vLLM and SGLang take, name by name, stands
in tests/export/loaders.py.
"""

from polycycle.engines import ENGINES, Engine
from polycycle.export.target import TargetPlan

# The releases whose sources were read; llama.cpp's as llama-cpp-python 0.3 brings it.
READ_FROM: dict[Engine, str] = {"vllm": "0.33.0", "sglang": "0.5.23"}
# flex_olmo: engines without a class of their own for it run transformers' code.
NOTES = {
    ("flex_olmo", "vllm"): "through its Transformers backend",
    ("flex_olmo", "sglang"): "through its generic transformers backend",
    ("mixtral", "llama.cpp"): "its converter writes a GGUF first",
    ("qwen3_moe", "llama.cpp"): "its converter writes a GGUF first",
    ("qwen2_moe", "vllm"): "tensor parallelism up to the number of experts",
    ("qwen3_moe", "vllm"): "tensor parallelism up to the number of experts",
    ("ernie4_5_moe", "vllm"): "tensor parallelism up to the number of experts",
}


def why_wrong_on(engine: Engine, plan: TargetPlan) -> str | None:
    """Why an engine would not compute this export; None where it does."""
    if engine == "transformers":
        return None
    if plan.source.config.hidden_act != "silu":
        return f"{engine}'s experts know silu only, the model has {plan.source.config.hidden_act}"
    rules = {"vllm": _on_vllm, "sglang": _on_sglang, "llama.cpp": _on_llama_cpp}
    return rules[engine](plan)


def right_engines(plan: TargetPlan) -> dict[str, str]:
    """The engines that compute this export, each with how that is known."""
    said: dict[str, str] = {}
    for engine in ENGINES:
        if why_wrong_on(engine, plan) is None:
            said[engine] = "; ".join(_how_known(plan, engine))
    return said


def _how_known(plan: TargetPlan, engine: Engine) -> list[str]:
    if engine == "transformers":
        return ["run by verify"]
    source = f"the source of {READ_FROM[engine]}" if engine in READ_FROM else "its source"
    said = [f"read from {source}, not run"]
    note = NOTES.get((plan.target.model_type, engine))
    if note:
        said.append(note)
    if engine in READ_FROM and any(layer.has_classifier for layer in plan.source.layers):
        # 2¹⁷ times a classifier's score is beyond float16, which engines choose by themselves for
        # float32 checkpoints on older GPUs.
        said.append("not in float16: say --dtype bfloat16 or float32")
    return said


def _on_vllm(plan: TargetPlan) -> str | None:
    source, target = plan.source, plan.target.model_type
    if target in ("ernie4_5_moe", "qwen3_moe") and source.has_attention_bias:
        # Its loader drops biases that it has no place for, and says nothing.
        return "vLLM has no o_proj bias here, the model has one (attention_bias)"
    if target == "qwen2_moe" and source.sliding_window:
        return "vLLM's Qwen2-MoE has no sliding window"
    return None


def _on_sglang(plan: TargetPlan) -> str | None:
    source, target = plan.source, plan.target.model_type
    if target == "mixtral" and source.rope_type != "default":
        return f"SGLang's Mixtral ignores rope scaling ({source.rope_type})"
    if target == "mixtral" and source.has_odd_heads:
        return f"SGLang's Mixtral ignores head_dim ({source.head_dim})"
    if source.sliding_window:
        return f"SGLang's {target} ignores sliding windows ({source.sliding_window})"
    if target == "qwen3_moe" and plan.slots.dense_layers:
        # It takes every layer for a sparse one, and skips names that it does not know.
        return "SGLang's Qwen3-MoE has experts in every layer (mlp_only_layers is ignored)"
    if target == "ernie4_5_moe":
        return "SGLang's Ernie has no lm_head.bias, and its selection bias is not known to be exact"
    return None


def _on_llama_cpp(plan: TargetPlan) -> str | None:
    source, target = plan.source, plan.target.model_type
    if target == "flex_olmo":
        return "llama.cpp has no FlexOlmo"
    if source.sliding_window:
        return f"llama.cpp ignores sliding windows ({source.sliding_window}) in this architecture"
    if target == "qwen2_moe" and plan.slots.num_slots > source.top_k:
        return (
            "llama.cpp's Qwen2-MoE does not scale chosen weights to sum to one "
            f"({plan.slots.num_slots} experts, {source.top_k} per token)"
        )
    if target == "qwen3_moe" and plan.slots.dense_layers:
        return "llama.cpp's Qwen3-MoE has experts in every layer"
    if target == "ernie4_5_moe" and source.rope_type == "llama3":
        return "llama.cpp's Ernie has no llama3 rope factors"
    if target == "ernie4_5_moe" and not (source.checkpoint.folder / "tokenizer.model").exists():
        return "llama.cpp's Ernie knows SentencePiece tokenizers only"
    return None
