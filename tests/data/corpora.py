"""A tiny byte-level BPE tokenizer and small files of text for the tests of this room."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from polycycle.data import TextSource, tokenize_corpus

ENGLISH = ["the cat sat on the mat", "a dog ran to the house", "the house is old", "dogs run"]


def make_tokenizer(texts=ENGLISH, vocab_size=300):
    """A byte-level BPE of `texts`; EOS is 0, no BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def write_jsonl(path: Path, texts) -> Path:
    """One `{"text": …}` per line."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return path


def corpus_of(folder: Path, texts, language="en", tokenizer=None, **settings):
    """These texts, tokenized into a cache in `folder`."""
    path = write_jsonl(folder / f"{language}.jsonl", texts)
    return tokenize_corpus(
        TextSource(path=str(path)),
        language,
        tokenizer or make_tokenizer(),
        folder / "cache",
        **settings,
    )
