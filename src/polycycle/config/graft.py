"""Section `graft`: post-training of a sibling, added to the finished model."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from polycycle.config.section import Section


def _as_siblings(value: Any) -> Any:
    """A name, or one sibling's settings, is a list of one."""
    several = value if isinstance(value, list | tuple) else [value]
    return [{"model": one} if isinstance(one, str) else one for one in several]


class SiblingConfig(Section):
    """A model that was post-trained from the base."""

    model: str
    """A folder or a Hugging Face hub id."""
    revision: str | None = None
    """Commit, branch or tag of a hub id."""
    scale: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """λ, what its difference from the base is multiplied by (DeltaMoE: 1)."""


MERGES: dict[str, str] = {
    "add": "chat vector",
    "task_arithmetic": "task arithmetic",
    "ties": "TIES",
    "dare": "DARE",
}
"""How a graft into a dense baseline is called in reports, by `graft.merge`."""
_DENSITIES = {"ties": 0.2, "dare": 0.1}


class GraftConfig(Section):
    """Post-training grafted into the finished model, without any alignment data (DeltaMoE)."""

    post: Annotated[
        tuple[SiblingConfig, ...],
        BeforeValidator(
            _as_siblings,
            json_schema_input_type=str | SiblingConfig | list[str | SiblingConfig],
        ),
        Field(min_length=1),
    ]
    """The post-trained sibling of the base: its name, its settings, or a list of several, whose
    differences add up. Chat template and end of text come from the first."""
    target: Literal["all", "shared", "experts", "frozen-expert"] = "all"
    """Which tensors get the difference; anything but `all` is an ablation. (The command line says
    `--on`; in YAML `on` means true.)"""
    keep_ungrafted: bool = False
    """Keep the new experts as they were beside the model, so that `polycycle ungraft` is exact."""
    review_after: bool = False
    """Train the routers once more after the graft, as `review` says; hidden states have moved."""
    when: Literal["end", "before_review"] = "end"
    """`before_review` grafts the last group's post-pretrained model, and reviews it afterwards
    only; a study of the order."""
    merge: Literal["add", "task_arithmetic", "ties", "dare"] = "add"
    """For a dense `baseline`: its weights plus the difference (chat vector); or the base plus both
    differences, its own and the sibling's: summed, by TIES, or by DARE."""
    language_scale: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """λ of what the dense baseline learned, where `merge` is not `add`; by default 1."""
    density: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of each tensor's changes that are kept; by default 0.2 with `merge: ties`, the largest
    (TIES), and 0.1 with `merge: dare`, at random (DARE drops 90 %)."""

    @model_validator(mode="after")
    def _settings_do_something(self) -> Self:
        if self.keep_ungrafted and self.target in ("shared", "frozen-expert"):
            raise ValueError(
                f"keep_ungrafted does nothing with `target: {self.target}`; leave it out"
            )
        if self.review_after and self.when == "before_review":
            raise ValueError(
                "review_after: with `when: before_review` the review comes after the graft anyway; "
                "leave one of them out"
            )
        if self.language_scale is not None and self.merge == "add":
            raise ValueError("language_scale does nothing with `merge: add`; leave it out")
        if self.density is not None and self.merge not in _DENSITIES:
            raise ValueError(f"density does nothing with `merge: {self.merge}`; leave it out")
        return self

    @property
    def is_before_review(self) -> bool:
        """Whether the last review waits for the graft."""
        return self.when == "before_review"

    @property
    def is_reviewed(self) -> bool:
        """Whether a review follows the graft."""
        return self.review_after or self.is_before_review

    @property
    def kept_share(self) -> float:
        """`density`, its default filled in; 1 where all is kept."""
        return _DENSITIES.get(self.merge, 1.0) if self.density is None else self.density
