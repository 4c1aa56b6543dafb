"""Victims whose smallest adversarial change is known exactly, so that an attack can be held to found / optimal.

For a linear victim and the rival class k the example (x, y) falls where <w_k - w_y, d> > f_y(x) - f_k(x). Inside a box each
coordinate can give slope_i * d_i with 0 <= d_i <= room_i, so the smallest d follows from the optimality conditions:

    L-inf, d = min(t, room)             L2, d = min(t * slope, room)          t where <slope, d> reaches the gap
    L1, whole rooms, steepest first     L0, whole rooms, the largest slope * room first

Source: without the box these are the distances |gap| / |w|_q of Moosavi-Dezfooli, Fawzi, Frossard 2016, "DeepFool",
arXiv:1511.04599; the box only caps the coordinates.
"""

import hashlib
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows, flat
from hauberk.errors import SettingError
from hauberk.threat import Access, Norm
from hauberk.victims import UNLIMITED

__all__ = ["LinearVictim", "ThresholdVictim"]


@final
class LinearVictim:
    """Scores weights @ flat(x) + bias.

    Args:
        weights: (classes, D).
        bias: (classes,); zeros where None.
        bounds: the box.
    """

    name = "linear"
    forwards_per_query = 1
    access = Access.GRADIENTS
    device = torch.device("cpu")
    notes: tuple[str, ...] = ()

    def __init__(self, weights: Tensor, bias: Tensor | None = None, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        if weights.ndim != 2 or len(weights) < 2:
            raise SettingError(
                f"a linear victim needs weights (classes, D) of two classes or more, got {tuple(weights.shape)}"
            )
        self.weights, self.bounds, self.dtype = weights, bounds, weights.dtype
        self.bias = weights.new_zeros(len(weights)) if bias is None else bias

    @classmethod
    def random(
        cls, seed: int, features: int, classes: int = 2, bounds: tuple[float, float] = (0.0, 1.0)
    ) -> "LinearVictim":
        """Normal weights in float64, with a bias that puts the middle of the box on every decision boundary."""
        streams = Streams(seed, torch.arange(classes), "linear victim")
        weights = streams.normal(torch.arange(classes), (features,), dtype=torch.float64)
        return cls(weights, -weights.sum(dim=1) * (bounds[0] + bounds[1]) / 2, bounds)

    @property
    def classes(self) -> int:
        return len(self.weights)

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": "linear", "parameters": self.weights.numel() + self.bias.numel(), "bounds": list(self.bounds)}

    def fingerprint(self) -> str:
        content = torch.cat((self.weights, self.bias[:, None]), dim=1).double().contiguous().numpy().tobytes()
        return hashlib.sha256(content + repr((self.bounds, str(self.dtype))).encode()).hexdigest()

    def left(self, rows: Rows) -> PerExample:
        return torch.full_like(rows, UNLIMITED)

    def probe(self, x: Batch) -> None:
        self.logits(x, torch.arange(len(x)))

    def labels(self, x: Batch, rows: Rows) -> Labels:
        return self.logits(x, rows).argmax(dim=1)

    def logits(self, x: Batch, rows: Rows) -> Logits:
        return flat(x) @ self.weights.T + self.bias

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        return self.logits(x, rows), lambda cotangent: (cotangent @ self.weights).reshape(x.shape)

    def optimal_distance(self, x: Batch, y: Labels, norm: Norm) -> PerExample:
        """(B,) size of the smallest change inside the box beyond which some other class wins; 0 where one wins already.

        Exact but for float64 rounding; inf where no point of the box is classified otherwise. For L0 the number of coordinates
        with which the boundary is reached (a tie counts as reached).
        """
        rows = torch.arange(len(x))
        scores = self.logits(x, rows).double()
        best = torch.full((len(x),), torch.inf, dtype=torch.float64)
        low, high = self.bounds
        values = flat(x).double()
        for rival in range(self.classes):
            g = (self.weights[rival][None] - self.weights[y]).double()
            gap = scores[rows, y] - scores[:, rival]
            room = torch.where(g > 0, high - values, torch.where(g < 0, values - low, torch.zeros_like(g)))
            distance = _smallest(g.abs(), room, gap, norm)
            best = torch.where(y == rival, best, torch.minimum(best, distance))
        return best


@final
class ThresholdVictim:
    """A one-dimensional victim: class 0 below the first threshold, then 1, then 0 again, changing at each threshold.

    The score difference is the product of (x - threshold), smooth and with gradients that may point to the farther threshold.

    Args:
        thresholds: increasing, inside the box.
        bounds: the box.
    """

    name = "thresholds"
    classes = 2
    forwards_per_query = 1
    access = Access.GRADIENTS
    device = torch.device("cpu")
    notes: tuple[str, ...] = ()
    dtype = torch.float64

    def __init__(self, thresholds: tuple[float, ...], bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        if not thresholds or list(thresholds) != sorted(set(thresholds)):
            raise SettingError(f"a threshold victim needs increasing thresholds, got {thresholds}")
        if not bounds[0] < thresholds[0] <= thresholds[-1] < bounds[1]:
            raise SettingError(f"the thresholds must lie inside the box {bounds}, got {thresholds}")
        self.thresholds, self.bounds = thresholds, bounds

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": "thresholds", "thresholds": list(self.thresholds), "bounds": list(self.bounds)}

    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.thresholds, self.bounds)).encode()).hexdigest()

    def left(self, rows: Rows) -> PerExample:
        return torch.full_like(rows, UNLIMITED)

    def probe(self, x: Batch) -> None:
        self.logits(x, torch.arange(len(x)))

    def labels(self, x: Batch, rows: Rows) -> Labels:
        return self.logits(x, rows).argmax(dim=1)

    def logits(self, x: Batch, rows: Rows) -> Logits:
        return self._logits(x)

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = self._logits(leaf)

        def vjp(cotangent: Logits) -> Batch:
            return torch.autograd.grad(logits, leaf, cotangent, retain_graph=True)[0]

        return logits.detach(), vjp

    def optimal_distance(self, x: Batch, y: Labels, norm: Norm) -> PerExample:
        """(B,) distance to the nearest threshold, the same in every norm but L0, where it is 1; 0 where x is not of class y."""
        rows = torch.arange(len(x))
        places = torch.tensor(self.thresholds, dtype=self.dtype)
        distance = (flat(x).double() - places[None]).abs().amin(dim=1)
        if norm is Norm.L0:
            distance = torch.ones_like(distance)
        return torch.where(self.labels(x, rows) == y, distance, torch.zeros_like(distance))

    def _logits(self, x: Batch) -> Logits:
        value = flat(x)
        if value.shape[1] != 1:
            raise SettingError(f"a threshold victim reads one number, got examples of shape {tuple(x.shape[1:])}")
        # below the first threshold all factors are negative: the sign makes that class 0
        places = torch.tensor(self.thresholds, dtype=self.dtype)
        product = (value - places[None]).prod(dim=1, keepdim=True) * (-1.0) ** (len(self.thresholds) + 1)
        return torch.cat((-product, product), dim=1)


def _smallest(slope: Tensor, room: Tensor, gap: Tensor, norm: Norm) -> Tensor:
    """(B,) the smallest size of 0 <= d <= room with <slope, d> >= gap; inf where there is none, 0 where gap <= 0."""
    match norm:
        case Norm.LINF:
            size = _scale_to(slope, room, room, torch.ones_like(slope), gap)
        case Norm.L2:
            t = _scale_to(slope, room, room / slope.clamp_min(1e-300), slope, gap)
            size = torch.minimum(t[:, None].nan_to_num(posinf=1e300) * slope, room).norm(dim=1)
        case Norm.L1:
            order = slope.argsort(dim=1, descending=True)
            paid = room.gather(1, order)
            gain = slope.gather(1, order) * paid
            missing = gap[:, None] - (gain.cumsum(dim=1) - gain)
            share = (missing / gain.clamp_min(1e-300)).clamp(0, 1)
            size = (share * paid).sum(dim=1)
        case Norm.L0:
            total = (slope * room).sort(dim=1, descending=True).values.cumsum(dim=1)
            size = (total < gap[:, None]).sum(dim=1).double() + 1
    size = torch.where((slope * room).sum(dim=1) < gap, torch.full_like(size, torch.inf), size)
    return torch.where(gap <= 0, torch.zeros_like(size), size)


def _scale_to(slope: Tensor, room: Tensor, breaks: Tensor, rate: Tensor, gap: Tensor) -> Tensor:
    """(B,) the t >= 0 where sum slope * min(t * rate, room) reaches gap; coordinate i is full from t = breaks_i on."""
    breaks = torch.where(slope * room > 0, breaks, torch.zeros_like(breaks))
    t, order = breaks.sort(dim=1)
    full = (slope * room).gather(1, order)
    growing = (slope * rate * (slope * room > 0)).gather(1, order)
    before = torch.cat((torch.zeros_like(gap)[:, None], full.cumsum(dim=1)), dim=1)[:, :-1]  # those full already
    still = growing.flip(1).cumsum(dim=1).flip(1)  # the rate of those that are not, at each break
    reached = before + t * still >= gap[:, None]
    first = torch.where(
        reached.any(dim=1), reached.to(torch.int64).argmax(dim=1), torch.zeros_like(gap, dtype=torch.int64)
    )
    pick = first[:, None]
    answer = (gap[:, None] - before.gather(1, pick)) / still.gather(1, pick).clamp_min(1e-300)
    return torch.where(reached.any(dim=1), answer.squeeze(1), torch.full_like(gap, torch.inf))
