"""`hauberk verify`: does a property of a network hold? VNN-LIB and ONNX in, a verdict out."""

import math
from pathlib import Path
from typing import Annotated

import typer

from hauberk.certify.foreign import VERIFIERS, Foreign
from hauberk.certify.vnnlib import Instance
from hauberk.cli.deciding import decided
from hauberk.cli.guard import Stop
from hauberk.cli.instances import work_through
from hauberk.cli.options import set_threads, writable
from hauberk.errors import RunError, SettingError

__all__ = ["verify"]

_SECONDS = 300.0


def verify(
    net: Annotated[
        Path | None, typer.Argument(metavar="NET.onnx", show_default=False, help="The network, in ONNX.")
    ] = None,
    prop: Annotated[
        Path | None,
        typer.Argument(metavar="PROP.vnnlib", show_default=False, help="What must not happen, in VNN-LIB; may be .gz."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="S",
            show_default=f"{_SECONDS:g}, or those of the list",
            help="Seconds for each property.",
        ),
    ] = None,
    instances: Annotated[
        Path | None,
        typer.Option(
            "--instances",
            metavar="CSV",
            show_default=False,
            help="A list of NET,PROPERTY,SECONDS instead; paths are relative to it.",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only", metavar="N-M", show_default=False, help="Of the list, only these rows, counted from 1; or one, N."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            show_default=False,
            help="The verdict as VNN-COMP writes it: sat, unsat, timeout or unknown, and the witness. With --instances a table in the "
            "form of VNN-COMP's results.csv, where rows that are there already are not done again; errors are.",
        ),
    ] = None,
    other: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="VERIFIER",
            show_default=False,
            help=f"Have another verifier decide, and check its witnesses: {', '.join(VERIFIERS)}, or a command that names "
            "{net}, {property}, {results} and {seconds}, or the run_instance.sh of an entrant of VNN-COMP.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Of the search for counterexamples.")] = 0,
    threads: Annotated[int, typer.Option("--threads", metavar="K", help="CPU threads.")] = 1,
) -> None:
    """Prove that a property of a network holds, or find an input that violates it.

    The first word printed is [bold]holds[/], [bold]violated[/] or [bold]unknown[/]. A violation comes with its input and output, which
    onnxruntime has checked where it is installed. The exit code is 0 whatever the verdict; 2 for input that cannot be read.
    """
    if timeout is not None and not 0 < timeout < math.inf:
        raise SettingError(f"--timeout is a number of seconds > 0, got {timeout:g}")
    set_threads(threads)
    out = writable("--out", out, make=True)
    if instances is not None:
        if net is not None:
            raise SettingError(f"--instances stands in the place of NET and PROPERTY, got {net} too; leave one out")
        work_through(instances, timeout, out, seed, only, None if other is None else Foreign.of(other))
        return
    if only is not None:
        raise SettingError(f"--only chooses rows of a list, got {only!r} without --instances; leave it out")
    if net is None or prop is None:
        raise SettingError(
            "verify needs a network and a property; write hauberk verify NET.onnx PROP.vnnlib, or --instances CSV"
        )
    try:
        asked = Instance(net, prop, _SECONDS if timeout is None else timeout)
        answer = decided(asked, seed, None if other is None else Foreign.of(other))
    except KeyboardInterrupt:
        raise Stop.interrupted("nothing was kept; a proof starts anew") from None
    print(answer.line)
    if out is not None:
        _write(out, f"{answer.word}\n{answer.witness}".rstrip() + "\n")
    elif answer.witness:
        print(answer.witness)


def _write(out: Path, text: str) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}; choose another place with --out"
        ) from error
