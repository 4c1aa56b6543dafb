"""Checks of attacks against each other: a stronger attack must break what a weaker one breaks, and without a limit everything.

The idea of each is in Carlini et al. 2019, "On evaluating adversarial robustness", arXiv:1902.06705, and Athalye, Carlini,
Wagner 2018, arXiv:1802.00420; the path of one PGD run is read as Pintor et al. 2022, arXiv:2106.09947, read it (I3 to I6).
"""

import torch

from hauberk.attacks import FGSM, PGD, Attack, Noise, Square, name_of
from hauberk.evaluate.audit.finding import Finding
from hauberk.evaluate.audit.part import SHARE, Part
from hauberk.threat import Ball, Norm

__all__ = [
    "black_box_beats_gradients",
    "incomplete",
    "one_step_beats_iterated",
    "still_rising",
    "unbounded_attack",
    "unbounded_fails",
]


def one_step_beats_iterated(part: Part) -> Finding | None:
    """One gradient step against PGD: 3 forwards and 1 backward beside PGD."""
    one, many = part.broken_by(FGSM(loss="margin")), part.climb().broken
    only_one, only_many = int((one & ~many).sum()), int((many & ~one).sum())
    if only_one <= only_many or only_one < max(3, 2 * SHARE * len(part)):  # in L0 the two choose other coordinates
        return None
    return Finding(
        "one-step-beats-iterated",
        "error",
        f"one gradient step broke {only_one} of {len(part)} examples that {part.steps} steps of PGD did not, and PGD "
        f"{only_many} that one step did not",
        "the loss is rough where PGD climbs: the model masks its gradients; try more starts, larger steps and score attacks",
        ("smooth", "score-attacks"),
    )


def black_box_beats_gradients(part: Part, *, tries: int = 16, queries: int = 60) -> Finding | None:
    """Random search and Square on what PGD left: at most `tries` + `queries` + 2 forwards for each of these."""
    climbed = part.climb().broken
    left = (~climbed).nonzero()[:, 0]
    blind: list[Attack] = [Noise(tries=tries)]
    if part.region.norm in Square.norms and part.x.ndim in (2, 4) and part.threat.chart is None:
        blind.append(Square(steps=queries))
    for attack in blind:
        beyond = int(part.broken_by(attack, rows=left).sum())
        if beyond >= max(2, SHARE * len(part)):
            return Finding(
                "black-box-beats-gradients",
                "error",
                f"{name_of(attack)}, which sees no gradient, broke {beyond} of {len(part)} examples that PGD did not "
                f"(PGD broke {int(climbed.sum())})",
                "the gradients mislead: trust square and label-only attacks over gradient attacks, and look for what masks "
                "the gradient (BPDA, EOT)",
                ("smooth", "score-attacks"),
            )
    return None


def unbounded_attack(part: Part) -> torch.Tensor:
    """(n,) bool: PGD broke it with every value free; at most 22 forwards and 20 backwards, and 27 and 25 where that failed."""
    low, high = part.meter.bounds
    whole = Ball(Norm.LINF, high - low, (low, high))
    first = part.broken_by(PGD(steps=20, loss="margin", schedule="linear"), whole)
    left = (~first).nonzero()[:, 0]
    return first | part.broken_by(PGD(steps=25, loss="margin", schedule="linear"), whole, rows=left)


def unbounded_fails(part: Part) -> Finding | None:
    """Without a limit, does PGD break everything?"""
    low, high = part.meter.bounds
    left = int((~unbounded_attack(part)).sum())
    if not left:
        return None
    return Finding(
        "unbounded-attack-fails",
        "error" if left > 0.1 * len(part) else "warning",
        f"with every value free to change over all of [{low:g}, {high:g}], PGD still failed on {left} of {len(part)} examples",
        "an attack without a limit must always succeed: the gradients or the optimisation are broken, not the model robust",
        ("smooth", "score-attacks"),
    )


def still_rising(part: Part) -> Finding | None:
    """Had PGD converged where it failed?"""
    climb = part.climb()
    best = climb.best
    standing = best[-1] <= 0
    if not bool(standing.any()):
        return None
    gained = (best[-1] - best[0]).clamp_min(1e-12)
    late = (best[-1] - best[-1 - part.steps // 4]) / gained
    share = float((late[standing] > 0.2).double().mean())
    if share <= 0.25:
        return None
    return Finding(
        "loss-still-rising",
        "warning",
        f"on {share:.0%} of the {int(standing.sum())} examples that PGD left standing, a fifth or more of the loss it gained came "
        f"in the last quarter of its {part.steps} steps",
        "PGD had not converged: give it more steps or larger ones before you trust the number",
        ("more-steps",),
    )


def incomplete(part: Part) -> torch.Tensor:
    """(n,) bool: I4, more than 5 % of the range of the best loss came in the last 10 steps (the last half of fewer than 20)."""
    best = part.climb().best
    window = min(10, part.steps // 2)
    gained = best[-1] - best[0]
    return (best[-1] - best[-1 - window] > 0.05 * gained) & (gained > 0)
