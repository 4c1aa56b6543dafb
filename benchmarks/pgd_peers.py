"""PGD-20 against foolbox, torchattacks and ART on one model, in one run: CPU seconds, forwards, backwards, ratios.

    python -m venv .peers && . .peers/bin/activate
    pip install torch==2.14.1 torchvision==0.29.1 "setuptools<80" foolbox torchattacks adversarial-robustness-toolbox
    pip install -e .
    python benchmarks/pgd_peers.py --data-root ../shared

One torch thread; L-inf 8/255, steps of 2/255, the same for all. CPU seconds are user time of the process, the median of
`--repeats` interleaved runs; forwards and backwards are counted by hooks on the model, ours on hauberk's own copy. Ratios hold
within one run only. With `--assert` the exit code says whether hauberk needs at most 1/8 of each peer's time, and with
compaction off no more than any of them.
"""

import argparse
import json
import logging
import resource
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from reference import load_reference

import hauberk as hb


class Counted(nn.Module):
    """The model, counting rows forward and rows backward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.forwards, self.backwards = net, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        out = self.net(x)
        if out.requires_grad:
            out.register_hook(self._back)
        return out

    def _back(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def cpu_seconds() -> float:
    """User time of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def main() -> int:
    """Measure, print one JSON line each, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default="resnet20_cifar10")
    parser.add_argument("--n", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--assert", dest="check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # the peers draw from the global generators
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    net, x, y, eps = load_reference(args.data_root, args.model, args.n)
    counted = Counted(net)
    clean = net(x).argmax(1) == y
    steps, step = 20, eps / 4
    victim = hb.wrap(net)

    def ours(early_stop: bool) -> Callable[[], Tensor]:
        return lambda: (
            hb.attacks.pgd(
                victim, x, y, f"linf:{eps}", steps=steps, step_size=step, early_stop=early_stop, batch_size=args.n
            ).adversarials
        )

    def bare() -> Tensor:
        z = x.clone()
        for _ in range(steps):
            z.requires_grad_()
            (g,) = torch.autograd.grad(nn.functional.cross_entropy(counted(z), y), z)
            z = torch.minimum(torch.maximum(z.detach() + step * g.sign(), x - eps), x + eps).clamp(0, 1)
        return z

    runs: dict[str, Callable[[], Tensor]] = {
        "hauberk": ours(True),
        "hauberk, compaction off": ours(False),
        "bare loop": bare,
        **peers(counted, x, y, eps, step, steps, args.n),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    facts: dict[str, dict[str, float]] = {}
    for attempt in range(args.repeats + 1):  # the first warms up
        for name, run in runs.items():
            counted.forwards = counted.backwards = 0
            began = cpu_seconds()
            z = run()
            spent = cpu_seconds() - began
            if attempt:
                times[name].append(spent)
            robust = (clean & (net(z).argmax(1) == y)).float().mean().item()
            facts[name] = {"robust": robust, "forwards": counted.forwards, "backwards": counted.backwards}
    for name, key in (("hauberk", True), ("hauberk, compaction off", False)):
        result = hb.attacks.pgd(
            victim, x, y, f"linf:{eps}", steps=steps, step_size=step, early_stop=key, batch_size=args.n
        )
        facts[name] |= {"forwards": int(result.forwards.sum()), "backwards": int(result.backwards.sum())}
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in times.items():
        line = {"attack": name, "cpu_seconds": round(median[name], 3), "min": round(min(seconds), 3)}
        print(json.dumps(line | {"max": round(max(seconds), 3)} | facts[name]))
    rivals = [name for name in runs if not name.startswith(("hauberk", "bare"))]
    for name in rivals:
        print(
            f"{name}: {median[name] / median['hauberk']:.1f}x hauberk's time; "
            f"{median[name] / median['hauberk, compaction off']:.2f}x with compaction off"
        )
    fast = all(median[name] >= 8 * median["hauberk"] for name in rivals)
    fair = all(median[name] >= median["hauberk, compaction off"] for name in rivals)
    print(f"at most 1/8 of each peer: {fast}; compaction off not slower than any: {fair}")
    return 0 if not args.check or (fast and fair) else 1


def peers(
    net: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, steps: int, n: int
) -> dict[str, Callable[[], Tensor]]:
    """The same attack in other libraries, which live in an environment of their own."""
    import foolbox  # pyright: ignore[reportMissingImports]
    import torchattacks  # pyright: ignore[reportMissingImports]
    from art.attacks.evasion import ProjectedGradientDescentPyTorch  # pyright: ignore[reportMissingImports]
    from art.estimators.classification import PyTorchClassifier  # pyright: ignore[reportMissingImports]

    wrapped = foolbox.PyTorchModel(net.eval(), bounds=(0, 1))
    classifier = PyTorchClassifier(net, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1))
    xn, yn = x.numpy(), y.numpy()
    return {
        "foolbox": lambda: foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=step)(wrapped, x, y, epsilons=eps)[1],
        "torchattacks": lambda: torchattacks.PGD(net, eps=eps, alpha=step, steps=steps)(x, y),
        "art": lambda: torch.from_numpy(
            ProjectedGradientDescentPyTorch(
                classifier, eps=eps, eps_step=step, max_iter=steps, batch_size=n, verbose=False, num_random_init=1
            ).generate(xn, yn)
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
