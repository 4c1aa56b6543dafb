"""A victim's own answers with gradients averaged over a neighbourhood, for models whose gradients hold nowhere but at a point.

    answers: f(x)        backward: 1/m sum_j grad f(x + u_j),    u_j uniform in [-r, r] for every value

Source: the smoothed gradients with which Tramer, Carlini, Brendel, Madry 2020, "On adaptive attacks to adversarial example defenses",
arXiv:2002.08347, section 5 (k-winners-take-all), climbed where single gradients mislead.
**Differs from the paper:** gradients are averaged rather than finite differences, which costs tens of samples a step instead of
thousands; the noise is uniform.
"""

from collections.abc import Callable
from typing import Any, final

import torch

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows
from hauberk.errors import SettingError
from hauberk.threat import Access
from hauberk.victims.chance import content_of, number_of
from hauberk.victims.check import probe
from hauberk.victims.fingerprint import digest
from hauberk.victims.victim import cost_of_pullback

__all__ = ["SmoothVictim"]


@final
class SmoothVictim:
    """A victim around another: its answers, and the mean of its gradients around each point.

    A question costs 1 forward; with a gradient, `samples` + 1 forwards and `samples` backwards.

    Args:
        inner: who answers.
        radius: of the neighbourhood, in the units of the input.
        samples: gradients in the mean.
        seed: of the draws, which follow from it and the numbers asked.
    """

    def __init__(self, inner: Any, radius: float, samples: int = 20, seed: int = 0) -> None:
        if not radius > 0 or samples < 1:
            raise SettingError(
                f"a neighbourhood needs a radius > 0 and at least one sample, got {radius} and {samples}"
            )
        self.inner, self.radius, self.samples, self.seed = inner, radius, samples, seed
        self.forwards_per_query = inner.forwards_per_query
        forwards, backwards = cost_of_pullback(inner)
        self.cost_of_pullback = inner.forwards_per_query + samples * forwards, samples * backwards
        self.name, self.bounds, self.device, self.dtype = inner.name, inner.bounds, inner.device, inner.dtype
        self.channels = getattr(inner, "channels", None)

    @property
    def access(self) -> Access:
        return self.inner.access

    @property
    def classes(self) -> int | None:
        return self.inner.classes

    @property
    def notes(self) -> tuple[str, ...]:
        mine = f"Gradients are means over {self.samples} points within {self.radius:g}; answers are the model's own."
        return (*self.inner.notes, mine)

    @property
    def description(self) -> dict[str, Any]:
        own = {"radius": self.radius, "samples": self.samples, "seed": self.seed}
        return {**self.inner.description, "smooth": own}

    def __repr__(self) -> str:
        return f"SmoothVictim({self.inner!r}, radius={self.radius:g}, samples={self.samples})"

    def fingerprint(self) -> str:
        return digest("smooth", self.inner.fingerprint(), self.radius, self.samples, self.seed)

    def left(self, rows: Rows) -> PerExample:
        return self.inner.left(rows)

    def probe(self, x: Batch) -> None:
        probe(self, x)

    def labels(self, x: Batch, rows: Rows) -> Labels:
        return self.inner.labels(x, rows)

    def logits(self, x: Batch, rows: Rows) -> Logits:
        return self.inner.logits(x, rows)

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        logits = self.inner.logits(x, rows)
        low, high = self.bounds
        generator = torch.Generator().manual_seed(number_of(self.seed, "smooth", content_of(x)))
        # drawn on the CPU, so that every device sees the same points
        draws = [torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device) for _ in range(self.samples)]
        pulls = [self.inner.pullback((x + self.radius * (2 * draw - 1)).clamp(low, high), rows)[1] for draw in draws]

        def vjp(cotangent: Logits) -> Batch:
            total = torch.zeros_like(x)
            for pull in pulls:
                total += pull(cotangent).nan_to_num(0.0, 0.0, 0.0)
            return total / self.samples

        return logits, vjp
