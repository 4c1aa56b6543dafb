"""`hauberk zoo train`: a net of the zoo made again from its recipe."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hauberk.cli.guard import Command, Stop
from hauberk.errors import SettingError
from hauberk.zoo.recipes import recipe_of
from hauberk.zoo.train import train as train_net

__all__ = ["zoo"]

zoo = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="The nets that come with hauberk.")


@zoo.callback()
def _zoo() -> None:
    """The nets that come with hauberk: make one again from its recipe."""


@zoo.command("train", cls=Command)
def train(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="See: hauberk list models.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", show_default=False, help="Where NAME.safetensors and NAME.json, its card, go."
        ),
    ],
    data_root: Annotated[
        Path,
        typer.Option("--data-root", metavar="DIR", help="The folder of mnist_train.npz, where the recipe needs it."),
    ] = Path("../shared/data"),
    seed: Annotated[int | None, typer.Option("--seed", metavar="S", help="The recipe's own if not given.")] = None,
    threads: Annotated[
        int, typer.Option("--threads", metavar="K", help="CPU threads; the weights belong to a number of them.")
    ] = 1,
    device: Annotated[str, typer.Option("--device", metavar="D", help="cpu, cuda or mps.")] = "cpu",
) -> None:
    """Train the net NAME of the zoo again, as its card says; the same bits on the same machine.

    Interrupted, the same command goes on where it was.
    """
    recipe_of(name.removeprefix("zoo:"))
    if threads < 1:
        raise SettingError(f"--threads is at least 1, got {threads}")
    try:
        train_net(
            name.removeprefix("zoo:"),
            data_root,
            out,
            seed=seed,
            threads=threads,
            device=device,
            progress=sys.stderr.isatty(),
        )
    except KeyboardInterrupt:
        raise Stop.interrupted("finished epochs are kept; the same command goes on from there") from None
