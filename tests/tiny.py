"""Tiny dense models of every family, made from configs: no network, no downloads."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB_SIZE = 128

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": 1,
}
# What each family needs beside the shape: options that users of that family really have.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "mistral": {"sliding_window": 8},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 12},
    "olmo2": {},
    "gemma2": {"head_dim": 8, "sliding_window": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 8},
    "smollm3": {},
    "granite": {"residual_multiplier": 0.5, "logits_scaling": 2.0, "embedding_multiplier": 3.0},
    "phi3": {},
}


def save_dense(
    folder: Path, family: str = "llama", *, dtype: torch.dtype = torch.float32, **settings: Any
) -> Path:
    """A tiny dense model of `family` with random weights, saved to `folder`."""
    config = AutoConfig.for_model(family, **{**_SHAPE, **FAMILIES[family], **settings})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # norms at their initial 1 (or 0) would hide mistakes
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    model.save_pretrained(folder)
    return folder


def load(folder: Path, dtype: torch.dtype | str = "auto") -> Any:
    """The model in `folder`, in evaluation mode.

    transformers maps weights from the file, so how they lie in memory depends on the length of the
    file's header, and MKL takes another path, with other rounding, for other alignments (seen in 40
    of 700 float32 products). Models that are compared bit for bit have to lie alike.
    """
    return aligned(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval())


def aligned(model: Any) -> Any:
    """The same model, with every parameter in memory of its own, as torch aligns it."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def token_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random token ids that are neither padding nor end of document."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCAB_SIZE, shape, generator=generator)


def edit_config(folder: Path, **settings: Any) -> None:
    """Change settings in a saved config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
