"""attackbenchlib as the referee of our smallest changes: optimality against the envelope of everybody's, at 2,000 passes an image.

    python -m venv .peers && . .peers/bin/activate
    pip install torch==2.14.1 torchvision==0.29.1 "setuptools<80" foolbox torchattacks attackbenchlib numba
    pip install --no-deps adv-lib && pip install --no-build-isolation visdom && pip install -e .
    python benchmarks/referee.py --data-root ../shared --cache .cache/referee --n 200 --out benchmarks/results/referee.json

The referee wraps the net, counts every forward and backward, answers nothing past 2,000 of both an image, and remembers the smallest
success it has seen itself (AttackBench, Cina et al. 2024, arXiv:2404.19460). Optimality is its equation 5: with AUREC the area under
robust accuracy over the size of the change up to the largest in the envelope, and the envelope the smallest success of all attacks
below for each image, (AUREC without attack - AUREC of the attack) / (AUREC without attack - AUREC of the envelope).

Settings of the peers are those that attackbenchlib ships, where it ships any. Seconds are CPU time of one thread without the
referee's own, on a net whose batch norms are folded and whose weights are frozen, for all alike. Results of a peer are kept in `--cache`
by model, norm, peer and images, ours never. foolbox's BB needs half an hour a norm on a ResNet: `--peers adv-lib torchattacks FMN EAD`.
"""

import argparse
import hashlib
import json
import logging
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parent))
from reference import load_reference

import hauberk as hb
from hauberk.attacks import BoundarySlide, SparseSwap
from hauberk.threat import Access
from hauberk.victims.fold import fold_batch_norms

NORMS = {"linf": float("inf"), "l2": 2.0, "l1": 1.0, "l0": 0.0}
WANTED = {"linf": 0.976, "l2": 0.93, "l1": 0.94, "l0": 0.985}
BUDGET = 2000

Run = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Walled(nn.Module):
    """The net inside its box, with the gradient of the net alone.

    The referee's own box is a clamp, whose gradient is 0 at the walls from torch 2.14 on: most pixels of MNIST stand there, and no
    attack that follows gradients from the example could move them.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + (x.clamp(0, 1) - x).detach())


class Refereed:
    """The referee's net as a victim: every question goes through it, no copy is made."""

    name, classes, access, forwards_per_query = "refereed", 10, Access.GRADIENTS, 1
    bounds, device, dtype, notes = (0.0, 1.0), torch.device("cpu"), torch.float32, ()
    description: dict[str, Any] = {"kind": "refereed"}  # noqa: RUF012  # nobody writes it

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def fingerprint(self) -> str:
        return "refereed"

    def probe(self, x: Tensor) -> None:
        """Nothing to find out."""

    def left(self, rows: Tensor) -> Tensor:
        return torch.full_like(rows, 2**62)

    def labels(self, x: Tensor, rows: Tensor) -> Tensor:
        return self.logits(x, rows).argmax(dim=1)

    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return self.net(x)

    def pullback(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = self.net(leaf)
        return logits.detach(), lambda cotangent: torch.autograd.grad(logits, leaf, cotangent, retain_graph=True)[0]


def ours(norm: str) -> dict[str, Run]:
    """Our attacks: the specialist, the portfolio, and the portfolio that spends most of the budget."""

    def run(**settings: Any) -> Run:
        return lambda net, x, y: (
            hb.attacks.smallest(Refereed(net), x, y, norm, batch_size=len(x), **settings).adversarials
        )

    special = SparseSwap() if norm == "l0" else BoundarySlide()
    return {
        f"hauberk {'sparse_swap' if norm == 'l0' else 'boundary_slide'}": run(attacks=(special,)),
        "hauberk smallest": run(),
        "hauberk smallest, thorough": run(effort="thorough"),
    }


def peers(norm: str) -> dict[str, Run]:
    """Other libraries, as attackbenchlib calls them."""
    import adv_lib.attacks as adv  # pyright: ignore[reportMissingImports]
    import foolbox  # pyright: ignore[reportMissingImports]
    import torchattacks  # pyright: ignore[reportMissingImports]

    p = NORMS[norm]

    def fool(attack: Any) -> Run:
        return lambda net, x, y: attack(foolbox.PyTorchModel(net, bounds=(0, 1)), x, y, epsilons=None)[1]

    def walk(kind: str) -> Run:
        def run(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:  # built late: it needs numba
            first = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(directions=1000, steps=10)
            return fool(getattr(foolbox.attacks, kind)(init_attack=first, steps=1000))(net, x, y)

        return run

    def fab(name: str) -> Run:
        return lambda net, x, y: torchattacks.FAB(net, norm=name, eps=None, steps=100)(x, y)

    found: dict[str, dict[str, Run]] = {
        "linf": {
            "adv-lib FMN": lambda net, x, y: adv.fmn(net, x, y, norm=p, steps=1000, α_init=10),
            "adv-lib PDPGD": lambda net, x, y: adv.pdpgd(net, x, y, norm=p, num_steps=500),
            "torchattacks FAB": fab("Linf"),
            "foolbox FMN": fool(foolbox.attacks.LInfFMNAttack()),
            "foolbox BB": walk("LinfinityBrendelBethgeAttack"),
        },
        "l2": {
            "adv-lib DDN": lambda net, x, y: adv.ddn(net, x, y, steps=1000, levels=None),
            "adv-lib ALMA": lambda net, x, y: adv.alma(
                net, x, y, distance="l2", num_steps=1000, α=0.9, init_lr_distance=0.1
            ),
            "torchattacks FAB": fab("L2"),
            "foolbox FMN": fool(foolbox.attacks.L2FMNAttack()),
            "foolbox BB": walk("L2BrendelBethgeAttack"),
        },
        "l1": {
            "adv-lib PDPGD": lambda net, x, y: adv.pdpgd(net, x, y, norm=p, num_steps=500),
            "adv-lib ALMA": lambda net, x, y: adv.alma(
                net, x, y, distance="l1", num_steps=1000, α=0.9, init_lr_distance=0.5
            ),
            "torchattacks FAB": fab("L1"),
            "foolbox EAD": fool(
                foolbox.attacks.EADAttack(binary_search_steps=9, steps=1000, decision_rule="L1", abort_early=True)
            ),
            "foolbox FMN": fool(foolbox.attacks.L1FMNAttack()),
            "foolbox BB": walk("L1BrendelBethgeAttack"),
        },
        "l0": {
            "adv-lib sigma-zero": lambda net, x, y: adv.sigma_zero(net, x, y, num_steps=1000),
            "adv-lib FMN": lambda net, x, y: adv.fmn(net, x, y, norm=p, steps=1000, α_init=1),
            "adv-lib PDPGD": lambda net, x, y: adv.pdpgd(net, x, y, norm=p, num_steps=500, proximal_operator=23),
            "foolbox FMN": fool(foolbox.attacks.L0FMNAttack()),
            "foolbox BB": walk("L0BrendelBethgeAttack"),
        },
    }
    return found[norm]


def refereed(run: Run, net: nn.Module, x: Tensor, y: Tensor, norm: str, batch: int) -> dict[str, Any]:
    """One attack before the referee: sizes, passes and CPU seconds."""
    from attackbench.models import benchmodel_wrapper  # pyright: ignore[reportMissingImports]
    from attackbench.run import run_attack  # pyright: ignore[reportMissingImports]

    benchmodel_wrapper.time = types.SimpleNamespace(perf_counter=time.process_time)  # CPU, not wall
    torch.manual_seed(0)
    found = run_attack(
        # in training mode, torchattacks would leave the net in it
        benchmodel_wrapper.BenchModel(Walled(net), enforce_box=False).eval(),
        DataLoader(TensorDataset(x, y), batch_size=batch),
        lambda model, inputs, labels: run(model, inputs, labels),
        norm,
        device=torch.device("cpu"),
        query_budget=BUDGET,
        seed=0,
    )
    return {
        "sizes": found["distances"][norm],
        "forwards": float(np.mean(found["num_forwards"])),
        "backwards": float(np.mean(found["num_backwards"])),
        "seconds": float(sum(found["times"])),
        "failed_batches": int(sum(found["batch_failures"])),
        "correct": found["correct"],
    }


def main() -> int:
    """Run ours and the peers, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared"))
    parser.add_argument("--models", nargs="+", default=["mnist_std", "mnist_adv", "resnet20_cifar10"])
    parser.add_argument("--norms", nargs="+", default=list(NORMS), choices=list(NORMS))
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument(
        "--batch", type=int, default=25, help="images at once; the referee compares each with all of them"
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache/referee"))
    parser.add_argument("--peers", nargs="*", help="only peers whose name contains one of these words")
    parser.add_argument("--ours", nargs="*", help="only ours whose name contains one of these words")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--assert", dest="check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    args.cache.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for model in args.models:
        net, x, y, _ = load_reference(args.data_root, model, args.n)
        x, y = x[: args.n], y[: args.n]
        fold_batch_norms(net.eval().requires_grad_(requires_grad=False))
        images = hashlib.sha256(x.numpy().tobytes()).hexdigest()[:12]
        for norm in args.norms:
            results: dict[str, dict[str, Any]] = {}
            for name, run in peers(norm).items():
                if args.peers is not None and not any(word in name for word in args.peers):
                    continue
                place = args.cache / f"{model}-{norm}-{name.replace(' ', '_')}-{len(x)}-{images}.json"
                if not place.exists():
                    place.write_text(json.dumps(refereed(run, net, x, y, norm, args.batch)))
                results[name] = json.loads(place.read_text())
            for name, run in ours(norm).items():
                if args.ours is None or any(word in name for word in args.ours):
                    results[name] = refereed(run, net, x, y, norm, args.batch)
            rows += table(model, norm, results)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        kept = {"n": args.n, "budget": BUDGET, "torch": torch.__version__, "rows": rows}
        args.out.write_text(json.dumps(kept, indent=1) + "\n")
    short = [row for row in rows if row["best_of_ours"] and row["optimality"] < WANTED[row["norm"]]]
    for row in short:
        print(f"{row['model']} {row['norm']}: {row['optimality']:.4f}, wanted {WANTED[row['norm']]}")
    return 1 if args.check and short else 0


def table(model: str, norm: str, results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Print one line for each attack, and give the lines back."""
    from attackbench.metrics.distances import eval_optimality  # pyright: ignore[reportMissingImports]

    envelope = np.minimum.reduce([np.array(result["sizes"]) for result in results.values()])
    rows: list[dict[str, Any]] = []
    for name, result in results.items():
        sizes = np.array(result["sizes"])
        correct = np.array(result["correct"])
        rows.append(
            {
                "model": model,
                "norm": norm,
                "attack": name,
                "optimality": float(eval_optimality(sizes, envelope, float(correct.mean()))),
                "success": float(np.isfinite(sizes[correct]).mean()),
                "median": float(np.median(sizes[correct])),
                "smallest_of_all": float((sizes[correct] <= envelope[correct] * (1 + 1e-6)).mean()),
                "forwards": round(result["forwards"], 1),
                "backwards": round(result["backwards"], 1),
                "seconds": round(result["seconds"], 2),
                "failed_batches": result["failed_batches"],
            }
        )
    mine = [row for row in rows if row["attack"].startswith("hauberk")]
    best = max(mine, key=lambda row: row["optimality"], default=None)
    print(f"\n{model}, {norm}\n{'attack':30} optimality success  median  smallest forwards backwards  seconds")
    for row in sorted(rows, key=lambda row: -row["optimality"]):
        row["best_of_ours"] = row is best
        print(
            f"{row['attack']:30} {row['optimality']:10.4f} {row['success']:7.3f} {row['median']:8.4f} {row['smallest_of_all']:8.3f} "
            f"{row['forwards']:8.1f} {row['backwards']:9.1f} {row['seconds']:8.1f}"
            + (f"  {row['failed_batches']} batches failed" if row["failed_batches"] else ""),
            flush=True,
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
