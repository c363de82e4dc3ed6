"""How similar languages are to a model: the mean direction of what its feed-forward blocks see.

Letters: L layers, D hidden size, T tokens of a row.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polycycle.data import Tokens, packed_rows
from polycycle.errors import CheckpointError, UpcycleError
from polycycle.evaluation.text import judges_whole_rows
from polycycle.modeling import evaluation_mode

Key = TypeVar("Key")


@torch.no_grad()
def mean_unit_vectors(
    model: Any,
    documents: Iterable[Tokens],
    *,
    row_tokens: int = 1024,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Per layer, the mean of x/‖x‖ over all tokens, where x is the feed-forward input.

    The dot product of two languages' mean unit vectors is the mean cosine over all pairs of their
    tokens, so one forward pass per language serves every pair. Summed in float64; what is held is
    one vector per layer, whatever the amount of text.

    Documents share rows without padding and without seeing each other, so neither their order nor
    `row_tokens` changes the result beyond rounding. (Where classifiers judge whole rows, each
    document has its own.) The head is not run.

    Args:
        model: dense or upcycled, on any device.
        documents: token ids of each document, not empty.
        row_tokens: tokens of a forward pass; a longer document has a row of its own. Attention
            costs its square, so more is slower where documents are short.
        progress: called with the number of tokens after each forward pass.

    Returns:
        float64 [L, D], on the CPU.

    Raises:
        UpcycleError: the model's layers hold no feed-forward block called `mlp`.
        CheckpointError: what a layer sees is not finite.

    Source: LayerMoE, arXiv:2505.22582, §3.1; FFN inputs as in the released code.
    Differs: the released code multiplies two matrices of 100,000 rows per pair and layer; the
        number is the same, as cos(x, y) = x̂ · ŷ is linear in x̂ and in ŷ.
    """
    blocks = feed_forward_blocks(model)
    sums: list[Tensor | float] = [0.0] * len(blocks)

    def add(layer: int, hidden: Tensor) -> None:
        units = F.normalize(hidden.flatten(0, -2).double(), dim=-1)
        sums[layer] = sums[layer] + units.sum(0)

    num_tokens = 0
    with evaluation_mode(model), watch_inputs(dict(enumerate(blocks)), add):
        length = 1 if judges_whole_rows(model) else row_tokens
        for inputs in packed_rows(documents, length, device=model.device):
            model.model(**inputs)
            num_tokens += inputs["input_ids"].shape[1]
            if progress:
                progress(inputs["input_ids"].shape[1])
    if num_tokens == 0:
        raise ValueError("no token to look at: there are no documents")
    means = [torch.as_tensor(total).cpu() / num_tokens for total in sums]
    for layer, mean in enumerate(means):
        if not mean.isfinite().all():
            raise CheckpointError(
                f"layer {layer}: feed-forward inputs are not finite in {model.dtype}; the weights "
                "are damaged, or were made for another dtype"
            )
    return torch.stack(means)


def feed_forward_blocks(model: Any) -> list[nn.Module]:
    """The feed-forward block of every decoder layer, dense or mixture of experts.

    Raises:
        UpcycleError: a layer has none, or there are no layers.
    """
    layers = getattr(getattr(model, "model", None), "layers", None)
    blocks = [getattr(layer, "mlp", None) for layer in layers or ()]
    if not blocks or not all(isinstance(block, nn.Module) for block in blocks):
        raise UpcycleError(
            f"{type(model).__name__} has no feed-forward block at model.layers[…].mlp to look at; "
            "see docs/adding_a_family.md for what a supported model looks like"
        )
    return [block for block in blocks if block is not None]


@contextmanager
def watch_inputs(
    modules: Mapping[Key, nn.Module], keep: Callable[[Key, Tensor], None]
) -> Iterator[None]:
    """Hand every module's first input to `keep(key, input)` while inside."""

    def hook(key: Key) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: keep(key, args[0])

    handles = [module.register_forward_pre_hook(hook(key)) for key, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
