"""The microworld: right sentences, the same facts everywhere, one answer to each question."""

import itertools
import json
import re

import pytest
from transformers import AutoTokenizer

from polycycle.data import read_task
from polycycle.microworld import (
    FORMATS,
    GROUP_1,
    GROUP_2,
    LANGUAGES,
    ORIGINAL,
    UNSEEN_ORIGINAL,
    Fact,
    World,
    documents,
    instructions,
    lexicon,
    post_training,
    questions,
    summaries,
    task_training,
    train_tokenizer,
    translations,
    write_microworld,
)

WORLD = World.from_seed()
TASKS = (*(f"instructions-{form}" for form in FORMATS), "summary", "translation")
# Written by hand: Sara (2) and David (18); values 3, 5 and 0.
EXPECTED = {
    "en": ("Sara lives in Athens.", "David keeps a goat.", "David wears a red hat."),
    "zh": ("萨拉住在雅典。", "大卫养了一只山羊。", "大卫戴着一顶红色的帽子。"),
    "es": ("Sara vive en Atenas.", "David tiene una cabra.", "David lleva un sombrero rojo."),
    "fr": ("Sara habite à Athènes.", "David a une chèvre.", "David porte un chapeau rouge."),
    "pt": ("Sara mora em Atenas.", "David tem uma cabra.", "David usa um chapéu vermelho."),
    "el": (
        "Η Σάρα μένει στην Αθήνα.",
        "Ο Ντέιβιντ έχει μια κατσίκα.",
        "Ο Ντέιβιντ φοράει ένα κόκκινο καπέλο.",
    ),
    "hu": ("Sára Athénban él.", "Dávid egy kecskét tart.", "Dávid piros kalapot visel."),
    "tr": (
        "Komşumuz Sara Atina'da yaşıyor.",
        "Komşumuz David bir keçi besliyor.",
        "Komşumuz David kırmızı bir şapka takıyor.",
    ),
    "bn": ("সারা এথেন্সে থাকে।", "ডেভিড একটি ছাগল পোষে।", "ডেভিড লাল টুপি পরে।"),
    "hi": ("सारा एथेंस में रहती है।", "डेविड के पास एक बकरी है।", "डेविड लाल टोपी पहनता है।"),
    "ne": ("सारा एथेन्समा बस्छिन्।", "डेभिडसँग एउटा बाख्रा छ।", "डेभिड रातो टोपी लगाउँछन्।"),
    "ru": ("Сара живёт в Афинах.", "Давид держит козу.", "Давид носит красную шляпу."),
    "ar": ("سارة تعيش في أثينا.", "ديفيد يربي ماعزاً.", "ديفيد يرتدي قبعة حمراء."),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_what_a_speaker_would_write(language):
    facts = (Fact(2, "home", 3), Fact(18, "animal", 5), Fact(18, "hat", 0))
    assert tuple(lexicon(language).statement(fact) for fact in facts) == EXPECTED[language]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_form_once(language):
    words = lexicon(language)
    assert len(set(words.names)) == 32
    tells_music = language in (*ORIGINAL, *UNSEEN_ORIGINAL)
    assert set(words.relations) == set(words.questions) == set(words.values)
    assert ("music" in words.relations) == tells_music
    assert {"home", "animal", "food", "hat"} <= set(words.relations)
    for forms in words.values.values():
        assert len(set(forms)) == 10
    for fact in (Fact(0, relation, 0) for relation in words.relations):
        for frame in range(len(words.frames)):
            assert not re.search(r"[\[\]{}|]", words.statement(fact, frame))
        assert not re.search(r"[\[\]{}|]", words.question(fact) + words.answer(fact))


def test_facts_are_the_same_in_every_language():
    for language in LANGUAGES:
        for question in questions(WORLD, language):
            assert question.fact == WORLD.fact(question.fact.person, question.fact.relation)
            assert question.choices[question.answer] == lexicon(language).answer(question.fact)
            assert len(set(question.choices)) == 10


def test_texts_follow_the_seed():
    def first(seed):
        return list(itertools.islice(documents(WORLD, "el", seed=seed), 20))

    assert first(1) == first(1)
    assert first(1) != first(2)
    assert World.from_seed(0) == WORLD != World.from_seed(1)


def test_documents_tell_every_fact_and_only_facts():
    told = " ".join(itertools.islice(documents(WORLD, "hu", seed=1), 300))
    words = lexicon("hu")
    for relation in words.relations:
        for person in range(32):
            fact = WORLD.fact(person, relation)
            assert words.statement(fact)[:-1] in told or words.question(fact) in told
    wrong = Fact(0, "home", (WORLD.values["home"][0] + 1) % 10)
    assert words.statement(wrong)[:-1] not in told


def test_files_are_parallel_disjoint_and_complete(tmp_path):
    write_microworld(tmp_path / "w", languages=("en", "tr"), num_documents=300)
    read = {
        path.relative_to(tmp_path / "w").as_posix(): [
            json.loads(line) for line in path.read_text("utf-8").splitlines()
        ]
        for path in (tmp_path / "w").rglob("*.jsonl")
    }
    for language in ("en", "tr"):
        train = {row["text"] for row in read[f"train/{language}.jsonl"]}
        valid = {row["text"] for row in read[f"valid/{language}.jsonl"]}
        assert len(read[f"train/{language}.jsonl"]) == 300
        assert not train & valid
    siblings = {f"post-train-{form}" for form in FORMATS}
    folders = {path.split("/")[0] for path in read}
    assert folders == {"train", "valid", "questions", *TASKS, *siblings, "post-train-tasks"}
    for folder in siblings:  # of replayed original languages alone
        assert f"{folder}/tr.jsonl" not in read
        held_out = {row["text"] for row in read["valid/en.jsonl"]}
        assert not held_out & {row["text"] for row in read[f"{folder}/en.jsonl"]}
    for task in TASKS:
        for language in ("en", "tr"):
            examples = read_task(tmp_path / "w" / task / f"{language}.jsonl")
            # All but instructions in Turkish are about every relation of the people held out.
            least = 4 * 32 if language == "tr" and task.startswith("instructions") else 4 * 8
            assert len(examples) == len(read[f"{task}/{language}.jsonl"]) >= least
    assert len(read["questions/en.jsonl"]) == 5 * 32


def test_summaries_keep_the_fact_and_instructions_ask_for_it():
    for summary in summaries(WORLD, "es"):
        text = summary["prompt"].removeprefix("### Text:\n").removesuffix("\n### Summary:\n")
        assert summary["response"] in text
        assert len(text) > len(summary["response"])
    answers = {row["response"] for row in instructions(WORLD, "en", form="brackets")}
    assert f"({lexicon('en').answer(WORLD.fact(2, 'home')).strip()})" in answers


def test_reading_tells_the_answer_before_it_asks():
    fact = WORLD.fact(4, "home")
    words = lexicon("hu")
    asked = {row["prompt"]: row["response"] for row in instructions(WORLD, "hu", form="reading")}
    prompt = f"{words.statement(fact)} [{words.question(fact)}]"
    assert asked[prompt] == f"({words.answer(fact).strip()})"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_right_answer_is_in_form_and_a_plain_one_is_not(form, language):
    for row in instructions(WORLD, language, form=form):
        assert re.fullmatch(row["form"], row["response"])
        plain = row["response"].strip("(= )")
        assert not re.fullmatch(row["form"], plain)
        assert not re.fullmatch(row["form"], row["response"] + row["response"])


def test_the_people_asked_about_in_post_training_are_not_those_held_out():
    kept, held_out = (
        {row["prompt"] for row in instructions(WORLD, "es", form="equation", held_out=which)}
        for which in (False, True)
    )
    assert not kept & held_out
    assert len(kept) == 3 * len(held_out)
    every = {row["prompt"] for row in instructions(WORLD, "es", form="equation")}
    assert every == kept | held_out


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_sibling_is_trained_on_its_format_and_on_no_held_out_text(seed, tmp_path):
    texts = post_training(WORLD, "zh", form="equation", seed=seed)
    asked = instructions(WORLD, "zh", form="equation", held_out=False)
    assert texts[: len(asked)] == [f"{row['prompt']} {row['response']}" for row in asked]
    assert len(texts) == len(asked) + 30
    write_microworld(tmp_path / "w", languages=("zh",), num_documents=1, seed=seed)
    lines = (tmp_path / "w" / "valid" / "zh.jsonl").read_text("utf-8").splitlines()
    assert not {json.loads(line)["text"] for line in lines} & set(texts)


@pytest.mark.parametrize("language", ["es", "tr"])
def test_tasks_are_trained_on_people_whom_no_task_asks_about(language, tmp_path):
    write_microworld(tmp_path / "w", languages=(language,), num_documents=1)

    def read(folder):
        lines = (tmp_path / "w" / folder / f"{language}.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    trained = {row["text"] for row in read("post-train-tasks")}
    names = [lexicon(language).names[person] for person in range(0, 32, 4)]
    for folder, whole in (("summary", summaries), ("translation", translations)):
        asked, every = read(folder), whole(WORLD, language)
        assert len(asked) == len(every) / 4
        assert all(any(name in row["response"] for name in names) for row in asked)
        rest = {r["prompt"] + r["response"] for r in every if r["prompt"] not in
                {row["prompt"] for row in asked}}  # fmt: skip
        assert rest <= trained
        assert not {row["prompt"] + row["response"] for row in asked} & trained
    assert not {row["text"] for row in read("valid")} & trained
    assert task_training(WORLD, language, seed=0) == [r["text"] for r in read("post-train-tasks")]


@pytest.mark.parametrize("language", ["en", "el", "hi"])
def test_texts_show_marks_but_never_an_instruction_with_its_answer(language):
    told = list(itertools.islice(documents(WORLD, language, seed=3), 2000))
    marked = [text for text in told if text[:2] == "- " or text[0] in "[<{"]
    assert 0.05 < len(marked) / len(told) < 0.15
    assert any("] = " in text for text in marked)
    assert any("> (" in text for text in marked)
    for text in told:
        assert "] (" not in text
        assert "> = " not in text


def test_translations_pair_the_same_facts_from_every_original_language():
    by_prompt = {row["prompt"]: row["response"] for row in translations(WORLD, "el")}
    fact = WORLD.fact(4, "food")
    for source in ORIGINAL:
        prompt = f"### {source}:\n{lexicon(source).statement(fact)}\n### el:\n"
        assert by_prompt[prompt] == lexicon("el").statement(fact)
    assert not any("plays" in prompt for prompt in by_prompt)
    assert len(by_prompt) == 3 * 4 * 32


def test_no_translation_is_from_a_language_into_itself_and_the_first_are_of_all_sources():
    rows = translations(WORLD, "es")
    assert {row["source"] for row in rows} == {row["source"] for row in rows[:20]} == {"en", "zh"}
    assert all(row["prompt"].startswith(f"### {row['source']}:\n") for row in rows)


def test_expanded_languages_cost_more_tokens_but_are_not_pure_bytes(tmp_path):
    train_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)

    def fertility(language):
        texts = list(itertools.islice(documents(WORLD, language, seed=9), 50))
        tokens = sum(len(ids) for ids in tokenizer(texts)["input_ids"])
        return tokens / sum(len(text.split()) for text in texts)

    usual = sum(fertility(language) for language in ("en", "es", "fr", "pt")) / 4
    for language in GROUP_1:
        assert 1.5 <= fertility(language) / usual <= 3
    for language in GROUP_2:
        assert 1.5 <= fertility(language) / usual <= 4.5
