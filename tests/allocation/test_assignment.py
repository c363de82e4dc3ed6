"""Whose a group's new experts are: in order, in proportion, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polycycle.allocation import assign_experts
from polycycle.errors import ConfigError

EL, HU, TR = ("el",), ("hu",), ("tr",)


def test_experts_are_given_in_the_order_of_listing_where_counts_fit():
    found = assign_experts({EL: 2, HU: 2, TR: 1}, [5, 0, 5], is_exact=True)
    assert found == ((EL, EL, HU, HU, TR), (), (EL, EL, HU, HU, TR))


def test_several_languages_may_share_experts():
    found = assign_experts({EL: 1, ("hu", "tr"): 2}, [3], is_exact=True)
    assert found == ((EL, ("hu", "tr"), ("hu", "tr")),)


def test_unequal_layers_get_shares_and_too_small_ones_stay_open_to_all():
    found = assign_experts({EL: 2, HU: 2, TR: 1}, [10, 3, 2, 0, 4], is_exact=False)
    assert found == (
        (EL,) * 4 + (HU,) * 4 + (TR,) * 2,
        (EL, HU, TR),
        ((), ()),
        (),
        (EL, EL, HU, TR),
    )


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5))
def test_scaling_by_a_whole_number_is_exact_and_scaling_leaves_nobody_out(counts, factor):
    shares = {(f"l{index}",): count for index, count in enumerate(counts)}
    total = sum(counts)
    (whole, some) = assign_experts(shares, [factor * total, total], is_exact=False)
    assert [whole.count(tags) for tags in shares] == [factor * count for count in counts]
    assert [some.count(tags) for tags in shares] == counts
    for num_new in range(len(counts), total):
        (fewer,) = assign_experts(shares, [num_new], is_exact=False)
        assert len(fewer) == num_new
        assert set(fewer) == set(shares)


@pytest.mark.parametrize("count", [4, 6])
def test_counts_that_do_not_fit_name_the_layer_and_what_was_got_and_expected(count):
    with pytest.raises(ConfigError) as caught:
        assign_experts({EL: 2, HU: 2, TR: 1}, [0, count], is_exact=True)
    assert f"layer 1 gets {count} new experts, but el: 2, hu: 2, tr: 1 add up to 5" in str(
        caught.value
    )
    assert "experts.num_experts: 6" in str(caught.value)


def test_an_assignment_that_no_layer_can_follow_is_refused():
    with pytest.raises(ConfigError, match=r"3 entries .* layer 1 has the most new ones, 2"):
        assign_experts({EL: 2, HU: 2, TR: 1}, [1, 2], is_exact=False)
