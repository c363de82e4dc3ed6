"""Which lm-eval task measures a benchmark in a language."""

import pytest

from polycycle.evaluation.suites import SUITES, find_task, flores_code, why_missing

SUITE = {benchmark.name: benchmark for benchmark in SUITES["moe-lpr"]}
# What lm-eval 0.4.13 has for the eleven languages of the papers and the microworld.
TASKS = {
    "arc_challenge": {
        "en": "arc_challenge",
        "zh": "arc_zh",
        "es": "arc_es",
        "fr": "arc_fr",
        "pt": "arc_pt",
        "el": "arc_challenge_mt_el",
        "hu": "arc_hu",
        "tr": None,
        "bn": "arc_bn",
        "hi": "arc_hi",
        "ne": "arc_ne",
    },
    "mmlu": {
        "en": "mmlu",
        "zh": "m_mmlu_zh",
        "el": "global_mmlu_full_el",
        "hu": "m_mmlu_hu",
        "tr": "global_mmlu_full_tr",
        "ne": "m_mmlu_ne",
    },
    "hellaswag": {
        "en": "hellaswag",
        "zh": None,
        "el": None,
        "tr": None,
        "hu": "hellaswag_hu",
        "bn": "hellaswag_bn",
    },
    "belebele": {
        "en": "belebele_eng_Latn",
        "zh": "belebele_zho_Hans",
        "zh-Hant": "belebele_zho_Hant",
        "el": "belebele_ell_Grek",
        "ne": "belebele_npi_Deva",
        "pt-BR": "belebele_por_Latn",
    },
}
CASES = [(name, tag, task) for name, tasks in TASKS.items() for tag, task in tasks.items()]
KNOWN = {task for _, _, task in CASES if task}


@pytest.mark.parametrize(("name", "language", "task"), CASES)
def test_each_language_has_the_task_that_lm_eval_has_for_it(name, language, task):
    assert find_task(SUITE[name], language, KNOWN) == task


def test_a_script_of_its_own_is_not_measured_by_another_scripts_task():
    assert find_task(SUITE["arc_challenge"], "zh-Hant", KNOWN) is None
    assert find_task(SUITE["arc_challenge"], "pt-BR", KNOWN) == "arc_pt"


def test_what_is_missing_is_told_with_what_was_looked_for_and_what_helps():
    reason = why_missing(SUITE["hellaswag"], "el", "0.4.13")
    assert "lm-eval 0.4.13 has no hellaswag in Greek (looked for hellaswag_el)" in reason
    assert "DIR/hellaswag/test/el.jsonl" in reason


def test_a_language_without_a_flores_code_has_none():
    assert flores_code("el") == "ell_Grek"
    assert flores_code("tlh") is None
    assert find_task(SUITE["belebele"], "tlh", KNOWN) is None


@pytest.mark.slow
def test_lm_eval_has_the_tasks_of_the_table_and_no_others():
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    from polycycle.evaluation.harness import TaskCatalogue

    names = TaskCatalogue().names
    assert names >= KNOWN
    for name, language, task in CASES:
        assert find_task(SUITE[name], language, names) == task, (name, language)
