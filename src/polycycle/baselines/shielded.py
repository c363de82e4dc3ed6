"""Source-shielded updates: the columns that the original languages need keep what they hold.

Letters: D_in, D_out features of a linear map, N tokens, C columns that train.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polycycle.data import Tokens, packed_rows
from polycycle.evaluation import watch_inputs
from polycycle.modeling import evaluation_mode


def linear_maps(model: Any) -> dict[str, nn.Linear]:
    """The linear maps of the decoder's blocks by name; the head is none of them."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("model.layers.")
    }


@torch.no_grad()
def column_scores(
    model: Any,
    documents: Iterable[Tokens],
    *,
    row_tokens: int = 2048,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """How much each input feature of each linear map counts for a text: float64 [D_in] by name.

    The score of column j is Σᵢ |Wᵢⱼ| · ‖Xⱼ‖₂, with Xⱼ the feature's values over all N tokens.

    Args:
        model: dense, on any device.
        documents: token ids of each, not empty; in the languages to keep.
        row_tokens: tokens of a forward pass.
        progress: called with the number of tokens after each.

    Source: SSU, arXiv:2512.04844, §3 (Wanda scores, summed over columns).
    Differs: the released code takes the column's L2 norm and the mean of Xⱼ² in their place.
    """
    maps = linear_maps(model)
    squares: dict[str, Tensor | float] = dict.fromkeys(maps, 0.0)

    def add(name: str, x: Tensor) -> None:
        squares[name] = squares[name] + x.flatten(0, -2).double().square().sum(0)

    with evaluation_mode(model), watch_inputs(maps, add):
        for inputs in packed_rows(documents, row_tokens, device=model.device):
            model.model(**inputs)
            if progress:
                progress(inputs["input_ids"].shape[1])
    return {
        name: (linear.weight.double().abs().sum(0) * torch.as_tensor(squares[name]).sqrt()).cpu()
        for name, linear in maps.items()
    }


def highest_columns(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The columns to freeze: of each map the share with the highest scores, int64 ascending."""
    return {
        name: score.topk(int(share * len(score))).indices.sort().values
        for name, score in scores.items()
    }


class ShieldedLinear(nn.Linear):
    """A linear map of which some columns train and the others cannot move.

    Only what trains is a parameter, so nothing that an optimizer does to parameters (weight decay,
    momentum) reaches the rest, and the rest needs no gradient and no optimizer state. A subclass of
    `nn.Linear` because attention kernels look for one to learn the dtype.

    Args:
        linear: the map.
        frozen: int64, columns of its weight that stay as they are.

    Attributes:
        free: int64 [C], the other columns.
        columns: [D_out, C], what they hold.
    """

    def __init__(self, linear: nn.Linear, frozen: Tensor) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        is_free = torch.ones(weight.shape[1], dtype=torch.bool)
        is_free[frozen] = False
        self.whole: Tensor
        self.free: Tensor
        self.register_buffer("whole", weight, persistent=False)
        self.register_buffer("free", is_free.nonzero()[:, 0].to(weight.device), persistent=False)
        self.columns = nn.Parameter(weight[:, self.free].clone())
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The map's weight as it is now, [D_out, D_in]."""
        return self.whole.index_copy(1, self.free, self.columns)

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`."""
        return F.linear(x, self.weight, self.bias)


def shield_columns(model: Any, frozen: Mapping[str, Tensor]) -> None:
    """Freeze columns of linear maps, in place; all else trains.

    The model computes what it computed before, bit for bit. Norms, biases, embeddings and the head
    train whole.

    Args:
        model: a dense model.
        frozen: by name of a map, its columns that stay as they are.

    Source: SSU, arXiv:2512.04844, §3.
    Differs: the published code masks gradients, so that its weight decay still moves what is
        frozen; it freezes the share of each norm's elements, too.
    """
    model.requires_grad_(True)
    for name, linear in linear_maps(model).items():
        model.set_submodule(name, ShieldedLinear(linear, frozen[name]))


def shielded_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Everything that trained by its dense name, shielded maps whole, on the CPU."""
    shielded = {n: m for n, m in model.named_modules() if isinstance(m, ShieldedLinear)}
    parts = {f"{name}.columns" for name in shielded}
    others = {
        name: parameter.detach().cpu()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name not in parts
    }
    return others | {f"{n}.weight": m.weight.detach().cpu() for n, m in shielded.items()}
