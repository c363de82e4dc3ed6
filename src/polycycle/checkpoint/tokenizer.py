"""The tokenizer beside a model's weights."""

from pathlib import Path
from typing import Any

from polycycle.errors import CheckpointError


def load_tokenizer(folder: Path, name: str) -> Any:
    """The tokenizer in a model folder.

    Raises:
        CheckpointError: there is none, or none that transformers reads.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(" :")  # transformers goes on for a page
        raise CheckpointError(
            f"{name}: no usable tokenizer beside the weights ({reason}). Copy tokenizer.json and "
            "tokenizer_config.json of the model into the folder"
        ) from error
