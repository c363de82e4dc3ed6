"""Writing a trained model: frozen tensors from where they came, trained ones from memory."""

import re
import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from polycycle.checkpoint import DTYPES, Checkpoint, TensorJob, copy_job, write_tensors
from polycycle.errors import CheckpointError
from polycycle.families import is_upcycled
from polycycle.files import write_json

# Names of the tensors that upcycling adds.
_ADDED = re.compile(r"\.mlp\.(experts|router|retention_gate)\.")


def write_trained(
    source: Checkpoint, trained: Mapping[str, Tensor], folder: Path, names: Iterable[str]
) -> None:
    """Write the model that training started from with some tensors replaced.

    Frozen tensors are copied from `source`, so they are bit-identical by construction. Trained
    tensors are rounded to the dtype they have there, whatever precision they were trained in. An
    upcycled model of which the dense model's own tensors were trained is marked: it has no base.

    Args:
        source: the checkpoint that was trained.
        trained: the model's state by name; more names than needed do no harm.
        folder: an existing folder to write into.
        names: the tensors that were trained.

    Raises:
        CheckpointError: a trained tensor is not finite, or not part of the source.
    """
    changed = set(names)
    jobs = [
        _trained_job(source, name, trained[name]) if name in changed else copy_job(source, name)
        for name in source.tensors
    ]
    unknown = changed - set(source.tensors)
    if unknown:
        raise CheckpointError(f"{source.name} has no tensor {sorted(unknown)[0]!r}")
    write_tensors(folder, jobs)
    config = {key: value for key, value in source.config.items() if key != "masked_groups"}
    if is_upcycled(config) and not all(_ADDED.search(name) for name in changed):
        config |= {"base_trained": True, "base_hash": None}
    write_json(folder / "config.json", config)  # what was masked has been trained
    for file in source.side_files():
        shutil.copyfile(file, folder / file.name)


def _trained_job(source: Checkpoint, name: str, tensor: Tensor) -> TensorJob:
    if not tensor.isfinite().all():
        raise CheckpointError(
            f"{name} holds values that are not finite after training; lower the learning rate, "
            "or train in float32 (precision: float32)"
        )
    info = source.info(name)
    return TensorJob(
        name=name,
        dtype=info.dtype,
        shape=info.shape,
        make=partial(tensor.detach().to, DTYPES[info.dtype]),
    )
