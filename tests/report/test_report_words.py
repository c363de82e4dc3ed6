"""Verdict, terminal table, model card, and how numbers are written."""

import io
import math
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard
from rich.console import Console

from polycycle.languages import NAMES
from polycycle.report import export_card, export_table, model_card, terminal_table, verdict_of
from polycycle.report.score_tables import scores_table
from polycycle.report.svg import apart, ticks
from polycycle.report.wording import (
    OWN_NAMES,
    bytes_size,
    decimal,
    duration,
    model_title,
    names,
    percent,
    short_count,
)
from polycycle.results import ExportedLanguage, ExportResult
from tests.results.example import example_result, example_with_benchmarks


def _printed(result):
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(terminal_table(result))
    return console.file.getvalue()


def _final_with_accuracy(change):
    result = example_result()
    scores = {
        tag: one.model_copy(update={"accuracy": change(one)})
        for tag, one in result.final.scores.items()
    }
    final = result.final.model_copy(update={"scores": scores})
    return example_result(models=(*result.models[:-1], final))


def test_the_verdict_gives_the_numbers_in_one_sentence():
    verdict = verdict_of(example_result())
    assert verdict.level == "good"
    assert "from 27.5% to 71.2% of questions answered correctly on average" in verdict.sentence
    assert "English, Chinese and Spanish kept 99.7%" in verdict.sentence
    assert "French and Portuguese, which no training replayed, kept 99.4%" in verdict.sentence


def test_without_questions_the_verdict_speaks_of_bits_per_byte():
    verdict = verdict_of(example_result(with_questions=False))
    assert "from 1.82 to 0.81 bits per byte on average (−55%, lower is better)" in verdict.sentence


def test_forgetting_and_learning_nothing_are_not_called_good():
    forgot = _final_with_accuracy(lambda one: one.accuracy * (1 if one.group else 0.9))
    assert verdict_of(forgot).title == "Learned, but forgot"
    assert verdict_of(_final_with_accuracy(lambda one: 0.2)).level == "bad"


def test_a_run_without_scores_is_not_judged():
    base = example_result().models[0].model_copy(update={"scores": {}})
    assert verdict_of(example_result(models=(base,))).title == "Not all measured"


@pytest.mark.parametrize("with_questions", [True, False])
def test_the_terminal_table_fits_eighty_columns_uncut(with_questions):
    printed = _printed(example_result(with_questions=with_questions))
    assert all(len(line) <= 80 for line in printed.splitlines())
    assert "…" not in printed
    for words in ("Greek", "Unseen original", "Post-pretrain", "Kept", "Learned and kept."):
        assert words in printed
    assert ("89.4%" if with_questions else "0.712") in printed


def test_the_terminal_and_the_card_give_each_task_by_group():
    result = example_result()
    printed = _printed(result).split("answers written:")[1]
    card = model_card(result)
    review = [result.final.scores[tag].tasks["translation"] for tag in ("zh", "es")]
    exact = percent(sum(one.exact_match for one in review) / 2)
    chrf = decimal(sum(one.chrf for one in review) / 2, 1)  # none into English
    lines = printed.splitlines()
    row = lines[next(i for i, line in enumerate(lines) if "translation" in line) + 1].split()
    assert (row[0], *row[-2:]) == ("Original", exact, chrf)
    assert f"| {exact} | {chrf} |" in next(
        line for line in card.splitlines() if line.startswith("| translation, Original |")
    )
    assert "6.0 GiB of tensors are new, beside 2.0 GiB of the base" in card
    without = example_result(with_tasks=False)
    assert "answers written" not in _printed(without)
    assert "Answers written" not in model_card(without)


def test_a_run_of_several_groups_fits_eighty_columns():
    result = example_result()
    later = [model.model_copy(update={"name": f"{model.name}-g2"}) for model in result.models[1:]]
    printed = _printed(example_result(models=(*result.models, *later)))
    assert "…" not in printed
    assert all(len(line) <= 80 for line in printed.splitlines())
    (heading,) = [line for line in printed.splitlines() if "Language" in line]
    assert heading.split() == ["Language", "Base", "Review", "Review-g2", "Gained", "Kept"]


def test_brackets_in_a_name_are_no_markup_in_the_terminal():
    assert "[red]run[/]" in _printed(example_result(name="[red]run[/]"))


def test_the_model_card_parses_and_carries_its_metadata():
    card = ModelCard(model_card(example_result()))
    assert card.data.language == ["en", "zh", "es", "fr", "pt", "el", "hu", "tr", "ar", "bn", "hi"]
    assert card.data.base_model == "example-org/dense-1b"
    assert card.data.license == "other"
    assert "moe-lpr" in card.data.tags
    assert "| Greek (el, Expanded) | 28.3% |" in card.text
    assert "4,320,157,696 parameters, 1,744,070,656 of them active" in card.text


def test_a_base_in_a_folder_is_not_claimed_to_be_on_the_hub():
    text = model_card(example_result(base="/somewhere/private/dense-1b"))
    assert ModelCard(text).data.base_model is None
    assert "/somewhere" not in text
    assert "`dense-1b`" in text


def test_a_known_licence_replaces_other():
    recipe = {**example_result().recipe, "license": "apache-2.0"}
    card = ModelCard(model_card(example_result(recipe=recipe)))
    assert card.data.license == "apache-2.0"
    assert "licence applies" not in card.text


def test_every_known_language_but_english_has_its_own_name():
    assert set(NAMES) - set(OWN_NAMES) == {"en"}


def test_numbers_are_written_with_their_units():
    assert percent(0.7134) == "71.3%"
    assert percent(None) == "—"
    assert percent(math.nan) == "not a number"
    assert decimal(-0.04, 1) == "0.0"
    assert decimal(-1.25, 2, sign=True) == "−1.25"
    assert decimal(math.inf) == "∞"
    assert decimal(math.nan) == "not a number"
    assert bytes_size(21_474_836_480) == "20.0 GiB"
    assert [duration(s) for s in (0.25, 59.97, 2618.4, 7261, 90_000)] == [
        "0.2 s",
        "1 min 0 s",
        "43 min 38 s",
        "2 h 1 min",
        "1 d 1 h",
    ]
    assert short_count(150_732_800) == "150.7 M"
    assert short_count(999) == "999"
    assert names(("el",)) == "Greek"
    assert names(("el", "hu", "tr")) == "Greek, Hungarian and Turkish"
    assert names(tuple(NAMES)[:7]) == "7 languages"


def test_ticks_are_round_and_inside_their_range():
    assert ticks(0, 2.3) == [0, 0.5, 1.0, 1.5, 2.0]
    assert ticks(1, 1) == [1]
    for low, high in ((0, 1e-7), (-3.7, 12.2), (0.001, 98765.0)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 7
        assert low - 1e-12 <= found[0]
        assert found[-1] <= high * (1 + 1e-9)


def test_labels_are_moved_apart_in_their_order():
    moved = apart([50.0, 51.0, 10.0], gap=14, low=0, high=100)
    assert moved[2] == 10.0
    assert moved[1] - moved[0] >= 14


def test_the_report_room_loads_no_torch():
    code = (
        "import sys, polycycle.report; "
        "sys.exit(bool({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("post-pretrain-g2", "Post-pretrain-g2"),
        ("post", "Sibling"),
        ("post-2", "Sibling 2"),
        ("loramoe", "LoRAMoE"),
    ],
)
def test_models_have_titles_that_do_not_look_alike(name, title):
    assert model_title(name) == title


def test_what_was_kept_is_said_to_be_of_the_model_that_it_is_measured_against():
    result = example_result()
    post = result.models[0].model_copy(update={"name": "post"})
    final = result.final.model_copy(update={"reference": "post"})
    grafted = result.model_copy(update={"models": (*result.models[:-1], post, final)})
    for one, whose in ((result, "base"), (grafted, "sibling")):
        assert scores_table(one, "bits_per_byte").headings[-1] == ("Kept", f"% of {whose}")


def exported(**settings):
    compared = ExportedLanguage(
        tokens=512,
        largest_difference=0.0,
        mean_kl=0.0,
        argmax_agreement=1.0,
        same_greedy=4,
        texts=4,
        is_bit_equal=True,
    )
    usual = {
        "folder": "out",
        "source": "runs/greek/review",
        "base": "someone/dense-1b",
        "base_hash": "a" * 64,
        "trained_languages": ("en", "el"),
        "target": "qwen2_moe",
        "model_class": "Qwen2MoeForCausalLM",
        "engines": {"transformers": "run by verify", "vllm": "read from the source of 1, not run"},
        "dtype": "bfloat16",
        "compared_on": "real text",
        "passed": True,
        "languages": {"el": compared},
        "versions": {"transformers": "5.23.0"},
    }
    return ExportResult(**{**usual, **settings})


def test_the_card_of_an_export_without_its_run_says_what_the_export_knows():
    card = ModelCard(export_card(exported()))
    assert card.data.language == ["en", "el"]
    assert card.data.base_model == "someone/dense-1b"
    assert f"content hash `{'a' * 64}`" in card.text
    assert "**it computes the same**" in card.text
    assert "transformers 5.23.0" in card.text
    assert "- vllm: `vllm serve THIS_FOLDER` (read from the source of 1, not run)" in card.text
    assert "- sglang: would not compute this model right, do not use it" in card.text
    assert "licence applies" in card.text


def test_the_card_of_an_export_with_its_run_has_all_that_people_ask_for():
    recipe = {
        "license": "apache-2.0",
        "data": {"train": {"el": {"hub": "someone/corpus", "license": "CC0-1.0"}}},
    }
    run = example_result(recipe=recipe, base="someone/dense-1b")
    card = ModelCard(export_card(exported(without_exact_retention=True), run=run))
    assert (card.data.license, card.data.base_model) == ("apache-2.0", "someone/dense-1b")
    assert {"en", "el"} <= set(card.data.language)
    for part in (
        "arXiv:2408.11396",
        "- Greek: `someone/corpus`, CC0-1.0",
        "| Greek (el,",
        "| Kept |",
        "| Greek (el) |",
        "exact retention was left out",
        "## Limits",
        "## How to load it",
        "## How to serve it",
        "## Proof",
    ):
        assert part in card.text, part


def test_the_card_of_a_gguf_file_loads_and_serves_it_with_llama_cpp():
    gguf = {"target": "gguf", "model_class": "llama.cpp's llama"}
    export = exported(engines={"llama.cpp": "run by verify"}, **gguf)
    card = ModelCard(export_card(export))
    assert 'model = Llama("THIS_FOLDER/model.gguf")' in card.text
    assert "`llama-server --model THIS_FOLDER/model.gguf` (run by verify)" in card.text
    assert "AutoModelForCausalLM" not in card.text
    assert "vllm" not in card.text
    assert "gguf" in card.data.tags
    assert card.data.library_name == "gguf"


def test_the_terminal_says_where_float32_decided():
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(export_table(exported(settled_in_float32=True)))
    assert "bfloat16 rounds too coarsely to tell, so float32 decided" in console.file.getvalue()
    assert "Greek (el)" in console.file.getvalue()


def test_benchmarks_stand_in_the_terminal_by_group_with_gain_and_retention():
    printed = " ".join(_printed(example_with_benchmarks()).split())
    assert "belebele (acc, 5 shots)" in printed
    assert "Original 89.4 89.3 −0.1 99.9%" in printed
    assert "Expanded 26.5 71.3 +44.8 —" in printed


def test_benchmarks_stand_in_the_model_card_with_the_languages_measured():
    card = model_card(example_with_benchmarks())
    assert "| Benchmark | Base | Review | Gained (points) | Kept | Languages |" in card
    assert (
        "| belebele (acc, 5 shots), Expanded | 26.5 | 71.3 | +44.8 |  | Greek and Bengali |" in card
    )
    assert "by lm-eval 0.4.13" in card
    assert "Benchmark" not in model_card(example_result())
