"""A folder of safetensors, written one tensor at a time.

`safetensors.torch.save_file` wants all tensors of a shard in memory. Here each shard's header is
written first, since names, dtypes and shapes are known from the plan, and then one tensor after
the other is made, written and forgotten: peak memory is the largest tensor.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polycycle.checkpoint.reader import Checkpoint
from polycycle.files import write_json

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorJob:
    """One output tensor: what it will be, and how to make it.

    Attributes:
        name: its name in the output.
        dtype: safetensors' name of its dtype.
        shape: its shape.
        make: computes it; called once, when its turn has come.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        """Size of the tensor."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


def copy_job(source: Checkpoint, name: str) -> TensorJob:
    """The job that hands a tensor on as it is."""
    info = source.info(name)
    return TensorJob(name=name, dtype=info.dtype, shape=info.shape, make=lambda: source.read(name))


def write_tensors(
    folder: Path,
    jobs: Sequence[TensorJob],
    *,
    max_shard_bytes: int = 5 * 10**9,
    progress: Callable[[TensorJob], None] | None = None,
) -> dict[str, str]:
    """Make and write every tensor in order; one file, or numbered shards with an index.

    Args:
        folder: an existing folder; use `files.folder_when_whole` to make it appear only complete.
        jobs: the tensors, in the order to write.
        max_shard_bytes: start a new shard before this size is exceeded.
        progress: called after each tensor.

    Returns:
        SHA-256 of each tensor's bytes, by name.
    """
    shards = _into_shards(jobs, max_shard_bytes)
    hashes: dict[str, str] = {}
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        single = len(shards) == 1
        file = (
            "model.safetensors"
            if single
            else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        hashes |= _write_shard(folder / file, shard, progress)
        weight_map |= {job.name: file for job in shard}
    if len(shards) > 1:
        total = sum(job.num_bytes for job in jobs)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)
    return hashes


def _into_shards(jobs: Sequence[TensorJob], max_bytes: int) -> list[list[TensorJob]]:
    shards: list[list[TensorJob]] = [[]]
    size = 0
    for job in jobs:
        if shards[-1] and size + job.num_bytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(job)
        size += job.num_bytes
    return shards


def _write_shard(
    path: Path, jobs: Iterable[TensorJob], progress: Callable[[TensorJob], None] | None
) -> dict[str, str]:
    hashes = {}
    with path.open("wb") as file:
        file.write(_header_bytes(jobs))
        for job in jobs:
            tensor = job.make()
            if tuple(tensor.shape) != job.shape or tensor.dtype != DTYPES[job.dtype]:
                raise AssertionError(
                    f"{job.name}: planned {job.dtype} {job.shape}, "
                    f"made {tensor.dtype} {tuple(tensor.shape)}"
                )
            data = bytes_of(tensor)
            file.write(data)
            hashes[job.name] = hashlib.sha256(data).hexdigest()
            del tensor, data
            if progress:
                progress(job)
    return hashes


def _header_bytes(jobs: Iterable[TensorJob]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for job in jobs:
        end = offset + job.num_bytes
        header[job.name] = {
            "dtype": job.dtype,
            "shape": list(job.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to eight bytes
    return struct.pack("<Q", len(text)) + text


def bytes_of(tensor: Tensor) -> memoryview:
    """The tensor's memory, without a copy where it is contiguous and on the CPU."""
    flat: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return memoryview(flat)
