"""Recipes: what is accepted, and that every problem is told with its key."""

from pathlib import Path

import pytest
import yaml

from polycycle.config import load_recipe, load_study, parse_recipe, parse_yaml
from polycycle.errors import ConfigError

ROOT = Path(__file__).parents[2]


def settings(**changes):
    return {
        "base": "some/base",
        "output": "runs/x",
        "languages": {
            "original": ["en", "zh"],
            "unseen_original": ["fr"],
            "expanded": ["el", "hu"],
        },
        "data": {"train": "train/{language}.jsonl", "valid": "valid/{language}.jsonl"},
        "post_pretrain": {"tokens": 1000},
        **changes,
    }


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("recipes/*.yaml"), ROOT / "src/polycycle/microworld/demo.yaml"],
    ids=lambda path: path.name,
)
def test_every_recipe_parses(path):
    assert load_recipe(path).languages.groups().all_expanded


def test_paper_values_are_the_defaults():
    recipe = parse_recipe(settings())
    assert (recipe.experts.num_experts, recipe.experts.top_k) == (6, 2)
    assert recipe.post_pretrain.balance_coef == 0.01
    assert (recipe.review.prior_coef, recipe.review.sequence_length) == (0.1, 512)
    assert (recipe.review.replay_documents, recipe.review.expanded_documents) == (50_000, 100_000)


def test_a_task_is_a_pattern_or_settings():
    tasks = {"plain": "a/{language}.jsonl", "chat": {"path": "b/{language}.jsonl", "chat": True}}
    data = parse_recipe(settings(data={**settings()["data"], "tasks": tasks})).data
    assert data.chats == ("chat",)
    assert [data.task(name).path[:2] for name in tasks] == ["a/", "b/"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"path": "{language}", "caht": True}, "x.caht: unknown setting. Did you mean 'chat'?"),
        ({"chat": True}, "x.path: required, but not given"),
        (3, "x: Input should be a valid dictionary"),
    ],
)
def test_a_mistake_in_a_task_is_one_problem_and_told_of_its_setting(tasks, message):
    with pytest.raises(ConfigError, match=r": 1 problem\(s\)") as told:
        parse_recipe(settings(data={**settings()["data"], "tasks": {"x": tasks}}))
    assert f"data.tasks.{message}" in str(told.value)


def test_a_mistyped_setting_of_one_languages_source_gets_a_suggestion():
    train = {tag: f"{tag}.jsonl" for tag in ("en", "zh", "el")}
    train["el"] = {"path": "el.jsonl", "fromat": "jsonl"}
    with pytest.raises(ConfigError, match=r"data\.train\.el\.fromat: .*Did you mean 'format'"):
        parse_recipe(settings(data={**settings()["data"], "train": train}))


def test_a_language_with_a_script_is_named_where_its_source_is_wrong():
    languages = {"original": ["en"], "expanded": ["zh-Hans", "zh-Hant"]}
    train = {tag: {"paht": "x"} for tag in languages["expanded"]} | {"en": "en.jsonl"}
    with pytest.raises(ConfigError) as told:
        parse_recipe(settings(languages=languages, data={**settings()["data"], "train": train}))
    for tag in languages["expanded"]:
        assert f"data.train.{tag}.paht: unknown setting" in str(told.value)


def test_expanded_languages_may_come_in_several_groups():
    languages = {"original": ["en", "zh"], "expanded": [["el", "hu"], ["bn"]]}
    groups = parse_recipe(settings(languages=languages)).languages.groups()
    assert [list(group) for group in groups.expanded] == [["el", "hu"], ["bn"]]
    assert list(groups.all_expanded) == ["el", "hu", "bn"]


@pytest.mark.parametrize("what", ["recipe", "study"])
def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path, what):
    path = tmp_path / f"{what}.yaml"
    path.write_text("name: a\ncells:\n  two: {}\n  six: {}\n  two: {}\nname: b\n")
    with pytest.raises(ConfigError) as told:
        (load_recipe if what == "recipe" else load_study)(path)
    first, *lines = str(told.value).splitlines()
    assert first.startswith(f"{path}: keys stand twice")
    assert [line.strip() for line in lines] == [
        "line 5: two stands in line 3 too",
        "line 6: name stands in line 1 too",
    ]
    with pytest.raises(ConfigError, match=r"--set .*: keys stand twice[^\n]*\n  line 1: a stands"):
        load_recipe(ROOT / "src/polycycle/microworld/demo.yaml", ["data={a: 1, a: 2}"])


def test_what_a_merge_brings_in_may_be_overridden():
    text = (
        "all:\n  here: {in: &one {<<: &zero {a: 0, b: 0}, a: 1}}\nlast:\n  <<: *one\n  b: 2\n"
        "other: {a: 1, 'a ': 2, 1: x, '1': y}\n"
    )
    found = parse_yaml(text, where="here")
    assert found["all"]["here"]["in"] == {"a": 1, "b": 0}
    assert found["last"]["b"] == 2
    assert len(found["other"]) == 4


def test_a_changed_section_leaves_another_that_is_written_as_its_alias(tmp_path):
    path = tmp_path / "recipe.yaml"
    one = {"tokens": 1000}
    path.write_text(yaml.safe_dump(settings(post_pretrain=one, review=one)))
    assert ": *" in path.read_text()
    before = load_recipe(path)
    found = load_recipe(path, ["review.batch_size=7"])
    assert (found.review.batch_size, found.post_pretrain) == (7, before.post_pretrain)


@pytest.mark.parametrize("text", ["a: [", "a: \x00"])
def test_what_is_no_yaml_is_refused_with_its_place(text):
    with pytest.raises(ConfigError, match="here is not valid YAML"):
        parse_yaml(text, where="here")


def test_a_problem_of_several_settings_is_named_by_these():
    data = {**settings()["data"], "valid": {"en": "en.jsonl"}}
    with pytest.raises(ConfigError, match=r"1 problem\(s\)\n  data\.valid: no text for"):
        parse_recipe(settings(data=data))
    with pytest.raises(ConfigError, match=r"\n  seed: .*greater than or equal to 0"):
        parse_recipe(settings(seed=-1))


def test_all_problems_are_reported_together_with_their_keys():
    wrong = settings(
        post_pretrain={"tokens": 0, "lerning_rate": 1}, experts={"num_experts": 1}, colour="red"
    )
    with pytest.raises(ConfigError) as error:
        parse_recipe(wrong)
    message = str(error.value)
    assert "4 problem(s)" in message
    assert "post_pretrain.tokens" in message
    assert "post_pretrain.lerning_rate: unknown setting. Did you mean 'learning_rate'?" in message
    assert "colour: unknown setting" in message


def test_another_alarm_setting_in_review_leaves_the_plateau_alarm_off():
    recipe = parse_recipe(settings(review={"alarms": {"stop": True}}))
    assert recipe.review.alarms.stop
    assert recipe.review.alarms.plateau_ratio is None
    assert recipe.post_pretrain.alarms.plateau_ratio == 0.005


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"train": "t/{language}", "valid": {"en": "en.txt", "zh": "zh.txt"}}},
            "data.valid: no text for el, fr, hu",
        ),
        ({"experts": {"num_experts": 2, "top_k": 3}}, "top_k=3 exceeds"),
        (
            {"experts": {"num_experts": [1, 2, 3], "top_k": 4}},
            "top_k=4 exceeds experts.num_experts=3, the most that a layer has",
        ),
        ({"experts": {"exact_retention": {"threshold": float("nan")}}}, "finite number"),
        ({"experts": {"classifier": {"layers": 1, "threshold": float("inf")}}}, "finite number"),
        ({"experts": {"allocation": {"share_of_uniform": float("inf")}}}, "finite number"),
        ({"post_pretrain": {"tokens": 9, "prior_coef": 0.1}}, "replay_share above 0"),
        ({"data": {"train": "a.jsonl", "valid": "v/{language}"}}, "must contain {language}"),
        (
            {
                "data": {
                    "train": "t/{language}",
                    "valid": "v/{language}",
                    "tasks": {"qa": "qa.jsonl"},
                }
            },
            "tasks.qa: a pattern must contain {language}, got 'qa.jsonl'",
        ),
        (
            {"experts": {"classifier": {"layers": [1], "form": "sequence"}}},
            "form=sequence judges whole rows",
        ),
        (
            {
                "experts": {
                    "classifier": {"layers": [1], "form": "sequence"},
                    "exact_retention": {"threshold": 0.0},
                }
            },
            "exact_retention keeps its decision beside the cache",
        ),
        ({"evaluation": {"max_new_tokens": 0}}, "evaluation.max_new_tokens"),
        ({"evaluation": {"max_task_examples": 0}}, "evaluation.max_task_examples"),
        ({"data": {"train": {"el": "a", "xx": "b"}, "valid": "v/{language}"}}, "xx stand in no"),
        ({"data": {"train": {"el": "a"}, "valid": "v/{language}"}}, "no text for en, hu, zh"),
        (
            {"data": {"train": {"el": {"path": "a", "hub": "b"}}, "valid": "v/{language}"}},
            "exactly one of `path` .* and `hub`",
        ),
        ({"languages": {"original": ["en"], "expanded": ["en"]}}, "more than one group"),
        ({"languages": {"original": ["english"], "expanded": ["el"]}}, "not a language tag"),
        (
            {"languages": {"original": ["en"], "expanded": [["el"], []]}},
            "expanded.1: .* at least 1",
        ),
        ({"experts": {"assignment": {"el": 2}}}, "hu of group G1 is not named"),
        ({"experts": {"assignment": {"el": 2, "hu+en": 2}}}, "'en' is no expanded language"),
        ({"experts": {"assignment": {"el+hu": 2, "hu+el": 3}}}, "name the same languages"),
        (
            {"experts": {"assignment": {"el": 0, "hu": 5}}},
            "experts.assignment.el: Input should be greater than or equal to 1",
        ),
        (
            {
                "languages": {"original": ["en"], "expanded": [["el"], ["hu"]]},
                "experts": {"assignment": {"el+hu": 5}},
            },
            "joins languages of different groups",
        ),
        (
            {
                "experts": {"assignment": {"el": 2, "hu": 3}},
                "post_pretrain": {"tokens": 9, "assignment_coef": 0},
            },
            "experts.assignment does nothing",
        ),
        (
            {"post_pretrain": {"tokens": 9, "assignment_hard_steps": 5}},
            "assignment_hard_steps does nothing with experts.assignment: shared",
        ),
    ],
)
def test_settings_that_contradict_or_do_nothing_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse_recipe(settings(**changes))


def test_overrides_are_yaml_and_reach_any_depth(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("base: b\noutput: o\n")
    recipe = load_recipe(
        path,
        [
            "languages={original: [en], expanded: [el]}",
            "data.train=t/{language}.jsonl",
            "data.valid=v/{language}.jsonl",
            "post_pretrain.tokens=1_000",
            "review=null",
        ],
    )
    assert recipe.post_pretrain.tokens == 1000
    assert recipe.review is None


@pytest.mark.parametrize("override", ["tokens", "=3", "base.x=3", "seed=[1"])
def test_a_wrong_override_says_how_to_write_it(tmp_path, override):
    path = tmp_path / "r.yaml"
    path.write_text("base: b\n")
    with pytest.raises(ConfigError, match="--set"):
        load_recipe(path, [override])


def test_a_missing_or_broken_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no recipe at"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
