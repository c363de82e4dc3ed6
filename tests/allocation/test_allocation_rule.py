"""Experts per layer: LayerMoE's rule against its definition, and what it promises."""

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from polycycle.allocation import (
    allocate_experts,
    allocate_export_friendly,
    share_of_uniform,
    with_dense_layers,
)
from polycycle.errors import ConfigError, DataError

# Few decimals, so that ties happen often.
similarities = st.lists(
    st.one_of(
        st.integers(1, 12).map(lambda n: n / 8),
        st.floats(0.01, 1.0, allow_nan=False),
    ),
    min_size=1,
    max_size=12,
)
limits = st.tuples(st.integers(1, 3), st.one_of(st.none(), st.integers(3, 7)))


def by_definition(similarity, delta, low, high):
    """clip(ceil((1/S_i) / Σ(1/S_j) · δ)), in fractions."""
    inverse = [1 / Fraction(s) for s in similarity]
    counts = [math.ceil(one / sum(inverse) * delta) for one in inverse]
    return [min(max(count, low), math.inf if high is None else high) for count in counts]


def largest_by_search(similarity, budget, low, high):
    """The definition at every δ where a count is about to rise; the last one within the budget."""
    inverse = [1 / Fraction(s) for s in similarity]
    rises = {n * Fraction(s) * sum(inverse) for s in similarity for n in range(1, budget + 1)}
    within = [
        counts
        for delta in sorted(rises)
        if sum(counts := by_definition(similarity, delta, low, high)) <= budget
    ]
    return within[-1]


@given(similarities, limits, st.integers(0, 40))
def test_it_is_the_definition_at_the_largest_delta_within_the_budget(similarity, limit, spare):
    low, high = limit
    budget = low * len(similarity) + spare
    plan = allocate_experts(similarity, budget, min_experts=low, max_experts=high)
    assert list(plan.num_experts_per_layer) == largest_by_search(similarity, budget, low, high)


@given(similarities, limits, st.integers(0, 40))
def test_a_larger_delta_would_exceed_the_budget(similarity, limit, spare):
    low, high = limit
    budget = low * len(similarity) + spare
    plan = allocate_experts(similarity, budget, min_experts=low, max_experts=high)
    assert plan.total_experts <= budget
    if plan.delta is None:
        assert set(plan.num_experts_per_layer) == {high}
        assert plan.next_total_experts is None
        return
    # The reported δ is a float: step just above the exact one it stands for.
    above = Fraction(plan.delta) * Fraction(1_000_001, 1_000_000)
    counts = by_definition(similarity, above, low, high)
    assert sum(counts) >= plan.next_total_experts > budget


@given(similarities, limits, st.integers(0, 40))
def test_a_more_similar_layer_never_gets_more_and_an_equal_one_the_same(similarity, limit, spare):
    low, high = limit
    plan = allocate_experts(
        similarity, low * len(similarity) + spare, min_experts=low, max_experts=high
    )
    counts = plan.num_experts_per_layer
    assert all(low <= count <= (high or math.inf) for count in counts)
    for s, n in zip(similarity, counts, strict=True):
        for other_s, other_n in zip(similarity, counts, strict=True):
            assert s < other_s or n <= other_n
            assert s != other_s or n == other_n


@given(similarities, st.integers(0, 40), st.integers(0, 10))
def test_a_larger_budget_takes_no_expert_away(similarity, spare, more):
    budget = 2 * len(similarity) + spare
    less = allocate_experts(similarity, budget).num_experts_per_layer
    with_more = allocate_experts(similarity, budget + more).num_experts_per_layer
    assert all(a <= b for a, b in zip(less, with_more, strict=True))


@given(similarities, st.integers(0, 40), st.sampled_from([0.25, 0.5, 2.0, 1024.0]))
def test_scaling_all_similarities_changes_nothing(similarity, spare, factor):
    budget = 2 * len(similarity) + spare
    plan = allocate_experts(similarity, budget)
    scaled = allocate_experts([factor * s for s in similarity], budget)
    assert scaled.num_experts_per_layer == plan.num_experts_per_layer
    assert scaled.delta == plan.delta


@given(similarities, st.integers(0, 40))
def test_a_large_shift_of_all_similarities_makes_the_layers_nearly_equal(similarity, spare):
    plan = allocate_experts([s + 1000 for s in similarity], 2 * len(similarity) + spare)
    assert max(plan.num_experts_per_layer) - min(plan.num_experts_per_layer) <= 1


@given(similarities, st.integers(0, 40), st.one_of(st.none(), st.integers(2, 7)))
def test_export_friendly_counts_are_one_or_all_the_same(similarity, spare, most):
    budget = len(similarity) + spare
    plan = allocate_export_friendly(similarity, budget, max_experts=most)
    counts = plan.num_experts_per_layer
    assert plan.total_experts <= budget
    assert set(counts) <= {1, plan.max_experts}
    assert most is None or plan.max_experts == most
    for s, n in zip(similarity, counts, strict=True):
        assert all(s < t or n <= m for t, m in zip(similarity, counts, strict=True))
    if plan.next_total_experts is not None:
        assert plan.next_total_experts > budget


# Worked by hand. S = (0.25, 0.5, 1): 1/S = (4, 2, 1), w = (4, 2, 1)/7, and layers step after
# t = n·S: layer 0 at 0.25, 0.5, 0.75, 1 …, layer 1 at 0.5, 1, 1.5 …, layer 2 at 1, 2 …
# From (2, 2, 2), with the others still below the minimum of 2: layer 0 at 0.5 and 0.75, then at 1
# layers 0 and 1 together, then layer 0 at 1.25, and so on.
@pytest.mark.parametrize(
    ("budget", "counts", "delta", "next_total"),
    [
        (6, (2, 2, 2), 3.5, 7),
        (7, (3, 2, 2), 5.25, 8),
        (8, (4, 2, 2), 7.0, 10),
        (9, (4, 2, 2), 7.0, 10),  # layers 0 and 1 step together: 9 cannot be met
        (10, (5, 3, 2), 8.75, 11),
        (11, (6, 3, 2), 10.5, 13),
    ],
)
def test_an_example_worked_by_hand(budget, counts, delta, next_total):
    plan = allocate_experts([0.25, 0.5, 1.0], budget)
    assert plan.num_experts_per_layer == counts
    assert plan.delta == delta
    assert plan.next_total_experts == next_total
    assert plan.meets_budget == (sum(counts) == budget)


def test_without_a_minimum_the_most_similar_layer_stays_dense():
    # δ = 3.5 gives ceil(2, 1, 0.5): the largest for 4, as layers 0 and 1 step together after it.
    plan = allocate_experts([0.25, 0.5, 1.0], 5, min_experts=1)
    assert plan.num_experts_per_layer == (2, 1, 1)
    assert plan.delta == 3.5
    assert not plan.meets_budget
    assert plan.next_total_experts == 6


def test_with_a_maximum_the_rest_of_the_budget_goes_to_the_other_layers():
    plan = allocate_experts([0.25, 0.5, 1.0], 9, max_experts=3)
    assert plan.num_experts_per_layer == (3, 3, 3)
    assert plan.delta is None
    assert plan.meets_budget
    assert not allocate_experts([0.25, 0.5, 1.0], 10, max_experts=3).meets_budget


def test_equally_similar_layers_share_the_published_totals_evenly():
    """Qwen1.5-1.8B: 72 over 24 layers. Llama-3.2-3B: 84 over 28 layers."""
    assert allocate_experts([0.4] * 24, 72).num_experts_per_layer == (3,) * 24
    assert allocate_experts([0.4] * 28, 84).num_experts_per_layer == (3,) * 28
    # δ is a multiple of L there, and 85 would need 28 more.
    uneven = allocate_experts([0.4] * 28, 85)
    assert (uneven.total_experts, uneven.next_total_experts) == (84, 112)
    assert uneven.delta == pytest.approx(84)


def test_sixty_percent_fewer_is_what_the_paper_counts():
    """24 layers with 6 experts have 120 new ones; 40 % are 48, and 72 experts in all."""
    assert share_of_uniform(0.4, num_layers=24, num_experts=6) == 72
    assert share_of_uniform(0.29, num_layers=20, num_experts=6) == 20 + 29
    assert share_of_uniform(1.5, num_layers=24, num_experts=6) == 24 + 180


def test_export_friendly_worked_by_hand():
    # The plain rule for 8 gives (4, 3, 1): E = 4, and 3 + 3 = 6 fits once, 9 would not.
    plan = allocate_export_friendly([0.25, 0.5, 1.0], 8)
    assert plan.num_experts_per_layer == (4, 1, 1)
    assert (plan.max_experts, plan.next_total_experts) == (4, 9)
    two = allocate_export_friendly([0.25, 0.5, 1.0], 8, max_experts=3)
    assert two.num_experts_per_layer == (3, 3, 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -0.1])
def test_a_similarity_that_means_nothing_is_refused(bad):
    with pytest.raises(DataError, match="layer 1"):
        allocate_experts([0.5, bad], 8)
    with pytest.raises(DataError, match="layer 1"):
        allocate_export_friendly([0.5, bad], 8)


def test_impossible_wishes_are_refused_with_what_to_type():
    with pytest.raises(ConfigError, match=r"--total-experts 6 \(or --new-experts 3\)"):
        allocate_experts([0.5] * 3, 5)
    with pytest.raises(ConfigError, match="--min-experts 0"):
        allocate_experts([0.5] * 3, 9, min_experts=0)
    with pytest.raises(ConfigError, match="--max-experts 4"):
        allocate_experts([0.5] * 3, 12, min_experts=4, max_experts=3)
    with pytest.raises(ConfigError, match="--share-of-uniform"):
        share_of_uniform(0, num_layers=3, num_experts=6)
    with pytest.raises(ConfigError, match="--num-experts 1"):
        share_of_uniform(0.4, num_layers=3, num_experts=1)
    with pytest.raises(DataError, match="no similarities"):
        allocate_experts([], 8)


@given(similarities, st.integers(1, 30))
def test_the_plan_says_in_json_what_it_says_in_python(similarity, spare):
    assume(len(similarity) > 1)
    plan = allocate_experts(similarity, 2 * len(similarity) + spare)
    said = plan.to_json()
    assert next(iter(said)) == "num_experts_per_layer"
    assert said["new_experts"] == said["total_experts"] - len(similarity)
    assert said["meets_budget"] == (said["total_experts"] == said["budget_experts"])


def test_dense_layers_leave_the_budget_to_the_others():
    similarity = [-0.2, 0.4, 0.2, 0.1]  # what a dense layer's similarity is does not matter
    plan = with_dense_layers([0], similarity, 12, allocate_experts)
    others = allocate_experts(similarity[1:], 11)
    assert plan.num_experts_per_layer == (1, *others.num_experts_per_layer)
    assert (plan.budget_experts, plan.meets_budget) == (12, True)
    assert plan.next_total_experts == others.next_total_experts + 1
    assert plan.similarity == tuple(similarity)
    assert with_dense_layers([], similarity[1:], 11, allocate_experts) == others
    both = with_dense_layers([0, 2], similarity, 8, allocate_export_friendly)
    assert both.num_experts_per_layer == (1, 1, 1, 4)  # a fifth would come with a tie


@pytest.mark.parametrize(
    ("dense", "message"),
    [([4], "no layer 4; choose among 0 to 2"), ([-1], "no layer -1"), ([0, 1, 2], "no layer is")],
)
def test_dense_layers_that_leave_nothing_are_refused(dense, message):
    with pytest.raises(ConfigError, match=message):
        with_dense_layers(dense, [0.1, 0.2, 0.3], 9, allocate_experts)


def test_a_similarity_that_says_nothing_is_named_by_its_own_layer():
    with pytest.raises(DataError, match=r"layer 2: similarity -0\.1.*--dense-layers"):
        with_dense_layers([0], [0.3, 0.2, -0.1], 9, allocate_experts)
