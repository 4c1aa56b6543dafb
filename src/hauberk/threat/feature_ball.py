"""The feature ball: pictures that a network sees as nearly the same, however far apart their pixels are.

    { z in the box : |phi(z) - phi(x)|_2 <= radius }            phi: a layer of a network, all its values as one vector

With phi a layer of a VGG net this is the perceptual set of "VGG features". The set is neither convex nor known in closed form, so
`project` bisects the segment from z to x, as the fast perceptual attacks do.

Source: Laidlaw, Singla, Feizi 2021, "Perceptual adversarial robustness: defense against unseen threat models", arXiv:2006.12655;
features as a distance: Johnson, Alahi, Fei-Fei 2016, arXiv:1603.08155, and Zhang et al. 2018 (LPIPS), arXiv:1801.03924.
**Differs from the papers:** one layer, not normalised channel by channel: normalise inside `features` to have LPIPS; steps are
signs of the gradient, as in L-inf, and know nothing of phi.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hauberk._shapes import Batch, PerExample, Rows, double, flat, like
from hauberk.errors import DataError, ThreatError
from hauberk.threat.norm import Norm

if TYPE_CHECKING:
    from hauberk._rng import Streams

__all__ = ["FeatureBall"]


@dataclass(frozen=True, eq=False)
class FeatureBall:
    """All points of the box whose features lie within `radius` of those of x.

    The features' own forwards are not queries to the victim: no meter counts them. A `project` costs at most 1 + `bisections` of
    them an example (and one for x), `contains` and `size` two.

    Args:
        features: (B, *shape) -> (B, ...), in evaluation mode, the same for an example in every batch; called without gradients.
        radius: one number, or (n,), in the features' own units; inf seeks the smallest change instead.
        box: the range every value must stay in.
        share: how far one step may go in each value, as a share of the box: steps are fractions of that.
        bisections: halvings of the segment; the point found lies within 2**-bisections of its length from where it leaves the set.

    `contains` allows a relative slack of 1e-4 on the radius and 1e-6 times the features' length, for what float32
    features differ by between batches.
    """

    features: Callable[[Batch], Tensor]
    radius: float | PerExample = math.inf
    box: tuple[float, float] = (0.0, 1.0)
    share: float = 0.05
    bisections: int = 12

    def __post_init__(self) -> None:
        low, high = self.box
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ThreatError(f"a box needs finite low < high, got {self.box}")
        radii = torch.as_tensor(self.radius)
        if bool((radii.isnan() | (radii < 0)).any()):
            raise ThreatError(f"a radius is a number >= 0, got {self.radius}")
        parts = self.features.modules() if isinstance(self.features, nn.Module) else ()
        if any(
            part.training and not any(True for _ in part.children()) for part in parts
        ):  # a slice's own mode says nothing
            raise ThreatError("expected features in evaluation mode, got a module in training mode; call its eval()")
        if not 0 < self.share <= 1 or self.bisections < 1:
            raise ThreatError(
                f"a feature ball needs 0 < share <= 1 and at least one bisection, got share={self.share}, "
                f"bisections={self.bisections}"
            )

    @property
    def finite(self) -> bool:
        return bool(torch.as_tensor(self.radius).isfinite().all())

    def take(self, rows: Rows) -> "FeatureBall":
        if not isinstance(self.radius, Tensor) or not self.radius.ndim:
            return self
        return replace(self, radius=self.radius.to(rows.device)[rows])

    def project(self, z: Batch, x: Batch) -> Batch:
        """The furthest allowed point of the segment from x to z, clipped to the box, that bisection finds."""
        clipped = z.clamp(*self.box)
        radius = self._radius(x)
        at_x = self._features(x)
        outside = ((self._features(clipped) - at_x).norm(dim=1) > radius).nonzero()[:, 0]
        if not len(outside):
            return clipped
        centre, known, most = x[outside], at_x[outside], radius[outside]
        way = clipped[outside] - centre
        kept = torch.zeros_like(most)  # share of the way that is allowed for sure
        width = 1.0
        for _ in range(self.bisections):
            width /= 2
            tried = kept + width
            size = (self._features(centre + like(tried, way) * way) - known).norm(dim=1)
            kept = torch.where(size <= most, tried, kept)
        clipped[outside] = centre + like(kept, way) * way
        return clipped

    def snap(self, z: Batch, x: Batch) -> Batch:
        return z

    def contains(self, z: Batch, x: Batch) -> Tensor:
        low, high = self.box
        inside = flat((z >= low) & (z <= high)).all(dim=1)  # False where NaN
        at_x = self._features(x)
        size = (self._features(z) - at_x).norm(dim=1)
        return inside & (size <= self._radius(x) * (1 + 1e-4) + 1e-6 * at_x.norm(dim=1))

    def size(self, z: Batch, x: Batch) -> PerExample:
        """(B,) distances of the features."""
        return (self._features(z) - self._features(x)).norm(dim=1).to(z.dtype)

    def start(self, x: Batch, rows: Rows, streams: "Streams") -> Batch:
        """A point uniform within `reach` of x, drawn back along the segment into the set."""
        if not self.finite:
            raise ThreatError("a random start needs a finite radius, got radius=inf")
        return self.project(x + Norm.LINF.sample(streams, rows, x, self.reach), x)

    @property
    def reach(self) -> float:
        return self.share * (self.box[1] - self.box[0])

    def steepest(self, gradient: Batch) -> Batch:
        return gradient.sign()

    def step(self, z: Batch, gradient: Batch, size: float | PerExample) -> Batch:
        return z + like(size, z) * gradient.sign()

    def linear_max(self, gradient: Batch, x: Batch) -> Batch:
        """Where the segment from x to the best corner of the box leaves the set: allowed, and not the true maximum, which no
        closed form gives."""
        low, high = self.box
        corner = torch.where(gradient > 0, high, torch.where(gradient < 0, low, x))
        return self.project(corner, x)

    def check(self, x: Batch) -> None:
        """Refuse examples that this ball cannot be drawn around.

        Raises:
            DataError: a value outside the box.
            ThreatError: radii or features that are not one for each example.
        """
        low, high = self.box
        if not bool(((x >= low) & (x <= high)).all()):
            raise DataError(f"expected values in [{low:g}, {high:g}], got values in [{x.min():g}, {x.max():g}]")
        radii = torch.as_tensor(self.radius)
        if radii.ndim and radii.shape != (len(x),):
            raise ThreatError(
                f"a feature ball has one radius, or one for each of the {len(x)} examples, got shape {tuple(radii.shape)}"
            )
        try:
            with torch.no_grad():
                one = self.features(x[:1])
        except Exception as error:  # the features are the user's code: whatever they raise becomes one sentence
            raise ThreatError(
                f"the features failed on an example of shape {tuple(x.shape[1:])} and {x.dtype}: {type(error).__name__}: {error}"
            ) from error
        if not (isinstance(one, Tensor) and one.ndim >= 1 and len(one) == 1 and one.is_floating_point()):
            got = tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__
            raise ThreatError(
                f"expected features of shape (B, ...) and floating point, got {got} for one example; return the layer's output"
            )

    def _radius(self, x: Batch) -> Tensor:
        return torch.as_tensor(self.radius, dtype=double(x), device=x.device).expand(len(x))

    def _features(self, x: Batch) -> Tensor:
        if not len(x):
            return x.new_zeros(0, 1, dtype=double(x))
        with torch.no_grad():
            found = self.features(x)
        return found.reshape(len(x), -1).to(double(x))
