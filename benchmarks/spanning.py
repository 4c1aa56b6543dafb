"""What the span of unlabelled data saves: success and queries of attacks as they are, and reinforced by it.

    python benchmarks/spanning.py --data-root ../shared

`mnist_std` on 50 test images, the span of 4,000 training images; `resnet20_cifar10` on 30, the span of 4,000. Each attack runs within a
radius and a limit of queries. Of each: success; mean queries over all images, those that stand with all they cost; and the queries within
which as many images break as the attack breaks as it is within its limit. The ratio is of these last. One torch thread, one seed. With
`--assert` the exit code says whether on MNIST the span halves the queries of at least two attacks at no lower success.
"""

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from reference import load_reference

import hauberk as hb
from hauberk import attacks as a
from hauberk.blocks.subspaces import Span

CASES: dict[str, tuple[int, tuple[int, ...], list[tuple[Any, str, int]]]] = {
    "mnist_std": (
        50,
        (50, 100, 200),
        [
            (a.NES(samples=20), "l2:2", 2000),
            (a.HopSkipJump(noise="white"), "l2:2", 2000),
            (a.Boundary(noise="white", steps=3000), "l2:2.5", 3000),
        ],
    ),
    "resnet20_cifar10": (
        30,
        (600, 1500),
        [(a.NES(samples=20), "l2:0.3", 1000), (a.HopSkipJump(noise="white"), "l2:0.3", 3000)],
    ),
}


def unlabelled(root: Path, model: str, count: int) -> Tensor:
    """Training images, in [0, 1]."""
    if model.startswith("mnist"):
        x = np.load(root / "data/mnist_train.npz")["images"][:count]
        return torch.tensor(x).reshape(-1, 1, 28, 28).float() / 255
    import pyarrow.parquet as pq
    from PIL import Image

    column = pq.read_table(root / "data/cifar10_train.parquet").slice(0, count).to_pydict()["image"]
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in column])
    return torch.tensor(pictures).permute(0, 3, 1, 2).float().contiguous() / 255


def main() -> int:
    """Measure and print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared"))
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--assert", dest="check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    halved = 0
    for model in args.only:
        n, sizes, cases = CASES[model]
        net, x, y, _ = load_reference(args.data_root, model, 2 * n)
        right = net(x).argmax(dim=1) == y
        x, y, victim = x[right][:n], y[right][:n], hb.wrap(net, bounds=(0, 1))
        data = unlabelled(args.data_root, model, 4000).to(x)
        for attack, threat, limit in cases:
            line: dict[str, Any] = {"model": model, "attack": a.name_of(attack), "threat": threat, "limit": limit}
            found = {"as it is": a.run_attack(attack, victim, x, y, threat, max_queries=limit, batch_size=n)}
            for size in sizes:
                wrapped: Any = a.Spanning(attack, Span.principal(data, size))
                found[f"top {size}"] = a.run_attack(wrapped, victim, x, y, threat, max_queries=limit, batch_size=n)
            plain = int(found["as it is"].broken.sum())
            for name, one in found.items():
                needed = sorted(one.queries[one.broken].tolist())
                same = needed[plain - 1] if plain and len(needed) >= plain else None
                line[name] = (round(one.success_rate, 3), round(one.queries.double().mean().item(), 1), same)
            known = [line[name][2] for name in list(found)[1:] if line[name][2] is not None]
            line["ratio"] = round(min(known) / line["as it is"][2], 3) if known and plain else None
            halved += model == "mnist_std" and line["ratio"] is not None and line["ratio"] <= 0.5
            print(json.dumps(line), flush=True)
    print(f"at most half of the queries for the same success on MNIST: {halved} attacks")
    return 0 if halved >= 2 or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
