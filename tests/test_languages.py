"""Who is original and who is expanded."""

import pytest

from polycycle.languages import LanguageGroups, languages_by_group

GROUPS = LanguageGroups(original=("en",), unseen_original=("es",), expanded=(("el", "tr"), ("hu",)))


def test_recorded_groups_are_read_as_they_were():
    assert LanguageGroups.recorded(GROUPS.record()) == GROUPS
    assert languages_by_group(GROUPS.record()) == [["en"], ["el", "tr"], ["hu"]]


@pytest.mark.parametrize("record", [None, {}])
def test_nothing_recorded_is_no_language(record):
    assert LanguageGroups.recorded(record).all == ()
    assert languages_by_group(record) == [[]]


def test_what_a_record_leaves_out_is_empty():
    assert LanguageGroups.recorded({"expanded": [["el"]]}).all == ("el",)
