"""`hauberk audit`: can a robustness number of this model be trusted?"""

import contextlib
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from hauberk.cli import options as given
from hauberk.cli.evaluating import write_json
from hauberk.cli.guard import Stop, say
from hauberk.cli.models import open_both
from hauberk.errors import SettingError, UnknownNameError
from hauberk.evaluate import SUITES
from hauberk.evaluate import audit as run_audit
from hauberk.evaluate.audit import EXAMPLES, POOL
from hauberk.evidence import pretty
from hauberk.report import audit_page
from hauberk.threat import ThreatModel

__all__ = ["audit"]

_OUT = "What is written"


def audit(
    ctx: typer.Context,
    model: given.Model,
    data: given.Data,
    threat: given.Threat,
    examples: Annotated[
        int,
        typer.Option("--examples", metavar="K", help="How many correctly classified examples are attacked, at most."),
    ] = EXAMPLES,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Only the checks that run inside every evaluation: no other radii and numbers of steps, no copy of the model.",
        ),
    ] = False,
    binarisation: Annotated[
        bool,
        typer.Option(
            "--binarisation",
            help="The binarisation test too: does PGD find adversarial examples that are known to be there?",
        ),
    ] = False,
    adapt: Annotated[
        bool,
        typer.Option(
            "--adapt",
            help="Evaluate the examples, do what the findings ask for, and evaluate again: both verdicts are shown.",
        ),
    ] = False,
    suite: Annotated[
        str, typer.Option("--suite", "-s", metavar="SUITE", help="What evaluates them, with --adapt.")
    ] = "standard",
    arch: given.Arch = None,
    bounds: given.Bounds = None,
    mean: given.Mean = None,
    std: given.Std = None,
    output: given.Output = None,
    classes: given.Classes = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    trust_pickle: given.TrustPickle = False,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            "-n",
            metavar="N",
            rich_help_panel="The work",
            help=f"Look among the first N examples; {POOL} if not given.",
        ),
    ] = None,
    seed: given.Seed = 0,
    batch_size: given.BatchSize = 128,
    threads: given.Threads = None,
    quiet: given.Quiet = False,
    json: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            rich_help_panel=_OUT,
            help="The audit as JSON; - for standard output and nothing else there.",
        ),
    ] = None,
) -> None:
    """Are attacks on MODEL being fooled, so that its robustness is overstated? Exits with 1 where a finding is an error.

    For example: hauberk audit zoo:mnist-fgsm-rs --data mnist5k --threat linf:0.3
    """
    allowed = ThreatModel.parse(threat)
    if suite not in SUITES:
        raise UnknownNameError.of("suite", suite, SUITES)
    for option, value in (("--examples", examples), ("--n", n), ("--batch-size", batch_size)):
        if value is not None and value < 1:
            raise SettingError(f"{option} is at least 1, got {value}")
    to_stdout = json is not None and str(json) == "-"
    json = None if to_stdout else given.writable("--json", json)
    given.set_threads(threads)
    options = given.ModelOptions(arch, bounds, mean, std, output, classes, device, dtype, trust_pickle)
    # What a user's code prints must not get into the JSON.
    with contextlib.redirect_stdout(sys.stderr) if to_stdout else contextlib.nullcontext():
        victim, source = open_both(model, options, data, n, quiet=quiet)
        try:
            found = run_audit(
                victim,
                source,
                allowed,
                n=n,
                examples=examples,
                thorough=not quick,
                binarisation=binarisation,
                adapt=adapt,
                suite=suite,
                seed=seed,
                batch_size=batch_size,
                progress=not quiet and sys.stderr.isatty(),
                command=shlex.join(["hauberk", *(ctx.find_root().obj or ())]),
            )
        except KeyboardInterrupt:
            raise Stop.interrupted("nothing was kept; an audit starts anew") from None
    if to_stdout:
        sys.stdout.write(pretty(found.result).decode())
    elif not quiet:
        audit_page(found.result)
    if json is not None:
        write_json(json, found.result)
        if not quiet:
            say(f"json: {json}")
    if found.errors:
        names = ", ".join(dict.fromkeys(found.errors))
        raise Stop.untrusted(f"the audit found errors ({names}); do what they say before you believe a number")
