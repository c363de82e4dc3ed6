"""The one tree of errors that polycycle raises on purpose.

Every message says where (file and line, layer, tensor name, config key), what was found and what
was expected, the usual cause, and what to type. Each leaf is also the standard error it is, so
callers who know nothing of polycycle can catch it. All are picklable: they carry one string.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class PolycycleError(Exception):
    """Root of all errors that polycycle raises on purpose."""


class ConfigError(PolycycleError, ValueError):
    """A recipe, a setting or a command-line value is wrong."""


class DataError(PolycycleError, ValueError):
    """A corpus, a document or a tokenizer is unusable as given."""


class CheckpointError(PolycycleError, RuntimeError):
    """A folder of weights is missing, incomplete, or not what it says it is."""


class UpcycleError(PolycycleError, ValueError):
    """A dense model cannot be expanded as asked."""


class GraftError(PolycycleError, ValueError):
    """A delta cannot be taken, added or taken away as asked."""


class ExportError(PolycycleError, RuntimeError):
    """A model cannot leave our format as asked, or what left it computes something else."""


class TrainingError(PolycycleError, RuntimeError):
    """A training run cannot start, go on, or resume."""


class TrainingInterrupted(PolycycleError):
    """Ctrl-C or SIGTERM ended a training: everything is saved, the same command goes on."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` when a known name is close to `name`, else an empty string."""
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
