"""How fast a model reads and writes, beside another one that took turns with it."""

from typing import Annotated, Literal

from pydantic import Field

from polycycle.results.part import Count, Part


class Pace(Part):
    """How fast one model does one kind of work; the median over rounds, and their quartiles."""

    work: Literal["prefill", "decode"]
    """Reading texts whole, without a cache; or writing greedily, token by token, with one."""
    batch: Annotated[int, Field(ge=1)]
    """Texts at once."""
    length: Annotated[int, Field(ge=1)]
    """Tokens of each that were read, or written."""
    tokens_per_second: float
    """Of all texts together."""
    quartiles: tuple[float, float]
    """A half of the rounds lies between them."""
    of_base: float
    """Tokens per second ÷ those of the base in the same round: what else the machine did hit both
    alike, so this varies least."""
    of_base_quartiles: tuple[float, float]
    """A half of the rounds lies between them."""
    rounds: Annotated[int, Field(ge=1)]
    """Turns of each model."""


class ModelSpeed(Part):
    """How fast a finished model is, and how fast beside its base."""

    content_hash: str
    """Of the model's tensors."""
    base_hash: str
    """Of the base's tensors."""
    paces: tuple[Pace, ...]
    """One per kind of work and number of texts."""
    prompt_tokens: Count
    """What stood before the tokens that were written."""
    device: str
    """`cpu`, `cuda`."""
    dtype: str
    """Of the weights while measured."""
    threads: Annotated[int, Field(ge=1)]
    """That torch used on the CPU."""

    @property
    def by_use(self) -> dict[str, Pace]:
        """`prefill`; `decode`, of the fewest texts; `decode_batch`, of the most if that is more."""
        found: dict[str, Pace] = {pace.work: pace for pace in self.paces if pace.work == "prefill"}
        written = sorted((p for p in self.paces if p.work == "decode"), key=lambda p: p.batch)
        found |= {"decode": written[0]} if written else {}
        found |= {"decode_batch": written[-1]} if len(written) > 1 else {}
        return found
