"""What every room knows about experts."""

from collections.abc import Sequence

FROZEN_EXPERT = 0
"""Index of the original feed-forward block in every layer: never trained, never moved."""

NO_EXPERT = -1
"""In place of an expert's index: this choice of the token is left empty."""


def own_experts(expert_languages: Sequence[Sequence[str]], language: str) -> tuple[int, ...]:
    """Experts of one layer that are dedicated to a language, perhaps beside others.

    Args:
        expert_languages: for each expert the languages it is dedicated to; none is open to all.
        language: whose.
    """
    return tuple(index for index, tags in enumerate(expert_languages) if language in tags)


def reachable_experts(
    expert_languages: Sequence[Sequence[str]], languages: Sequence[str]
) -> tuple[tuple[bool, ...], ...]:
    """For each language and expert of one layer, whether the language's tokens belong there.

    A language with experts of its own belongs to them and to expert 0; any other to all experts.
    """
    rows = []
    for language in languages:
        own = own_experts(expert_languages, language)
        allowed = {FROZEN_EXPERT, *own} if own else range(len(expert_languages))
        rows.append(tuple(index in allowed for index in range(len(expert_languages))))
    return tuple(rows)
