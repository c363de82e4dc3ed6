"""The README that goes with the weights."""

import re
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from polycycle.engines import ENGINES, serve_command
from polycycle.languages import language_name
from polycycle.report.benchmark_tables import benchmark_means, benchmark_title
from polycycle.report.export_tables import export_row
from polycycle.report.score_tables import answers_cell
from polycycle.report.verdict import verdict_of
from polycycle.report.wording import (
    bytes_size,
    count,
    decimal,
    duration,
    model_title,
    names,
    percent,
)
from polycycle.results import (
    ExportResult,
    Measure,
    RunResult,
    average_answers,
    benchmarks_of,
    gain,
    groups_of,
    measure_of_run,
    retention,
    tasks_of,
    value_of,
)

_PAPERS = {
    "MoE-LPR": "MoE-LPR: Multilingual Extension of Large Language Models through "
    "Mixture-of-Experts with Language Priors Routing, arXiv:2408.11396",
    "LayerMoE": "Less, but Better: Efficient Multilingual Expansion for LLMs via Layer-wise "
    "Mixture-of-Experts, arXiv:2505.22582",
    "DeltaMoE": "DeltaMoE, arXiv:2605.18083; PARAMΔ for Direct Weight Mixing: Post-Train Large "
    "Language Model at Zero Cost, arXiv:2504.21023",
}
_LIMITS_WITHOUT_RUN = (
    "No run's result was beside the model, so what it can do is not said here.\n"
    "The base model's licence applies to these weights."
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(result: RunResult) -> str:
    """A model card in Markdown, with the metadata that the Hugging Face hub reads.

    Args:
        result: the run that made the weights; its recipe names their licence.
    """
    verdict = verdict_of(result)
    is_on_hub = _is_on_hub(result.base)
    is_dense = result.final.routing is None
    kind = "dense" if is_dense else "mixture-of-experts"
    card = ModelCard.from_template(
        _metadata(result, kind),
        template_path=str(Path(__file__).with_name("card.md")),
        title=result.name,
        verdict=f"**{verdict.title}.** {verdict.sentence}",
        base=result.base if is_on_hub else Path(result.base).name,
        method=result.method,
        is_dense=is_dense,
        needs_polycycle=result.needs_polycycle,
        origin="" if is_dense else _origin(result),
        expanded=names(result.languages.all_expanded),
        table=_table(result, measure_of_run(result)),
        tasks=_tasks(result) + _benchmarks(result),
        pack=_pack(result),
        parameters_total=count(result.final.parameters_total),
        parameters_active=count(result.final.parameters_active),
        training=_training(result),
        data=_data(result),
        limits=_limits(result),
        citation=_citation(result),
    )
    return _tidy(card)


def export_card(export: ExportResult, *, run: RunResult | None = None) -> str:
    """The model card of an exported folder: how to load and serve it, and the proof.

    Args:
        export: what was exported, and how it compares.
        run: the run that made the model, for gain, retention, training and licence.
    """
    gate_note = (
        "\nThe model's exact retention was left out: no stock architecture can decide once for all "
        "layers. Requests may be routed between the base and this model instead."
        if export.without_exact_retention
        else ""
    )
    verdict = None if run is None else verdict_of(run)
    metadata = _metadata(run, "mixture-of-experts") if run else _metadata_without_run(export)
    is_gguf = export.target == "gguf"
    if is_gguf:
        metadata.library_name, metadata.tags = "gguf", [*(metadata.tags or []), "gguf"]
    card = ModelCard.from_template(
        metadata,
        template_path=str(Path(__file__).with_name("export_card.md")),
        is_gguf=is_gguf,
        title=f"{run.name if run else Path(export.source).name} ({export.target})",
        verdict=verdict and f"**{verdict.title}.** {verdict.sentence}",
        source=Path(export.source).name,
        origin=_origin_of_export(export, run),
        model_class=export.model_class,
        gate_note=gate_note,
        serving=_serving(export),
        proof=_proof(export),
        table="" if run is None else _table(run, measure_of_run(run)),
        tasks="" if run is None else _tasks(run) + _benchmarks(run),
        training="" if run is None else _training(run),
        data="" if run is None else _data(run),
        limits=_LIMITS_WITHOUT_RUN if run is None else _limits(run),
        citation="" if run is None else _citation(run),
    )
    return _tidy(card)


def _metadata_without_run(export: ExportResult) -> ModelCardData:
    """What the export itself knows: languages and base; the licence is the base's, whichever."""
    compared = () if "token ids" in export.compared_on else tuple(export.languages)
    tags = export.trained_languages or compared
    languages = list(dict.fromkeys(tag.split("-")[0] for tag in tags))
    return ModelCardData(
        language=languages or None,
        license="other",
        base_model=export.base if export.base and _is_on_hub(export.base) else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["polycycle", "mixture-of-experts", "multilingual"],
    )


def _origin_of_export(export: ExportResult, run: RunResult | None) -> str:
    """How the exported model was made, and from what."""
    if run is not None:
        words = f" by {run.method} from\n`{_short_base(run)}`"
    elif export.base is not None:
        words = f" from\n`{export.base if _is_on_hub(export.base) else Path(export.base).name}`"
    else:
        return ""
    return words + (f" (content hash `{export.base_hash}`)" if export.base_hash else "")


def _tidy(card: ModelCard) -> str:
    """The card without the gaps that empty parts leave."""
    return re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n"


def _metadata(result: RunResult, kind: str) -> ModelCardData:
    return ModelCardData(
        language=list(dict.fromkeys(tag.split("-")[0] for tag in result.languages.all)),
        license=_license(result),
        base_model=result.base if _is_on_hub(result.base) else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["polycycle", kind, "multilingual", result.method.lower()],
    )


def _is_on_hub(base: str) -> bool:
    # A folder on somebody's disk is no `base_model`: the hub would refuse or mislink it.
    return bool(_HUB_ID.fullmatch(base)) and not Path(base).exists()


def _short_base(result: RunResult) -> str:
    return result.base if _is_on_hub(result.base) else Path(result.base).name


def _license(result: RunResult) -> str:
    return str(result.recipe.get("license") or "other")


def _limits(result: RunResult) -> str:
    words = (
        "The numbers above are all that was measured. What the base model does wrong, this model "
        "does too."
    )
    if _license(result) == "other":
        words += "\nThe base model's licence applies to these weights."
    return words


def _citation(result: RunResult) -> str:
    """The papers of the method, as a section."""
    papers = [_PAPERS[name] for name in _methods_of(result) if name in _PAPERS]
    if not papers:
        return ""
    return "\n".join(["## Cite", "", "Beside polycycle:", "", *(f"- {paper}" for paper in papers)])


def _methods_of(result: RunResult) -> list[str]:
    if result.recipe.get("baseline"):
        return []
    experts = result.recipe.get("experts") or {}
    methods = ["MoE-LPR"]
    if experts.get("allocation") or experts.get("classifier"):
        methods.append("LayerMoE")
    return [*methods, "DeltaMoE"] if result.recipe.get("graft") else methods


def _data(result: RunResult) -> str:
    """What was trained on, with the licences that the recipe names."""
    given = (result.recipe.get("data") or {}).get("train")
    sources = given.items() if isinstance(given, dict) else ()
    lines = []
    for tag, source in sources:
        place = source.get("hub") or Path(str(source.get("path"))).name
        subset = f" ({source['subset']})" if source.get("subset") else ""
        license = source.get("license") or "licence not stated"
        lines.append(f"- {language_name(tag)}: `{place}`{subset}, {license}")
    if not lines:
        lines = [f"- files `{given}`, licence not stated"] if given else []
    return "\n".join(["Training text:", "", *lines]) if lines else ""


def _serving(export: ExportResult) -> str:
    """A Markdown list of engines: what to type, and how it is known that they compute it right."""
    is_gguf = export.target == "gguf"
    lines = []
    for engine in ENGINES if not is_gguf else ("llama.cpp",):
        if engine in export.engines:
            known = export.engines[engine]
            command = serve_command(engine, "THIS_FOLDER", is_gguf=is_gguf)
            lines.append(f"- {engine}: `{command}` ({known})")
        else:
            lines.append(f"- {engine}: would not compute this model right, do not use it")
    return "\n".join(lines)


def _proof(export: ExportResult) -> str:
    """What was compared and what came out, as text and a Markdown table."""
    runs = ", ".join(f"{name} {version}" for name, version in export.versions.items())
    words = (
        f"Loaded in a process without polycycle ({runs}) and compared in {export.dtype} with the "
        f"model it comes from, on {export.compared_on}: "
        + ("**it computes the same**" if export.passed else "**IT DOES NOT COMPUTE THE SAME**")
    )
    if export.settled_in_float32:
        words += (
            f". {export.dtype} alone rounds too coarsely to tell, so the same weights were "
            "compared in float32"
        )
    headings = "Text | Tokens | Largest difference | Mean KL | Same best token | Same greedy text"
    lines = [f"| {headings} |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for tag, found in export.languages.items():
        lines.append("| " + " | ".join(export_row(tag, found)) + " |")
    return words + ".\n\n" + "\n".join(lines)


def _origin(result: RunResult) -> str:
    """Where expert 0 and the shared tensors come from."""
    final = result.final
    if final.base_hash is not None and final.reference == "base":
        words = "Expert 0 of every layer is the\nfrozen original"
        return f"{words}, bit for bit (content hash `{final.base_hash}`)"
    if not result.recipe.get("graft"):
        return "All tensors were trained, so that\nno dense model is its base any more"
    posts = [f"`{one['model']}`" for one in result.recipe["graft"]["post"]]
    grafted = f"The post-training of\n{' and '.join(posts)} was grafted onto it without any data"
    if final.base_hash is None:
        return f"{grafted}, in a way that leaves no\ndense model as its base"
    return (
        f"{grafted}. Expert 0 of every\nlayer, like all that is shared, is that model's, "
        f"bit for bit (content hash `{final.base_hash}`)"
    )


def _table(result: RunResult, by: Measure) -> str:
    """A Markdown table of all languages: every model, and what was gained or kept."""
    models = [model.name for model in result.models]
    unit = "% correct" if by == "accuracy" else "bits/byte"
    headings = ["Language", *(f"{model_title(model)} ({unit})" for model in models)]
    headings += ["Gained (points)" if by == "accuracy" else "Saved (bits/byte)", "Kept"]
    lines = [" | ".join(headings), " | ".join(["---", *["---:"] * (len(headings) - 1)])]
    for group in groups_of(result):
        for tag in group.languages:
            values = [value_of(result, model, tag, by=by) for model in models]
            cells = [percent(v) if by == "accuracy" else decimal(v, 3) for v in values]
            gained = gain(result, models[-1], tag, by=by)
            kept = retention(result, models[-1], tag, by=by)
            cells.append(decimal(gained, 1 if by == "accuracy" else 3, sign=True))
            cells.append("" if group.is_expanded else percent(kept))
            lines.append(" | ".join([f"{language_name(tag)} ({tag}, {group.title})", *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def _tasks(result: RunResult) -> str:
    """A Markdown table of the generation tasks by group of languages; empty without any."""
    tasks = tasks_of(result)
    if not tasks:
        return ""
    models = [model.name for model in result.models]
    headings = ["Answers written by the model, % exact (in the form asked for)"]
    headings += [model_title(model) for model in models]
    headings += [f"{model_title(models[-1])} (chrF)"]
    lines = [" | ".join(headings), " | ".join(["---", *["---:"] * (len(headings) - 1)])]
    for task in tasks:
        for group in groups_of(result):
            scores = [average_answers(result, model, group.languages, task) for model in models]
            if scores[-1].chrf is not None:
                cells = [*map(answers_cell, scores), decimal(scores[-1].chrf, 1)]
                lines.append(" | ".join([f"{task}, {group.title}", *cells]))
    return "\n\n" + "\n".join(f"| {line} |" for line in lines)


def _benchmarks(result: RunResult) -> str:
    """A Markdown table of the benchmarks by group of languages; empty without any."""
    measured = benchmarks_of(result)
    if not measured or result.final.benchmarks is None:
        return ""
    models = [result.final.reference, result.final.name]
    headings = ["Benchmark", *map(model_title, models), "Gained (points)", "Kept", "Languages"]
    lines = [" | ".join(headings), " | ".join(["---", *["---:"] * 4, "---"])]
    for name in measured:
        for group in groups_of(result):
            means = benchmark_means(result, name, group.languages, models)
            if means is None:
                continue
            *scores, gained, kept = means
            done = [t for t in group.languages if result.final.benchmarks.score(name, t)]
            cells = [f"{benchmark_title(result, name)}, {group.title}"]
            cells += [decimal(score, 1) for score in scores]
            cells += [decimal(gained, 1, sign=True)]
            cells += ["" if group.is_expanded else percent(kept), names(done)]
            lines.append(" | ".join(cells))
    found = result.final.benchmarks
    some = f", the first {count(found.limit)} examples of each task" if found.limit else ""
    words = f"\n\nScores of 100, by lm-eval {found.versions['lm_eval']}{some}."
    return "\n\n" + "\n".join(f"| {line} |" for line in lines) + words


def _pack(result: RunResult) -> str:
    """What a language pack of these weights holds, in a sentence; empty for a dense model."""
    sizes = result.final.tensor_bytes
    if sizes is None:
        return ""
    added = bytes_size(sum(sizes.groups) + sizes.shared)
    return (
        f"{added} of tensors are new, beside {bytes_size(sizes.base)} of the base: "
        "`polycycle pack` saves them alone."
    )


def _training(result: RunResult) -> str:
    """One line per stage that trained something."""
    return "\n".join(
        f"- {cost.stage}: {count(cost.tokens)} tokens in {count(cost.steps)} steps, "
        f"{count(cost.parameters_trainable)} trainable parameters, {duration(cost.seconds)}"
        for cost in result.costs
        if cost.tokens
    )
