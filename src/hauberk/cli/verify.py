"""`hauberk verify`: does a property of a network hold? VNN-LIB and ONNX in, a verdict out."""

import csv
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from hauberk.certify._property import Verdict
from hauberk.certify.verify import verify as decide
from hauberk.certify.vnnlib import Instance, read_instances, read_property
from hauberk.cli.guard import Stop, one_line, say
from hauberk.errors import HauberkError, MissingExtraError, RunError, SettingError
from hauberk.layered.from_onnx import from_onnx
from hauberk.layered.graph import Graph
from hauberk.victims import wrap

__all__ = ["verify"]

_WORDS = {"holds": "unsat", "violated": "sat", "unknown": "unknown"}
_COLUMNS = ["net", "property", "timeout", "verdict", "method", "parts", "seconds"]


@dataclass(frozen=True)
class _Answer:
    """A verdict, and what a person and a judge want to see of it."""

    verdict: Verdict
    witness: str = ""
    checked: str = ""


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
            "--timeout", metavar="S", show_default="300, or those of the list", help="Seconds for each property."
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
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            show_default=False,
            help="The verdict as VNN-COMP writes it, sat, unsat or unknown and the witness; with --instances a table, where rows "
            "that are there already are not done again.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Of the search for counterexamples.")] = 0,
    threads: Annotated[int, typer.Option("--threads", metavar="K", help="CPU threads.")] = 1,
) -> None:
    """Prove that a property of a network holds, or find an input that violates it.

    The first word printed is [bold]holds[/], [bold]violated[/] or [bold]unknown[/]. A violation comes with its input and output, which
    onnxruntime has checked where it is installed. The exit code is 0 whatever the verdict; 2 for input that cannot be read.
    """
    if timeout is not None and not timeout > 0:
        raise SettingError(f"--timeout is a number of seconds > 0, got {timeout:g}")
    if threads < 1:
        raise SettingError(f"--threads is at least 1, got {threads}")
    torch.set_num_threads(threads)
    if instances is not None:
        if net is not None:
            raise SettingError(f"--instances stands in the place of NET and PROPERTY, got {net} too; leave one out")
        _all(instances, timeout, out, seed)
        return
    if net is None or prop is None:
        raise SettingError(
            "verify needs a network and a property; write hauberk verify NET.onnx PROP.vnnlib, or --instances CSV"
        )
    answer = _decided(Instance(net, prop, 300.0 if timeout is None else timeout), seed)
    print(_line(answer.verdict, answer.checked))
    if answer.witness and out is None:
        print(answer.witness)
    if out is not None:
        _write(out, f"{_WORDS[answer.verdict.status]}\n{answer.witness}".rstrip() + "\n")


def _line(verdict: Verdict, checked: str) -> str:
    parts = f", {verdict.domains:,} parts" if verdict.domains else ""
    return f"{verdict.status} ({verdict.method}{parts}, {verdict.seconds:.2f} s{', ' + checked if checked else ''})"


def _decided(instance: Instance, seed: int) -> _Answer:
    asked = read_property(instance.property)
    graph = from_onnx(instance.net)
    run, name = _second_opinion(instance.net, graph)

    def confirm(x: NDArray[np.float32]) -> bool:
        return asked.violated(x, run(x))

    verdict = decide(graph, asked, seconds=instance.timeout, seed=seed, confirm=confirm)
    if verdict.witness is None:
        return _Answer(verdict)
    return _Answer(verdict, _spelled(verdict.witness, run(verdict.witness)), f"checked by {name}")


def _second_opinion(path: Path, graph: Graph) -> tuple[Callable[[NDArray[np.float32]], NDArray[np.float32]], str]:
    """What computes the network apart from our own reading of it: onnxruntime, or where that is not installed the reading itself."""
    try:
        victim = wrap(path)
    except MissingExtraError:
        victim = None

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        point = torch.from_numpy(x).reshape(1, *graph.input_shape)
        if victim is None:
            return graph(point).detach().flatten().numpy()
        return victim.logits(point, torch.zeros(1, dtype=torch.int64)).flatten().numpy()

    return run, "hauberk's own reading of the file" if victim is None else "onnxruntime"


def _spelled(x: NDArray[np.float32], y: NDArray[np.float32]) -> str:
    """The witness as VNN-COMP writes it."""
    values = [f"(X_{i} {value:.9g})" for i, value in enumerate(x.flatten().tolist())]
    values += [f"(Y_{i} {value:.9g})" for i, value in enumerate(y.flatten().tolist())]
    return "(" + "\n ".join(values) + ")"


def _write(out: Path, text: str) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}; choose another place with --out"
        ) from error


def _all(path: Path, timeout: float | None, out: Path | None, seed: int) -> None:
    """Every instance of a list; one that fails is a row and no end."""
    rows = read_instances(path)
    done = _known(out)
    counts: Counter[str] = Counter()
    began, spent = time.perf_counter(), 0.0
    for number, row in enumerate(rows, 1):
        limit = row.timeout if timeout is None else timeout
        key = (row.net.name, row.property.name, f"{limit:g}")
        if key in done:
            counts[done[key]] += 1
            continue
        try:
            answer = _decided(Instance(row.net, row.property, limit), seed)
            verdict, text = answer.verdict, _line(answer.verdict, answer.checked)
            cells = [verdict.status, verdict.method, str(verdict.domains), f"{verdict.seconds:.3f}"]
            spent += verdict.seconds
        except HauberkError as error:
            text, cells = f"error: {one_line(error)}", ["error", "", "", ""]
        except KeyboardInterrupt:
            kept = "finished rows are kept; the same command goes on from there" if out else "with --out, rows are kept"
            raise Stop.interrupted(kept) from None
        counts[cells[0]] += 1
        print(f"{text}  [{number}/{len(rows)}] {row.net.name} {row.property.name}", flush=True)
        if out is not None:
            _append(out, [*key, *cells])
    if done:
        say(f"note: {len(done)} rows were in {out} already and were not done again")
    told = ", ".join(f"{counts[word]} {word}" for word in ("holds", "violated", "unknown", "error") if counts[word])
    print(
        f"{sum(counts.values())} properties: {told}; {spent:.1f} s of proofs, {time.perf_counter() - began:.1f} s in all",
        file=sys.stderr,
    )


def _known(out: Path | None) -> dict[tuple[str, str, str], str]:
    """The verdicts that the table holds already."""
    if out is None or not out.exists():
        return {}
    try:
        rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
        return {
            (row["net"], row["property"], row["timeout"]): row["verdict"] for row in rows if row["verdict"] != "error"
        }
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise RunError(
            f"{out} is no table of this command (columns {', '.join(_COLUMNS)}); choose another --out"
        ) from error


def _append(out: Path, cells: list[str]) -> None:
    try:
        new = not out.exists()
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([_COLUMNS, cells] if new else [cells])
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}; choose another place with --out"
        ) from error
