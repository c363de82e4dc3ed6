"""Benchmark scores in a result: whose they are, and when two can be compared."""

import pytest

from polycycle.errors import PolycycleError
from polycycle.results import (
    BENCHMARKS,
    benchmark_change,
    benchmarks_of,
    load_benchmarks,
    load_result,
    save_benchmarks,
    save_result,
    with_benchmarks,
)
from tests.results.example import benchmark_result, benchmark_score, example_result


def measured(tmp_path, **hashes):
    """An example with a base at 40 and a final model at 50 of 100 in two languages."""
    result = example_result()
    models = tuple(
        model.model_copy(update={"content_hash": f"{model.name}-hash"}) for model in result.models
    )
    result = result.model_copy(update={"models": models})
    for name, value in (("base", 0.4), ("review", 0.5)):
        scores = [
            benchmark_score(language=tag, value=value, prompts_hash=hashes.get(name, "same"))
            for tag in ("en", "el")
        ]
        found = benchmark_result(scores, content_hash=f"{name}-hash")
        save_benchmarks(found, tmp_path / BENCHMARKS / f"{name}.json")
    return with_benchmarks(result, tmp_path)


def test_gain_is_in_points_and_retention_a_share_of_the_reference(tmp_path):
    result = measured(tmp_path)
    change = benchmark_change(result, "review", "belebele", "el")
    assert change.gain == pytest.approx(10)
    assert change.retention == pytest.approx(1.25)
    assert benchmarks_of(result) == ("belebele",)


def test_models_that_were_asked_different_prompts_are_not_compared(tmp_path):
    result = measured(tmp_path, base="other")
    assert benchmark_change(result, "review", "belebele", "el") is None


def test_a_language_that_was_not_measured_has_no_change(tmp_path):
    assert benchmark_change(measured(tmp_path), "review", "belebele", "tr") is None


def test_scores_of_other_weights_are_left_out(tmp_path):
    measured(tmp_path)
    result = with_benchmarks(example_result(), tmp_path)  # the same names, other hashes
    assert all(model.benchmarks is None for model in result.models)


def test_scores_survive_the_result_file(tmp_path):
    result = measured(tmp_path)
    assert load_result(save_result(result, tmp_path / "result.json")) == result


def test_a_file_that_is_not_ours_is_named(tmp_path):
    (tmp_path / "base.json").write_text('{"scores": []}')
    with pytest.raises(PolycycleError, match=r"base\.json: not a polycycle benchmark result"):
        load_benchmarks(tmp_path / "base.json")
