"""Content hashes: the same tensors have the same hash, however they are sharded."""

import hashlib
from collections.abc import Mapping

from polycycle.checkpoint.reader import Checkpoint, TensorInfo
from polycycle.checkpoint.writer import bytes_of
from polycycle.files import hash_file, hash_json


def content_hash(checkpoint: Checkpoint, names: list[str] | None = None) -> str:
    """SHA-256 over name, dtype, shape and bytes of the tensors, in order of their names.

    Args:
        checkpoint: what to hash; tensors are read one at a time.
        names: only these tensors; all by default.
    """
    chosen = sorted(checkpoint.tensors if names is None else names)
    hashes = {}
    for name in chosen:
        hashes[name] = hashlib.sha256(bytes_of(checkpoint.read(name))).hexdigest()
    return combine_hashes(hashes, checkpoint.tensors)


def folder_hash(checkpoint: Checkpoint) -> str:
    """Changes when anything does that is taken from a model folder: tensors, config, side files.

    Files are hashed, not where they come from: a copy of a hub repository counts as the same, and
    so does a commit that changed its README alone.
    """
    files = {*(info.file for info in checkpoint.tensors.values()), *checkpoint.side_files()}
    hashes = {file.name: hash_file(file) for file in sorted(files)}
    return hash_json([dict(checkpoint.config), hashes])


def combine_hashes(hashes: Mapping[str, str], infos: Mapping[str, TensorInfo]) -> str:
    """The content hash of tensors whose bytes are hashed already.

    Args:
        hashes: SHA-256 of each tensor's bytes.
        infos: at least these tensors' dtypes and shapes.
    """
    whole = hashlib.sha256()
    for name in sorted(hashes):
        info = infos[name]
        shape = ",".join(map(str, info.shape))
        whole.update(f"{name}\n{info.dtype}\n{shape}\n{hashes[name]}\n".encode())
    return whole.hexdigest()
