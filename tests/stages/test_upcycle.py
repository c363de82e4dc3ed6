"""From a recipe's budget and a similarity table to experts per layer and classifiers."""

import pytest

from polycycle.allocation import SimilarityTable, allocate_experts
from polycycle.checkpoint import open_checkpoint
from polycycle.config import parse_recipe
from polycycle.errors import ConfigError, UpcycleError
from polycycle.languages import LanguageGroups
from polycycle.stages.upcycle import plan_recipe
from tests.tiny import save_dense

GROUPS = LanguageGroups(original=("en",), expanded=(("el", "tr"),))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return open_checkpoint(save_dense(tmp_path_factory.mktemp("base")))


def table(to_original, among):
    """One layer per pair of numbers: cosine of en with el and tr, and of el with tr."""
    return SimilarityTable(
        groups=GROUPS,
        values=tuple(
            ((1.0, a, a), (a, 1.0, b), (a, b, 1.0)) for a, b in zip(to_original, among, strict=True)
        ),
    )


def recipe(**experts):
    return parse_recipe(
        {
            "base": "base",
            "output": "run",
            "languages": {"original": ["en"], "expanded": ["el", "tr"]},
            "data": {"train": "t/{language}.jsonl", "valid": "v/{language}.jsonl"},
            "experts": experts,
            "post_pretrain": {"tokens": 1000},
        }
    )


@pytest.mark.parametrize(
    ("budget", "total"),
    [({"total_experts": 9}, 9), ({"new_experts": 6}, 9), ({"share_of_uniform": 0.4}, 9)],
)
def test_layers_where_languages_are_alike_get_fewer_experts(base, budget, total):
    similarity = table([0.2, 0.5, 0.6], [0.4, 0.5, 0.8])
    plan = plan_recipe(recipe(num_experts=6, allocation=budget), base, similarity)
    counts = plan.config["num_experts_per_layer"]
    expected = allocate_experts([0.3, 0.5, 0.7], total)
    assert counts == list(expected.num_experts_per_layer)
    assert sum(counts) == total
    assert counts[0] > counts[2]


def test_classifiers_stand_where_expanded_and_original_languages_are_most_alike(base):
    # Layer 1 has the highest overall similarity, but not the highest with the original language.
    similarity = table([0.6, 0.5, 0.7], [0.1, 0.99, 0.1])
    chosen = plan_recipe(recipe(classifier={"layers": 2}), base, similarity)
    assert chosen.config["classifier_layers"] == [0, 2]
    named = plan_recipe(recipe(classifier={"layers": [1]}), base, similarity)
    assert named.config["classifier_layers"] == [1]
    assert named.config["classifier_threshold"] == 0
    strict = plan_recipe(recipe(classifier={"layers": [1], "threshold": 1.5}), base, similarity)
    assert strict.config["classifier_threshold"] == 1.5


def test_dense_layers_get_no_classifier(base):
    similarity = table([0.2, 0.5, 0.9], [0.2, 0.5, 0.9])
    experts = {"allocation": {"total_experts": 6, "min_experts": 1}, "classifier": {"layers": 2}}
    plan = plan_recipe(recipe(**experts), base, similarity)
    assert plan.config["num_experts_per_layer"] == [3, 2, 1]
    assert plan.config["classifier_layers"] == [0, 1]
    experts["classifier"] = {"layers": 3}
    with pytest.raises(UpcycleError, match="only 2 layers"):
        plan_recipe(recipe(**experts), base, similarity)


def test_a_table_of_another_model_is_refused(base):
    with pytest.raises(UpcycleError, match=r"2 layers, but .* has 3"):
        plan_recipe(recipe(classifier={"layers": 1}), base, table([0.1, 0.2], [0.1, 0.2]))


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ({"allocation": {"min_experts": 2}}, "exactly one of total_experts"),
        ({"allocation": {"total_experts": 9, "new_experts": 3}}, "exactly one of"),
        ({"num_experts": [2, 2, 2], "allocation": {"total_experts": 9}}, "as one number"),
    ],
)
def test_a_contradiction_is_refused(experts, message):
    with pytest.raises(ConfigError, match=message):
        recipe(**experts)
