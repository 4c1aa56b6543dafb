"""The progress bar of long work: on stderr, gone when the work is done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(name: str, total: int, *, show: bool) -> Iterator[Callable[..., None]]:
    """A function `advance(count, what="")`: `count` more of `total` examples are done, `what` is going on now."""
    if not show:
        yield lambda count, what="": None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[what]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total, what="")
        yield lambda count, what="": progress.update(task, advance=count, what=what)
