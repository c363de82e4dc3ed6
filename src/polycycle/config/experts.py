"""Section `experts`: the shape of the mixture."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from polycycle.config.section import Count, Section

_SIMILARITY_TOKENS = 100_000
Threshold = Annotated[float, Field(allow_inf_nan=False)]


class ClassifierConfig(Section):
    """Language classifiers in front of routers: original text goes to expert 0 alone (LayerMoE)."""

    layers: Count | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    """The layers that get one, as a list counted from 0; or how many: those where expanded and
    original languages are most alike (paper: 7 of 24)."""
    form: Literal["token", "sequence"] = "token"
    """Decide per token, or once per sequence as published; that refuses packing and caches."""
    threshold: Threshold = 0.0
    """Score above which a token is original. Higher sends fewer tokens of originals to expert 0
    alone, and fewer of expanded languages; only 0 can be exported."""


class RetentionConfig(Section):
    """Text judged original, once and for all layers, is computed by the dense model bit for bit."""

    threshold: Threshold = 0.0
    """Mean score above which a text is original. Higher keeps fewer texts, and gives fewer texts of
    expanded languages away; the report shows the trade."""
    patience: Count = 8
    """Generated tokens in a row that must speak against a decision to change it."""


class AllocationConfig(Section):
    """Fewer experts in layers where languages are already alike (LayerMoE). One budget is given."""

    total_experts: Count | None = None
    """Experts of all layers together, frozen ones included (paper: 72 in 24 layers, 84 in 28)."""
    new_experts: Count | None = None
    """The same without the frozen ones."""
    share_of_uniform: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """New experts as a share of those that `experts.num_experts` everywhere adds (paper: 0.4)."""
    tokens_per_language: Count = _SIMILARITY_TOKENS
    """Text that similarity is measured on (paper: 100K tokens)."""
    min_experts: Count = 2
    """The least a layer gets; 1 lets layers stay dense."""
    max_experts: Annotated[int, Field(ge=2)] | None = None
    """The most a layer gets."""
    dense_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Layers that stay dense whatever their similarity, counted from 0. Without experts in layer 0,
    languages that review does not replay are kept better (ours; see docs/papers.md)."""
    export_friendly: bool = False
    """Only 1 expert or all the same number, which stock architectures can hold."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        budgets = ("total_experts", "new_experts", "share_of_uniform")
        given = [name for name in budgets if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(budgets)}, not {given or 'none'}")
        return self


class GrowthConfig(Section):
    """How a later group of languages is added to the finished model of the groups before."""

    routers: Literal["keep", "redraw"] = "keep"
    """`keep` the router rows that earlier groups have, and train only the new group's; or draw
    all anew and train all, as the released code does."""
    copy_from: Literal["frozen", "most_used"] = "frozen"
    """New experts start as copies of the original, as published; or, in each layer, of the expert
    that the finished model uses most for the new languages."""


class ExpertsConfig(Section):
    """The shape of the mixture of experts."""

    num_experts: Annotated[int, Field(ge=2)] | tuple[Count, ...] = 6
    """Experts per layer with the frozen one; a list gives each layer its own (paper: 6)."""
    top_k: Count = 2
    """Experts per token (paper: 2)."""
    renormalize: bool = True
    """Scale the chosen experts' weights to sum to one. False breaks the identity with the dense
    model at initialisation; with `top_k: 1`, True leaves the router without a gradient from the
    language-modelling loss (only the balance and prior losses move it)."""
    init: Literal["copy", "random"] = "copy"
    """New experts start as copies of the original FFN, or random (the paper's ablation)."""
    allocation: AllocationConfig | None = None
    """Share experts out by measured similarity; null gives every layer `num_experts`."""
    classifier: ClassifierConfig | None = None
    """Language classifiers, trained in review; null has none, as MoE-LPR."""
    exact_retention: RetentionConfig | None = None
    """A retention gate, trained in review (not in the papers)."""
    growth: GrowthConfig = GrowthConfig()
    """How groups after the first are added."""
    assignment: Literal["shared"] | Annotated[dict[str, Count], Field(min_length=1)] = "shared"
    """Which new experts belong to which expanded languages: `{el: 2, hu: 2, tr: 1}`, or `el+hu: 3`
    for experts that two share, a language perhaps in several entries. They are given in this order,
    and where layers differ the counts are shares. Of each group all languages are named, or none.
    `shared` leaves all experts open to all (MoE-LPR, LayerMoE). How tokens are held to theirs:
    `post_pretrain.assignment_coef` and `assignment_hard_steps`."""

    def shares_of(self, group: Sequence[str]) -> dict[tuple[str, ...], int]:
        """Entries of `assignment` that concern a group's languages; none where it shares all."""
        if self.assignment == "shared":
            return {}
        shares = {tuple(key.split("+")): count for key, count in self.assignment.items()}
        return {tags: count for tags, count in shares.items() if set(tags) & set(group)}

    @property
    def similarity_tokens(self) -> int | None:
        """Tokens per language to measure similarity on; None where no layer depends on it."""
        if self.allocation is not None:
            return self.allocation.tokens_per_language
        by_rank = self.classifier is not None and isinstance(self.classifier.layers, int)
        return _SIMILARITY_TOKENS if by_rank else None

    @model_validator(mode="after")
    def _one_way_to_count(self) -> Self:
        if self.allocation is not None and not isinstance(self.num_experts, int):
            raise ValueError(
                "`allocation` counts the experts of each layer itself; give `num_experts` as one "
                "number (the yardstick of share_of_uniform), or leave `allocation` out"
            )
        return self
