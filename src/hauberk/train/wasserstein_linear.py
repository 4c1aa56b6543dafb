"""Linear classifiers that are best against the worst distribution near the data; the worst case is a norm of the weights.

With two classes s = -1, +1, l(s (<w, x> + b)) the log-loss log(1 + exp(-t)) or the hinge max(0, 1 - t), and q dual to p,

    sup_{W(Q, P) <= rho} E_Q l = E_P l + rho * |w|_q           W(Q, P) = inf over couplings of E |z - x|_p, labels kept

for P the n examples: both losses are convex with a steepest slope of 1, so the best use of the budget is to carry a vanishing
share of the data far along the steepest direction. Minimising the right side over w and b is convex and finds the classifier whose worst
case is least. Where a label may be turned at the cost kappa, the worst case is

    min_{lambda >= |w|_q}  lambda * rho + mean_i max( l(t_i), l(-t_i) - lambda * kappa ),        t_i = s_i (<w, x_i> + b).

Source: Shafieezadeh-Abadeh, Mohajerin Esfahani, Kuhn 2015, "Distributionally robust logistic regression", arXiv:1509.09259,
theorem 1; Gao, Chen, Kleywegt 2017, "Wasserstein distributional robustness and regularization in statistical
learning", arXiv:1712.06050; Shafieezadeh-Abadeh, Kuhn, Mohajerin Esfahani 2019, arXiv:1710.10016, for the hinge.

**Differs from the papers:** the fit is for labels that stay (kappa infinite); `worst_case` takes any kappa. Solved by accelerated proximal
gradients (log-loss) or primal-dual steps (hinge), both with the exact proximal map of the dual norm, and stopped by a duality gap.

**Status:** certified, of the mean loss over every distribution within the radius, not of single answers. The inputs may leave
their range; where they may not, the worst case is an upper bound.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._shapes import flat
from hauberk.errors import DataError, SettingError
from hauberk.threat import Norm
from hauberk.train._examples import collect
from hauberk.train._status import Status

__all__ = ["WassersteinLinear", "wasserstein_linear"]


@dataclass(frozen=True, eq=False)
class WassersteinLinear:
    """A linear classifier of two classes and what is proven of it.

    Args:
        weights: (D,) float64.
        bias: b.
        norm: p, what moving an input costs.
        loss: `logistic` or `hinge`.
        radius: rho, a mean length in that norm.
        mean_loss: on the examples.
        worst_loss: the largest mean loss of a distribution within the radius of the examples.
        gap: by how much the worst loss may at most exceed the least there is over all weights.
        rounds: of the solver.
    """

    status: ClassVar[Status] = Status("certified")

    weights: Tensor
    bias: float
    norm: Norm
    loss: str
    radius: float
    mean_loss: float
    worst_loss: float
    gap: float
    rounds: int

    def net(self) -> nn.Sequential:
        """The classifier as a float64 net of scores 0 and <w, x> + b, for attacks and evaluation."""
        layer = nn.utils.skip_init(nn.Linear, len(self.weights), 2, dtype=torch.float64)
        weights = torch.stack((torch.zeros_like(self.weights), self.weights))
        layer.load_state_dict({"weight": weights, "bias": torch.tensor([0.0, self.bias], dtype=torch.float64)})
        return nn.Sequential(nn.Flatten(), layer)

    def worst_case(self, data: object, radius: float, *, kappa: float = math.inf) -> float:
        """The largest mean loss of a distribution within `radius` of these examples.

        Args:
            data: as for `wasserstein_linear`.
            radius: >= 0.
            kappa: what turning a label costs, >= 0; infinite: labels stay.

        Raises:
            DataError: data that cannot be used.
            SettingError: a radius or kappa out of range.
        """
        _refuse_radius(radius)
        if math.isnan(kappa) or kappa < 0:
            raise SettingError(f"turning a label costs kappa >= 0, got {kappa}")
        x, s = _two_classes(data)
        if len(x[0]) != len(self.weights):
            raise DataError(f"the classifier needs inputs of {len(self.weights)} values, got {len(x[0])}")
        margins = s * (x @ self.weights + self.bias)
        kept, turned = _LOSSES[self.loss](margins), _LOSSES[self.loss](-margins)
        least = _dual_size(self.weights, self.norm)
        if math.isinf(kappa):
            return float(kept.mean()) + radius * least
        if kappa == 0:
            return float(torch.maximum(kept, turned).mean()) + radius * least
        # piecewise linear and convex in lambda: it falls while more than radius / kappa of the examples turn
        gains = (turned - kept).sort(descending=True).values
        turning = int(radius * len(gains) / kappa)
        lam = max(least, float(gains[turning]) / kappa) if turning < len(gains) else least
        return lam * radius + float(torch.maximum(kept, turned - lam * kappa).mean())


_LOSSES = {"logistic": lambda t: F.softplus(-t), "hinge": lambda t: (1 - t).clamp_min(0)}


def _refuse_radius(radius: float) -> None:
    if not (math.isfinite(radius) and radius >= 0):
        raise SettingError(f"a Wasserstein ball needs a finite radius >= 0, got {radius}")


def _dual_size(w: Tensor, norm: Norm) -> float:
    return float(norm.dual.size(w[None])[0])


def _two_classes(data: object) -> tuple[Tensor, Tensor]:
    """(n, D) float64 inputs, (n,) labels as -1 and +1."""
    examples = collect(data)
    if bool((examples.y > 1).any()):
        raise DataError(f"a linear classifier of two classes needs labels 0 and 1, got label {int(examples.y.max())}")
    x = flat(examples.x).to("cpu", torch.float64)
    if not bool(torch.isfinite(x).all()):
        raise DataError("a linear classifier needs finite inputs, got some that are not")
    return x, (2 * examples.y - 1).to("cpu", torch.float64)


def wasserstein_linear(
    data: object,
    radius: float,
    *,
    norm: Norm | str = "l2",
    loss: str = "logistic",
    tolerance: float = 1e-4,
    most_rounds: int = 200_000,
) -> WassersteinLinear:
    """The linear classifier whose mean loss under the worst distribution within `radius` is least.

    Args:
        data: a pair of tensors (x, y) with labels 0 and 1, a `hauberk.data.Source`, or `Examples`.
        radius: rho, the mean length, in `norm`, that the inputs may be moved by; > 0. At 0 separable data have no minimum.
        norm: `linf`, `l2` or `l1`, what moving costs; the weights are penalised by its dual: l1, l2, linf.
        loss: `logistic` or `hinge`.
        tolerance: the duality gap to stop at, > 0.
        most_rounds: stop there in any case, >= 1; `gap` then says how far it came.

    Raises:
        DataError: data that cannot be used, or of other than two classes.
        SettingError: a setting out of range.
    """
    _refuse_radius(radius)
    kind = norm if isinstance(norm, Norm) else {str(each): each for each in Norm}.get(norm)
    if kind is None or kind is Norm.L0:
        raise SettingError(f"a Wasserstein ball of inputs needs the norm linf, l2 or l1, got {norm}")
    if loss not in _LOSSES:
        raise SettingError(f"the loss of a Wasserstein linear classifier is logistic or hinge, got {loss!r}")
    if radius == 0 or not tolerance > 0 or most_rounds < 1:
        raise SettingError(
            "a Wasserstein linear classifier needs radius > 0, tolerance > 0 and most_rounds >= 1, "
            f"got {radius}, {tolerance} and {most_rounds}"
        )
    x, s = _two_classes(data)
    problem = _Problem(x * s[:, None], s, radius, kind, loss)
    solve = _accelerated if loss == "logistic" else _primal_dual
    w, b, gap, rounds = solve(problem, tolerance, most_rounds)
    mean = float(_LOSSES[loss](problem.margins(w, b)).mean())
    return WassersteinLinear(
        w, float(b), kind, loss, radius, mean, mean + radius * _dual_size(w, kind), max(gap, 0.0), rounds
    )


@dataclass(frozen=True)
class _Problem:
    """min_{w, b} mean l(A w + s b) + radius |w|_q, A = s_i x_i, and its dual: max_a mean(-l*(-a)), |A^T a / n|_p <= radius, <a, s> = 0."""

    a: Tensor
    s: Tensor
    radius: float
    norm: Norm
    loss: str

    def margins(self, w: Tensor, b: Tensor) -> Tensor:
        return self.a @ w + self.s * b

    def shrunk(self, w: Tensor, size: float) -> Tensor:
        """The proximal map of size * radius * |.|_q: what is left when the p-ball's nearest point is taken off (Moreau)."""
        return w - self.norm.project(w[None], size * self.radius)[0]

    def value(self, w: Tensor, b: Tensor) -> float:
        return float(_LOSSES[self.loss](self.margins(w, b)).mean()) + self.radius * _dual_size(w, self.norm)

    def dual_value(self, pull: Tensor) -> float:
        """A lower bound on every value, from (n,) pulls in [0, 1] (the negative slopes of the loss), made feasible by shrinking."""
        pull = pull.clamp(0, 1)
        up, down = pull[self.s > 0].sum(), pull[self.s < 0].sum()
        level = torch.minimum(up, down)  # <a, s> = 0: the heavier class gives way
        up, down = level / up.clamp_min(1e-300), level / down.clamp_min(1e-300)
        pull = pull * torch.where(self.s > 0, up, down)
        size = float(self.norm.size((self.a.T @ pull / len(pull))[None])[0])
        pull = pull * min(1.0, self.radius / size) if size > 0 else pull
        if self.loss == "hinge":
            return float(pull.mean())
        return float(-(torch.xlogy(pull, pull) + torch.xlogy(1 - pull, 1 - pull)).mean())


def _accelerated(problem: _Problem, tolerance: float, most_rounds: int) -> tuple[Tensor, Tensor, float, int]:
    """Proximal gradients with Nesterov's momentum, restarted where it points uphill (O'Donoghue, Candes 2015)."""
    a = torch.cat((problem.a, problem.s[:, None]), dim=1)
    n, d = problem.a.shape
    size = 4 * n / float(torch.linalg.matrix_norm(a, 2)) ** 2
    now = ahead = a.new_zeros(d + 1)
    momentum, gap = 1.0, math.inf
    for round_ in range(1, most_rounds + 1):
        pull = torch.sigmoid(-(a @ ahead))
        moved = ahead + size * (a.T @ pull) / n
        new = torch.cat((problem.shrunk(moved[:d], size), moved[d:]))
        faster = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        if float((ahead - new) @ (new - now)) > 0:
            faster, ahead = 1.0, new
        else:
            ahead = new + (momentum - 1) / faster * (new - now)
        now, momentum = new, faster
        if round_ % 50 == 0 or round_ == most_rounds:
            pull = torch.sigmoid(-(a @ now))
            gap = problem.value(now[:d], now[d]) - problem.dual_value(pull)
            if gap <= tolerance:
                return now[:d], now[d], gap, round_
    return now[:d], now[d], gap, most_rounds


def _primal_dual(problem: _Problem, tolerance: float, most_rounds: int) -> tuple[Tensor, Tensor, float, int]:
    """Chambolle and Pock's steps (2011) on min_v max_{0 <= u <= 1} mean u_i (1 - (a v)_i) + radius |w|_q, v = (w, b)."""
    a = torch.cat((problem.a, problem.s[:, None]), dim=1)
    n, d = problem.a.shape
    length = float(torch.linalg.matrix_norm(a, 2)) / n
    balance = 1 / math.sqrt(n)  # a pull is one of n; a weight is not
    primal, dual = balance * 0.99 / length, 0.99 / (balance * length)
    v, u = a.new_zeros(d + 1), a.new_zeros(n)
    sums, best, count = (torch.zeros_like(v), torch.zeros_like(u)), (v, math.inf, -math.inf), 0
    for round_ in range(1, most_rounds + 1):
        moved = v + primal * (a.T @ u) / n
        new = torch.cat((problem.shrunk(moved[:d], primal), moved[d:]))
        u = (u + dual * (1 - a @ (2 * new - v)) / n).clamp_(0, 1)
        v = new
        sums, count = (sums[0] + v, sums[1] + u), count + 1
        if round_ % 200 == 0 or round_ == most_rounds:
            for tried, pull in ((v, u), (sums[0] / count, sums[1] / count)):
                value, low = problem.value(tried[:d], tried[d]), max(best[2], problem.dual_value(pull))
                best = (tried, value, low) if value < best[1] else (best[0], best[1], low)
            if best[1] - best[2] <= tolerance:
                return best[0][:d], best[0][d], best[1] - best[2], round_
            if round_ & (round_ - 1) == 0 or count >= 4000:  # averages restart, from themselves
                v, u = sums[0] / count, sums[1] / count
                sums, count = (torch.zeros_like(v), torch.zeros_like(u)), 0
    return best[0][:d], best[0][d], best[1] - best[2], most_rounds
