"""The progress bar of a training."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

__all__ = ["bar", "say_nothing"]


def say_nothing(text: str) -> None:
    """Take a text and do nothing."""


def bar(progress: bool, steps: int, done: int) -> AbstractContextManager[Callable[[str], None]]:
    """A function to call after each step with what to show."""
    if not progress:
        return nullcontext(say_nothing)
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def shown() -> Iterator[Callable[[str], None]]:
        columns = (TextColumn("training"), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        with Progress(*columns) as bar:
            task = bar.add_task("", total=steps, completed=done)
            yield lambda text: bar.update(task, advance=1, description=text)

    return shown()
