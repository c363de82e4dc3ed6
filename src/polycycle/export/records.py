"""What an exported folder says of itself, in two files beside the weights."""

import json
from pathlib import Path
from typing import Any

EXPORT_FILE = "polycycle_export.json"
"""Where the export comes from, and what it is right for."""
VERIFICATION_FILE = "polycycle_verification.json"
"""How it compares with the model that it comes from."""


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `polycycle export` noted beside the weights; None where it did not write them."""
    return _read(folder / EXPORT_FILE)


def read_proof(folder: Path) -> dict[str, Any] | None:
    """What `polycycle verify` found; None where it did not look."""
    return _read(folder / VERIFICATION_FILE)


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
