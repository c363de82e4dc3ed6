"""Running each token through exactly the experts it chose.

Letters: N tokens, K experts per token, M = N·K assignments sorted by expert, E new experts of all
groups, D hidden size, F intermediate size.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
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
    size of the whole pack for every expert. Here one expert's rows are finished before the next
    one's, in both directions: what lies between two products is no larger than those rows, and a
    weight gradient is written straight into its slice. Saved for the backward pass: inputs [M, D]
    and the gate-and-up product [M, 2F].
    """

    @staticmethod
    def forward(
        ctx: Any, inputs_MD: Tensor, counts: list[int], act_fn: Activation, *packs: Tensor
    ) -> Tensor:
        gate_ups, downs = packs[::2], packs[1::2]
        product = inputs_MD.new_empty(len(inputs_MD), gate_ups[0].shape[1])
        output = torch.empty_like(inputs_MD)
        for group, expert, rows in _experts(counts, downs):
            torch.mm(inputs_MD[rows], gate_ups[group][expert].t(), out=product[rows])
            gate, up = product[rows].chunk(2, dim=-1)
            torch.mm(act_fn(gate) * up, downs[group][expert].t(), out=output[rows])
        ctx.save_for_backward(inputs_MD, product, *packs)
        ctx.counts, ctx.act_fn = counts, act_fn
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor | None, ...]:
        inputs, product, *packs = ctx.saved_tensors
        gate_ups, downs = packs[::2], packs[1::2]
        needs_input, _, _, *needs_packs = ctx.needs_input_grad
        grad_MD = grad_MD.contiguous()
        grad_input = torch.empty_like(inputs) if needs_input else None
        grads = [
            torch.empty_like(pack) if is_needed else None
            for pack, is_needed in zip(packs, needs_packs, strict=True)
        ]
        for group, expert, rows in _experts(ctx.counts, downs):
            grad_inner = torch.mm(grad_MD[rows], downs[group][expert])
            inner, grad_product = _gated_backward(product[rows], grad_inner, ctx.act_fn)
            if grad_input is not None:
                torch.mm(grad_product, gate_ups[group][expert], out=grad_input[rows])
            grad_gate_up, grad_down = grads[2 * group : 2 * group + 2]
            if grad_gate_up is not None:
                torch.mm(grad_product.t(), inputs[rows], out=grad_gate_up[expert])
            if grad_down is not None:
                torch.mm(grad_MD[rows].t(), inner, out=grad_down[expert])
        return grad_input, None, None, *grads


def _experts(counts: list[int], packs: Sequence[Tensor]) -> Iterator[tuple[int, int, slice]]:
    """Group, place in the group's pack, and rows of every expert; an idle one has no rows."""
    places = [(group, expert) for group, pack in enumerate(packs) for expert in range(len(pack))]
    ends = accumulate(counts)
    for (group, expert), count, end in zip(places, counts, ends, strict=True):
        yield group, expert, slice(end - count, end)


def _gated_backward(
    product_n2F: Tensor, grad_n_F: Tensor, act_fn: Activation
) -> tuple[Tensor, Tensor]:
    """act(gate) · up [n, F], computed again, and the gradient [n, 2F] of gate and up."""
    gate, up = product_n2F.chunk(2, dim=-1)
    grad_product = torch.empty_like(product_n2F)
    grad_gate, grad_up = grad_product.chunk(2, dim=-1)
    with torch.enable_grad():
        leaf = gate.detach().requires_grad_()
        activated = act_fn(leaf)
    torch.mul(grad_n_F, activated.detach(), out=grad_up)
    grad_gate.copy_(torch.autograd.grad(activated, leaf, grad_n_F * up)[0])
    return activated.detach() * up, grad_product
