"""Where a run ran: versions and machine."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import polycycle
from polycycle.results import Environment
from polycycle.training import uses_bfloat16

# Set by a comparison that runs several recipes at once: their times are not those of one alone.
RUNS_AT_ONCE = "POLYCYCLE_RUNS_AT_ONCE"


def describe_environment(precision: Literal["auto", "float32", "bfloat16"]) -> Environment:
    """Versions and machine, and what training at this precision computes in here."""
    import torch
    import transformers

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    bfloat16 = uses_bfloat16(precision)
    return Environment(
        polycycle=polycycle.__version__,
        commit=_commit(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        python=sys.version.split()[0],
        platform=platform.platform(terse=True),
        processor=_processor(),
        cpu_cores=num_processors(),
        threads=torch.get_num_threads(),
        runs_at_once=int(os.environ.get(RUNS_AT_ONCE, "1")),
        gpu=f"{gpus} × {torch.cuda.get_device_name()}" if gpus else None,
        memory_bytes=pages * page_size,
        dtype="bfloat16 autocast" if bfloat16 else "float32",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def num_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _commit() -> str | None:
    """The git commit of a checkout that polycycle runs from, `-dirty` where it was changed."""
    checkout = Path(polycycle.__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        asked = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
