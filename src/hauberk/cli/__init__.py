"""The command line: parse, call, print. `main` is what the command `hauberk` runs."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hauberk.cli.commands import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and exit."""
    with _dying_quietly():
        from hauberk.cli.commands import app
    app()


def __getattr__(name: str) -> Any:
    """`app`, imported when it is asked for, so that `main` is there before all that it runs."""
    if name == "app":
        from hauberk.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@contextmanager
def _dying_quietly() -> Iterator[None]:
    """While modules are imported, Ctrl-C ends the process at once: an exception could be mistaken for a failed import."""
    ours = signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_DFL)
    if not ours or threading.current_thread() is not threading.main_thread():
        yield  # another program's handler, or a shell that asked to ignore the signal
        return
    signal.signal(signal.SIGINT, _die)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _die(*_: Any) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)
