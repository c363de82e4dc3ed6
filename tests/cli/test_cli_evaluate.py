"""`polycycle evaluate` and `polycycle lm-eval`."""

import json
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from polycycle.cli import app
from polycycle.languages import LanguageGroups
from polycycle.results import load_result, save_result
from polycycle.surgery import upcycle
from tests.results.example import example_result
from tests.text import VOCAB_SIZE, make_tokenizer, sentences, write_jsonl
from tests.tiny import save_dense


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`dense`, `moe`, `text/` and `questions/`, and `tasks/quiz`."""
    folder = tmp_path_factory.mktemp("evaluate")
    save_dense(folder / "dense", vocab_size=VOCAB_SIZE)
    make_tokenizer().save_pretrained(folder / "dense")
    groups = LanguageGroups(original=("en",), expanded=(("el",),))
    upcycle(folder / "dense", folder / "moe", num_experts=2, languages=groups)
    for language in ("el", "en"):
        write_jsonl(
            folder / f"text/{language}.jsonl", [{"text": t} for t in sentences(language, 10)]
        )
        asked = [{"prompt": "the", "choices": [" a", " b"], "answer": n % 2} for n in range(6)]
        write_jsonl(folder / f"questions/{language}.jsonl", asked)
        write_jsonl(folder / f"tasks/quiz/test/{language}.jsonl", asked)
    return folder


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_text_and_questions_are_measured_in_the_languages_that_the_model_names(place, tmp_path):
    done = call(
        "evaluate",
        place / "moe",
        "--data",
        place / "text",
        "--questions",
        place / "questions/{language}.jsonl",
        "--out",
        tmp_path / "scores.json",
    )
    assert done.exit_code == 0, done.output
    assert "Greek" in done.stdout
    found = json.loads((tmp_path / "scores.json").read_text())
    scores = found["scores"]["scores"]
    assert {tag: one["group"] for tag, one in scores.items()} == {"en": 0, "el": 1}
    assert scores["el"]["questions"] == 6
    assert 0 < scores["el"]["bits_per_byte"] < 100
    assert scores["el"]["kl_from_base"] < 1e-4  # a fresh upcycle is its base
    assert found["benchmarks"] is None


def test_a_dense_model_measures_the_same_text_alike(place, monkeypatch):
    # JSON is JSON also where the terminal has colours.
    coloured = Console(force_terminal=True, color_system="truecolor")
    monkeypatch.setattr("polycycle.cli.evaluate.out", coloured)
    bits = {}
    for model in ("dense", "moe"):
        arguments = ("--data", place / "text", "--languages", "el", "--json")
        done = call("evaluate", place / model, *arguments)
        assert done.exit_code == 0, done.output
        bits[model] = json.loads(done.stdout)["scores"]["scores"]["el"]["bits_per_byte"]
    assert bits["dense"] == pytest.approx(bits["moe"], rel=1e-5)


def write_recipe(place, folder, data=None, **settings):
    """A recipe for the texts there; the file that it stands in."""
    recipe = {
        "base": str(place / "dense"),
        "output": str(folder / "run"),
        "languages": {"original": ["en"], "expanded": ["el"]},
        "data": {
            "root": str(place),
            "train": "none/{language}.jsonl",
            "valid": "text/{language}.jsonl",
            **(data or {}),
        },
        "post_pretrain": {"tokens": 100},
        **settings,
    }
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(recipe))
    return file


def test_a_recipe_says_what_to_measure(place, tmp_path):
    recipe = write_recipe(place, tmp_path, {"questions": "questions/{language}.jsonl"})
    done = call("evaluate", place / "moe", "--recipe", recipe, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["scores"]["scores"]["el"]["questions"] == 6


def test_the_revision_of_a_recipe_is_its_bases_alone(place, tmp_path, monkeypatch):
    asked = []

    def fetch(name, *, revision, allow_patterns):
        asked.append((name, revision))
        return str(place / "dense")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    recipe = write_recipe(place, tmp_path, base="owner/base", base_revision="v1")
    for model in ("owner/base", "owner/other"):
        done = call("evaluate", model, "--recipe", recipe)
        assert done.exit_code == 0, done.output
    assert set(asked) == {("owner/base", "v1"), ("owner/other", None)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to measure: --suite moe-lpr"),
        (["--data", "{place}/text", "--recipe", "r.yaml"], "drop --data"),
        (["--data", "{place}/text"], "names no languages; say which"),
        (["--questions", "q", "--task-data", "{place}/tasks"], "give held-out text, too"),
        (["--data", "{place}/text", "--set", "seed=1"], "--set changes a recipe"),
        (["--data", "{place}/text", "--limit", "5"], "--limit 5 is for benchmarks; say which"),
        (["--recipe", "r.yaml", "--languages", "el"], "drop one of --languages and --recipe"),
        # Before the text is measured: the language is none.
        (["--data", "{place}/none", "--suite", "moe-lpr", "--languages", "e"], "'e' is not a lang"),
    ],
)
def test_what_cannot_be_measured_is_told_with_what_to_type(place, arguments, message):
    filled = [argument.format(place=place) for argument in arguments]
    done = call("evaluate", place / "dense", *filled)
    assert done.exit_code == 1, done.output
    assert message in " ".join(done.output.split())


def test_the_scores_of_a_run_go_nowhere_but_into_it(place, tmp_path):
    save_result(example_result(), tmp_path / "result.json")
    done = call("evaluate", tmp_path, "--task-data", place / "tasks", "--out", tmp_path / "s.json")
    assert done.exit_code == 1, done.output
    assert "its scores are kept in its own folder" in " ".join(done.output.split())


def test_without_lm_eval_the_error_is_how_to_install_it(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    done = call("evaluate", place / "moe", "--task-data", place / "tasks")
    assert done.exit_code == 1
    assert "pip install 'polycycle[eval]'" in " ".join(done.output.split())
    assert call("lm-eval", "ls", "tasks").exit_code == 1


def test_benchmarks_of_a_run_join_its_result_report_and_card(place, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    result = example_result()
    folders = {"base": place / "dense", "review": tmp_path / "review"}
    upcycle(place / "dense", tmp_path / "review", num_experts=2)
    from polycycle.checkpoint import content_hash, open_checkpoint

    models = tuple(
        model.model_copy(
            update={
                "folder": str(folders[model.name]),
                "content_hash": content_hash(open_checkpoint(folders[model.name])),
            }
        )
        for model in result.models
        if model.name in folders
    )
    recipe = {key: value for key, value in result.recipe.items() if key != "base_revision"}
    changed = result.model_copy(update={"models": models, "recipe": recipe})
    save_result(changed, tmp_path / "result.json")
    arguments = ("--task-data", place / "tasks", "--languages", "el,en", "--shots", 1)
    done = call("evaluate", tmp_path, *arguments)
    assert done.exit_code == 0, done.output
    assert "quiz (acc, 1 shots)" in done.stdout
    merged = load_result(tmp_path / "result.json")
    base, review = (model.benchmarks for model in merged.models)
    assert base.score("quiz", "el").value == review.score("quiz", "el").value
    assert "quiz (acc, 1 shots)" in (tmp_path / "report/report.html").read_text()
    assert "quiz (acc, 1 shots), Expanded" in (tmp_path / "review/README.md").read_text()


@pytest.mark.slow
def test_lm_eval_itself_loads_our_class_with_its_own_hf_model(place, tmp_path):
    """The whole command in a process of its own, batched: what it reads and writes is the base's.

    A fresh upcycle is its base, so scores and written texts are those of the dense model.
    """
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    tasks = tmp_path / "yaml"
    tasks.mkdir()
    rows = [{"q": text, "a": "river"} for text in sentences("en", 5)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    data = (
        "dataset_path: json\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
    )
    (tasks / "read.yaml").write_text(
        f"task: read_test\n{data}output_type: loglikelihood_rolling\n"
        "doc_to_text: ''\ndoc_to_target: '{{q}}'\nmetric_list: [{metric: bits_per_byte}]\n"
    )
    (tasks / "copy.yaml").write_text(
        f"task: copy_test\n{data}output_type: generate_until\ndoc_to_text: q\ndoc_to_target: a\n"
        "generation_kwargs: {until: ['\\n'], max_gen_toks: 4, do_sample: false}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    bits, written = {}, {}
    for model in ("dense", "moe"):
        out = tmp_path / model
        command = [sys.executable, "-m", "polycycle", "lm-eval", "run", "--model", "hf"]
        command += ["--model_args", f"pretrained={place / model},dtype=float32"]
        command += ["--batch_size", "3", "--device", "cpu", "--include_path", str(tasks)]
        command += ["--tasks", "read_test", "copy_test", "--output_path", str(out)]
        command += ["--log_samples"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "copy_test" in done.stdout
        (file,) = out.rglob("results_*.json")
        found = json.loads(file.read_text())
        assert found["n-samples"]["copy_test"]["effective"] == 5
        bits[model] = found["results"]["read_test"]["bits_per_byte,none"]
        (file,) = out.rglob("samples_copy_test_*.jsonl")
        written[model] = [json.loads(line)["resps"] for line in file.read_text().splitlines()]
    assert bits["moe"] == pytest.approx(bits["dense"], rel=1e-5)
    assert written["moe"] == written["dense"]
    assert any(map(str.strip, (text for ((text,),) in written["moe"])))
