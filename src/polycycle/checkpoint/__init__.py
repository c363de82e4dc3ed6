"""Lazy safetensors in, streamed safetensors out, content hashes, the tokenizer beside them."""

from polycycle.checkpoint.hashing import combine_hashes, content_hash, folder_hash
from polycycle.checkpoint.reader import (
    Checkpoint,
    TensorInfo,
    open_checkpoint,
    refuse_own_folder,
)
from polycycle.checkpoint.tokenizer import load_tokenizer, own_tokenizer
from polycycle.checkpoint.writer import DTYPES, TensorJob, bytes_of, copy_job, write_tensors

__all__ = [
    "DTYPES",
    "Checkpoint",
    "TensorInfo",
    "TensorJob",
    "bytes_of",
    "combine_hashes",
    "content_hash",
    "copy_job",
    "folder_hash",
    "load_tokenizer",
    "open_checkpoint",
    "own_tokenizer",
    "refuse_own_folder",
    "write_tensors",
]
