"""A universal perturbation: one change that, added to any example, has it misclassified.

It is shared by all examples, so that nothing about it belongs to one of them; it is therefore no attack of the protocol that
suites run, but a call of its own, whose result is judged example by example.

    DeepFool form, for each example x that is not fooled yet, in a fresh order each pass, until the share 1 - `delta` is:
        v = project(v + DeepFool's change of clip(x + v))
    gradient form, for each batch B:
        v = project(v + step * steepest(sum over x in B of the gradient of min(loss(clip(x + v)), `cap`)))

Sources: Moosavi-Dezfooli, Fawzi, Fawzi, Frossard 2017, "Universal adversarial perturbations", arXiv:1610.08401, algorithm 1, with
DeepFool (arXiv:1511.04599) in at most 10 steps; Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein 2020, "Universal adversarial
training", arXiv:1811.11304, section 4, for the gradient form and the cap of 9 on the loss.
**Differs from the papers:** every point is clipped to the box; the gradient form weighs each example's gradient by the scores
alike, however sure the model is of it, its steps fall from the whole radius to 0 (paper: constant; on our nets smaller first steps
and momentum fool less), and the best perturbation of all passes is kept; towards one class on request.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, like
from hauberk.attacks._attack import whole_number
from hauberk.blocks.boundaries import nearest_plane, rivals_of
from hauberk.blocks.judge import judge
from hauberk.blocks.losses import Loss, loss_named, value_and_cotangent
from hauberk.errors import AccessError, SettingError, ThreatError
from hauberk.threat import Access, Ball, Goal, Norm, ThreatModel, Untargeted, goal_from
from hauberk.victims import Meter, check_inputs, wrap

__all__ = ["UniversalResult", "universal"]

_METHODS = ("gradient", "deepfool")
_DEEPFOOL_STEPS, _OVERSHOOT, _CANDIDATES = 10, 0.02, 10
"""Of DeepFool: most steps, how far past the boundary it goes, and the classes it looks at, as in the authors' code."""


@dataclass(frozen=True, eq=False)
class UniversalResult:
    """A universal perturbation, and what the judge says of the examples it was made from.

    Its worth shows on examples it has not seen: `result.broken_on(model, x, y)`.

    Attributes:
        perturbation: (*shape), of the threat's radius at most, on the victim's device.
        threat: what was allowed and wanted.
        box: the range that `apply` clips to.
        broken: (n,) bool, the judge's word on each example with the perturbation.
        fooling_rate: share of the examples whose class is not the one the victim gave them before; towards a target, of those
            that reach it.
        passes: how often the examples were gone through.
        forwards, backwards: (n,) int64, what each example cost; the judge's own forward is not in them.
    """

    perturbation: Tensor
    threat: ThreatModel
    box: tuple[float, float]
    broken: Tensor
    fooling_rate: float
    passes: int
    forwards: Tensor
    backwards: Tensor

    def apply(self, x: Any) -> Batch:
        """(B, *shape) the examples with the perturbation, clipped to the box; floats, array or tensor."""
        given = torch.as_tensor(x).to(self.perturbation)
        if given.shape[1:] != self.perturbation.shape:
            raise SettingError(
                f"expected examples of shape (n, {', '.join(map(str, self.perturbation.shape))}) as the perturbation has it, "
                f"got {tuple(given.shape)}; make another perturbation for these"
            )
        return _moved(given, self.perturbation, self.box)

    def broken_on(self, model: Any, x: Any, y: Any, *, batch_size: int = 256) -> Tensor:
        """(n,) bool: what the perturbation breaks of these examples, in the judge's word.

        Raises:
            DataError, ModelError: they are not what they must be.
        """
        victim = wrap(model)
        x, y = check_inputs(victim, x, y)
        return _judged(victim, self, x, y, batch_size)

    def __repr__(self) -> str:
        n = len(self.broken)
        return f"UniversalResult({self.threat}: fooling rate {self.fooling_rate:.1%}, broken {int(self.broken.sum())} of {n})"


def universal(
    model: Any,
    x: Any,
    y: Any,
    threat: str | ThreatModel,
    *,
    method: str = "gradient",
    passes: int = 10,
    delta: float | None = None,
    loss: str = "ce",
    cap: float = 9.0,
    step_size: float | None = None,
    seed: int = 0,
    batch_size: int = 128,
) -> UniversalResult:
    """One perturbation that fools as many of the examples as possible.

    Cost of a pass over n examples: n forwards to measure it and, with gradients, n forwards and backwards; with DeepFool, for each
    example that stands, up to 10 forwards and 9 backwards each.

    Args:
        model: a victim, or anything that `hauberk.wrap` takes with its defaults.
        x: (n, *shape) array or tensor of examples inside the victim's bounds.
        y: (n,) true labels; the judge uses them, the search leaves the classes that the victim gives the examples.
        threat: L-inf or L2 with one radius; untargeted or towards one class.
        method: `gradient`, or `deepfool`, the first method of its kind, one example at a time.
        passes: the most passes over the examples.
        delta: stop once the share 1 - delta is fooled; None is .2 with `deepfool` and 0 with `gradient`.
        loss: what `gradient` climbs.
        cap: examples whose loss is larger no longer count in `gradient`, so that none of them rules the others.
        step_size: of `gradient`, in units of the input; None is the radius. It falls to 0 over the passes.
        seed: the same seed repeats the result; so does the order of the examples and, with `gradient`, the batch size matter.
        batch_size: examples of one step of `gradient`, and of one forward of either method.

    Raises:
        AccessError, ThreatError, DataError, SettingError, ModelError: an argument is not what it must be.
    """
    victim, threat = wrap(model), ThreatModel.parse(threat)
    x, y = check_inputs(victim, x, y)
    ball = _checked_ball(victim, threat, x)
    numbers = {"passes": passes, "batch_size": batch_size}
    passes, batch_size = (whole_number(name, value, 1) for name, value in numbers.items())
    if method not in _METHODS:
        raise SettingError(f"universal knows the methods {', '.join(_METHODS)}, got method={method!r}")
    if delta is None:
        delta = 0.2 if method == "deepfool" else 0.0
    if not (0 <= delta < 1 and cap > 0 and (step_size is None or step_size > 0)):
        raise SettingError(
            f"universal needs delta in [0, 1), cap and step_size > 0, "
            f"got delta={delta}, cap={cap}, step_size={step_size}"
        )
    search = _Search(victim, x, y, threat, ball, Streams(whole_number("seed", seed), _rows(x), "universal"), batch_size)
    if method == "gradient":
        size = threat.radius if step_size is None else step_size
        climb = _Climb(search, loss_named(loss), cap, size, passes)
        search.run(climb, passes, 1 - delta)
    else:
        search.run(lambda done: _deepfool_pass(search), passes, 1 - delta)
    found = UniversalResult(
        search.best,
        threat,
        ball.box,
        torch.zeros(len(x), dtype=torch.bool, device=x.device),
        search.rate,
        search.passes,
        search.meter.forwards,
        search.meter.backwards,
    )
    return replace(found, broken=_judged(victim, found, x, y, batch_size))


class _Search:
    """The perturbation on its way through the examples, and the best of all passes."""

    def __init__(
        self, victim: Any, x: Batch, y: Labels, threat: ThreatModel, ball: Ball, streams: Streams, batch_size: int
    ) -> None:
        self.meter = Meter(victim, len(x), access=min(threat.access, victim.access))
        self.x, self.ball, self.streams, self.batch_size = x, ball, streams, batch_size
        self.v = torch.zeros_like(x[0])
        self.best, self.rate, self.passes = self.v, 0.0, 0
        labels = torch.cat([self.meter.labels(x[rows], rows) for rows in _rows(x).split(batch_size)])
        self.goal: Goal = Untargeted(labels) if threat.goal == "untargeted" else goal_from(threat.goal, y)

    def points(self, rows: Tensor, v: Tensor | None = None) -> Batch:
        """These examples with the perturbation."""
        return _moved(self.x[rows], self.v if v is None else v, self.ball.box)

    def project(self, v: Tensor) -> Tensor:
        """The nearest perturbation of the threat's radius at most."""
        return self.ball.norm.project(v[None], self.ball.radius)[0]

    def order(self) -> Tensor:
        """The examples in a fresh random order."""
        return self.streams.uniform(_rows(self.x), (), dtype=torch.float64).argsort(stable=True)

    def run(self, go_through: Callable[[int], None], passes: int, enough: float) -> None:
        """Go through the examples, measuring after each pass; `go_through` is told how many passes are done."""
        for done in range(passes):
            go_through(done)
            self.passes = done + 1
            v = _on_grid(self.v, self.ball)
            reached: list[Tensor] = []
            for rows in _rows(self.x).split(self.batch_size):
                labels = self.meter.labels(self.points(rows, v), rows)
                reached.append(self.goal.take(rows).reached(labels) & (labels >= 0))
            rate = torch.cat(reached).double().mean().item()
            if rate > self.rate or done == 0:
                self.best, self.rate = v, rate
            if rate >= enough:
                return


class _Climb:
    """The gradient form: one step for each batch."""

    def __init__(self, search: _Search, loss: Loss, cap: float, step_size: float, passes: int) -> None:
        self.search, self.loss, self.cap, self.step_size, self.passes = search, loss, cap, step_size, passes

    def __call__(self, done: int) -> None:
        search = self.search
        batches = search.order().split(search.batch_size)
        low, high = search.ball.box
        for place, rows in enumerate(batches):
            logits, vjp = search.meter.pullback(search.points(rows), rows)
            values, cotangent = value_and_cotangent(self.loss, logits, search.goal.take(rows))
            cotangent = cotangent.masked_fill((~(values <= self.cap))[:, None], 0.0)
            gradient = vjp(cotangent).nan_to_num_(0.0, 0.0, 0.0)
            raw = search.x[rows] + search.v
            total = gradient.masked_fill_((raw < low) | (raw > high), 0.0).sum(dim=0)
            size = self.step_size * (1 - (done + place / len(batches)) / self.passes)
            search.v = search.project(search.v + size * search.ball.norm.steepest(total[None])[0])


def _deepfool_pass(search: _Search) -> None:
    """Add DeepFool's change of each example that stands."""
    for row in search.order().split(1):
        point = search.points(row)
        change = _deepfool(search, point, row)
        if change is not None:
            search.v = search.project(search.v + change[0])


def _deepfool(search: _Search, start: Batch, row: Tensor) -> Batch | None:
    """The change that takes one point over its nearest boundary; None where it stands beyond already, or still stands before."""
    goal = search.goal.take(row)
    z = base = start
    for step in range(_DEEPFOOL_STEPS):
        logits, vjp = search.meter.pullback(z, row)
        if bool(goal.margin(logits) > 0):
            return z - start if step else None
        plane, _ = nearest_plane(
            z,
            logits,
            lambda c, vjp=vjp: vjp(c).nan_to_num_(0.0, 0.0, 0.0),
            goal,
            search.ball,
            rivals_of(logits, goal, _CANDIDATES),
        )
        length = plane.distance.nan_to_num(0.0, 0.0, 0.0)
        base = base + like(length, base) * search.ball.norm.steepest(plane.gradient)
        z = (start + (1 + _OVERSHOOT) * (base - start)).clamp(*search.ball.box)
    return None


def _rows(x: Batch) -> Tensor:
    return torch.arange(len(x), device=x.device)


def _moved(x: Batch, v: Tensor, box: tuple[float, float]) -> Batch:
    return (x + v).clamp(*box)


def _on_grid(v: Tensor, ball: Ball) -> Tensor:
    """The perturbation in whole steps of the threat's grid, none of them larger."""
    if ball.grid is None:
        return v
    step = (ball.box[1] - ball.box[0]) / ball.grid
    return ((v / step).abs() + 1e-3).floor() * v.sign() * step


def _checked_ball(victim: Any, threat: ThreatModel, x: Batch) -> Ball:
    if threat.chart is not None or threat.norm not in {Norm.LINF, Norm.L2} or len(threat.radii) != 1:
        raise ThreatError(f"universal needs linf or l2 with one radius, got {threat}; write for example linf:10/255")
    if threat.goal != "untargeted" and not threat.goal.startswith("target="):
        raise ThreatError(f"universal leaves a class or reaches one for all, got {threat}; use untargeted or @target=K")
    if min(threat.access, victim.access) < Access.GRADIENTS:
        raise AccessError(
            f"universal needs gradients, but {victim.name!r} under {threat} gives {min(threat.access, victim.access)} only; "
            "make the perturbation on another model and look what it does here with `broken_on`"
        )
    target = int(threat.goal.removeprefix("target=")) if threat.goal != "untargeted" else 0
    if victim.classes is not None and target >= victim.classes:
        raise ThreatError(f"the goal names class {target}, but {victim.name!r} has classes 0 to {victim.classes - 1}")
    ball = threat.ball(victim.bounds)
    ball.check(x)
    return ball


def _judged(victim: Any, found: UniversalResult, x: Batch, y: Labels, batch_size: int) -> Tensor:
    ball, parts = found.threat.ball(found.box), []
    for rows in _rows(x).split(batch_size):
        goal = goal_from(found.threat.goal, y[rows])
        parts.append(judge(victim, found.apply(x[rows]), x[rows], goal, ball, rows).broken)
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool, device=x.device)
