"""The microworld's tokenizer: made for the original languages, and clumsy with the others."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from polycycle.microworld.texts import documents
from polycycle.microworld.world import (
    GROUP_1,
    GROUP_2,
    ORIGINAL,
    SPARE,
    UNSEEN_ORIGINAL,
    World,
)

VOCAB_SIZE = 2048
_DOCUMENTS = 3000
# How often a tokenizer trained on the web sees languages outside its focus.
_TRACE_SHARE = 0.1


def train_tokenizer(folder: Path) -> None:
    """Write a byte-level BPE in Hugging Face's layout: `<|endoftext|>` is 0, `<|pad|>` is 1.

    Trained on the original languages and a trace of the expanded ones, which therefore cost more
    tokens per word, as in real models.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        model_max_length=1024,
    ).save_pretrained(folder)


def _texts() -> Iterator[str]:
    world = World.from_seed()
    for language in (*ORIGINAL, *UNSEEN_ORIGINAL):
        yield from itertools.islice(documents(world, language, seed=3), _DOCUMENTS)
    for language in (*GROUP_1, *GROUP_2, *SPARE):
        count = round(_DOCUMENTS * _TRACE_SHARE)
        yield from itertools.islice(documents(world, language, seed=3), count)
