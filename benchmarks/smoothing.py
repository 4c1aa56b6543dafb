"""Certified accuracy of smoothed MNIST nets over the L2 radius, for docs/smoothing.md.

    python benchmarks/smoothing.py --data-root ../shared/data --work .cache/smoothing [--n 200] [--draws 10000]

Each net of `ROWS` is the zoo's `mnist_cnn`, trained through `hauberk train` in `--work` where it is not there yet. Two tables are
printed: the curve of each net with its exact 95 % intervals, and what a wanted radius saves. Queries are an image's, the
choice of the class included; seconds are CPU time of one torch thread for all images, so only their ratios mean something.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

import hauberk as hb
from hauberk import data
from hauberk._rng import Streams
from hauberk.certify.smoothing import CertifiedAccuracy, Smoothing, certified_accuracy
from hauberk.cli.trained import open_training
from hauberk.victims import Meter, Victim

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
# what the net was trained on, and the noise it is smoothed with
ROWS = (
    ("natural", 0.25),
    ("gaussian:sigma=0.25", 0.25),
    ("gaussian:sigma=0.25,stability=2", 0.25),
    ("gaussian:sigma=0.5", 0.5),
)
WANTED = (("gaussian:sigma=0.25", 0.25, 0.5), ("gaussian:sigma=0.5", 0.5, 1.0))


def net(objective: str, epochs: int, data_root: Path, work: Path) -> Victim:
    """The net that was trained with this objective, trained now where it was not."""
    out = work / f"{objective.replace(':', '-').replace(',', '-')}-{epochs}"
    options = ["--arch", "zoo:mnist_cnn", "--data", str(data_root / "mnist_train.npz"), "--objective", objective]
    options += ["--epochs", str(epochs), "--seed", "0", "--threads", "1", "--quiet", "--out", str(out)]
    if not (out / "weights.safetensors").exists():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "hauberk", "train", *options], check=True, env=environment)
    return hb.wrap(open_training(out)[0], name=objective)


def main() -> None:
    """Train what is missing, certify, and print a line for each row as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path(".cache/smoothing"))
    parser.add_argument("--n", type=int, default=200, help="test images")
    parser.add_argument("--draws", type=int, default=10_000, help="noisy copies that vote on an image")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=200, help="rows asked about at once; the cache likes few")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    examples = data.load(args.data_root / "mnist_test.npz", n=args.n)
    chunk = next(iter(examples.chunks(args.n)))
    streams = Streams(0, torch.arange(args.n), "smoothing")
    columns: list[list[str]] = [["radius", *(f"{radius:g}" for radius in RADII), "abstained", "CPU s"]]
    curves: dict[tuple[str, float], CertifiedAccuracy] = {}
    for objective, sigma in ROWS:
        victim = net(objective, args.epochs, args.data_root, args.work)
        before = time.process_time()
        found = Smoothing(sigma, n=args.draws, batch=args.batch).certify(victim, chunk.x, streams=streams)
        seconds = time.process_time() - before
        curve = curves[objective, sigma] = certified_accuracy(found, chunk.y, RADII)
        cells = [
            f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            for value, low, high in zip(curve.value, curve.low, curve.high, strict=True)
        ]
        columns.append([f"`{objective}` at {sigma:g}", *cells, str(int((found.label == -1).sum())), f"{seconds:.0f}"])
        print(" | ".join(columns[-1]), file=sys.stderr, flush=True)
    print(f"{args.n} images, {args.draws} + 100 queries an image, alpha 0.001, {args.epochs} epochs of training\n")
    for line, row in enumerate(zip(*columns, strict=True)):
        print(f"| {' | '.join(row)} |" + (f"\n|---:|{'---|' * len(ROWS)}" if line == 0 else ""))
    print(
        "\n| objective | sigma | radius wanted | with stages | with all draws | mean queries | median queries | CPU s |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for objective, sigma, radius in WANTED:
        meter = Meter(net(objective, args.epochs, args.data_root, args.work), args.n)
        before = time.process_time()
        smoothing = Smoothing(sigma, n=args.draws, batch=args.batch, radius=radius)
        found = smoothing.certify(meter, chunk.x, streams=streams)
        seconds = time.process_time() - before
        share, full = certified_accuracy(found, chunk.y, [radius]).value[0], curves[objective, sigma]
        row = [f"`{objective}`", f"{sigma:g}", f"{radius:g}", f"{100 * share:.1f}"]
        row += [f"{100 * full.value[RADII.index(radius)]:.1f}", f"{meter.queries.double().mean().item():.0f}"]
        print(f"| {' | '.join([*row, f'{int(meter.queries.median())}', f'{seconds:.0f}'])} |", flush=True)


if __name__ == "__main__":
    main()
