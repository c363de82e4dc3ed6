"""The page of a comparison: what was compared, who wins where, by how much, and from where."""

import re
from dataclasses import replace

import pytest
from rich.console import Console

from polycycle.comparison import (
    compare,
    comparison_page,
    comparison_table,
    measure_speeds,
    plan_cells,
)
from polycycle.comparison.ground import common_ground
from polycycle.comparison.wording import pareto_front, sentences
from tests.comparison.test_deltamoe_study import asked_for, finish
from tests.results.example import example_result, example_with_benchmarks


def with_bits(result, factor, *, group):
    """The example, with a final model of other bits per byte in the languages of a group."""
    scores = {
        tag: one.model_copy(
            update={"bits_per_byte": one.bits_per_byte * (factor if one.group == group else 1)}
        )
        for tag, one in result.final.scores.items()
    }
    final = result.final.model_copy(update={"scores": scores})
    return result.model_copy(update={"models": (*result.models[:-1], final)})


def finished(tmp_path, change=lambda result, cell: result, *, with_questions=False):
    asked = asked_for(tmp_path)
    cells = plan_cells(asked)
    for cell in cells:
        if cell.of is None:
            result = example_result(with_questions=with_questions, seed=cell.seed)
            finish(cell, change(result, cell))
    return asked, cells


def _with_benchmarks(model):
    return model.model_copy(update={"benchmarks": example_with_benchmarks().final.benchmarks})


def test_a_sentence_says_by_how_much_and_whether_that_is_noise(tmp_path):
    def better(result, cell):
        return with_bits(result, 0.9 + 0.001 * cell.seed, group=1) if cell.name == "six" else result

    asked, cells = finished(tmp_path, better)
    asked = asked.model_copy(update={"reference": "two"})
    found = compare(asked, cells)
    six = next(row for row in found.rows if row.cell == "six")
    by = six.differences["gain"]
    assert by.seeds == 2
    assert by.mean > 0
    said = sentences(found)[0]
    assert f", +{by.mean:.3f} ± {by.deviation:.3f} against two (more than the noise" in said
    assert "gain" not in next(row for row in found.rows if row.cell == "two").differences


def test_a_reference_that_wins_is_compared_with_the_next_best(tmp_path):
    def worse(result, cell):  # six keeps clearly less; gains differ by seed, either way
        if cell.name == "six":
            result = with_bits(result, 1.05 + 0.001 * cell.seed, group=0)
            result = with_bits(result, (1.02, 0.99)[cell.seed], group=1)
        return result

    asked, cells = finished(tmp_path, worse)
    asked = asked.model_copy(update={"reference": "two"})
    found = compare(asked, cells)
    by = next(row for row in found.rows if row.cell == "six").differences
    gained, kept, *_ = sentences(found)
    assert gained.startswith("two gains most")
    words = f"(the reference), +{-by['gain'].mean:.3f} ± {by['gain'].deviation:.3f} against the "
    assert gained.endswith(f"{words}next best, six (not distinguishable by these seeds).")
    words = f"(the reference), +{-100 * by['kept'].mean:.1f} ± {100 * by['kept'].deviation:.1f} "
    words += "points against the next best, six (more than the noise between seeds)."
    assert kept.endswith(words)
    found = compare(asked, [cell for cell in cells if cell.seed == 0])
    assert sentences(found)[1].endswith("against the next best, six (one seed: noise unknown).")


def test_the_best_is_compared_with_the_reference_and_with_the_next_best(tmp_path):
    asked = asked_for(tmp_path, cells={"a": None, "b": {"review.tokens": 7}, "c": {"seeds": [0]}})
    cells = plan_cells(asked)
    for cell in cells:
        factor = {"a": 1.0, "b": 0.9, "c": 0.95}[cell.name] + 0.001 * cell.seed
        finish(cell, with_bits(example_result(with_questions=False), factor, group=1))
    said = sentences(compare(asked, cells))[0]
    assert said.startswith("b gains most")
    assert " against a (more than the noise between seeds), +" in said
    assert said.endswith(" against the next best, c (one seed: noise unknown).")
    said = sentences(compare(asked, [cell for cell in cells if cell.seed == 0]))[0]
    assert " against a, +" in said  # the same of both
    assert said.endswith(" against the next best, c (one seed: noise unknown).")


def test_a_winner_without_a_rival_is_alone(tmp_path):
    asked = asked_for(tmp_path, cells={"a": None, "later": {"seeds": [7]}})
    cells = plan_cells(asked)
    for cell in cells:
        if cell.name == "a":
            finish(cell, example_result(with_questions=False))
    assert sentences(compare(asked, cells))[0].endswith("bits per byte saved (the reference).")
    finish(cells[-1], with_bits(example_result(with_questions=False), 0.9, group=1))
    assert sentences(compare(asked, cells))[0].endswith(", no seed in common with a.")


def test_the_front_holds_whom_nobody_beats_in_both(tmp_path):
    def change(result, cell):  # six learns less and keeps less
        if cell.name == "six":
            result = with_bits(with_bits(result, 1.1, group=1), 1.05, group=0)
        return result

    found = compare(*finished(tmp_path, change))
    assert [row.cell for row in pareto_front(found.rows)] == ["base", "two"]
    said = "By means, no variant both gains and keeps more than these: two."
    assert said in sentences(found)
    assert not any(sentence.startswith("Base ") for sentence in sentences(found))


def test_nobody_wins_where_variants_differ_in_languages(tmp_path):
    def change(result, cell):
        if cell.name != "six":
            return result
        fewer = replace(result.languages, unseen_original=())
        return result.model_copy(update={"languages": fewer})

    found = compare(*finished(tmp_path, change))
    (said,) = sentences(found)
    assert "none of them wins" in said
    assert "Not all runs of one seed have the same languages." in found.ground.differences


def test_the_same_languages_in_groups_are_the_same_task(tmp_path):
    def in_groups(result, cell):
        if cell.name != "six":
            return result
        tags = result.languages.expanded[0]
        groups = replace(result.languages, expanded=(tags[3:], tags[:3]))
        return result.model_copy(update={"languages": groups})

    found = compare(*finished(tmp_path, in_groups))
    assert found.ground.differences == ()
    assert found.saved[-2:] == ["saved/Expanded, group 1", "saved/Expanded, group 2"]
    two, six = (row.figures for row in found.rows[1:])
    assert six["saved/Expanded"].mean == pytest.approx(two["saved/Expanded"].mean)
    assert six["saved/Expanded, group 1"].mean != pytest.approx(six["saved/Expanded"].mean)


def test_every_language_is_shown_with_what_it_gained_or_kept(tmp_path):
    found = compare(*finished(tmp_path))
    result = example_result(with_questions=False)
    tags = {key.split("/")[1] for key in found.languages}
    assert tags == set(result.languages.all)
    row = next(row for row in found.rows if row.cell == "two")
    base, final = (
        result.model(name).scores["el"].bits_per_byte for name in ("base", result.final.name)
    )
    assert row.figures["gain/el"].mean == pytest.approx(base - final)
    assert row.figures["kept/en"].mean > 0.9
    assert "Language by language" in comparison_page(found)


def test_bits_saved_stand_beside_the_questions(tmp_path):
    def fewer(result, cell):
        return with_bits(result, 0.5, group=1) if cell.name == "six" else result

    asked, cells = finished(tmp_path, fewer, with_questions=True)
    found = compare(asked, cells)
    assert found.measure == "accuracy"
    assert found.saved == ["saved/Original", "saved/Unseen original", "saved/Expanded"]
    two, six = (row.figures for row in found.rows[1:])
    final, base = example_result().final, example_result().models[0]
    tags = example_result().languages.expanded[0]
    ratios = [final.scores[tag].bits_per_byte / base.scores[tag].bits_per_byte for tag in tags]
    assert two["saved/Expanded"].mean == pytest.approx(1 - sum(ratios) / len(ratios))
    assert six["saved/el"].mean == pytest.approx(1 - ratios[0] / 2)
    assert six["saved/Expanded"].mean == pytest.approx(1 - sum(ratios) / len(ratios) / 2)
    assert found.rows[2].against_reference["saved/Expanded"] != "one seed"
    assert found.rows[0].figures["saved/Expanded"].mean == 0  # the base's own
    page = comparison_page(found)
    table = page[page.index("Share of the base") :]
    assert f"+{100 * six['saved/Expanded'].mean:.1f} ± 0.0 %" in table


def test_benchmarks_are_columns(tmp_path):
    benchmarks = example_with_benchmarks().final.benchmarks
    models = example_with_benchmarks().models
    found = compare(*finished(tmp_path, lambda r, cell: r.model_copy(update={"models": models})))
    name = benchmarks.scores[0].benchmark
    columns = [one for one in found.answers if one.task == name]
    assert {one.what for one in columns} == {"score"}
    expanded = next(one for one in columns if one.group == "Expanded")
    tags = example_result().languages.expanded[0]
    of_name = [s for s in benchmarks.scores if s.benchmark == name and s.language in tags]
    values = [one.value if one.is_share else one.value / 100 for one in of_name]
    assert found.rows[1].figures[expanded.key].mean == pytest.approx(sum(values) / len(values))
    assert found.rows[0].figures[expanded.key].mean < found.rows[1].figures[expanded.key].mean
    assert f"scores best in {name}, expanded" in comparison_page(found)


def test_numbers_lead_to_their_run(tmp_path):
    asked, cells = finished(tmp_path)
    (cells[1].folder / "report").mkdir()
    (cells[1].folder / "report" / "report.html").write_text("<p>")
    page = comparison_page(compare(asked, cells))
    links = re.findall(r'href="([^"]+)"', page)
    assert "two/seed-0/report/report.html" in links
    assert "two/seed-0/result.json" in links
    assert "two/seed-0.yaml" in links
    assert all((asked.output / link).exists() for link in links)


def test_the_page_says_what_was_compared(tmp_path):
    found = compare(*finished(tmp_path))
    facts = dict(found.ground.facts)
    assert facts["Recipe"] == "demo"
    assert facts["Base"] == "dense-1b"
    assert facts["Variants × seeds"] == "2 × 2, 4 runs"
    assert facts["Tokens trained on"] == "150.7 M in each run"
    assert found.ground.differences == ()
    assert "What was compared" in comparison_page(found)
    assert found.to_json()["compared"]["facts"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda result: {
                "models": (
                    result.models[0].model_copy(update={"content_hash": "0" * 64}),
                    *result.models[1:],
                )
            },
            "the same base",
        ),
        (lambda result: {"data": result.data[:-1]}, "the same held-out text"),
        (lambda result: {"costs": result.costs[:2]}, "equally many tokens"),
        (
            lambda result: {
                "environment": result.environment.model_copy(update={"gpu": None}),
            },
            "the same machine",
        ),
        (
            lambda result: {
                "environment": result.environment.model_copy(update={"runs_at_once": 15}),
            },
            "1 to 15 runs were made at once, so times say little",
        ),
        (
            lambda result: {"models": (*result.models[:-1], _with_benchmarks(result.final))},
            "the same benchmarks, with the same prompts",
        ),
    ],
)
def test_what_is_not_the_same_is_said(tmp_path, change, words):
    def other(result, cell):
        return result.model_copy(update=change(result)) if cell.name == "six" else result

    found = compare(*finished(tmp_path, other))
    assert len(found.ground.differences) == 1
    assert words in found.ground.differences[0]
    assert found.ground.differences[0] in comparison_page(found)


def test_one_benchmark_that_counts_two_things_is_said(tmp_path):
    def measured(result, cell):
        final = _with_benchmarks(result.final)
        score, *others = final.benchmarks.scores
        if cell.name == "six":  # with --comet
            metrics = {**score.metrics, "comet": 80.0}
            score = score.model_copy(update={"metrics": metrics, "metric": "comet"})
        benchmarks = final.benchmarks.model_copy(update={"scores": (score, *others)})
        final = final.model_copy(update={"benchmarks": benchmarks})
        return result.model_copy(update={"models": (*result.models[:-1], final)})

    (said,) = compare(*finished(tmp_path, measured)).ground.differences
    assert "the same benchmarks, with the same prompts and metrics" in said


def test_variants_that_show_a_model_before_the_end_were_trained_on_fewer_tokens(tmp_path):
    asked = asked_for(
        tmp_path,
        cells={
            "base": {"of": "two", "model": "base"},
            "early": {"of": "two", "model": "post-pretrain", "title": "No review"},
            "two": None,
            "six": {"experts.num_experts": 6},
        },
    )
    cells = plan_cells(asked)
    for cell in cells:
        if cell.of is None:
            finish(cell, example_result(with_questions=False))
    assert compare(asked, cells).ground.differences == (
        "Not all variants were trained on equally many tokens: 150.7 M, but 131.1 M for No review.",
    )


def test_many_that_were_trained_on_other_tokens_are_a_range():
    by_title = {str(number): [1_000_000 * number] for number in range(1, 10)}
    found = common_ground({("a", 0): example_result()}, tokens_by_title=by_title)
    assert found.differences == (
        "Not all variants were trained on equally many tokens: 1.0 M to 9.0 M.",
    )


def test_a_default_that_changed_since_a_run_is_said(tmp_path):
    def older(result, cell):
        of_then = {"name": "then", "output": "elsewhere", "reuse": ["another/run"]}
        recipe = cell.recipe.model_dump(mode="json") | of_then
        del recipe["seed"]  # as if that setting were new
        if cell.name == "six":
            recipe["review"] = {**recipe["review"], "prior_form": "paper"}
        return result.model_copy(update={"recipe": recipe})

    found = compare(*finished(tmp_path, older))
    assert found.ground.changed_defaults == (
        'review.prior_form was "paper" when 2 of 4 runs were made; its default is "group" now. '
        "Delete a run's folder to make it anew.",
    )
    assert "was &#34;paper&#34; when 2 of 4 runs were made" in comparison_page(found)
    console = Console(width=200, record=True)
    console.print(comparison_table(found))
    assert 'was "paper" when 2 of 4 runs were made' in console.export_text()


def test_a_study_of_which_nothing_is_run_has_a_page(tmp_path):
    asked = asked_for(tmp_path)
    assert "Nothing has been run yet" in comparison_page(compare(asked, plan_cells(asked)))


def test_costs_are_those_of_the_run_and_drawn_where_they_differ(tmp_path):
    def change(result, cell, larger=1.5):
        factor = larger if cell.name == "six" else 1.0
        costs = tuple(
            one.model_copy(
                update={
                    "training_flops": factor * (number + 1),
                    "peak_memory_bytes": 1000 - number,  # the first stage needs most
                }
            )
            for number, one in enumerate(result.costs)
        )
        size = int(factor * result.final.parameters_total)
        final = result.final.model_copy(update={"parameters_total": size})
        return result.model_copy(update={"costs": costs, "models": (*result.models[:-1], final)})

    found = compare(*finished(tmp_path, change))
    figures = next(row for row in found.rows if row.cell == "two").figures
    result = example_result(with_questions=False)
    wanted = {
        "parameters_total": result.final.parameters_total,
        "parameters_active": result.final.parameters_active,
        "parameters_trainable": max(cost.parameters_trainable for cost in result.costs),
        "training_flops": sum(range(len(result.costs) + 1)),
        "peak_memory_bytes": 1000,
    }
    assert {key: figures[key].mean for key in wanted} == wanted
    page = comparison_page(found)
    for title in ("Gain against training", "Gain against size"):
        assert page.count(f'aria-label="{title}"') == 1
        assert f"{title} is not drawn" not in page
    (tmp_path / "alike").mkdir()
    alike = finished(tmp_path / "alike", lambda result, cell: change(result, cell, larger=1.0))
    page = comparison_page(compare(*alike))
    assert 'aria-label="Gain against training"' not in page
    assert "Gain against training is not drawn" in page


def test_a_cell_that_failed_is_shown_with_what_it_said_last(tmp_path):
    asked = asked_for(tmp_path, seeds=[0])
    (_, cell, _) = cells = plan_cells(asked)
    cell.folder.mkdir(parents=True)
    cell.recipe_file.write_text(cell.text, "utf-8")
    cell.failure_file.write_text("exit code 1\n", "utf-8")
    cell.log_file.write_text("step 7\nConfigError: <too many> tokens\n", "utf-8")
    found = compare(asked, cells)
    assert [one.status for one in found.outcomes] == ["failed", "failed", "not run"]
    assert found.to_json()["cells"][1]["error"] == "step 7 ConfigError: <too many> tokens"
    assert "ConfigError: &lt;too many&gt; tokens" in comparison_page(found)


def test_a_result_that_cannot_be_read_is_one_failed_cell_and_the_rest_is_shown(tmp_path):
    asked, cells = finished(tmp_path)
    broken = next(cell for cell in cells if (cell.name, cell.seed) == ("six", 1))
    broken.result_file.write_text('{"schema_version": ', "utf-8")
    measure_speeds(asked, [broken], tell=pytest.fail)
    found = compare(asked, cells)
    (failed,) = [one for one in found.outcomes if one.status == "failed"]
    assert (failed.cell, failed.seed) == ("six", 1)
    assert f"delete it to make it anew: {broken.result_file}: not JSON" in failed.error
    assert found.rows[2].failed == (1,)
    assert [row.figures["gain"].seeds for row in found.rows] == [2, 2, 1]


def test_a_finished_run_stays_finished_when_its_variant_gets_another_title(tmp_path):
    cells = {"two": {"title": "Two: experts", "settings": {"experts.num_experts": 2}}}
    (cell,) = plan_cells(asked_for(tmp_path, cells=cells, seeds=[0]))
    finish(cell, example_result())
    cells["two"]["title"] = "Two experts, of which one is the frozen original " * 3
    (renamed,) = plan_cells(asked_for(tmp_path, cells=cells, seeds=[0]))
    assert renamed.text != cell.text
    assert renamed.is_done
    cells["two"]["settings"]["experts.num_experts"] = 3
    (changed,) = plan_cells(asked_for(tmp_path, cells=cells, seeds=[0]))
    assert not changed.is_done
    cell.recipe_file.write_text("{", "utf-8")
    assert not cell.is_done
