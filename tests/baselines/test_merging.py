"""Merge rules against slow float64 readings, and their identities on whole checkpoints."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from polycycle.baselines import expand_blocks, fill_merged, llama_pro_names, merging, plan_merge
from polycycle.baselines.merge_rules import Dropout, summed, ties, trim_threshold
from polycycle.checkpoint import content_hash, open_checkpoint
from polycycle.errors import GraftError
from polycycle.surgery import deltas, open_delta
from tests.surgery.siblings import add_tokenizer, config_of, delta_of, post_trained, tensors
from tests.text import VOCAB_SIZE
from tests.tiny import load, save_dense, token_ids

RULES = ("add", "task_arithmetic", "ties", "dare")


def ties_by_hand(vectors, density):
    """The paper's three steps, element by element."""
    trimmed = []
    for vector in vectors:
        by_size = sorted(range(len(vector)), key=lambda i: -abs(vector[i]))
        kept = set(by_size[: max(1, round(density * len(vector)))])
        trimmed.append([value if i in kept else 0.0 for i, value in enumerate(vector)])
    merged = []
    for values in zip(*trimmed, strict=True):
        sign = np.sign(sum(values))
        same = [value for value in values if value * sign > 0]
        merged.append(sum(same) / len(same) if same else 0.0)
    return np.array(merged)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.2, 0.001])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_ties_is_the_slow_reading_of_the_paper(count, density):
    draw = np.random.default_rng(count)
    vectors = draw.normal(size=(count, 97))
    limits = [trim_threshold(np.abs(vector), density) for vector in vectors]
    merged = ties(list(torch.from_numpy(vectors)), limits)
    assert np.allclose(merged.numpy(), ties_by_hand(vectors.tolist(), density), rtol=1e-12)


def test_ties_of_vectors_that_agree_in_sign_is_their_mean():
    vectors = [torch.tensor([1.0, -2.0, 3.0]), torch.tensor([3.0, -4.0, 5.0])]
    assert torch.equal(ties(vectors, [0.0, 0.0]), torch.tensor([2.0, -3.0, 4.0]))
    opposed = [torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-3.0, -2.0, 0.0])]
    assert torch.equal(ties(opposed, [0.0, 0.0]), torch.tensor([-3.0, 0.0, 1.0]))


def test_trimming_keeps_the_share_asked_for_and_at_least_one_element():
    sizes = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
    for density, kept in ((1.0, 100), (0.2, 20), (0.001, 1)):
        assert (sizes >= trim_threshold(sizes.copy(), density)).sum() == kept


def test_dare_keeps_its_share_and_the_expectation():
    vector = torch.randn(40, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = torch.stack([Dropout(0.3, seed=n, name="w", number=0)(vector) for n in range(400)])
    kept = drawn != 0
    # 800,000 draws: the share's standard deviation is 0.0005.
    assert abs(kept.double().mean() - 0.3) < 0.003
    assert torch.allclose(drawn[kept], (vector / 0.3).expand_as(drawn)[kept], rtol=1e-15)
    # One element's mean has a standard deviation of |v| √(0.7 ÷ 0.3 ÷ 400) = 0.076 |v|.
    assert ((drawn.mean(0) - vector).abs() <= 5 * 0.0764 * vector.abs()).all()
    assert torch.equal(Dropout(1.0, seed=0, name="w", number=0)(vector), vector)


def test_dare_drops_by_seed_tensor_and_vector_in_pieces_of_any_size():
    vector = torch.ones(64, 7)

    def drawn(seed=0, name="w", number=0, pieces=(64,)):
        drop = Dropout(0.5, seed=seed, name=name, number=number)
        return torch.cat([drop(part) for part in vector.split(pieces)])

    assert torch.equal(drawn(), drawn(pieces=[1, 30, 33]))
    for other in (drawn(seed=1), drawn(name="v"), drawn(number=1)):
        assert not torch.equal(drawn(), other)


@pytest.fixture
def models(tmp_path):
    """A base, what continued pre-training made of it, and two post-trained siblings."""
    base = save_dense(tmp_path / "base", vocab_size=VOCAB_SIZE)
    trained = post_trained(base, tmp_path / "trained", seed=5, std=0.2)
    post_trained(base, tmp_path / "post")
    post_trained(base, tmp_path / "other", seed=2)
    for name in ("base", "trained", "post", "other"):
        add_tokenizer(tmp_path / name)
    assert trained == tmp_path / "trained"
    return tmp_path


def merge(folder, posts, out, *, trained="trained", base="base", **settings):
    """Tensors of a merge; `posts` are names and scales."""
    dense = open_checkpoint(folder / base)
    found = [delta_of(folder / name, folder / base, scale) for name, scale in posts]
    plan = plan_merge(open_checkpoint(folder / trained), dense, found, **settings)
    (folder / out).mkdir()
    fill_merged(plan, folder / out)
    return tensors(folder / out)


def by_hand(folder, posts, rule, *, language_scale=1.0, density=1.0):
    """The same in NumPy float64, tensor by tensor; DARE has no such reading."""
    base, trained = ({k: v.double() for k, v in tensors(folder / n).items()} for n in NAMES)
    post = {name: tensors(folder / name) for name, _ in posts}
    found = {}
    for name in base:
        vectors = [scale * (post[one][name].double() - base[name]) for one, scale in posts]
        if rule == "add":
            found[name] = trained[name] + sum(vectors)
            continue
        vectors = [language_scale * (trained[name] - base[name]), *vectors]
        if rule == "ties":
            flat = [vector.flatten().tolist() for vector in vectors]
            change = torch.from_numpy(ties_by_hand(flat, density)).view(base[name].shape)
        else:
            change = sum(vectors)
        found[name] = base[name] + change
    return found


NAMES = ("base", "trained")
TWO = [("post", 0.5), ("other", -1.5)]


@pytest.mark.parametrize("rows", [None, 5])
@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("add", {}),
        ("task_arithmetic", {"language_scale": 0.4}),
        ("ties", {"language_scale": 0.4, "density": 0.2}),
        ("ties", {"density": 1.0}),
    ],
)
def test_a_merge_is_the_slow_float64_reading_rounded_once(
    models, rule, settings, rows, monkeypatch
):
    if rows is not None:  # blocks of a few rows
        monkeypatch.setattr(deltas, "_BLOCK_ELEMENTS", 100)
    got = merge(models, TWO, "out", rule=rule, **settings)
    for name, tensor in by_hand(models, TWO, rule, **settings).items():
        assert torch.allclose(got[name].double(), tensor, rtol=2**-23, atol=1e-12), name
        # A last bit may differ where the float64 sums do, in another order of terms.
        assert (got[name] == tensor.float()).double().mean() > 0.999, name


def test_density_one_is_task_arithmetic_and_scales_of_one_are_the_chat_vector(models):
    one = [("post", 1.0)]
    sums = merge(models, one, "sum", rule="task_arithmetic")
    chat = merge(models, one, "chat")
    for name, tensor in merge(models, one, "dare", rule="dare").items():
        assert torch.equal(tensor, sums[name]), name
    # Two orders of the same float64 sum; float32 has 29 bits fewer.
    same = [(sums[name] == tensor).double().mean() for name, tensor in chat.items()]
    assert min(same) > 0.999
    # One vector has nothing to disagree with.
    alone = [("post", 0.7)]
    bare = merge(models, alone, "bare", trained="base", rule="task_arithmetic")
    for name, tensor in merge(models, alone, "t", trained="base", rule="ties").items():
        assert torch.equal(tensor, bare[name]), name


@pytest.mark.parametrize("rule", RULES)
def test_a_zero_delta_is_the_identity(models, rule):
    got = merge(models, [("base", 1.0)], "out", rule=rule)
    for name, tensor in tensors(models / "trained").items():
        assert torch.equal(got[name], tensor), name


def test_dare_repeats_by_its_seed_and_leaves_what_it_drops_at_the_base(models):
    one = [("post", 1.0)]
    first, again, other = (
        merge(models, one, f"dare-{n}", rule="dare", density=0.3, seed=seed)
        for n, seed in enumerate((0, 0, 1))
    )
    base = tensors(models / "base")
    name = "model.layers.0.mlp.down_proj.weight"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[name], other[name])
    untouched = (first[name] == base[name]).double().mean()
    assert abs(untouched - 0.7**2) < 0.05  # both vectors dropped: 1,536 elements, ± 0.013


def test_blocks_of_rows_make_no_difference(models, monkeypatch):
    how = {"ties": {"density": 0.3}, "dare": {"density": 0.3}}
    before = {rule: merge(models, TWO, rule, rule=rule, **more) for rule, more in how.items()}
    monkeypatch.setattr(deltas, "_BLOCK_ELEMENTS", 100)
    for rule, more in how.items():
        after = merge(models, TWO, f"{rule}-blocks", rule=rule, **more)
        assert all(torch.equal(after[name], before[rule][name]) for name in after)


def test_half_precision_is_summed_in_float32_and_rounded_once(tmp_path):
    save_dense(tmp_path / "base", dtype=torch.bfloat16)
    for name, seed in (("trained", 5), ("post", 1)):
        post_trained(tmp_path / "base", tmp_path / name, seed=seed)
    got = merge(tmp_path, [("post", 0.3)], "out")
    base, trained, post = (tensors(tmp_path / name) for name in ("base", "trained", "post"))
    for name, tensor in trained.items():
        expected = tensor.float() + 0.3 * (post[name].float() - base[name].float())
        assert torch.equal(got[name], expected.bfloat16()), name


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
@pytest.mark.parametrize("rows", [120, 136])
@pytest.mark.parametrize("rule", RULES)
def test_the_sibling_may_have_more_or_fewer_padding_rows(tmp_path, family, rows, rule):
    base = save_dense(tmp_path / "base", family)
    post_trained(base, tmp_path / "trained", seed=5)
    model = load(post_trained(base, tmp_path / "post"))
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(tmp_path / "post")
    got = merge(tmp_path, [("post", 1.0)], "out", rule=rule)
    embedding = "model.embed_tokens.weight"
    assert got[embedding].shape[0] == rows
    assert torch.equal(got[embedding][128:], tensors(tmp_path / "post")[embedding][128:])
    config = config_of(tmp_path / "out")
    assert (config["vocab_size"], config["eos_token_id"]) == (rows, 7)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@torch.no_grad()
def test_the_deeper_base_with_the_delta_is_the_deeper_sibling(models):
    for name in ("base", "post"):
        (models / f"{name}-deep").mkdir()
        expand_blocks(open_checkpoint(models / name), models / f"{name}-deep", every=2)
    names = llama_pro_names(open_checkpoint(models / "base"), every=2)
    got = merge(models, [("post", 1.0)], "out", trained="base-deep", base_names=names)
    expected = tensors(models / "post-deep")
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(got[name], tensor, rtol=0, atol=1e-7), name
    # New blocks still hand on what they are given.
    ids = token_ids(2, 12)
    one, other = load(models / "out")(ids).logits, load(models / "post")(ids).logits
    assert torch.allclose(one, other, atol=1e-4 * other.abs().max())


def test_the_record_says_what_was_merged_and_the_sibling_gives_the_tokens(models):
    merge(models, [("post", 0.5)], "out", rule="dare", density=0.3, seed=4)
    record = json.loads((models / "out" / merging.RECORD).read_text())
    assert record["rule"] == "dare"
    assert [one["scale"] for one in record["vectors"]] == [1.0, 0.5]
    assert (record["density"], record["seed"]) == (0.3, 4)
    assert config_of(models / "out")["eos_token_id"] == 7
    assert (models / "out" / "tokenizer.json").exists()


def test_what_does_not_fit_is_refused(models, tmp_path):
    base = open_checkpoint(models / "base")
    delta = open_delta(models / "post", base=base)
    with pytest.raises(GraftError, match="density=0"):
        plan_merge(base, base, [delta], rule="ties", density=0.0)
    with pytest.raises(GraftError, match="choose one of add"):
        plan_merge(base, base, [delta], rule="slerp")
    with pytest.raises(GraftError, match="nothing to merge"):
        plan_merge(base, base, [])
    save_dense(tmp_path / "wide", vocab_size=VOCAB_SIZE, intermediate_size=64)
    with pytest.raises(GraftError, match="was it trained from that base"):
        plan_merge(open_checkpoint(tmp_path / "wide"), base, [delta])
    assert content_hash(base) == delta.base_hash


def test_summed_is_the_sum():
    assert torch.equal(summed([torch.ones(2), 2 * torch.ones(2)]), torch.full((2,), 3.0))
