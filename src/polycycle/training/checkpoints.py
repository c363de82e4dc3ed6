"""Checkpoints that are whole or not there, and a metrics file that agrees with them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from polycycle.files import sync_folder, write_text
from polycycle.ranks import is_first_rank

METRICS = "metrics.jsonl"
_PARTIAL = "tmp-checkpoint"
_KEPT = 2


def partial_folder(output_dir: Path) -> Path:
    """Where a checkpoint is written before it counts."""
    return output_dir / _PARTIAL


def publish(output_dir: Path, step: int) -> Path:
    """Make the checkpoint just written count: flush, rename, drop all but the last two."""
    whole = output_dir / f"checkpoint-{step}"
    partial = partial_folder(output_dir) / whole.name
    sync_folder(partial)
    if whole.exists():
        shutil.rmtree(whole)
    partial.rename(whole)
    shutil.rmtree(partial_folder(output_dir))
    for old in _checkpoints(output_dir)[:-_KEPT]:
        shutil.rmtree(old)
    return whole


def latest_checkpoint(output_dir: Path) -> Path | None:
    """The last whole checkpoint; what a killed run left half-written is removed."""
    if is_first_rank():
        shutil.rmtree(partial_folder(output_dir), ignore_errors=True)
    found = _checkpoints(output_dir)
    return found[-1] if found else None


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint was taken after."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _checkpoints(output_dir: Path) -> list[Path]:
    found = [p for p in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=step_of)


def append_metrics(output_dir: Path, line: dict[str, Any]) -> None:
    """Add one line to metrics.jsonl; every line has `kind` and `step`."""
    with (output_dir / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_metrics(output_dir: Path) -> list[dict[str, Any]]:
    """All whole lines of metrics.jsonl; a last line that a kill cut off is left out."""
    path = output_dir / METRICS
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def cut_metrics(output_dir: Path, step: int) -> None:
    """Forget what was logged after `step`: the resumed run logs it again."""
    if not is_first_rank():
        return
    kept = [line for line in read_metrics(output_dir) if line["step"] <= step]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
    write_text(output_dir / METRICS, text)
