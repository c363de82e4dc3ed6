"""Language packs: what an expansion added, without the base that everybody has already.

All of the base's tensors are frozen and keep their names, so a pack is the rest: experts, router
rows, classifiers. It names its base (a hub base with its commit) and carries its content hash.
"""

import re
from pathlib import Path
from typing import Any

from polycycle.checkpoint import (
    Checkpoint,
    content_hash,
    copy_job,
    open_checkpoint,
    refuse_own_folder,
    write_tensors,
)
from polycycle.errors import CheckpointError, UpcycleError
from polycycle.families import is_upcycled
from polycycle.files import folder_when_whole, write_json
from polycycle.languages import LanguageGroups
from polycycle.modeling import why_no_dense_reference
from polycycle.results import TensorBytes
from polycycle.surgery.new_tensors import is_added

_PACK_TYPE = "polycycle_pack"
_GROUP = re.compile(r"\.(?:experts|rows)\.g(\d+)(?:\.|$)")


def pack(model: str | Path, out: Path) -> int:
    """Write the language pack of an upcycled model to the folder `out`.

    Args:
        model: folder or hub id.
        out: appears when it is complete; replaced if it exists.

    Returns:
        Bytes of the tensors that were left out because the base has them.

    Raises:
        UpcycleError: the model is not upcycled, or does not know its base, or a graft left it
            without one.
        ConfigError: `out` is the model itself.
    """
    source = open_checkpoint(model)
    reason = why_no_dense_reference(source.config)
    if reason is not None:
        raise UpcycleError(
            f"{source.name} has no pack, because no dense model is its base any more: {reason}. "
            "Pack the model before a graft, or graft one delta on all tensors at scale 1: then the "
            "post-trained model is the base"
        )
    if not is_upcycled(source.config) or not source.config.get("base_hash"):
        raise UpcycleError(
            f"{source.name}: only a model that polycycle upcycled from a known base has a pack; "
            f"its model_type is {source.config.get('model_type')!r}"
        )
    refuse_own_folder(out, source)
    added = [name for name in source.tensors if is_added(name)]
    with folder_when_whole(out) as folder:
        write_tensors(folder, [copy_job(source, name) for name in sorted(added)])
        config = {
            "model_type": _PACK_TYPE,
            "base_model": source.config.get("base_model"),
            "base_revision": source.config.get("base_revision"),
            "base_hash": source.config["base_hash"],
            "model": dict(source.config),
        }
        write_json(folder / "config.json", config)
        source.copy_side_files(folder)
    return sum(info.num_bytes for name, info in source.tensors.items() if name not in set(added))


def unpack(
    base: str | Path,
    pack_folder: str | Path,
    out: Path,
    *,
    groups: int | None = None,
    revision: str | None = None,
) -> None:
    """Put a language pack onto its base: the model that was packed, bit for bit.

    Args:
        base: the dense model: folder or hub id.
        pack_folder: what `pack` wrote.
        out: appears when it is complete; replaced if it exists.
        groups: only the first so many language groups. Routers keep the rows that the last review
            gave them, which is not what they were before the dropped group came.
        revision: of a hub base; by default the one that the pack was made from.

    Raises:
        CheckpointError: this is no pack, or the base is not the one it was made from.
        UpcycleError: the pack has fewer groups.
        ConfigError: `out` is the base or the pack itself.
    """
    packed = open_checkpoint(pack_folder)
    if packed.config.get("model_type") != _PACK_TYPE:
        raise CheckpointError(f"{packed.name} is no language pack; make one with `polycycle pack`")
    if revision is None and str(base) == packed.config.get("base_model"):
        revision = packed.config.get("base_revision")
    dense = open_checkpoint(base, revision=revision)
    refuse_own_folder(out, dense, packed)
    found, wanted = content_hash(dense), packed.config["base_hash"]
    if found != wanted:
        raise CheckpointError(
            f"{dense.name} is not the base of this pack: its content hash is {found[:12]}…, the "
            f"pack wants {wanted[:12]}… ({_base_of(packed)})"
        )
    config = dict(packed.config["model"])
    names = sorted(packed.tensors)
    if groups is not None:
        config = _first_groups(config, groups)
        names = [name for name in names if _group_of(name) <= groups]
    with folder_when_whole(out) as folder:
        jobs = [copy_job(dense, name) for name in sorted(dense.tensors)]
        write_tensors(folder, jobs + [copy_job(packed, name) for name in names])
        write_json(folder / "config.json", config)
        packed.copy_side_files(folder)


def _base_of(packed: Checkpoint) -> str:
    revision = packed.config.get("base_revision")
    return f"{packed.config.get('base_model')}" + (f" at {revision}" if revision else "")


def tensor_bytes(checkpoint: Checkpoint) -> TensorBytes:
    """What the base's tensors of an upcycled model weigh, and what a pack of it holds, by group."""
    base = shared = 0
    groups = [0] * len(checkpoint.config["new_experts_by_group"])
    for name, info in checkpoint.tensors.items():
        group = _group_of(name)
        if not is_added(name):
            base += info.num_bytes
        elif group:
            groups[group - 1] += info.num_bytes
        else:
            shared += info.num_bytes
    return TensorBytes(base=base, groups=tuple(groups), shared=shared)


def _group_of(name: str) -> int:
    """Number of the language group that a tensor belongs to; 0 for what all groups share."""
    match = _GROUP.search(name)
    return int(match[1]) if match else 0


def _first_groups(config: dict[str, Any], groups: int) -> dict[str, Any]:
    by_group: list[list[int]] = config["new_experts_by_group"]
    if not 1 <= groups <= len(by_group):
        raise UpcycleError(f"groups={groups}: the pack has {len(by_group)}; choose 1 or more")
    kept = by_group[:groups]
    counts = [1 + sum(group[layer] for group in kept) for layer in range(len(kept[0]))]
    judging = [layer for layer in config.get("classifier_layers") or () if counts[layer] > 1]
    if judging != list(config.get("classifier_layers") or ()):
        raise UpcycleError("a layer with a language classifier would become dense; keep all groups")
    languages = config.get("language_groups")
    if languages is not None:
        languages = LanguageGroups.recorded(languages).first(groups).record()
    known = {f"g{number}" for number in range(1, groups + 1)}
    redrawn = config.get("routers_redrawn_for")
    fewer = {
        **config,
        "masked_groups": [group for group in config.get("masked_groups") or () if group in known],
        "routers_redrawn_for": redrawn if redrawn in known else None,
        "new_experts_by_group": kept,
        "num_experts_per_layer": counts,
        "language_groups": languages,
    }
    if config.get("expert_languages"):
        pairs = zip(config["expert_languages"], counts, strict=True)
        fewer["expert_languages"] = [experts[:count] for experts, count in pairs]
    return fewer
