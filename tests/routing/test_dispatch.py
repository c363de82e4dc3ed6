"""Dispatch against a float64 oracle, and against transformers' own experts."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import MixtralConfig
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from polycycle.experts import NO_EXPERT
from polycycle.routing import moe_forward

D, F_ = 12, 20
GROUPS = (3, 2)
NUM_EXPERTS = 1 + sum(GROUPS)


def setup(
    dtype=torch.float64, *, num_tokens=23, top_k=2, choose_from=NUM_EXPERTS, empty=0.0, seed=0
):
    """(hidden, frozen mlp, packs, ids, weights); `empty` is the share of choices left empty."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, scale=1.0):
        return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)

    mlp = LlamaMLP(LlamaConfig(hidden_size=D, intermediate_size=F_, num_attention_heads=2)).to(
        dtype
    )
    for parameter in mlp.parameters():
        parameter.data = draw(*parameter.shape, scale=0.3)
    mlp.requires_grad_(False)
    packs = [
        (
            draw(n, 2 * F_, D, scale=0.3).requires_grad_(),
            draw(n, D, F_, scale=0.3).requires_grad_(),
        )
        for n in GROUPS
    ]
    ids = torch.rand(num_tokens, choose_from, generator=generator).topk(top_k).indices
    weights = torch.rand(num_tokens, top_k, generator=generator, dtype=torch.float64).to(dtype)
    ids = ids.masked_fill(torch.rand(ids.shape, generator=generator) < empty, NO_EXPERT)
    return draw(num_tokens, D).requires_grad_(), mlp, packs, ids, weights.requires_grad_()


def oracle(hidden, mlp, packs, ids, weights):
    """Token by token, choice by choice."""
    experts = [pair for gate_up, down in packs for pair in zip(gate_up, down, strict=True)]
    rows = []
    for token in range(len(hidden)):
        total = torch.zeros(D, dtype=hidden.dtype)
        for choice in range(ids.shape[1]):
            expert = int(ids[token, choice])
            if expert == NO_EXPERT:
                continue
            if expert == 0:
                out = mlp(hidden[token])
            else:
                gate_up, down = experts[expert - 1]
                gate, up = (gate_up @ hidden[token]).chunk(2)
                out = down @ (F.silu(gate) * up)
            total = total + weights[token, choice] * out
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("top_k", [1, 2, 3, 6])
@pytest.mark.parametrize("choose_from", [6, 3])  # 3: the second group has no rows at all
@pytest.mark.parametrize("empty", [0, 0.4])
@pytest.mark.parametrize("trained", ["everything", "all but hidden", "weights", "hidden"])
def test_outputs_and_gradients_equal_the_oracle(top_k, choose_from, empty, trained):
    if top_k > choose_from:
        pytest.skip("a token takes an expert at most once")
    hidden, mlp, packs, ids, weights = setup(top_k=top_k, choose_from=choose_from, empty=empty)
    tensors = {"hidden": [hidden], "weights": [weights], "packs": [t for p in packs for t in p]}
    if trained == "all but hidden":  # the first layer on a frozen embedding
        del tensors["hidden"]
    elif trained != "everything":
        tensors = {trained: tensors[trained]}
    inputs = [tensor for some in tensors.values() for tensor in some]
    for tensor in (hidden, weights, *(tensor for pair in packs for tensor in pair)):
        tensor.requires_grad_(any(tensor is one for one in inputs))
    expected = oracle(hidden, mlp, packs, ids, weights)
    got = moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, inputs, direction, allow_unused=True)
    gradients = torch.autograd.grad(got, inputs, direction)
    for one, other in zip(gradients, wanted, strict=True):
        other = torch.zeros_like(one) if other is None else other
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("trained", ["weights", "hidden"])
def test_the_frozen_expert_alone_at_less_than_full_weight_has_the_oracles_gradients(trained):
    hidden, mlp, packs, _, weights = setup(top_k=1)
    ids = torch.zeros(23, 1, dtype=torch.long)
    (weights if trained == "hidden" else hidden).requires_grad_(False)
    inputs = weights if trained == "weights" else hidden
    expected = oracle(hidden, mlp, packs, ids, weights).square().sum()
    got = moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights).square().sum()
    torch.testing.assert_close(
        torch.autograd.grad(got, inputs), torch.autograd.grad(expected, inputs)
    )


def plain(hidden, mlp, packs, ids, weights):
    """Expert after expert: its rows, weighted, added to zeros with `index_add`."""
    experts = [pair for gate_up, down in packs for pair in zip(gate_up, down, strict=True)]
    total = torch.zeros_like(hidden)
    for expert in range(NUM_EXPERTS):
        row, choice = torch.where(ids == expert)
        if expert == 0:
            out = mlp(hidden[row])
        else:
            gate_up, down = experts[expert - 1]
            gate, up = (hidden[row] @ gate_up.t()).chunk(2, dim=-1)
            out = (F.silu(gate) * up) @ down.t()
        weighted = (out * weights[row, choice, None]).to(hidden.dtype)
        total = total.index_add(0, row, weighted)
    return total


@pytest.mark.parametrize("top_k", [1, 2, 3, 6])
@pytest.mark.parametrize("empty", [0, 0.4])
@pytest.mark.parametrize(
    ("dtype", "weights_dtype"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
    ],
    ids=["float32", "bfloat16", "bfloat16, float32 weights"],
)
@torch.no_grad()
def test_experts_are_added_in_their_order_bit_for_bit(top_k, empty, dtype, weights_dtype):
    hidden, mlp, packs, ids, weights = setup(dtype, num_tokens=200, top_k=top_k, empty=empty)
    weights = weights.to(weights_dtype)
    got = moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights)
    assert torch.equal(got, plain(hidden, mlp, packs, ids, weights))


def test_gradcheck():
    hidden, mlp, packs, ids, weights = setup(num_tokens=5)

    def call(hidden, weights, *tensors):
        pairs = [tuple(tensors[:2]), tuple(tensors[2:])]
        return moe_forward(hidden, mlp, pairs, mlp.act_fn, ids, weights)

    assert torch.autograd.gradcheck(
        call, (hidden, weights, *(tensor for pair in packs for tensor in pair))
    )


def test_all_tokens_on_expert_0_give_the_dense_block_bit_for_bit():
    hidden, mlp, packs, _, _ = setup(torch.float32)
    ids, weights = torch.zeros(23, 1, dtype=torch.long), torch.ones(23, 1)
    got = moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights)
    assert torch.equal(got, mlp(hidden))


def test_all_tokens_on_expert_0_at_less_than_full_weight_are_weighted():
    hidden, mlp, packs, _, _ = setup(top_k=1)
    ids, weights = torch.zeros(23, 1, dtype=torch.long), torch.full((23, 1), 0.25)
    got = moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights)
    torch.testing.assert_close(got, 0.25 * mlp(hidden))


@pytest.mark.parametrize("empty", [0.3, 0.9])
def test_a_choice_left_empty_adds_nothing_and_costs_nothing(empty):
    hidden, mlp, packs, ids, weights = setup(top_k=3, empty=empty)
    ids[0] = torch.tensor([0, NO_EXPERT, NO_EXPERT])
    rows = []

    def count(inputs):
        rows.append(len(inputs))
        return mlp(inputs)

    got = moe_forward(hidden, count, packs, mlp.act_fn, ids, weights)
    torch.testing.assert_close(got, oracle(hidden, mlp, packs, ids, weights))
    assert rows == [int((ids == 0).sum())]


def test_a_token_without_any_expert_gets_zeros_whatever_others_take():
    hidden, mlp, packs, _, _ = setup()
    ids, weights = torch.full((23, 2), NO_EXPERT), torch.ones(23, 2, dtype=torch.float64)
    none = moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights)
    assert torch.equal(none, torch.zeros_like(hidden))
    assert not torch.autograd.grad(none.sum(), hidden)[0].any()
    ids[3:, 0] = 0  # the others are as the dense block makes them, but not by its shortcut
    some = moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights)
    assert torch.equal(some[:3], torch.zeros(3, D))
    torch.testing.assert_close(some[3:], mlp(hidden[3:]))


def test_tokens_whose_only_expert_is_0_give_the_dense_block_bit_for_bit():
    hidden, mlp, packs, _, _ = setup(torch.float32)
    ids = torch.tensor([[0, NO_EXPERT]]).repeat(23, 1)
    weights = torch.tensor([[1.0, 0.0]]).repeat(23, 1)
    got = moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights)
    assert torch.equal(got, mlp(hidden))


def test_the_frozen_expert_passes_gradients_through_and_gets_none():
    hidden, mlp, packs, ids, weights = setup()
    moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights).sum().backward()
    assert all(parameter.grad is None for parameter in mlp.parameters())
    only_frozen = ids.eq(0).any(1)
    assert only_frozen.any()
    assert (hidden.grad[only_frozen] != 0).any()


@pytest.mark.parametrize("weights_dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_rounds_as_the_stock_experts_do(weights_dtype):
    hidden, mlp, packs, ids, weights = setup(torch.bfloat16, num_tokens=64)
    weights = weights.detach().to(weights_dtype)
    config = MixtralConfig(
        hidden_size=D,
        intermediate_size=F_,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=NUM_EXPERTS,
        num_experts_per_tok=2,
    )
    config._experts_implementation = "eager"
    stock = MixtralExperts(config).to(torch.bfloat16)
    with torch.no_grad():
        frozen = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])[None]
        stock.gate_up_proj.copy_(torch.cat([frozen, *(gate_up for gate_up, _ in packs)]))
        stock.down_proj.copy_(torch.cat([mlp.down_proj.weight[None], *(d for _, d in packs)]))
        got = moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights)
        expected = stock(hidden, ids, weights)
    # The same products, weighted and added alike; matrix kernels for other shapes may differ by
    # one rounding of an expert's output.
    assert (got != expected).float().mean() < 0.05
    torch.testing.assert_close(got, expected, rtol=2**-7, atol=2**-7)


def test_autocast_computes_in_bfloat16_and_gives_gradients_in_float32():
    hidden, mlp, packs, ids, weights = setup(torch.float32)
    expected = moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights)
    with torch.autocast("cpu", torch.bfloat16):
        got = moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights)
    got.sum().backward()
    assert got.dtype == torch.float32
    assert packs[0][0].grad.dtype == torch.float32
    assert not torch.equal(got, expected)
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05 * expected.abs().max().item())


def test_no_tokens_give_no_output():
    hidden, mlp, packs, _, _ = setup()
    none = moe_forward(
        hidden[:0], mlp, packs, mlp.act_fn, torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2)
    )
    assert none.shape == (0, D)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(use_reentrant):
    found = []
    for is_checkpointed in (False, True):
        hidden, mlp, packs, ids, weights = setup(torch.float32, top_k=3, empty=0.2)

        def layer(hidden, weights, mlp=mlp, packs=packs, ids=ids):
            once = moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights)
            return moe_forward(once, mlp, packs, mlp.act_fn, ids, weights)

        if is_checkpointed:
            output = checkpoint(layer, hidden, weights, use_reentrant=use_reentrant)
        else:
            output = layer(hidden, weights)
        output.sum().backward()
        found.append([output, hidden.grad, weights.grad, packs[0][0].grad, packs[1][1].grad])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("trains_router", [True, False])
def test_outputs_are_kept_for_the_gradient_of_weights_alone(trains_router):
    hidden, mlp, packs, ids, weights = setup(torch.float32, num_tokens=50)
    weights.requires_grad_(trains_router)
    kept = []

    def note(tensor):
        # The frozen expert keeps its own; [50, D] is what came in.
        is_row = tensor.is_floating_point() and tensor.ndim == 2 and tensor.shape[1] == D
        kept.extend([len(tensor)] if is_row and len(tensor) != 50 else [])
        return tensor

    def frozen_expert(rows):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            return mlp(rows)

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        moe_forward(hidden, frozen_expert, packs, mlp.act_fn, ids, weights)
    num_frozen = int((ids == 0).sum())
    num_new = ids.numel() - num_frozen
    outputs = [num_frozen, num_new] if trains_router else []
    assert sorted(kept) == sorted([num_new, *outputs])


def test_repeating_gives_the_same_bits():
    results = []
    for _ in range(2):
        hidden, mlp, packs, ids, weights = setup(torch.float32)
        moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights).sum().backward()
        results.append([hidden.grad, packs[0][0].grad, packs[1][1].grad, weights.grad])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
