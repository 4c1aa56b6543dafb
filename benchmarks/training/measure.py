"""What is measured of a trained net, column by column. Every share comes with its exact 95 % interval."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import hauberk as hb
from hauberk import attacks, data, zoo
from hauberk.attacks import Attack, run_attack
from hauberk.evaluate.statistics import clopper_pearson
from hauberk.train import collect
from hauberk.victims import Victim

__all__ = ["Columns", "clean_and_pgd", "radii_of_255", "standing_of", "under_attack"]

Share = dict[str, float]
Columns = Callable[[Victim, data.Source], dict[str, Any]]


def share(hits: Tensor) -> Share:
    """How many are true, with the interval."""
    found = clopper_pearson(int(hits.sum()), len(hits))
    return {"value": round(found.value, 4), "low": round(found.low, 4), "high": round(found.high, 4), "n": len(hits)}


def scores(victim: Victim, x: Tensor) -> Tensor:
    """The scores of all examples."""
    return torch.cat([victim.logits(part, torch.arange(len(part))) for part in x.split(500)])  # type: ignore[attr-defined]


def kept(attack: Attack, victim: Victim, x: Tensor, y: Tensor, threat: str) -> Share:
    """The share of the examples that this attack leaves right."""
    return share(~run_attack(attack, victim, x, y, threat, batch_size=500).broken)


def suite(victim: Victim, source: data.Source, threat: str) -> dict[str, Any]:
    """Robust accuracy under the suite `standard`, and what the evaluation says against trusting it."""
    found = hb.evaluate(victim, source, threat, suite="standard").result
    robust = found["radii"][0]["robust_accuracy"]["upper"]
    return {
        "suite": {key: round(robust[key], 4) for key in ("value", "low", "high")} | {"n": robust["count"]},
        "doubts": sorted({finding["id"] for finding in found["audit"] if finding["severity"] == "error"}),
    }


def under_attack(threat: str, *, surrogate: str | None = "mnist-natural") -> Columns:
    """Clean, FGSM, PGD of 10 and 20 steps, PGD on the margin (the literature's C&W in L-inf), points made on another net, the suite."""

    def columns(victim: Victim, source: data.Source) -> dict[str, Any]:
        x, y = _xy(source)
        found: dict[str, Any] = {
            "clean": share(scores(victim, x).argmax(dim=1) == y),
            "fgsm": kept(attacks.FGSM(), victim, x, y, threat),
            "pgd10": kept(attacks.PGD(steps=10), victim, x, y, threat),
            "pgd20": kept(attacks.PGD(steps=20), victim, x, y, threat),
            "cw": kept(attacks.PGD(steps=30, loss="margin"), victim, x, y, threat),
        }
        if surrogate is not None:
            other = zoo.load(surrogate)
            points = run_attack(
                attacks.PGD(steps=20, early_stop=False), other, x, y, threat, batch_size=500
            ).adversarials
            found["transfer"] = share(scores(victim, points).argmax(dim=1) == y)
        return found | suite(victim, source, threat)

    return columns


def radii_of_255(radii: tuple[int, ...] = (2, 4, 8, 16)) -> Columns:
    """Kurakin's table: top-1 and top-5 under one step towards the least likely class, and under PGD, at each radius."""

    def columns(victim: Victim, source: data.Source) -> dict[str, Any]:
        x, y = _xy(source)
        found: dict[str, Any] = {"clean": _tops(scores(victim, x), y)}
        for radius in radii:
            one = run_attack(
                attacks.FGSM(), victim, x, y, f"linf:{radius}/255@least-likely", batch_size=500
            ).adversarials
            found[f"step{radius}"] = _tops(scores(victim, one), y)
            many = run_attack(
                attacks.PGD(steps=20, early_stop=False), victim, x, y, f"linf:{radius}/255", batch_size=500
            ).adversarials
            found[f"pgd{radius}"] = _tops(scores(victim, many), y)
        return found

    return columns


def clean_and_pgd(threat: str, *, attacked: int | None = None) -> Columns:
    """Clean accuracy of every example of the source, and PGD-20 of the first `attacked`, or all."""

    def columns(victim: Victim, source: data.Source) -> dict[str, Any]:
        x, y = _xy(source)
        return {
            "clean": share(scores(victim, x).argmax(dim=1) == y),
            "pgd20": kept(attacks.PGD(steps=20), victim, x[:attacked], y[:attacked], threat),
        }

    return columns


def standing_of(threat: str) -> Columns:
    """Clean, PGD-20 and the suite: all that a curve needs."""
    return lambda victim, source: clean_and_pgd(threat)(victim, source) | suite(victim, source, threat)


def _tops(logits: Tensor, y: Tensor) -> dict[str, Share]:
    best = logits.topk(5, dim=1).indices
    return {"top1": share(best[:, 0] == y), "top5": share((best == y[:, None]).any(dim=1))}


def _xy(source: data.Source) -> tuple[Tensor, Tensor]:
    examples = collect(source)
    return examples.x, examples.y
