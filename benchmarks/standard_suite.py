"""The standard suite against AutoAttack's figures on the same models and examples: what is left, and at what cost.

    python benchmarks/standard_suite.py --data-root ../shared [--seeds 0,1,2] [--assert] [--write docs/suites/standard.json]
    python docs/suites/render.py

AutoAttack's stages, counts and seconds are read from `bench/autoattack_*.json` under the data root. Propagations are forwards
plus backwards an image; hauberk's include the clean pass, the judge and the audit. Seconds are of this machine, one thread.

The curve says what is left when no image may cost more than a cap: where the cap stands at B, an image that broke after c
propagations has cost min(c, B), so that one run gives every point. The audit, which comes first, is in all of them.

With `--assert` the exit code says whether the first seed leaves at most what AutoAttack leaves, and the best known, each at no
more than the allowed share of AutoAttack's propagations. `--write` keeps the figures of the first seed, the others beside it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from reference import load_reference

import hauberk as hb
from hauberk.evaluate import Evaluation

# model -> (AutoAttack's file, images, images AutoAttack leaves and the share of its cost allowed, the same for the best known)
CASES = {
    "mnist_adv": ("bench/autoattack_mnist_adv.json", 512, ((443, 1 / 20), (441, 1 / 4))),
    "resnet20_cifar10_adv": ("bench/autoattack_cifar_adv.json", 256, ((79, 1 / 12),)),
}


def curve(found: Evaluation, n: int, spent: float) -> list[tuple[float, float]]:
    """(propagations an image, robust accuracy) wherever another image breaks, and at the end.

    Args:
        spent: propagations an image of the whole evaluation; what no row has was spent by the audit.
    """
    rows = found.run.rows.to_pylist()
    costs = [row["forwards"] + row["backwards"] for row in rows]
    audit = spent - sum(costs) / n
    standing = sum(row["status"] != "misclassified" for row in rows)
    points = [(audit + 1, standing / n)]
    for cap in sorted(cost for cost, row in zip(costs, rows, strict=True) if row["status"] == "broken"):
        standing -= 1
        points.append((audit + sum(min(cost, cap) for cost in costs) / n, standing / n))
    return [(round(at, 2), left) for at, left in (*points, (spent, standing / n))]


def cost_of(points: Sequence[tuple[float, float]], left: int, n: int) -> float | None:
    """The propagations at which no more than `left` images stand; None where more stand at the end."""
    return next((at for at, robust in points if round(robust * n) <= left), None)


def measure(root: Path, name: str, seeds: Sequence[int], batch_size: int) -> tuple[dict[str, Any], bool]:
    """Evaluate for each seed, print a line for each; the figures, and whether the first seed keeps within the bars."""
    file, n, bars = CASES[name]
    known = json.loads((root / file).read_text())
    theirs = known["forwards_per_image"] + known["backwards_per_image"]
    net, x, y, eps = load_reference(root, name, n)
    victim = hb.wrap(net)
    good, figures = True, {}
    for attempt, seed in enumerate(seeds):
        found = hb.evaluate(victim, (x, y), f"linf:{eps}", seed=seed, batch_size=batch_size)
        cost = found.result["cost"]
        ours = cost["forwards_per_example"] + cost["backwards_per_example"]
        points = curve(found, n, ours)
        reached = {left: cost_of(points, left, n) for left, _ in bars}
        line = {
            "model": name,
            "n": n,
            "seed": seed,
            "robust": round(found.robust_accuracy * n),
            "autoattack": round(known["stages"][-1]["robust"] * n),
            "propagations": round(ours, 1),
            "share_of_autoattack": round(ours / theirs, 4),
            "reached_at": reached,
            "seconds": round(cost["seconds"], 1),
            "autoattack_seconds": round(known["seconds"], 1),
            "broken_by_stage": [(attack["name"], attack["broken"]) for attack in found.result["attacks"]],
            "audit": [finding["id"] for finding in found.result["audit"]],
        }
        print(json.dumps(line), flush=True)
        if attempt == 0:
            good = all(at is not None and ours <= theirs * share for (_, share), at in zip(bars[:1], reached.values()))
            good &= all(at is not None and at <= theirs * share for (_, share), at in zip(bars, reached.values()))
            figures = {key: line[key] for key in ("n", "seed", "robust", "propagations", "broken_by_stage")}
            figures |= {"eps": eps, "curve": points, "seeds": {}, "best_known": round(known["best_known_robust"] * n)}
            figures["autoattack"] = stages(known, n)
        figures["seeds"][str(seed)] = {key: line[key] for key in ("robust", "propagations", "reached_at")}
    return figures, good


def stages(known: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """AutoAttack's stages: name, propagations an image up to its end, images left."""
    spent, found = 0.0, []
    for stage in known["stages"]:
        spent += (stage["forwards"] + stage["backwards"]) / n
        found.append({"name": stage["attack"], "propagations": round(spent, 1), "robust": round(stage["robust"] * n)})
    return found


def main() -> int:
    """Evaluate, print one line per model and seed, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared"))
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--assert", dest="check", action="store_true")
    parser.add_argument("--write", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    good, figures = True, {}
    for name in args.models.split(","):
        figures[name], within = measure(args.data_root, name, [*map(int, args.seeds.split(","))], args.batch_size)
        good &= within
    if args.write is not None:
        kept = json.loads(args.write.read_text(encoding="utf-8")) if args.write.exists() else {}
        args.write.write_text(json.dumps(kept | figures, indent=1) + "\n", encoding="utf-8")
    print(f"within the bars: {good}")
    return 0 if good or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
