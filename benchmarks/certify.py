"""How much is proven, and how fast: `mnist_provable` at L-inf 0.1, and the tiers of bounds on it and on a net of two hidden layers.

    python benchmarks/certify.py --data-root ../shared [--n 10000] [--budget 600] [--assert]

One torch thread. Seconds are CPU seconds of this process; the reference figures of auto_LiRPA 0.7.1 on such a machine are .031 s an
example for CROWN on the convolutional net at batch 100, and .007 s on the fully connected one.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import hauberk as hb
from hauberk.bounds import Inputs, Ranges, lower_bounds, ranges_of
from hauberk.bounds.optimise import optimised
from hauberk.bounds.refine import refined
from hauberk.layered.fold import folded
from hauberk.layered.from_onnx import from_onnx
from hauberk.layered.from_torch import from_torch
from hauberk.layered.graph import Graph
from hauberk.layered.lower import lowered
from hauberk.threat import Ball, Norm
from hauberk.zoo.architectures import mnist_cnn

BATCH = 100


def provable(root: Path) -> nn.Module:
    """The published net."""
    net = mnist_cnn()
    net.load_state_dict(load_file(root / "models" / "mnist_provable.safetensors"))
    return net.eval()


def margins(y: Tensor, classes: int = 10) -> Tensor:
    """(B, classes - 1, classes)."""
    eye = torch.eye(classes)
    return torch.stack([torch.stack([eye[own] - eye[c] for c in range(classes) if c != own]) for own in y.tolist()])


def timed(graph: Graph, inputs: Inputs, spec: Tensor) -> dict[str, float]:
    """Seconds an example and mean least margin of each tier, on one batch."""
    found: dict[str, float] = {}

    def took(name: str, began: float, least: Tensor) -> None:
        found[f"{name} seconds"] = (time.process_time() - began) / len(spec)
        found[name] = least.amin(dim=1).mean().item()

    for name in ("ibp", "crown"):
        began = time.process_time()
        ranges = ranges_of(graph, inputs, name)
        least = lower_bounds(graph, ranges, spec)
        took(name, began, least)
    began = time.process_time()
    ranges = ranges_of(graph, inputs, "crown")
    took("output alpha", began, raised(graph, ranges, spec, 5))
    began = time.process_time()
    took("full alpha", began, raised(graph, refined(graph, ranges_of(graph, inputs, "crown")), spec, 20))
    return found


def raised(graph: Graph, ranges: Ranges, spec: Tensor, steps: int) -> Tensor:
    """Least margins with optimised slopes for the row of each example that is nearest to be open."""
    least = lower_bounds(graph, ranges, spec)
    rows = torch.arange(len(spec))
    worst = least.argmin(dim=1)
    better = optimised(graph, ranges, spec[rows, worst], steps=steps, rate=0.4, enough=torch.inf).lower
    least[rows, worst] = torch.maximum(least[rows, worst], better)
    return least


def main() -> None:
    """Measure, print, and with --assert hold the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, default=Path("../shared"))
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--budget", type=float, default=600.0)
    parser.add_argument("--assert", dest="held", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    root, net = options.data_root, provable(options.data_root)
    source = hb.data.load(root / "data" / "mnist_test.npz", n=options.n)
    chunks = list(source.chunks(options.n))
    x, y = torch.cat([c.x for c in chunks]), torch.cat([c.y for c in chunks])
    report: dict[str, object] = {}

    graph = lowered(folded(from_torch(net, x.shape[1:]).detach()))
    with torch.no_grad():
        right = graph(x[: 2 * BATCH]).argmax(dim=1) == y[: 2 * BATCH]
    few, own = x[: 2 * BATCH][right][:BATCH], y[: 2 * BATCH][right][:BATCH]
    timed(graph, Inputs.of(Ball(Norm.LINF, 0.1), few[:10]), margins(own[:10]))  # warm up
    report["conv"] = timed(graph, Inputs.of(Ball(Norm.LINF, 0.1), few), margins(own))
    dense = lowered(folded(from_onnx(root / "verify" / "mnistfc" / "mnist-net_256x2.onnx")))
    flat = few.reshape(BATCH, *dense.input_shape)
    with torch.no_grad():
        own = dense(flat).argmax(dim=1)
    report["256x2"] = timed(dense, Inputs.of(Ball(Norm.LINF, 0.03), flat), margins(own))
    for name in ("conv", "256x2"):
        print(name, {key: round(value, 4) for key, value in report[name].items()}, flush=True)  # type: ignore[attr-defined]

    for method in ("crown", "auto"):
        began = time.process_time()
        found = hb.certify(net, x, y, "linf:0.1", method=method, budget_seconds=options.budget)
        counts = Counter(found.status)
        report[method] = {
            "seconds": round(time.process_time() - began, 1),
            "certified error": 1 - found.certified_accuracy(0.1),
            "attacked error": (counts["misclassified"] + counts["broken"]) / len(x),
            "counts": dict(counts),
            "methods": dict(Counter(f"{s} by {m}" for s, m in zip(found.status, found.method, strict=True))),
        }
        print(method, report[method], flush=True)
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.held:
        conv, crown, auto = report["conv"], report["crown"], report["auto"]
        gain = conv["full alpha"] - conv["crown"]  # type: ignore[index]
        bars = {
            "CROWN on the conv net <= .03 s an example": conv["crown seconds"] <= 0.03,  # type: ignore[index]
            "CROWN on 256x2 <= .007 s an example": report["256x2"]["crown seconds"] <= 0.007,  # type: ignore[index]
            "output alpha <= 1.3 of CROWN": conv["output alpha seconds"] <= 1.3 * conv["crown seconds"],  # type: ignore[index]
            "output alpha gains half of full alpha": conv["output alpha"] - conv["crown"] >= gain / 2,  # type: ignore[index]
            "CROWN-certified error <= 5.4 %": crown["certified error"] <= 0.054,  # type: ignore[index]
            "in <= 6 minutes": crown["seconds"] <= 360,  # type: ignore[index]
            "gap <= .3 points": auto["certified error"] - auto["attacked error"] <= 0.003,  # type: ignore[index]
        }
        for text, held in bars.items():
            print("held  " if held else "MISSED", text)
        sys.exit(0 if all(bars.values()) else 1)


if __name__ == "__main__":
    main()
