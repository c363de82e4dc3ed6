"""Models that FSDP2 has spread over the ranks: each rank saves and loads its own part.

The Trainer refuses to resume such models, so their weights and optimizer state are kept here, in
one safetensors file per rank.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from polycycle.errors import TrainingError
from polycycle.ranks import num_ranks, rank


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's parameters are spread over ranks."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The tensor with the parts of all ranks; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def save_shard(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Write this rank's part of the trained parameters and of their optimizer state."""
    tensors = {}
    for name, parameter in _trained(model):
        tensors[f"parameter/{name}"] = _local(parameter)
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = _local(value)
    save_file(tensors, folder / _file_name())


def load_shard(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Put back what `save_shard` wrote.

    Raises:
        TrainingError: the checkpoint is of another number of processes.
    """
    path = folder / _file_name()
    if not path.exists():
        there = sorted(file.name for file in folder.glob("shard-*.safetensors"))
        raise TrainingError(
            f"{folder} was written by another number of processes ({there[:1]}), this run has "
            f"{num_ranks()}; start it with as many as before, or delete {folder.parent} to start "
            "the stage anew"
        )
    tensors = load_file(path)
    for name, parameter in _trained(model):
        _local(parameter).copy_(tensors.pop(f"parameter/{name}"))
        keys = [key for key in tensors if key.endswith(f"/{name}")]
        optimizer.state[parameter] = {
            key.removesuffix(f"/{name}"): _as_part_of(parameter, tensors.pop(key)) for key in keys
        }


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _file_name() -> str:
    return f"shard-{rank()}-of-{num_ranks()}.safetensors"


def _local(tensor: Tensor) -> Tensor:
    part: Any = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return part.detach()  # type: ignore[no-any-return]


def _as_part_of(parameter: Tensor, part: Tensor) -> Tensor:
    """Optimizer state shaped like the parameter is spread as the parameter is."""
    if not isinstance(parameter, DTensor) or part.shape != parameter.to_local().shape:
        return part
    return DTensor.from_local(
        part.to(parameter.to_local().device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
