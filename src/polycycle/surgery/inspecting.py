"""What a model folder holds, from headers alone."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

from polycycle.checkpoint import Checkpoint, content_hash
from polycycle.families import family_of, has_lora_experts, is_upcycled
from polycycle.modeling import why_no_dense_reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """The facts that `polycycle inspect` prints.

    Attributes:
        model_type: from config.json.
        family: model_type of the dense family.
        is_upcycled: whether it is a mixture of experts of ours.
        parameters_total: all that are stored; a tied head counts where it was saved, too.
        parameters_active: parameters that one token's forward pass uses (embedding table whole).
        parameters_trainable: by stage; empty for a dense model.
        num_experts_per_layer: with the frozen expert; 1 is a dense layer.
        num_experts_per_tok: top-k.
        new_experts_by_group: what each language group brought to each layer; none if dense.
        masked_groups: groups that take part in no routing yet.
        classifier_layers: layers with a language classifier.
        exact_retention: whether a retention gate stands before the first mixture layer.
        dtypes: parameters per dtype.
        base_model: the dense model it was made from.
        base_hash: content hash of the dense tensors: recorded, or for a dense model computed when
            asked for.
        grafts: as recorded in the config.
        no_reference: why a graft left no dense model as its base; None if one is.
        language_groups: as recorded in the config.
        expert_languages: for each layer and expert the languages it is dedicated to; None where all
            experts are open to all.
        has_tokenizer: whether a tokenizer lies beside the weights.
        export_targets: stock architectures that can compute the same function.
        lora_experts: LoRA experts of each feed-forward map (LoRAMoE), else 0.
    """

    model_type: str
    family: str
    is_upcycled: bool
    parameters_total: int
    parameters_active: int
    parameters_trainable: dict[str, int]
    num_experts_per_layer: list[int]
    num_experts_per_tok: int
    dtypes: dict[str, int]
    base_model: str | None
    base_hash: str | None
    grafts: list[dict[str, Any]]
    no_reference: str | None
    language_groups: dict[str, Any] | None
    expert_languages: list[list[list[str]]] | None
    has_tokenizer: bool
    export_targets: tuple[str, ...]
    lora_experts: int = 0
    new_experts_by_group: list[list[int]] = field(default_factory=list)
    masked_groups: list[str] = field(default_factory=list)
    classifier_layers: list[int] = field(default_factory=list)
    exact_retention: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


def inspect_checkpoint(checkpoint: Checkpoint, *, with_hash: bool = False) -> Inspection:
    """What is in a dense or upcycled model folder.

    Args:
        checkpoint: what to look at; only headers are read.
        with_hash: read all tensors and compute the base hash, for a dense model.

    Raises:
        UpcycleError: the family is not supported.
    """
    config = checkpoint.config
    upcycled = is_upcycled(config)
    family = family_of(config, where=checkpoint.name)
    lora_experts = int(config["num_lora_experts"]) if has_lora_experts(config) else 0
    counts = config.get("num_experts_per_layer") or [1] * int(config["num_hidden_layers"])
    top_k = int(config.get("num_experts_per_tok", 1)) if upcycled else 1
    sizes = {name: prod(info.shape) for name, info in checkpoint.tensors.items()}
    dtypes: dict[str, int] = {}
    for name, info in checkpoint.tensors.items():
        dtypes[info.dtype] = dtypes.get(info.dtype, 0) + sizes[name]
    base_hash, redrawn_for = config.get("base_hash"), config.get("routers_redrawn_for")
    if with_hash and not upcycled and not lora_experts:
        base_hash = content_hash(checkpoint)
    return Inspection(
        model_type=str(config["model_type"]),
        family=family.dense_model_type,
        is_upcycled=upcycled,
        parameters_total=sum(sizes.values()),
        parameters_active=count_active(sizes, counts, top_k),
        parameters_trainable=count_trainable(sizes, redrawn_for) if upcycled else {},
        num_experts_per_layer=list(counts),
        num_experts_per_tok=top_k,
        dtypes=dtypes,
        base_model=config.get("base_model"),
        base_hash=base_hash,
        grafts=list(config.get("grafts") or ()),
        no_reference=why_no_dense_reference(config),
        language_groups=config.get("language_groups"),
        expert_languages=config.get("expert_languages"),
        has_tokenizer=checkpoint.has_tokenizer,
        export_targets=() if lora_experts else family.export_targets,
        lora_experts=lora_experts,
        new_experts_by_group=list(config.get("new_experts_by_group") or ()),
        masked_groups=list(config.get("masked_groups") or ()),
        classifier_layers=list(config.get("classifier_layers") or ()),
        exact_retention=bool(config.get("exact_retention")),
    )


def count_trainable(sizes: Mapping[str, int], redrawn_for: str | None = None) -> dict[str, int]:
    """Parameters that each stage trains, from tensor sizes by name; see `freeze_for`."""
    routers = sum(size for name, size in sizes.items() if ".mlp.router.rows." in name)
    judges = (".mlp.router.classifier.", ".mlp.retention_gate.")
    classifiers = sum(n for name, n in sizes.items() if any(judge in name for judge in judges))
    groups = {name.split(".mlp.router.rows.")[1] for name in sizes if ".mlp.router.rows." in name}
    newest = max(groups, key=lambda group: int(group[1:]), default="g1")
    all_rows = redrawn_for == newest
    rows = ".mlp.router.rows." if all_rows else f".mlp.router.rows.{newest}"
    parts = (f".mlp.experts.{newest}.", rows)
    added = sum(n for name, n in sizes.items() if any(part in name for part in parts))
    return {"post_pretrain": added, "review": routers + classifiers}


def count_active(sizes: Mapping[str, int], num_experts_per_layer: list[int], top_k: int) -> int:
    """Parameters that one token's forward pass uses: everything but the experts not chosen."""
    active = sum(sizes.values())
    for layer, num_experts in enumerate(num_experts_per_layer):
        packed = sum(
            size
            for name, size in sizes.items()
            if name.startswith(f"model.layers.{layer}.mlp.experts.")
        )
        if packed:
            idle = num_experts - min(top_k, num_experts)
            active -= packed // (num_experts - 1) * idle
    return active
