"""What is exported: an upcycled model, read as the experts that its routers can really choose."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polycycle.checkpoint import Checkpoint
from polycycle.errors import ExportError
from polycycle.families import family_of_upcycled

if TYPE_CHECKING:
    from polycycle.families.family import Family


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert of one layer.

    Attributes:
        group: the language group that brought it (`g1`, …); None is the frozen original.
        place: its place in the group's pack; 0 for the original.
        row_name: the parameter that holds its router row; None in a layer without a router.
        row: which row of it.
    """

    group: str | None
    place: int
    row_name: str | None
    row: int


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer.

    Attributes:
        index: which.
        experts: those that take part in routing, the original first; it alone is a dense layer.
        has_classifier: whether a trained language classifier stands before the router. One whose
            vector is still zero judges nothing original, and counts as none.
    """

    index: int
    experts: tuple[Expert, ...]
    has_classifier: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An upcycled model that is going to leave our format.

    Attributes:
        checkpoint: its folder.
        family: its dense family.
        config: its config, read by its own config class: old spellings are today's, defaults set.
        layers: every decoder layer.
        top_k: experts per token in the layer with most.
        without_exact_retention: whether a retention gate was there and is left out.
    """

    checkpoint: Checkpoint
    family: "Family"
    config: Any
    layers: tuple[Layer, ...]
    top_k: int
    without_exact_retention: bool

    @property
    def name(self) -> str:
        """What the user called the model."""
        return self.checkpoint.name

    @property
    def counts(self) -> list[int]:
        """Experts per layer."""
        return [len(layer.experts) for layer in self.layers]

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        given = getattr(self.config, "head_dim", None)
        return int(given or self.config.hidden_size // self.config.num_attention_heads)

    @property
    def has_odd_heads(self) -> bool:
        """Whether a head has another size than hidden size / heads."""
        usual = self.config.hidden_size // self.config.num_attention_heads
        return bool(self.head_dim != usual)

    @property
    def rope_type(self) -> str:
        """`default`, or how rotary positions are scaled."""
        return str(self.config.rope_parameters.get("rope_type", "default"))

    @property
    def sliding_window(self) -> int | None:
        """The window of those layers that have one; None where all layers see everything."""
        window = getattr(self.config, "sliding_window", None)
        kinds = getattr(self.config, "layer_types", None)
        if kinds is not None and "sliding_attention" not in kinds:
            return None
        return window or None

    @property
    def has_attention_bias(self) -> bool:
        """Whether a config flag puts biases on all of q, k, v and o (Qwen2's are no flag)."""
        return bool(getattr(self.config, "attention_bias", False))


def open_source(checkpoint: Checkpoint, *, without_exact_retention: bool = False) -> Source:
    """Read what there is to export; of the tensors only classifiers are read.

    Args:
        checkpoint: any folder that loads, ours or one from `save_pretrained`.
        without_exact_retention: leave a retention gate out: the result then computes what the
            model computes with its gate switched off.

    Raises:
        UpcycleError: it is not one of ours.
        ExportError: something in it has no counterpart in any stock architecture.
    """
    config_json = dict(checkpoint.config)
    family = family_of_upcycled(config_json, where=checkpoint.name)
    if config_json.get("quantization_config"):
        raise ExportError(f"{checkpoint.name} is quantised; export the unquantised model")
    config = family.config_class.from_dict(config_json)
    gated = bool(config.exact_retention)
    if gated and not without_exact_retention:
        raise ExportError(
            f"{checkpoint.name}: exact retention (one decision honoured by all layers) has no "
            "counterpart in a stock architecture. Serve the model with transformers as it is, or "
            "route requests between the base and an export, or say --without-exact-retention: the "
            "export then computes what the model computes with its gate switched off"
        )
    layers = tuple(_layer(checkpoint, config, index) for index in range(config.num_hidden_layers))
    widest = max(len(layer.experts) for layer in layers)
    if widest == 1:
        raise ExportError(
            f"{checkpoint.name}: no new expert takes part in routing, so the model is its dense "
            f"base ({config.base_model}); use that"
        )
    if any(layer.has_classifier for layer in layers):
        _check_classifiers(checkpoint, config)
    return Source(
        checkpoint=checkpoint,
        family=family,
        config=config,
        layers=layers,
        top_k=min(config.num_experts_per_tok, widest),
        without_exact_retention=gated,
    )


def _layer(checkpoint: Checkpoint, config: Any, index: int) -> Layer:
    mlp = f"model.layers.{index}.mlp"
    groups = config.groups_of_layer(index)
    active = [group for group in groups if group not in (config.masked_groups or ())]
    if not active:
        return Layer(index, (Expert(None, 0, None, 0),), has_classifier=False)
    first = next(iter(groups))  # its rows begin with the original's
    experts = [Expert(None, 0, f"{mlp}.router.rows.{first}", 0)]
    for group in active:
        skipped = 1 if group == first else 0
        experts += [
            Expert(group, place, f"{mlp}.router.rows.{group}", place + skipped)
            for place in range(groups[group])
        ]
    has_classifier = index in (config.classifier_layers or ()) and bool(
        checkpoint.read(f"{mlp}.router.classifier.weight").any()
    )
    return Layer(index, tuple(experts), has_classifier)


def _check_classifiers(checkpoint: Checkpoint, config: Any) -> None:
    if config.classifier_form != "token":
        raise ExportError(
            f"{checkpoint.name}: classifier_form={config.classifier_form!r} decides once per "
            "sequence, which no stock router does. Serve it with transformers, or train with "
            "classifier_form: token"
        )
    if config.classifier_threshold != 0:
        raise ExportError(
            f"{checkpoint.name}: classifier_threshold={config.classifier_threshold:g}; a router "
            "without biases can only compare with 0. Set it to 0 in config.json and measure "
            "again, or serve the model with transformers"
        )
    name = next(name for name in checkpoint.tensors if name.endswith(".router.classifier.weight"))
    if checkpoint.info(name).dtype == "F16":
        raise ExportError(
            f"{checkpoint.name}: a language classifier leaves as a router row scaled by 2¹⁷, "
            "which overflows float16. Save the model in bfloat16 or float32"
        )
