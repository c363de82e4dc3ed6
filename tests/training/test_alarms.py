"""Each alarm is provoked, and stays silent just short of its threshold."""

import json

import pytest
import torch

from polycycle.evaluation import usage_entropy
from polycycle.languages import LanguageGroups
from polycycle.training.alarms import Alarms
from polycycle.training.monitor import StepRouting
from polycycle.training.settings import AlarmSettings
from tests.training.tiny_run import GROUPS

BASE = {"en": 1.0, "fr": 2.0, "el": 3.0, "tr": 3.0}


def alarms(total_steps=100, **settings):
    return Alarms(AlarmSettings(**settings), GROUPS, BASE, total_steps)


def kinds(raised):
    return [alarm.kind for alarm in raised]


def test_forgetting_needs_two_bad_validations_in_a_row():
    watch = alarms()
    bad, good = {"en": 1.03, "fr": 2.06}, {"en": 1.0, "fr": 2.0}
    assert [kinds(watch.after_validation(s, v)) for s, v in enumerate((bad, good, bad, bad))] == [
        [],
        [],
        [],
        ["forgetting"],
    ]
    assert "1.030" in watch.raised[0].message


def test_forgetting_is_silent_within_its_ratio():
    watch = alarms()
    for step in range(4):
        assert watch.after_validation(step, {"en": 1.019, "fr": 2.038}) == []


LATER = LanguageGroups(original=("en",), expanded=(("el", "tr"), ("bn",)))


def test_earlier_groups_are_to_be_kept_while_a_later_one_trains():
    watch = Alarms(AlarmSettings(), LATER, {"en": 1.0, "el": 2.0, "tr": 2.0}, 100)
    worse = {"en": 1.0, "el": 2.0, "tr": 2.2, "bn": 3.0}
    assert watch.after_validation(10, worse) == []
    (alarm,) = watch.after_validation(20, worse)
    assert alarm.kind == "forgetting"
    assert "earlier group G1 (el, tr) need 1.050 ×" in alarm.message
    assert "model before this group" in alarm.message
    # Said once; the original languages are watched apart.
    assert watch.after_validation(30, worse) == []
    watch.after_validation(40, {**worse, "en": 1.1})
    assert ["original" in one.message for one in watch.after_validation(50, {"en": 1.1})] == [True]


def test_only_the_newest_group_is_to_learn():
    watch = Alarms(AlarmSettings(forgetting_ratio=None), LATER, {}, 100)
    for step, bn in ((80, 3.0), (100, 2.0)):
        assert watch.after_validation(step, {"el": 2.0, "tr": 2.0, "bn": bn}) == []


def test_a_resume_remembers_what_was_worse():
    bad = {"en": 1.03, "fr": 2.06}
    first, second = alarms(), alarms()
    assert first.after_validation(0, bad) == []
    second.load_state(json.loads(json.dumps(first.state())))
    assert kinds(second.after_validation(1, bad)) == ["forgetting"]


@pytest.mark.parametrize(("last", "raised"), [(2.0, ["plateau"]), (1.995, ["plateau"]), (1.98, [])])
def test_plateau_compares_the_end_with_a_fifth_before_it(last, raised):
    watch = alarms()
    for step, value in ((20, 2.5), (80, 2.0), (90, 1.9)):
        assert watch.after_validation(step, {"el": value, "tr": value}) == []
    assert kinds(watch.after_validation(100, {"el": last, "tr": last})) == raised


@pytest.mark.parametrize(
    ("usage", "words"),
    [
        ([0.92, 0.03, 0.03, 0.02], "takes 92%"),
        ([0.4, 0.3, 0.3, 0.0], "takes 0.00%"),
        ([0.9, 0.09, 0.005, 0.005], "usage entropy"),
    ],
)
def test_collapse_is_raised_after_its_patience_and_once(usage, words):
    watch = alarms(patience_steps=5, dead_share=0.001)
    routing = StepRouting([torch.tensor(usage)], [7])
    seen = [kinds(watch.after_step(step, routing)) for step in range(12)]
    assert seen[:4] == [[]] * 4
    assert "collapse" in seen[4]
    assert all(not later for later in seen[5:])
    assert any(words in alarm.message and "layer 7" in alarm.message for alarm in watch.raised)


def test_a_single_even_step_ends_a_streak():
    watch = alarms(patience_steps=3)
    lopsided, even = (StepRouting([torch.tensor(u)], [0]) for u in ([1.0, 0.0], [0.5, 0.5]))
    for step, routing in enumerate((lopsided, lopsided, even, lopsided, lopsided)):
        assert watch.after_step(step, routing) == []


def test_alarms_that_are_turned_off_are_silent():
    off = {"forgetting_ratio": None, "plateau_ratio": None, "collapse_share": None}
    watch = alarms(**off, dead_share=None, usage_entropy=None, patience_steps=1)
    assert watch.after_step(1, StepRouting([torch.tensor([1.0, 0.0])], [0])) == []
    assert watch.after_validation(1, {"en": 9.0, "el": 9.0}) == []
    assert watch.after_validation(100, {"en": 9.0, "el": 9.0}) == []


def test_state_carries_streaks_over_a_resume():
    first = alarms(patience_steps=3)
    lopsided = StepRouting([torch.tensor([1.0, 0.0])], [0])
    first.after_step(0, lopsided)
    first.after_step(1, lopsided)
    second = alarms(patience_steps=3)
    second.load_state(first.state())
    assert "collapse" in kinds(second.after_step(2, lopsided))


def test_usage_entropy_is_one_when_even_and_zero_when_one_expert_takes_all():
    assert usage_entropy(torch.full((6,), 1 / 6)) == pytest.approx(1.0)
    assert usage_entropy(torch.tensor([1.0, 0, 0])) == 0.0
