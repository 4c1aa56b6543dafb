"""Proof and attack on the same examples: for each a radius that is proven and a change that breaks it.

Cheap methods first, and an example leaves as soon as it is decided: CROWN-IBP, CROWN, optimised slopes for the output, projected
gradient descent, ranges tightened value by value, and branch and bound with what is left of the time. Without a radius both ends are
found by bisection, for all examples of a batch at once, each at its own radius.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, Rows
from hauberk.certify._certificate import Certificates, joined, none_yet
from hauberk.certify.prover import CHEAP, METHODS, Prover, before, methods_to
from hauberk.errors import SettingError, ThreatError
from hauberk.layered.graph import Graph
from hauberk.threat import Ball, ThreatModel
from hauberk.victims import check_inputs, wrap

__all__ = ["METHODS", "certify"]

_BISECTIONS = 14
_FIRST_SLICE = 4.0
"""Seconds that branch and bound gives to each example at first; four times as many in each further round."""


def certify(
    model: Any,
    x: Any,
    y: Any,
    threat: str | ThreatModel,
    *,
    budget_seconds: float = 60.0,
    method: str = "auto",
    seed: int = 0,
    batch_size: int = 100,
) -> Certificates:
    """For each example, a radius proven to be safe and the smallest change found that is not.

    Args:
        model: a PyTorch classifier, or a victim of `hauberk.wrap` around one.
        x: (n, *shape) examples inside the victim's bounds.
        y: (n,) true labels.
        threat: a ball of linf, l2 or l1, for example `linf:8/255`; without a radius (`linf`) both ends are sought by bisection.
        budget_seconds: for all examples together; what is undecided then stays so. The cheap methods are always finished.
        method: `auto`, or the last method to try, of `METHODS`.
        seed: of the attack.
        batch_size: examples bounded together.

    Raises:
        AccessError: the model cannot be looked into.
        ModelError: a node of the network cannot be bounded.
        ThreatError, DataError, SettingError: an argument is not what it must be.

    Cost: a forward pass for each example; CROWN-IBP, ten or so; CROWN, one row going back for each ReLU of open sign; branch and
    bound, whatever it is given.
    """
    began = time.perf_counter()
    names = methods_to(method)
    if not budget_seconds > 0:
        raise SettingError(f"the budget is a number of seconds > 0, got {budget_seconds}")
    victim, threat = wrap(model), ThreatModel.parse(threat)
    x, y = check_inputs(victim, x, y)
    if threat.chart is not None or threat.goal != "untargeted" or threat.grid is not None or len(threat.radii) > 1:
        raise ThreatError(
            f"certify takes a norm with one radius or none, without goal and grid, for example linf:0.1, got {threat}"
        )
    threat.check(x, victim.bounds)
    region = threat.ball(victim.bounds)
    prover = Prover.of(victim, x.shape[1:])
    answered = victim.labels(x, torch.arange(len(x), device=x.device)).cpu()
    prover.check(x, answered)
    x, y = x.cpu(), y.cpu()

    def late() -> bool:
        return time.perf_counter() - began > budget_seconds

    def wrong(points: Batch, labels: Labels) -> Tensor:
        rows = torch.arange(len(points), device=victim.device)
        return victim.labels(points.to(victim.device), rows).cpu() != labels

    work = _Work(prover, wrong, Ball(region.norm, region.radius, region.box), names, seed, late)
    every = torch.arange(len(x))
    right = answered == y
    each = _quick if work.region.finite else _bisected
    found = joined([each(work, x[rows], y[rows], right[rows], rows) for rows in every.split(batch_size)])
    return _searched(work, x, y, found) if work.region.finite else found


@dataclass(frozen=True, eq=False)
class _Work:
    """What does not change from batch to batch."""

    prover: Prover
    wrong: Callable[[Batch, Labels], Tensor]
    region: Ball
    names: tuple[str, ...]
    seed: int
    late: Callable[[], bool]


def _quick(work: _Work, x: Batch, y: Labels, right: Tensor, ids: Rows) -> Certificates:
    """What cheap bounds and projected gradient descent decide."""
    began = time.perf_counter()
    lower, upper = none_yet(x)
    upper[~right] = 0.0
    status = ["undecided" if good else "misclassified" for good in right.tolist()]
    method = ["" if good else "clean" for good in right.tolist()]
    witness, radius = x.clone(), float(work.region.radius)
    open_rows = right.nonzero()[:, 0]

    def attacked(rows: Rows, *, steps: int, rivals: int) -> Rows:
        points, found = _attacked(work, x[rows], y[rows], work.region, ids[rows], steps=steps, rivals=rivals)
        for row, point in zip(rows[found].tolist(), points[found], strict=True):
            status[row], method[row], witness[row] = "broken", "pgd", point
            upper[row] = _size(work, x[row], point)
        return rows[~found]

    for name in CHEAP:
        if name in work.names and len(open_rows):
            least = work.prover.least(x[open_rows], y[open_rows], work.region, name)
            for row in open_rows[least > 0].tolist():
                status[row], method[row], lower[row] = "proven", name, radius
            open_rows = open_rows[least <= 0]
        if name == "crown_ibp":
            open_rows = attacked(open_rows, steps=10, rivals=0)
    attacked(open_rows, steps=40, rivals=3)
    exact = torch.tensor([state != "undecided" for state in status])
    share = (time.perf_counter() - began) / max(1, len(x))
    return Certificates(lower, upper, witness, status, method, exact, torch.full_like(lower, share))


def _size(work: _Work, x: Tensor, point: Tensor) -> float:
    return float(work.region.size(point[None].double(), x[None].double()))


def _searched(work: _Work, x: Batch, y: Labels, found: Certificates) -> Certificates:
    """Branch and bound on what is undecided, in slices of time: a hard example must not eat the time of those behind it."""
    lower, upper, witness, seconds = (part.clone() for part in (found.lower, found.upper, found.witness, found.seconds))
    status, method = list(found.status), list(found.method)
    slice_seconds = _FIRST_SLICE
    while "branch_and_bound" in work.names and "undecided" in status and not work.late():
        for row in [row for row, state in enumerate(status) if state == "undecided"]:
            if work.late():
                break
            start = time.perf_counter()
            own, label, until = x[row : row + 1], y[row : row + 1], before(start + slice_seconds, work.late)
            holds, point = work.prover.searched(own, label, work.region, until, partial(_breaks, work, label))
            seconds[row] += time.perf_counter() - start
            if holds:
                status[row], lower[row] = "proven", float(work.region.radius)
            elif point is not None:
                status[row], witness[row], upper[row] = "broken", point, _size(work, x[row], point)
            if status[row] != "undecided":
                method[row] = "branch_and_bound"
        slice_seconds *= 4
    exact = torch.tensor([state != "undecided" for state in status])
    return Certificates(lower, upper, witness, status, method, exact, seconds)


def _breaks(work: _Work, label: Labels, point: Batch) -> bool:
    return bool(work.wrong(point, label)[0])


def _attacked(
    work: _Work, x: Batch, y: Labels, region: Ball, ids: Rows, *, steps: int, rivals: int
) -> tuple[Batch, Tensor]:
    """Points of the region, and which of them are classified wrongly: projected gradient descent on the margin, then, from what
    withstood, towards each of the classes that score highest beside the true one (Madry et al. 2018, arXiv:1706.06083; Gowal et al.
    2019, arXiv:1910.09338)."""
    best, found = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    if not len(x):
        return best, found
    with torch.no_grad():
        order = work.prover.graph(x).flatten(1).scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)
    for round_ in range(1 + min(rivals, order.shape[1] - 1)):
        rows = (~found).nonzero()[:, 0]
        if not len(rows):
            break
        rival = None if round_ == 0 else order[rows, round_ - 1]
        part = region.take(rows)
        streams = Streams(work.seed, ids[rows], f"certify {round_}")
        points, hit = _descended(work.prover.graph, x[rows], y[rows], rival, part, streams, steps)
        hit &= part.contains(points, x[rows])
        hit[hit.clone()] = work.wrong(points[hit], y[rows[hit]])
        best[rows[hit]], found[rows[hit]] = points[hit], True
    return best, found


def _descended(
    graph: Graph, x: Batch, y: Labels, rival: Labels | None, region: Ball, streams: Streams, steps: int
) -> tuple[Batch, Tensor]:
    """The first point of each example on the way that some class scores higher at than the true one, and whether there is one."""
    z = region.start(x, torch.arange(len(x)), streams)
    best, found = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    size = torch.as_tensor(region.reach, dtype=x.dtype).expand(len(x))
    for step in range(steps + 1):
        leaf = z.detach().requires_grad_()
        logits = graph(leaf).flatten(1)
        own = logits.gather(1, y[:, None])[:, 0]
        margin = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - own
        hit = (margin.detach() > 0) & ~found
        best[hit], found = z[hit], found | hit
        if step == steps or bool(found.all()):
            break
        rising = margin if rival is None else logits.gather(1, rival[:, None])[:, 0] - own
        (gradient,) = torch.autograd.grad(rising.sum(), leaf)
        z = region.project(region.step(z, gradient, size * 0.5 * (1 - step / steps)), x)
    return best, found


def _bisected(work: _Work, x: Batch, y: Labels, right: Tensor, ids: Rows) -> Certificates:
    """Both ends, each example at its own radius."""
    began = time.perf_counter()
    lower, upper = none_yet(x)
    upper[~right] = 0.0
    witness = x.clone()
    norm, box = work.region.norm, work.region.box
    rows = right.nonzero()[:, 0]
    name = next(name for name in reversed(CHEAP) if name in work.names)

    def ball(radius: Tensor) -> Ball:
        return Ball(norm, radius.to(x.dtype), box)

    if len(rows):
        reach = work.prover.farthest(x[rows], norm)
        failed, trial, tried = torch.zeros_like(reach), reach.clone(), rows
        for _ in range(_BISECTIONS):  # halve while it works, then between
            points, found = _attacked(work, x[tried], y[tried], ball(trial), ids[tried], steps=40, rivals=3)
            size = norm.size((points - x[tried]).double())
            better = found & (size < upper[tried])
            upper[tried[better]], witness[tried[better]] = size[better], points[better]
            failed = torch.where(found, failed, torch.minimum(trial, upper[tried]))
            alive = upper[tried].isfinite()  # what withstood any change would only withstand the same again
            tried, failed = tried[alive], failed[alive]
            trial = (failed + upper[tried]) / 2
            if not len(tried):
                break
        # a little past what was broken: a proof there is a contradiction, which `Certificates` refuses
        lower[rows] = work.prover.radii(x[rows], y[rows], norm, name, torch.minimum(1.01 * upper[rows], reach))
    status = [
        "misclassified" if not good else "broken" if math.isfinite(end) else "undecided"
        for good, end in zip(right.tolist(), upper.tolist(), strict=True)
    ]
    method = [name if good else "clean" for good in right.tolist()]
    exact = (upper - lower) <= 0.01 * upper
    share = (time.perf_counter() - began) / max(1, len(x))
    return Certificates(lower, upper, witness, status, method, exact, torch.full((len(x),), share, dtype=torch.float64))
