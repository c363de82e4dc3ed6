"""Laws of the computation that CUDA's kernels might break: dispatch, the dense base, retention."""

import pytest
import torch
from torch.nn import functional as F
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from polycycle.data.rows import packed_rows
from polycycle.experts import NO_EXPERT
from polycycle.families import SUPPORTED
from polycycle.modeling import frozen_expert_only, record_routing
from polycycle.routing import moe_forward
from polycycle.surgery import upcycle
from tests.export.upcycled import save_upcycled
from tests.gpu.device import DEVICE, ON_GPU, distance, is_on_gpu, on_gpu
from tests.modeling.test_retention import SETTINGS, gate_of, gated
from tests.tiny import load, save_dense, token_ids

pytestmark = ON_GPU

# --- dispatch -------------------------------------------------------------------------------------

GROUPS = (3, 2)
NUM_EXPERTS = 1 + sum(GROUPS)
# Relative, in norm: float32 sums of a hundred products; bfloat16 has eight bits, and rounds the
# gate-and-up product, what lies between, each expert's output, and their sum.
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
dtypes = pytest.mark.parametrize("dtype", LIMITS, ids=lambda dtype: str(dtype)[6:])


def choices(kind, num_tokens, top_k, generator):
    """[N, K] experts, none twice in a row."""
    scores = torch.rand(num_tokens, NUM_EXPERTS, generator=generator)
    if kind == "skewed":  # nine tokens of ten take expert 2
        scores[:, 2] += (torch.rand(num_tokens, generator=generator) < 0.9).float()
    if kind == "idle":  # half of the first group and all of the second get no row
        scores[:, 2:] -= torch.linspace(1, 2, NUM_EXPERTS - 2)
    ids = scores.topk(top_k).indices
    if kind == "empty":
        is_empty = torch.rand(ids.shape, generator=generator) < 0.4
        is_empty[0, 0] = False
        ids = torch.where(is_empty, NO_EXPERT, ids)
    return ids


def layer(dtype, *, kind="random", num_tokens=257, hidden=33, inner=51, top_k=2):
    """(hidden, frozen mlp, packs, ids, weights), rounded to `dtype`, on the GPU."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, scale=1.0):
        values = scale * torch.randn(*shape, generator=generator)
        return values.to(DEVICE, dtype)

    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_attention_heads=1, head_dim=2
    )
    mlp = LlamaMLP(config).to(DEVICE, dtype).requires_grad_(False)
    for parameter in mlp.parameters():
        parameter.data = draw(*parameter.shape, scale=0.2)
    packs = [
        (
            draw(count, 2 * inner, hidden, scale=0.2).requires_grad_(),
            draw(count, hidden, inner, scale=0.2).requires_grad_(),
        )
        for count in GROUPS
    ]
    ids = choices(kind, num_tokens, top_k, generator).to(DEVICE)
    weights = torch.rand(num_tokens, top_k, generator=generator).to(DEVICE, dtype)
    return draw(num_tokens, hidden).requires_grad_(), mlp, packs, ids, weights.requires_grad_()


def tensors_of(hidden, packs, weights):
    return [hidden, weights, *(tensor for pair in packs for tensor in pair)]


def oracle(hidden, mlp, packs, ids, weights):
    """Every expert on every token, weighted; all inputs float64 on the CPU."""
    maps = [
        (
            torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).double().cpu(),
            mlp.down_proj.weight.double().cpu(),
        ),
        *(pair for gate_up, down in packs for pair in zip(gate_up, down, strict=True)),
    ]
    total = torch.zeros_like(hidden)
    for expert, (gate_up, down) in enumerate(maps):
        gate, up = (hidden @ gate_up.t()).chunk(2, dim=-1)
        weight = (weights * (ids == expert)).sum(-1, keepdim=True)
        total = total + weight * ((F.silu(gate) * up) @ down.t())
    return total


def expected_of(hidden, mlp, packs, ids, weights, direction):
    """The oracle's output, and its gradients along `direction`."""

    def leaf(tensor):
        return tensor.detach().double().cpu().requires_grad_()

    hidden, weights = leaf(hidden), leaf(weights)
    packs = [(leaf(gate_up), leaf(down)) for gate_up, down in packs]
    output = oracle(hidden, mlp, packs, ids.cpu(), weights)
    inputs = tensors_of(hidden, packs, weights)
    return output, torch.autograd.grad(output, inputs, direction.double().cpu())


@dtypes
@pytest.mark.parametrize("kind", ["random", "skewed", "idle", "empty"])
@pytest.mark.parametrize(
    ("num_tokens", "hidden", "inner", "top_k"),
    [(257, 33, 51, 2), (1000, 64, 96, 2), (61, 24, 40, 3), (9, 33, 51, 1)],
)
def test_outputs_and_gradients_equal_a_float64_oracle(
    dtype, kind, num_tokens, hidden, inner, top_k
):
    sizes = {"num_tokens": num_tokens, "hidden": hidden, "inner": inner, "top_k": top_k}
    x, mlp, packs, ids, weights = layer(dtype, kind=kind, **sizes)
    got = moe_forward(x, mlp, packs, mlp.act_fn, ids, weights)
    assert got.dtype == dtype
    direction = torch.randn(got.shape, generator=torch.Generator().manual_seed(1)).to(got)
    expected, wanted = expected_of(x, mlp, packs, ids, weights, direction)
    assert distance(got, expected) <= LIMITS[dtype]
    inputs = tensors_of(x, packs, weights)
    names = ["hidden", "weights", *(f"pack {i}" for i in range(2 * len(packs)))]
    gradients = torch.autograd.grad(got, inputs, direction, allow_unused=True)
    for name, one, other in zip(names, gradients, wanted, strict=True):
        if one is None:  # where no token takes a new expert
            assert not other.any(), name
        elif other.any():
            assert distance(one, other) <= LIMITS[dtype], name
        else:  # an idle expert's gradient is nothing at all, not what lay in memory before
            assert not one.any(), name


def test_autocast_computes_in_bfloat16_and_gives_gradients_in_float32():
    x, mlp, packs, ids, weights = layer(torch.float32)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    expected, wanted = expected_of(x, mlp, packs, ids, weights, direction)
    with torch.autocast(DEVICE, torch.bfloat16):
        got = moe_forward(x, mlp, packs, mlp.act_fn, ids, weights)
    assert got.dtype == torch.float32
    assert 1e-4 < distance(got, expected) <= LIMITS[torch.bfloat16]
    inputs = tensors_of(x, packs, weights)
    for one, other in zip(torch.autograd.grad(got, inputs, direction), wanted, strict=True):
        assert one.dtype == torch.float32
        assert distance(one, other) <= LIMITS[torch.bfloat16]


@dtypes
@pytest.mark.parametrize("num_tokens", [1, 7, 257])
def test_tokens_whose_only_expert_is_0_give_the_dense_block_bit_for_bit(dtype, num_tokens):
    x, mlp, packs, _, _ = layer(dtype, num_tokens=num_tokens)
    ids = torch.tensor([[0, NO_EXPERT]], device=DEVICE).repeat(num_tokens, 1)
    weights = torch.tensor([[1.0, 0.0]], device=DEVICE, dtype=dtype).repeat(num_tokens, 1)
    assert torch.equal(moe_forward(x, mlp, packs, mlp.act_fn, ids, weights), mlp(x))


@dtypes
@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("kind", ["random", "empty"])
def test_repeating_gives_the_same_bits(dtype, top_k, kind):
    """With atomics, three experts of a token would be added in any order."""
    results = []
    for _ in range(8):
        x, mlp, packs, ids, weights = layer(
            dtype, kind=kind, num_tokens=2000, hidden=64, top_k=top_k
        )
        output = moe_forward(x, mlp, packs, mlp.act_fn, ids, weights)
        inputs = tensors_of(x, packs, weights)
        results.append([output, *torch.autograd.grad(output.sum(), inputs)])
    for repeated in results[1:]:
        for one, other in zip(results[0], repeated, strict=True):
            assert torch.equal(one, other)


# --- a fresh upcycle ------------------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=[(family, dtype) for family in SUPPORTED for dtype in LIMITS],
    ids=lambda p: f"{p[0]}-{str(p[1])[6:]}",
)
def fresh(request, tmp_path_factory):
    """(dtype, dense, fresh upcycle on the GPU, the same on the CPU)."""
    family, dtype = request.param
    folder = tmp_path_factory.mktemp("fresh")
    dense = save_dense(folder / "dense", family, dtype=dtype)
    upcycle(dense, folder / "moe", num_experts=4, top_k=2)
    moe = load(folder / "moe")
    return dtype, on_gpu(load(dense)), on_gpu(moe), moe


@torch.no_grad()
def test_a_fresh_upcycle_computes_what_the_dense_model_computed(fresh):
    dtype, dense, moe, _ = fresh
    ids = token_ids(3, 40).to(DEVICE)
    assert is_on_gpu(moe)
    expected, got = dense(ids).logits.float(), moe(ids).logits.float()
    # As tests/families/test_laws.py has it for the CPU.
    tolerance = 2e-6 if dtype == torch.float32 else 0.06
    assert ((got - expected).abs().max() / expected.abs().max()).item() <= tolerance


@torch.no_grad()
def test_frozen_expert_only_computes_the_dense_base_bit_for_bit(fresh):
    _, dense, moe, _ = fresh
    for shape in ((2, 33), (1, 1), (5, 64)):
        ids = token_ids(*shape).to(DEVICE)
        with frozen_expert_only():
            logits = moe(ids).logits
        assert torch.equal(logits, dense(ids).logits)


@torch.no_grad()
def test_gpu_and_cpu_agree(fresh):
    dtype, _, moe, on_cpu = fresh
    ids = token_ids(3, 40)
    limit = 5e-5 if dtype == torch.float32 else 0.1
    assert distance(moe(ids.to(DEVICE)).logits, on_cpu(ids).logits) <= limit


@torch.no_grad()
def test_prefill_and_step_by_step_decoding_agree(fresh):
    dtype, _, moe, _ = fresh
    ids = token_ids(2, 20).to(DEVICE)
    whole = moe(ids, use_cache=False).logits
    cache, steps = None, []
    for position in range(ids.shape[1]):
        out = moe(ids[:, position : position + 1], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits)
    difference = (torch.cat(steps, 1) - whole).float().abs().max()
    assert difference <= (1e-4 if dtype == torch.float32 else 0.1) * whole.abs().max()


# --- padding and packing --------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SUPPORTED)
def moved(request, tmp_path_factory):
    """A model whose experts differ, float32, on the GPU."""
    folder = tmp_path_factory.mktemp("moved")
    return on_gpu(load(save_upcycled(folder, request.param, num_experts=(2, 4, 5))))


@torch.no_grad()
def test_padding_changes_neither_routing_nor_logits(moved):
    short, long = token_ids(1, 9, seed=1).to(DEVICE), token_ids(1, 15, seed=2).to(DEVICE)
    with record_routing(moved) as alone:
        expected = moved(short).logits
    padding = torch.ones(1, 6, dtype=torch.long, device=DEVICE)
    batch = torch.cat([torch.cat([short, padding], 1), long])
    mask = torch.ones_like(batch)
    mask[0, 9:] = 0
    with record_routing(moved) as together:
        got = moved(batch, attention_mask=mask).logits
    assert distance(got[:1, :9], expected) <= 2e-5
    for one, many in zip(alone.layers, together.layers, strict=True):
        assert torch.equal(one.expert_ids.sort().values, many.expert_ids[:9].sort().values)
        assert distance(many.router_logits[:9], one.router_logits) <= 1e-4


@torch.no_grad()
def test_packed_documents_do_not_see_each_other(moved):
    documents = [token_ids(n, seed=n).int().numpy() for n in (17, 5, 1, 23)]
    (inputs,) = packed_rows(documents, 64, device=DEVICE)
    packed = moved(**inputs).logits[0].split([len(document) for document in documents])
    for document, got in zip(documents, packed, strict=True):
        alone = moved(torch.from_numpy(document).long()[None].to(DEVICE), use_cache=False)
        assert distance(got, alone.logits[0]) <= 2e-5


# --- exact retention ------------------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=[(family, torch.float32) for family in SUPPORTED]
    + [(family, torch.bfloat16) for family in ("llama", "qwen3", "gemma2")],
    ids=lambda p: f"{p[0]}-{str(p[1])[6:]}",
)
def retaining(request, tmp_path_factory):
    """(dense, moe with a gate) on the GPU."""
    family, dtype = request.param
    dense, moe = gated(tmp_path_factory.mktemp("retaining"), family, dtype=dtype)
    return on_gpu(dense), on_gpu(moe)


def mixed_prompts(moe):
    """(prompts, which are judged original): some of both, none of them close to the threshold."""
    prompts, gate = token_ids(12, 9, seed=5).to(DEVICE), gate_of(moe)
    gate.patience = 10**9
    with record_routing(moe) as routing, torch.no_grad():
        moe(prompts, use_cache=False)
    means = routing.gate_scores.mean(1).sort().values
    widest = 3 + means[3:9].diff().argmax().item()  # of the gaps in the middle
    gate.threshold = means[widest : widest + 2].mean().item()
    return prompts, routing.gate_scores.mean(1) > gate.threshold


@torch.no_grad()
def test_calls_judged_original_are_the_dense_model_bit_for_bit(retaining):
    dense, moe = retaining
    prompts, original = mixed_prompts(moe)
    assert 3 <= original.sum() <= 9
    assert torch.equal(moe.judge_original(prompts), original)
    kept, others = prompts[original], prompts[~original]
    assert torch.equal(moe(kept).logits, dense(kept).logits)
    assert not torch.equal(moe(others).logits, dense(others).logits)
    ours, theirs = moe(kept, use_cache=True), dense(kept, use_cache=True)
    for step in range(5):
        token = token_ids(len(kept), 1, seed=step).to(DEVICE)
        ours = moe(token, past_key_values=ours.past_key_values)
        theirs = dense(token, past_key_values=theirs.past_key_values)
        assert torch.equal(ours.logits, theirs.logits)


@torch.no_grad()
@pytest.mark.parametrize("padding", [0, 5])
def test_generate_splits_a_mixed_batch_and_keeps_its_order(retaining, padding):
    dense, moe = retaining
    prompts, original = mixed_prompts(moe)
    mask = F.pad(torch.ones_like(prompts), (padding, 0))
    prompts = F.pad(prompts, (padding, 0), value=1)
    together = moe.generate(prompts, attention_mask=mask, **SETTINGS)
    assert torch.equal(together[:, : prompts.shape[1]], prompts)
    expected = dense.generate(prompts[original], attention_mask=mask[original], **SETTINGS)
    assert torch.equal(together[original], expected)
    alone = moe.generate(prompts[~original], attention_mask=mask[~original], **SETTINGS)
    assert torch.equal(together[~original], alone)


@torch.no_grad()
def test_packed_documents_are_judged_each_by_itself(retaining):
    _, moe = retaining
    prompts, original = mixed_prompts(moe)
    positions = torch.arange(9, device=DEVICE).repeat(12)[None]
    with record_routing(moe) as routing:
        moe(prompts.reshape(1, -1), position_ids=positions, use_cache=False)
    judged = routing.layers[0].judged_original.reshape(12, 9)
    assert torch.equal(judged, original[:, None].expand(-1, 9))


@pytest.mark.slow
@torch.no_grad()
def test_generate_keeps_its_decision_with_a_static_cache_for_which_transformers_compiles(tmp_path):
    """On a GPU a cache of a fixed size makes `generate` compile the forward pass."""
    dense, moe = (on_gpu(model) for model in gated(tmp_path))
    prompts, original = mixed_prompts(moe)
    mask = torch.ones_like(prompts)
    settings = {**SETTINGS, "cache_implementation": "static"}
    got = moe.generate(prompts, attention_mask=mask, **settings)
    plain = moe.generate(prompts, attention_mask=mask, **settings, disable_compile=True)
    assert torch.equal(got, plain)
    base = dense.generate(prompts, attention_mask=mask, **settings, disable_compile=True)
    assert not torch.equal(got[~original], base[~original])
