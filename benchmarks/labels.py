"""How small the changes are that attacks with labels alone find within 300 to 10,000 queries.

    python benchmarks/labels.py --data-root ../shared --n 20

One torch thread; the first `--n` test pictures that the net classifies correctly, in one batch. Each attack runs once, with the largest
budget: what it had found by a smaller one is what it would have found with that, since no plan here looks at the budget. One line a
net, norm and attack: the median size for each budget, over all pictures (one that is not broken counts as infinitely far), the mean
for the largest, and the seconds. `--json` writes the same as JSON lines. `boundary_slide`, which has gradients, says what there is to find.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from reference import load_reference

import hauberk as hb
from hauberk._rng import Streams
from hauberk.attacks import CGBA, OPT, Attack, Boundary, BoundarySlide, GeoDA, HopSkipJump, RayS, SignOPT, SurFree
from hauberk.threat import Access, Ball, Norm, Untargeted
from hauberk.victims import Meter

BUDGETS = (300, 1000, 2000, 5000, 10_000)
ATTACKS: dict[str, Attack] = {
    "hop_skip_jump": HopSkipJump(steps=1000),
    "cgba": CGBA(steps=1000),
    "sign_opt": SignOPT(steps=1000),
    "geo_da": GeoDA(),
    "sur_free": SurFree(steps=100_000),
    "boundary": Boundary(steps=100_000),
    "opt": OPT(steps=1000),
    "ray_s": RayS(steps=100_000),
}


class Watched:
    """A victim that remembers the smallest success of each example within each budget; probes count, as they may be successes too."""

    forwards_per_query, notes, access = 1, (), Access.LABELS

    def __init__(self, victim: Any, x: Tensor, y: Tensor, norm: Norm, budgets: tuple[int, ...]) -> None:
        self.victim, self.x, self.y, self.norm, self.budgets = victim, x, y, norm, budgets
        self.name, self.bounds, self.device, self.dtype = victim.name, victim.bounds, victim.device, victim.dtype
        self.classes = victim.classes
        self.asked = torch.zeros(len(x), dtype=torch.int64)
        self.smallest = torch.full((len(budgets), len(x)), torch.inf)

    def left(self, rows: Tensor) -> Tensor:
        return self.victim.left(rows)

    def labels(self, z: Tensor, rows: Tensor) -> Tensor:
        labels = self.victim.labels(z, rows)
        self.asked.index_add_(0, rows, torch.ones_like(rows))
        size = torch.where(labels == self.y[rows], torch.inf, self.norm.size(z - self.x[rows]))
        for place, budget in enumerate(self.budgets):
            within = self.asked[rows] <= budget  # of several points of an example in one batch, all or none
            self.smallest[place].scatter_reduce_(0, rows[within], size[within], "amin")
        return labels


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared"))
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--models", nargs="+", default=["mnist_std", "resnet20_cifar10"])
    parser.add_argument("--norms", nargs="+", default=["l2", "linf"])
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--noise", help="for the attacks that draw probes, such as dct:14")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    budgets = tuple(sorted(args.budgets))
    for model in args.models:
        net, x, y, _ = load_reference(args.data_root, model, 2 * args.n + 40)
        with torch.inference_mode():
            right = net(x).argmax(dim=1) == y
        x, y = x[right][: args.n], y[right][: args.n]
        victim = hb.wrap(net)
        for norm in map(Norm, args.norms):
            slide = hb.attacks.boundary_slide(victim, x, y, str(norm), batch_size=64)
            sizes = slide.sizes.where(slide.broken, torch.inf)
            print(f"{model} {norm} {BoundarySlide.access}: boundary_slide {sizes.median():.4g}", flush=True)
            for name in args.attacks:
                attack = ATTACKS[name]
                if args.noise and hasattr(attack, "noise"):
                    attack = type(attack)(**{**vars(attack), "noise": args.noise})
                if norm in attack.norms:
                    line = {
                        "model": model,
                        "norm": str(norm),
                        "attack": name,
                        **measured(attack, victim, x, y, norm, budgets),
                    }
                    print(json.dumps(line) if args.json else shown(line, budgets), flush=True)
    return 0


def measured(attack: Attack, victim: Any, x: Tensor, y: Tensor, norm: Norm, budgets: tuple[int, ...]) -> dict[str, Any]:
    """The median size for each budget, and what it took."""
    watched = Watched(victim, x, y, norm, budgets)
    meter = Meter(watched, len(x), budget=budgets[-1])
    began = time.perf_counter()
    points = attack(meter, x, Untargeted(y), Ball(norm), streams=Streams(0, torch.arange(len(x)), "benchmark"))
    seconds = time.perf_counter() - began
    broken = victim.labels(points, torch.arange(len(x))) != y
    last = norm.size(points - x).where(broken, torch.inf)
    medians = [float(sizes.median()) for sizes in watched.smallest[:-1]] + [float(last.median())]
    return {
        "median": dict(zip(map(str, budgets), medians, strict=True)),
        "mean": float(last.mean()),
        "queries": float(meter.queries.double().mean()),
        "seconds": round(seconds, 1),
    }


def shown(line: dict[str, Any], budgets: tuple[int, ...]) -> str:
    """One line for people."""
    medians = "  ".join(f"{budget}: {line['median'][str(budget)]:.4g}" for budget in budgets)
    return f"  {line['attack']:14} {medians}  mean {line['mean']:.4g}  {line['seconds']:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
