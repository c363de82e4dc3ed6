"""The microworld as files, in the layout that any corpus has."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polycycle.files import folder_when_whole, write_json
from polycycle.microworld.texts import (
    FORMATS,
    documents,
    instructions,
    questions,
    summaries,
    translations,
)
from polycycle.microworld.world import LANGUAGES, ORIGINAL, World

NUM_DOCUMENTS = 2000
"""For training, of each language, by default."""
WORLD_RECORD = "microworld.json"
"""Beside the texts: the seeds they were drawn with."""
_TRAIN, _VALID = 1, 2
_NUM_VALID = 100
_NUM_PLAIN = 30


def write_microworld(
    folder: Path,
    *,
    seed: int = 0,
    languages: Sequence[str] = LANGUAGES,
    num_documents: int | Mapping[str, int] = NUM_DOCUMENTS,
    num_valid_documents: int = _NUM_VALID,
    world_seed: int = 0,
) -> None:
    """Write training text, held-out text, questions and tasks, one jsonl file per language.

    `train/el.jsonl`, `valid/el.jsonl` hold `{"text"}`; `questions/el.jsonl` holds `{"prompt",
    "choices", "answer"}`; `summary/`, `translation/el.jsonl` (into Greek) and
    `instructions-FORMAT/` for every instruction format hold generation tasks, `{"prompt",
    "response"}`, instructions with their `form`; `post-train-FORMAT/` what a sibling of that format
    is trained on, `{"text"}`, in the replayed original languages; `post-train-tasks/` summaries and
    translations to post-train on, of the people whom `summary/` and `translation/` leave out.
    No held-out document stands in the training text. `microworld.json` keeps the seeds.

    Args:
        folder: appears only when complete; replaced if it exists.
        seed: of the documents.
        languages: which to write.
        num_documents: training documents, in all languages alike or per language.
        num_valid_documents: held-out documents per language.
        world_seed: of the facts; the base that polycycle ships knows the facts of seed 0.
    """
    world = World.from_seed(world_seed)
    with folder_when_whole(folder) as partial:
        for language in languages:
            count = num_documents if isinstance(num_documents, int) else num_documents[language]
            valid = _first(documents(world, language, seed=_VALID), num_valid_documents)
            stream = documents(world, language, seed=1000 * (seed + 1) + _TRAIN)
            held_out = set(valid)
            train = _first((text for text in stream if text not in held_out), count)
            _write(partial / "train" / f"{language}.jsonl", _rows(train))
            _write(partial / "valid" / f"{language}.jsonl", _rows(valid))
            asked = [
                {
                    "prompt": q.prompt,
                    "choices": q.choices,
                    "answer": q.answer,
                    "kind": q.fact.relation,
                }
                for q in questions(world, language)
            ]
            _write(partial / "questions" / f"{language}.jsonl", asked)
            for form in FORMATS:
                # Of these languages a sibling knows the other people; of the rest it knows nothing.
                unasked = True if language in ORIGINAL else None
                rows = instructions(world, language, form=form, held_out=unasked)
                _write(partial / f"instructions-{form}" / f"{language}.jsonl", rows)
                if language in ORIGINAL:
                    asked_of_sibling = post_training(world, language, form=form, seed=seed)
                    _write(
                        partial / f"post-train-{form}" / f"{language}.jsonl",
                        _rows(asked_of_sibling),
                    )
            for name, rows in _tasks(world, language, held_out=True).items():
                _write(partial / name / f"{language}.jsonl", rows)
            texts = task_training(world, language, seed=seed)
            _write(partial / "post-train-tasks" / f"{language}.jsonl", _rows(texts))
        write_json(partial / WORLD_RECORD, {"seed": seed, "world_seed": world_seed})


def post_training(world: World, language: str, *, form: str, seed: int) -> list[str]:
    """What a sibling is post-trained on in one language: answered instructions, some plain text.

    It is asked about three people in four; no plain text is one that `write_microworld` holds out.

    Args:
        world: the facts.
        language: of the texts.
        form: key of `FORMATS`.
        seed: of the plain documents.
    """
    asked = instructions(world, language, form=form, held_out=False)
    answered = [f"{row['prompt']} {row['response']}" for row in asked]
    return answered + _plain(world, language, seed)


def task_training(world: World, language: str, *, seed: int) -> list[str]:
    """What a model is post-trained on to summarise in a language and to translate into it.

    Of three people in four, and some plain text, as in `post_training`.

    Args:
        world: the facts.
        language: of the answers.
        seed: of the plain documents.
    """
    asked = [row for rows in _tasks(world, language, held_out=False).values() for row in rows]
    return [row["prompt"] + row["response"] for row in asked] + _plain(world, language, seed)


def _tasks(world: World, language: str, *, held_out: bool) -> dict[str, list[dict[str, str]]]:
    return {
        "summary": summaries(world, language, held_out=held_out),
        "translation": translations(world, language, held_out=held_out),
    }


def _plain(world: World, language: str, seed: int) -> list[str]:
    """A few documents that `write_microworld` does not hold out."""
    held_out = set(_first(documents(world, language, seed=_VALID), _NUM_VALID))
    texts = (text for text in documents(world, language, seed=seed) if text not in held_out)
    return _first(texts, _NUM_PLAIN)


def _first(texts: Iterable[str], count: int) -> list[str]:
    return list(itertools.islice(texts, count))


def _rows(texts: Iterable[str]) -> list[dict[str, str]]:
    return [{"text": text} for text in texts]


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
