"""Retention and gain: the formulas, worked by hand."""

import pytest

from polycycle.languages import LanguageGroups
from polycycle.results import (
    average,
    average_gain,
    average_retention,
    average_value,
    gain,
    groups_of,
    measure_of,
    measure_of_run,
    retention,
)
from tests.results.example import example_result


def _with_scores(model_number, language, **change):
    result = example_result()
    model = result.models[model_number]
    scores = {**model.scores, language: model.scores[language].model_copy(update=change)}
    models = list(result.models)
    models[model_number] = model.model_copy(update={"scores": scores})
    return result.model_copy(update={"models": tuple(models)})


def test_with_questions_retention_is_accuracy_over_base_accuracy():
    result = _with_scores(2, "en", accuracy=0.447)
    assert measure_of(result, "review", "en") == "accuracy"
    assert retention(result, "review", "en") == pytest.approx(0.447 / 0.894)


def test_without_questions_retention_is_base_bits_over_bits():
    result = _with_scores(2, "en", accuracy=None, questions=None, bits_per_byte=0.89)
    assert measure_of(result, "review", "en") == "bits_per_byte"
    assert retention(result, "review", "en") == pytest.approx(0.712 / 0.89)


def test_a_base_that_answers_nothing_has_no_retention():
    assert retention(_with_scores(0, "en", accuracy=0.0), "review", "en") is None


def test_gain_is_points_of_accuracy_or_bits_saved_and_better_is_above_zero():
    result = _with_scores(2, "el", accuracy=0.783, bits_per_byte=0.862)
    assert gain(result, "review", "el") == pytest.approx(50.0)
    assert gain(result, "review", "el", by="bits_per_byte") == pytest.approx(1.0)


def test_a_language_that_was_not_measured_has_neither():
    result = example_result()
    assert retention(result, "review", "sv") is None
    assert gain(result, "review", "sv") is None


def test_the_base_keeps_all_of_itself_and_gains_nothing():
    result = example_result()
    assert retention(result, "base", "zh") == 1.0
    assert gain(result, "base", "zh") == 0.0


def test_every_language_counts_the_same_in_an_average():
    result = example_result()
    tags = ("el", "hu")
    assert average_value(result, "base", tags, by="accuracy") == pytest.approx(0.292)
    assert average_gain(result, "review", tags, by="accuracy") == pytest.approx(
        (gain(result, "review", "el") + gain(result, "review", "hu")) / 2
    )
    assert average_retention(result, "base", tags) == 1.0


def test_what_is_missing_is_left_out_of_an_average():
    assert average((None, 1.0, 3.0)) == 2.0
    assert average((None,)) is None


def test_a_run_is_measured_by_accuracy_only_when_every_language_has_questions():
    assert measure_of_run(example_result()) == "accuracy"
    assert measure_of_run(_with_scores(1, "fr", accuracy=None)) == "bits_per_byte"
    assert measure_of_run(example_result(with_questions=False)) == "bits_per_byte"


def test_groups_come_in_order_and_empty_ones_are_left_out():
    assert [group.key for group in groups_of(example_result())] == [
        "original",
        "unseen_original",
        "expanded",
    ]
    languages = LanguageGroups(original=("en",), expanded=(("el",), ("bn", "hi")))
    found = groups_of(example_result(languages=languages))
    assert [group.key for group in found] == ["original", "g1", "g2"]
    assert [group.is_expanded for group in found] == [False, True, True]
    assert found[2].languages == ("bn", "hi")
