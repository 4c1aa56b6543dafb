"""Measure a net of the zoo and fill in its card: `python -m hauberk.zoo.measure NAME --data-root ../shared/data`.

The accuracy on clean pictures is over all of the held-out data, the robust accuracy over its first N, through
`hauberk.evaluate.evaluate`, as a user would measure it. Rewrites NAME.json and the page README.md of all cards beside it.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from hauberk import data
from hauberk.errors import HauberkError
from hauberk.evaluate import clopper_pearson, evaluate
from hauberk.threat import ThreatModel
from hauberk.victims import Victim, wrap
from hauberk.zoo.cards import document, read_card, read_weights, shipped, write_card
from hauberk.zoo.recipes import RECIPES, held_out, recipe_of

__all__ = ["clean_accuracy", "main", "measure", "write_page"]


def clean_accuracy(victim: Victim, source: data.Source) -> dict[str, Any]:
    """The share of all examples of `source` that `victim` labels rightly, with its exact 95 % interval."""
    right = 0
    for chunk in source.chunks(512):
        x = chunk.x.to(victim.device, victim.dtype)
        right += int((victim.labels(x, chunk.ids).cpu() == chunk.y).sum())
    return clopper_pearson(right, len(source)).to_json()


def measure(
    name: str,
    root: Path,
    folder: Path,
    *,
    suite: str = "standard",
    n: int = 1000,
    seed: int = 0,
    threads: int = 1,
    out: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Fill in the card of `name` in `folder` and give it back.

    Args:
        name: a net of the zoo.
        root: the folder that holds `mnist_test.npz`.
        folder: where weights and card are.
        suite: of `hauberk.evaluate`.
        n: how many of the held-out examples are attacked; all of them where they are fewer.
        seed: of the attacks.
        threads: of torch.
        out: a run folder to keep, or None.
        progress: show a bar on the terminal.
    """
    torch.set_num_threads(threads)
    card, entry = read_card(name, folder), recipe_of(name)
    threat = entry.threat
    victim = wrap(read_weights(name, folder), bounds=(0.0, 1.0), output="logits", classes=10, name=name)
    source = held_out(name, root)
    n = min(n, len(source))
    clean = clean_accuracy(victim, source)
    result = evaluate(
        victim,
        source,
        threat,
        suite=suite,
        n=n,
        seed=seed,
        out=out,
        certify=entry.certify,
        sandwich=0,
        progress=progress,
    ).result
    card["measured"] = {
        "hauberk": result["hauberk"],
        "data": f"the first {len(source)} of digits" if source.name == "digits" else "the MNIST test set",
        "fingerprint": source.fingerprint(),
        "clean_accuracy": clean,
        "threat": result["threat"],
        "norm": ThreatModel.parse(threat).norm.value,
        "suite": suite,
        "n": n,
        "seed": seed,
        "radii": [{"radius": row["radius"], "robust_accuracy": row["robust_accuracy"]} for row in result["radii"]],
        "command": f"python -m hauberk.zoo.measure {name} --suite {suite} --n {n} --seed {seed} --threads {threads}",
    }
    write_card(card, folder)
    write_page(folder)
    return card


def write_page(folder: Path) -> None:
    """Write README.md from all the cards in `folder`."""
    cards = [read_card(name, folder) for name in RECIPES if (folder / f"{name}.json").exists()]
    (folder / "README.md").write_text(document(cards), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 when the card is filled in, 1 with one sentence when it is not."""
    parser = argparse.ArgumentParser(prog="python -m hauberk.zoo.measure", description="Measure a net of the zoo.")
    parser.add_argument("name", choices=[*RECIPES, "all"], metavar="NAME", help=", ".join([*RECIPES, "all"]))
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"), help="the folder of mnist_test.npz")
    parser.add_argument("--weights", type=Path, default=Path(str(shipped())), help="default: those in the package")
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="keep the run folders here")
    given = parser.parse_args(arguments)
    try:
        for name in RECIPES if given.name == "all" else [given.name]:
            card = measure(
                name,
                given.data_root,
                given.weights,
                suite=given.suite,
                n=given.n,
                seed=given.seed,
                threads=given.threads,
                out=None if given.out is None else given.out / name,
                progress=sys.stderr.isatty(),
            )
            measured = card["measured"]
            shown = ", ".join(
                f"{row['radius']:g}: {row['robust_accuracy']['upper']['value']:.4f}" for row in measured["radii"]
            )
            print(f"{name}: clean {measured['clean_accuracy']['value']:.4f}, robust at most {shown}")
    except HauberkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
