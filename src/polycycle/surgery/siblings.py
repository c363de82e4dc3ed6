"""Whether two dense models are siblings, so that a delta between them means something."""

from collections.abc import Iterator

from polycycle.checkpoint import Checkpoint
from polycycle.errors import CheckpointError, GraftError
from polycycle.families import family_of_dense

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
VOCABULARY = (EMBEDDING, HEAD)
"""Tensors with one row per token, whose number may differ between siblings."""
_FLOATS = ("F64", "F32", "F16", "BF16")


def check_siblings(base: Checkpoint, post: Checkpoint) -> list[str]:
    """Refuse two models that a delta cannot be taken of; gives notes on what is unusual.

    Raises:
        GraftError: naming the tensor, the setting or the tokens in which they differ.
    """
    for model in (base, post):
        family_of_dense(model.config, where=model.name)
    kinds = [str(model.config.get("model_type")) for model in (base, post)]
    if kinds[0] != kinds[1]:
        raise GraftError(
            f"{base.name} is a {kinds[0]} model and {post.name} a {kinds[1]} model; give a base "
            "and the model that was post-trained from it"
        )
    if _is_tied(base) != _is_tied(post):
        tied, untied = (base, post) if _is_tied(base) else (post, base)
        raise GraftError(
            f"{tied.name} ties its head to the embeddings and {untied.name} does not "
            "(tie_word_embeddings in config.json), so the head has no delta; use siblings that "
            f"agree, or write the tied one out with its head: AutoModelForCausalLM.from_pretrained("
            f"{str(tied.folder)!r}, tie_word_embeddings=False).save_pretrained(NEW)"
        )
    optional = {HEAD} if _is_tied(base) else set()
    for one, other in ((base, post), (post, base)):
        missing = sorted(set(one.tensors) - set(other.tensors) - optional)
        if missing:
            raise GraftError(
                f"{other.name} has no tensor {missing[0]!r}, which {one.name} has "
                f"({len(missing)} such); are these a base and the model post-trained from it?"
            )
    for name in base.tensors:
        _check_tensor(base, post, name)
    return [*_vocabulary_notes(base, post), *check_tokenizers(base, post)]


def _check_tensor(base: Checkpoint, post: Checkpoint, name: str) -> None:
    one, other = base.info(name), post.info(name if name in post.tensors else EMBEDDING)
    for model, info in ((base, one), (post, other)):
        if info.dtype not in _FLOATS:
            raise GraftError(
                f"{model.name}: {name} is {info.dtype}; deltas are taken of {', '.join(_FLOATS)}. "
                "Give the unquantised model"
            )
    skipped = 1 if name in VOCABULARY else 0
    if one.shape[skipped:] != other.shape[skipped:]:
        raise GraftError(
            f"{name} is {list(one.shape)} in {base.name} and {list(other.shape)} in {post.name}; "
            "only the number of token rows may differ. Give siblings of one size"
        )


def _is_tied(model: Checkpoint) -> bool:
    return bool(model.config.get("tie_word_embeddings", HEAD not in model.tensors))


def _vocabulary_notes(base: Checkpoint, post: Checkpoint) -> Iterator[str]:
    before, after = base.info(EMBEDDING).shape[0], post.info(EMBEDDING).shape[0]
    if before != after:
        what = "dropped" if after < before else "taken from it as they are, whatever the scale"
        yield (
            f"{post.name} has {after} token rows, {base.name} has {before}: the "
            f"{abs(after - before)} rows that only one of them has are {what}"
        )


def check_tokenizers(base: Checkpoint, post: Checkpoint) -> Iterator[str]:
    """Refuse tokenizers that give one id to different tokens; a note if one is not there.

    Raises:
        GraftError: naming the first ids that differ, or a token without an embedding row.
    """
    without = [model.name for model in (base, post) if not model.has_tokenizer]
    if without:
        yield f"tokenizers were not compared: none beside {' and '.join(without)}"
        return
    one, other = (_tokens_by_id(model) for model in (base, post))
    differing = sorted(i for i in one.keys() & other.keys() if one[i] != other[i])
    if differing:
        shown = "; ".join(f"{i}: {one[i]!r} and {other[i]!r}" for i in differing[:3])
        raise GraftError(
            f"the tokenizers of {base.name} and {post.name} disagree on {len(differing)} ids "
            f"({shown}), so their rows mean different tokens and have no delta. Take a sibling "
            "with the base's tokenizer"
        )
    rows = post.info(EMBEDDING).shape[0]
    if max(other) >= rows:
        raise GraftError(
            f"{post.name}: token {other[max(other)]!r} has id {max(other)}, but there are {rows} "
            "rows of embeddings; is the tokenizer the one that belongs to these weights?"
        )


def _tokens_by_id(model: Checkpoint) -> dict[int, str]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.folder)
    except Exception as error:  # the tokenizers library raises nothing more special
        raise CheckpointError(
            f"{model.name}: its tokenizer cannot be read ({error}); fetch the model again"
        ) from error
    return {index: token for token, index in tokenizer.get_vocab().items()}
