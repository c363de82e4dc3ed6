"""Sections of the training stages: `post_pretrain`, `review` and `post_train`."""

from typing import Annotated, Literal

from pydantic import Field

from polycycle.config.data import Sources
from polycycle.config.section import Coefficient, Count, LearningRate, Section


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
    """End the stage's training at the first alarm; the run goes on with the model as it is then."""


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
    """Expert shares over all ranks and the micro-batches of a step so far, or per micro-batch as
    published."""
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
    replay_documents: Annotated[int, Field(ge=0)] = 50_000
    """Documents per original language (paper: 50K, where the curve saturates). 0 replays none, and
    leaves nothing that `prior_coef` could hold."""
    expanded_documents: Count = 100_000
    """Documents per expanded language (paper: 100K, a ratio of 1 to 2)."""
    tokens: Count | None = None
    """Tokens in all; by default what these documents hold, once."""
    prior_coef: Coefficient = 0.1
    """γ of the language-priors loss (paper: 0.1)."""
    prior_form: Literal["group", "paper", "released"] = "group"
    """The paper's −log G₀ for originals, and with `group` (ours) the same for earlier groups, whose
    text is held to the experts they had; with one group that is the paper's. Or `paper` alone, or
    the released code's bounded form."""
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
