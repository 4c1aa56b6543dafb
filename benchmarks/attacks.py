"""Time every attack on a net of the zoo: `python benchmarks/attacks.py [--model NAME] [--threat T] [--n N] [--repeats R] [--json FILE]`.

The rounds go through all attacks in turn, so that a busy minute of the machine falls on all of them. The table gives median
and range of the wall time beside exact counts, which do not depend on the machine, and next to `bare`: the cost of as many
plain forwards and backwards through the same net in batches of the same size. Load average and thread count are printed,
because without them a time means nothing. Compare times of one run only.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk import zoo
from hauberk.attacks import (
    BIM,
    FGSM,
    PGD,
    Attack,
    AttackResult,
    AutoConjugateGradient,
    AutoPGD,
    FrankWolfe,
    HoppingPGD,
    Momentum,
    MultiTargeted,
    Noise,
    Square,
    run_attack,
)
from hauberk.data import load
from hauberk.threat import ThreatModel
from hauberk.victims import Victim

__all__ = ["main"]

Timed = Callable[[], AttackResult | None]

ATTACKS: dict[str, Attack] = {
    "noise, 50 tries": Noise(tries=50),
    "fgsm": FGSM(),
    "bim, 20 steps": BIM(steps=20),
    "pgd, 20 steps": PGD(steps=20),
    "pgd, 20 steps, no early stop": PGD(steps=20, early_stop=False),
    "momentum, 20 steps": Momentum(steps=20),
    "frank_wolfe, 20 steps": FrankWolfe(steps=20),
    "multi_targeted, 3 targets": MultiTargeted(targets=3),
    "auto_conjugate_gradient, 50": AutoConjugateGradient(steps=50),
    "auto_pgd, 50 steps, dlr": AutoPGD(steps=50, loss="dlr"),
    "hopping_pgd, 4 restarts": HoppingPGD(restarts=4),
    "auto_pgd, 50 steps, 3 targets": AutoPGD(steps=50, loss="dlr", targets=3),
    "square, 500 steps": Square(steps=500),
}


def bare(net: nn.Module, x: Tensor, y: Tensor, times: int) -> Timed:
    """`times` forwards and backwards of the whole batch, nothing else."""
    frozen = net.eval().requires_grad_(False)

    def run() -> None:
        for _ in range(times):
            z = x.clone().requires_grad_()
            torch.autograd.grad(F.cross_entropy(frozen(z), y), z)

    return run


def whole(attack: Attack, victim: Victim, x: Tensor, y: Tensor, threat: ThreatModel) -> Timed:
    """One attack on all examples as one batch."""
    return lambda: run_attack(attack, victim, x, y, threat, seed=0, batch_size=len(x))


def measure(calls: dict[str, Timed], repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds of each call in each round, after one round that warms up and gives the counts."""
    table: dict[str, dict[str, Any]] = {}
    for label, call in calls.items():
        found = call()
        table[label] = {"seconds": []}
        if found is not None:
            table[label] |= {
                "broken": int(found.broken.sum()),
                "forwards_per_example": found.forwards.double().mean().item(),
                "backwards_per_example": found.backwards.double().mean().item(),
            }
    for _ in range(repeats):
        for label, call in calls.items():
            begun = time.perf_counter()
            call()
            table[label]["seconds"].append(time.perf_counter() - begun)
    return table


def show(table: dict[str, dict[str, Any]], n: int) -> None:
    """The table as text."""
    print(
        f"{'':32}{'broken':>8}{'forwards':>10}{'backwards':>10}{'median s':>10}{'min':>8}{'max':>8}{'ms/example':>12}"
    )
    for label, row in table.items():
        counts = "".join(
            f"{row[key]:{width}}" if key in row else " " * int(width.split(".")[0])
            for key, width in (
                ("broken", "8"),
                ("forwards_per_example", "10.1f"),
                ("backwards_per_example", "10.1f"),
            )
        )
        seconds = row["seconds"]
        middle = statistics.median(seconds)
        print(f"{label:32}{counts}{middle:10.3f}{min(seconds):8.3f}{max(seconds):8.3f}{1000 * middle / n:12.2f}")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="Time every attack on a net of the zoo.")
    parser.add_argument("--model", default="mnist-fgsm-rs", choices=list(zoo.names()))
    parser.add_argument("--data", default=None, help="default: the data that the model was trained for")
    parser.add_argument("--threat", default="linf:0.1")
    parser.add_argument("--n", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    threat = ThreatModel.parse(given.threat)
    source = load(given.data or ("digits" if given.model.startswith("digits") else "mnist5k"), n=given.n)
    chunk = next(iter(source.chunks(given.n)))
    victim = zoo.load(given.model)
    calls: dict[str, Timed] = {"bare, 20 forwards and backwards": bare(zoo.net(given.model), chunk.x, chunk.y, 20)}
    for label, attack in ATTACKS.items():
        if threat.norm in attack.norms:
            calls[label] = whole(attack, victim, chunk.x, chunk.y, threat)
    table = measure(calls, given.repeats)
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    setting = {
        "model": given.model,
        "data": source.name,
        "threat": str(threat),
        "n": given.n,
        "repeats": given.repeats,
        "threads": given.threads,
        "load": load_average,
        "torch": torch.__version__,
        "machine": platform.platform(),
        "hauberk": version("hauberk"),
    }
    print(", ".join(f"{key} {value}" for key, value in setting.items()))
    show(table, given.n)
    if given.json is not None:
        given.json.write_text(json.dumps({**setting, "table": table}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
