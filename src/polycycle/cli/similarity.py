"""`polycycle similarity`: how similar a model finds languages, layer by layer."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from polycycle.cli.app import err, out, print_json, tell, verb

if TYPE_CHECKING:
    from polycycle.allocation import SimilarityTable
    from polycycle.data import TextSource
    from polycycle.languages import LanguageGroups
    from polycycle.stages import MeasuredSimilarity

_EXAMPLE = "polycycle similarity MODEL --data text --original en,es,zh --expanded el,hu,tr"


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What to measure, whether it was said in options or in a recipe."""

    model: str
    revision: str | None
    sources: "dict[str, TextSource]"
    groups: "LanguageGroups"
    root: Path = Path(".")
    on_bad_document: Literal["error", "skip"] = "error"


@verb("similarity", "Steps")
def similarity(
    path: Annotated[Path, typer.Option("--out", metavar="FILE", help="The JSON file to write.")],
    model: Annotated[
        str | None,
        typer.Argument(help="A dense or upcycled model: folder or hub id; else the recipe's base."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Text: a folder that holds el.jsonl, en.txt.gz, …, or a pattern such as "
            "text/{language}/*.parquet."
        ),
    ] = None,
    original: Annotated[
        str | None, typer.Option(help="Languages the model speaks: en,es,zh.")
    ] = None,
    expanded: Annotated[str | None, typer.Option(help="Languages to add: el,hu,tr.")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Take model, languages and training text from this recipe instead."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe."),
    ] = None,
    group: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The group of the recipe's languages that is to come: 1, its base measured, when "
            "not given. For a later one give the finished model of the groups before.",
        ),
    ] = None,
    tokens_per_language: Annotated[
        int, typer.Option(min=1, help="The first so many tokens of each language (paper: 100000).")
    ] = 100_000,
    text_field: Annotated[
        str | None, typer.Option(help="Column that holds the text; `text` when not given.")
    ] = None,
    language_field: Annotated[
        str | None, typer.Option(help="Column that holds the language, where files mix languages.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag of a hub id.")] = None,
    row_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of a forward pass: memory, not the result.")
    ] = 1024,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Measure how similar languages look to each layer; `polycycle allocate` reads the result.

    For every pair of languages: the mean cosine between the inputs of a layer's feed-forward block
    over all pairs of their tokens. The number per layer, S, is the mean of two means: expanded with
    original languages, and expanded with expanded. One forward pass per language, little memory, no
    padding.

      polycycle similarity MODEL --data text --original en,es,zh --expanded el,hu,tr --out s.json

      polycycle similarity --recipe recipe.yaml --set data.root=/text --out s.json

    For a second group, give the finished model of the first, and all its languages as --original.
    """
    from polycycle.files import write_json

    texts = {
        "--data": data,
        "--original": original,
        "--expanded": expanded,
        "--text-field": text_field,
        "--language-field": language_field,
    }
    if recipe is None:
        asked = _from_options(model, texts, overrides, revision, group)
    else:
        asked = _from_recipe(recipe, overrides, model, texts, revision, group or 1)
    found = _measure(asked, tokens_per_language, row_tokens)
    write_json(path, found.to_json())
    if as_json:
        print_json(found.to_json())
        return
    _show(found.table)
    tell(f"wrote {path}; next: polycycle allocate --similarity {path} --total-experts …")


def _from_options(
    model: str | None,
    texts: dict[str, str | None],
    overrides: list[str] | None,
    revision: str | None,
    group: int | None,
) -> _Question:
    """Everything from the command line."""
    from polycycle.data import TextSource
    from polycycle.errors import ConfigError
    from polycycle.languages import LanguageGroups

    if overrides:
        raise ConfigError("--set changes a recipe; give one with --recipe recipe.yaml")
    if group is not None:
        raise ConfigError(
            f"--group {group} is one of a recipe's; without a recipe --expanded names it, and all "
            "languages of the groups before count as --original"
        )
    required = {"MODEL": model, **{k: texts[k] for k in ("--data", "--original", "--expanded")}}
    missing = [name for name, value in required.items() if not value]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} missing: type {_EXAMPLE} --out FILE, or take all of it from a "
            "recipe with --recipe recipe.yaml"
        )
    data = str(texts["--data"])
    groups = LanguageGroups(
        original=_tags("--original", texts), expanded=(_tags("--expanded", texts),)
    )
    language_field = texts["--language-field"]
    if "{language}" not in data and language_field is None and not Path(data).is_dir():
        raise ConfigError(
            f"--data {data}: every language would read the same text. Give a folder of files named "
            "by language (el.jsonl, …), write {language} where the path differs, or say in which "
            "column the language stands with --language-field"
        )
    sources = {
        language: TextSource(
            path=data.replace("{language}", language),
            text_field=texts["--text-field"] or "text",
            language_field=language_field,
        )
        for language in groups.all
    }
    return _Question(model=str(model), revision=revision, sources=sources, groups=groups)


def _from_recipe(
    path: Path,
    overrides: list[str] | None,
    model: str | None,
    texts: dict[str, str | None],
    revision: str | None,
    group: int,
) -> _Question:
    """Languages and training text from a recipe; its base where no model is given."""
    from polycycle.config import load_recipe
    from polycycle.errors import ConfigError

    also = [option for option, value in texts.items() if value is not None]
    if also:
        raise ConfigError(
            f"--recipe says that already; drop {', '.join(also)}, or change the recipe's own "
            "setting, for example --set data.root=/text"
        )
    recipe = load_recipe(path, overrides or [])
    groups = recipe.languages.groups()
    if group > len(groups.expanded):
        raise ConfigError(
            f"--group {group}: languages.expanded of {path} has {len(groups.expanded)} groups"
        )
    if group > 1 and model is None:
        raise ConfigError(
            f"--group {group}: similarity before a later group is that of the finished model of "
            "the groups before; give it: polycycle similarity MODEL --recipe …"
        )
    groups = groups.first(group)
    from polycycle.stages import training_sources

    return _Question(
        model=model or recipe.base,
        revision=revision if model else revision or recipe.base_revision,
        sources=training_sources(recipe),
        groups=groups,
        root=recipe.data.root,
        on_bad_document=recipe.data.on_bad_document,
    )


def _tags(option: str, texts: dict[str, str | None]) -> tuple[str, ...]:
    """The languages of a list such as `el,hu,tr`."""
    from polycycle.errors import ConfigError
    from polycycle.languages import check_tag

    try:
        return tuple(check_tag(tag.strip()) for tag in str(texts[option]).split(","))
    except ConfigError as error:
        raise ConfigError(f"{option} {texts[option]}: {error}") from error


def _measure(asked: _Question, tokens_per_language: int, row_tokens: int) -> "MeasuredSimilarity":
    """The measurement, with a bar over all languages."""
    from rich.progress import Progress

    from polycycle.stages import measure_similarity

    with Progress(console=err, transient=True) as bars:
        total = len(asked.sources) * tokens_per_language
        task = bars.add_task("reading model and text", total=total)

        def advance(language: str, tokens: int) -> None:
            bars.update(task, description=f"similarity: {language}", advance=tokens)

        return measure_similarity(
            asked.model,
            asked.sources,
            asked.groups,
            tokens_per_language=tokens_per_language,
            root=asked.root,
            on_bad_document=asked.on_bad_document,
            revision=asked.revision,
            row_tokens=row_tokens,
            progress=advance,
        )


def _show(table: "SimilarityTable") -> None:
    from rich.table import Table

    out.print(f"expanded {', '.join(table.expanded)}; original {', '.join(table.original)}")
    columns = ("layer", "S", "expanded–original", "expanded–expanded")
    shown = Table(*columns, box=None, padding=(0, 2, 0, 0))
    among = table.expanded_expanded or [None] * len(table.values)
    rows = zip(table.per_layer, table.expanded_original, among, strict=True)
    for layer, values in enumerate(rows):
        shown.add_row(str(layer), *("" if value is None else f"{value:.4f}" for value in values))
    out.print(shown)
