"""`hauberk evaluate`: the main job, and the gate of a CI."""

from typing import Annotated

import typer

from hauberk.cli import options as given
from hauberk.cli.evaluating import Job, conduct
from hauberk.evaluate import SANDWICHED

__all__ = ["evaluate"]


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
    access: given.Seen = None,
    max_queries: given.MaxQueries = None,
    price: given.Price = None,
    certify: given.Certify = "off",
    certify_seconds: given.CertifySeconds = 0.5,
    sandwich: given.Sandwich = SANDWICHED,
    fail_under_proven: given.FailUnderProven = None,
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
    out: given.Out = None,
    json: given.Json = None,
    html: given.Html = None,
) -> None:
    """How robust is MODEL on DATA under THREAT?

    Attacks from cheap to strong run on what still stands, one judge decides; what is left bounds the robust accuracy from above.
    """
    conduct(
        Job(
            threat=threat,
            suite=suite,
            stages=stages,
            fail_under=fail_under,
            fail_under_proven=fail_under_proven,
            allow_audit_errors=allow_audit_errors,
            audit=audit,
            adapt=adapt,
            access=access,
            max_queries=max_queries,
            price=price,
            certify=certify,
            certify_seconds=certify_seconds,
            sandwich=sandwich,
            n=n,
            seed=seed,
            batch_size=batch_size,
            threads=threads,
            quiet=quiet,
            out=out,
            json=json,
            html=html,
            words=tuple(ctx.find_root().obj or ()),
        ),
        model,
        data,
        given.ModelOptions(arch, bounds, mean, std, output, classes, device, dtype, trust_pickle),
    )
