"""How fast a finished model of a run reads and writes, beside its base."""

import numpy as np
import torch

from polycycle.checkpoint import content_hash, load_tokenizer, open_checkpoint
from polycycle.config import Recipe
from polycycle.evaluation import measure_paces
from polycycle.results import ModelSpeed
from polycycle.stages.corpora import load_valid
from polycycle.stages.evaluate import load_model

_PREFILL = (4, 256)
_DECODE_BATCHES = (1, 8)
_PROMPT_TOKENS = 32
_DECODE_TOKENS = 64


def measure_speed(recipe: Recipe, model_path: str, *, seconds: float = 10.0) -> ModelSpeed:
    """Tokens per second of a run's model and of its base, which take turns.

    Both read 4 × 256 tokens, and write 64 tokens greedily after prompts of 32, for one text and for
    eight: held-out text of the languages to learn. Where the context is shorter, texts are.

    Args:
        recipe: of the run.
        model_path: folder of the model, or hub id of the base itself.
        seconds: roughly, of each kind of work; both models have three turns at least.

    Raises:
        CheckpointError: a model is not there.
        ConfigError: the model cannot go on from a cache.
    """
    base = open_checkpoint(recipe.base, revision=recipe.base_revision)
    is_base = model_path == recipe.base
    checkpoint = base if is_base else open_checkpoint(model_path)
    tokenizer = load_tokenizer(base.folder, recipe.base)
    valid = load_valid(recipe, tokenizer, recipe.data.cache_dir or recipe.output / "cache")
    tags = recipe.languages.groups().all_expanded
    text = np.concatenate([valid[tag].tokens[: 4096 // len(tags)] for tag in tags])
    dense = load_model(base)
    model = dense if is_base else load_model(checkpoint)
    longest = checkpoint.longest_context(_PREFILL[1])
    written = min(_DECODE_TOKENS, longest // 2)
    prompt = min(_PROMPT_TOKENS, longest - written)
    paces = measure_paces(
        {"base": dense, "model": model},
        torch.from_numpy(np.ascontiguousarray(text)),
        prefill=(_PREFILL[0], longest),
        decode_batches=_DECODE_BATCHES,
        prompt_tokens=prompt,
        decode_tokens=written,
        seconds=seconds,
    )
    return ModelSpeed(
        content_hash=content_hash(checkpoint),
        base_hash=content_hash(base),
        paces=paces["model"],
        prompt_tokens=prompt,
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
