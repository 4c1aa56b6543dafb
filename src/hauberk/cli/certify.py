"""`hauberk certify`: an evaluation whose weight is on proofs."""

from typing import Annotated

import typer

from hauberk.cli import options as given
from hauberk.cli.evaluating import Job, conduct

__all__ = ["certify"]


def certify(
    ctx: typer.Context,
    model: given.Model,
    data: given.Data,
    threat: given.Threat,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="METHOD",
            help="auto, or the last to try: crown_ibp, crown, alpha_crown, branch_and_bound.",
        ),
    ] = "auto",
    seconds: Annotated[
        float,
        typer.Option("--seconds", metavar="S", help="Seconds of branch and bound, as a mean over the examples."),
    ] = 5.0,
    sandwich: given.Sandwich = 200,
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
    """What is proven of MODEL on DATA under THREAT?

    The same run and report as hauberk evaluate --certify auto, with the quick suite as the attack, ten times the time for
    branch and bound, and both ends at any radius for more examples.
    """
    conduct(
        Job(
            threat=threat,
            suite="quick",
            stages=None,
            fail_under=None,
            fail_under_proven=fail_under_proven,
            allow_audit_errors=False,
            audit=True,
            adapt=False,
            access=None,
            max_queries=None,
            price=None,
            certify=method,
            certify_seconds=seconds,
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
