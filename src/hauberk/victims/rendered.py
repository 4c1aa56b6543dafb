"""A victim behind a chart: it is asked about parameters and answers for the pictures that they draw.

    logits(z, rows) = victim.logits(render(z, x[rows]), rows)          gradients come back through the rendering

So every attack searches parameters as it searches inputs, and the meter, which stands behind, charges the same rows.
"""

from collections.abc import Callable
from typing import Any

import torch

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows
from hauberk.threat import Access, Chart

__all__ = ["Rendered", "posed", "shown"]


class Rendered:
    """A victim as an attacker on a chart's parameters meets it.

    Args:
        victim: who is asked about the pictures, usually a meter.
        chart: what draws them.
        x: (n, *shape) the clean examples that rows 0, 1, ... speak of.
    """

    def __init__(self, victim: Any, chart: Chart, x: Batch) -> None:
        self.victim, self.chart, self.x = victim, chart, x
        self.bounds: tuple[float, float] = chart.box(victim.bounds)

    @property
    def name(self) -> str:
        return self.victim.name

    @property
    def access(self) -> Access:
        return self.victim.access

    @property
    def device(self) -> torch.device:
        return self.victim.device

    @property
    def dtype(self) -> torch.dtype:
        return self.victim.dtype

    @property
    def classes(self) -> int | None:
        return self.victim.classes

    @property
    def forwards_per_query(self) -> int:
        return self.victim.forwards_per_query

    @property
    def judge_samples(self) -> int:
        """As `Meter.judge_samples`."""
        return getattr(self.victim, "judge_samples", 0)

    def votes(self, z: Batch, rows: Rows) -> Any:
        """The votes of a randomised victim on the pictures."""
        return self.victim.votes(self._draw(z, rows), rows)

    def left(self, rows: Rows) -> PerExample:
        return self.victim.left(rows)

    def labels(self, z: Batch, rows: Rows) -> Labels:
        return self.victim.labels(self._draw(z, rows), rows)

    def logits(self, z: Batch, rows: Rows) -> Logits:
        return self.victim.logits(self._draw(z, rows), rows)

    def pullback(self, z: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            drawn = self.chart.render(leaf, self.x[rows], self.victim.bounds)
        logits, vjp = self.victim.pullback(drawn.detach(), rows)

        def through(cotangent: Logits) -> Batch:
            (gradient,) = torch.autograd.grad(drawn, leaf, vjp(cotangent).to(drawn), retain_graph=True)
            return gradient

        return logits, through

    def _draw(self, z: Batch, rows: Rows) -> Batch:
        return shown(self.chart, z, self.x[rows], self.victim.bounds)


def posed(chart: Chart | None, victim: Any, x: Batch) -> tuple[Any, Batch]:
    """What an attack under a threat with this chart asks, and where it begins: `victim` and x themselves where there is none."""
    if chart is None:
        return victim, x
    return Rendered(victim, chart, x), chart.origin(x, victim.bounds)


def shown(chart: Chart | None, z: Batch, x: Batch, bounds: tuple[float, float]) -> Batch:
    """(B, *shape) the points that these parameters stand for; z itself where there is no chart."""
    if chart is None:
        return z
    with torch.no_grad():
        return chart.render(z, x, bounds)
