"""From sums to the scores that results and reports hold."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polycycle.data import TokenizedCorpus
from polycycle.evaluation.text import TextTally
from polycycle.evaluation.usage import jensen_shannon, usage_entropy
from polycycle.languages import LanguageGroups
from polycycle.results import LanguageScores, RoutingTable, TaskScore


def language_scores(
    language: str,
    groups: LanguageGroups,
    tally: TextTally,
    corpus: TokenizedCorpus,
    answers: list[bool] | None,
    tasks: dict[str, TaskScore],
) -> LanguageScores:
    """One language's scores.

    Args:
        language: its tag.
        groups: who is original and who is expanded.
        tally: what was measured on `corpus`.
        corpus: the held-out text.
        answers: whether each question was answered rightly; None without questions.
        tasks: scores by generation task.
    """
    kl = tally.kl_nats
    return LanguageScores(
        language=language,
        group=groups.group_of(language),
        is_unseen_original=language in groups.unseen_original,
        bits_per_byte=tally.bits_per_byte(corpus.statistics.bytes),
        perplexity=tally.perplexity,
        documents=corpus.statistics.documents,
        tokens=tally.tokens,
        bytes=corpus.statistics.bytes,
        accuracy=None if answers is None else sum(answers) / len(answers),
        questions=None if answers is None else len(answers),
        # Rounding can leave a divergence of zero a hair below it.
        kl_from_base=None if kl is None else max(kl / tally.tokens, 0.0),
        expert0_share=tally.expert0_share,
        tasks=tasks,
    )


def routing_table(
    tallies: Mapping[str, TextTally],
    groups: LanguageGroups,
    expert_languages: Sequence[Sequence[Sequence[str]]] | None = None,
) -> RoutingTable | None:
    """Where each language's tokens went; None for a dense model.

    Args:
        tallies: what was measured, by language.
        groups: who is original and who is expanded.
        expert_languages: for each layer and expert the languages it is dedicated to, if any.
    """
    layers = sorted(next(iter(tallies.values())).layers)
    if not layers:
        return None
    usage = {language: _usage(tally, layers) for language, tally in tallies.items()}
    judged = {language: _judged_original(tally, layers) for language, tally in tallies.items()}
    if all(share is None for shares in judged.values() for share in shares):
        judged = {}
    num_experts = tuple(len(shares) for shares in next(iter(usage.values())))
    owners: tuple[tuple[tuple[str, ...], ...], ...] = ()
    if expert_languages:
        owners = tuple(
            # A masked group's experts, at the end, took part in nothing.
            tuple(tuple(tags) for tags in expert_languages[index][:count])
            for index, count in zip(layers, num_experts, strict=True)
        )
    return RoutingTable(
        num_experts=num_experts,
        expert_languages=owners,
        moe_layers=tuple(layers),
        expert0_share={
            language: tuple(
                tally.layers[index].expert0_weight / tally.layers[index].tokens for index in layers
            )
            for language, tally in tallies.items()
        },
        usage={
            language: tuple(tuple(shares.tolist()) for shares in of_layers)
            for language, of_layers in usage.items()
        },
        usage_entropy={
            language: tuple(usage_entropy(shares) for shares in of_layers)
            for language, of_layers in usage.items()
        },
        divergence_from_original=_divergences(usage, groups),
        judged_original=judged,
        classifier_accuracy={
            language: tuple(_rightly(share, language, groups) for share in shares)
            for language, shares in judged.items()
        },
    )


def _usage(tally: TextTally, layers: Sequence[int]) -> list[Tensor]:
    """Each layer's shares of assignments, [E]."""
    counts = [tally.layers[index].assignments for index in layers]
    return [assignments / assignments.sum() for assignments in counts]


def _divergences(
    usage: Mapping[str, list[Tensor]], groups: LanguageGroups
) -> dict[str, tuple[float, ...]]:
    """Per language and layer, from the mean usage of the original languages that are another."""
    found = {}
    for language, of_layers in usage.items():
        others = [usage[tag] for tag in groups.original if tag in usage and tag != language]
        if others:
            means = [torch.stack(layer).mean(0) for layer in zip(*others, strict=True)]
            pairs = zip(of_layers, means, strict=True)
            found[language] = tuple(jensen_shannon(shares, mean) for shares, mean in pairs)
    return found


def _judged_original(tally: TextTally, layers: Sequence[int]) -> tuple[float | None, ...]:
    of_layers = [tally.layers[index] for index in layers]
    return tuple(
        None if layer.judged_original is None else layer.judged_original / layer.tokens
        for layer in of_layers
    )


def _rightly(share: float | None, language: str, groups: LanguageGroups) -> float | None:
    """Of tokens judged original, the share judged rightly."""
    return 1 - share if share is not None and groups.group_of(language) else share
