"""An evaluation as `hauberk evaluate` and `hauberk certify` conduct it: checked, run, handed out and held against a bar."""

import contextlib
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hauberk.cli import options as given
from hauberk.cli.guard import Stop, say
from hauberk.cli.kept import Kept
from hauberk.cli.models import open_both
from hauberk.cli.wire import fair_share
from hauberk.errors import SettingError, UnknownNameError
from hauberk.evaluate import CERTIFY, SUITES, Evaluation
from hauberk.evaluate import evaluate as run_evaluation
from hauberk.evaluate.statement import seen_through
from hauberk.evidence import pretty
from hauberk.evidence.disk import replace_file, speaking
from hauberk.report import summary, write_html
from hauberk.report.words import interval, percent
from hauberk.threat import ThreatModel

__all__ = ["Job", "conduct", "write_json"]

_AUDIT = 96
"""Rows that the audit of a model over HTTP may buy besides the examples themselves: it asks 32 a second time, and some noise."""


@dataclass(frozen=True)
class Job:
    """What was typed, apart from MODEL, DATA and how the model is read."""

    threat: str
    suite: str
    stages: int | None
    fail_under: float | None
    fail_under_proven: float | None
    allow_audit_errors: bool
    audit: bool
    adapt: bool
    access: str | None
    max_queries: int | None
    price: float | None
    certify: str
    certify_seconds: float
    sandwich: int
    n: int | None
    seed: int
    batch_size: int
    threads: int | None
    quiet: bool
    out: Path | None
    json: Path | None
    html: Path | None
    words: tuple[str, ...]


def conduct(job: Job, model: str, data: str, options: given.ModelOptions) -> None:
    """Evaluate, write and print what was asked for, and exit with 1 below a bar."""
    # What needs no model is refused before one is loaded.
    _check_bars(job)
    allowed = seen_through(ThreatModel.parse(job.threat), job.access)
    if job.suite not in SUITES:
        raise UnknownNameError.of("suite", job.suite, SUITES)
    if job.certify not in CERTIFY:
        raise UnknownNameError.of("method of --certify", job.certify, CERTIFY)
    if job.batch_size < 1:
        raise SettingError(f"a batch holds at least one example, got --batch-size {job.batch_size}")
    if job.adapt and not job.audit:
        raise SettingError("--adapt does what the audit finds, and --no-audit leaves it out; give one of them")
    quiet, out = job.quiet, job.out
    to_stdout = job.json is not None and str(job.json) == "-"
    json = None if to_stdout else given.writable("--json", job.json)
    html = given.writable("--html", job.html)
    given.set_threads(job.threads)
    # What a user's code prints must not get into the JSON.
    with contextlib.redirect_stdout(sys.stderr) if to_stdout else contextlib.nullcontext():
        victim, source = open_both(model, options, data, job.n, quiet=quiet)
        kept = Kept(out, victim, source, allowed, job.suite, job.seed, job.batch_size)
        was_finished = kept.is_finished()
        if not quiet and not was_finished and (count := kept.count()):
            say(f"resuming at {count} of {len(source)}")
        n = len(source)
        most = fair_share(victim, n, n, job.max_queries, besides=_AUDIT if job.audit else 0) if n else job.max_queries
        if most != job.max_queries and not quiet:
            say(
                f"note: the budget lets each of {n} examples cost {most} queries; what stays right may fall to more of them"
            )
        try:
            evaluation = run_evaluation(
                victim,
                source,
                allowed,
                suite=job.suite,
                stages=job.stages,
                seed=job.seed,
                out=out,
                batch_size=job.batch_size,
                audit=job.audit,
                adapt=job.adapt,
                certify=job.certify,
                certify_seconds=job.certify_seconds,
                sandwich=job.sandwich,
                max_queries=most,
                price=job.price,
                keep_adversarials=out is not None or html is not None,
                progress=not quiet and sys.stderr.isatty(),
                command=shlex.join(["hauberk", *job.words]),
            )
        except KeyboardInterrupt:
            raise Stop.interrupted(kept.sentence()) from None
    if was_finished and not quiet:
        say("already finished; nothing was computed")
    _hand_out(evaluation, json=json, to_stdout=to_stdout, html=html, quiet=quiet)
    _judge_bars(evaluation.result, job)


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


def _check_bars(job: Job) -> None:
    if job.fail_under is None and job.fail_under_proven is None and job.allow_audit_errors:
        raise SettingError(
            "--allow-audit-errors changes what --fail-under does, and there is none; give both or neither"
        )
    for name, bar in (("--fail-under", job.fail_under), ("--fail-under-proven", job.fail_under_proven)):
        if bar is not None and not 0 <= bar <= 1:
            hint = f"; write {bar / 100:g} for {bar:g} %" if 1 < bar <= 100 else ""
            raise SettingError(f"{name} is a share from 0 to 1, got {bar:g}{hint}")
    if job.fail_under_proven is not None and job.certify == "off":
        raise SettingError("--fail-under-proven asks for proofs, and --certify off seeks none; give --certify auto")


def _judge_bars(result: dict[str, Any], job: Job) -> None:
    bars = (("upper", job.fail_under), ("lower", job.fail_under_proven))
    if all(bar is None for _, bar in bars):
        return
    threat = ThreatModel.parse(result["threat"])
    errors = (
        [found["id"] for found in result["audit"] if found["severity"] == "error"] if not job.allow_audit_errors else []
    )
    found = f"the audit found errors ({', '.join(dict.fromkeys(errors))})"
    for end, bar in bars:
        share = result["robust_accuracy"][end]
        if bar is None or share["value"] >= bar:
            continue
        if end == "upper":
            said = (
                f"at most {percent(share['value'])} of {share['count']} examples withstand {threat.at(threat.radius)}"
            )
        else:
            said = f"only {percent(share['value'])} of {share['count']} examples are proven to withstand {threat.at(threat.radius)}"
        option = "--fail-under" if end == "upper" else "--fail-under-proven"
        raise Stop.below(
            f"{said} (95 % interval {interval(share)}), and {option} asks for {percent(bar)}{f'; besides, {found}' if errors else ''}"
        )
    if errors:
        upper = result["robust_accuracy"]["upper"]
        raise Stop.untrusted(
            f"{found}, so that the {percent(upper['value'])} that --fail-under is held against may be far too high; do what "
            "they say, or give --allow-audit-errors"
        )
