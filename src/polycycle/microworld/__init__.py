"""A small parallel world told in thirteen real languages: text without a download.

It proves the pipeline; real corpora prove the method.
"""

from polycycle.microworld.texts import (
    FORMATS,
    ChoiceQuestion,
    InstructionFormat,
    documents,
    instructions,
    questions,
    summaries,
    translations,
)
from polycycle.microworld.tokenizer import train_tokenizer
from polycycle.microworld.world import (
    GROUP_1,
    GROUP_2,
    LANGUAGES,
    ORIGINAL,
    SPARE,
    UNSEEN_ORIGINAL,
    Fact,
    Lexicon,
    World,
    lexicon,
)
from polycycle.microworld.writing import (
    NUM_DOCUMENTS,
    WORLD_RECORD,
    post_training,
    task_training,
    write_microworld,
)

__all__ = [
    "FORMATS",
    "GROUP_1",
    "GROUP_2",
    "LANGUAGES",
    "NUM_DOCUMENTS",
    "ORIGINAL",
    "SPARE",
    "UNSEEN_ORIGINAL",
    "WORLD_RECORD",
    "ChoiceQuestion",
    "Fact",
    "InstructionFormat",
    "Lexicon",
    "World",
    "documents",
    "instructions",
    "lexicon",
    "post_training",
    "questions",
    "summaries",
    "task_training",
    "train_tokenizer",
    "translations",
    "write_microworld",
]
