"""From sums to the scores that results and reports hold."""

from polycycle.data import TokenizedCorpus
from polycycle.evaluation.text import TextTally
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


def routing_table(tallies: dict[str, TextTally]) -> RoutingTable | None:
    """Where each language's tokens went; None for a dense model."""
    layers = sorted(next(iter(tallies.values())).layers)
    if not layers:
        return None
    shares, usage, judged = {}, {}, {}
    for language, tally in tallies.items():
        of_layers = [tally.layers[index] for index in layers]
        shares[language] = tuple(layer.expert0_weight / layer.tokens for layer in of_layers)
        usage[language] = tuple(
            tuple((layer.assignments / layer.assignments.sum()).tolist()) for layer in of_layers
        )
        if any(layer.judged_original is not None for layer in of_layers):
            judged[language] = tuple(
                None if layer.judged_original is None else layer.judged_original / layer.tokens
                for layer in of_layers
            )
    any_tally = next(iter(tallies.values()))
    return RoutingTable(
        num_experts=tuple(len(any_tally.layers[index].assignments) for index in layers),
        moe_layers=tuple(layers),
        expert0_share=shares,
        usage=usage,
        judged_original=judged,
    )
