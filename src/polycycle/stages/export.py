"""A stock checkpoint of a model, proved on the held-out text of its languages."""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from polycycle.config import Recipe
from polycycle.data import Skipped, TextSource, read_documents
from polycycle.errors import ExportError
from polycycle.export import (
    ExportPlan,
    fill_export,
    plan_export,
    read_proof,
    read_record,
    verify,
)
from polycycle.languages import languages_by_group
from polycycle.results import ExportedLanguage, ExportResult
from polycycle.stages.corpora import text_source
from polycycle.stages.run import Run
from polycycle.stages.stage import Stage

TEXTS_PER_LANGUAGE = 4


def export(run: Run, source: Path) -> ExportResult:
    """The finished model `source` as a stock checkpoint, proved on held-out text."""
    config = run.recipe.export
    assert config is not None
    stage = Stage(
        name="export",
        result_version=1,
        inputs={
            "source": run.keys[source.name],
            "settings": config.model_dump(mode="json"),
            "text": run.held_out_inputs()["valid"],
        },
        make=partial(_export, run, config.engine, source),
    )
    return export_result(run.do(stage))


def _export(run: Run, engine: str, source: Path, folder: Path) -> dict[str, Any]:
    plan = plan_recipe_export(run.recipe, source)
    fill_proved_export(plan, folder, engine=engine, recipe=run.recipe)
    return {"bytes": sum(job.num_bytes for job in plan.jobs)}


def plan_recipe_export(recipe: Recipe, model: Path) -> ExportPlan:
    """What exporting a model of a recipe's run would write.

    Raises:
        ExportError: no target is exact.
    """
    config = recipe.export
    assert config is not None
    return plan_export(
        model,
        target=config.target,
        engine=config.engine,
        without_exact_retention=config.without_exact_retention,
    )


def held_out_texts(recipe: Recipe) -> dict[str, list[str]]:
    """The first texts of every language of a recipe that no training reads.

    Raises:
        DataError, ConfigError: a language has none.
    """
    return {
        language: first_texts(
            text_source(recipe.data, language, "valid"),
            language,
            root=recipe.data.root,
            on_bad_document=recipe.data.on_bad_document,
        )
        for language in recipe.languages.groups().all
    }


def first_texts(
    source: TextSource,
    language: str,
    *,
    root: Path = Path("."),
    on_bad_document: Literal["error", "skip"] = "error",
) -> list[str]:
    """The first texts of a source.

    Raises:
        DataError: there is none.
    """
    documents = read_documents(
        source, language, root=root, on_bad_document=on_bad_document, skipped=Skipped()
    )
    return [document.text for document in itertools.islice(documents, TEXTS_PER_LANGUAGE)]


def fill_proved_export(plan: ExportPlan, folder: Path, *, engine: str, recipe: Recipe) -> None:
    """Write an export into a folder that is there and empty, and prove it.

    Raises:
        ExportError: it does not compute what the model computes.
    """
    fill_export(plan, folder, engine=engine)
    proof = verify(folder, plan.source.checkpoint.folder, texts=held_out_texts(recipe))
    if not proof["passed"]:
        raise ExportError(
            f"the export to {plan.target_name} does not compute what {plan.source.name} "
            "computes:\n  " + "\n  ".join(proof["failures"]) + "\nNothing was kept of it. Please "
            "report this: it should have been refused"
        )


def export_result(folder: Path) -> ExportResult:
    """What an exported folder says of itself.

    Raises:
        ExportError: it is no export, or was never verified.
    """
    record, proof = read_record(folder), read_proof(folder)
    if record is None:
        raise ExportError(f"{folder}: it is no export: `polycycle export` writes one")
    if proof is None:
        raise ExportError(f"{folder}: it was never verified: run `polycycle verify`")
    if "languages" not in proof:
        raise ExportError(f"{folder}: {'; '.join(proof['failures'])}")
    return ExportResult(
        folder=str(folder),
        source=record["exported_from"],
        base=record["base_model"],
        base_hash=record["base_hash"],
        trained_languages=tuple(itertools.chain(*languages_by_group(record["language_groups"]))),
        target=record["target"],
        model_class=proof["model_class"],
        engines=record["right_for"],
        dtype=proof["dtype"],
        compared_on=proof["text"],
        passed=proof["passed"],
        settled_in_float32="settled_in_float32" in proof,
        without_exact_retention=record["without_exact_retention"],
        languages=dict(_languages(proof["languages"])),
        versions=proof["versions"],
    )


def _languages(compared: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ExportedLanguage]]:
    same: Sequence[str] = ("tokens", "argmax_agreement", "same_greedy", "texts", "is_bit_equal")
    for language, found in compared.items():
        yield (
            language,
            ExportedLanguage(
                largest_difference=found["max_abs_difference"] / found["scale"],
                mean_kl=found["mean_kl"],
                **{name: found[name] for name in same},
            ),
        )
