"""The reverse Weibull distribution, fitted by maximum likelihood: what the largest of many bounded numbers follows."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FIELDS", "ReverseWeibull", "fit_reverse_weibull"]

_FEWEST, _SERIES = 10, 128
"""Maxima below which no fit is tried, and series that are fitted at once."""
_NEAREST, _FURTHEST = 1e-6, 1e2
"""How far above the largest draw a location is looked for, in ranges of the draws."""
FIELDS = ("location", "scale", "shape", "ks", "p_value", "fitted")


@dataclass(frozen=True, eq=False)
class ReverseWeibull:
    """Reverse Weibull distributions fitted to series of draws; float64, on the CPU, one entry a series.

    Attributes:
        location: the upper end a; the largest draw where `fitted` is False.
        scale, shape: b and k; NaN where there is none, or where all draws are alike.
        ks: the Kolmogorov-Smirnov distance between draws and fit.
        p_value: the probability of a larger one were the parameters known beforehand, which they were not: it is too large.
        fitted: bool. Also True where all draws are alike, up to rounding: the location is then the largest.
    """

    location: Tensor
    scale: Tensor
    shape: Tensor
    ks: Tensor
    p_value: Tensor
    fitted: Tensor


def fit_reverse_weibull(draws: Tensor) -> ReverseWeibull:
    """Fit a reverse Weibull distribution with shape >= 1 to each series, by maximum likelihood.

    Of the likelihood, scale and shape are eliminated (the scale in closed form, the shape by Newton's method), and the location is
    looked for on a grid of distances above the largest draw, from 1e-6 to 100 times the range of the draws, then by bisection of its slope.
    So there is no start to choose. About 3 ms a series of 500 draws.

    Args:
        draws: (M, n) floating point.
    """
    parts = [_fit(part) for part in draws.detach().cpu().split(_SERIES)]
    return ReverseWeibull(*(torch.cat([getattr(part, name) for part in parts]) for name in FIELDS))


def _fit(draws: Tensor) -> ReverseWeibull:
    from scipy.stats import kstwo

    rounding = 64 * torch.finfo(draws.dtype).eps
    y, n = draws.double(), draws.shape[1]
    top, finite = y.amax(dim=1), y.isfinite().all(dim=1)
    spread = top - y.amin(dim=1)
    alike = finite & (spread <= rounding * top.abs())
    usable = finite & ~alike & (n >= _FEWEST)
    void = torch.full_like(top, math.nan)
    location, scale, shape = top.clone(), void.clone(), void.clone()
    ks, p_value = torch.where(alike, 0.0, void), torch.where(alike, 1.0, void)
    fitted = alike.clone()
    if bool(usable.any()):
        below = (top[usable, None] - y[usable]) / spread[usable, None]  # in [0, 1], 0 the largest draw
        above, k, ended = _best(below)
        powers = k[:, None] * (below + above[:, None]).log()
        mean = powers.logsumexp(dim=1) - math.log(n)
        share = (-(powers - mean[:, None]).exp()).exp().sort(dim=1).values
        steps = torch.arange(n + 1, dtype=torch.float64) / n
        gap = torch.maximum(steps[1:] - share, share - steps[:-1]).amax(dim=1)
        keep = torch.where(ended, 1.0, math.nan)
        location[usable] = top[usable] + torch.where(ended, above, 0.0) * spread[usable]
        scale[usable], shape[usable], ks[usable] = (mean / k).exp() * spread[usable] * keep, k * keep, gap * keep
        p_value[usable] = torch.from_numpy(kstwo.sf(gap.numpy(), n)) * keep
        fitted[usable] = ended
    return ReverseWeibull(location, scale, shape, ks, p_value, fitted)


def _best(below: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(M,) the best location's distance above the largest draw, the shape, and whether there is one; `below` is (M, n), how far each
    draw lies below the largest; both in ranges of the draws."""
    grid = torch.linspace(math.log(_NEAREST), math.log(_FURTHEST), 33, dtype=torch.float64)
    shape, heights = None, torch.empty(len(grid), len(below), dtype=torch.float64)
    for place, u in enumerate(grid):
        heights[place], shape, _ = _profile(below, u.expand(len(below)), shape)
    best = heights.argmax(dim=0)
    low, high = grid[(best - 1).clamp_min(0)], grid[(best + 1).clamp_max(len(grid) - 1)]
    shape = None
    for _ in range(36):
        middle = (low + high) / 2
        _, shape, rising = _profile(below, middle, shape)
        low, high = torch.where(rising, middle, low), torch.where(rising, high, middle)
    _, shape, _ = _profile(below, high, shape)
    return high.exp(), shape, best < len(grid) - 1


def _profile(below: Tensor, u: Tensor, shape: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(M,) the mean log-likelihood, largest over scale and shape >= 1, at the location exp(u) above the largest draw; the shape; and
    whether the likelihood rises there with u."""
    distance = below + u.exp()[:, None]
    logs = distance.log()
    peak = logs.amax(dim=1)
    logs = logs - peak[:, None]
    mean = logs.mean(dim=1)
    k = (math.pi / math.sqrt(6) / logs.std(dim=1)).clamp_min(1.0) if shape is None else shape
    for _ in range(50):
        # the derivative by k is 1/k + mean - (mean weighted with y^k), which falls: one root, or k = 1 where it is negative there
        weights = torch.softmax(k[:, None] * logs, dim=1)
        first = (weights * logs).sum(dim=1)
        second = (weights * logs * logs).sum(dim=1) - first**2
        step = (first - 1 / k - mean) / (second + 1 / k**2)
        new = torch.minimum(torch.maximum(k - step, k / 4), 4 * k).clamp(1.0, 1e9)
        settled = bool(((new - k).abs() <= 1e-11 * k).all())
        k = new
        if settled:
            break
    power = torch.logsumexp(k[:, None] * logs, dim=1) - math.log(logs.shape[1])
    weights = torch.softmax(k[:, None] * logs, dim=1)
    rising = (k - 1) * (1 / distance).mean(dim=1) > k * (weights / distance).sum(dim=1)
    return k.log() - power + (k - 1) * mean - peak - 1, k, rising
