"""A finished model, ready to write: ours, a dense one, or an export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polycycle.checkpoint import Checkpoint, load_tokenizer, open_checkpoint
from polycycle.engines import GGUF_FILE
from polycycle.errors import CheckpointError, ConfigError, did_you_mean

_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Speaker:
    """A model that can write.

    Attributes:
        checkpoint: the folder it came from.
        model: in evaluation mode, on its device.
        tokenizer: the model's.
    """

    checkpoint: Checkpoint
    model: Any
    tokenizer: Any


def open_model(model: str | Path, *, revision: str | None = None) -> Checkpoint:
    """The checkpoint of a model that is to be run with transformers.

    Raises:
        CheckpointError: as `open_checkpoint`, or it is a GGUF, which transformers is not to run.
    """
    if is_gguf(model):
        raise CheckpointError(
            f"{model} holds a GGUF, which is for llama.cpp; "
            f"`polycycle serve {model}` says what to type"
        )
    return open_checkpoint(model, revision=revision)


def is_gguf(model: str | Path) -> bool:
    """Whether a folder holds a GGUF and nothing that transformers would load."""
    folder = Path(model)
    return (folder / GGUF_FILE).is_file() and not (folder / "config.json").is_file()


def load_speaker(checkpoint: Checkpoint, *, dtype: str = "auto", device: str = "auto") -> Speaker:
    """Load a model and its tokenizer.

    Args:
        checkpoint: from `open_model`.
        dtype: see `choose_device_and_dtype`.
        device: see there.

    Raises:
        CheckpointError: there is no tokenizer.
        ConfigError: no such dtype or device.
    """
    from transformers import AutoModelForCausalLM

    device, dtype = choose_device_and_dtype(device, dtype)
    tokenizer = load_tokenizer(checkpoint.folder, checkpoint.name)
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=dtype)
    return Speaker(checkpoint, model.to(device).eval(), tokenizer)


def choose_device_and_dtype(device: str, dtype: str) -> tuple[str, str]:
    """Where to run, and in what.

    Args:
        device: `auto` (a GPU where there is one), or a device of torch's.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: the weights' own on a GPU, float32 on a
            CPU, because many processors only emulate the others.

    Raises:
        ConfigError: no such dtype or device.
    """
    if dtype not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise ConfigError(
            f"--dtype {dtype!r}: choose one of {known}.{did_you_mean(dtype, _DTYPES)}"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
        torch.empty(0, device=device)
    # AssertionError: torch without CUDA
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {device!r} cannot be used here: {reason}") from error
    return device, "float32" if dtype == "auto" and kind == "cpu" else dtype
