"""The search for an input that violates a property: random points, then projected gradient descent on what is left to violate it.

Madry et al. 2018, arXiv:1706.06083, on the largest row of a case, and on the sum of its positive rows, each for half of the points.
A candidate counts once it violates the property as float32, which is what a witness is handed over in.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hauberk.certify._property import Property, Stacked
from hauberk.layered.compose import dtype_of
from hauberk.layered.graph import Graph

__all__ = ["Witness", "falsify"]


@dataclass(frozen=True, eq=False)
class Witness:
    """Decides what counts as a counterexample: float32, in the box, and violating as the network itself computes it.

    Args:
        graph: in float32.
        asked: the property.
        confirm: a second opinion on (n,) float32, such as onnxruntime's; all agree if None.
    """

    graph: Graph
    asked: Property
    confirm: Callable[[NDArray[np.float32]], bool] | None = None

    def among(self, stacked: Stacked, points: Tensor, values: Tensor | None = None) -> NDArray[np.float32] | None:
        """The first of (P, n) points of the box that violates the property; None if none does.

        Args:
            values: (P, K) what the rows are there, if known: only points where a case holds are looked at.
        """
        if values is not None:
            points = points[(stacked.worst(values) <= 0).any(dim=1)]
        for point in points[:64]:
            x = _inside(point, stacked)
            with torch.no_grad():
                y = self.graph(torch.from_numpy(x).reshape(1, *self.graph.input_shape))
            if self.asked.violated(x, y.numpy()) and (self.confirm is None or self.confirm(x)):
                return x
        return None


def _inside(point: Tensor, stacked: Stacked) -> NDArray[np.float32]:
    """As float32, rounded into the box where float32 has a number in it."""
    low, high = stacked.lower.numpy(), stacked.upper.numpy()
    least, most = low.astype(np.float32), high.astype(np.float32)
    up, down = np.float32(np.inf), np.float32(-np.inf)
    least = np.where(least.astype(np.float64) < low, np.nextafter(least, up), least)
    most = np.where(most.astype(np.float64) > high, np.nextafter(most, down), most)
    x = point.detach().cpu().numpy().astype(np.float32)
    return np.where(least <= most, np.clip(x, least, most), x)


def falsify(
    witness: Witness,
    graph: Graph,
    *,
    seed: int,
    points: int = 64,
    steps: int = 60,
    drawn: int = 1024,
    among: tuple[Stacked, list[int]] | None = None,
    late: Callable[[], bool] = lambda: False,
) -> NDArray[np.float32] | None:
    """A counterexample, or None. Cost: `drawn` forwards, then `points` * `steps` forwards and backwards for each box of the property.

    Args:
        graph: differentiable; the search is in its dtype.
        seed: of the points drawn.
        points: that descend, for each box.
        steps: of descent.
        drawn: from which the best are taken.
        among: a box of the property, and the cases of it that are still open; all of all boxes if not given.
        late: asked between steps; True ends the search.
    """
    every = [(stacked, list(range(stacked.count))) for stacked in witness.asked.by_box()]
    for stacked, cases in every if among is None else [among]:
        if (found := _in_box(witness, graph, stacked, cases, seed, points, steps, drawn, late)) is not None:
            return found
        if late():
            return None
    return None


def _in_box(
    witness: Witness,
    graph: Graph,
    stacked: Stacked,
    cases: list[int],
    seed: int,
    points: int,
    steps: int,
    drawn: int,
    late: Callable[[], bool],
) -> NDArray[np.float32] | None:
    generator = torch.Generator().manual_seed(seed)
    kind = dtype_of(graph)
    low, high, C, d = (values.to(kind) for values in (stacked.lower, stacked.upper, stacked.C, stacked.d))

    def rows_at(x: Tensor) -> Tensor:
        return graph(x.reshape(-1, *graph.input_shape)).flatten(1) @ C.T + d

    x = low + (high - low) * torch.rand(drawn, len(low), generator=generator, dtype=low.dtype)
    x = torch.cat(((low + high)[None] / 2, x))
    with torch.no_grad():
        values = rows_at(x)
    if (found := witness.among(stacked, x, values)) is not None:
        return found
    worst = stacked.worst(values)[:, cases]
    each = max(1, points // len(cases))
    kept = worst.topk(min(each, len(x)), dim=0, largest=False).indices  # (each, cases)
    which = torch.tensor(cases).expand_as(kept).reshape(-1)
    x = x[kept.reshape(-1)]
    own = stacked.case[None] == which[:, None]  # (P, K) the rows that a point is after
    hinge = torch.arange(len(x)) % 2 == 1
    size = (high - low) / 4
    for step in range(steps):
        leaf = x.detach().requires_grad_()
        values = rows_at(leaf)
        mine = torch.where(own, values, values.new_tensor(-torch.inf))
        loss = torch.where(hinge, mine.clamp_min(0).sum(dim=1), mine.amax(dim=1))
        (slope,) = torch.autograd.grad(loss.sum(), leaf)
        if (found := witness.among(stacked, x, values.detach())) is not None:
            return found
        if late():
            return None
        x = (x - size * (1 - step / steps) * slope.sign()).clamp(low, high)
    with torch.no_grad():
        return witness.among(stacked, x, rows_at(x))
