"""CLEVER scores of `mnist_std` against ART's `clever_u` on the same examples, in one run: CPU seconds an image, and the ratio.

    python -m venv .peers && . .peers/bin/activate
    pip install torch==2.14.1 torchvision==0.29.1 "setuptools<80" adversarial-robustness-toolbox && pip install -e .
    python benchmarks/clever_peers.py --data-root ../shared

One torch thread; untargeted, towards all nine other classes, the same radius, batches and samples. Ours is measured on the first `--n`
images in one call; ART, which takes one image at a time, on the first `--peer` of them that the net classifies correctly, and ours
on these alone too, in turns. CPU seconds are user time of the process. ART is asked twice:

- `equal points`: with a pool of batches * samples points, as many as ours draws, the gradients of which it then draws its batches from;
- `its own pool`: as it comes, with a pool of 10 * samples points whatever the batches, so that it computes batches / 10 times fewer
  gradients, and the maxima that are fitted repeat each other.

Also counted is on how many images the score exceeds the smallest change that an attack finds: CLEVER is an estimate, no bound.

Ratios hold within one run only. With `--assert` the exit code says whether ART at equal points takes at least `--least` times as long.
"""

import argparse
import json
import logging
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from pgd_peers import cpu_seconds
from reference import load_reference

import hauberk as hb
from hauberk._rng import Streams
from hauberk.certify.clever import Clever, CleverScores

RADII = {"l2": 3.0, "linf": 0.1, "l1": 30.0}
ORDERS = {"l2": 2, "linf": float("inf"), "l1": 1}


def main() -> int:
    """Measure, print one JSON line each, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default="mnist_std")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--peer", type=int, default=3)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--norms", nargs="+", default=["l2", "linf"], choices=list(RADII))
    parser.add_argument("--least", type=float, default=3.0)
    parser.add_argument("--assert", dest="check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002  # the peer draws from the global generator
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    net, x, y, _ = load_reference(args.data_root, args.model, args.n)
    chosen = (net(x).argmax(1) == y).nonzero().flatten()[: args.peer]
    good = True
    for norm in args.norms:
        ours(net, x[:1], y[:1], norm, args)  # warms up
        mine: list[float] = []
        equal: list[tuple[float, float]] = []
        pooled: list[tuple[float, float]] = []
        for i in chosen.tolist():
            mine.append(ours(net, x[[i]], y[[i]], norm, args)[1])
            equal.append(art(net, x[i], norm, args, pool=args.batches))
            pooled.append(art(net, x[i], norm, args, pool=10))
        found, seconds = ours(net, x, y, norm, args)
        fit = found.fit
        show(norm, "hauberk, all images", [seconds / args.n], found.score)
        print(
            f"{norm}: {float((found.score == 0).double().mean()):.1%} misclassified; of the fits "
            f"{float((~fit.fitted[found.score > 0]).double().mean()):.1%} without an upper end, "
            f"{float((fit.p_value[found.score > 0] < 0.05).double().mean()):.1%} poor"
        )
        attacked = hb.attacks.smallest(hb.wrap(net), x, y, norm, seed=0)
        above = int((found.score > attacked.sizes.cpu()).sum())
        print(f"{norm}: {above} of {args.n} scores exceed the smallest change found, by an attack, of that image")
        print(
            f"{norm}: median score {float(found.score.median()):.4g}, change found {float(attacked.sizes.median()):.4g}"
        )
        show(norm, "hauberk, one by one", mine, found.score[chosen])
        show(norm, "art, equal points", [each for each, _ in equal], torch.tensor([score for _, score in equal]))
        show(norm, "art, its own pool", [each for each, _ in pooled], torch.tensor([score for _, score in pooled]))
        for name, times in (("equal points", equal), ("its own pool", pooled)):
            theirs = statistics.median(each for each, _ in times)
            ratio = theirs / (seconds / args.n)
            print(
                f"{norm}: art with {name}: {ratio:.1f}x our time an image ({theirs / statistics.median(mine):.1f}x alone)"
            )
            good = good and (name != "equal points" or ratio >= args.least)
    print(f"art at equal points takes at least {args.least:g} times as long: {good}")
    return 0 if good or not args.check else 1


def ours(net: nn.Module, x: Tensor, y: Tensor, norm: str, args: Any) -> tuple[CleverScores, float]:
    """The scores, and the CPU seconds, the wrapping of the model included."""
    began = cpu_seconds()
    estimate = Clever(args.batches, args.samples, RADII[norm])
    found = estimate(hb.wrap(net), x, y, norm, streams=Streams(0, torch.arange(len(x))))
    return found, cpu_seconds() - began


def art(net: nn.Module, x: Tensor, norm: str, args: Any, pool: int) -> tuple[float, float]:
    """ART's CPU seconds and score for one image."""
    from art.estimators.classification import PyTorchClassifier  # pyright: ignore[reportMissingImports]
    from art.metrics import clever_u  # pyright: ignore[reportMissingImports]

    classifier = PyTorchClassifier(net, nn.CrossEntropyLoss(), tuple(x.shape), 10, clip_values=(0, 1))
    began = cpu_seconds()
    score = clever_u(
        classifier,
        x.numpy(),
        args.batches,
        args.samples,
        RADII[norm],
        ORDERS[norm],
        pool_factor=pool,
        verbose=False,
    )
    return cpu_seconds() - began, float(score)


def show(norm: str, name: str, seconds: list[float], scores: Tensor) -> None:
    """One line: CPU seconds an image, and scores."""
    line = {"norm": norm, "method": name, "cpu_seconds": round(statistics.median(seconds), 3)}
    spread = {"min": round(min(seconds), 3), "max": round(max(seconds), 3), "images": len(scores)}
    print(json.dumps(line | spread | {"scores": [round(float(score), 4) for score in scores[:5]]}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
