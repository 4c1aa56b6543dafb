"""`hauberk transfer`: adversarial examples crafted on each model and judged on all, as a matrix."""

import json as as_json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from hauberk.attacks import name_of, settings_of
from hauberk.cli import options as given
from hauberk.cli.evaluating import write_json
from hauberk.cli.guard import Stop, as_typed, say
from hauberk.cli.known import attack_named
from hauberk.cli.models import load_model
from hauberk.cli.saving import TensorFile
from hauberk.cli.trained import is_training
from hauberk.data import Source
from hauberk.data import load as load_data
from hauberk.errors import DataError, SettingError
from hauberk.evaluate.progress import progress_bar
from hauberk.evaluate.transfer import Crossing, TransferMatrix
from hauberk.evidence import pretty
from hauberk.report.terminal import shown
from hauberk.report.words import DASH, amount, percent, plain
from hauberk.threat import ThreatModel
from hauberk.victims import Victim

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["transfer"]


def transfer(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL MODEL...", show_default=False, help="Two or more, spelled as for: hauberk evaluate."
        ),
    ],
    data: given.Data,
    threat: given.Threat,
    attack: Annotated[
        str, typer.Option("--attack", "-a", metavar="NAME", help="What crafts. See: hauberk list attacks.")
    ] = "transfer",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the attack, such as steps=20; may be repeated."),
    ] = None,
    json: given.Json = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="A .safetensors file for example, label, kept, broken, originals and the adversarials of each source.",
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
    n: given.N = None,
    seed: given.Seed = 0,
    batch_size: given.BatchSize = 128,
    threads: given.Threads = None,
    quiet: given.Quiet = False,
) -> None:
    """Craft adversarial examples on each MODEL, and see which of the others they fool.

    Only examples that every MODEL classifies rightly count. The options on how a model is read go to those that do not bring
    their own, as nets of the zoo do.
    """
    chosen = attack_named(attack, setting or [])
    allowed = ThreatModel.parse(threat)
    out = given.writable("--out", out, ".safetensors")
    to_stdout = json is not None and str(json) == "-"
    json = None if to_stdout else given.writable("--json", json)
    if batch_size < 1:
        raise SettingError(f"a batch holds at least one example, got --batch-size {batch_size}")
    given.set_threads(threads)
    options = given.ModelOptions(arch, bounds, mean, std, output, classes, device, dtype, trust_pickle)
    victims = [load_model(spec, _read_as(spec, options)) for spec in models]
    crossing = Crossing(victims, allowed, chosen, seed)
    source = _opened(crossing, data, n, quiet)
    if not quiet and getattr(chosen, "early_stop", False):
        say(
            f"note: {attack} leaves an example once it is broken, just past the boundary; such points transfer less than with --set early_stop=false"
        )
    with ExitStack() as stack:
        file = None
        if out is not None:
            facts = _facts(crossing, source)
            file = stack.enter_context(TensorFile.replacing(out, _columns(crossing, source), facts))
        advance = stack.enter_context(progress_bar(attack, len(source), show=not quiet and sys.stderr.isatty()))
        try:
            for chunk in source.chunks(batch_size):
                crossed = crossing.add(chunk.x, chunk.y, chunk.ids)
                if file is not None:
                    points = {f"adversarials.{row}": part for row, part in enumerate(crossed.adversarials)}
                    known = {"example": chunk.ids, "label": chunk.y, "kept": crossed.kept}
                    broken = crossed.broken.permute(2, 0, 1)
                    file.append(known | {"broken": broken, "originals": crossed.originals} | points)
                advance(len(chunk))
        except KeyboardInterrupt:
            raise Stop.interrupted(
                "nothing was saved; a matrix is not resumable, try fewer examples with --n"
            ) from None
        matrix = crossing.matrix()
    result = matrix.to_json() | {"data": {"name": source.name, "fingerprint": source.fingerprint()}}
    if to_stdout:
        sys.stdout.write(pretty(result).decode())
        return
    if json is not None:
        write_json(json, result)
    if not quiet:
        shown(lambda console: _print(matrix, source, console), None)
        if out is not None:
            say(f"adversarials: {out}")


def _read_as(spec: str, options: given.ModelOptions) -> given.ModelOptions:
    """Of the options on how a model is read those that mean something to this one."""
    if spec.startswith(("zoo:", "http://", "https://")) or is_training(spec):
        return given.ModelOptions(device=options.device, dtype=options.dtype, trust_pickle=options.trust_pickle)
    if spec.startswith(("py:", "sklearn:")) or spec.endswith((".pt2", ".onnx", ".skops")):
        return replace(options, arch=None)
    return options


def _opened(crossing: Crossing, data: str, n: int | None, quiet: bool) -> Source:
    """The data, checked against every model on the first examples, with every guess said."""
    source = load_data(data, bounds=crossing.victims[0].bounds, n=n)
    first = next(iter(source.chunks(8)), None)
    if first is None:
        raise DataError(f"expected at least one example in {source.name}, got none")
    for victim, x in zip(crossing.victims, crossing.settle(first.x, first.y, first.ids), strict=True):
        victim.probe(x)
    if not quiet:
        for note in dict.fromkeys(_notes(crossing.victims, source)):
            say(f"note: {as_typed(note)}")
        for place, name in enumerate(crossing.names):
            if place not in crossing.sources:
                gives = crossing.victims[place].access
                say(
                    f"note: {name} gives {gives} only, so nothing is crafted on it; points of the others are judged on it"
                )
    return source


def _notes(victims: list[Victim], source: Source) -> Iterator[str]:
    for victim in victims:
        yield from (f"{victim.name}: {note}" for note in victim.notes)
    yield from source.notes


def _columns(crossing: Crossing, source: Source) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Name -> dtype and shape of what is saved, one row for each example."""
    n, first = len(source), crossing.victims[0]
    points = (first.dtype, (n, *source.shape))
    return {
        "example": (torch.int64, (n,)),
        "label": (torch.int64, (n,)),
        "kept": (torch.bool, (n,)),
        "broken": (torch.bool, (n, len(crossing.sources), len(crossing.victims))),
        "originals": points,
        **{f"adversarials.{row}": points for row in range(len(crossing.sources))},
    }


def _facts(crossing: Crossing, source: Source) -> dict[str, str]:
    """What is needed to make the file again, for its header."""
    return {
        "hauberk": version("hauberk"),
        "attack": name_of(crossing.attack),
        "settings": as_json.dumps(settings_of(crossing.attack)),
        "threat": str(crossing.threat),
        "seed": str(crossing.seed),
        "models": as_json.dumps(crossing.names),
        "sources": as_json.dumps([crossing.names[place] for place in crossing.sources]),
        "data": source.name,
        "data_fingerprint": source.fingerprint(),
    }


def _print(matrix: TransferMatrix, source: Source, console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{plain(source.name)}, {matrix.threat}: broken of {amount(matrix.kept)}", title_justify="left")
    table.add_column("crafted on", overflow="fold")
    for name in matrix.names:
        table.add_column(Text(f"on {plain(name)}"), justify="right", overflow="fold")
    shares = matrix.success.tolist()
    for place, name in enumerate(matrix.names):
        if place not in matrix.sources:
            continue
        row = shares[matrix.sources.index(place)]
        cells = [Text(percent(share), style="bold" if at == place else "") for at, share in enumerate(row)]
        table.add_row(Text(plain(name)), *cells)
    console.print(table)
    mean = DASH if matrix.transferred is None else percent(matrix.transferred)
    console.print(
        Text(
            f"{amount(matrix.kept)} of {amount(matrix.seen)} examples are right on every model and were attacked by {matrix.attack}; "
            f"on models they were not crafted on, the points break {mean} as a mean. The intervals are in --json.",
            style="dim",
        )
    )
