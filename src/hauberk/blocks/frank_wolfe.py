"""How far a point of a region is from one where no first-order step gains anything: the Frank-Wolfe gap.

    gap(z) = max over v in the region of <grad loss(z), v - z>      >= 0, and 0 exactly at stationary points

Source: Frank and Wolfe 1956, "An algorithm for quadratic programming"; for losses of networks Chen et al. 2020,
arXiv:1811.10828. Wang et al. 2019, "On the convergence and robustness of adversarial training" (ICML), call it the
first-order stationary condition, FOSC.
"""

import torch

from hauberk._shapes import Batch, Logits, PerExample, double, flat
from hauberk.blocks.losses import Loss
from hauberk.threat import Goal, Region

__all__ = ["Slope", "frank_wolfe_gap"]


def frank_wolfe_gap(region: Region, gradient: Batch, z: Batch, x: Batch) -> PerExample:
    """(B,) the most that the linearised loss gains from z by moving within the region around x; float64.

    Args:
        gradient: (B, *shape) of the loss at z; the gap has its scale.
    """
    kind = double(gradient)
    way = flat(region.linear_max(gradient, x)).to(kind) - flat(z).to(kind)
    return (flat(gradient).to(kind) * way).sum(dim=1)


class Slope:
    """A loss that remembers how steep it was in the logits, since the gradients of `Frontier.climb` have lost that scale.

    Attributes:
        largest: (B,) the largest derivative by a logit at the points looked at last: what those gradients are to be multiplied by.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.largest: PerExample = torch.zeros(0)

    def __call__(self, logits: Logits, goal: Goal) -> PerExample:
        values = self.loss(logits, goal)
        slope = torch.zeros_like(logits)
        if values.requires_grad:  # not so for a predicate that does not depend on the logits smoothly
            (slope,) = torch.autograd.grad(values.sum(), logits, retain_graph=True)
        self.largest = slope.abs().amax(dim=1)
        return values
