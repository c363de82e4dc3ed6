"""What was watched while a run trained, and before it shared experts out."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from polycycle.results.part import Count, Part, Share


class CurvePoint(Part):
    """One logged line of training."""

    step: Count
    """Optimizer steps done."""
    tokens: Count
    """Tokens seen so far in this stage."""
    seconds: float
    """Wall-clock time since the stage began, pauses between resumes left out."""
    learning_rate: float
    """At this step."""
    loss: float
    """The total that was minimised."""
    lm_loss: dict[str, float] = Field(default_factory=dict)
    """Language-modelling loss per language, for the languages in these batches."""
    balance_loss: float | None = None
    """Unweighted load-balancing loss; 1 at balance."""
    prior_loss: float | None = None
    """Unweighted language-priors loss."""
    z_loss: float | None = None
    """Unweighted router z-loss."""
    classifier_loss: float | None = None
    """Unweighted loss of the language classifiers; 0 without any."""
    assignment_loss: float | None = None
    """Unweighted loss that holds languages to their own experts; None without any."""


class ValidationPoint(Part):
    """Held-out text, measured in the middle of training."""

    step: Count
    """Optimizer steps done."""
    bits_per_byte: dict[str, float]
    """Per language."""


class RoutingPoint(Part):
    """The routers, watched in the middle of training."""

    step: Count
    """Optimizer steps done."""
    expert0_share: dict[str, Share]
    """Frozen expert's share of the assignments' weight, per language group (`original`, …)."""
    usage_entropy_min: float
    """Entropy of expert usage over ln(experts), 0 to 1, of the least balanced layer."""
    usage_entropy_mean: float
    """The same, averaged over layers."""
    own_experts_share: dict[str, Share] = Field(default_factory=dict)
    """Per language that has experts of its own: tokens with at least one of them among their
    experts, averaged over the layers that have any."""


class Unmasking(Part):
    """What changed when a new group's untrained experts began to take part in routing.

    Bits per byte by language, on the text of this stage's validations.
    """

    before: dict[str, float]
    """Of the finished model of the groups before; growing alone changes no bit of it."""
    after: dict[str, float]
    """Of the grown model, unmasked, before its first training step."""


class StageCurves(Part):
    """What one training stage logged."""

    stage: str
    """`post-pretrain` or `review`."""
    training: tuple[CurvePoint, ...] = ()
    """In order of steps."""
    validations: tuple[ValidationPoint, ...] = ()
    """In order of steps."""
    routing: tuple[RoutingPoint, ...] = ()
    """In order of steps."""
    unmasking: Unmasking | None = None
    """None where no group was unmasked."""


class Alarm(Part):
    """Something that a person should look at."""

    stage: str
    """Where it was raised."""
    kind: Literal["forgetting", "plateau", "collapse"]
    """Languages that were there before got worse; the group being learned stopped getting better;
    routing is lopsided."""
    step: Count
    """When it was raised."""
    message: str
    """What was seen, what was expected, and what to try."""


class GroupSimilarity(Part):
    """How alike a model found the languages before a group was added. Lists run over all layers.

    Similarities are mean cosines between feed-forward inputs. "Original" is here all that the model
    had: the original languages, and those of earlier groups.
    """

    group: Annotated[int, Field(ge=1)]
    """1 for G1."""
    model: str
    """What was measured: `base`, or the finished model of the group before."""
    expanded_original: Annotated[tuple[float, ...], Field(min_length=1)]
    """Mean over all pairs of a language of the group and an original one."""
    expanded_expanded: tuple[float, ...] | None
    """Mean over all pairs of two languages of the group; None when it has only one."""
    per_layer: tuple[float, ...]
    """S: the mean of the two, what experts are shared out by."""
    new_experts: tuple[Count, ...]
    """Experts that the group brought."""
    is_allocated: bool
    """Whether `new_experts` follows from `per_layer`, not from a number in the recipe."""
    classifier_layers: tuple[Count, ...] = ()
    """Layers with a language classifier."""

    @model_validator(mode="after")
    def _lists_run_over_layers(self) -> Self:
        layers = len(self.per_layer)
        for name in ("expanded_original", "expanded_expanded", "new_experts"):
            values = getattr(self, name)
            if values is not None and len(values) != layers:
                raise ValueError(f"{name} has {len(values)} layers, per_layer has {layers}")
        return self
