"""Running each token through exactly the experts it chose.

Letters: N tokens, K experts per token, M assignments sorted by expert (N·K less the choices left
empty), E new experts of all groups, D hidden size, F intermediate size.

Tokens go to their experts (`_Dispatch`) and come back (`_Combine`) by gathers alone, in both
directions. Adding rows where they belong (`index_add`) takes atomics on a GPU: slow, and the order
of three or more additions, so their rounding, would change from run to run.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from polycycle.experts import FROZEN_EXPERT

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
    nothing else happens: the result is the dense model's, bit for bit. A token without any expert
    gets zeros.

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
    num_experts = 1 + sum(down.shape[0] for _, down in new_experts)
    sorted_ids, order = expert_ids_NK.flatten().sort(stable=True)
    starts = torch.searchsorted(sorted_ids, torch.arange(num_experts + 1, device=order.device))
    is_weighted = (expert_ids_NK == FROZEN_EXPERT) & (expert_weights_NK != 1)
    # All that Python has to know comes in one transfer: each makes it wait for the GPU. (bincount
    # would wait twice more, for the least and the greatest id.)
    num_weighted, *bounds = torch.cat([is_weighted.sum()[None], starts]).tolist()
    counts = [end - start for start, end in pairwise(bounds)]
    num_frozen, num_assigned = counts[FROZEN_EXPERT], sum(counts)
    if num_frozen == num_assigned == len(hidden_ND) and not num_weighted:
        return frozen_expert(hidden_ND)
    order_M = order[bounds[FROZEN_EXPERT] :]  # NO_EXPERT, below all, was sorted first
    places_KN = _places(order_M, *expert_ids_NK.shape)
    rows_frozen, rows_new = _Dispatch.apply(hidden_ND, order_M, places_KN, num_frozen)
    outputs = []
    if num_frozen:
        outputs.append(frozen_expert(rows_frozen))
    if num_frozen < num_assigned or not num_assigned:
        packs = [tensor for pair in new_experts for tensor in pair]
        outputs.append(_run_new_experts(rows_new, counts[1:], act_fn, packs))
    mixed: Tensor = _Combine.apply(expert_weights_NK, order_M, places_KN, hidden_ND.dtype, *outputs)
    return mixed


def _places(order_M: Tensor, num_tokens: int, top_k: int) -> Tensor:
    """[K, N]: where each token's assignments lie among the M; M where it has no further one.

    Ascending, which is the order of experts: the M are sorted by expert.
    """
    num_assigned = len(order_M)
    places = order_M.new_full((num_tokens * top_k,), num_assigned)
    places[order_M] = torch.arange(num_assigned, device=order_M.device)
    return places.view(num_tokens, top_k).sort(dim=-1).values.t().contiguous()


def _sum_per_token(rows_MD: Tensor, places_KN: Tensor) -> Tensor:
    """[N, D]: each token's rows, added one by one in order of experts, in their dtype.

    What `zeros.index_add` gives, but for the sign of a sum of nothing except −0.0: a pass over
    memory for a zero that compares equal and vanishes in the residual stream.
    """
    total = rows_MD.index_select(0, places_KN[0])
    for place_N in places_KN[1:]:
        total += rows_MD.index_select(0, place_N)
    return total


class _Dispatch(torch.autograd.Function):
    """The rows of hidden states [N, D] that the frozen expert takes, and the new experts' [M, D].

    Saved for the backward pass: places, K·N integers.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, order_M: Tensor, places_KN: Tensor, num_frozen: int
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(places_KN)
        rows_M = order_M // len(places_KN)
        return (
            hidden_ND.index_select(0, rows_M[:num_frozen]),
            hidden_ND.index_select(0, rows_M[num_frozen:]),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (places_KN,) = ctx.saved_tensors
        parts = [grad for grad in grads if len(grad)]
        if sum(map(len, parts)) < places_KN.numel():  # the row that empty choices point at
            parts.append(grads[0].new_zeros(1, grads[0].shape[1]))
        rows_MD = torch.cat(parts) if len(parts) > 1 else parts[0]
        return _sum_per_token(rows_MD, places_KN), None, None, None


class _Combine(torch.autograd.Function):
    """Σ weight · output over each token's experts; outputs come in parts that make up the M rows.

    Saved for the backward pass: weights, order, and the outputs where the weights' gradient needs
    them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        expert_weights_NK: Tensor,
        order_M: Tensor,
        places_KN: Tensor,
        dtype: torch.dtype,
        *outputs: Tensor,
    ) -> Tensor:
        sizes = [len(output) for output in outputs]
        num_assigned, hidden_size = len(order_M), outputs[0].shape[1]
        has_empty = num_assigned < places_KN.numel()
        weighted = outputs[0].new_empty(num_assigned + has_empty, hidden_size, dtype=dtype)
        weighted[num_assigned:] = 0  # the row that empty choices point at
        weights = expert_weights_NK.flatten()[order_M, None].split(sizes)
        parts = weighted[:num_assigned].split(sizes)
        for output, weight, part in zip(outputs, weights, parts, strict=True):
            torch.mul(output, weight, out=part)
        kept = outputs if ctx.needs_input_grad[0] else [None] * len(outputs)
        ctx.save_for_backward(expert_weights_NK, order_M, *kept)
        ctx.sizes, ctx.dtypes = sizes, [output.dtype for output in outputs]
        return _sum_per_token(weighted, places_KN)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        expert_weights_NK, order_M, *outputs = ctx.saved_tensors
        needs_weights, _, _, _, *needs_outputs = ctx.needs_input_grad
        weights = expert_weights_NK.flatten()[order_M, None].split(ctx.sizes)
        rows = (order_M // expert_weights_NK.shape[1]).split(ctx.sizes)
        grads: list[Tensor | None] = []
        grad_weights = []
        for part, dtype in enumerate(ctx.dtypes):
            wide = torch.promote_types(dtype, expert_weights_NK.dtype)
            grad = grad_ND.index_select(0, rows[part]).to(wide)
            if needs_weights:
                grad_weights.append((grad * outputs[part]).sum(-1))
            # In place: the gathered rows are nobody else's.
            grads.append(grad.mul_(weights[part]).to(dtype) if needs_outputs[part] else None)
        grad_NK = None
        if needs_weights:
            grad_NK = torch.zeros_like(expert_weights_NK).flatten()
            grad_NK[order_M] = torch.cat(grad_weights).to(grad_NK.dtype)
            grad_NK = grad_NK.view_as(expert_weights_NK)
        return grad_NK, None, None, None, *grads


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
