"""Section `languages`: which the dense model speaks, and which it is to learn."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from polycycle.config.section import Section
from polycycle.languages import LanguageGroups


def _as_groups(value: Any) -> Any:
    """A flat list of languages is one group."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return [value]
    return value


class LanguagesConfig(Section):
    """Which languages the dense model speaks and which it is to learn."""

    original: Annotated[tuple[str, ...], Field(min_length=1)]
    """Languages to keep; review replays a little of each."""
    unseen_original: tuple[str, ...] = ()
    """Languages to keep that no training ever sees: they show whether retention generalises."""
    expanded: Annotated[
        tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...],
        BeforeValidator(_as_groups, json_schema_input_type=list[str] | list[list[str]]),
    ] = Field(min_length=1)
    """Languages to learn: a list, or a list of lists when they come in groups (G1, G2, …)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.groups()
        return self

    def groups(self) -> LanguageGroups:
        """The same as the object every other room uses."""
        return LanguageGroups(
            original=self.original, unseen_original=self.unseen_original, expanded=self.expanded
        )
