"""`polycycle evaluate`: one model on text, questions and benchmarks; `lm-eval` as it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polycycle.cli.app import out, print_json, tell, verb
from polycycle.cli.publishing import publish
from polycycle.errors import ConfigError

if TYPE_CHECKING:
    from polycycle.evaluation import Plan
    from polycycle.results import BenchmarkResult, ModelScores, RunResult
    from polycycle.stages import HowToMeasure


@verb("evaluate", "Steps")
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A model (folder or hub id: dense, upcycled or exported), or a run folder, whose "
            "final model is then measured with what it is compared with."
        ),
    ],
    suite: Annotated[
        str | None, typer.Option(help="Benchmarks of the papers, through lm-eval: moe-lpr.")
    ] = None,
    task_data: Annotated[
        Path | None, typer.Option(help="Benchmarks from files, in place of the hub or beside it.")
    ] = None,
    benchmarks: Annotated[
        str, typer.Option(help="Only these benchmarks: belebele,flores. All by default.")
    ] = "",
    languages: Annotated[
        str, typer.Option(help="Languages: el,en. By default those that the model names.")
    ] = "",
    recipe: Annotated[
        Path | None, typer.Option(help="Measure what this recipe measures, on its data.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Held-out text: a folder that holds el.jsonl, …, or a pattern."),
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option(help="Multiple-choice files beside --data: questions/{language}.jsonl."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first so many examples of each benchmark.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Solved examples, instead of the benchmarks' own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of solved examples.")] = 1234,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Requests computed together: speed and memory.")
    ] = 8,
    comet: Annotated[
        str | None,
        typer.Option(help="How to call comet-score, which needs an environment of its own."),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write JSON here; benchmarks then resume."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Measure a model: bits per byte, questions, and the papers' benchmarks.

      polycycle evaluate runs/greek --suite moe-lpr

      polycycle evaluate MODEL --suite moe-lpr --languages el,en --limit 100 --out scores.json

      polycycle evaluate MODEL --task-data tasks --languages el,en

      polycycle evaluate MODEL --recipe recipe.yaml

      polycycle evaluate MODEL --data text --languages el,en

    Given a run folder, the scores join its result, report and model card. --suite moe-lpr is
    ARC-Challenge (25 shots), MMLU (5), HellaSwag (10), Belebele (5) and FLORES (8, from English and
    into it); what lm-eval has no task for is named, not skipped silently. Needs
    pip install 'polycycle[eval]'.
    """
    has_plain = recipe is not None or data is not None
    has_benchmarks = suite is not None or task_data is not None
    if not has_plain and not has_benchmarks:
        raise ConfigError(
            "say what to measure: --suite moe-lpr or --task-data DIR (benchmarks), --recipe "
            "RECIPE.yaml or --data TEXT (bits per byte)"
        )
    run = _run_of(model)
    if run is not None:
        _check_for_run(model, has_plain=has_plain, path=path)
    _check_for_text(recipe, overrides, data, questions)
    if not has_benchmarks:
        of_benchmarks = {"--benchmarks": benchmarks, "--shots": shots, "--limit": limit}
        _refuse_idle({**of_benchmarks, "--comet": comet}, recipe, languages)
    plan = None
    if has_benchmarks:  # before anything is measured: what is wrong with it is told at once
        tags = _languages(model, run, languages)
        plan = _plan(tags, suite, task_data, benchmarks, shots)
    from polycycle.stages import HowToMeasure

    how = HowToMeasure(suite=suite, limit=limit, seed=seed, batch_size=batch_size, comet=comet)
    if run is not None:
        assert plan is not None  # a run is given for nothing else
        _benchmark_run(Path(model), run, plan, how, as_json=as_json)
        return
    scores = _plain(model, recipe, overrides or [], data, questions, languages)
    found = None if plan is None else _benchmark_model(model, plan, how, path)
    _show(scores, found, path, as_json=as_json)


def _check_for_run(model: str, *, has_plain: bool, path: Path | None) -> None:
    """A run is given for benchmarks, which join its result."""
    if has_plain:
        raise ConfigError(
            f"{model} is a run, which measured its text and questions itself; give one of its "
            "models, or benchmarks alone"
        )
    if path is not None:
        raise ConfigError(
            f"--out {path}: {model} is a run, and its scores are kept in its own folder; drop "
            "--out, or give one of its models"
        )


def _check_for_text(
    recipe: Path | None, overrides: list[str] | None, data: str | None, questions: str | None
) -> None:
    """Where the text lies is said once."""
    if recipe is not None:
        if data is not None or questions is not None:
            raise ConfigError(
                "--recipe says where the text lies; drop --data and --questions, or change the "
                "recipe's own setting, for example --set data.root=/text"
            )
        return
    if overrides:
        raise ConfigError("--set changes a recipe; give one with --recipe recipe.yaml")
    if data is None and questions is not None:
        raise ConfigError("--questions are asked beside --data; give held-out text, too")


def _refuse_idle(of_benchmarks: dict[str, object], recipe: Path | None, languages: str) -> None:
    """Refuse options that would do nothing where no benchmark is asked for."""
    for option, value in of_benchmarks.items():
        if value not in (None, ""):
            raise ConfigError(
                f"{option} {value} is for benchmarks; say which: --suite moe-lpr or --task-data DIR"
            )
    if recipe is not None and languages:
        raise ConfigError(
            f"--languages {languages}: the recipe says which languages are measured; drop one of "
            "--languages and --recipe"
        )


def _run_of(model: str) -> "RunResult | None":
    """The result of the run that the folder is, or None."""
    from polycycle.results import load_result

    file = Path(model) / "result.json"
    return load_result(file) if file.is_file() else None


def _languages(model: str, run: "RunResult | None", languages: str) -> tuple[str, ...]:
    from polycycle.checkpoint import open_checkpoint
    from polycycle.languages import LanguageGroups, check_tag

    if languages:
        return tuple(check_tag(tag.strip()) for tag in languages.split(","))
    if run:
        groups = run.languages
    else:
        groups = LanguageGroups.recorded(open_checkpoint(model).config.get("language_groups"))
    named = groups.all
    if not named:
        raise ConfigError(f"{model} names no languages; say which: --languages el,en")
    return named


def _plan(
    languages: tuple[str, ...],
    suite: str | None,
    task_data: Path | None,
    benchmarks: str,
    shots: int | None,
) -> "Plan":
    from polycycle.evaluation import plan_benchmarks

    only = [name.strip() for name in benchmarks.split(",") if name.strip()]
    plan = plan_benchmarks(languages, suite=suite, task_data=task_data, only=only, shots=shots)
    for one in plan.unmeasured:
        tell(f"not measured: {one.benchmark} ({one.language}): {one.reason}")
    return plan


def _plain(
    model: str,
    recipe: Path | None,
    overrides: list[str],
    data: str | None,
    questions: str | None,
    languages: str,
) -> "ModelScores | None":
    """Bits per byte and questions, from a recipe or from options; None where neither is given."""
    if recipe is not None:
        from polycycle.config import load_recipe

        settings = load_recipe(recipe, overrides)
        from polycycle.stages import evaluate_by_recipe

        return evaluate_by_recipe(settings, model)
    if data is None:
        return None
    from polycycle.stages import evaluate_on_text

    tags = _languages(model, None, languages)
    return evaluate_on_text(model, tags, data, questions=questions)


def _benchmark_run(
    folder: Path, run: "RunResult", plan: "Plan", how: "HowToMeasure", *, as_json: bool
) -> None:
    """Measure, and put the scores into the run's result, report and model card."""
    from polycycle.stages import benchmark_run

    result = benchmark_run(folder, run, plan, how, tell)
    if as_json:
        publish(result, folder)
        measured = {one.name: one.benchmarks for one in result.models if one.benchmarks}
        print_json({name: one.model_dump(mode="json") for name, one in measured.items()})
        return
    page = publish(result, folder)
    from polycycle.report import terminal_benchmarks

    out.print(terminal_benchmarks(result), soft_wrap=False)
    tell(f"report: {page}")


def _benchmark_model(
    model: str, plan: "Plan", how: "HowToMeasure", path: Path | None
) -> "BenchmarkResult":
    from polycycle.stages import benchmark_model

    beside = path.with_name(f"{path.stem}.benchmarks.json") if path else None
    return benchmark_model(model, plan, how, tell, file=beside)


def _show(
    scores: "ModelScores | None",
    benchmarks: "BenchmarkResult | None",
    path: Path | None,
    *,
    as_json: bool,
) -> None:
    from polycycle.files import write_json
    from polycycle.report import scores_tables

    found = {
        "scores": scores.model_dump(mode="json") if scores else None,
        "benchmarks": benchmarks.model_dump(mode="json") if benchmarks else None,
    }
    if path is not None:
        write_json(path, found)
    if as_json:
        print_json(found)
    else:
        out.print(scores_tables(scores, benchmarks), soft_wrap=False)
        if path is not None:
            tell(f"wrote {path}")


@verb("lm-eval", "Steps", passes_arguments_on=True)
def lm_eval(context: typer.Context) -> None:
    """Run lm-eval itself, with polycycle's model classes known to its hf model.

      polycycle lm-eval run --model hf --model_args pretrained=runs/greek/review --tasks hellaswag

    lm-eval has no plug-ins, and the plain command does not import polycycle. All options are its
    own: polycycle lm-eval run --help. On several GPUs: accelerate launch -m polycycle lm-eval run …
    """
    from polycycle.evaluation import run_lm_eval

    run_lm_eval(context.args)
