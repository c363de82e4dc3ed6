"""Running each token through exactly the experts it chose.

Letters: N tokens, K experts per token, E experts, D hidden size, F intermediate size.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from polycycle.experts import FROZEN_EXPERT


def moe_forward(
    hidden_ND: Tensor,
    frozen_expert: Callable[[Tensor], Tensor],
    new_experts: Sequence[tuple[Tensor, Tensor]],
    act_fn: Callable[[Tensor], Tensor],
    expert_ids_NK: Tensor,
    expert_weights_NK: Tensor,
) -> Tensor:
    """Σ_k weight_k · expert_k(x) for every token x; [N, D] in the hidden states' dtype.

    Where every assignment is the frozen expert and its weight is one, the frozen expert runs on the
    very rows given, so the result is the dense model's bit for bit.
    """
    if bool((expert_ids_NK == FROZEN_EXPERT).all()):
        return frozen_expert(hidden_ND)
    flat_ids = expert_ids_NK.flatten()
    order = flat_ids.argsort(stable=True)
    num_experts = 1 + sum(down.shape[0] for _, down in new_experts)
    counts = torch.bincount(flat_ids, minlength=num_experts).tolist()
    rows = order // expert_ids_NK.shape[1]
    weights = expert_weights_NK.flatten()[order, None]
    gathered = hidden_ND[rows].split(counts)
    weighted = weights.split(counts)
    packs = [
        pair
        for gate_up, down in new_experts
        for pair in zip(gate_up.unbind(), down.unbind(), strict=True)
    ]
    outputs = []
    for expert, (inputs, weight) in enumerate(zip(gathered, weighted, strict=True)):
        if len(inputs) == 0:
            continue
        if expert == FROZEN_EXPERT:
            out = frozen_expert(inputs)
        else:
            gate_up, down = packs[expert - 1]
            gate, up = F.linear(inputs, gate_up).chunk(2, dim=-1)
            out = F.linear(act_fn(gate) * up, down)
        outputs.append((out * weight).to(hidden_ND.dtype))
    mixed = torch.zeros_like(hidden_ND)
    return mixed.index_add(0, rows, torch.cat(outputs))
