"""Checks that cost more: does more freedom, do more steps break more, and does an attack on a copy of the model do better?

They run in `hauberk audit`, not inside an evaluation. That accuracy falls as the radius or the number of steps grows is asked by
Carlini et al. 2019, "On evaluating adversarial robustness", arXiv:1902.06705, sections 3 and 5; that transfer from a substitute
must not beat a white-box attack by Athalye, Carlini, Wagner 2018, arXiv:1802.00420.
"""

import torch

from hauberk._shapes import Batch, PerExample
from hauberk.attacks import PGD, AutoPGD
from hauberk.evaluate.audit.finding import Finding
from hauberk.evaluate.audit.gradients import step_sizes
from hauberk.evaluate.audit.part import SHARE, Part
from hauberk.evaluate.audit.surrogate import distilled

__all__ = ["changes_around", "fewer_steps_break_more", "smaller_radius_breaks_more", "transfer_beats_gradients"]

POINTS = 100
"""How many points around each example I2 looks at, as in the paper."""


def changes_around(part: Part) -> PerExample:
    """(n,) what I2 averages: the relative change of the margin at `POINTS` points within half of the radius, each at most 1; a
    forward each."""
    low, high = part.meter.bounds
    reach = 5 * step_sizes(part)[1]
    rival = part.slope().rival
    here = part.lead(part.x, rival)
    streams, total = part.streams("around"), torch.zeros_like(here)
    for _ in range(POINTS):
        move = reach * (2 * streams.uniform(part.everyone, part.x.shape[1:], dtype=part.x.dtype) - 1)
        there = part.lead((part.x + move).clamp(low, high), rival)
        total += ((there - here).abs() / here.abs().clamp_min(1e-12)).nan_to_num(1.0).clamp_max(1.0)
    return total / POINTS


def smaller_radius_breaks_more(part: Part) -> Finding | None:
    """PGD at a quarter, a half and the whole of the radius: what falls within less must fall within more."""
    attack = _climb(part, part.steps)
    shares = (0.25, 0.5, 1.0)
    regions = [part.region.with_radius(part.share_of_radius(share)) for share in shares[:-1]]
    broken = [part.broken_by(attack, region) for region in regions] + [part.broken_by(attack)]
    for share, smaller, larger in zip(shares[:-1], broken[:-1], broken[1:], strict=True):
        lost = int((smaller & ~larger).sum())
        if lost >= max(3, 2 * SHARE * len(part)):
            return Finding(
                "smaller-radius-breaks-more",
                "error",
                f"PGD broke {lost} of {len(part)} examples within {share:g} of the radius that it did not break within twice as much",
                "what is allowed within less is allowed within more, so the attack loses its way: start from the points of the "
                "smaller radius, take more and smaller steps, average gradients over a neighbourhood",
                ("smooth", "more-steps"),
            )
    return None


def fewer_steps_break_more(part: Part) -> Finding | None:
    """PGD with a quarter, once and four times the steps: more must not break less."""
    counts = (max(part.steps // 4, 1), part.steps, 4 * part.steps)
    broken = [part.broken_by(_climb(part, count)) for count in counts]
    for few, many, less, more in zip(counts[:-1], counts[1:], broken[:-1], broken[1:], strict=True):
        lost, won = int((less & ~more).sum()), int((more & ~less).sum())
        if lost - won >= max(3, 2 * SHARE * len(part)):
            return Finding(
                "fewer-steps-break-more",
                "error",
                f"{few} steps of PGD broke {lost} of {len(part)} examples that {many} did not, and these {won} that those did not",
                "the loss is rough at the size of the smaller steps: average gradients over a neighbourhood, keep steps large, "
                "search without gradients",
                ("smooth", "score-attacks"),
            )
    return None


def transfer_beats_gradients(part: Part, pool: Batch) -> Finding | None:
    """PGD on a small net distilled from the model's answers: does it break what no climb on the model does?"""
    if part.threat.chart is not None:
        return None
    left = (~part.climb().broken).nonzero()[:, 0]
    if not len(left):
        return None
    copy, agrees = distilled(part, pool)
    found = part.transferred(PGD(steps=40, loss="margin", start=part.start, schedule="linear"), copy, left)
    # a fair match: what the copy found is asked of as long a climb on the model, and of a cleverer one
    for attack in (PGD(steps=40, loss="margin", start=part.start, schedule="linear"), AutoPGD(steps=40, loss="margin")):
        if part.region.norm in attack.norms:
            found &= ~part.broken_by(attack, rows=found.nonzero()[:, 0])
    beyond = int(found.sum())
    if beyond < max(2, SHARE * len(part)):
        return None
    return Finding(
        "transfer-beats-gradients",
        "error",
        f"points made on a small copy of the model (it agrees on {agrees:.0%} of the {len(pool)} examples it was distilled on) broke "
        f"{beyond} of {len(part)} examples that PGD and APGD on the model itself did not",
        "the model's own gradients hide what a copy shows: replace dead backward passes (BPDA), average gradients over a "
        "neighbourhood, and search without them",
        ("smooth", "score-attacks"),
    )


def _climb(part: Part, steps: int) -> PGD:
    falling = part.start == "clean"
    return PGD(steps=steps, loss="margin", start=part.start, schedule="linear" if falling else "constant")
