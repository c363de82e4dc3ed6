"""The settings of a grafted model, and the files that lie beside its weights."""

import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from polycycle.checkpoint import Checkpoint
from polycycle.errors import GraftError
from polycycle.modeling import UpcycledConfigMixin
from polycycle.surgery.deltas import Delta
from polycycle.surgery.graft_checks import GraftTarget
from polycycle.surgery.siblings import EMBEDDING

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_OURS = {one.name for one in fields(UpcycledConfigMixin)} | {
    "architectures",
    "dtype",
    "model_type",
    "torch_dtype",
    "transformers_version",
}
_NOT_OF_THE_FUNCTION = {*_TOKEN_IDS, "auto_map", "vocab_size", "_name_or_path", "use_cache"}


def grafted_config(
    model: Checkpoint, delta: Delta, *, on: GraftTarget, is_whole: bool
) -> tuple[dict[str, Any], list[str]]:
    """The config.json, and a warning for every setting in which POST differs but is not followed.

    A whole graft computes what POST computes, so it has all of POST's settings (its rotary base,
    its window); a partial one keeps the base's, and takes POST's special tokens.
    """
    post = delta.post_config
    if is_whole:
        return with_dense_settings(model.config, post), []
    config = dict(model.config)
    config |= {key: post[key] for key in _TOKEN_IDS if key in post}
    if on in ("all", "shared"):
        config["vocab_size"] = delta.shapes[EMBEDDING][0]
    elif delta.shapes[EMBEDDING][0] > model.info(EMBEDDING).shape[0]:
        raise GraftError(
            f"on={on}: {delta.name} has {delta.shapes[EMBEDDING][0]} token rows and {model.name} "
            f"has {model.info(EMBEDDING).shape[0]}; without the embeddings its tokenizer would "
            "name rows that are not there. Graft on all or shared"
        )
    skipped = _OURS | _NOT_OF_THE_FUNCTION
    return config, [
        f"{key} is {config[key]} in the base and {post[key]} in {delta.name}; the base's is kept"
        for key in sorted(set(config) & set(post) - skipped)
        if config[key] != post[key]
    ]


def with_dense_settings(moe: Mapping[str, Any], dense: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an upcycled model with everything that a dense model's config says."""
    inherited = {key: value for key, value in dense.items() if key not in {*_OURS, "auto_map"}}
    return {**inherited, **{key: value for key, value in moe.items() if key in _OURS}}


def copy_side_files(model: Checkpoint, post: Checkpoint, folder: Path) -> None:
    """Tokenizer, chat template and generation config of the sibling; licences of both."""
    for file in model.side_files():
        is_license = file.name.startswith(("LICENSE", "NOTICE"))
        if is_license or (not post.has_tokenizer and file.name != "generation_config.json"):
            shutil.copyfile(file, folder / file.name)
    post.copy_side_files(folder)
