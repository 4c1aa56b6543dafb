"""The standard suite against AutoAttack's figures on the same models and examples: what is left, and at what cost.

    python benchmarks/standard_suite.py --data-root ../shared [--seeds 0,1,2] [--assert]

AutoAttack's stages, counts and seconds are read from `bench/autoattack_*.json` under the data root. Propagations are forwards
plus backwards an image; hauberk's include the clean pass, the judge and the audit. Seconds are of this machine, one thread.
With `--assert` the exit code says whether the first seed leaves at most the bar at no more than the allowed share of
AutoAttack's propagations.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from reference import load_reference

import hauberk as hb

# model -> (AutoAttack's file, images, robust accuracy to reach, share of AutoAttack's propagations allowed)
CASES = {
    "mnist_adv": ("bench/autoattack_mnist_adv.json", 512, 0.8653, 1 / 10),
    "resnet20_cifar10_adv": ("bench/autoattack_cifar_adv.json", 256, 0.3125, 1 / 8),
}


def main() -> int:
    """Evaluate, print one line per model and seed, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared"))
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--assert", dest="check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    good = True
    for name in args.models.split(","):
        file, n, bar, share = CASES[name]
        known = json.loads((args.data_root / file).read_text())
        theirs = known["forwards_per_image"] + known["backwards_per_image"]
        net, x, y, eps = load_reference(args.data_root, name, n)
        victim = hb.wrap(net)
        for attempt, seed in enumerate(map(int, args.seeds.split(","))):
            found = hb.evaluate(victim, (x, y), f"linf:{eps}", seed=seed, batch_size=args.batch_size)
            cost = found.result["cost"]
            ours = cost["forwards_per_example"] + cost["backwards_per_example"]
            line = {
                "model": name,
                "n": n,
                "seed": seed,
                "robust": found.robust_accuracy,
                "autoattack": known["stages"][-1]["robust"],
                "propagations": round(ours, 1),
                "share_of_autoattack": round(ours / theirs, 4),
                "seconds": round(cost["seconds"], 1),
                "autoattack_seconds": round(known["seconds"], 1),
                "broken_by_stage": [(attack["name"], attack["broken"]) for attack in found.result["attacks"]],
                "audit": [finding["id"] for finding in found.result["audit"]],
            }
            print(json.dumps(line), flush=True)
            if attempt == 0:
                good &= found.robust_accuracy <= bar and ours <= theirs * share
    print(f"within the bars: {good}")
    return 0 if good or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
