"""Progress of tokenization, one bar per language."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from polycycle.ranks import is_first_rank


@contextmanager
def tokenizing_bars() -> Iterator[Callable[[str, int | None], Callable[[int], None]]]:
    """Bars on standard error while the block runs.

    Yields:
        `start(language, max_tokens)`, which adds a bar and gives the `progress` callback of
        `tokenize_corpus`. Without a budget the bar only counts.
    """
    columns = (
        TextColumn("tokenizing {task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} tokens"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not is_first_rank()) as bars:

        def start(language: str, max_tokens: int | None = None) -> Callable[[int], None]:
            task = bars.add_task(language, total=max_tokens)
            return lambda tokens: bars.update(task, completed=tokens)

        yield start
