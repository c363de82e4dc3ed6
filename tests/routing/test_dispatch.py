"""Dispatch against a float64 oracle, and against transformers' own experts."""

import pytest
import torch
from torch.nn import functional as F
from transformers import MixtralConfig
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from polycycle.routing import moe_forward

D, F_ = 12, 20
GROUPS = (3, 2)
NUM_EXPERTS = 1 + sum(GROUPS)


def setup(dtype=torch.float64, *, num_tokens=23, top_k=2, choose_from=NUM_EXPERTS, seed=0):
    """(hidden, frozen mlp, packs, ids, weights)."""
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
    return draw(num_tokens, D).requires_grad_(), mlp, packs, ids, weights.requires_grad_()


def oracle(hidden, mlp, packs, ids, weights):
    """Token by token, choice by choice."""
    experts = [pair for gate_up, down in packs for pair in zip(gate_up, down, strict=True)]
    rows = []
    for token in range(len(hidden)):
        total = torch.zeros(D, dtype=hidden.dtype)
        for choice in range(ids.shape[1]):
            expert = int(ids[token, choice])
            if expert == -1:
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
def test_outputs_and_gradients_equal_the_oracle(top_k, choose_from):
    if top_k > choose_from:
        pytest.skip("a token takes an expert at most once")
    hidden, mlp, packs, ids, weights = setup(top_k=top_k, choose_from=choose_from)
    expected = oracle(hidden, mlp, packs, ids, weights)
    got = moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    inputs = [hidden, weights, *(tensor for pair in packs for tensor in pair)]
    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, inputs, direction, allow_unused=True)
    gradients = torch.autograd.grad(got, inputs, direction)
    for one, other in zip(gradients, wanted, strict=True):
        other = torch.zeros_like(one) if other is None else other
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


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
    hidden, mlp, packs, ids, weights = setup(top_k=3)
    ids = torch.where(torch.rand(ids.shape) < empty, -1, ids)
    ids[0] = torch.tensor([0, -1, -1])
    rows = []

    def count(inputs):
        rows.append(len(inputs))
        return mlp(inputs)

    got = moe_forward(hidden, count, packs, mlp.act_fn, ids, weights)
    torch.testing.assert_close(got, oracle(hidden, mlp, packs, ids, weights))
    assert rows == [int((ids == 0).sum())]


def test_tokens_whose_only_expert_is_0_give_the_dense_block_bit_for_bit():
    hidden, mlp, packs, _, _ = setup(torch.float32)
    ids = torch.tensor([[0, -1]]).repeat(23, 1)
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


def test_repeating_gives_the_same_bits():
    results = []
    for _ in range(2):
        hidden, mlp, packs, ids, weights = setup(torch.float32)
        moe_forward(hidden, mlp, packs, mlp.act_fn, ids, weights).sum().backward()
        results.append([hidden.grad, packs[0][0].grad, packs[1][1].grad, weights.grad])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
