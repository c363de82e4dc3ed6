"""How similar a model finds the languages of a run, layer by layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import Progress

import polycycle
from polycycle.allocation import SimilarityTable, read_table, similarity_table
from polycycle.checkpoint import content_hash, load_tokenizer, open_checkpoint
from polycycle.config import Recipe
from polycycle.data import Excerpt, TextSource, read_excerpt, text_identity, tokenizer_hash
from polycycle.errors import ConfigError
from polycycle.evaluation import mean_unit_vectors
from polycycle.families import family_of_dense, family_of_upcycled, is_upcycled
from polycycle.files import write_json
from polycycle.languages import LanguageGroups
from polycycle.results import GroupSimilarity
from polycycle.stages.evaluate import load_model
from polycycle.stages.run import Run
from polycycle.stages.stage import Stage

_SIMILARITY = "similarity.json"
# As in LayerMoE's released code.
_LONGEST_WINDOW = 10_000
Advance = Callable[[str, int], None]


def similarity(run: Run, group: int, model: str | Path) -> SimilarityTable | None:
    """How alike `model` finds the languages up to a group; None where nothing depends on it."""
    num_tokens = run.recipe.experts.similarity_tokens
    if num_tokens is None:
        return None
    stage = Stage(
        name=similarity_name(group),
        result_version=1,
        inputs={
            "model": run.base_key if group == 1 else run.keys[Path(model).name],
            "tokenizer": tokenizer_hash(run.tokenizer),
            "texts": _text_inputs(run, group),
            "languages": run.language_inputs(group),
            "tokens_per_language": num_tokens,
            "context_length": run.recipe.evaluation.context_length,
        },
        make=partial(_similarity, run, num_tokens, group, model),
    )
    return read_table(run.do(stage) / _SIMILARITY)


def _text_inputs(run: Run, group: int) -> dict[str, Any]:
    """What identifies the texts that are read up to a group, whatever trainings read of them."""
    known = run.known_languages(group)
    return {
        tag: text_identity(source, tag, run.recipe.data.root)
        for tag, source in training_sources(run.recipe).items()
        if tag in known
    }


def similarity_name(group: int) -> str:
    """Name of the stage: `similarity`, and `similarity-g2` for the second group."""
    return "similarity" + (f"-g{group}" if group > 1 else "")


def _similarity(
    run: Run, num_tokens: int, group: int, model: str | Path, folder: Path
) -> dict[str, Any]:
    measured = measure_recipe(run.recipe, num_tokens, model_path=model, group=group)
    write_json(folder / _SIMILARITY, measured.to_json())
    return {}


def note_similarity(
    run: Run, table: SimilarityTable | None, *, group: int, model: str, folder: Path
) -> None:
    """Keep for the report what was measured before a group, and what followed from it.

    Args:
        run: where it is kept.
        table: what was measured; nothing is kept of None.
        group: the group that came.
        model: name of the model that was measured.
        folder: of the model with the group's experts.
    """
    if table is None:
        return
    config = open_checkpoint(folder).config
    run.similarities.append(
        GroupSimilarity(
            group=group,
            model=model,
            expanded_original=table.expanded_original,
            expanded_expanded=table.expanded_expanded,
            per_layer=table.per_layer,
            new_experts=tuple(config["new_experts_by_group"][group - 1]),
            is_allocated=run.recipe.experts.allocation is not None,
            classifier_layers=tuple(config.get("classifier_layers") or ()),
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredSimilarity:
    """A similarity table, and where it comes from.

    Attributes:
        table: the numbers.
        tokens_per_language: the same for every language.
        documents: how many documents these tokens come from, by language.
        model: folder or hub id, as it was given.
        model_hash: content hash of all its tensors.
        dtype: what the model computed in.
        versions: of polycycle, torch and transformers.
    """

    table: SimilarityTable
    tokens_per_language: int
    documents: dict[str, int]
    model: str
    model_hash: str
    dtype: str
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values; `polycycle allocate` reads `per_layer`."""
        return {
            **self.table.to_json(),
            "tokens_per_language": self.tokens_per_language,
            "documents": self.documents,
            "model": {"name": self.model, "content_hash": self.model_hash, "dtype": self.dtype},
            "versions": self.versions,
        }


def measure_similarity(
    model_path: str | Path,
    sources: Mapping[str, TextSource],
    groups: LanguageGroups,
    *,
    tokens_per_language: int = 100_000,
    root: Path = Path("."),
    on_bad_document: Literal["error", "skip"] = "error",
    revision: str | None = None,
    context_length: int | None = None,
    row_tokens: int = 1024,
    progress: Advance | None = None,
) -> MeasuredSimilarity:
    """The similarity of every pair of languages in every layer, by one forward pass per language.

    Unseen original languages are left out. The model runs in its own dtype on a GPU, and in
    float32 on the CPU, where many processors emulate bfloat16.

    Args:
        model_path: dense or upcycled: folder or hub id.
        sources: where the text of each language lies.
        groups: the last expanded group is the one to come, all before it is known.
        tokens_per_language: the first so many tokens of each text (paper: 100,000). Documents above
            32,000 tokens are passed over, the rest cut to 10,000 or the model's context.
        root: what relative paths start from.
        on_bad_document: `error` or `skip`.
        revision: of a hub id.
        context_length: what documents are cut to; by default the model's own, at most 10,000.
        row_tokens: tokens of a forward pass.
        progress: called with a language and how many of its tokens were computed.

    Raises:
        CheckpointError, UpcycleError: the model cannot be read, or is of no supported family.
        DataError: a text is missing, bad, or too short.

    Source: LayerMoE, arXiv:2505.22582, §3.1, and the released code.
    """
    import torch
    import transformers

    checkpoint = open_checkpoint(model_path, revision=revision)
    family_of = family_of_upcycled if is_upcycled(checkpoint.config) else family_of_dense
    family_of(checkpoint.config, where=checkpoint.name)
    tokenizer = load_tokenizer(checkpoint.folder, checkpoint.name)
    languages = [tag for tag in groups.all if tag not in groups.unseen_original]
    # All texts first: a missing one is found before the model is loaded.
    excerpts: dict[str, Excerpt] = {
        language: read_excerpt(
            sources[language],
            language,
            tokenizer,
            num_tokens=tokens_per_language,
            max_document_tokens=context_length or checkpoint.longest_context(_LONGEST_WINDOW),
            root=root,
            on_bad_document=on_bad_document,
        )
        for language in languages
    }
    model = load_model(checkpoint)
    means = {}
    for language, excerpt in excerpts.items():

        def advance(tokens: int, language: str = language) -> None:
            if progress:
                progress(language, tokens)

        vectors = mean_unit_vectors(
            model, excerpt.documents, row_tokens=row_tokens, progress=advance
        )
        means[language] = vectors.numpy()
    return MeasuredSimilarity(
        table=similarity_table(means, groups),
        tokens_per_language=tokens_per_language,
        documents={language: len(one.documents) for language, one in excerpts.items()},
        model=str(model_path),
        model_hash=content_hash(checkpoint),
        dtype=str(model.dtype).removeprefix("torch."),
        versions={
            "polycycle": polycycle.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    )


def measure_recipe(
    recipe: Recipe, tokens_per_language: int, *, model_path: str | Path, group: int
) -> MeasuredSimilarity:
    """The similarity of a recipe's languages on its training text, with a bar.

    Args:
        recipe: languages and text.
        tokens_per_language: of each.
        model_path: the base for the first group, the finished model so far for later ones.
        group: the group to come, 1 for G1; languages of later groups are left out.
    """
    groups = recipe.languages.groups().first(group)
    languages = len(groups.original) + len(groups.all_expanded)
    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("similarity", total=languages * tokens_per_language)
        return measure_similarity(
            model_path,
            training_sources(recipe),
            groups,
            tokens_per_language=tokens_per_language,
            root=recipe.data.root,
            on_bad_document=recipe.data.on_bad_document,
            revision=recipe.base_revision if group == 1 else None,
            context_length=recipe.evaluation.context_length,
            progress=lambda language, tokens: bars.update(task, advance=tokens),
        )


def training_sources(recipe: Recipe) -> dict[str, TextSource]:
    """Where a recipe's training text lies, for every language that similarity looks at.

    Raises:
        ConfigError: the recipe has no training text for one of them.
    """
    groups = recipe.languages.groups()
    sources = {}
    for language in (*groups.original, *groups.all_expanded):
        source = recipe.data.source(language, "train")
        if source is None:
            raise ConfigError(
                f"data.train: no text for language {language!r}, which similarity compares; "
                f"add it, for example --set data.train.{language}=PATH"
            )
        sources[language] = TextSource(**source.place())
    return sources
