"""Running each token through exactly the experts it chose.

Letters: N tokens, K experts per token, M = N·K assignments sorted by expert, E new experts of all
groups, D hidden size, F intermediate size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from polycycle.experts import FROZEN_EXPERT, NO_EXPERT

Activation = Callable[[Tensor], Tensor]


def moe_forward(
    hidden_ND: Tensor,
    frozen_expert: Callable[[Tensor], Tensor],
    new_experts: Sequence[tuple[Tensor, Tensor]],
    act_fn: Activation,
    expert_ids_NK: Tensor,
    expert_weights_NK: Tensor,
) -> Tensor:
    """Σ_k weight_k · expert_k(x) for every token x; [N, D] in the hidden states' dtype.

    Weighting and adding follow transformers' stock experts (multiply in the wider of the two
    dtypes, cast, add in order of experts), so an exported model rounds as this one does. Products
    stay in the dtype of their inputs for the same reason.

    Where every token takes the frozen expert alone, at weight 1, it runs on the very rows given and
    nothing else happens: the result is the dense model's, bit for bit.

    Args:
        hidden_ND: [N, D].
        frozen_expert: the original feed-forward block, called as a module ([n, D] → [n, D]), so
            that whatever wraps it (adapters, quantisation) goes on working.
        new_experts: per language group, gate_up_proj [E, 2F, D] (gate rows first) and down_proj
            [E, D, F].
        act_fn: the dense block's activation.
        expert_ids_NK: [N, K] int64; 0 is the frozen expert, new experts count on from 1 over all
            groups, −1 is no expert. A token never has the same expert twice.
        expert_weights_NK: [N, K].
    """
    is_frozen = (expert_ids_NK == FROZEN_EXPERT) & (expert_weights_NK == 1)
    if bool((is_frozen | (expert_ids_NK == NO_EXPERT)).all()):
        return frozen_expert(hidden_ND)
    num_experts = 1 + sum(down.shape[0] for _, down in new_experts)
    flat_ids = expert_ids_NK.flatten()
    num_empty, *counts = torch.bincount(flat_ids - NO_EXPERT, minlength=num_experts + 1).tolist()
    order = flat_ids.argsort(stable=True)[num_empty:]
    rows = order // expert_ids_NK.shape[1]
    inputs = hidden_ND.index_select(0, rows)
    num_frozen = counts[FROZEN_EXPERT]
    outputs = []
    if num_frozen:
        outputs.append(frozen_expert(inputs[:num_frozen]))
    if num_frozen < len(rows):
        packs = [tensor for pair in new_experts for tensor in pair]
        outputs.append(_run_new_experts(inputs[num_frozen:], counts[1:], act_fn, packs))
    weights = expert_weights_NK.flatten()[order, None]
    weighted = (torch.cat(outputs) * weights).to(hidden_ND.dtype)
    return torch.zeros_like(hidden_ND).index_add(0, rows, weighted)


def _run_new_experts(
    inputs_MD: Tensor, counts: list[int], act_fn: Activation, packs: list[Tensor]
) -> Tensor:
    """Autocast is resolved here, once: inside the function below every dtype is explicit."""
    device = inputs_MD.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        inputs_MD, packs = inputs_MD.to(dtype), [pack.to(dtype) for pack in packs]
    result: Tensor = _NewExperts.apply(inputs_MD, counts, act_fn, *packs)
    return result


class _NewExperts(torch.autograd.Function):
    """Gated feed-forward of packed experts over rows sorted by expert.

    Written out because autograd's own way through `pack[expert]` allocates and adds a gradient the
    size of the whole pack for every expert. Here each expert's weight gradient is written straight
    into its slice. Saved for the backward pass: inputs [M, D] and the gate-and-up product [M, 2F].
    """

    @staticmethod
    def forward(
        ctx: Any, inputs_MD: Tensor, counts: list[int], act_fn: Activation, *packs: Tensor
    ) -> Tensor:
        gate_ups, downs = packs[::2], packs[1::2]
        product = inputs_MD.new_empty(len(inputs_MD), gate_ups[0].shape[1])
        for rows, weight in _slices(counts, gate_ups):
            torch.mm(inputs_MD[rows], weight.t(), out=product[rows])
        inner = _gated(product, act_fn)
        output = torch.empty_like(inputs_MD)
        for rows, weight in _slices(counts, downs):
            torch.mm(inner[rows], weight.t(), out=output[rows])
        ctx.save_for_backward(inputs_MD, product, *packs)
        ctx.counts, ctx.act_fn = counts, act_fn
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor | None, ...]:
        inputs, product, *packs = ctx.saved_tensors
        gate_ups, downs = packs[::2], packs[1::2]
        grad_MD = grad_MD.contiguous()
        needs_input, _, _, *needs_packs = ctx.needs_input_grad
        grad_inner = product.new_empty(len(product), product.shape[1] // 2)
        for rows, weight in _slices(ctx.counts, downs):
            torch.mm(grad_MD[rows], weight, out=grad_inner[rows])
        with torch.enable_grad():
            leaf = product.detach().requires_grad_()
            inner = _gated(leaf, ctx.act_fn)
        (grad_product,) = torch.autograd.grad(inner, leaf, grad_inner)
        grad_input = None
        if needs_input:
            grad_input = torch.empty_like(inputs)
            for rows, weight in _slices(ctx.counts, gate_ups):
                torch.mm(grad_product[rows], weight, out=grad_input[rows])
        grads_gate_up = _weight_grads(grad_product, inputs, ctx.counts, gate_ups, needs_packs[::2])
        grads_down = _weight_grads(grad_MD, inner.detach(), ctx.counts, downs, needs_packs[1::2])
        grads = [g for pair in zip(grads_gate_up, grads_down, strict=True) for g in pair]
        return grad_input, None, None, *grads


def _gated(product_M2F: Tensor, act_fn: Activation) -> Tensor:
    """act(gate) · up, [M, F]."""
    gate, up = product_M2F.chunk(2, dim=-1)
    return act_fn(gate) * up


def _slices(counts: list[int], packs: Sequence[Tensor]) -> list[tuple[slice, Tensor]]:
    """Row range and weight of every expert that has rows, over all groups."""
    experts = [weight for pack in packs for weight in pack.unbind()]
    found, start = [], 0
    for count, weight in zip(counts, experts, strict=True):
        if count:
            found.append((slice(start, start + count), weight))
        start += count
    return found


def _weight_grads(
    grad_out: Tensor,
    inputs: Tensor,
    counts: list[int],
    packs: Sequence[Tensor],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradient of each pack: gradᵀ · inputs per expert, zero for an expert without rows."""
    grads: list[Tensor | None] = []
    start = expert = 0
    for pack, is_needed in zip(packs, needs, strict=True):
        grad = torch.empty_like(pack) if is_needed else None
        for index in range(len(pack)):
            rows = slice(start, start + counts[expert])
            if grad is not None and counts[expert]:
                torch.mm(grad_out[rows].t(), inputs[rows], out=grad[index])
            elif grad is not None:
                grad[index].zero_()
            start, expert = rows.stop, expert + 1
        grads.append(grad)
    return grads
