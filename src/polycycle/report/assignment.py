"""Whose experts each language's tokens went to, where experts are dedicated to languages."""

from collections.abc import Sequence

from polycycle.experts import FROZEN_EXPERT, own_experts
from polycycle.report.tables import Section, Table, language_cell
from polycycle.report.wording import MISSING, decimal, percent
from polycycle.results import RoutingTable, RunResult, average, groups_of


def assignment_table(result: RunResult) -> Table | None:
    """The final model's assignments by whose expert it was; None where all are open to all.

    Averages over the layers in which some language has experts of its own.
    """
    routing = result.final.routing
    if routing is None or not routing.expert_languages:
        return None
    sections = []
    for group in groups_of(result):
        known = [tag for tag in group.languages if tag in routing.usage]
        rows = tuple((language_cell(tag), *_row(routing, tag)) for tag in known)
        if rows:
            sections.append(Section(title=group.title, rows=rows))
    return Table(
        headings=(
            ("Language", ""),
            ("Own experts", "per layer"),
            ("To expert 0", "% of choices"),
            ("To its own", "% of choices"),
            ("To others' own", "% of choices"),
            ("To experts open to all", "% of choices"),
        ),
        sections=tuple(sections),
    )


def _row(routing: RoutingTable, language: str) -> tuple[str, ...]:
    layers = [
        (owners, usage)
        for owners, usage in zip(routing.expert_languages, routing.usage[language], strict=True)
        if any(owners)
    ]
    counts = [len(own_experts(owners, language)) for owners, _ in layers]
    shares = [_shares(owners, usage, language) for owners, usage in layers]
    frozen, own, others, shared = (average(column) for column in zip(*shares, strict=True))
    has_own = any(counts)
    return (
        decimal(average(counts), 1) if has_own else MISSING,
        percent(frozen),
        percent(own) if has_own else MISSING,
        percent(others),
        percent(shared),
    )


def _shares(
    owners: Sequence[Sequence[str]], usage: Sequence[float], language: str
) -> tuple[float, float, float, float]:
    """Of one layer's assignments: to expert 0, to its own, to others' own, to those open to all."""
    frozen = own = others = shared = 0.0
    for expert, (tags, share) in enumerate(zip(owners, usage, strict=True)):
        if expert == FROZEN_EXPERT:
            frozen += share
        elif language in tags:
            own += share
        elif tags:
            others += share
        else:
            shared += share
    return frozen, own, others, shared
