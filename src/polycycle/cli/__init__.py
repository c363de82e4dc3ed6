"""One file per verb: arguments in, one call, result printed. Nothing here imports torch."""

from polycycle.cli import env, inspect, plan, report, run, upcycle
from polycycle.cli.app import app, main

__all__ = ["app", "env", "inspect", "main", "plan", "report", "run", "upcycle"]
