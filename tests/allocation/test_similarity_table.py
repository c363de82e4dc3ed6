"""The table of similarities: against all pairs, and what is read back from files."""

import json

import numpy as np
import pytest

from polycycle.allocation import read_similarity, similarity_table
from polycycle.errors import ConfigError, DataError
from polycycle.languages import LanguageGroups

GROUPS = LanguageGroups(original=("en", "es"), expanded=(("el", "hu", "tr"),))
LANGUAGES = ("en", "es", "el", "hu", "tr")


def unit_vectors(seed, layers=2, tokens=30, width=5):
    """[L, T, D] rows of length 1."""
    rows = np.random.default_rng(seed).normal(0.5, 1, (layers, tokens, width))
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


TOKENS = {language: unit_vectors(seed) for seed, language in enumerate(LANGUAGES)}
MEANS = {language: rows.mean(1) for language, rows in TOKENS.items()}


def test_the_table_holds_the_mean_cosine_over_all_pairs():
    table = similarity_table(MEANS, GROUPS)
    assert table.languages == LANGUAGES
    for layer in range(2):
        for i, a in enumerate(LANGUAGES):
            for j, b in enumerate(LANGUAGES):
                pairs = TOKENS[a][layer] @ TOKENS[b][layer].T
                assert table.values[layer][i][j] == pytest.approx(pairs.mean(), abs=1e-14)


def test_the_number_per_layer_is_the_papers():
    table = similarity_table(MEANS, GROUPS)
    for layer in range(2):
        s = {
            (a, b): table.values[layer][i][j]
            for i, a in enumerate(LANGUAGES)
            for j, b in enumerate(LANGUAGES)
        }
        across = np.mean([s[a, b] for a in ("el", "hu", "tr") for b in ("en", "es")])
        among = np.mean([s["el", "hu"], s["el", "tr"], s["hu", "tr"]])
        assert table.per_layer[layer] == pytest.approx((across + among) / 2, abs=1e-14)


def test_one_expanded_language_has_no_pair_of_its_own():
    table = similarity_table(MEANS, LanguageGroups(original=("en", "es"), expanded=(("el",),)))
    assert table.expanded_expanded is None
    assert table.per_layer == table.expanded_original


def test_for_a_second_group_the_first_counts_as_original():
    groups = LanguageGroups(original=("en", "es"), expanded=(("el", "hu"), ("tr",)))
    table = similarity_table(MEANS, groups)
    assert table.languages == LANGUAGES
    row = table.values[0][-1]
    assert table.expanded_original[0] == pytest.approx(np.mean(row[:4]))


def test_unseen_original_languages_are_left_out():
    groups = LanguageGroups(original=("en",), unseen_original=("fr",), expanded=(("el",),))
    assert similarity_table(MEANS, groups).languages == ("en", "el")


def test_without_an_expanded_language_there_is_nothing_to_compare():
    with pytest.raises(ConfigError, match="--expanded"):
        similarity_table(MEANS, LanguageGroups(original=("en", "es")))


def test_what_is_written_is_read(tmp_path):
    table = similarity_table(MEANS, GROUPS)
    path = tmp_path / "similarity.json"
    path.write_text(json.dumps(table.to_json()))
    assert read_similarity(path) == table.per_layer
    path.write_text('{"per_layer": [0.5, 1]}')
    assert read_similarity(path) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[0.5, 0.4]", "no `per_layer`"),
        ('{"per_layers": [0.5]}', "in it \\(per_layers\\)"),
        ('{"per_layer": 0.5}', "list of numbers"),
        ('{"per_layer": [0.5, "0.4"]}', "list of numbers"),
        ('{"per_layer": [0.5, true]}', "list of numbers"),
    ],
)
def test_a_file_that_is_none_says_what_it_should_hold(tmp_path, text, message):
    path = tmp_path / "similarity.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_similarity(path)


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(DataError, match="polycycle similarity MODEL"):
        read_similarity(tmp_path / "none.json")
