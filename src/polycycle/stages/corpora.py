"""The texts of a run, tokenized: for training, for review, and held out."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from polycycle.config import DataConfig, Recipe, SourceConfig
from polycycle.data import (
    TextSource,
    TokenizedCorpus,
    check_budget,
    check_disjoint,
    share_tokens,
    tokenize_corpus,
    tokenizer_warnings,
    tokenizing_bars,
)
from polycycle.errors import ConfigError
from polycycle.results import LanguageData
from polycycle.surgery import TrainingStage

Corpora = Mapping[str, TokenizedCorpus]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCorpora:
    """Everything that a run reads, by language.

    Attributes:
        post_pretrain: text of the expanded languages (and replay, where the recipe asks for it).
        review: replay of the original languages, and text of the expanded ones; empty without
            review.
        valid: held-out text of every language.
        budgets: tokens per language in the post-pretraining of its group.
    """

    post_pretrain: Corpora
    review: Corpora
    valid: Corpora
    budgets: dict[str, int]


def load_corpora(recipe: Recipe, tokenizer: Any, cache_dir: Path) -> RunCorpora:
    """Tokenize, or find in the cache, all texts of a run.

    Raises:
        DataError: a text is missing or bad, or held-out text was trained on.
    """
    groups = recipe.languages.groups()
    budgets = _post_pretrain_budgets(recipe)
    with tokenizing_bars() as bar:

        def corpus(
            language: str, part: Literal["train", "valid"], **limits: int
        ) -> TokenizedCorpus:
            return tokenize_corpus(
                text_source(recipe.data, language, part),
                language,
                tokenizer,
                cache_dir,
                root=recipe.data.root,
                on_bad_document=recipe.data.on_bad_document,
                progress=bar(f"{language} ({part})", limits.get("max_tokens")),
                **limits,
            )

        post_pretrain = {
            language: corpus(language, "train", max_tokens=budget)
            for language, budget in budgets.items()
        }
        valid = {
            language: corpus(language, "valid", max_bytes=recipe.evaluation.valid_bytes)
            for language in groups.all
        }
        review = _review_corpora(recipe, corpus)
    if not recipe.data.repeat:
        for language, budget in budgets.items():
            check_budget(post_pretrain[language], budget)
    for part in (post_pretrain, review):
        for language, train in part.items():
            check_disjoint(train, valid[language])
    return RunCorpora(
        post_pretrain=post_pretrain,
        review=review,
        valid=valid,
        budgets=budgets,
    )


def load_post_training(
    recipe: Recipe, tokenizer: Any, cache_dir: Path, valid: Corpora
) -> tuple[Corpora, dict[str, int]]:
    """What the finished model is post-trained on, and how many tokens of each language.

    Raises:
        DataError: a text is missing or bad, or held-out text is among it.
    """
    config = recipe.post_train
    assert config is not None
    if isinstance(config.data, str):
        pattern = config.data
        sources = {
            tag: SourceConfig(path=pattern.replace("{language}", tag))
            for tag in recipe.languages.original
        }
    else:
        sources = config.data
    corpora = {
        tag: tokenize_corpus(
            TextSource(**source.place()),
            tag,
            tokenizer,
            cache_dir,
            root=recipe.data.root,
            on_bad_document=recipe.data.on_bad_document,
        )
        for tag, source in sources.items()
    }
    for tag, corpus in corpora.items():
        check_disjoint(corpus, valid[tag], train_name="post_train.data")
    weights = {tag: source.weight for tag, source in sources.items()}
    return corpora, share_tokens(config.tokens, weights)


def load_valid(recipe: Recipe, tokenizer: Any, cache_dir: Path) -> Corpora:
    """Held-out text of every language, and nothing else of a run."""
    groups = recipe.languages.groups()
    sources = {tag: text_source(recipe.data, tag, "valid") for tag in groups.all}
    return tokenize_valid(
        sources,
        tokenizer,
        cache_dir,
        root=recipe.data.root,
        on_bad_document=recipe.data.on_bad_document,
        max_bytes=recipe.evaluation.valid_bytes,
    )


def tokenize_valid(
    sources: Mapping[str, TextSource],
    tokenizer: Any,
    cache_dir: Path,
    *,
    root: Path,
    max_bytes: int,
    on_bad_document: Literal["error", "skip"] = "error",
) -> Corpora:
    """Held-out text from its sources, tokenized or found in the cache."""
    with tokenizing_bars() as bar:
        return {
            language: tokenize_corpus(
                source,
                language,
                tokenizer,
                cache_dir,
                root=root,
                on_bad_document=on_bad_document,
                progress=bar(f"{language} (valid)", None),
                max_bytes=max_bytes,
            )
            for language, source in sources.items()
        }


def _review_corpora(recipe: Recipe, corpus: Callable[..., TokenizedCorpus]) -> dict[str, Any]:
    if recipe.review is None:
        return {}
    groups = recipe.languages.groups()
    replay, expanded = recipe.review.replay_documents, recipe.review.expanded_documents
    replayed = groups.original if replay else ()
    return {
        **{tag: corpus(tag, "train", max_documents=replay) for tag in replayed},
        **{tag: corpus(tag, "train", max_documents=expanded) for tag in groups.all_expanded},
    }


def _post_pretrain_budgets(recipe: Recipe) -> dict[str, int]:
    groups, stage = recipe.languages.groups(), recipe.post_pretrain
    replay_tokens = round(stage.tokens * stage.replay_share)
    budgets: dict[str, int] = {}
    for group in groups.expanded:
        budgets |= share_tokens(stage.tokens - replay_tokens, _weights(recipe, group))
    if replay_tokens:
        budgets |= share_tokens(replay_tokens, _weights(recipe, groups.original))
    return budgets


def _weights(recipe: Recipe, languages: Iterable[str]) -> dict[str, float]:
    sources = {language: recipe.data.source(language, "train") for language in languages}
    return {language: source.weight if source else 1.0 for language, source in sources.items()}


def stage_corpora(
    recipe: Recipe, stage: TrainingStage, corpora: RunCorpora, group: int
) -> tuple[Corpora, dict[str, int]]:
    """Texts and tokens per language of one training stage.

    Args:
        recipe: what to do.
        stage: post-pretraining reads its own group (and replay, where the recipe asks for it),
            review everything so far.
        corpora: the run's texts.
        group: 1 for G1.
    """
    groups = recipe.languages.groups().first(group)
    if stage == "review":
        wanted = [*groups.original, *groups.all_expanded]
        chosen = {tag: corpora.review[tag] for tag in wanted if tag in corpora.review}
        return chosen, _review_budgets(recipe, chosen)
    tags = [tag for tag in (*groups.expanded[-1], *groups.original) if tag in corpora.budgets]
    return (
        {tag: corpora.post_pretrain[tag] for tag in tags},
        {tag: corpora.budgets[tag] for tag in tags},
    )


def _review_budgets(recipe: Recipe, corpora: Corpora) -> dict[str, int]:
    """What the documents hold, once; or the recipe's tokens, shared in the same proportion."""
    tokens = {language: corpus.statistics.tokens for language, corpus in corpora.items()}
    if recipe.review is None or recipe.review.tokens is None:
        return tokens
    return share_tokens(recipe.review.tokens, tokens)


def text_source(data: DataConfig, language: str, part: Literal["train", "valid"]) -> TextSource:
    """Where the text of a language lies.

    Raises:
        ConfigError: the recipe does not say.
    """
    source = data.source(language, part)
    if source is None:
        raise ConfigError(
            f"data.{part}: no source for language {language!r}; every language of the recipe is "
            "measured, so each needs held-out text"
        )
    return TextSource(**source.place())


def describe_corpora(corpora: RunCorpora, recipe: Recipe) -> list[LanguageData]:
    """What the tokenizer makes of each text, with a warning where it serves a language badly."""
    groups = recipe.languages.groups()
    statistics = {language: corpus.statistics for language, corpus in corpora.valid.items()}
    warnings = tokenizer_warnings(statistics, groups.all_original)
    parts: list[tuple[Literal["train", "valid", "replay"], Corpora]] = [
        ("train", corpora.post_pretrain),
        ("replay", corpora.review),
        ("valid", corpora.valid),
    ]
    return [
        _describe(corpus, part, warnings.get(language))
        for part, of_part in parts
        for language, corpus in of_part.items()
    ]


def fewer_documents(corpora: RunCorpora, recipe: Recipe) -> list[str]:
    """Notes on languages that have fewer documents than review asks for; it takes all of them."""
    if recipe.review is None:
        return []
    expanded = recipe.languages.groups().all_expanded
    notes = []
    for language, corpus in corpora.review.items():
        key = "expanded_documents" if language in expanded else "replay_documents"
        wanted = getattr(recipe.review, key)
        if len(corpus) < wanted:
            notes.append(
                f"{language} has {len(corpus):,} documents for review, fewer than "
                f"review.{key}: {wanted}; all of them are taken"
            )
    return notes


def _describe(
    corpus: TokenizedCorpus, part: Literal["train", "valid", "replay"], warning: str | None
) -> LanguageData:
    counts = corpus.statistics
    return LanguageData(
        language=corpus.language,
        part=part,
        documents=counts.documents,
        tokens=counts.tokens,
        bytes=counts.bytes,
        words=counts.words,
        tokens_per_word=counts.tokens_per_word,
        tokens_per_byte=counts.tokens_per_byte,
        unknown_share=counts.unknown_share,
        byte_fallback_share=counts.fallback_share,
        skipped=corpus.skipped.count,
        skipped_examples=tuple(corpus.skipped.examples),
        warning=warning,
    )
