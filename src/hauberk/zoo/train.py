"""Train a net of the zoo: `python -m hauberk.zoo.train NAME --data-root ../shared/data --out DIR`.

Writes NAME.safetensors and NAME.json (the card) into DIR. The same command gives the same bits on the same machine. It keeps
checkpoints in DIR/NAME.training while it runs; killed, the same command goes on where it was.
"""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save

from hauberk.errors import HauberkError
from hauberk.train import fit, initialise
from hauberk.zoo.cards import new_card, read_card, write_card
from hauberk.zoo.recipes import RECIPES, recipe_of

__all__ = ["main", "train"]


def train(
    name: str,
    root: Path,
    out: Path,
    *,
    seed: int | None = None,
    threads: int = 1,
    device: str = "cpu",
    progress: bool = False,
) -> Path:
    """Train `name`, write weights and card into `out`, and give the path of the weights.

    Args:
        name: a net of the zoo.
        root: the folder that holds `mnist_train.npz`.
        out: where to write.
        seed: of weights, order and draws; the recipe's own by default.
        threads: of torch; a result belongs to a number of threads.
        device: where to train.
        progress: show a bar on the terminal.
    """
    entry = recipe_of(name)
    recipe = entry.recipe if seed is None else replace(entry.recipe, seed=seed)
    torch.set_num_threads(threads)
    examples, account = entry.training(root)
    print(
        f"{name}: {account['used']:,} of {account['available']:,} examples; {account['removed']:,} removed; held out: {account['held_out']}"
    )
    net = initialise(entry.make, seed=recipe.seed)
    keep = out / f"{name}.training"
    fitted = fit(net, examples, entry.objective, recipe, device=device, out=keep, progress=progress)
    for epoch in fitted.epochs:
        print(
            f"epoch {epoch.epoch:3d}  loss {epoch.loss:.4f}  accuracy while training {epoch.accuracy:.4f}  {epoch.seconds:.0f} s"
        )
    weights = save({key: value.detach().cpu().contiguous() for key, value in fitted.net.state_dict().items()})
    path = out / f"{name}.safetensors"
    path.write_bytes(weights)
    card = new_card(name, fitted, weights, account, seed=recipe.seed, threads=threads, device=device)
    write_card(card, out)
    shutil.rmtree(keep)
    print(f"wrote {path}, SHA-256 {card['weights']['sha256']}")
    return path


def _shipped_digest(name: str) -> str | None:
    """The SHA-256 of the weights in the package; None where there are none yet."""
    try:
        return read_card(name)["weights"]["sha256"]
    except HauberkError:
        return None


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 when the weights are written, 1 with one sentence when they are not."""
    parser = argparse.ArgumentParser(prog="python -m hauberk.zoo.train", description="Train a net of the zoo.")
    parser.add_argument("name", choices=[*RECIPES, "all"], metavar="NAME", help=", ".join([*RECIPES, "all"]))
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"), help="the folder of mnist_train.npz")
    parser.add_argument("--out", type=Path, required=True, help="where weights and card go")
    parser.add_argument("--seed", type=int, help="default: the recipe's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    try:
        for name in RECIPES if given.name == "all" else [given.name]:
            before = _shipped_digest(name)  # first, as --out may be the package's own folder
            path = train(
                name,
                given.data_root,
                given.out,
                seed=given.seed,
                threads=given.threads,
                device=given.device,
                progress=sys.stderr.isatty(),
            )
            if before is not None:
                same = before == read_card(name, path.parent)["weights"]["sha256"]
                print(f"bit-equal to the weights shipped before: {'yes' if same else 'no'}")
    except HauberkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
