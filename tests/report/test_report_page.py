"""The page: everything is in it, nothing outside is asked for, nothing in it is trusted."""

import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from polycycle.languages import LanguageGroups
from polycycle.report import write_report
from polycycle.report.benchmark_tables import benchmark_tables
from polycycle.report.figures import routing_maps, similarities
from polycycle.report.page import page
from polycycle.report.retention_tables import (
    gate_table,
    mixed_table,
    speed_table,
    threshold_advice,
    trade_table,
)
from polycycle.report.run_tables import packs_table
from polycycle.report.score_tables import task_tables
from polycycle.report.wording import count, decimal, duration, percent
from polycycle.results import load_result
from tests.results.example import example_result, example_with_benchmarks

CASES = {
    "everything": {},
    "no questions": {"with_questions": False},
    "no review": {"with_review": False},
    "no routing": {"with_routing": False},
    "next to nothing": {
        "with_questions": False,
        "with_review": False,
        "with_routing": False,
        "with_tasks": False,
        "with_gate": False,
        "curves": (),
        "alarms": (),
        "data": (),
        "costs": (),
    },
}
VOID = {"meta", "link", "br", "img", "hr", "input"}


class _Checked(HTMLParser):
    """Fails on a tag that is not closed, and collects attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.attributes, self.words = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.mark.parametrize("parts", CASES.values(), ids=CASES)
def test_the_page_is_whole_and_asks_for_nothing_outside(parts):
    html = page(example_result(**parts))
    checked = _Checked(html)
    links = [value for _, key, value in checked.attributes if key in ("src", "href", "xlink:href")]
    assert links
    ids = {value for _, key, value in checked.attributes if key == "id"}
    assert {link.removeprefix("#") for link in links} <= ids
    assert not re.search(r"https?://|url\(|@import|<script|<link|<img|<iframe", html)
    assert " nan" not in html
    assert "None" not in checked.text.replace("None: no forgetting", "")


@pytest.mark.parametrize("parts", CASES.values(), ids=CASES)
def test_every_plot_is_well_formed_and_says_what_it_is(parts):
    plots = re.findall(r"<svg.*?</svg>", page(example_result(**parts)), flags=re.DOTALL)
    assert plots
    for plot in plots:
        ElementTree.fromstring(plot)
        assert "aria-label=" in plot or 'viewBox="0 0 12 12"' in plot


def test_every_number_of_the_result_stands_on_the_page():
    result = example_result()
    text = _Checked(page(result)).text
    for model in result.models:
        assert count(model.parameters_total) in text
        assert count(model.parameters_active) in text
        for scores in model.scores.values():
            assert percent(scores.accuracy) in text
            assert decimal(scores.bits_per_byte, 3) in text
            for task in scores.tasks.values():
                assert percent(task.exact_match) in text
                assert decimal(task.chrf, 1) in text
    for scores in result.final.scores.values():
        assert decimal(scores.kl_from_base, 4) in text
        assert percent(scores.expert0_share) in text
        assert decimal(scores.perplexity) in text
        assert count(scores.tokens) in text
    for one in result.data:
        assert count(one.tokens) in text
        assert decimal(one.tokens_per_word) in text
        assert all(where in text and why in text for where, why in one.skipped_examples)
        assert one.warning is None or one.warning in text
    for cost in result.costs:
        assert duration(cost.seconds) in text
        assert count(cost.parameters_trainable) in text
    assert all(alarm.message in text for alarm in result.alarms)
    assert result.environment.torch in text
    assert "learning_rate: 5.0e-05" in text


def test_a_task_has_a_row_for_each_language_that_it_was_done_in():
    (_, first), (name, table) = task_tables(example_result())
    assert name == "translation"
    original, unseen, expanded = table.sections
    assert [len(section.rows) for section in table.sections] == [2, 2, 6]  # none into English
    assert len(first.sections[0].rows) == 3
    assert {len(row) for row in (*unseen.rows, expanded.average)} == {len(table.headings)} == {8}
    spanish = original.rows[1]
    review = example_result().final.scores["es"].tasks["translation"]
    assert (spanish[3], spanish[6]) == (percent(review.exact_match), decimal(review.chrf, 1))
    assert spanish[7] == "200"
    chinese = example_result().final.scores["zh"].tasks["translation"]
    assert original.average[6] == decimal((review.chrf + chinese.chrf) / 2, 1)
    without = page(example_result(with_tasks=False))
    assert "Tasks" not in without


def test_similarity_is_drawn_with_the_experts_and_classifiers_that_follow():
    (figure,) = similarities(example_result())
    svg = ElementTree.fromstring(figure.plot)
    words = [element.text for element in svg.iter("text")]
    assert {"new–original", "new–new", "S, the mean", "40 new experts", "classifiers"} <= set(words)
    assert words.count("5") == 8 + 1  # a bar's number in each layer, and the layer itself
    assert len(list(svg.iter("polygon"))) == 2
    assert "shared out as 1/S" in figure.note
    assert len(list(svg.iter("polyline"))) == 3
    (alone,) = (
        one.model_copy(update={"expanded_expanded": None, "is_allocated": False})
        for one in example_result().similarities
    )
    (figure,) = similarities(example_result(similarities=(alone,)))
    assert len(list(ElementTree.fromstring(figure.plot).iter("polyline"))) == 1
    assert "gave the number of experts" in figure.note


def test_routing_maps_show_each_language_in_the_layers_that_have_the_number():
    divergence, evenness, rightly = routing_maps(example_result())
    assert [divergence.plot.count("Greek, layer"), evenness.plot.count("Greek, layer")] == [8, 8]
    assert "Greek, layer 0: 31.0%" in divergence.plot
    assert "English, layer 7: 9.0%" in divergence.plot
    assert [rightly.plot.count("Greek, layer"), rightly.plot.count("layer 4: 93.0%")] == [2, 6]
    assert routing_maps(example_result(with_routing=False)) == []


def test_the_gates_tables_say_how_often_it_fires_what_that_trades_and_gains():
    result = example_result()
    (french, _) = gate_table(result).sections[1].rows
    assert french[1:] == ("93.0%", "85.7%", "93.0%", "412")
    greek = gate_table(result).sections[2].rows[0]
    assert greek[3] == "99.0%"
    (section,) = mixed_table(result).sections
    assert section.rows[0][1:] == ("37.5%", "50.0%", "22.5%", "50.0%", "120")
    assert [row[2] for row in speed_table(result).sections[0].rows] == [
        "1.78 ×",
        "1.00 ×",
        "1.79 ×",
    ]
    text = _Checked(page(result)).text
    assert "Kept text is read 1.78 × as fast" in text
    rows = trade_table(result).sections[0].rows
    assert rows[0][:4] == ("−∞", "100.0%", "100.0%", "100.0%")
    assert rows[0][4:] == ("0.0%", "0.0%", "0.0%")  # the base against itself
    assert rows[2][0] == "0.25 (set)"
    final, base = result.final.scores, result.models[0].scores
    ratios = [final[tag].bits_per_byte / base[tag].bits_per_byte for tag in ("fr", "pt")]
    assert rows[-1][5] == percent(sum(ratios) / 2 - 1, sign=True)
    without = example_result(with_gate=False)
    tables = (gate_table, mixed_table, speed_table, trade_table)
    assert [table(without) for table in tables] == [None] * 4
    assert "Exact retention" not in page(without)


def test_the_report_names_the_lowest_threshold_that_gives_no_expanded_text_away():
    result = example_result()
    assert threshold_advice(result) == ""  # every finite one gives some away
    trade, expanded = result.final.retention, result.languages.all_expanded
    points = [
        point.model_copy(
            update={
                "threshold": threshold,
                "text_rate": point.text_rate | dict.fromkeys(expanded, given_away),
            }
        )
        for point, threshold, given_away in zip(
            trade.points, (-math.inf, -0.754, 0.25, math.inf), (1.0, 0.0, 0.0, 0.0), strict=True
        )
    ]

    def advice(points, threshold):
        gate = trade.model_copy(update={"points": tuple(points), "threshold": threshold})
        models = (*result.models[:-1], result.final.model_copy(update={"retention": gate}))
        return threshold_advice(example_result(models=models))

    found = advice(points, 0.25)
    assert "−0.75 is the lowest measured threshold" in found  # −0.76 would be below it
    assert "keep 100.0% of original texts, 0.25 keeps 95.4%" in found
    assert advice(points, -0.754) == ""  # it is set already
    for exact, written in ((0.07, "0.07"), (0.0701, "0.08"), (0.14, "0.14")):
        points[1] = points[1].model_copy(update={"threshold": exact})
        assert f" {written} is the lowest" in advice(points, 0.25)
    points[1] = points[1].model_copy(update={"threshold": 0.2497})
    assert advice(points, 0.25) == ""  # the same, as it is written


def test_a_packs_parts_are_weighed_against_the_base():
    (section,) = packs_table(example_result()).sections
    assert [row[2:] for row in section.rows] == [
        ("6.0 GiB", "292.7%"),
        ("12.0 KiB", "0.0%"),
        ("6.0 GiB", "292.7%"),
        ("2.0 GiB", "100.0%"),
    ]
    assert section.rows[0][1] == "Greek, Hungarian, Turkish, Arabic, Bengali and Hindi"


def test_html_in_names_is_shown_not_obeyed():
    evil = "<script>alert(1)</script>"
    models = list(example_result().models)
    models[-1] = models[-1].model_copy(update={"folder": f"runs/{evil}"})
    alarm = example_result().alarms[0].model_copy(update={"message": evil})
    data = example_result().data[3].model_copy(update={"skipped_examples": ((evil, evil),)})
    html = page(
        example_result(
            name=evil,
            base=evil,
            models=tuple(models),
            alarms=(alarm,),
            data=(data,),
            recipe={"name": evil},
        )
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6


def test_language_text_runs_in_its_own_direction():
    html = page(example_result())
    assert '<span class="own" lang="ar" dir="rtl">العربية</span>' in html
    assert '<span class="own" lang="el" dir="ltr">Ελληνικά</span>' in html


def test_a_diverged_run_still_has_a_page():
    result = example_result()
    scores = dict(result.final.scores)
    worst = {"bits_per_byte": math.inf, "perplexity": math.inf, "kl_from_base": math.nan}
    scores["el"] = scores["el"].model_copy(update=worst)
    final = result.final.model_copy(update={"scores": scores})
    training = tuple(
        point.model_copy(update={"loss": math.nan, "lm_loss": {"el": math.nan}})
        for point in result.curves[0].training
    )
    curves = (result.curves[0].model_copy(update={"training": training}),)
    html = page(example_result(models=(*result.models[:-1], final), curves=curves))
    assert "∞" in html
    assert not re.search(r'="[^"]*\b(nan|inf)\b', html)


def test_several_expanded_groups_and_unmeasured_languages_have_their_rows():
    languages = LanguageGroups(original=("en",), expanded=(("el", "hu"), ("sv",)))
    text = _Checked(page(example_result(languages=languages))).text
    assert "Expanded, group 1" in text
    assert "Expanded, group 2" in text
    assert "Swedish" in text


def test_the_report_writes_a_page_and_the_result_beside_it(tmp_path):
    result = example_result()
    path = write_report(result, tmp_path / "report")
    assert path == tmp_path / "report" / "report.html"
    assert path.read_text(encoding="utf-8") == page(result)
    assert load_result(tmp_path / "report" / "report.json") == result


def test_benchmarks_have_a_table_each_and_name_what_was_not_measured():
    result = example_with_benchmarks()
    ((title, table),) = benchmark_tables(result)
    assert title == "belebele (acc, 5 shots)"
    original, expanded = table.sections
    assert original.rows[0][1:] == ("89.4", "89.3", "−0.1", "99.9%", "1.0", "900")
    assert expanded.average[:4] == ("Average", "26.5", "71.3", "+44.8")
    words = _Checked(page(result)).text
    assert "Not measured: 1" in words
    assert "lm-eval <has> none" in words
    assert 'id="benchmarks"' not in page(example_result())
