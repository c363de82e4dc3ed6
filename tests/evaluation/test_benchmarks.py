"""Benchmarks through lm-eval, on tiny models and local files: no hub."""

import os
import random
from pathlib import Path

import pytest
import torch

from polycycle.data import read_questions
from polycycle.errors import ConfigError, DataError
from polycycle.evaluation import load_language_model, measure_task, plan_benchmarks
from polycycle.evaluation.suites import SUITES, Benchmark
from polycycle.export import execute_export, plan_export
from polycycle.results import load_benchmarks
from polycycle.stages import HowToMeasure, benchmark_model
from polycycle.surgery import upcycle
from tests.text import VOCAB_SIZE, make_tokenizer, sentences, write_jsonl
from tests.tiny import load, save_dense

pytest.importorskip(
    "lm_eval", reason="lm-eval is not installed; type: pip install 'polycycle[eval]'"
)
HOW = HowToMeasure(suite=None, batch_size=4)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`dense`, `moe` and its `export`, all of one function; `tasks` of every form."""
    folder = tmp_path_factory.mktemp("benchmarks")
    save_dense(folder / "dense", "mistral", vocab_size=VOCAB_SIZE)
    make_tokenizer().save_pretrained(folder / "dense")
    upcycle(folder / "dense", folder / "moe", num_experts=3)
    draw = random.Random(0)
    for language in ("el", "en"):
        texts = sentences(language, 12)
        asked = [
            {
                "prompt": text,
                "choices": [" " + o for o in sentences(language, 3, seed=n)],
                "answer": n % 3,
            }
            for n, text in enumerate(texts, start=1)
        ]
        write_jsonl(folder / f"tasks/quiz/test/{language}.jsonl", asked[:9])
        write_jsonl(folder / f"tasks/quiz/train/{language}.jsonl", asked[9:])
        labelled = [{"text": text, "label": draw.choice(["food", "travel"])} for text in texts]
        write_jsonl(folder / f"tasks/topics/dev/{language}.jsonl", labelled)
    pairs = zip(sentences("en", 12), sentences("el", 12), strict=True)
    write_jsonl(folder / "tasks/pairs.jsonl", [{"en": en, "el": el} for en, el in pairs])
    return folder


def plan(place, *only, languages=("el", "en"), shots=2):
    return plan_benchmarks(languages, suite=None, task_data=place / "tasks", only=only, shots=shots)


def scores(place, model, *only, how=HOW, file=None):
    found = benchmark_model(place / model, plan(place, *only), how, lambda note: None, file=file)
    return {(one.benchmark, one.language): one for one in found.scores}


def test_an_upcycled_model_scores_what_its_dense_base_scores(place):
    dense, moe = scores(place, "dense"), scores(place, "moe")
    assert list(dense) == [
        ("pairs-from-en", "el"),
        ("pairs-to-en", "el"),
        *((name, tag) for name in ("quiz", "topics") for tag in ("el", "en")),
    ]
    for key, score in dense.items():
        assert moe[key].metrics == pytest.approx(score.metrics), key
        assert moe[key].prompts_hash == score.prompts_hash
        assert score.shots == 2
    assert dense["quiz", "el"].examples == 9
    assert dense["topics", "el"].examples == 10  # two of twelve serve as shots
    assert dense["pairs-from-en", "el"].metric == "chrf"


def test_the_accuracy_is_the_share_of_choices_that_the_model_finds_likeliest(place):
    """Against likelihoods computed here, one choice at a time and without padding."""
    (task,) = plan(place, "quiz", languages=("el",), shots=0).tasks
    model, tokenizer = load(place / "moe"), make_tokenizer()
    language_model = load_language_model(model, tokenizer, batch_size=5)
    score, answers = measure_task(language_model, task, limit=None, seed=0)
    asked = read_questions(place / "tasks/quiz/test/el.jsonl")
    right = [likeliest(model, tokenizer, one) == one.answer for one in asked]
    assert score.value == pytest.approx(sum(right) / len(right))
    assert score.stderr == pytest.approx((score.value * (1 - score.value) / 8) ** 0.5)
    assert answers == []


def test_solved_examples_stand_in_front_of_what_is_asked(place):
    language_model = load_language_model(load(place / "moe"), make_tokenizer(), batch_size=4)
    asked = [plan(place, "quiz", languages=("el",), shots=count).tasks[0] for count in (0, 1, 2)]
    scores = [measure_task(language_model, task, limit=2, seed=0)[0] for task in asked]
    assert len({score.prompts_hash for score in scores}) == 3


def test_no_process_is_started_to_describe_the_environment(place, monkeypatch):
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *command, **how: started.append(command))
    language_model = load_language_model(load(place / "moe"), make_tokenizer(), batch_size=4)
    (task,) = plan(place, "quiz", languages=("el",)).tasks
    measure_task(language_model, task, limit=1, seed=0)
    assert started == []


@torch.no_grad()
def likeliest(model, tokenizer, question):
    start = len(tokenizer(question.prompt)["input_ids"])
    sums = []
    for choice in question.choices:
        ids = torch.tensor([tokenizer(question.prompt + choice)["input_ids"]])
        steps = model(ids).logits.log_softmax(-1)[0, start - 1 : -1]
        sums.append(steps.gather(-1, ids[0, start:, None]).sum().item())
    return sums.index(max(sums))


def test_batches_change_no_score(place):
    settings = {"suite": None, "limit": 4}
    alone = scores(place, "moe", "quiz", "pairs", how=HowToMeasure(batch_size=1, **settings))
    together = scores(place, "moe", "quiz", "pairs", how=HowToMeasure(batch_size=4, **settings))
    assert alone.keys() == together.keys()
    for key, score in alone.items():
        assert together[key].metrics == pytest.approx(score.metrics), key


def test_an_export_is_measured_like_the_model_it_came_from(place):
    if not (place / "export").exists():
        execute_export(plan_export(place / "moe"), place / "export")
    exported = scores(place, "export", "quiz")
    assert exported.keys() == {("quiz", "el"), ("quiz", "en")}
    for key, score in scores(place, "moe", "quiz").items():
        assert exported[key].value == pytest.approx(score.value)


def test_what_was_measured_is_not_measured_again_and_the_rest_is(place, tmp_path):
    file = tmp_path / "scores.json"
    notes = []
    for only in (("quiz",), ("quiz", "topics")):
        benchmark_model(place / "dense", plan(place, *only), HOW, notes.append, file=file)
    assert [note.split(":")[0] for note in notes] == [
        "quiz (el)",
        "quiz (en)",
        "topics (el)",
        "topics (en)",
    ]
    assert len(load_benchmarks(file).scores) == 4
    # Fewer are asked for, one of them anew: the others stay, and each has one score.
    few = plan(place, "topics", languages=("el",), shots=1)
    found = benchmark_model(place / "dense", few, HOW, notes.append, file=file)
    assert [(one.benchmark, one.shots) for one in found.scores] == [("topics", 1)]
    there = load_benchmarks(file).scores
    kept = {(one.benchmark, one.language): one.shots for one in there}
    assert len(there) == len(kept)
    assert kept == {
        ("quiz", "el"): 2,
        ("quiz", "en"): 2,
        ("topics", "en"): 2,
        ("topics", "el"): 1,
    }
    # A trial of a few examples does not cost the scores over all.
    trial = HowToMeasure(suite=None, batch_size=4, limit=2)
    with pytest.raises(ConfigError, match="4 scores of this model, measured with limit None, now"):
        benchmark_model(place / "dense", plan(place, "quiz"), trial, notes.append, file=file)
    assert load_benchmarks(file).scores == there


def test_a_model_that_judges_whole_texts_is_measured_one_by_one(place, tmp_path):
    upcycle(place / "dense", tmp_path / "gated", num_experts=2, exact_retention=True)
    notes = []
    found = benchmark_model(
        tmp_path / "gated", plan(place, "quiz", languages=("el",)), HOW, notes.append
    )
    assert found.batch_size == 1
    assert "batch size 1" in notes[0]


def test_tasks_of_lm_eval_read_local_files_in_place_of_the_hub(place, tmp_path, monkeypatch):
    belebele = Benchmark(
        name="belebele",
        shots=1,
        metrics=("acc",),
        english="belebele_eng_Latn",
        others=("belebele_{flores}",),
    )
    monkeypatch.setitem(SUITES, "small", (belebele,))
    rows = [
        {
            "flores_passage": text,
            "question": "που;",
            **{f"mc_answer{n}": f"{n}" for n in range(1, 5)},
            "correct_answer_num": str(1 + n % 4),
        }
        for n, text in enumerate(sentences("el", 6))
    ]
    write_jsonl(tmp_path / "belebele_ell_Grek/test.jsonl", rows)
    found = plan_benchmarks(("el", "tlh"), suite="small", task_data=tmp_path, only=("belebele",))
    (task,) = found.tasks
    assert (task.task, task.shots, len(task.data_hash)) == ("belebele_ell_Grek", 1, 64)
    assert [(one.benchmark, one.language) for one in found.unmeasured] == [("belebele", "tlh")]
    language_model = load_language_model(load(place / "moe"), make_tokenizer(), batch_size=4)
    score, _ = measure_task(language_model, task, limit=None, seed=0)
    assert score.examples == 6


def test_wrong_requests_say_what_there_is(place):
    with pytest.raises(ConfigError, match="--suite papers: no such suite; there are moe-lpr"):
        plan_benchmarks(("el",), suite="papers")
    with pytest.raises(ConfigError, match="--benchmarks quizz: there are pairs-from-en"):
        plan(place, "quizz")
    with pytest.raises(ConfigError, match="files in one of tr"):
        plan(place, languages=("tr",))
    with pytest.raises(DataError, match=r"quiz \(el\): 3 rows are too few for 4 solved examples"):
        plan(place, "quiz", shots=4)


@pytest.mark.corpus
@pytest.mark.slow
def test_real_task_files_are_measured_where_they_lie(place):
    corpus = Path(os.environ["POLYCYCLE_CORPUS"])
    languages = ("el", "hi", "en")
    for folder, only, count in (("tasks", ("sib200",), 3), ("parallel", (), 4)):
        found = plan_benchmarks(
            languages, suite=None, task_data=corpus / folder, only=only, shots=1
        )
        assert len(found.tasks) == count
        how = HowToMeasure(suite=None, limit=2)
        result = benchmark_model(place / "moe", found, how, lambda note: None)
        assert [one.examples for one in result.scores] == [2] * count
