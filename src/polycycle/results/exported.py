"""An export of a model, and the proof that it computes the same."""

from typing import Annotated

from pydantic import Field

from polycycle.results.part import Count, Part, Share


class ExportedLanguage(Part):
    """How the logits of an export compare with the model's on one language's text."""

    tokens: Count
    """Tokens compared."""
    largest_difference: Annotated[float, Field(ge=0.0)]
    """Of two logits, in units of the largest logit."""
    mean_kl: float
    """KL(model ‖ export) in nats per token; rounding may make it slightly negative."""
    argmax_agreement: Share
    """Share of positions whose most probable token is the same."""
    same_greedy: Count
    """Prompts whose greedy continuation is the same."""
    texts: Count
    """Texts compared, and prompts."""
    is_bit_equal: bool
    """Whether all logits are the same bits."""


class ExportResult(Part):
    """A stock checkpoint of a model, and the proof that it computes the same."""

    folder: str
    """Where it lies."""
    source: str
    """The model that it was made from."""
    base: str | None = None
    """The dense model that the source was made from."""
    base_hash: str | None = None
    """Content hash of the base's tensors; none where no dense model is its base any more."""
    trained_languages: tuple[str, ...] = ()
    """The original and expanded languages, where the source says them."""
    target: str
    """Its architecture's model_type, or `gguf`."""
    model_class: str
    """The transformers class that loads it, or llama.cpp's name of the architecture."""
    engines: dict[str, str]
    """Engines that compute it right, each with how that is known."""
    dtype: str
    """Of the weights and of the comparison."""
    compared_on: str
    """What was compared: real text, or random token ids."""
    passed: bool
    """Whether it computes the same, within the thresholds of the dtype."""
    settled_in_float32: bool = False
    """Whether half precision missed its thresholds by rounding, so that float32 decided."""
    without_exact_retention: bool = False
    """Whether a retention gate was left out."""
    languages: dict[str, ExportedLanguage]
    """By language."""
    versions: dict[str, str]
    """Of what ran the export."""
