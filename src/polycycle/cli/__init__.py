"""One file per verb: arguments in, one call, result printed. Nothing here imports torch."""

from polycycle.cli import (
    allocate,
    compare,
    delta,
    demo,
    env,
    export,
    graft,
    grow,
    inspect,
    microworld,
    pack,
    plan,
    report,
    run,
    similarity,
    upcycle,
)
from polycycle.cli.app import app, main

__all__ = [
    "allocate",
    "app",
    "compare",
    "delta",
    "demo",
    "env",
    "export",
    "graft",
    "grow",
    "inspect",
    "main",
    "microworld",
    "pack",
    "plan",
    "report",
    "run",
    "similarity",
    "upcycle",
]
