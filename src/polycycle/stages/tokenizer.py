"""The tokenizer beside a model's weights."""

from pathlib import Path
from typing import Any

from polycycle.errors import CheckpointError


def load_tokenizer(folder: Path, name: str) -> Any:
    """The tokenizer in a model folder.

    Raises:
        CheckpointError: there is none, and training and evaluation need one.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name}: no usable tokenizer beside the weights ({error}). Copy tokenizer.json and "
            "tokenizer_config.json of the model into the folder"
        ) from error
