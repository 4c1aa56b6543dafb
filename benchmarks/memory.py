"""Peak memory of an evaluation does not grow with the data: many examples against few, each in a process of its own.

    python benchmarks/memory.py [--many 100000] [--few 2000] [--limit 1.5]

Writes an npz of random 28x28 pictures to a temporary folder, evaluates a small convolutional net on it by the command line
(`--suite quick --stages 1`), and prints the peak resident memory of each process. Exits with 1 if the ratio is above the limit.

The process that measures stays small and writes the data in another: Linux counts the parent's memory at the start of a child
into the child's peak.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ARCHITECTURE = '''
"""A small convolutional net."""
from torch import nn


def net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 4, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10)
    )
'''
BLOCK = 10_000


def write(folder: Path, count: int) -> None:
    """A net and its architecture file, and `count` random pictures with the net's own labels, so that all are attacked."""
    import numpy as np
    import safetensors.torch
    import torch

    (folder / "small.py").write_text(ARCHITECTURE, encoding="utf-8")
    scope: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(ARCHITECTURE, scope)  # noqa: S102  # the text above
    torch.manual_seed(0)
    net = scope["net"]()
    safetensors.torch.save_file(net.state_dict(), folder / "small.safetensors")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8)
    with torch.no_grad():
        labels = [
            net(torch.from_numpy(part) / 255).argmax(dim=1) for part in np.array_split(images, -(-count // BLOCK))
        ]
    np.savez(folder / f"{count}.npz", images=images, labels=torch.cat(labels).numpy())


def peak(folder: Path, count: int, threat: str) -> tuple[float, float]:
    """Peak resident memory in MiB and wall seconds of one evaluation."""
    subprocess.run([sys.executable, __file__, "--write", str(folder), "--many", str(count)], check=True)
    command = [sys.executable, "-m", "hauberk", "evaluate", str(folder / "small.safetensors")]
    command += ["--arch", f"{folder / 'small.py'}:net", "--data", str(folder / f"{count}.npz"), "--threat", threat]
    command += ["--suite", "quick", "--stages", "1", "--threads", "1", "--out", str(folder / f"run-{count}")]
    began = time.monotonic()
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"the evaluation of {count} examples ended with {child.returncode}")
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return usage.ru_maxrss / scale, time.monotonic() - began


def main() -> int:
    """Measure both, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--few", type=int, default=2_000)
    parser.add_argument("--limit", type=float, default=1.5)
    parser.add_argument("--threat", default="linf:0.001", help="small, so that most examples stay; larger breaks more")
    parser.add_argument("--write", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write is not None:
        write(given.write, given.many)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peaks = []
        for count in (given.few, given.many):
            mebibytes, seconds = peak(folder, count, given.threat)
            peaks.append(mebibytes)
            print(f"{count:>8} examples: peak {mebibytes:.0f} MiB, {seconds:.1f} s", flush=True)
    ratio = peaks[1] / peaks[0]
    print(f"ratio {ratio:.2f} (limit {given.limit:g})")
    return int(ratio > given.limit)


if __name__ == "__main__":
    raise SystemExit(main())
