"""Writing a trained model: frozen tensors from where they came, trained ones from memory."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from polycycle.checkpoint import DTYPES, Checkpoint, TensorJob, copy_job, write_tensors
from polycycle.errors import CheckpointError
from polycycle.families import is_upcycled
from polycycle.files import write_json
from polycycle.surgery.new_tensors import is_added


def write_trained(source: Checkpoint, trained: Mapping[str, Tensor], folder: Path) -> None:
    """Write the model that training started from with some tensors replaced.

    Frozen tensors are copied from `source`, so they are bit-identical by construction. Trained
    tensors are rounded to the dtype they have there, whatever precision they were trained in. An
    upcycled model of which the dense model's own tensors were trained is marked: it has no base.

    Args:
        source: the checkpoint that was trained.
        trained: the tensors that were trained, by name.
        folder: an existing folder to write into.

    Raises:
        CheckpointError: a trained tensor is not finite, or not part of the source.
    """
    unknown = sorted(set(trained) - set(source.tensors))
    if unknown:
        raise CheckpointError(f"{source.name} has no tensor {unknown[0]!r}")
    jobs = [
        _trained_job(source, name, trained[name]) if name in trained else copy_job(source, name)
        for name in source.tensors
    ]
    write_tensors(folder, jobs)
    config = {key: value for key, value in source.config.items() if key != "masked_groups"}
    if is_upcycled(config) and not all(map(is_added, trained)):
        config |= {"base_trained": True, "base_hash": None}
    write_json(folder / "config.json", config)  # what was masked has been trained
    source.copy_side_files(folder)


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
