"""What the retention gate does: how often it fires, what that trades and gains."""

from typing import Annotated, Literal

from pydantic import Field

from polycycle.results.part import Count, Part, Share


class RetentionPoint(Part):
    """What the retention gate would do at one threshold."""

    threshold: float
    """Mean score above which a text is original; −∞ gives the base, ∞ the mixture alone."""
    text_rate: dict[str, Share]
    """Per language: share of texts judged original, so computed by the base bit for bit."""
    bits_per_byte: dict[str, float]
    """Per language."""


class MixedText(Part):
    """What the retention gate makes of texts of which one half is original, the other expanded."""

    language: str
    """The expanded one."""
    begins: Literal["original", "expanded"]
    """Which half stands first."""
    texts: Annotated[int, Field(ge=1)]
    """How many were measured."""
    text_rate: Share
    """Share of texts judged original: the base computes their expanded half, too."""
    token_rate: Share
    """Share of tokens judged original where they stand, by the mean up to them."""


class RetentionSpeed(Part):
    """How fast original text is read (prefill, without a cache), in tokens per second.

    Medians over `repeats`, taken in turns in one process.
    """

    base: float
    """The frozen base's blocks alone."""
    kept: float
    """The model when its gate keeps the text: the base and one dot product per token."""
    mixture: float
    """The model when its gate does not keep the text: the mixture of experts."""
    batch: Annotated[int, Field(ge=1)]
    """Texts read together."""
    length: Annotated[int, Field(ge=1)]
    """Tokens of each."""
    repeats: Annotated[int, Field(ge=1)]
    """Readings of each kind."""
    device: str
    """`cpu`, `cuda`."""
    dtype: str
    """Of the weights while measured."""


class RetentionTrade(Part):
    """How often the retention gate fires, and what moving its threshold trades.

    A text is a window of held-out text, at most as long as the measured context.
    """

    threshold: float
    """The one that is set."""
    texts: dict[str, Count]
    """Per language: how many were measured."""
    token_rate: dict[str, Share]
    """Per language: share of tokens judged original where they stand, by the mean up to them."""
    points: tuple[RetentionPoint, ...]
    """At thresholds from −∞ to ∞, the one that is set among them."""
    mixed: tuple[MixedText, ...] = ()
    """At the threshold that is set, per expanded language and order of the halves."""
    speed: RetentionSpeed | None = None
    """What a text gains in speed when it is kept; None where it was not measured."""

    @property
    def set_point(self) -> RetentionPoint:
        """At the threshold that is set."""
        return next(point for point in self.points if point.threshold == self.threshold)
