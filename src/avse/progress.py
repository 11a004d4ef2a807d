"""A progress bar for people who wait."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, where that is a terminal; yields the function that takes the fraction done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    task = bar.add_task(label, total=1.0)

    def report(fraction: float) -> None:
        if not bar.console.is_terminal:
            return
        bar.start()
        bar.update(task, completed=fraction)

    try:
        yield report
    finally:
        if bar.live.is_started:
            bar.stop()
