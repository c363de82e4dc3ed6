"""What one model of a run is, and how it does in every language."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from polycycle.results.benchmarks import BenchmarkResult
from polycycle.results.part import Count, Part, Share
from polycycle.results.retention_gate import RetentionTrade


class TaskScore(Part):
    """How well a model wrote the answers of one generation task in one language."""

    examples: Annotated[int, Field(ge=1)]
    """How many answers were written."""
    exact_match: Share
    """Share that is the right one, letter for letter; white space around it does not count."""
    chrf: Annotated[float, Field(ge=0.0, le=100.0 + 1e-6)]
    """chrF over all answers, 0 to 100: how many of their character n-grams are right."""
    in_form: Share | None = None
    """Share in the form that was asked for, right or wrong; None where no form was."""


class LanguageScores(Part):
    """How well one model does in one language, on held-out text, questions and tasks."""

    language: str
    """BCP-47 tag."""
    group: Count
    """0 for an original language, g for a language of expanded group Gg."""
    is_unseen_original: bool = False
    """Original, but in no training text: it shows whether retention generalises."""
    bits_per_byte: float
    """Bits that the model needs per UTF-8 byte; lower is better, and tokenizers compare."""
    perplexity: float
    """Per token."""
    documents: Count
    """Held-out documents measured."""
    tokens: Count
    """Tokens predicted."""
    bytes: Count
    """UTF-8 bytes of the measured text."""
    accuracy: Share | None = None
    """Share of multiple-choice questions answered rightly; None without questions."""
    questions: Count | None = None
    """How many questions that is a share of."""
    kl_from_base: float | None = None
    """KL(base ‖ model) in nats per token; None for the base itself."""
    expert0_share: Share | None = None
    """Share of the assignments' weight that went to the frozen expert; None for a dense model."""
    tasks: dict[str, TaskScore] = Field(default_factory=dict)
    """Per generation task that has examples in this language."""


class RoutingTable(Part):
    """Where each language's tokens went, per MoE layer. All lists run over `moe_layers`."""

    num_experts: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """Experts of each MoE layer, the frozen one included."""
    moe_layers: tuple[Count, ...]
    """Indices of the MoE layers in the model."""
    expert_languages: tuple[tuple[tuple[str, ...], ...], ...] = ()
    """For each expert of each MoE layer the languages that it is dedicated to, none if it is open
    to all; empty where all experts are."""
    expert0_share: dict[str, tuple[Share, ...]]
    """Per language: the frozen expert's share of the assignments' weight, in each MoE layer."""
    usage: dict[str, tuple[tuple[Share, ...], ...]]
    """Per language: each expert's share of the assignments, in each MoE layer."""
    usage_entropy: dict[str, tuple[Share, ...]] = Field(default_factory=dict)
    """Per language: entropy of `usage` over ln(experts), in each MoE layer; 1 is perfectly even."""
    divergence_from_original: dict[str, tuple[Share, ...]] = Field(default_factory=dict)
    """Per language: Jensen–Shannon divergence in bits between its `usage` and the mean usage of the
    replayed original languages other than itself, in each MoE layer; 0 is alike, 1 is without a
    common expert. A language without such others is left out."""
    judged_original: dict[str, tuple[Share | None, ...]] = Field(default_factory=dict)
    """Per language: share of tokens that the language classifier judged original, in each MoE
    layer; None where the layer has no classifier, empty where no layer has one."""
    classifier_accuracy: dict[str, tuple[Share | None, ...]] = Field(default_factory=dict)
    """The same as shares of tokens judged rightly."""

    @model_validator(mode="after")
    def _lists_run_over_moe_layers(self) -> Self:
        layers = len(self.moe_layers)
        if len(self.num_experts) != layers:
            raise ValueError(f"num_experts has {len(self.num_experts)} layers, expected {layers}")
        owned = tuple(len(experts) for experts in self.expert_languages)
        if owned and owned != self.num_experts:
            raise ValueError(f"expert_languages has {owned} experts, expected {self.num_experts}")
        for name in (
            "expert0_share",
            "usage_entropy",
            "divergence_from_original",
            "judged_original",
            "classifier_accuracy",
        ):
            for language, shares in getattr(self, name).items():
                if len(shares) != layers:
                    raise ValueError(
                        f"{name}[{language}] has {len(shares)} layers, expected {layers}"
                    )
        for language, usage in self.usage.items():
            widths = tuple(len(experts) for experts in usage)
            if widths != self.num_experts:
                raise ValueError(
                    f"usage[{language}] has {widths} experts, expected {self.num_experts}"
                )
        return self


class TensorBytes(Part):
    """What a model's tensors weigh: the base, and what a language pack saves beside it."""

    base: Count
    """Tensors of the dense model."""
    groups: tuple[Count, ...]
    """Experts and router rows of G1, G2, …"""
    shared: Count = 0
    """Language classifiers and the retention gate, which all groups share."""


class ModelScores(Part):
    """One model of the run: what it is, and how it does in every language."""

    name: str
    """`base`, `post-pretrain`, `review`, `post` (the sibling to graft), `graft`, `review-grafted`,
    `post-train`, or a baseline's."""
    folder: str
    """Where its weights lie: a folder, or the hub id of the base."""
    content_hash: str
    """Hash over all of its tensors."""
    base_hash: str | None
    """Content hash of the dense model inside it, its own for a dense model; None where a graft left
    no dense model that exists."""
    reference: str = "base"
    """The run's model that gain and retention are measured against: the dense model inside it."""
    parameters_total: Count
    """All parameters."""
    parameters_active: Count
    """Parameters that one token passes through."""
    scores: dict[str, LanguageScores]
    """One entry per measured language."""
    routing: RoutingTable | None = None
    """None for a dense model."""
    retention: RetentionTrade | None = None
    """None without a retention gate."""
    tensor_bytes: TensorBytes | None = None
    """None for a dense model."""
    benchmarks: BenchmarkResult | None = None
    """None where no benchmark was measured."""
