"""`hauberk report` and `hauberk compare`: what is read from finished run folders."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hauberk.cli import options as given
from hauberk.cli.evaluating import write_json
from hauberk.evaluate import compare as compare_runs
from hauberk.evidence import RunFolder, pretty
from hauberk.report import comparison, summary, write_html

__all__ = ["compare", "report"]


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", show_default=False, help="A run folder, as --out of evaluate named it.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The HTML file, whose folder is made if need be; report.html in the run folder if not given.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the path, no summary.")] = False,
) -> None:
    """Write the HTML report of a finished RUN, and print its summary and path."""
    out = given.writable("--out", out, make=True)
    finished = RunFolder.read(run)
    path = write_html(finished, out)
    if not quiet:
        summary(finished.result)
    print(path)


def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", show_default=False, help="A run folder.")],
    run_b: Annotated[
        Path, typer.Argument(metavar="RUN_B", show_default=False, help="Another, of the same data, threat and suite.")
    ],
    json: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="The comparison as JSON; - for standard output and nothing else there."
        ),
    ] = None,
) -> None:
    """Compare two models on the same examples: a paired test, which sees far less than two separate intervals can."""
    to_stdout = json is not None and str(json) == "-"
    json = None if to_stdout else given.writable("--json", json)
    result = compare_runs(RunFolder.read(run_a), RunFolder.read(run_b))
    if to_stdout:
        sys.stdout.write(pretty(result).decode())
        return
    comparison(result)
    if json is not None:
        write_json(json, result)
