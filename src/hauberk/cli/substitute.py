"""`hauberk substitute`: a net of one's own, trained on the labels that a model answers, in the place of that model."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from hauberk.cli import options as given
from hauberk.cli.evaluating import write_json
from hauberk.cli.guard import Stop, say
from hauberk.cli.models import open_both
from hauberk.cli.trained import built
from hauberk.data import Chunk, Source
from hauberk.errors import DataError, SettingError
from hauberk.evaluate.progress import progress_bar
from hauberk.evaluate.statistics import Proportion
from hauberk.evaluate.substitute import Round, Substitute
from hauberk.evaluate.substitute import substitute as train_substitute
from hauberk.evidence import pretty
from hauberk.report.terminal import shown
from hauberk.report.words import DASH, amount, interval, percent, plain
from hauberk.train import Recipe
from hauberk.train._checkpoint import write_weights

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["substitute"]

_SPLIT = "What is asked"


def substitute(
    model: given.Model,
    data: given.Data,
    architecture: Annotated[
        str,
        typer.Option(
            "--substitute",
            metavar="ARCH",
            show_default=False,
            help="Builds the net: zoo:mnist_cnn, module:factory or path/to/file.py:factory, called without arguments.",
        ),
    ],
    queries: Annotated[
        int,
        typer.Option("--queries", metavar="N", rich_help_panel=_SPLIT, help="The most that MODEL is asked; hard."),
    ] = 1000,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="METHOD",
            rich_help_panel=_SPLIT,
            help="active (where the substitute is least sure, in DATA), knockoff (any of DATA) or jacobian (points made around the "
            "first few of DATA).",
        ),
    ] = "active",
    seeds: Annotated[
        int,
        typer.Option("--seeds", metavar="K", rich_help_panel=_SPLIT, help="Examples of DATA that are asked first."),
    ] = 100,
    held_out: Annotated[
        int,
        typer.Option(
            "--held-out",
            metavar="K",
            rich_help_panel=_SPLIT,
            help="The first K examples of DATA measure agreement and transfer; MODEL is asked about them too, once and, with --threat, once "
            "more in each round, which is not in --queries. 0 measures nothing.",
        ),
    ] = 200,
    threat: Annotated[
        str | None,
        typer.Option(
            "--threat", "-t", metavar="THREAT", show_default=False, help="Measure what transfers under it, too."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", metavar="K", help="Of training, in each round.")] = 30,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="A .safetensors file for the weights, a MODEL with --arch ARCH."
        ),
    ] = None,
    json: given.Json = None,
    arch: given.Arch = None,
    bounds: given.Bounds = None,
    mean: given.Mean = None,
    std: given.Std = None,
    output: given.Output = None,
    classes: given.Classes = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    trust_pickle: given.TrustPickle = False,
    n: given.N = None,
    seed: given.Seed = 0,
    threads: given.Threads = None,
    quiet: given.Quiet = False,
) -> None:
    """Train a substitute of MODEL on the labels that it answers about DATA, with a hard limit of queries.

    The labels of DATA are not used. Points that are crafted on the substitute may break MODEL: see hauberk transfer.
    """
    out = given.writable("--out", out, ".safetensors")
    to_stdout = json is not None and str(json) == "-"
    json = None if to_stdout else given.writable("--json", json)
    for name, value, least in (("--seeds", seeds, 1), ("--held-out", held_out, 0), ("--epochs", epochs, 1)):
        if value < least:
            raise SettingError(f"{name} is a whole number >= {least}, got {value}")
    if threat is not None and not held_out:
        raise SettingError(
            "transfer under a threat is measured on examples held out, got --held-out 0; leave out --threat"
        )
    given.set_threads(threads)
    built(architecture, seed)  # a factory that fails must not fail after queries were paid for
    options = given.ModelOptions(arch, bounds, mean, std, output, classes, device, dtype, trust_pickle)
    victim, source = open_both(model, options, data, n, quiet=quiet)
    chunk = _whole(source, held_out + seeds)
    x, asked = chunk.x, chunk.x[held_out:]
    try:
        with ExitStack() as stack:
            bar = stack.enter_context(progress_bar(method, queries, show=not quiet and sys.stderr.isatty()))
            known = 0

            def advance(done: Round) -> None:
                nonlocal known
                share = "" if done.agreement is None else f"agreement {percent(done.agreement.value)}"
                bar(done.queries - known, share)
                known = done.queries

            made = train_substitute(
                victim,
                asked[:seeds],
                lambda: built(architecture, seed),
                queries=queries,
                method=method,
                pool=None if method == "jacobian" or len(asked) == seeds else asked[seeds:],
                held_out=x[:held_out] if held_out else None,
                threat=threat,
                recipe=Recipe(epochs, 64, seed),
                seed=seed,
                advance=advance,
            )
    except KeyboardInterrupt:
        raise Stop.interrupted(
            "nothing was saved; what was bought over HTTP is in the --cache, if there is one"
        ) from None
    result = made.to_json() | {
        "model": {"name": victim.name, "fingerprint": victim.fingerprint()},
        "data": {"name": source.name, "fingerprint": source.fingerprint()},
        "architecture": architecture,
        "seed": seed,
    }
    if out is not None:
        write_weights(out, made.net.state_dict())
    if to_stdout:
        sys.stdout.write(pretty(result).decode())
        return
    if json is not None:
        write_json(json, result)
    if not quiet:
        shown(lambda console: _print(made, victim.name, source, console), None)
        if out is not None:
            say(
                f"weights: {out}; go on with: hauberk transfer {out} {model} --arch {architecture} --data {data} --threat ..."
            )


def _whole(source: Source, least: int) -> Chunk:
    """All examples of the source, of which there are more than are measured on and asked first."""
    if len(source) < least:
        raise DataError(
            f"expected at least {least} examples in {source.name}, to measure on and to ask about first, got {len(source)}; give fewer "
            "--held-out or --seeds"
        )
    parts = list(source.chunks(max(len(source), 1)))
    return Chunk(*(torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "x", "y")))


def _print(made: Substitute, name: str, source: Source, console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"{made.method} substitute of {plain(name)}, by labels on {plain(source.name)}", title_justify="left"
    )
    table.add_column("queries", justify="right")
    table.add_column("agreement", justify="right")
    if made.threat:
        table.add_column(f"transferred, {made.threat}", justify="right")
        table.add_column("share / 1,000 queries", justify="right")
    for one in made.rounds:
        cells = [amount(one.queries), _share(one.agreement)]
        if made.threat:
            rate = one.transferred_per_thousand_queries
            cells += [_share(one.transferred), DASH if rate is None else f"{rate:.2f}"]
        table.add_row(*cells)
    console.print(table)
    if not (count := _count(made)):
        return
    said = f"Measured on {amount(count)} examples held out, whose answers are not among the queries."
    if made.threat:
        said += f" Transferred: of these, what points crafted on the substitute by {made.attack} turn."
    console.print(Text(said, style="dim"))


def _count(made: Substitute) -> int:
    return 0 if made.agreement is None else made.agreement.count


def _share(value: Proportion | None) -> str:
    return DASH if value is None else f"{percent(value.value)} ({interval(value.to_json())})"
