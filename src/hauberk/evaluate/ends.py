"""Both ends of examples at any radius: the largest one that is proven, the smallest change that is found, and an estimate between them.

The smallest change is FMN's (Pintor et al. 2021, arXiv:2102.12827), then searched for by bisection with PGD (Madry et al. 2018,
arXiv:1706.06083) below it. CLEVER (Weng et al. 2018, arXiv:1801.10578) looks a little further than that change, and half as far: of
the two balls the larger score counts, as each of them is an estimate from below. The largest radius is bisected by CROWN.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, PerExample, Rows
from hauberk.attacks import FMN, PGD
from hauberk.blocks.judge import judge
from hauberk.certify.clever import Clever
from hauberk.certify.prover import Prover
from hauberk.threat import Ball, Goal, Norm
from hauberk.victims import Meter

__all__ = ["Ends", "both_ends", "charge"]

_BATCHES, _SAMPLES = 12, 32
_SMALLEST, _NEARER = FMN(steps=100), PGD(steps=20, loss="margin")
_BISECTIONS = 6


@dataclass(frozen=True, eq=False)
class Ends:
    """Of examples that are classified rightly; on the CPU, float64.

    Attributes:
        lower: (n,) the largest radius that is proven.
        estimate: (n,) CLEVER's score.
        upper: (n,) the size of the smallest change found; infinite where none was.
        points: (n, *shape) the examples with it, where the victim is.
    """

    lower: PerExample
    estimate: PerExample
    upper: PerExample
    points: Batch


def both_ends(
    prover: Prover,
    meter: Meter,
    x: Batch,
    y: Labels,
    ids: Tensor,
    goal: Goal,
    norm: Norm,
    far: float,
    seed: int,
    method: str,
) -> Ends:
    """Look for both ends of each example. Cost: about 230 forwards and backwards, 768 forwards and as many backwards for each other class.

    Args:
        meter: of the victim, for these examples.
        x, y, ids: where the victim is.
        goal: to leave y.
        far: how far CLEVER looks where nothing breaks an example.
        method: of the proofs, of `hauberk.certify.prover.CHEAP`.
    """
    upper, points = _smallest(meter, x, goal, norm, ids, seed, prover.farthest(x.cpu(), norm))
    estimate = torch.zeros_like(upper)
    # rounded up to powers of the square root of 2: examples of one radius are asked together, and none depends on another
    steps = torch.where(upper.isfinite(), upper, far).clamp_min(1e-9).log2().mul(2).ceil().div(2)
    for step in steps.unique().tolist():
        own = (steps == step).nonzero()[:, 0].to(x.device)
        for place, radius in enumerate((2.0**step, 2.0 ** (step - 1))):
            streams = Streams(seed, ids[own], f"sandwich: clever {place}")
            clever = Clever(_BATCHES, _SAMPLES, radius=radius)
            part = Meter(meter.victim, len(own), access=meter.access)
            found = clever(part, x[own], y[own], norm, streams=streams).score
            charge(meter, own, part)
            estimate[own.cpu()] = torch.maximum(estimate[own.cpu()], found)
    beyond = torch.minimum(1.01 * upper, prover.farthest(x.cpu(), norm))
    return Ends(prover.radii(x.cpu(), y.cpu(), norm, method, beyond), estimate, upper, points)


def _smallest(
    meter: Meter, x: Batch, goal: Goal, norm: Norm, ids: Tensor, seed: int, farthest: PerExample
) -> tuple[PerExample, Batch]:
    everyone, box = torch.arange(len(x), device=x.device), meter.bounds
    anywhere = Ball(norm, math.inf, box)
    points = _SMALLEST(meter, x, goal, anywhere, streams=Streams(seed, ids, "sandwich: fmn"))
    broken = judge(meter, points, x, goal, anywhere, everyone).broken
    upper = torch.where(broken.cpu(), norm.size((points - x).cpu().double()), torch.inf)
    points, withstood = torch.where(_tall(broken, x), points, x), torch.zeros_like(upper)
    for trial_of in range(_BISECTIONS):
        trial = (withstood + torch.where(upper.isfinite(), upper, farthest)) / 2
        ball = Ball(norm, trial.to(x), box)
        streams = Streams(seed, ids, f"sandwich: pgd {trial_of}")
        tried = _NEARER(meter, x, goal, ball, streams=streams)
        broken = judge(meter, tried, x, goal, ball, everyone).broken
        sizes = norm.size((tried - x).cpu().double())
        better = broken.cpu() & (sizes < upper)
        upper, withstood = torch.where(better, sizes, upper), torch.where(better, withstood, trial)
        points = torch.where(_tall(better.to(x.device), x), tried, points)
    return upper, points


def _tall(flags: Tensor, x: Batch) -> Tensor:
    return flags.reshape(-1, *(1,) * (x.ndim - 1))


def charge(meter: Meter, rows: Rows, part: Meter) -> None:
    """Put what a meter of these rows counted on the meter of all."""
    for name in ("forwards", "backwards", "queries"):
        getattr(meter, name)[rows] += getattr(part, name)
