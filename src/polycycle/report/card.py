"""The README that goes with the weights."""

import re
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from polycycle.languages import language_name
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
    Measure,
    RunResult,
    average_answers,
    gain,
    groups_of,
    measure_of_run,
    retention,
    tasks_of,
    value_of,
)

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(result: RunResult, *, license: str = "other") -> str:
    """A model card in Markdown, with the metadata that the Hugging Face hub reads.

    Args:
        result: the run that made the weights.
        license: id of the weights' licence; the base's licence binds them, so `other` asks the
            reader to look there.
    """
    verdict = verdict_of(result)
    # A folder on somebody's disk is no `base_model`: the hub would refuse or mislink it.
    is_on_hub = bool(_HUB_ID.fullmatch(result.base)) and not Path(result.base).exists()
    is_dense = result.final.routing is None
    kind = "dense" if is_dense else "mixture-of-experts"
    data = ModelCardData(
        language=list(dict.fromkeys(tag.split("-")[0] for tag in result.languages.all)),
        license=license,
        base_model=result.base if is_on_hub else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["polycycle", kind, "multilingual", result.method.lower()],
    )
    card = ModelCard.from_template(
        data,
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
        tasks=_tasks(result),
        pack=_pack(result),
        parameters_total=count(result.final.parameters_total),
        parameters_active=count(result.final.parameters_active),
        training=_training(result),
        license_note="The base model's licence applies to these weights."
        if license == "other"
        else "",
    )
    return str(card)


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
    headings = ["Answers written by the model", *(f"{model_title(m)} (% exact)" for m in models)]
    headings += [f"{model_title(models[-1])} (chrF)"]
    lines = [" | ".join(headings), " | ".join(["---", *["---:"] * (len(headings) - 1)])]
    for task in tasks:
        for group in groups_of(result):
            scores = [average_answers(result, model, group.languages, task) for model in models]
            if scores[-1].chrf is not None:
                cells = [*(percent(one.exact_match) for one in scores), decimal(scores[-1].chrf, 1)]
                lines.append(" | ".join([f"{task}, {group.title}", *cells]))
    return "\n\n" + "\n".join(f"| {line} |" for line in lines)


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
