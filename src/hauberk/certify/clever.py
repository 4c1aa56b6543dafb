"""CLEVER: an estimate, by extreme value theory, of the smallest change that reaches another class. Not a proof.

For the class c of an example x and another class t let g = f_c - f_t. Where g has the Lipschitz constant L over the ball of radius R
around x, the dual norm of its gradient being at most L there, no change smaller than

    min(g(x) / L, R)

makes t win. L is not known. CLEVER draws `samples` points of the ball, keeps the largest gradient norm, does so `batches` times, and
takes these maxima for draws of a reverse Weibull distribution, F(y) = exp(-((a - y) / b)^k) for y <= a, as extreme value theory
says of the largest of many numbers that have an upper end: the location a, fitted by maximum likelihood, stands for L.

That is an estimate. Where gradients are small at almost every point, and steep where no sample falls, the score lies above the true
distance, without any sign (Goodfellow 2018, "Gradient masking causes CLEVER to overestimate adversarial perturbation size",
arXiv:1804.07870). Compare it with what an attack finds; never report it as a certificate.

Source: Weng, Zhang, Chen, Yi, Su, Gao, Hsieh, Daniel 2018, "Evaluating the robustness of neural networks: an extreme value theory
approach", arXiv:1801.10578, Algorithms 1 and 2.

As in Algorithm 1, the points of every batch are drawn afresh. Programs that draw their batches from one pool of points compute far
fewer gradients, and the maxima that they fit are copies of a few.

**Differs from the paper:**

- points are brought into the victim's bounds, as the authors' program does and Algorithm 1 does not say. They stay in the ball, and
  what is estimated is L over ball and box together, the box being convex;
- shapes below 1 are left out: the likelihood there grows without limit as the location falls to the largest draw;
- where the likelihood still grows as the location goes beyond 100 times the range of the maxima, they show no upper end. The
  largest norm seen then stands for L, and a warning says so: L is at least that;
- where the fit is poor (Kolmogorov-Smirnov, p < 0.05) its location stays, which is never below the largest norm seen, and a warning says
  so. Parameters that were fitted to the same numbers make p too large: a good p proves no good fit;
- the default radii are those of the authors' program, in units of the width of the bounds.
"""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, PerExample, Rows, double
from hauberk.certify._reverse_weibull import FIELDS, ReverseWeibull, fit_reverse_weibull
from hauberk.errors import AccessError, SettingError, ThreatError
from hauberk.threat import Access, Goal, Norm, Rival, Targeted, Untargeted
from hauberk.victims import check_inputs, wrap
from hauberk.victims.phased import in_phases

__all__ = ["Clever", "CleverScores", "ReverseWeibull", "fit_reverse_weibull"]

_RADII = {Norm.L2: 3.0, Norm.LINF: 0.1, Norm.L1: 30.0}
_POOR = 0.05


@dataclass(frozen=True, eq=False)
class CleverScores:
    """Estimates, not proofs, of the smallest change of each example that reaches another class. On the CPU, float64.

    An example that is on the wrong side already is not sampled: it has score 0, and NaN for what was not estimated.

    Attributes:
        score: (B,) the least of `scores` over the targets, in the norm's units of the input.
        scores: (B, T) the score towards each target: min(gap / lipschitz, radius).
        targets: (B, T) int64 classes.
        gap: (B, T) the score of the own class over that of the target, g(x).
        largest: (B, T) the largest gradient norm seen: L is at least that.
        fit: (B, T) fits and their quality.
        norm, radius: as used.
        warnings: sentences on what makes some of these numbers doubtful; empty where nothing was seen.
    """

    score: PerExample
    scores: Tensor
    targets: Tensor
    gap: Tensor
    largest: Tensor
    fit: ReverseWeibull
    norm: Norm
    radius: float
    warnings: tuple[str, ...]

    @property
    def lipschitz(self) -> Tensor:
        """(B, T) the estimate of L that was used."""
        return self.fit.location

    @property
    def poor(self) -> Tensor:
        """(B, T) bool: no fit, or one that the Kolmogorov-Smirnov test refuses at 0.05."""
        return ~self.lipschitz.isnan() & (~self.fit.fitted | (self.fit.p_value < _POOR))

    def __len__(self) -> int:
        return len(self.score)

    def __repr__(self) -> str:
        positive = self.score > 0
        median = f", median {self.score[positive].median().item():.4g}" if bool(positive.any()) else ""
        return (
            f"CleverScores(estimates, no proofs, in {self.norm}: {int(positive.sum())} of {len(self)} positive{median}, "
            f"radius={self.radius:g}, poor fits {int(self.poor.sum())} of {int((~self.lipschitz.isnan()).sum())})"
        )


@dataclass(frozen=True)
class Clever:
    """CLEVER scores, untargeted or towards targets. They are estimates: nothing here is proven.

    Cost, for each example that is classified right: 1 + `batches` * `samples` queries and forwards, and `batches` * `samples`
    backwards for each target; the targets share the forward. One query for any other example. Scores do not depend on how
    examples are batched, nor on `chunk`.

    Args:
        batches: N_b of the paper, maxima that are fitted, >= 1; with fewer than 10 there is no fit. More extend the same draws.
        samples: N_s of the paper, fresh points for each maximum, >= 1.
        radius: R, how far to look, in the units of the input, > 0; no score exceeds it. None: 3 in L2, 0.1 in L-inf, 30 in L1,
            each times the width of the victim's bounds.
        chunk: points that are asked about at once, >= 1; memory grows with it.

    Raises:
        SettingError: a setting out of range.
    """

    batches: int = 500
    samples: int = 1024
    radius: float | None = None
    chunk: int = 256

    def __post_init__(self) -> None:
        for name in ("batches", "samples", "chunk"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise SettingError(f"clever needs {name} to be a whole number >= 1, got {value!r}; for example 100")
        if self.batches * self.samples > 2**32:
            raise SettingError(
                f"clever draws at most 2**32 points an example, got {self.batches * self.samples}; lower samples"
            )
        radius = 1.0 if self.radius is None else self.radius
        if isinstance(radius, bool) or not isinstance(radius, Real) or not 0 < float(radius) < math.inf:
            raise SettingError(f"clever needs a finite radius > 0, or None, got radius={radius!r}; for example 0.3")

    def __call__(
        self,
        model: Any,
        x: Any,
        y: Any,
        norm: Norm | str,
        *,
        seed: int = 0,
        streams: Streams | None = None,
        targets: Any = None,
    ) -> CleverScores:
        """Score the examples.

        Args:
            model: a victim that gives gradients, or anything that `hauberk.wrap` takes with its defaults. A meter counts exactly.
            x: (B, *shape) examples inside the victim's bounds.
            y: (B,) true labels, or `Untargeted`: towards every other class. `Targeted`: from the class that the victim predicts
                towards the target. `Rival`: from one class towards another.
            norm: L-inf, L2 or L1, in which the change is measured; gradients are measured in its dual.
            seed: of the points; the same seed gives the same scores.
            streams: in the place of the seed, one for each example, with ids below 2**32.
            targets: (B, T) or (B,) classes instead of all others; with labels or `Untargeted` only.

        Raises:
            AccessError: the victim gives no gradients.
            ThreatError: L0, or what is no norm.
            DataError, SettingError, ModelError: an argument is not what it must be, or a meter allows too few queries.
        """
        norm = _norm(norm)
        victim = wrap(model)
        goal = y if isinstance(y, Untargeted | Targeted | Rival) else None
        if isinstance(y, Goal) and goal is None:
            raise SettingError(
                f"clever takes labels, Untargeted, Targeted or Rival, got {type(y).__name__}; give one of these"
            )
        x, labels = check_inputs(victim, x, y if goal is None else goal.classes)
        if victim.access < Access.GRADIENTS:
            raise AccessError(
                f"clever needs {Access.GRADIENTS}, but {victim.name!r} gives {victim.access} only; use an attack that needs less"
            )
        streams = Streams(seed, torch.arange(len(x), device=x.device)) if streams is None else streams
        if len(streams) != len(x) or int(streams.ids.min()) < 0 or int(streams.ids.max()) >= 2**32:
            raise SettingError(
                f"expected one stream for each of {len(x)} examples, with ids in [0, 2**32), got {len(streams)}; "
                "use Streams(seed, torch.arange(n))"
            )
        everyone = torch.arange(len(x), device=x.device)
        left, asked = int(victim.left(everyone).min()), 1 + self.batches * self.samples
        if left < asked:
            raise SettingError(
                f"clever with these settings asks {asked} queries of an example, got a meter that allows {left} more; "
                "lower batches or samples, or raise the budget"
            )
        width = victim.bounds[1] - victim.bounds[0]
        radius = _RADII[norm] * width if self.radius is None else float(self.radius)
        logits = victim.logits(x, everyone)
        own, wanted = _pairs(goal, labels, logits, targets)
        gap = logits.to(double(logits))
        gap = gap.gather(1, own[:, None]) - gap.gather(1, wanted)
        live = (gap > 0).any(dim=1) & (logits.argmax(dim=1) == own)
        classes = torch.cat((own[:, None], wanted), dim=1)
        with in_phases(victim, x):
            maxima = self._maxima(victim, x, classes, everyone[live], norm, radius, streams)
        return _scores(gap.cpu().double(), live.cpu(), wanted.cpu(), maxima, norm, radius)

    def _maxima(
        self, victim: Any, x: Batch, classes: Tensor, rows: Rows, norm: Norm, radius: float, streams: Streams
    ) -> Tensor:
        """(len(rows), T, batches) the largest dual norm of the gradient of g, infinite where one is not finite; `classes` is (B, 1 + T),
        the own one first."""
        each, count = self.batches * self.samples, classes.shape[1] - 1
        found = x.new_zeros(len(rows) * self.batches, count)
        for first in range(0, len(rows) * each, self.chunk):
            place = torch.arange(first, min(first + self.chunk, len(rows) * each), device=x.device)
            example, series = rows[place // each], place // self.samples
            # a stream for each point: half of its address is the example's, half the place among the points
            ids = (streams.ids.to(x.device)[example] << 32) + place % each
            draws = Streams(streams.seed, ids, f"{streams.purpose}/points")
            here = x[example]
            here = here + norm.sample(draws, torch.arange(len(place), device=x.device), here, radius)
            logits, vjp = victim.pullback(here.clamp_(*victim.bounds), example)
            plus = torch.zeros_like(logits).scatter_(1, classes[example, :1], 1.0)
            for column in range(count):
                slope = vjp(plus.scatter(1, classes[example, column + 1, None], -1.0))
                size = norm.dual.size(slope).nan_to_num(nan=math.inf, posinf=math.inf)
                found[:, column].scatter_reduce_(0, series, size, "amax")
        return found.reshape(len(rows), self.batches, count).transpose(1, 2)


def _scores(gap: Tensor, live: Tensor, wanted: Tensor, maxima: Tensor, norm: Norm, radius: float) -> CleverScores:
    """What the maxima (examples that were sampled, T, batches) say."""
    fits = fit_reverse_weibull(maxima.flatten(0, 1))

    def spread(values: Tensor) -> Tensor:
        rest = False if values.dtype == torch.bool else math.nan
        whole = torch.full(gap.shape, rest, dtype=values.dtype)
        whole[live] = values.reshape(maxima.shape[:2])
        return whole

    fit = ReverseWeibull(*(spread(getattr(fits, name)) for name in FIELDS))
    # without any slope, gap / 0 is infinite, and the radius is the score
    scores = torch.where(live[:, None] & (gap > 0), (gap / fit.location).clamp_max(radius), 0.0)
    largest = spread(maxima.amax(dim=2).cpu().double())
    warnings = _warnings(fit, scores >= radius)
    return CleverScores(scores.amin(dim=1), scores, wanted, gap, largest, fit, norm, radius, warnings)


def _warnings(fit: ReverseWeibull, capped: Tensor) -> tuple[str, ...]:
    asked, steep = ~fit.location.isnan(), fit.location
    facts = {
        "show no upper end that a reverse Weibull distribution could be fitted to: the largest gradient norm seen stands for the "
        "Lipschitz constant, which is at least that, so the score is likely too large; raise samples, or batches": (
            asked & ~fit.fitted & steep.isfinite()
        ),
        f"are fitted poorly (Kolmogorov-Smirnov p < {_POOR:g}): the theory does not vouch for them; compare `largest`": (
            fit.p_value < _POOR
        ),
        "have no gradient at any point: it may be masked, and the score means nothing": steep == 0,
        "have gradients that are not finite: their score is 0": steep.isinf(),
        "have the radius as their score: it was looked no further; raise radius": capped & (steep > 0),
    }
    total = int(asked.sum())
    return tuple(f"{int(where.sum())} of {total} pairs {what}." for what, where in facts.items() if bool(where.any()))


def _norm(norm: Any) -> Norm:
    known = {str(each): each for each in _RADII}
    if str(norm) not in known:
        raise ThreatError(f"clever works in linf, l2 and l1, which have a dual, got {norm}; choose one of these")
    return known[str(norm)]


def _pairs(
    goal: Untargeted | Targeted | Rival | None, labels: Labels, logits: Tensor, targets: Any
) -> tuple[Labels, Tensor]:
    """(B,) the class to leave, and (B, T) the classes to reach."""
    classes = logits.shape[1]
    if isinstance(goal, Targeted | Rival):
        if targets is not None:
            raise SettingError(f"{type(goal).__name__} names its targets, got targets= as well; leave one of them out")
        return (goal.own.to(labels) if isinstance(goal, Rival) else logits.argmax(dim=1)), labels[:, None]
    if targets is None:
        others = torch.arange(classes - 1, device=labels.device).expand(len(labels), -1)
        return labels, others + (others >= labels[:, None])
    wanted = torch.as_tensor(targets).to(labels.device)
    wanted = wanted[:, None] if wanted.ndim == 1 else wanted
    whole = not (wanted.is_floating_point() or wanted.is_complex() or wanted.dtype == torch.bool)
    if not whole or wanted.ndim != 2 or len(wanted) != len(labels) or wanted.numel() == 0:
        raise SettingError(
            f"expected targets (B, T) of whole numbers for {len(labels)} examples, got {tuple(wanted.shape)} of "
            f"{str(wanted.dtype).removeprefix('torch.')}; give at least one class for each example"
        )
    bad = (wanted < 0) | (wanted >= classes) | (wanted == labels[:, None])
    if bool(bad.any()):
        raise SettingError(
            f"expected targets from 0 to {classes - 1} other than the label, got {int(wanted[bad][0])}; leave it out"
        )
    return labels, wanted.to(torch.int64)
