"""What a run found, as frozen pydantic models: the one file that reports and comparisons read.

Units are in the names; where a name has none the docstring says it. Shares and accuracies run from
0 to 1, losses are in nats per token. Not-a-number and infinity survive the trip through JSON.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from polycycle.languages import LanguageGroups
from polycycle.results.benchmarks import BenchmarkResult
from polycycle.results.part import Count, Part, Share

SCHEMA_VERSION: Literal[1] = 1
"""Raised by hand whenever an older reader would misread a result."""


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


class LanguageData(Part):
    """The text of one language in one part of the run."""

    language: str
    """BCP-47 tag."""
    part: Literal["train", "valid", "replay"]
    """Text to learn from, to measure on, or to review."""
    documents: Count
    """Documents used."""
    tokens: Count
    """Tokens used."""
    bytes: Count
    """UTF-8 bytes used."""
    words: Count
    """Words as the data room counts them (characters, where a script writes no spaces)."""
    tokens_per_word: float
    """Fertility: how finely the tokenizer cuts this language."""
    tokens_per_byte: float
    """The same per UTF-8 byte, which compares across scripts."""
    unknown_share: Share
    """Share of tokens that are the unknown token."""
    byte_fallback_share: Share
    """Share of tokens that stand for a single raw byte."""
    skipped: Count = 0
    """Documents left out as bad."""
    skipped_examples: tuple[tuple[str, str], ...] = ()
    """The first of them: where it stands, and why it was left out."""
    warning: str | None = None
    """What a person should know before trusting this language's numbers."""


class StageCost(Part):
    """What one stage took."""

    stage: str
    """Its name."""
    seconds: float
    """Wall-clock time."""
    tokens: Count
    """Tokens trained on; 0 for a stage that trains nothing."""
    steps: Count
    """Optimizer steps."""
    tokens_per_second: float
    """Over the whole stage."""
    peak_memory_bytes: Count
    """Of the GPU where there is one, else of the process."""
    parameters_trainable: Count
    """Parameters that had gradients."""
    was_resumed: bool
    """Whether it was interrupted and picked up again."""
    training_flops: float | None = None
    """Estimate of the floating-point operations spent in training."""


class Environment(Part):
    """Where and with what the run was made."""

    polycycle: str
    """Version."""
    torch: str
    """Version."""
    transformers: str
    """Version."""
    python: str
    """Version."""
    platform: str
    """Operating system and architecture."""
    processor: str
    """Name of the CPU."""
    cpu_cores: Count
    """Cores that the process may use."""
    threads: Count
    """Threads that torch uses."""
    gpu: str | None = None
    """Name and number of the GPUs."""
    memory_bytes: Count
    """Main memory of the machine."""
    dtype: str
    """Precision of training."""
    commit: str | None = None
    """Git commit of the code, when it runs from a checkout."""
    date: str
    """When the result was written, ISO 8601."""


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


class RunResult(Part):
    """Everything that a run found, in one place."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this layout."""
    name: str
    """The recipe's name."""
    method: str = "MoE-LPR"
    """The method that the recipe follows."""
    recipe: dict[str, Any]
    """The resolved recipe, defaults filled in."""
    languages: LanguageGroups
    """Original, unseen original and expanded languages."""
    seed: int
    """Seed of data order and initialisation."""
    base: str
    """The dense model: hub id or folder."""
    models: tuple[ModelScores, ...]
    """In the order they were made; `base` first."""
    similarities: tuple[GroupSimilarity, ...] = ()
    """One per language group before which similarity was measured."""
    curves: tuple[StageCurves, ...] = ()
    """One per training stage, in order."""
    alarms: tuple[Alarm, ...] = ()
    """In the order they were raised."""
    data: tuple[LanguageData, ...] = ()
    """One per language and part."""
    costs: tuple[StageCost, ...] = ()
    """One per stage, in order."""
    export: ExportResult | None = None
    """The stock checkpoint that the run wrote, if it was to."""
    environment: Environment
    """Versions and machine."""

    @model_validator(mode="after")
    def _begins_with_the_base(self) -> Self:
        names = [model.name for model in self.models]
        if not names or names[0] != "base":
            raise ValueError(f"models must begin with 'base', got {names}")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"models: {', '.join(repeated)} stand here more than once")
        return self

    def model(self, name: str) -> ModelScores:
        """The model of that name.

        Raises:
            KeyError: the run has no such model.
        """
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(f"no model {name!r}; there are {', '.join(m.name for m in self.models)}")

    @property
    def needs_polycycle(self) -> bool:
        """Whether the final model's class is one of ours, not transformers' own."""
        baseline = self.recipe.get("baseline")
        method = baseline.get("method") if isinstance(baseline, dict) else baseline
        return self.final.routing is not None or method == "loramoe"

    @property
    def final(self) -> ModelScores:
        """The last model made: what the run hands over."""
        return self.models[-1]
