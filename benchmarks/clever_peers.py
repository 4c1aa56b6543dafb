"""CLEVER scores of `mnist_std` against ART's `clever_u` on the same examples, in one run: CPU seconds an image, and the ratio.

    python -m venv .peers && . .peers/bin/activate
    pip install torch==2.14.1 torchvision==0.29.1 "setuptools<80" adversarial-robustness-toolbox && pip install -e .
    python benchmarks/clever_peers.py --data-root ../shared --json docs/clever/speed.json
    python benchmarks/clever_peers.py --data-root ../shared --ends --json docs/clever/ends.json

One torch thread; untargeted, towards all nine other classes, the same radius, batches and samples. Each of `--repeats` rounds
measures ours on the first `--n` images in one call, then on the first `--peer` of them that the net classifies correctly one by one, and in
turns ART, which takes one image at a time, on these. CPU seconds are those of the process, user and system; medians of all rounds.

What is equal. Both draw batches * samples points for a class and take from each the gradient of the difference of two scores; both fit
`batches` maxima of `samples` gradient norms. ART computes that gradient as two, each by a forward and a backward of its own, on
points that it draws afresh for every class, and takes as many of them at once as its pool factor says: 4 passes a point and class. Ours
draws the points once for all classes: a forward a point, and a backward a point and class. ART is asked twice:

- `equal points`: with a pool of batches * samples points, as many as ours draws, the gradients of which it then draws its batches from;
- `its own pool`: as it comes, with a pool of 10 * samples points whatever the batches, so that it computes batches / 10 times fewer
  gradients, and the maxima that are fitted repeat each other.

With `--ends` nothing is timed: of the first `--n` images that the net classifies correctly, the radius that `hb.certify` proves, the
score, and the smallest change found (by `hb.certify` or `smallest`, the smaller), and how often they stand in that order. CLEVER
is an estimate, no bound: nothing forces it to. Its radius is the default, or, were a change larger than that, 5 % more than the largest.

Ratios hold within one run only. With `--assert` the exit code says whether ART at equal points takes at least `--least` times as long.
"""

import argparse
import json
import logging
import resource
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
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
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--norms", nargs="+", default=["l2", "linf"], choices=list(RADII))
    parser.add_argument("--ends", action="store_true")
    parser.add_argument("--json", type=Path, help="where to write all that was found")
    parser.add_argument("--least", type=float, default=3.0)
    parser.add_argument("--assert", dest="check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002  # the peer draws from the global generator
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    net, x, y, _ = load_reference(args.data_root, args.model, 2 * args.n)
    report: dict[str, Any] = {
        "model": args.model,
        "batches": args.batches,
        "samples": args.samples,
        "torch": torch.__version__,
        "cpu": cpu_name(),
    }
    good = True
    for norm in args.norms:
        report[norm] = ends(net, x, y, norm, args) if args.ends else speed(net, x[: args.n], y[: args.n], norm, args)
        good = good and (args.ends or report[norm]["equal points"]["ratio"] >= args.least)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report) + "\n")
    if not args.ends:
        print(f"art at equal points takes at least {args.least:g} times as long: {good}")
    return 0 if good or not args.check else 1


def speed(net: nn.Module, x: Tensor, y: Tensor, norm: str, args: Any) -> dict[str, Any]:
    """CPU seconds an image, ours and ART's in turns."""
    chosen = (net(x).argmax(1) == y).nonzero().flatten()[: args.peer]
    mine: list[float] = []
    together: list[float] = []
    peers: dict[str, list[float]] = {"equal points": [], "its own pool": []}
    pools = {"equal points": args.batches, "its own pool": 10}
    scores: dict[str, list[float]] = {name: [] for name in peers}
    ours(net, x[:1], y[:1], norm, args)  # warms up
    found = None
    for _ in range(args.repeats):
        found, seconds = ours(net, x, y, norm, args)
        together.append(seconds / len(x))
        for i in chosen.tolist():
            mine.append(ours(net, x[[i]], y[[i]], norm, args)[1])
            for name, times in peers.items():
                seconds, score = art(net, x[i], norm, args, pool=pools[name])
                times.append(seconds)
                scores[name].append(score)
    assert found is not None
    fit, sampled = found.fit, found.score > 0
    show(norm, "hauberk, all images", together, found.score)
    print(
        f"{norm}: {float((~sampled).double().mean()):.1%} misclassified; of the fits "
        f"{float((~fit.fitted[sampled]).double().mean()):.1%} without an upper end, "
        f"{float((fit.p_value[sampled] < 0.05).double().mean()):.1%} poor"
    )
    show(norm, "hauberk, one by one", mine, found.score[chosen])
    rest: dict[str, Any] = {}
    for name, times in peers.items():
        show(norm, f"art, {name}", times, torch.tensor(scores[name]))
        theirs = statistics.median(times)
        ratio, alone = theirs / statistics.median(together), theirs / statistics.median(mine)
        print(f"{norm}: art with {name}: {ratio:.1f}x our time an image ({alone:.1f}x alone)")
        rest[name] = {"cpu_seconds": times, "ratio": ratio, "ratio_alone": alone, "scores": scores[name]}
    return {"images": len(x), "radius": RADII[norm], "together": together, "one_by_one": mine} | rest


def ends(net: nn.Module, x: Tensor, y: Tensor, norm: str, args: Any) -> dict[str, Any]:
    """How often a score lies between what is proven and what is broken."""
    chosen = (net(x).argmax(1) == y).nonzero().flatten()[: args.n]
    x, y = x[chosen], y[chosen]
    proven = hb.certify(net, x, y, norm)
    attacked = hb.attacks.smallest(hb.wrap(net), x, y, norm, seed=0).sizes.cpu().double()
    lower, upper = proven.lower, proven.upper.minimum(attacked)
    radius = max(RADII[norm], 1.05 * float(upper.max()))
    found, _ = ours(net, x, y, norm, args, radius)
    above, below = found.score >= lower, found.score <= upper
    line = {
        "norm": norm,
        "images": len(x),
        "radius": radius,
        "proven <= score": float(above.double().mean()),
        "score <= attacked": float(below.double().mean()),
        "both": float((above & below).double().mean()),
        "median_proven": float(lower.median()),
        "median_score": float(found.score.median()),
        "median_attacked": float(upper.median()),
        "median_score_over_attacked": float((found.score / upper).median()),
        "largest_score_over_attacked": float((found.score / upper).max()),
        "smallest_score_over_proven": float((found.score / lower).min()),
        "smallest_was_smaller": int((attacked < proven.upper).sum()),
        "pairs_without_upper_end": float((~found.fit.fitted).double().mean()),
        "pairs_poor": float((found.fit.p_value < 0.05).double().mean()),
    }
    print(json.dumps(line), flush=True)
    return line | {"proven": lower.tolist(), "score": found.score.tolist(), "attacked": upper.tolist()}


def cpu_seconds() -> float:
    """User and system time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_name() -> str:
    """As the kernel tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def ours(
    net: nn.Module, x: Tensor, y: Tensor, norm: str, args: Any, radius: float | None = None
) -> tuple[CleverScores, float]:
    """The scores, and the CPU seconds, the wrapping of the model included."""
    began = cpu_seconds()
    estimate = Clever(args.batches, args.samples, radius or RADII[norm])
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
