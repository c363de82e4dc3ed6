"""One file per verb: arguments in, one call, result printed. Nothing here imports torch."""

from polycycle.cli import (
    allocate,
    demo,
    env,
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
    "demo",
    "env",
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
