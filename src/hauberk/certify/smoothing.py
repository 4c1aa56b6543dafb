"""Randomised smoothing: what most noisy copies of an input are taken for cannot be changed by a small change of the input.

With f the victim's label and d ~ N(0, sigma^2 I), the smoothed classifier and its certified radius are

    g(x) = argmax_c P(f(x + d) = c)            R = sigma * Phi^-1(pA)    where    P(f(x + d) = A) >= pA > 1/2

and g(z) = A for all z with |z - x|_2 < R (theorem 1 of the paper, with pB <= 1 - pA). `certify` chooses A from `n0` draws,
counts the votes for A among `n` others, and takes for pA the exact lower bound of Clopper and Pearson, Beta(alpha; k, n - k + 1)
for k votes. `predict` asks for the label of g alone, by the two-sided binomial test of the two classes with most votes.

Where a `radius` is wanted, sampling goes in stages, n / 4^(K-1), ..., n / 4, n draws in all, and stops where the radius is
certified or is out of reach. Each of the K looks has its bound at level alpha / K, so by the union bound all of them hold together
with probability >= 1 - alpha, whatever the rule to stop: the largest is the certificate's. Out of reach is where an upper bound on
P(A) at level alpha / K lies below Phi(radius / sigma); an example whose true radius is that wanted is given up so with
probability <= alpha.

Source: Cohen, Rosenfeld, Kolter 2019, "Certified adversarial robustness via randomized smoothing", arXiv:1902.02918, Predict and
Certify of section 3.2. Stages with a union bound: Horváth, Müller, Fischer, Vechev 2022, "Boosting randomized smoothing with
variance reduced classifiers", arXiv:2106.06946; closer to the least number of draws: Voráček 2024, arXiv:2406.17830.

**Differs from the paper:**

- noise has an address: example and place among the draws. It does not depend on `batch`, on how examples are cut into batches,
  or on their order;
- an answer that is not finite (-1) is a vote for no class: it counts against A, and in `predict` as one class more;
- a radius counts as certified where R exceeds it, so that the closed ball is covered; the authors' program counts R >= radius;
- the noisy copies are not clipped, as in the paper, though the victim's bounds hold the input: nothing in `hauberk.victims`
  refuses what lies outside of them. With `clip` they are clipped, for a model that itself takes no such values: that makes the
  clip part of f, and the theorem speaks of every f;
- stages, which the paper does not have.

**What is not covered.** The probability is over the noise, for an input chosen without sight of it: with a seed that is known,
somebody can choose the input to fit the draws. A victim that draws for itself must do so anew for each row. The proof is in exact
arithmetic; for the rounding of noise and sum see Voráček, Hein 2022, "Sound randomized smoothing in floating-point arithmetics",
arXiv:2207.07209. And it is g that is certified, not f.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, PerExample, Rows
from hauberk.errors import DataError, ModelError, SettingError
from hauberk.threat import Norm
from hauberk.victims import check_inputs, wrap

__all__ = ["ABSTAIN", "CertifiedAccuracy", "SmoothedCertificates", "Smoothing", "certified_accuracy"]

ABSTAIN = -1
"""The label where the votes do not allow to say one."""

_BLOCK, _VALUES = 100, 2**18
"""Draws of an example that share an address, and how many values they may have together."""


@dataclass(frozen=True, eq=False)
class SmoothedCertificates:
    """For each example: with probability >= 1 - alpha over the noise, the smoothed classifier answers `label` at every point closer than
    `radius` in L2, or it abstained. One such statement for each example, not for all of them together. On the CPU.

    Attributes:
        label: (B,) int64; -1 where it abstained.
        radius: (B,) float64, L2, in the units of the input; 0 where it abstained.
        p_lower: (B,) float64, the lower bound on the probability of the class that was put to the vote.
        n_used: (B,) int64, draws that voted on it; those that chose it are not among them.
        votes: (B,) int64, how many of these were for it.
        sigma, alpha: as in `Smoothing`.
    """

    label: Labels
    radius: PerExample
    p_lower: PerExample
    n_used: Tensor
    votes: Tensor
    sigma: float
    alpha: float

    def __len__(self) -> int:
        return len(self.label)

    def __repr__(self) -> str:
        answered = self.label != ABSTAIN
        median = f", median radius {self.radius[answered].median().item():.4g}" if bool(answered.any()) else ""
        return (
            f"SmoothedCertificates(certified {int(answered.sum())} of {len(self)}{median}, "
            f"sigma={self.sigma:g}, alpha={self.alpha:g})"
        )


@dataclass(frozen=True)
class Smoothing:
    """Randomised smoothing of a victim of which only labels are asked.

    Args:
        sigma: standard deviation of the noise on each value, in the units of the input, > 0. A net should have been trained at it
            (`hauberk train --objective gaussian:sigma=...`).
        n0: draws that choose the class, >= 1.
        n: draws that vote on it, >= 1. No radius can exceed sigma * Phi^-1(alpha^(1/n)), 3.81 sigma at the defaults.
        alpha: the probability that a certificate, or a prediction, may be wrong, in (0, 1).
        batch: rows that are asked about at once, >= 1.
        radius: an L2 radius that is wanted, > 0: stop where it is certified or out of reach. None: all draws, for the largest.
        looks: K, how often it is looked whether to stop, >= 1.
        clip: clip the noisy copies to the victim's bounds.
        norm: L2 and no other. A radius R in L2 also holds at R in L1, and at R / sqrt(number of values) in L-infinity.

    Raises:
        SettingError: a setting out of range, another norm, or a radius that n draws cannot certify.
    """

    sigma: float
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    batch: int = 1000
    radius: float | None = None
    looks: int = 5
    clip: bool = False
    norm: Norm | str = Norm.L2

    def __post_init__(self) -> None:
        if self.norm not in (Norm.L2, Norm.L2.value):
            raise SettingError(
                f"smoothing with Gaussian noise certifies in l2 only, got norm={getattr(self.norm, 'value', self.norm)}; "
                "a radius R in l2 holds in l1 too, and in linf at R / sqrt(number of values)"
            )
        object.__setattr__(self, "norm", Norm.L2)
        object.__setattr__(self, "sigma", _number("sigma", self.sigma, math.inf))
        object.__setattr__(self, "alpha", _number("alpha", self.alpha, 1.0))
        for name in ("n0", "n", "batch", "looks"):
            object.__setattr__(self, name, _count(name, getattr(self, name)))
        if self.radius is not None:
            object.__setattr__(self, "radius", _number("radius", self.radius, math.inf))
            most = float(self._radius(_lower_bound(torch.tensor([self.n]), self.n, self.alpha / len(self.sizes))))
            if self.radius >= most:
                raise SettingError(
                    f"with sigma={self.sigma:g}, n={self.n} and alpha={self.alpha:g} smoothing certifies radii below {most:.4g}, got "
                    f"radius={self.radius:g}; raise n, or sigma and train at it"
                )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Draws that have voted at each look."""
        looks = self.looks if self.radius is not None else 1
        return tuple(sorted({-(-self.n // 4**k) for k in range(min(looks, self.n.bit_length()))}))

    def predict(
        self, model: Any, x: Any, *, seed: int = 0, streams: Streams | None = None, n: int | None = None
    ) -> Labels:
        """The label of the smoothed classifier; for each example, it is wrong with probability <= alpha over the noise.

        Args:
            model, x, seed, streams: as in `certify`; the draws are others.
            n: draws, >= 1; the setting where None.

        Returns:
            (B,) int64 on the CPU; -1 where the two classes with most votes cannot be told apart.

        Raises:
            DataError, ModelError, SettingError: as `certify`.

        Cost: n queries an example.
        """
        from scipy.stats import binom

        draws = self.n if n is None else _count("n", n)
        victim, x, streams = _checked(model, x, seed, streams, draws)
        counts = self._counts(victim, x, streams.child("predict"), draws)
        most, which = counts.topk(2, dim=1)
        # the two-sided test of 1/2 is symmetric: twice the smaller tail
        p_value = torch.from_numpy(2 * binom.cdf(most[:, 1].numpy(), most.sum(dim=1).numpy(), 0.5))
        return torch.where(p_value <= self.alpha, which[:, 0] - 1, ABSTAIN)

    def certify(self, model: Any, x: Any, *, seed: int = 0, streams: Streams | None = None) -> SmoothedCertificates:
        """A label of the smoothed classifier and a radius within which it stays, for each example.

        Args:
            model: a victim, a meter around one, or anything that `hauberk.wrap` takes with its defaults. Only labels are asked.
            x: (B, *shape) array or tensor of examples inside the victim's bounds.
            seed: of the noise; the same seed gives the same certificates, in float64 however the work is cut.
            streams: in the place of the seed, one stream an example: what each draws then goes by its id, not its place in x.

        Raises:
            DataError: no examples, or values that are not finite or outside the bounds.
            ModelError: the victim fails, or averages over draws of its own, which are not independent.
            SettingError: another number of streams, or a meter that allows fewer than n0 + n queries.

        Cost: n0 + n queries an example; fewer with a `radius`. A victim whose classes are not known yet is first probed, uncounted.
        """
        victim, x, streams = _checked(model, x, seed, streams, self.n0 + self.n)
        live = torch.arange(len(x))
        chosen = self._counts(victim, x, streams.child("choose"), self.n0)[:, 1:].argmax(dim=1)
        votes, used = torch.zeros_like(live), torch.zeros_like(live)
        lower = torch.zeros(len(x), dtype=torch.float64)
        done, share = 0, self.alpha / len(self.sizes)
        for look, size in enumerate(self.sizes):
            draws = streams.child(f"vote/{look}")
            for rows, labels in self._answers(victim, x, live, draws, size - done):
                votes.index_add_(0, rows, (labels == chosen[rows]).to(votes))
            used[live], done = size, size
            lower[live] = torch.maximum(lower[live], _lower_bound(votes[live], size, share))
            live = live[~self._settled(lower[live], votes[live], size, share)]
            if len(live) == 0:
                break
        label = torch.where(lower > 0.5, chosen, ABSTAIN)
        return SmoothedCertificates(label, self._radius(lower), lower, used, votes, self.sigma, self.alpha)

    def _settled(self, lower: PerExample, votes: Tensor, size: int, share: float) -> Tensor:
        """(B,) where the wanted radius is certified, or out of reach."""
        if self.radius is None:
            return torch.ones_like(votes, dtype=torch.bool)
        upper = 1 - _lower_bound(size - votes, size, share)
        return (self._radius(lower) > self.radius) | (self._radius(upper) < self.radius)

    def _radius(self, p: PerExample) -> PerExample:
        """(B,) sigma * Phi^-1(p), 0 where p is no majority."""
        from scipy.special import ndtri

        return torch.where(p > 0.5, torch.from_numpy(self.sigma * ndtri(p.numpy())), 0.0)

    def _counts(self, victim: Any, x: Batch, streams: Streams, draws: int) -> Tensor:
        """(B, classes + 1) votes for each class, as many as were answered, behind a column for the answer -1."""
        counts = torch.zeros(len(x), 2, dtype=torch.int64)
        for rows, labels in self._answers(victim, x, torch.arange(len(x)), streams, draws):
            missing = int(labels.max()) + 2 - counts.shape[1]
            if missing > 0:
                counts = torch.nn.functional.pad(counts, (0, missing))
            counts.index_put_((rows, labels + 1), torch.ones_like(rows), accumulate=True)
        return counts

    def _answers(
        self, victim: Any, x: Batch, rows: Rows, streams: Streams, draws: int
    ) -> Iterator[tuple[Rows, Labels]]:
        """The labels of `draws` noisy copies of each of the examples `rows`, and whose they are, in batches, on the CPU."""
        for whose, z in _cut(self._noisy(x, rows, streams, draws), self.batch):
            z = z.clamp(*victim.bounds) if self.clip else z
            yield whose, victim.labels(z, whose.to(x.device)).cpu()

    def _noisy(self, x: Batch, rows: Rows, streams: Streams, draws: int) -> Iterator[tuple[Rows, Batch]]:
        shape = x.shape[1:]
        block = max(1, min(_BLOCK, _VALUES // math.prod(shape)))  # of the shape alone, for it is part of the address
        for start in range(0, draws, block):
            count = min(block, draws - start)
            for group in rows.split(max(1, self.batch // block)):
                noise = streams.normal(group, (block, *shape), dtype=x.dtype)[:, :count].to(x.device)
                z = x[group.to(x.device)][:, None] + self.sigma * noise
                yield group.repeat_interleave(count), z.reshape(len(group) * count, *shape)


@dataclass(frozen=True)
class CertifiedAccuracy:
    """The share of examples with the right label and a radius above each of `radii`.

    Each certificate is issued and false with probability <= alpha over the noise, so that of these examples a share of at least
    `value` - alpha, in expectation, is one on which the smoothed classifier is right and stays so.

    Attributes:
        radii: L2, in the units of the input.
        value: the share at each, in [0, 1].
        low, high: the exact binomial interval of each, which covers with the probability `level` over the drawing of the examples
            (and of the noise) the probability that an example like these is certified; for each radius by itself.
        count: how many examples.
        level: of the intervals.
    """

    radii: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    count: int
    level: float


def certified_accuracy(
    certificates: SmoothedCertificates, y: Any, radii: Sequence[float], *, level: float = 0.95
) -> CertifiedAccuracy:
    """The curve of certified accuracy over the radius.

    Where the certificates were stopped at a wanted radius, it is pessimistic above that.

    Args:
        certificates: of examples.
        y: (B,) their true labels.
        radii: L2, >= 0.
        level: of the intervals, in (0, 1).

    Raises:
        DataError: another number of labels, or no example.
        SettingError: a radius or a level out of range.
    """
    truth = torch.as_tensor(y).cpu()
    if truth.shape != certificates.label.shape or len(truth) == 0:
        raise DataError(
            f"expected a label for each of {len(certificates)} certificates, at least one, got shape {tuple(truth.shape)}; "
            "give the labels of the examples that were certified"
        )
    wanted = tuple(float(radius) for radius in radii)
    if not wanted or not all(math.isfinite(radius) and radius >= 0 for radius in wanted):
        raise SettingError(
            f"a curve needs radii that are finite numbers >= 0, at least one, got {wanted}; such as [0, 0.5]"
        )
    tail = (1 - _number("level", level, 1.0)) / 2
    n, right = len(truth), certificates.label == truth
    hits = torch.stack([(right & (certificates.radius > radius)).sum() for radius in wanted])
    low, high = _lower_bound(hits, n, tail), 1 - _lower_bound(n - hits, n, tail)
    share = hits.double() / n
    return CertifiedAccuracy(wanted, tuple(share.tolist()), tuple(low.tolist()), tuple(high.tolist()), n, level)


def _lower_bound(votes: Tensor, n: int, level: float) -> PerExample:
    """(B,) float64: the exact one-sided lower bound on a proportion of which n draws showed `votes`; too high with probability <= level."""
    from scipy.stats import beta

    k = votes.numpy()
    bound = torch.from_numpy(beta.ppf(level, k.clip(min=1), n - k + 1))
    return torch.where(votes > 0, bound, 0.0)


def _cut(pieces: Iterable[tuple[Rows, Batch]], size: int) -> Iterator[tuple[Rows, Batch]]:
    """The same rows in the same order, `size` at a time."""
    held: list[tuple[Rows, Batch]] = []
    for piece in pieces:
        held.append(piece)
        count = sum(len(rows) for rows, _ in held)
        if count < size:
            continue
        rows, z = (torch.cat(part) for part in zip(*held, strict=True))
        whole = count - count % size
        yield from zip(rows[:whole].split(size), z[:whole].split(size), strict=True)
        held = [(rows[whole:], z[whole:])] if whole < count else []
    if held:
        rows, z = (torch.cat(part) for part in zip(*held, strict=True))
        yield rows, z


def _checked(model: Any, x: Any, seed: int, streams: Streams | None, queries: int) -> tuple[Any, Batch, Streams]:
    """The victim, the examples as it takes them, and a stream for each."""
    victim = wrap(model)
    try:
        count = len(x)
    except TypeError:
        count = 0  # what it is then, the check says
    x, _ = check_inputs(victim, x, torch.zeros(count, dtype=torch.int64))
    if getattr(victim, "judge_samples", 0):
        raise ModelError(
            f"smoothing needs independent answers, and those of {victim.name!r} are averages over draws that a batch shares; "
            "smooth the victim inside"
        )
    streams = Streams(seed, torch.arange(count)) if streams is None else streams
    if len(streams) != count:
        raise SettingError(
            f"expected one stream for each of {count} examples, got {len(streams)}; use streams.take(rows)"
        )
    left = int(victim.left(torch.arange(count, device=x.device)).min())
    if left < queries:
        raise SettingError(
            f"smoothing with these settings may ask {queries} queries of an example, got a meter that allows {left} more; "
            "lower n, or raise the budget"
        )
    return victim, x, streams


def _number(name: str, value: Any, below: float) -> float:
    """The value as a float; refuse what is no number in (0, below)."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < below:
        wanted = "a finite number > 0" if math.isinf(below) else f"a number in (0, {below:g})"
        raise SettingError(f"smoothing needs {name} to be {wanted}, got {name}={value!r}; for example 0.25")
    return float(value)


def _count(name: str, value: Any) -> int:
    """The value as an int; refuse what is no whole number >= 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise SettingError(f"smoothing needs {name} to be a whole number >= 1, got {name}={value!r}; for example 100")
    return int(value)
