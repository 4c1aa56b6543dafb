"""`hauberk serve-model`: any MODEL under the Open Inference Protocol v2, on this machine, to attack it over a wire."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from hauberk.cli import options as given
from hauberk.cli.guard import as_typed, say
from hauberk.cli.models import load_model
from hauberk.errors import SettingError
from hauberk.victims import ModelServer

__all__ = ["serve_model"]

_SHOWN = "What it shows"


def serve_model(
    model: given.Model,
    port: Annotated[int, typer.Option("--port", "-p", metavar="P", help="0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option("--host", metavar="H", help="0.0.0.0 lets other machines in; there is no lock.")
    ] = "127.0.0.1",
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", show_default=False, help="In the address; the model's own if not given."
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            "--shape", metavar="SIZES", show_default=False, help="Of one example, such as 1,28,28; any if not given."
        ),
    ] = None,
    labels_only: Annotated[
        bool, typer.Option("--labels-only", rich_help_panel=_SHOWN, help="The predicted class and nothing else.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", rich_help_panel=_SHOWN, help="The softmax of the scores.")
    ] = False,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", metavar="K", rich_help_panel=_SHOWN, help="The best K classes and their scores."),
    ] = None,
    rounding: Annotated[
        int | None, typer.Option("--round", metavar="DIGITS", rich_help_panel=_SHOWN, help="Rounded scores.")
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log", metavar="FILE", show_default=False, help="One line of JSON for each row answered, appended."
        ),
    ] = None,
    arch: given.Arch = None,
    bounds: given.Bounds = None,
    mean: given.Mean = None,
    std: given.Std = None,
    output: given.Output = None,
    classes: given.Classes = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    trust_pickle: given.TrustPickle = False,
    threads: given.Threads = None,
) -> None:
    """Serve MODEL over HTTP until Ctrl-C. The first line printed is its address, which every command takes as MODEL.

    A lab instrument, for trying and showing attacks over a wire: no encryption, no users.
    """
    given.set_threads(threads)
    if not 0 <= port < 65536:
        raise SettingError(f"--port is a number from 0 to 65535, got {port}")
    options = given.ModelOptions(arch, bounds, mean, std, output, classes, device, dtype, trust_pickle)
    server = ModelServer(
        load_model(model, options),
        name=name,
        host=host,
        port=port,
        shape=None if shape is None else _sizes(shape),
        labels_only=labels_only,
        probabilities=probabilities,
        top_k=top_k,
        rounding=rounding,
        log=log,
    )
    for note in server.victim.notes:
        say(f"note: {as_typed(note)}")
    try:
        with _stopping(server):
            print(server.url, flush=True)
            server.serve_forever()
        say(f"stopped; {server.answered} rows were answered")
    finally:
        server.close()


@contextmanager
def _stopping(server: ModelServer) -> Iterator[None]:
    """Stop on Ctrl-C and on SIGTERM: not by an exception, which is lost where it hits a finalizer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        threading.Thread(target=server.stop, daemon=True).start()

    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, stop) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def _sizes(text: str) -> tuple[int, ...]:
    words = [word for word in text.replace("x", ",").split(",") if word.strip()]
    if not words or not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise SettingError(f"--shape is whole numbers > 0 with commas between them, such as 1,28,28, got {text!r}")
    return tuple(int(word) for word in words)
