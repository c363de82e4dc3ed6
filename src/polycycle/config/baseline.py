"""Methods to compare with, trained in the place of a mixture of experts."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from polycycle.config.section import Coefficient, Count, Section


class FullConfig(Section):
    """Full fine-tuning: every parameter trains."""

    method: Literal["full"] = "full"
    """Which baseline this is."""


class LoraConfig(Section):
    """LoRA: low-rank updates of frozen linear maps, merged into them at the end."""

    method: Literal["lora"] = "lora"
    """Which baseline this is."""
    rank: Count = 8
    """Rank of an update (MoE-LPR's baseline: 8; a second one with 64)."""
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """An update is multiplied by alpha ÷ rank. By default twice the rank: the papers give none, and
    that is the default of the framework that MoE-LPR's code is built on."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Of what goes into an update, in training."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Linear maps that get one, by the last part of their names (`q_proj`); by default all but the
    head."""


class LlamaProConfig(Section):
    """LLaMA-Pro: new blocks between frozen ones; only they train."""

    method: Literal["llama_pro"] = "llama_pro"
    """Which baseline this is."""
    every: Count = 2
    """One new block after every so many of the base's (MoE-LPR's baseline: 12 in 24 layers;
    LLaMA-Pro: 8 in 32, so 4)."""


class HalfConfig(Section):
    """Half fine-tuning: in every block a seeded half of the tensors stays as it is (HFT)."""

    method: Literal["half"] = "half"
    """Which baseline this is."""


class ShieldedConfig(Section):
    """Source-shielded updates: the columns of linear maps that the original languages need most
    stay as they are, everything else trains (SSU)."""

    method: Literal["shielded"] = "shielded"
    """Which baseline this is."""
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Of each map's columns that are frozen (SSU: 0.5)."""
    calibration_tokens: Count = 1_024_000
    """Text of the original languages that columns are scored on, at most: the first of what is
    replayed, all languages alike (SSU: 500 samples of 2048 tokens)."""


class LoraMoeConfig(Section):
    """LoRAMoE: LoRA experts and routers beside the frozen feed-forward maps."""

    method: Literal["loramoe"] = "loramoe"
    """Which baseline this is."""
    num_experts: Annotated[int, Field(ge=2)] = 8
    """LoRA experts of each map (MoE-LPR's baseline: 8; LoRAMoE: 6)."""
    rank: Count = 180
    """Rank of each (MoE-LPR's baseline: 180; LoRAMoE: 4)."""
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """An expert's update is multiplied by alpha ÷ rank. By default twice the rank, as for `lora`
    (MoE-LPR gives none; LoRAMoE: 32 with rank 4)."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Of what goes into the experts, in training (LoRAMoE: 0.05)."""
    balance_coef: Coefficient = 0.1
    """β of the localized balancing constraint (`blc_weight`; both papers: 0.1)."""
    balance_delta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """δ: how far half of the experts lean to expanded, the others to original languages
    (`blc_alpha`; both papers: 0.1)."""


BASELINES: dict[str, tuple[str, str]] = {
    "full": ("full-fine-tuning", "Full fine-tuning"),
    "lora": ("lora", "LoRA"),
    "llama_pro": ("llama-pro", "LLaMA-Pro"),
    "loramoe": ("loramoe", "LoRAMoE"),
    "half": ("half-fine-tuning", "Half fine-tuning"),
    "shielded": ("shielded-fine-tuning", "Source-shielded fine-tuning"),
}
"""By method: the name of its stage and model, and of the method in reports."""


def _tag(value: Any) -> str | None:
    method = value.get("method") if isinstance(value, dict) else getattr(value, "method", None)
    return f"method({method})" if method in BASELINES else None


def _as_settings(value: Any) -> Any:
    """`lora` is short for `{method: lora}`."""
    return {"method": value} if isinstance(value, str) else value


AnyBaseline = FullConfig | LoraConfig | LlamaProConfig | LoraMoeConfig | HalfConfig | ShieldedConfig
BaselineConfig = Annotated[
    Annotated[FullConfig, Tag("method(full)")]
    | Annotated[LoraConfig, Tag("method(lora)")]
    | Annotated[LlamaProConfig, Tag("method(llama_pro)")]
    | Annotated[LoraMoeConfig, Tag("method(loramoe)")]
    | Annotated[HalfConfig, Tag("method(half)")]
    | Annotated[ShieldedConfig, Tag("method(shielded)")],
    Discriminator(
        _tag,
        custom_error_type="unknown_method",
        custom_error_message=f"`method` is one of {', '.join(BASELINES)}",
    ),
    BeforeValidator(_as_settings, json_schema_input_type=str | AnyBaseline),
]
