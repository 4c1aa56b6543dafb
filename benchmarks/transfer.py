"""How well points transfer, and what a substitute costs: the tables of docs/transfer.md.

    python benchmarks/transfer.py [--n 200] [--data-root ../shared]

Points are crafted on each of three nets and judged on the other two (`hauberk.evaluate.transfer`): on scikit-learn's digits a
convolutional net, a dense one and `digits-mlp`; on MNIST (`mnist5k`) a convolutional net, a dense one and `mnist-natural`. Two of
each three are trained here, in seconds; on CIFAR-10, where the data root is there, the reference `resnet20_cifar10` and a small
convolutional net trained on 8,000 pictures. Copies are few, so that the table takes minutes on one core. Then substitutes of
`digits-mlp`, by method and queries.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from reference import load_reference

from hauberk import data, zoo
from hauberk.attacks import PGD, Attack, Momentum, Transfer
from hauberk.evaluate.substitute import substitute
from hauberk.evaluate.transfer import transfer_matrix
from hauberk.train import Examples, Flip, Natural, Recipe, collect, fit, initialise
from hauberk.victims import ensemble, wrap


def dense(inputs: int) -> nn.Module:
    """Two hidden layers."""
    layers = [nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def convolutional(side: int) -> nn.Module:
    """Two convolutions."""
    first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
    last = nn.Linear(32 * (side // 4) ** 2, 10)
    return nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), last)


def nets(held: int, name: str, side: int, epochs: int) -> tuple[dict[str, Any], Examples]:
    """Three victims, and the examples that none of the two trained here has seen."""
    whole = collect(data.load(name))
    order = torch.arange(len(whole)) if name == "digits" else torch.randperm(len(whole), generator=_generator())
    training = whole.take(order[500:])
    made: dict[str, Any] = {}
    for seed, make in enumerate((lambda: convolutional(side), lambda: dense(side**2)), 1):
        net = fit(initialise(make, seed=seed), training, Natural(), Recipe(epochs=epochs, seed=seed)).net
        made["conv" if seed == 1 else "dense"] = wrap(net, name="conv" if seed == 1 else "dense")
    made["zoo"] = zoo.load("digits-mlp" if name == "digits" else "mnist-natural")
    return made, whole.take(order[:held])


def colour(held: int, root: Path) -> tuple[dict[str, Any], Examples]:
    """ResNet-20 and a net of three convolutions, and test pictures of CIFAR-10."""
    import pyarrow.parquet as pq
    from PIL import Image

    reference, x, y, _ = load_reference(root, "resnet20_cifar10", held)
    table = pq.read_table(root / "data/cifar10_train.parquet").slice(0, 8000).to_pydict()
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"]])
    training = torch.tensor(pictures).permute(0, 3, 1, 2).float().contiguous() / 255, torch.tensor(table["label"])

    def small() -> nn.Module:
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 96)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, 10))

    recipe = Recipe(epochs=8, batch_size=64, seed=1, augment=(Flip(),))
    net = fit(initialise(small, seed=1), training, Natural(), recipe).net
    return {"resnet": wrap(reference, name="resnet"), "conv": wrap(net, name="conv")}, Examples(
        x, y, torch.arange(len(x))
    )


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def attacks(step: float, pool: str) -> dict[str, Attack]:
    """What is compared: one part at a time over MI, and a few together."""

    def make(*inputs: str, ti: bool = False, variance: int = 0, **settings: Any) -> Transfer:
        return Transfer(inputs=inputs, gradients=("ti",) if ti else (), variance=variance, **settings)

    return {
        "`pgd`, 10 steps from the example": PGD(steps=10, step_size=step, start="clean", early_stop=False),
        "`pgd`, the same, stopping early": PGD(steps=10, step_size=step, start="clean"),
        "MI (`momentum`)": Momentum(steps=10, early_stop=False),
        "NI": make(look_ahead=True),
        "DI": make("di"),
        "SI": make("si"),
        "TI": make(ti=True),
        "Admix": make(f"admix:pool={pool}", "si"),
        "SSA, 5 copies": make("ssa:copies=5"),
        "BSR, 5 copies": make("bsr:copies=5"),
        "VMI, 5 neighbours": make(variance=5),
        "PGN, 5 pairs": make(penalty=5),
        "DI, SI, TI": make("di", "si", ti=True),
        "VMI, TI (the default)": Transfer(),
        "PGN, TI": make(ti=True, penalty=5),
    }


def table(n: int, root: Path | None) -> None:
    """Mean success on the crafting model and on the others, and the cost."""
    bench = [
        ("digits, `linf:0.15`", nets(n, "digits", 8, 15), 0.15, "digits"),
        ("MNIST, `linf:0.2`", nets(n, "mnist5k", 28, 6), 0.2, "mnist5k"),
    ]
    if root is not None:
        bench.append(("CIFAR-10, `linf:8/255`", colour(n, root), 8 / 255, ""))
    print("| | " + "".join(f"{name}: own | others | " for name, *_ in bench) + "backwards | seconds |")
    print("|---" * (2 * len(bench) + 3) + "|")
    for place, name in enumerate(attacks(0.1, "digits")):
        cells: list[str] = []
        cost, began = 0.0, time.perf_counter()
        for _, (victims, held), radius, pool in bench:
            attack = list(attacks(radius / 10, pool or "digits").values())[place]
            if name == "Admix" and not pool:
                cells += ["–", "–"]  # no pool of such pictures is at hand
                continue
            found = transfer_matrix(victims, held.x, held.y, f"linf:{radius}", attack=attack)
            own = [float(found.success[row, row]) for row in range(len(victims))]
            cells += [f"{100 * sum(own) / len(own):.1f} %", f"{100 * (found.transferred or 0.0):.1f} %"]
            cost = float(found.backwards.mean())
        print(f"| {name} | {' | '.join(cells)} | {cost:.0f} | {time.perf_counter() - began:.1f} |", flush=True)
    print()
    victims, held = bench[0][1]
    print("| crafted with VMI, TI on two of the digits nets, judged on the third | mean success |")
    print("|---|---|")
    for combine in ("logits", "probabilities", "loss"):
        each: list[float] = []
        for target in victims:
            pair = ensemble([victim for key, victim in victims.items() if key != target], combine=combine)
            attack = Transfer(inputs=(), variance=5)
            found = transfer_matrix([pair, victims[target]], held.x, held.y, "linf:0.15", attack=attack)
            each.append(float(found.success[0, 1]))
        print(f'| `combine="{combine}"` | {100 * sum(each) / len(each):.1f} % |', flush=True)
    print()


def substitutes() -> None:
    """Agreement and transfer by method and queries."""
    x, victim = collect(data.load("digits")).x, zoo.load("digits-mlp")
    seeds, pool, held = x[500:600], x[600:], x[:400]
    ways: dict[str, dict[str, Any]] = {
        "`jacobian`": {"method": "jacobian"},
        "`active`": {"method": "active"},
        "`knockoff`, a pool": {"method": "knockoff", "pool": pool},
        "`active`, a pool": {"method": "active", "pool": pool},
    }
    marks = (100, 200, 400, 800)
    print("| | " + " | ".join(f"{count} queries" for count in marks) + " | seconds |")
    print("|---" * (len(marks) + 2) + "|")
    make: Callable[[], nn.Module] = lambda: dense(64)  # noqa: E731  # a factory, as a user would give it
    for name, options in ways.items():
        began = time.perf_counter()
        found = substitute(victim, seeds, make, queries=marks[-1], held_out=held, threat="linf:0.15", **options)
        cells = [
            f"{100 * one.agreement.value:.0f} %, {100 * one.transferred.value:.0f} %"
            for one in found.rounds
            if one.queries in marks and one.agreement is not None and one.transferred is not None
        ]
        print(f"| {name} | " + " | ".join(cells) + f" | {time.perf_counter() - began:.1f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="examples of each data set")
    parser.add_argument("--data-root", type=Path, help="the folder of the reference models, for CIFAR-10")
    given = parser.parse_args()
    torch.set_num_threads(1)
    table(given.n, given.data_root)
    substitutes()
