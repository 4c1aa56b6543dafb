"""The command `hauberk` and its subcommands."""

from typing import Annotated

import typer

from hauberk.cli.attack import attack
from hauberk.cli.audit import audit
from hauberk.cli.certify import certify
from hauberk.cli.demo import demo
from hauberk.cli.evaluate import evaluate
from hauberk.cli.guard import Command, Group
from hauberk.cli.lists import show
from hauberk.cli.runs import compare, report
from hauberk.cli.serve import serve_model
from hauberk.cli.substitute import substitute
from hauberk.cli.train import train
from hauberk.cli.transfer import transfer
from hauberk.cli.verify import verify
from hauberk.cli.wire import over_http
from hauberk.cli.zoo import zoo

__all__ = ["app"]

_EPILOG = (
    "Exit codes: 0 done, 1 below the bar of --fail-under or --fail-under-proven, or not to be trusted (an error of the audit), 2 bad input, "
    "3 a defect of hauberk, 130 interrupted."
)

app = typer.Typer(
    name="hauberk",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"hauberk {version('hauberk')}")
        raise typer.Exit


@app.callback()
def _hauberk(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """How robust is a classifier, really? Attack it within what you allow, keep the evidence, read the report."""


for _name, _command in (
    ("evaluate", over_http(evaluate)),
    ("certify", certify),
    ("attack", over_http(attack)),
    ("audit", over_http(audit)),
    ("train", train),
    ("transfer", over_http(transfer)),
    ("substitute", over_http(substitute)),
    ("verify", verify),
    ("compare", compare),
    ("report", report),
    ("list", show),
    ("demo", demo),
    ("serve-model", serve_model),
):
    app.command(_name, cls=Command, epilog=_EPILOG if _name in ("evaluate", "certify", "audit") else None)(_command)

app.add_typer(zoo, name="zoo")
