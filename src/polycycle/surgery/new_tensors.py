"""The tensors that an expansion adds to a layer: packed experts, router rows, classifiers.

Letters: E new experts of a layer, D hidden size, F intermediate size.
"""

import hashlib
import re
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from polycycle.checkpoint import DTYPES, Checkpoint, TensorJob, copy_job
from polycycle.errors import CheckpointError
from polycycle.routing import router_init

if TYPE_CHECKING:
    from polycycle.families.family import Family

ExpertInit = Literal["copy", "random"]
_FLOATS = ("F32", "BF16", "F16", "F64")
_FIRST_GROUP = "g1"
_ADDED = re.compile(r"\.mlp\.(experts|router|retention_gate)\.")


def is_added(name: str) -> bool:
    """Whether an expansion added a tensor of this name, rather than the dense model."""
    return _ADDED.search(name) is not None


def layer_jobs(
    source: Checkpoint,
    family: "Family",
    layer: int,
    count: int,
    *,
    group: str,
    init: ExpertInit,
    seed: int,
    copy_from: tuple[str, int] | None = None,
    is_first: bool = True,
) -> list[TensorJob]:
    """What one language group adds to one layer: packed experts and router rows.

    Args:
        source: a model that holds the original feed-forward block: dense or upcycled.
        family: of the model.
        layer: which layer.
        count: E.
        group: `g1`, `g2`, …
        init: experts as exact copies, or random.
        seed: of the router rows (and random experts).
        copy_from: what is copied: an expert of an earlier group and its place there, or None for
            the original.
        is_first: whether the group is the layer's first, whose rows begin with expert 0's.
    """
    mlp = f"model.layers.{layer}.mlp"
    gate_up = [f"{mlp}.{name}.weight" for name in family.gate_up_names]
    down = f"{mlp}.{family.down_name}.weight"
    dtype = source.info(down).dtype
    if dtype not in _FLOATS:
        raise CheckpointError(
            f"{source.name}: {down} is {dtype}; experts are made from {', '.join(_FLOATS)}. "
            "Give the unquantised model"
        )
    hidden_size, intermediate_size = source.info(down).shape
    std = float(source.config.get("initializer_range") or 0.02)
    # The first group's seeds have no name in them, later groups draw differently.
    drawn_for = mlp if group == _FIRST_GROUP else f"{mlp}/{group}"

    def experts(part: str, sources: list[str], shape: tuple[int, ...]) -> TensorJob:
        if init == "copy" and copy_from is not None:
            earlier, place = copy_from
            make = partial(
                _packed_copies, source, f"{mlp}.experts.{earlier}.{part}", place, (count, *shape)
            )
        elif init == "copy":
            make = partial(_copies, source, sources, (count, *shape))
        else:
            make = partial(_random, (count, *shape), dtype, std, f"{seed}/{drawn_for}/{part}")
        name = f"{mlp}.experts.{group}.{part}"
        return TensorJob(name=name, dtype=dtype, shape=(count, *shape), make=make)

    num_rows = count + 1 if is_first else count

    def rows() -> Tensor:
        drawn = router_init(num_rows, hidden_size, seeded_generator(f"{seed}/{drawn_for}/router"))
        return drawn.to(DTYPES[dtype])

    return [
        experts("gate_up_proj", gate_up, (2 * intermediate_size, hidden_size)),
        experts("down_proj", [down], (hidden_size, intermediate_size)),
        TensorJob(
            name=f"{mlp}.router.rows.{group}",
            dtype=dtype,
            shape=(num_rows, hidden_size),
            make=rows,
        ),
    ]


def zeros_job(source: Checkpoint, family: "Family", layer: int, name: str) -> TensorJob:
    """A vector of the hidden size: a classifier or a gate that judges nothing yet."""
    mlp = f"model.layers.{layer}.mlp"
    down = source.info(f"{mlp}.{family.down_name}.weight")
    shape = (down.shape[0],)
    return TensorJob(
        name=f"{mlp}.{name}",
        dtype=down.dtype,
        shape=shape,
        make=partial(torch.zeros, shape, dtype=DTYPES[down.dtype]),
    )


def redrawn_job(source: Checkpoint, name: str, *, seed: str) -> TensorJob:
    """A tensor of an upcycled model, its routers forgotten: rows drawn anew, classifiers at zero.

    Args:
        source: the model.
        name: of any of its tensors; one that is not a router's is copied.
        seed: of the draw, together with the tensor's name.
    """
    info = source.info(name)

    def rows() -> Tensor:
        num_rows, hidden_size = info.shape
        return router_init(num_rows, hidden_size, seeded_generator(f"{seed}/{name}")).to(
            DTYPES[info.dtype]
        )

    if ".mlp.router.rows." in name:
        return TensorJob(name=name, dtype=info.dtype, shape=info.shape, make=rows)
    if ".mlp.router.classifier." in name:
        zeros = partial(torch.zeros, info.shape, dtype=DTYPES[info.dtype])
        return TensorJob(name=name, dtype=info.dtype, shape=info.shape, make=zeros)
    return copy_job(source, name)


def _packed_copies(source: Checkpoint, name: str, place: int, shape: tuple[int, ...]) -> Tensor:
    """One expert of an earlier group's pack, once per new expert."""
    return source.read(name)[place].expand(shape).contiguous()


def _copies(source: Checkpoint, names: list[str], shape: tuple[int, ...]) -> Tensor:
    """The named tensors' rows stacked, once per new expert."""
    packed = torch.empty(shape, dtype=DTYPES[source.info(names[0]).dtype])
    start = 0
    for name in names:
        rows = source.read(name)
        packed[:, start : start + len(rows)] = rows
        start += len(rows)
    return packed


def _random(shape: tuple[int, ...], dtype: str, std: float, seed: str) -> Tensor:
    """Normal random weights, drawn expert by expert so that only one is ever in float32."""
    generator = seeded_generator(seed)
    packed = torch.empty(shape, dtype=DTYPES[dtype])
    for expert in packed:
        expert.copy_(torch.randn(shape[1:], generator=generator) * std)
    return packed


def seeded_generator(seed: str) -> torch.Generator:
    """A generator of its own for each tensor: the result does not depend on their order.

    Args:
        seed: a number and what is drawn, `0/model.layers.3.mlp/router`.
    """
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little") >> 1
    return torch.Generator().manual_seed(number)
