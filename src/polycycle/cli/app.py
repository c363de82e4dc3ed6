"""The command line's frame: what all verbs share."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from polycycle.errors import ConfigError, PolycycleError, TrainingInterrupted
from polycycle.ranks import is_first_rank

app = typer.Typer(
    name="polycycle",
    help="Teach an open-weights LLM new languages without making it forget the ones it knows.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)
# Without markup: a folder named [el] is printed as it is.
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
_INTERRUPTED = 130


def tell(message: str) -> None:
    """A note for the user, on standard error; said once, however many processes run."""
    if is_first_rank():
        err.print(message)


def print_json(value: Any) -> None:
    """JSON on standard output and nothing else: no colours, whatever FORCE_COLOR says."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def verb(
    name: str, panel: str, *, passes_arguments_on: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a verb; our own errors become one message and exit code 1, without a traceback.

    Args:
        name: what is typed.
        panel: of the help.
        passes_arguments_on: whether options that it does not know are another program's.
    """
    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    settings |= {"allow_interspersed_args": False}

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except PolycycleError as error:
                err.print(f"{type(error).__name__}: {error}", style="red")
                is_interrupted = isinstance(error, TrainingInterrupted)
                raise typer.Exit(_INTERRUPTED if is_interrupted else 1) from error
            except KeyboardInterrupt:
                tell(
                    "interrupted: what is finished stays, what is half-written does not count; "
                    "the same command goes on from there"
                )
                raise typer.Exit(_INTERRUPTED) from None

        app.command(
            name,
            rich_help_panel=panel,
            context_settings=settings if passes_arguments_on else None,
        )(guarded)
        return function

    return register


def refuse_existing(folder: Path, *, may_exist: bool) -> None:
    """Refuse to write over a folder.

    Raises:
        ConfigError: it is there, and nobody said --force.
    """
    if folder.exists() and not may_exist:
        raise ConfigError(f"{folder} exists already; choose another folder, or say --force")


def main() -> None:
    """Entry point of `polycycle` and `python -m polycycle`."""
    if "torch" not in sys.modules:
        _quiet_libraries()
    for stream in (sys.stdout, sys.stderr):
        # Where the locale cannot write × or ελ, an escape is better than a crash after hours.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


def _quiet_libraries() -> None:
    """Our own progress bars and messages replace those of the libraries."""
    import os

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
