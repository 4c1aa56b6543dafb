"""`hauberk demo`: two nets of the zoo evaluated, compared and reported, in a few minutes on one CPU core."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hauberk import zoo
from hauberk.cli import options as given
from hauberk.cli.evaluating import write_json
from hauberk.cli.guard import Stop, say
from hauberk.cli.kept import Kept
from hauberk.data import load as load_data
from hauberk.evaluate import compare
from hauberk.evaluate import evaluate as run_evaluation
from hauberk.evidence import FinishedRun
from hauberk.report import comparison, summary, write_html
from hauberk.threat import ThreatModel

__all__ = ["demo"]

_MODELS = ("mnist-natural", "mnist-fgsm-rs")
_DATA, _THREAT, _BATCH = "mnist5k", "linf:0.1,0.2,0.3", 128


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where the run folders and reports go.")
    ] = Path("demo-run"),
    n: Annotated[int, typer.Option("--n", "-n", metavar="N", help="How many pictures.")] = 500,
    suite: Annotated[str, typer.Option("--suite", "-s", metavar="SUITE", help="quick or standard.")] = "standard",
    threads: Annotated[int, typer.Option("--threads", metavar="K", help="CPU threads.")] = 1,
) -> None:
    """Evaluate two MNIST nets, one trained naturally and one adversarially, compare them and write both reports.

    Interrupted, the same command goes on where it was.
    """
    given.set_threads(threads)
    source = load_data(_DATA, n=n)  # first, so that a missing package is said before any work
    print(
        f"Two nets for handwritten digits, {len(source)} pictures each, every pixel free to change by 0.1, 0.2 or 0.3 (of 1).\n"
        "A few minutes on one CPU core.",
        flush=True,
    )
    runs: list[FinishedRun] = []
    reports: list[Path] = []
    threat = ThreatModel.parse(_THREAT)
    for name in _MODELS:
        victim = zoo.load(name)
        kept = Kept(out / name, victim, source, threat, suite, 0, _BATCH)
        was_finished = kept.is_finished()
        if not was_finished and (count := kept.count()):
            say(f"{name}: resuming at {count} of {len(source)}")
        try:
            evaluation = run_evaluation(
                victim,
                source,
                threat,
                suite=suite,
                out=out / name,
                batch_size=_BATCH,
                progress=sys.stderr.isatty(),
                command=f"hauberk demo --out {out}",
            )
        except KeyboardInterrupt:
            raise Stop.interrupted(f"{name}: {kept.sentence()}") from None
        if was_finished:
            say(f"{name}: already finished; nothing was computed")
        runs.append(evaluation.run)
        reports.append(write_html(evaluation.run))
        print(flush=True)
        summary(evaluation.result)
    result = compare(runs[0], runs[1])
    write_json(out / "comparison.json", result)
    print(flush=True)
    comparison(result)
    for name, path in zip(_MODELS, reports, strict=True):
        print(f"report of {name}: {path}")
