"""Checks of the gradients: are there any, and do they say what small changes of the input really do?

    finite differences:  m = f(c + h d) - f(c - h d),  p = 2 h <grad f(c), d>,
                         e = sum_d max(|m - p| - noise, 0) / sum_d (|m| + |p| + noise)                in [0, 1]

for the margin f to the strongest rival, along four directions d of signs (that of the gradient and three drawn), at two step
sizes h. An example disagrees where e > 0.3 at both. On nets with ordinary gradients e stays below 0.15 (measured on the honest
nets of docs/audit.md), on those whose gradients mislead its median is 0.5, so that neither float32 nor the kinks of ReLUs come
near the bar. Zero gradients: flagged in Croce and Hein 2020, arXiv:2003.01690, and I1 of Pintor et al. 2022, arXiv:2106.09947;
I2 is measured on the points of the wider step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hauberk._shapes import PerExample, flat
from hauberk.errors import HauberkError
from hauberk.evaluate.audit.finding import Finding
from hauberk.evaluate.audit.part import Part
from hauberk.threat import Access, Norm
from hauberk.victims.bpda import dead_modules

__all__ = [
    "Probes",
    "dead_gradients",
    "no_gradients",
    "probe",
    "rough_gradients",
    "step_sizes",
    "unstable_predictions",
]

DIRECTIONS = 4
"""How many directions are probed: the gradient's signs and random ones."""
DISAGREES = 0.3
"""From which e on a gradient does not describe the model."""
_NOISE = 4e-6  # of the largest score: what rounding may change in float32, several times over


@dataclass(frozen=True, eq=False)
class Probes:
    """What small steps did.

    Attributes:
        error: (2, n) the e of each example at the smaller and the wider step.
        change: (n,) the mean relative change |f - f0| / |f0| of the margin over the points of the wider step, each at most 1.
        steps: the two step sizes.
    """

    error: Tensor
    change: PerExample
    steps: tuple[float, float]

    @property
    def disagree(self) -> Tensor:
        """(n,) bool."""
        return (self.error > DISAGREES).all(dim=0)


def no_gradients(part: Part) -> Finding | None:
    """The threat allows gradients, and a PyTorch model gives none: the graph is cut. No cost."""
    victim = part.meter.victim
    kind = victim.description
    if part.threat.access < Access.GRADIENTS or kind.get("kind") != "torch" or kind.get("answers") == "labels":
        return None
    if victim.access >= Access.GRADIENTS:
        return None
    return Finding(
        "dead-gradients",
        "error",
        f"no gradient flows from the answers back to the input at any of {len(part)} examples: a step of the model has no "
        f"derivative, or is detached{_where(part)}",
        "only score and label attacks could run, and they need thousands of queries: replace the backward pass of that step (BPDA)",
        ("bpda", "score-attacks"),
    )


def dead_gradients(part: Part) -> Finding | None:
    """Is the gradient of the margin zero or not finite? One forward and one backward, shared."""
    slope = part.slope()
    dead, broken = slope.dead, ~slope.finite
    if not bool((dead | broken).any()):
        return None
    share = float((dead | broken).double().mean())
    return Finding(
        "dead-gradients",
        "error" if share > 0.1 else "warning",
        f"the gradient of the margin is exactly zero at {int(dead.sum())} and not finite at {int(broken.sum())} of "
        f"{len(part)} examples{_where(part)}",
        "gradient attacks see nothing there: look for rounding, thresholds or saturation in the model, replace their backward "
        "pass (BPDA), or rely on square and label-only attacks",
        ("bpda", "score-attacks"),
    )


def probe(part: Part) -> Probes:
    """Probe the margin around a point next to each example: 18 forwards and 1 backward."""
    small, wide = step_sizes(part)
    low, high = part.meter.bounds
    centre = part.x.clamp(low + wide, high - wide)  # so that no probe leaves the bounds
    slope = part.slope_at(centre)
    gradient = slope.gradient.to(torch.promote_types(slope.gradient.dtype, torch.float32))
    here = part.lead(centre, slope.rival)
    noise = _NOISE * slope.logits.abs().amax(dim=1).to(here)
    streams = part.streams("probe")
    signs = [gradient.sign()]
    signs += [flat(streams.signs(part.everyone, part.x.shape[1:], dtype=part.x.dtype)) for _ in range(DIRECTIONS - 1)]
    errors, changes = [], []
    for size in (small, wide):
        gap, both = torch.zeros_like(here), torch.zeros_like(here)
        for sign in signs:
            move = (size * sign.to(centre)).reshape(centre.shape)
            up, down = part.lead(centre + move, slope.rival), part.lead(centre - move, slope.rival)
            promised = 2 * size * (gradient.to(here) * sign.to(here)).sum(dim=1)
            gap += ((up - down - promised).abs() - noise).clamp_min(0)
            both += (up - down).abs() + promised.abs() + noise
            if size == wide:
                changes += [(end - here).abs() / here.abs().clamp_min(1e-12) for end in (up, down)]
        errors.append((gap / both.clamp_min(torch.finfo(both.dtype).tiny)).nan_to_num(1.0))
    change = torch.stack(changes).nan_to_num(1.0).clamp_max(1.0).mean(dim=0)
    return Probes(torch.stack(errors), change, (small, wide))


def rough_gradients(part: Part, probes: Probes) -> Finding | None:
    """Do finite differences agree with the gradient?"""
    where = probes.disagree & ~part.slope().dead  # what is zero is told by `dead_gradients`
    share = float(where.double().mean())
    if share <= 0.25:
        return None
    error = float(probes.error.amin(dim=0)[where].median())
    return Finding(
        "finite-differences-disagree",
        "error",
        f"at {int(where.sum())} of {len(part)} examples the model changes otherwise than its gradient says, for steps of "
        f"{probes.steps[0]:.2g} and {probes.steps[1]:.2g} (relative error {error:.2f} in the median, below 0.15 on ordinary nets)",
        "the gradient is that of something else, or holds only for steps too small to matter: climb gradients averaged over a "
        "neighbourhood, give the backward pass its true derivative (BPDA), and search without gradients (square)",
        ("smooth", "score-attacks"),
    )


def unstable_predictions(part: Part, probes: Probes) -> Finding | None:
    """Does the margin jump within a step?"""
    value = float(probes.change.mean())
    if value <= 0.75:
        return None
    return Finding(
        "unstable-predictions",
        "warning",
        f"within {probes.steps[1]:.2g} of {len(part)} examples the margin changes by {value:.0%} of itself on average",
        "what one gradient says is out of date after one step: average gradients over a neighbourhood, and search without them",
        ("smooth", "score-attacks"),
    )


def _where(part: Part) -> str:
    """Which submodules lose the gradient, as far as that can be told."""
    try:
        names = dead_modules(part.meter.victim, part.x[:8])
    except HauberkError:  # no PyTorch module, or one that cannot be looked into
        return ""
    shown = [f"module {name!r}" if name else "the model's own forward" for name in names]
    return f"; it is lost in {', '.join(shown[:5])}{', ...' if len(shown) > 5 else ''}" if shown else ""


def step_sizes(part: Part) -> tuple[float, float]:
    """A thirtieth and a tenth of what the threat lets every value change where it is spread evenly, of 0.03 of the input's range
    in L1 and L0, which are never spent so; at least 1/2000 and at most 6/1000 of the range."""
    low, high = part.meter.bounds
    width, dims = high - low, flat(part.x).shape[1]
    each = 0.03 * width
    if part.threat.chart is None and part.region.norm in {Norm.LINF, Norm.L2}:
        each = part.threat.radius / (1 if part.region.norm is Norm.LINF else dims**0.5)
    each = min(max(each, 0.015 * width), 0.06 * width)
    return each / 30, each / 10
