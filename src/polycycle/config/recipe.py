"""The recipe: everything a run is told, as frozen pydantic models.

Modules below take flat arguments and never see these objects; the stages unpack them. Defaults are
the papers' where the papers give one (the line says so) and ours otherwise.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from polycycle.config.baseline import BaselineConfig
from polycycle.config.section import Coefficient, Count, LearningRate, Section
from polycycle.engines import Engine
from polycycle.languages import LanguageGroups

_SIMILARITY_TOKENS = 100_000


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
        tuple[tuple[str, ...], ...],
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


class SourceConfig(Section):
    """Where the text of one language lies."""

    path: str | None = None
    """A file, folder or glob, relative to `data.root`; jsonl, parquet or text, plain or gz/zst."""
    hub: str | None = None
    """A dataset id on the Hugging Face hub, streamed."""
    subset: str | None = None
    """The configuration name of a hub dataset (`20231101.el`)."""
    split: str = "train"
    """The split of a hub dataset."""
    revision: str | None = None
    """Commit, branch or tag of a hub dataset; pin it, and the text stays what it was."""
    format: Literal["auto", "jsonl", "parquet", "text"] = "auto"
    """How to read the files; `auto` goes by the file name."""
    text_field: str = "text"
    """The column that holds a document's text (jsonl, parquet, hub)."""
    language_field: str | None = None
    """A column that holds each document's language; rows of other languages are passed over."""
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """Share of the stage's tokens relative to the other languages."""
    license: str | None = None
    """The text's licence (`CC-BY-SA-4.0`), for the model card."""

    def place(self) -> dict[str, Any]:
        """What says where the text lies and how to read it: the arguments of `TextSource`."""
        return self.model_dump(exclude={"weight", "license"})

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of `path` (local) and `hub` (a dataset id)")
        for name in ("subset", "revision"):
            if self.hub is None and getattr(self, name) is not None:
                raise ValueError(f"`{name}` belongs to `hub` datasets")
        return self


def _as_source(value: Any) -> Any:
    """`el: text/el.jsonl` is short for `el: {path: text/el.jsonl}`."""
    return {"path": value} if isinstance(value, str) else value


Source = Annotated[
    SourceConfig, BeforeValidator(_as_source, json_schema_input_type=str | SourceConfig)
]
Sources = str | dict[str, Source]


class DataConfig(Section):
    """Text to train and to measure on."""

    root: Path = Path(".")
    """Folder that relative paths start from; set it with `--set data.root=…`."""
    train: Sources
    """A pattern with `{language}` in it, or one source per language."""
    valid: Sources
    """The same for held-out text. Must not overlap with `train`."""
    questions: str | None = None
    """Pattern of multiple-choice files, jsonl with `prompt`, `choices` and `answer` (an index)."""
    tasks: dict[str, str] = Field(default_factory=dict)
    """Patterns of generation tasks by name, jsonl with `prompt`, `response` (one line) and, if
    a form is asked for, `form` (a regular expression). Passed over in languages without a file."""
    packing: Literal["documents", "concatenate"] = "documents"
    """`documents`: no attention across documents; `concatenate`: plain, as published."""
    on_bad_document: Literal["error", "skip"] = "error"
    """Stop at a bad line, or skip it, count it and list it in the report."""
    repeat: bool = False
    """Go over a corpus more than once when it has fewer tokens than its share; else an error."""
    cache_dir: Path | None = None
    """Where tokenized data is kept; by default `cache/` beside the run's stages."""

    def source(self, language: str, part: Literal["train", "valid"]) -> SourceConfig | None:
        """Where the text of `language` lies, or None when the recipe gives none."""
        sources = self.train if part == "train" else self.valid
        if isinstance(sources, str):
            return SourceConfig(path=sources.replace("{language}", language))
        return sources.get(language)

    @model_validator(mode="after")
    def _patterns(self) -> Self:
        patterns = {key: getattr(self, key) for key in ("train", "valid", "questions")}
        patterns |= {f"tasks.{name}": pattern for name, pattern in self.tasks.items()}
        for key, value in patterns.items():
            if isinstance(value, str) and "{language}" not in value:
                raise ValueError(f"{key}: a pattern must contain {{language}}, got {value!r}")
        return self


class ClassifierConfig(Section):
    """Language classifiers in front of routers: original text goes to expert 0 alone (LayerMoE)."""

    layers: Count | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    """The layers that get one, as a list counted from 0; or how many: those where expanded and
    original languages are most alike (paper: 7 of 24)."""
    form: Literal["token", "sequence"] = "token"
    """Decide per token, or once per sequence as published; that refuses packing and caches."""


class RetentionConfig(Section):
    """Text judged original, once and for all layers, is computed by the dense model bit for bit."""

    threshold: float = 0.0
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
    share_of_uniform: Annotated[float, Field(gt=0.0)] | None = None
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


class AlarmsConfig(Section):
    """When to warn during training. Each can be turned off with null."""

    forgetting_ratio: Annotated[float, Field(gt=1.0)] | None = 1.02
    """Original bits per byte above base × this at two validations in a row."""
    plateau_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] | None = 0.005
    """Expanded bits per byte better by less than this share over the last fifth of the steps."""
    collapse_share: Annotated[float, Field(gt=0.0, le=1.0)] | None = 0.9
    """An expert with more than this share of a layer's assignments. With `top_k: 2` none can have
    more than half: there dead experts and a low entropy tell of a collapse."""
    dead_share: Annotated[float, Field(ge=0.0, lt=1.0)] | None = 0.001
    """An expert with less than this share of a layer's assignments."""
    usage_entropy: Annotated[float, Field(gt=0.0, lt=1.0)] | None = 0.3
    """Usage entropy of a layer below this times ln N."""
    patience_steps: Count = 50
    """Steps in a row before a collapse alarm is raised."""
    stop: bool = False
    """Stop the run at the first alarm instead of warning."""


class ReviewAlarmsConfig(AlarmsConfig):
    """The same in review, which is not there to improve the expanded languages."""

    plateau_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """As in post-pretraining, but off: in review a plateau is no alarm."""


class TrainConfig(Section):
    """What the training stages have in common."""

    batch_size: Count = 512
    """Sequences per optimizer step over all processes (paper: 512)."""
    micro_batch_size: Count | None = None
    """Sequences per forward pass and process; by default the whole share of the step."""
    sequence_length: Annotated[int, Field(ge=8)] = 1024
    """Tokens per packed sequence (paper: 1024 in post-pretraining, 512 in review)."""
    learning_rate: LearningRate = 5e-5
    """Peak learning rate (paper: 5e-5)."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Learning-rate schedule (paper: cosine)."""
    warmup_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the steps spent warming up."""
    weight_decay: Coefficient = 0.0
    """AdamW weight decay."""
    max_grad_norm: Coefficient = 1.0
    """Gradient clipping; 0 turns it off."""
    adam_beta2: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    """AdamW's second moment decay."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Autocast; `auto` takes bfloat16 where the processor or GPU computes it fast."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass (non-reentrant)."""
    fsdp: bool = False
    """Under `torchrun`: spread parameters, gradients and optimizer state over all processes (FSDP2)
    instead of keeping a copy in each."""
    torch_compile: bool = False
    """Compile the model; worth its warm-up on long runs."""
    router_z_coef: Coefficient = 0.0
    """Weight of the router z-loss (ST-MoE; not in the papers)."""
    log_every_steps: Count = 10
    """Steps between lines of metrics."""
    validate_every_steps: Count | None = None
    """Steps between per-language validations; by default a fifth of the run."""
    validation_bytes: Count = 200_000
    """UTF-8 bytes of held-out text per language at each of these validations."""
    save_every_steps: Count | None = None
    """Steps between checkpoints to resume from; by default a tenth of the run."""
    report_to: tuple[str, ...] = ()
    """Trackers of the Hugging Face Trainer (`tensorboard`, `wandb`, …)."""
    alarms: AlarmsConfig = AlarmsConfig()
    """When to warn."""


class PostPretrainConfig(TrainConfig):
    """New experts and routers learn the expanded languages."""

    tokens: Count
    """Tokens of each group's post-pretraining, shared over its languages by weight (paper: 8B per
    language)."""
    balance_coef: Coefficient = 0.01
    """α of the load-balancing loss, in the paper's normalisation (1.0 at balance). The released
    code's 0.01 is 0.02 here for top_k 2."""
    balance_scope: Literal["global", "micro_batch"] = "global"
    """Expert shares and mean probabilities over all ranks, or per micro-batch as published."""
    replay_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of tokens from original languages (the paper's one-stage ablation)."""
    prior_coef: Coefficient = 0.0
    """γ of the language-priors loss in this stage (the paper's one-stage ablation)."""
    assignment_coef: Coefficient = 0.1
    """Weight of the loss that holds tokens of a language to expert 0 and its own experts, where
    `experts.assignment` gives it any (ours; see docs/papers.md)."""
    assignment_hard_steps: Annotated[int, Field(ge=0)] = 0
    """In so many first steps tokens reach no other experts at all, whatever the router says; each
    group's post-pretraining counts its own. Inference never sees this mask."""
    trains: Literal["new_experts", "everything"] = "new_experts"
    """`everything` trains the base's tensors, too (the paper's baseline "MoE"): then nothing holds
    the original languages, and no dense model is the base of the result."""


class ReviewConfig(TrainConfig):
    """Routers alone learn to send the original languages to expert 0."""

    sequence_length: Annotated[int, Field(ge=8)] = 512
    """Tokens per packed sequence (paper: 512)."""
    replay_documents: Count = 50_000
    """Documents per original language (paper: 50K, where the curve saturates)."""
    expanded_documents: Count = 100_000
    """Documents per expanded language (paper: 100K, a ratio of 1 to 2)."""
    tokens: Count | None = None
    """Tokens in all; by default what these documents hold, once."""
    prior_coef: Coefficient = 0.1
    """γ of the language-priors loss (paper: 0.1)."""
    prior_form: Literal["paper", "released", "group"] = "paper"
    """The paper's −log G₀; the released code's bounded form, which needs a larger γ; or `group`,
    which holds the text of earlier groups, too, to the experts they had (ours)."""
    classifier_coef: Coefficient = 0.1
    """Weight of the loss of language classifiers and retention gate, if any (LayerMoE: 0.1)."""
    balance_coef: Coefficient = 0.0
    """The paper uses no balance loss in review."""
    balance_scope: Literal["global", "micro_batch"] = "global"
    """As in post-pretraining; only used when `balance_coef` is above zero."""
    wrong_labels: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the documents whose language label is made wrong: of original languages to a random
    expanded one, and the other way round. To study what mislabelled text does."""
    alarms: ReviewAlarmsConfig = ReviewAlarmsConfig()
    """When to warn; a plateau is no alarm here."""


class PostTrainConfig(TrainConfig):
    """The finished model post-trained on instructions of original languages: what a graft saves."""

    data: Sources
    """Texts of instructions with their answers, each one document: a pattern with `{language}` in
    it for all of `languages.original`, or one source per language. Relative to `data.root`."""
    tokens: Count
    """Tokens in all, shared over the languages by weight; texts are gone over again as needed."""
    trains: Literal["everything", "new_experts"] = "everything"
    """`everything` moves what post-training moved in the sibling, attention and embeddings among
    it, so no dense model is the base of the result. `new_experts` trains them and their routers
    alone, and hardly sees this text: review sends it to the frozen expert."""
    alarms: AlarmsConfig = AlarmsConfig(plateau_ratio=None)
    """Post-training is not there to improve the expanded languages, so a plateau is no alarm."""


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


class ExportConfig(Section):
    """A stock checkpoint of the finished model, proved to compute the same (`polycycle export`)."""

    target: str = "auto"
    """`auto`, or a stock architecture: mixtral, qwen2_moe, qwen3_moe, flex_olmo, ernie4_5_moe,
    or `gguf`, the file of llama.cpp."""
    engine: Engine = "transformers"
    """What will serve it; a target that this engine computes otherwise is refused."""
    without_exact_retention: bool = False
    """Leave a retention gate out, which no stock architecture has; classifiers stay."""


class EvaluationConfig(Section):
    """What is measured before and after."""

    valid_bytes: Count = 1_000_000
    """UTF-8 bytes of held-out text per language."""
    max_questions: Count | None = None
    """Questions per language; all by default."""
    max_task_examples: Count | None = 200
    """Examples per generation task and language, the first of the file; null takes all."""
    max_new_tokens: Count = 64
    """Tokens that an answer to a generation task may have; it ends at its first newline."""
    context_length: Annotated[int, Field(ge=8)] | None = None
    """Window for long documents; by default the model's own, at most 2048. Say what the base was
    trained on if that is less: beyond it bits per byte rise whatever the language."""
    batch_tokens: Count = 8192
    """Tokens per forward pass."""


class Recipe(Section):
    """One run: from a dense checkpoint and text to a model that speaks more languages."""

    name: str = "polycycle"
    """Name in reports and model cards."""
    base: str
    """The dense model: a folder or a Hugging Face hub id."""
    base_revision: str | None = None
    """Commit, branch or tag of a hub base."""
    output: Path
    """The run folder; every stage writes one folder in it."""
    reuse: tuple[Path, ...] = ()
    """Other run folders: a stage that one of them has made from the same inputs is taken over."""
    seed: int = 0
    """Seed of data order and initialisation."""
    languages: LanguagesConfig
    data: DataConfig
    baseline: BaselineConfig | None = None
    """A method to compare with, by name (`full`, `half`, `lora`, `llama_pro`, `loramoe`) or with
    settings; null upcycles. It trains in one stage, as `post_pretrain` says, on what
    post-pretraining and review would read, shuffled together, with the language-modelling loss
    alone (LoRAMoE adds its balancing constraint); `experts`, all other `_coef`s and the rest of
    `review` are passed over."""
    experts: ExpertsConfig = ExpertsConfig()
    post_pretrain: PostPretrainConfig
    review: ReviewConfig | None = ReviewConfig()
    """null leaves review out (the paper's ablation)."""
    graft: GraftConfig | None = None
    """The last step: post-training added to every expert; null leaves it out. After a dense
    `baseline` it is merged in, as `graft.merge` says."""
    post_train: PostTrainConfig | None = None
    """Instead of a graft, the costly way: post-train the finished model itself; null leaves it
    out."""
    export: ExportConfig | None = None
    """Write the finished model as a stock checkpoint too, and prove it; null leaves it out."""
    evaluation: EvaluationConfig = EvaluationConfig()
    license: str = "other"
    """Licence id of the weights, for the model card; the base's licence binds them, so `other`
    asks the reader to look there."""

    @model_validator(mode="after")
    def _settings_do_something(self) -> Self:
        groups = self.languages.groups()
        known = set(groups.all)
        problems: list[str] = []
        for part in ("train", "valid"):
            sources = getattr(self.data, part)
            if isinstance(sources, dict):
                unknown = sorted(set(sources) - known)
                if unknown:
                    problems.append(f"data.{part}: {', '.join(unknown)} stand in no language group")
        needed = set(groups.all_expanded)
        if self.review is not None or self.post_pretrain.replay_share > 0:
            needed |= set(groups.original)
        # Every language is measured; the unseen ones are in no training text.
        for part, wanted in (("train", needed), ("valid", known)):
            sources = getattr(self.data, part)
            missing = sorted(wanted - set(sources)) if isinstance(sources, dict) else []
            if missing:
                problems.append(f"data.{part}: no text for {', '.join(missing)}")
        if self.post_pretrain.prior_coef > 0 and self.post_pretrain.replay_share == 0:
            problems.append(
                "post_pretrain.prior_coef does nothing without original text: "
                "set post_pretrain.replay_share above 0"
            )
        problems += self._assignment_problems()
        problems += self._baseline_problems()
        if self.post_pretrain.trains == "everything":
            needs_base = {
                "baseline": self.baseline,
                "experts.exact_retention": self.experts.exact_retention,
            }
            problems += [
                f"post_pretrain.trains: everything leaves no frozen base, so leave `{key}` out"
                for key, value in needs_base.items()
                if value is not None
            ]
        problems += self._graft_problems()
        problems += self._post_train_problems()
        counts = self.experts.num_experts
        if isinstance(counts, int) and self.experts.top_k > counts:
            problems.append(
                f"experts.top_k={self.experts.top_k} exceeds experts.num_experts={counts}"
            )
        classifier = self.experts.classifier
        packs = self.data.packing == "documents"
        if classifier is not None and classifier.form == "sequence" and packs:
            problems.append(
                "experts.classifier.form=sequence judges whole rows, but data.packing=documents "
                "puts several documents into one; use form: token"
            )
        if (
            classifier is not None
            and classifier.form == "sequence"
            and self.experts.exact_retention
        ):
            problems.append(
                "experts.exact_retention keeps its decision beside the cache, which "
                "experts.classifier.form=sequence refuses; use form: token, or leave one out"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _assignment_problems(self) -> list[str]:
        assignment, stage = self.experts.assignment, self.post_pretrain
        if assignment == "shared":
            defaults = PostPretrainConfig.model_fields
            return [
                f"post_pretrain.{name} does nothing with experts.assignment: shared; give "
                "languages experts of their own, as in {el: 2, hu: 2}, or leave it out"
                for name in ("assignment_coef", "assignment_hard_steps")
                if getattr(stage, name) != defaults[name].default
            ]
        problems = []
        entries = [tuple(key.split("+")) for key in assignment]
        groups = self.languages.expanded
        for key, tags in zip(assignment, entries, strict=True):
            homes = {n for n, group in enumerate(groups, start=1) for tag in tags if tag in group}
            stray = [tag for tag in tags if not any(tag in group for group in groups)]
            if stray:
                problems.append(
                    f"experts.assignment: {key}: {', '.join(map(repr, stray))} is no expanded "
                    f"language; known are {', '.join(self.languages.groups().all_expanded)}, and "
                    "el+hu is what two of them share"
                )
            elif len(homes) > 1:
                problems.append(
                    f"experts.assignment: {key} joins languages of different groups; an expert "
                    "comes with one group and can only belong to languages of that one"
                )
        if len({frozenset(tags) for tags in entries}) < len(entries):
            problems.append("experts.assignment: two entries name the same languages; add them up")
        named = {tag for tags in entries for tag in tags}
        for number, group in enumerate(groups, start=1):
            missing = [tag for tag in group if tag not in named]
            if missing and len(missing) < len(group):
                problems.append(
                    f"experts.assignment: {', '.join(missing)} of group G{number} is not named; "
                    "name every language of a group, or none"
                )
        if stage.assignment_coef == 0 and stage.assignment_hard_steps == 0:
            problems.append(
                "experts.assignment does nothing: set post_pretrain.assignment_coef (0.1) or "
                "post_pretrain.assignment_hard_steps above 0"
            )
        return problems

    def _baseline_problems(self) -> list[str]:
        if self.baseline is None:
            return []
        problems = []
        if len(self.languages.expanded) > 1:
            problems.append(
                "baseline: trains in one stage; put all of languages.expanded into one group"
            )
        if self.export is not None:
            problems.append("export: needs a mixture of experts; leave `baseline` or `export` out")
        if self.baseline.method == "lora" and self.post_pretrain.fsdp:
            problems.append(
                "post_pretrain.fsdp: LoRA's frozen model is copied to every process; set it false"
            )
        return problems

    def _graft_problems(self) -> list[str]:
        graft = self.graft
        if graft is None:
            return []
        if self.baseline is None:
            problems = []
            if self.review is None and graft.review_after:
                problems.append("graft.review_after needs the settings of `review`, which is null")
            if self.review is None and graft.when == "before_review":
                problems.append("graft.when: before_review needs `review`, which is null")
            if graft.merge != "add":
                problems.append(
                    f"graft.merge: {graft.merge} merges into a dense `baseline`, which is null; a "
                    "mixture of experts takes `add`"
                )
            return problems
        method = self.baseline.method
        if method == "loramoe":
            return [
                "graft: LoRAMoE's model is not plain and dense; leave `baseline` or `graft` out"
            ]
        for_mixtures = {
            "target": graft.target != "all",
            "keep_ungrafted": graft.keep_ungrafted,
            "review_after": graft.review_after,
            "when": graft.when != "end",
        }
        problems = [
            f"graft.{key}: needs a mixture of experts, but `baseline` is {method}; leave it out"
            for key, is_given in for_mixtures.items()
            if is_given
        ]
        if method == "llama_pro" and graft.merge != "add":
            problems.append(
                f"graft.merge: {graft.merge} needs the base's own blocks, but llama_pro adds some; "
                "use add"
            )
        return problems

    def _post_train_problems(self) -> list[str]:
        config = self.post_train
        if config is None:
            return []
        problems = []
        if self.graft is not None:
            problems.append(
                "post_train: takes the place of a graft; leave `post_train` or `graft` out"
            )
        if self.baseline is not None and self.baseline.method == "loramoe":
            problems.append("post_train: LoRAMoE's model is not plain and dense; leave it out")
        if self.baseline is not None and config.trains == "new_experts":
            problems.append("post_train.trains: a dense `baseline` has no experts; use everything")
        if self.experts.exact_retention is not None and config.trains == "everything":
            problems.append(
                "post_train.trains: everything leaves no frozen base, so leave "
                "`experts.exact_retention` out"
            )
        if isinstance(config.data, str):
            if "{language}" not in config.data:
                problems.append(
                    f"post_train.data: a pattern must contain {{language}}, got {config.data!r}"
                )
        elif unknown := sorted(set(config.data) - set(self.languages.groups().all)):
            problems.append(f"post_train.data: {', '.join(unknown)} stand in no language group")
        return problems
