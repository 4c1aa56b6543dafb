"""The smallest changes on `mnist_std` against adversarial-library and foolbox on the same examples, in one run.

    python -m venv .peers && . .peers/bin/activate
    pip install torch==2.14.1 torchvision==0.29.1 "setuptools<80" foolbox && pip install --no-deps adv-lib
    pip install --no-build-isolation visdom && pip install -e .
    python benchmarks/smallest_peers.py --data-root ../shared

One torch thread, the first `--n` test images. CPU seconds are user time of the process; forwards and backwards an image are counted
by hooks for the peers and by hauberk's meter for ours. Median and mean are over the images that the net classifies correctly, all of
them: one that an attack does not break counts as infinitely far. The net itself judges every point. Ratios hold within one run only.
foolbox's C&W takes minutes: `--slow`.

With `--assert` the exit code says whether in each norm the specialist and `smallest` find a median no larger than every peer's, on
every image, in at most half the CPU time of the peer with the smallest median.
"""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from pgd_peers import Counted, cpu_seconds
from reference import load_reference

import hauberk as hb

NORMS = {"linf": float("inf"), "l2": 2.0, "l1": 1.0, "l0": 0.0}


def main() -> int:
    """Measure, print one JSON line each, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default="mnist_std")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--norms", nargs="+", default=list(NORMS), choices=list(NORMS))
    parser.add_argument("--published", action="store_true", help="our versions of the published attacks too")
    parser.add_argument("--slow", action="store_true", help="foolbox's C&W too")
    parser.add_argument("--assert", dest="check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # the peers draw from the global generators
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    net, x, y, _ = load_reference(args.data_root, args.model, args.n)
    victim = hb.wrap(net)
    hb.attacks.fgsm(victim, x, y, "linf:0.1")  # the first answers settle what the victim is
    good = True
    for norm in args.norms:
        lines = [ours(name, run, net, x, y, norm) for name, run in attacks(victim, x, y, norm, args.published).items()]
        rivals = [peer(name, run, net, x, y, norm) for name, run in peers(norm, args.slow).items()]
        for line in lines + rivals:
            print(json.dumps({"norm": norm} | line), flush=True)
        best = min(rivals, key=lambda line: line["median"])
        for line in lines[:2]:
            strong = all(line["median"] <= rival["median"] for rival in rivals) and line["success"] == 1
            fast = line["cpu_seconds"] <= best["cpu_seconds"] / 2
            good &= strong and fast
            print(
                f"{norm}: {line['attack']} {line['median']:.5g} against {best['attack']} {best['median']:.5g}, "
                f"{best['cpu_seconds'] / line['cpu_seconds']:.1f}x faster: {'yes' if strong and fast else 'NO'}"
            )
    print(f"no larger than any peer's, on every image, in at most half the best peer's time: {good}")
    return 0 if good or not args.check else 1


def attacks(victim: Any, x: Tensor, y: Tensor, norm: str, published: bool) -> dict[str, Callable[[], Any]]:
    """Ours: the specialist, the portfolio and, if wanted, the published attacks with the peers' settings."""
    a, n = hb.attacks, len(x)
    special = a.sparse_swap if norm == "l0" else a.boundary_slide
    found: dict[str, Callable[[], Any]] = {
        special.__name__: lambda: special(victim, x, y, norm, batch_size=n),
        "smallest": lambda: a.smallest(victim, x, y, norm, batch_size=n),
    }
    if published:
        steps = {"ddn": 1000, "alma": 1000, "fmn": 1000, "pdpgd": 500, "sigma_zero": 1000}
        for name in {"linf": ("fmn", "pdpgd"), "l2": ("ddn", "alma", "fmn"), "l1": ("pdpgd", "alma", "fmn")}.get(
            norm, ("sigma_zero", "fmn")
        ):
            run = getattr(a, name)
            found[name] = lambda run=run, name=name: run(victim, x, y, norm, steps=steps[name], batch_size=n)
    return found


def peers(norm: str, slow: bool) -> dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]]:
    """Other libraries, which live in an environment of their own; settings as in the issue's measurements."""
    import adv_lib.attacks as adv  # pyright: ignore[reportMissingImports]

    p = NORMS[norm]
    found: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {}
    if norm == "linf":
        found["adv-lib FMN-1000"] = lambda net, x, y: adv.fmn(net, x, y, norm=p, steps=1000)
        found["adv-lib PDPGD-500"] = lambda net, x, y: adv.pdpgd(net, x, y, norm=p)
    elif norm == "l2":
        found["adv-lib ALMA-1000"] = lambda net, x, y: adv.alma(net, x, y, distance="l2", num_steps=1000)
        found["adv-lib DDN-1000"] = lambda net, x, y: adv.ddn(net, x, y, steps=1000, levels=None)
        found["adv-lib FMN-1000"] = lambda net, x, y: adv.fmn(net, x, y, norm=p, steps=1000)
        if slow:
            import foolbox  # pyright: ignore[reportMissingImports]

            found["foolbox C&W 9x1000"] = lambda net, x, y: foolbox.attacks.L2CarliniWagnerAttack()(
                foolbox.PyTorchModel(net.eval(), bounds=(0, 1)), x, y, epsilons=None
            )[1]
    elif norm == "l1":
        found["adv-lib PDPGD-500"] = lambda net, x, y: adv.pdpgd(net, x, y, norm=p)
        found["adv-lib ALMA-1000"] = lambda net, x, y: adv.alma(
            net, x, y, distance="l1", num_steps=1000, init_lr_distance=0.5
        )
        found["adv-lib FMN-1000"] = lambda net, x, y: adv.fmn(net, x, y, norm=p, steps=1000)
    else:
        found["adv-lib sigma-zero-1000"] = lambda net, x, y: adv.sigma_zero(net, x, y)
        found["adv-lib FMN-1000"] = lambda net, x, y: adv.fmn(net, x, y, norm=p, steps=1000)
    return found


def ours(name: str, run: Callable[[], Any], net: nn.Module, x: Tensor, y: Tensor, norm: str) -> dict[str, Any]:
    """One of hauberk's attacks, measured."""
    began = cpu_seconds()
    result = run()
    spent = cpu_seconds() - began
    counts = {key: round(getattr(result, key).double().mean().item(), 1) for key in ("forwards", "backwards")}
    return {"attack": name, **judged(net, result.adversarials, x, y, norm), **counts, "cpu_seconds": round(spent, 3)}


def peer(
    name: str, run: Callable[[nn.Module, Tensor, Tensor], Tensor], net: nn.Module, x: Tensor, y: Tensor, norm: str
) -> dict[str, Any]:
    """A peer's attack, measured on a net that counts."""
    counted = Counted(net)
    began = cpu_seconds()
    z = run(counted, x, y)
    spent = cpu_seconds() - began
    counts = {"forwards": round(counted.forwards / len(x), 1), "backwards": round(counted.backwards / len(x), 1)}
    return {"attack": name, **judged(net, z, x, y, norm), **counts, "cpu_seconds": round(spent, 3)}


def judged(net: nn.Module, z: Tensor, x: Tensor, y: Tensor, norm: str) -> dict[str, float]:
    """Median, mean and success over the images that are classified correctly, by the word of the net itself."""
    with torch.no_grad():
        correct = net(x).argmax(dim=1) == y
        broken = net(z).argmax(dim=1) != y
    change = (z - x).flatten(1).double()
    sizes = change.ne(0).sum(dim=1).double() if norm == "l0" else change.norm(p=NORMS[norm], dim=1)
    sizes = torch.where(broken, sizes, torch.inf)[correct]
    return {
        "median": round(sizes.median().item(), 6),
        "mean": round(sizes[sizes.isfinite()].mean().item(), 6),
        "success": round(broken[correct].double().mean().item(), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
