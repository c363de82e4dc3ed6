"""A stage: a folder made once, found again by the hash of everything that shaped it."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from polycycle.files import folder_when_whole, hash_json, write_json
from polycycle.ranks import any_rank, is_first_rank, wait_for_ranks

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What a stage is made from, and how.

    Attributes:
        name: of its folder in the run folder.
        result_version: raised by hand when the stage's results change.
        inputs: everything that shapes the result, JSON-able; keys of earlier stages among it.
        make: fills the folder it is given and says what it cost (any JSON-able values).
        on_every_rank: whether all processes call `make`, of which the first alone writes; else the
            first calls it and the others wait.
    """

    name: str
    result_version: int
    inputs: dict[str, Any]
    make: Callable[[Path], dict[str, Any]]
    on_every_rank: bool = False

    @property
    def key(self) -> str:
        """Hash of inputs and version: two stages with the same key have the same result."""
        return hash_json([self.name, self.result_version, self.inputs])


def is_done(output: Path, stage: Stage) -> bool:
    """Whether the stage's folder is there and was made from the same inputs; all ranks agree."""
    manifest = read_manifest(output / stage.name) if is_first_rank() else None
    return any_rank(flag=manifest is not None and manifest["key"] == stage.key)


def run_stage(output: Path, stage: Stage, *, version: str) -> Path:
    """The stage's folder, made now unless it is there already and unchanged.

    Args:
        output: the run folder.
        stage: what to do.
        version: of polycycle; recorded, not compared.
    """
    folder = output / stage.name
    if is_done(output, stage):
        return folder
    if not is_first_rank():
        if stage.on_every_rank:
            stage.make(folder)
        wait_for_ranks()
        return folder
    with folder_when_whole(folder) as partial:
        costs = stage.make(partial)
        write_json(
            partial / MANIFEST,
            {
                "stage": stage.name,
                "key": stage.key,
                "result_version": stage.result_version,
                "inputs": stage.inputs,
                "costs": costs,
                "polycycle": version,
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
    wait_for_ranks()
    return folder


def adopt_stage(output: Path, stage: Stage, donors: Sequence[Path]) -> Path | None:
    """Take a stage over from another run that has made it from the same inputs.

    Weights are hard-linked where the file system allows it, everything else is copied.

    Args:
        output: the run folder.
        stage: what is needed there.
        donors: other run folders, looked at in this order; one that is not there has nothing.

    Returns:
        The donor's stage folder, or None if nobody has it.
    """
    for donor in donors:
        if donor.resolve() == output.resolve() or not is_done(donor, stage):
            continue
        if is_first_rank():
            with folder_when_whole(output / stage.name) as partial:
                shutil.copytree(
                    donor / stage.name, partial, copy_function=_link_weights, dirs_exist_ok=True
                )
        wait_for_ranks()
        return donor / stage.name
    return None


def _link_weights(source: str, target: str) -> None:
    """Nothing ever writes into a file of weights, so one copy serves every run."""
    if source.endswith(".safetensors"):
        with suppress(OSError):  # another disk
            os.link(source, target)
            return
    shutil.copy2(source, target)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage; None where there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def stage_folders(output: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the stages done so far, by stage."""
    found = {path.name: read_manifest(path) for path in sorted(output.iterdir()) if path.is_dir()}
    return {name: manifest for name, manifest in found.items() if manifest is not None}
