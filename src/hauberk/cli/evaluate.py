"""`hauberk evaluate`: the main job, and the gate of a CI."""

import contextlib
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hauberk.cli import options as given
from hauberk.cli.guard import Stop, say
from hauberk.cli.kept import Kept
from hauberk.cli.models import open_both
from hauberk.errors import SettingError, UnknownNameError
from hauberk.evaluate import SUITES, Evaluation
from hauberk.evaluate import evaluate as run_evaluation
from hauberk.evidence import pretty
from hauberk.evidence.disk import replace_file, speaking
from hauberk.report import summary, write_html
from hauberk.report.words import interval, percent
from hauberk.threat import ThreatModel

__all__ = ["evaluate", "write_json"]

_OUT = "What is written"


def evaluate(
    ctx: typer.Context,
    model: given.Model,
    data: given.Data,
    threat: given.Threat,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            "-s",
            metavar="SUITE",
            help="quick (a first look), standard (the number to publish), autoattack (to compare with papers) or exhaustive.",
        ),
    ] = "standard",
    stages: Annotated[
        int | None, typer.Option("--stages", metavar="K", help="Only the first K attacks of the suite.")
    ] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(
            "--fail-under",
            metavar="SHARE",
            help="Exit with 1 if the upper bound on robust accuracy is below this share, such as 0.4, or if the audit found an "
            "error, as the bound cannot be trusted then.",
        ),
    ] = None,
    allow_audit_errors: Annotated[
        bool,
        typer.Option("--allow-audit-errors", help="Let --fail-under pass whatever the audit found."),
    ] = False,
    audit: Annotated[
        bool, typer.Option("--audit/--no-audit", help="Look for signs that the attacks are being fooled.")
    ] = True,
    adapt: Annotated[
        bool,
        typer.Option(
            "--adapt",
            help="Do what the audit's findings ask for (average over randomness, pass gradients through rounding, ...) and evaluate "
            "again; the result holds both verdicts.",
        ),
    ] = False,
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
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            rich_help_panel=_OUT,
            help="The run folder: rows, adversarial examples, result.json and report.html. Killed at any instant, the same "
            "command finishes the run.",
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            rich_help_panel=_OUT,
            help="The result as JSON; - for standard output and nothing else there.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", rich_help_panel=_OUT, help="The report as one HTML file."),
    ] = None,
) -> None:
    """How robust is MODEL on DATA under THREAT?

    Attacks from cheap to strong run on what still stands, one judge decides; what is left bounds the robust accuracy from above.
    """
    # What needs no model is refused before one is loaded.
    _check_bar(fail_under, allow_audit_errors)
    allowed = ThreatModel.parse(threat)
    if suite not in SUITES:
        raise UnknownNameError.of("suite", suite, SUITES)
    if batch_size < 1:
        raise SettingError(f"a batch holds at least one example, got --batch-size {batch_size}")
    if adapt and not audit:
        raise SettingError("--adapt does what the audit finds, and --no-audit leaves it out; give one of them")
    to_stdout = json is not None and str(json) == "-"
    json = None if to_stdout else given.writable("--json", json)
    html = given.writable("--html", html)
    given.set_threads(threads)
    options = given.ModelOptions(arch, bounds, mean, std, output, classes, device, dtype, trust_pickle)
    # What a user's code prints must not get into the JSON.
    with contextlib.redirect_stdout(sys.stderr) if to_stdout else contextlib.nullcontext():
        victim, source = open_both(model, options, data, n, quiet=quiet)
        kept = Kept(out, victim, source, allowed, suite, seed, batch_size)
        was_finished = kept.is_finished()
        if not quiet and not was_finished and (count := kept.count()):
            say(f"resuming at {count} of {len(source)}")
        try:
            evaluation = run_evaluation(
                victim,
                source,
                allowed,
                suite=suite,
                stages=stages,
                seed=seed,
                out=out,
                batch_size=batch_size,
                audit=audit,
                adapt=adapt,
                keep_adversarials=out is not None or html is not None,
                progress=not quiet and sys.stderr.isatty(),
                command=shlex.join(["hauberk", *(ctx.find_root().obj or ())]),
            )
        except KeyboardInterrupt:
            raise Stop.interrupted(kept.sentence()) from None
    if was_finished and not quiet:
        say("already finished; nothing was computed")
    _hand_out(evaluation, json=json, to_stdout=to_stdout, html=html, quiet=quiet)
    _judge_bar(evaluation.result, fail_under, allow_audit_errors=allow_audit_errors)


def _hand_out(evaluation: Evaluation, *, json: Path | None, to_stdout: bool, html: Path | None, quiet: bool) -> None:
    """Write and print everything that was asked for."""
    folder = evaluation.run.path
    reports = [write_html(evaluation.run)] if folder is not None else []
    if html is not None:
        reports.append(write_html(evaluation.run, html))
    if to_stdout:
        sys.stdout.write(pretty(_placed(evaluation, Path.cwd())).decode())
    elif not quiet:
        summary(evaluation.result)
    if json is not None:
        write_json(json, _placed(evaluation, json.parent))
    if not quiet:
        for kind, path in (("run", folder), *(("report", report) for report in reports), ("json", json)):
            if path is not None:
                say(f"{kind}: {path}")


def _placed(evaluation: Evaluation, beside: Path) -> dict[str, Any]:
    """The result with the path of its rows as seen from where the JSON stands; null where no rows were kept."""
    folder = evaluation.run.path
    rows = None if folder is None else Path(os.path.relpath(folder / "rows.parquet", beside)).as_posix()
    return evaluation.result | {"rows": rows}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON document, whole or not at all.

    Raises:
        RunError: the disk refuses.
    """
    with speaking(f"write {path}"):
        replace_file(path, pretty(value))


def _check_bar(bar: float | None, allow_audit_errors: bool) -> None:
    if bar is None and allow_audit_errors:
        raise SettingError(
            "--allow-audit-errors changes what --fail-under does, and there is none; give both or neither"
        )
    if bar is not None and not 0 <= bar <= 1:
        hint = f"; write {bar / 100:g} for {bar:g} %" if 1 < bar <= 100 else ""
        raise SettingError(f"--fail-under is a share from 0 to 1, got {bar:g}{hint}")


def _judge_bar(result: dict[str, Any], bar: float | None, *, allow_audit_errors: bool) -> None:
    if bar is None:
        return
    upper = result["robust_accuracy"]["upper"]
    errors = [] if allow_audit_errors else [found["id"] for found in result["audit"] if found["severity"] == "error"]
    found = f"the audit found errors ({', '.join(dict.fromkeys(errors))})"
    if upper["value"] < bar:
        threat = ThreatModel.parse(result["threat"])
        raise Stop.below(
            f"at most {percent(upper['value'])} of {upper['count']} examples withstand {threat.at(threat.radius)} (95 % interval "
            f"{interval(upper)}), and --fail-under asks for {percent(bar)}{f'; besides, {found}' if errors else ''}"
        )
    if errors:
        raise Stop.untrusted(
            f"{found}, so that the {percent(upper['value'])} that --fail-under is held against may be far too high; do what "
            "they say, or give --allow-audit-errors"
        )
