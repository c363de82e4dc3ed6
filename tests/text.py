"""Small texts and a small tokenizer for tests."""

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

WORDS = {
    "en": [
        "the",
        "river",
        "runs",
        "down",
        "to",
        "old",
        "town",
        "where",
        "people",
        "sell",
        "bread",
        "and",
        "fish",
    ],
    "es": [
        "el",
        "río",
        "baja",
        "hasta",
        "la",
        "vieja",
        "ciudad",
        "donde",
        "la",
        "gente",
        "vende",
        "pan",
        "y",
        "peces",
    ],
    "el": [
        "το",
        "ποτάμι",
        "τρέχει",
        "προς",
        "την",
        "παλιά",
        "πόλη",
        "όπου",
        "ο",
        "κόσμος",
        "πουλά",
        "ψωμί",
    ],
    "tr": [
        "nehir",
        "eski",
        "şehre",
        "doğru",
        "akar",
        "orada",
        "insanlar",
        "ekmek",
        "ve",
        "balık",
        "satar",
    ],
}


def sentences(language: str, count: int, *, seed: int = 0) -> list[str]:
    """Random sentences of 4 to 15 words."""
    draw = random.Random(f"{language}{seed}")
    return [" ".join(draw.choices(WORDS[language], k=draw.randint(4, 15))) for _ in range(count)]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    """Rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens with `<eos>` 0 and `<pad>` 1, without BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(words) for words in WORDS.values()] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


VOCAB_SIZE = 320
