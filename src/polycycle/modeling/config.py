"""The fields that an upcycled model's config has beside the dense model's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polycycle.errors import UpcycleError
from polycycle.experts import FROZEN_EXPERT
from polycycle.routing import ClassifierForm


@dataclass(kw_only=True)
class UpcycledConfigMixin:
    """Mixed into a dense config: `class LlamaMoeConfig(UpcycledConfigMixin, LlamaConfig)`.

    Attributes:
        num_experts_per_layer: experts of each decoder layer, the frozen one included; 1 leaves the
            layer dense. None is a dense model.
        new_experts_by_group: for each language group added so far, in order, how many experts it
            brought to each layer. Sums, plus one, are `num_experts_per_layer`.
        masked_groups: names of groups (`g2`) that take part in no routing yet.
        routers_redrawn_for: the group whose growing drew all routers anew, as published; its
            post-pretraining trains all their rows. None keeps earlier groups' rows as they are.
        expert_languages: for each layer and expert, expert 0 included, the languages that the
            expert is dedicated to; none is open to all. None is open everywhere.
        num_experts_per_tok: experts per token; a layer with fewer experts uses them all.
        renormalize: whether the chosen experts' weights are scaled to sum to one.
        routing_weights_dtype: `float32` or `hidden`, as the family's stock MoE has it.
        classifier_layers: the layers with a language classifier in front of the router.
        classifier_form: whether it decides per `token`, or per `sequence` as published.
        classifier_threshold: the score above which text is judged original.
        exact_retention: whether a retention gate stands before the first mixture layer.
        retention_threshold: the mean score above which a text is judged original.
        retention_patience: generated tokens in a row that change its decision.
        language_groups: `{"original": […], "unseen_original": […], "expanded": [[…], …]}`.
        base_model: name or folder of the dense model, as it was given.
        base_revision: its commit, where it came from the hub.
        base_hash: content hash of the dense model's tensors; None where a graft left no dense model
            that this one agrees with.
        base_trained: whether a stage trained the base's tensors, too.
        grafts: what was grafted, in order; see `surgery.plan_graft`.
        ungrafted: how exactly grafts were taken away again; see `surgery.ungraft`.
    """

    num_experts_per_layer: list[int] | None = None
    new_experts_by_group: list[list[int]] | None = None
    masked_groups: list[str] | None = None
    routers_redrawn_for: str | None = None
    expert_languages: list[list[list[str]]] | None = None
    num_experts_per_tok: int = 2
    renormalize: bool = True
    routing_weights_dtype: Literal["float32", "hidden"] = "float32"
    classifier_layers: list[int] | None = None
    classifier_form: ClassifierForm = "token"
    classifier_threshold: float = 0.0
    exact_retention: bool = False
    retention_threshold: float = 0.0
    retention_patience: int = 8
    language_groups: dict[str, Any] | None = None
    base_model: str | None = None
    base_revision: str | None = None
    base_hash: str | None = None
    base_trained: bool = False
    grafts: list[dict[str, Any]] | None = None
    ungrafted: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]  # the dense config's
        num_layers: int = self.num_hidden_layers  # type: ignore[attr-defined]
        if self.num_experts_per_layer is None:
            self.num_experts_per_layer = [1] * num_layers
        if self.new_experts_by_group is None:
            self.new_experts_by_group = [[count - 1 for count in self.num_experts_per_layer]]
        check_experts(
            self.num_experts_per_layer,
            self.new_experts_by_group,
            num_layers=num_layers,
            top_k=self.num_experts_per_tok,
            classifier_layers=self.classifier_layers or (),
        )
        if self.expert_languages is not None:
            _check_expert_languages(self.expert_languages, self.num_experts_per_layer)

    def groups_of_layer(self, layer_index: int) -> dict[str, int]:
        """New experts of one layer by group name (`g1`, `g2`, …), groups without any left out."""
        assert self.new_experts_by_group is not None  # set in __post_init__
        return {
            f"g{number}": counts[layer_index]
            for number, counts in enumerate(self.new_experts_by_group, start=1)
            if counts[layer_index]
        }


def why_no_dense_reference(config: Mapping[str, Any]) -> str | None:
    """Why no dense model is an upcycled one's base: what was trained or grafted. None if one is.

    Args:
        config: a config.json.
    """
    if config.get("base_trained"):
        return "a stage trained the base's tensors, too"
    grafts = config.get("grafts") or ()
    return grafts[-1]["no_reference"] if grafts else None


def check_experts(
    num_experts_per_layer: list[int],
    new_experts_by_group: list[list[int]],
    *,
    num_layers: int,
    top_k: int,
    classifier_layers: Sequence[int] = (),
) -> None:
    """Refuse expert counts that do not describe a model.

    Raises:
        UpcycleError: naming the layer and what would fit.
    """
    if len(num_experts_per_layer) != num_layers:
        raise UpcycleError(
            f"num_experts_per_layer has {len(num_experts_per_layer)} entries, but the model has "
            f"{num_layers} layers; give one number for all layers, or one per layer"
        )
    for layer, count in enumerate(num_experts_per_layer):
        if count < 1:
            raise UpcycleError(
                f"layer {layer}: {count} experts; expert 0 is the original, so 1 is the least "
                "(1 leaves the layer dense)"
            )
        added = [group[layer] for group in new_experts_by_group]
        if 1 + sum(added) != count or min(added, default=0) < 0:
            raise UpcycleError(
                f"layer {layer}: new_experts_by_group adds {added} to the frozen expert, "
                f"but num_experts_per_layer says {count}"
            )
    for layer in classifier_layers:
        if not 0 <= layer < num_layers or num_experts_per_layer[layer] == 1:
            fitting = [index for index, count in enumerate(num_experts_per_layer) if count > 1]
            raise UpcycleError(
                f"classifier_layers: layer {layer} is not a mixture-of-experts layer of this "
                f"model; choose among {fitting}"
            )
    if top_k < 1 or top_k > max(num_experts_per_layer) > 1:
        raise UpcycleError(
            f"num_experts_per_tok={top_k}, but the largest layer has "
            f"{max(num_experts_per_layer)} experts; choose between 1 and that"
        )


def _check_expert_languages(
    expert_languages: list[list[list[str]]], num_experts_per_layer: list[int]
) -> None:
    found = [len(layer) for layer in expert_languages]
    if found != num_experts_per_layer:
        raise UpcycleError(
            f"expert_languages describes {found} experts per layer, but num_experts_per_layer is "
            f"{num_experts_per_layer}; it needs a list of languages for every expert, [] for one "
            "that is open to all"
        )
    for layer, experts in enumerate(expert_languages):
        if experts[FROZEN_EXPERT]:
            raise UpcycleError(
                f"expert_languages: layer {layer} dedicates expert 0 to "
                f"{', '.join(experts[FROZEN_EXPERT])}; it is the original and open to all: []"
            )
