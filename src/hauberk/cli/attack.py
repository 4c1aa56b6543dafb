"""`hauberk attack`: one attack on every example, batch by batch, and the adversarial examples it found."""

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from hauberk.attacks import Attack, AttackResult, run_attack, settings_of
from hauberk.cli import options as given
from hauberk.cli.guard import Stop, say
from hauberk.cli.known import attack_named
from hauberk.cli.models import open_both
from hauberk.cli.saving import TensorFile
from hauberk.cli.wire import fair_share
from hauberk.data import Chunk, Source
from hauberk.errors import SettingError
from hauberk.evaluate.progress import progress_bar
from hauberk.report.words import amount, duration, percent, plain
from hauberk.threat import ThreatModel
from hauberk.victims import Victim, check_inputs

__all__ = ["attack"]


def attack(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="See: hauberk list attacks.")],
    model: given.Model,
    data: given.Data,
    threat: given.Threat,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the attack, such as steps=100; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="A .safetensors file for example, label, predicted, broken, size, adversarial_label, originals and adversarials.",
        ),
    ] = None,
    max_queries: given.MaxQueries = None,
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
    """Run one attack NAME on every example of DATA, and save what it found.

    To learn how robust a model is, use: hauberk evaluate. One attack alone gives too good a number.
    """
    chosen = attack_named(name, setting or [])
    allowed = ThreatModel.parse(threat)
    out = given.writable("--out", out, ".safetensors")
    if batch_size < 1:
        raise SettingError(f"a batch holds at least one example, got --batch-size {batch_size}")
    given.set_threads(threads)
    options = given.ModelOptions(arch, bounds, mean, std, output, classes, device, dtype, trust_pickle)
    victim, source = open_both(model, options, data, n, quiet=quiet)
    began, counts, waiting = perf_counter(), _Counts(), len(source)
    first = fair_share(victim, waiting, waiting, max_queries)
    if first != max_queries and not quiet:
        say(
            f"note: the budget lets each of {waiting} examples cost {first} queries; what stays right may fall to more of them"
        )
    try:
        with ExitStack() as stack:
            file = None
            if out is not None:
                facts = _facts(name, chosen, victim, source, allowed, seed)
                file = stack.enter_context(TensorFile.replacing(out, _columns(victim, source), facts))
            advance = stack.enter_context(progress_bar(name, len(source), show=not quiet and sys.stderr.isatty()))
            for chunk in source.chunks(batch_size):
                x, y = check_inputs(victim, chunk.x, chunk.y, ids=chunk.ids)
                most = fair_share(victim, waiting, len(source), max_queries)
                predicted = victim.labels(x, torch.arange(len(x), device=x.device))
                found = run_attack(
                    chosen,
                    victim,
                    x,
                    y,
                    allowed,
                    seed=seed,
                    ids=chunk.ids,
                    batch_size=batch_size,
                    max_queries=most,
                )
                waiting -= len(chunk)
                counts.add(y, predicted, found)
                if file is not None:
                    file.append(_row(chunk, x, y, predicted, found))
                advance(len(chunk))
    except KeyboardInterrupt:
        raise Stop.interrupted("nothing was saved; an attack is not resumable, hauberk evaluate --out DIR is") from None
    if not quiet:
        _print(name, victim, source, allowed, counts, perf_counter() - began)
        if out is not None:
            say(f"adversarials: {out}")


@dataclass
class _Counts:
    """What the attack did, over all batches."""

    examples: int = 0
    right: int = 0
    broken: int = 0
    standing: int = 0
    queries: int = 0
    forwards: int = 0
    backwards: int = 0

    def add(self, y: Tensor, predicted: Tensor, found: AttackResult) -> None:
        right = predicted == y
        self.examples += len(y)
        self.right += int(right.sum())
        self.broken += int((right & found.broken).sum())
        self.standing += int((right & ~found.broken).sum())
        self.queries += int(found.queries.sum())
        self.forwards += int(found.forwards.sum())
        self.backwards += int(found.backwards.sum())


def _columns(victim: Victim, source: Source) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Name -> dtype and shape of what is saved, one row for each example."""
    n, points = len(source), (victim.dtype, (len(source), *source.shape))
    return {
        "example": (torch.int64, (n,)),
        "label": (torch.int64, (n,)),
        "predicted": (torch.int64, (n,)),
        "broken": (torch.bool, (n,)),
        "size": (torch.float64, (n,)),
        "adversarial_label": (torch.int64, (n,)),
        "originals": points,
        "adversarials": points,
    }


def _row(chunk: Chunk, x: Tensor, y: Tensor, predicted: Tensor, found: AttackResult) -> dict[str, Tensor]:
    return {
        "example": chunk.ids,
        "label": y,
        "predicted": predicted,
        "broken": found.broken,
        "size": found.sizes,
        "adversarial_label": found.labels,
        "originals": x,
        "adversarials": found.adversarials,
    }


def _facts(name: str, chosen: Attack, victim: Victim, source: Source, threat: ThreatModel, seed: int) -> dict[str, str]:
    """What is needed to make the file again, for its header."""
    return {
        "hauberk": version("hauberk"),
        "attack": name,
        "settings": json.dumps(settings_of(chosen)),
        "threat": str(threat),
        "seed": str(seed),
        "bounds": json.dumps(victim.bounds),
        "model": victim.name,
        "model_fingerprint": victim.fingerprint(),
        "data": source.name,
        "data_fingerprint": source.fingerprint(),
    }


def _print(name: str, victim: Victim, source: Source, threat: ThreatModel, counts: _Counts, seconds: float) -> None:
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    n = counts.examples
    broke = f"{name} broke {amount(counts.broken)} of the {amount(counts.right)} examples that are right unattacked"
    console = Console()
    console.print(
        Panel(
            Text.assemble(broke, "; ", (f"{percent(counts.standing / n)} of all {amount(n)}", "bold"), " stay right."),
            title=Text(plain(victim.name), style="bold"),
            subtitle=Text(f"{plain(source.name)}, {threat}", style="dim"),
            padding=(1, 2),
        )
    )
    cost: dict[str, Any] = {key: amount(getattr(counts, key) / n) for key in ("forwards", "backwards", "queries")}
    console.print(
        Text(
            f"An example cost {cost['forwards']} forwards, {cost['backwards']} backwards and {cost['queries']} queries; "
            f"{duration(seconds)} in all. One attack is no measure of robustness: see hauberk evaluate.",
            style="dim",
        )
    )
