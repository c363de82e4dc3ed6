"""The tokenizer beside a model's weights."""

from pathlib import Path
from typing import Any

from polycycle.checkpoint.reader import Checkpoint
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


def own_tokenizer(model: Checkpoint, tokenizer: Any) -> Any:
    """The tokenizer beside a model, where the ids it shares with `tokenizer` mean the same tokens.

    A grafted model has its sibling's, perhaps with another end of text, more special tokens and a
    chat template. Where there is none, or of another vocabulary, `tokenizer` itself.
    """
    if not model.has_tokenizer:
        return tokenizer
    own = load_tokenizer(model.folder, model.name)
    tokens = {index: token for token, index in own.get_vocab().items()}
    given = tokenizer.get_vocab().items()
    return own if all(tokens.get(index, token) == token for token, index in given) else tokenizer
