"""The broken-defense bench: ten toy defenses, and nets that hide nothing.

    python benchmarks/broken.py [--data-root ../shared] [--n 100] [--only jpeg,noise] [--assert]

For each: clean accuracy; what a textbook PGD of 40 steps says (`hauberk.testing.broken.naive_pgd`); what hauberk says before it
adapts, and what its audit finds unasked; what it says adapted (`hauberk evaluate --adapt`, here `evaluate(adapt=True)`); seconds
of one thread. The honest nets are those of the zoo and, where the data root is there, the reference models.

With `--assert` the exit code says whether every defense fools the textbook (>= 60 %), is flagged, falls (<= 10 %) and takes at most
two minutes, and whether no honest net is flagged.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from reference import load_reference

import hauberk as hb
from hauberk.testing import broken

NAIVE, ADAPTED, SECONDS = 0.60, 0.10, 120.0
REFERENCES = ("mnist_adv", "mnist_provable", "resnet20_cifar10", "resnet20_cifar10_adv")
RADII = {"mnist_provable": 0.1}  # the radius it was trained for


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share that one look at the model gets right."""
    with torch.no_grad():
        return float((model(x).argmax(dim=1) == y).double().mean())


def flags(result: dict[str, Any]) -> list[str]:
    """The findings that warn of a wrong number; what is only worth knowing is left out."""
    return [finding["id"] for finding in result["audit"] if finding["severity"] != "info"]


def first_verdict(result: dict[str, Any]) -> float:
    """Robust accuracy before anything was adapted."""
    adapted = result.get("adapted")
    return (result if adapted is None else adapted["first"])["robust_accuracy"]["upper"]["value"]


def run_broken(name: str, n: int, suite: str, seed: int) -> list[str]:
    """Print the line of one defense; what is wrong with it."""
    began, cpu = time.perf_counter(), time.process_time()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # a defense that draws does so from the global generator, whoever asks it
        defense = broken.build(name, n=n, seed=seed)
        x, y = defense.data
        clean = accuracy(defense.model, x, y)
        naive = float(broken.naive_pgd(defense.model, x, y, defense.radius, seed=seed).double().mean())
        found = hb.evaluate(defense.model, (x, y), defense.threat, suite=suite, seed=seed, adapt=True)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    flagged = flags(found.result)
    print(
        f"| {name} | {defense.threat} | {clean:.1%} | {naive:.1%} | {first_verdict(found.result):.1%} | "
        f"{', '.join(flagged) or '-'} | {found.robust_accuracy:.1%} | {cpu:.0f} | {seconds:.0f} |",
        flush=True,
    )
    wrong = {
        f"the textbook says {naive:.1%}, expected >= {NAIVE:.0%}": naive < NAIVE,
        "not flagged": not flagged,
        f"the adapted verdict is {found.robust_accuracy:.1%}, expected <= {ADAPTED:.0%}": found.robust_accuracy
        > ADAPTED,
        f"took {cpu:.0f} CPU s, expected <= {SECONDS:.0f}": cpu > SECONDS,
    }
    return [f"{name}: {text}" for text, is_so in wrong.items() if is_so]


def honest_nets(root: Path, n: int) -> Iterator[tuple[str, nn.Module, Tensor, Tensor, float]]:
    """Name, net, held-out examples and radius of each net that hides nothing."""
    for name, net in broken.honest().items():
        source = hb.data.load("digits" if name.startswith("digits") else "mnist5k", n=n)
        chunk = next(iter(source.chunks(n)))
        yield name, net, chunk.x, chunk.y, 0.1 if name.startswith("digits") else 0.2
    if (root / "models").is_dir():
        for name in REFERENCES:
            net, x, y, radius = load_reference(root, name, n)
            yield name, net, x, y, RADII.get(name, radius)


def run_honest(name: str, net: nn.Module, x: Tensor, y: Tensor, radius: float, suite: str, seed: int) -> list[str]:
    """Print the line of one honest net; its false alarms."""
    cpu = time.process_time()
    found = hb.evaluate(net, (x, y), f"linf:{radius:g}", suite=suite, seed=seed)
    flagged = flags(found.result)
    print(
        f"| {name} | linf:{radius:.3g} | {found.clean_accuracy:.1%} | {found.robust_accuracy:.1%} | {', '.join(flagged) or '-'} | "
        f"{time.process_time() - cpu:.0f} |",
        flush=True,
    )
    return [f"{name}: false alarm {flag}" for flag in flagged]


def main() -> int:
    """Print both tables; 1 with `--assert` where something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared"))
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--suite", default="standard", help="what runs before anything is adapted")
    parser.add_argument("--only", help="names of defenses or nets, with commas; everything by default")
    parser.add_argument("--assert", dest="check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    only = None if args.only is None else set(args.only.split(","))
    wrong: list[str] = []
    print(
        f"| defense | threat | clean | textbook PGD-40 | {args.suite} suite | flagged unasked | adapted | CPU s | wall s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in broken.BROKEN:
        if only is None or name in only:
            wrong += run_broken(name, args.n, args.suite, args.seed)
    print(f"\n| honest net | threat | clean | {args.suite} suite | flagged | CPU s |\n|---|---|---|---|---|---|")
    for name, net, x, y, radius in honest_nets(args.data_root, args.n):
        if only is None or name in only:
            wrong += run_honest(name, net, x, y, radius, args.suite, args.seed)
    for line in wrong:
        print(line, file=sys.stderr)
    return int(args.check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
