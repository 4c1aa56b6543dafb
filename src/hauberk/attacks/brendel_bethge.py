"""Brendel-Bethge attack: begin beyond the decision boundary, and walk along it towards the example.

    z_(t+1) = the point nearest to the example x in the norm, inside the box, within r_t of z_t in L2,
              where the margin's linear model around z_t is a tenth of the present margin past the boundary
    slope of that model: g_t = `momentum` g_(t-1) + (1 - `momentum`) grad margin(z_t)
    r_t: falls by half, `decays` times, in steps of one length

Source: Brendel, Rauber, Kuemmerer, Ustyuzhaninov, Bethge 2019, "Accurate, reliable and fast robustness evaluation",
arXiv:1907.01003, section 3; schedule of r and overshoot of 1.1 as in the authors' later code.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample, flat, like, wide
from hauberk.attacks._attack import ball_of, not_negative, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Closest
from hauberk.blocks.boundaries import margin_slope
from hauberk.blocks.hyperplane import reach_hyperplane
from hauberk.blocks.trust_region import boundary_step, shrink
from hauberk.errors import SettingError
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["BrendelBethge", "brendel_bethge"]


@dataclass(frozen=True)
class BrendelBethge:
    steps: int = 1000
    lr: float = 0.3
    decays: int = 20
    momentum: float = 0.8
    overshoot: float = 1.1
    start: str = "noise"
    tries: int = 10
    bisections: int = 10

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)
    smallest: ClassVar[bool] = True

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        region = ball_of(self, region)
        found = Closest(victim, x, goal, region)
        starts = self._starts(found, streams)
        found.restart()
        self._walk(found, starts)
        return found.best

    def _starts(self, found: Closest, streams: Streams) -> Batch:
        """A point that reaches the goal for each example, near the boundary; where none was found, the last one tried."""
        starts, reached = found.best.clone(), torch.zeros_like(found.size, dtype=torch.bool)
        low, high = found.space.box

        def tried(points: Batch, margin: PerExample) -> None:
            new = margin > 0
            rows = found.rows
            starts[rows], reached[rows] = points, new
            found.drop(new)

        if self.start == "noise":
            for _ in range(self.tries):
                if not len(found):
                    break
                noise = streams.uniform(found.rows, found.x.shape[1:], dtype=found.x.dtype)
                z = found.inside(low + (high - low) * noise)
                tried(z, found.ask(z))
                found.compact()
        if len(found):
            z = found.x
            for step in range(20):
                if not len(found):
                    break
                margin, logits, vjp = found.look(z)
                value, cotangent = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), found.goal)
                slope = vjp(cotangent)
                tried(z, margin)
                z, slope, value = found.compact(z, slope, value)
                if len(found):
                    d = reach_hyperplane(slope, -value, low - z, high - z, Norm.L2)
                    z = found.inside(z + (1.1 + 0.1 * step) * d)
        found.restart()
        found.drop(~reached[found.rows])
        found.compact()
        norm = found.space.norm
        d = flat(starts[found.rows] - found.x)
        most = d.abs().amax(dim=1, keepdim=True) if len(d) else d[:, :1]
        share, width = torch.zeros_like(most), torch.ones_like(most)
        for _ in range(self.bisections):
            if not len(found):
                break
            width = width / 2
            z = found.inside(found.x + shrink(d, share + width, norm, most).reshape(found.x.shape))
            success = (found.ask(z) > 0)[:, None]
            share = torch.where(success, share + width, share)
            starts[found.rows] = torch.where(wide(success, z), z, starts[found.rows])
            d, most, share, width = found.compact(d, most, share, width)
        return starts

    def _walk(self, found: Closest, starts: Batch) -> None:
        z = starts[found.rows]
        norm, (low, high) = found.space.norm, found.space.box
        r = self.lr * Norm.L2.size(z - found.x)
        every = max(self.steps // self.decays, 1)
        normal = torch.zeros_like(z)
        for step in range(self.steps):
            if not len(found):
                return
            margin, logits, vjp = found.look(z)
            value, cotangent = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), found.goal)
            slope = vjp(cotangent)
            normal = slope if step == 0 else self.momentum * normal + (1 - self.momentum) * slope
            if (step + 2) % every == 0:
                r = r / 2
            z, r, normal, value = found.compact(z, r, normal, value)
            if not len(found):
                return
            gap = torch.where(value > 0, -(2 - self.overshoot) * value, -self.overshoot * value).to(z)
            x = found.x
            z = found.inside(x + boundary_step(z - x, normal, gap, low - x, high - x, r, norm))
        if len(found):
            found.ask(z)


brendel_bethge = friendly(BrendelBethge)
