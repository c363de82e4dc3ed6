"""Documents with language tags → tokens → packed sequences and evaluation windows."""

from polycycle.data.documents import Document, Skipped, read_documents
from polycycle.data.excerpts import Excerpt, read_excerpt
from polycycle.data.joining import JoinedDataset
from polycycle.data.overlap import check_disjoint
from polycycle.data.packing import (
    IGNORED_LABEL,
    LanguageUse,
    PackedDataset,
    check_budget,
    collate,
    packed_model_inputs,
    share_tokens,
)
from polycycle.data.policy import (
    DocumentPolicy,
    document_policy,
    end_tokens,
    pad_token,
    tokenizer_hash,
)
from polycycle.data.progress import tokenizing_bars
from polycycle.data.questions import Question, read_questions
from polycycle.data.rows import Tokens, packed_rows
from polycycle.data.sources import TextSource
from polycycle.data.statistics import CorpusStatistics, tokenizer_warnings
from polycycle.data.task_data import (
    LocalBenchmark,
    TaskData,
    TaskRows,
    find_task_data,
    read_benchmark,
    translation_rows,
)
from polycycle.data.tasks import TaskExample, read_task
from polycycle.data.tokens import (
    TokenizedCorpus,
    text_identity,
    tokenize_corpus,
)
from polycycle.data.windows import WindowBatch, evaluation_windows, mixed_windows

__all__ = [
    "IGNORED_LABEL",
    "CorpusStatistics",
    "Document",
    "DocumentPolicy",
    "Excerpt",
    "JoinedDataset",
    "LanguageUse",
    "LocalBenchmark",
    "PackedDataset",
    "Question",
    "Skipped",
    "TaskData",
    "TaskExample",
    "TaskRows",
    "TextSource",
    "TokenizedCorpus",
    "Tokens",
    "WindowBatch",
    "check_budget",
    "check_disjoint",
    "collate",
    "document_policy",
    "end_tokens",
    "evaluation_windows",
    "find_task_data",
    "mixed_windows",
    "packed_model_inputs",
    "packed_rows",
    "pad_token",
    "read_benchmark",
    "read_documents",
    "read_excerpt",
    "read_questions",
    "read_task",
    "share_tokens",
    "text_identity",
    "tokenize_corpus",
    "tokenizer_hash",
    "tokenizer_warnings",
    "tokenizing_bars",
    "translation_rows",
]
