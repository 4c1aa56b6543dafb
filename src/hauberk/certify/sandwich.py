"""Proof and attack on the same examples: for each a radius that is proven and a change that breaks it.

Cheap methods first, and an example leaves as soon as it is decided: CROWN-IBP, CROWN, optimised slopes for the output, projected
gradient descent, ranges tightened value by value, and branch and bound with what is left of the time. Without a radius both ends are
found by bisection, for all examples of a batch at once, each at its own radius.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, PerExample, Rows
from hauberk.bounds import Inputs, Ranges, lower_bounds, ranges_of, require_bounds
from hauberk.bounds.optimise import optimised
from hauberk.bounds.refine import refined
from hauberk.certify._certificate import Certificates, none_yet
from hauberk.certify._falsify import Witness
from hauberk.certify._property import Case, Property
from hauberk.certify.branch_and_bound import BranchAndBound
from hauberk.errors import ModelError, SettingError, ThreatError
from hauberk.layered.fold import folded
from hauberk.layered.graph import Graph
from hauberk.layered.lower import lowered
from hauberk.threat import Ball, ThreatModel
from hauberk.victims import check_inputs, wrap
from hauberk.victims.layered import layered

__all__ = ["METHODS", "certify"]

METHODS = ("auto", "crown_ibp", "crown", "alpha_crown", "branch_and_bound")
"""How far to go; `auto` goes all the way."""
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
    if method not in METHODS:
        raise SettingError(f"the method is one of {', '.join(METHODS)}, got {method!r}")
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
    graph = layered(victim, x.shape[1:])
    plain = lowered(folded(graph))
    require_bounds(plain)
    x, y = x.cpu(), y.cpu()
    with torch.no_grad():
        predicted = graph(x).flatten(1).argmax(dim=1)
    answered = victim.labels(x.to(victim.device), torch.arange(len(x), device=victim.device)).cpu()
    if not torch.equal(predicted, answered):
        raise ModelError(
            f"{victim.name!r} and the network read from it disagree on {int((predicted != answered).sum())} of {len(x)} examples; a proof "
            "would speak of another model: please report it"
        )
    names = METHODS if method == "auto" else METHODS[: METHODS.index(method) + 1]

    def late() -> bool:
        return time.perf_counter() - began > budget_seconds

    def wrong(points: Batch, labels: Labels) -> Tensor:
        rows = torch.arange(len(points), device=victim.device)
        return victim.labels(points.to(victim.device), rows).cpu() != labels

    work = _Work(plain, wrong, Ball(region.norm, region.radius, region.box), names, seed, late)
    parts = [
        _batch(work, x[rows], y[rows], answered[rows] == y[rows], rows)
        for rows in torch.arange(len(x)).split(batch_size)
    ]
    return Certificates(
        torch.cat([part.lower for part in parts]),
        torch.cat([part.upper for part in parts]),
        torch.cat([part.witness for part in parts]),
        [status for part in parts for status in part.status],
        [name for part in parts for name in part.method],
        torch.cat([part.exact for part in parts]),
        torch.cat([part.seconds for part in parts]),
    )


@dataclass(frozen=True, eq=False)
class _Work:
    """What does not change from batch to batch."""

    graph: Graph
    wrong: Callable[[Batch, Labels], Tensor]
    region: Ball
    names: tuple[str, ...]
    seed: int
    late: Callable[[], bool]


def _batch(work: _Work, x: Batch, y: Labels, right: Tensor, ids: Rows) -> Certificates:
    began = time.perf_counter()
    lower, upper = none_yet(x)
    upper[~right] = 0.0
    status = ["undecided" if good else "misclassified" for good in right.tolist()]
    method = ["" if good else "clean" for good in right.tolist()]
    witness, extra = x.clone(), torch.zeros(len(x), dtype=torch.float64)
    open_rows = right.nonzero()[:, 0]
    if not work.region.finite:
        return _bisected(work, x, y, right, ids)
    radius = float(work.region.radius)

    def proven(rows: Rows, name: str) -> None:
        for row in rows.tolist():
            status[row], method[row], lower[row] = "proven", name, radius

    def broken(rows: Rows, points: Batch, name: str) -> None:
        for row, point in zip(rows.tolist(), points, strict=True):
            status[row], method[row], witness[row] = "broken", name, point
            upper[row] = float(work.region.size(point[None].double(), x[row : row + 1].double()))

    def attacked(rows: Rows, *, steps: int, rivals: int) -> Rows:
        points, found = _attacked(work, x[rows], y[rows], work.region, ids[rows], steps=steps, rivals=rivals)
        broken(rows[found], points[found], "pgd")
        return rows[~found]

    for name in ("crown_ibp", "crown", "alpha_crown"):
        if name in work.names and len(open_rows):
            least, _ = _least(work, x[open_rows], y[open_rows], work.region, name)
            proven(open_rows[least > 0], name)
            open_rows = open_rows[least <= 0]
        if name == "crown_ibp":
            open_rows = attacked(open_rows, steps=10, rivals=0)
    open_rows = attacked(open_rows, steps=40, rivals=3)
    share = (time.perf_counter() - began) / max(1, len(x))
    slice_seconds = _FIRST_SLICE
    while "branch_and_bound" in work.names and len(open_rows) and not work.late():
        for row in open_rows.tolist():  # a hard example must not eat the time of those behind it
            if work.late():
                break
            start = time.perf_counter()
            verdict, point = _searched(work, x[row : row + 1], y[row : row + 1], start + slice_seconds)
            extra[row] += time.perf_counter() - start
            if verdict == "holds":
                proven(torch.tensor([row]), "branch_and_bound")
            elif point is not None:
                broken(torch.tensor([row]), point[None], "branch_and_bound")
        open_rows = open_rows[torch.tensor([status[row] == "undecided" for row in open_rows.tolist()])]
        slice_seconds *= 4
    exact = torch.tensor([state != "undecided" for state in status])
    return Certificates(lower, upper, witness, status, method, exact, extra + share)


def _spec(classes: int, y: Labels, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(B, classes - 1, classes) the margins of the true class over each other one, and (B, classes - 1) which one that is."""
    eye = torch.eye(classes, dtype=dtype)
    others = torch.tensor([[c for c in range(classes) if c != own] for own in y.tolist()]).reshape(len(y), classes - 1)
    return eye[y][:, None] - eye[others], others


def _least(work: _Work, x: Batch, y: Labels, region: Ball, name: str) -> tuple[PerExample, Ranges]:
    """(B,) lower bounds of the smallest margin."""
    graph = work.graph
    ranges = ranges_of(graph, Inputs.of(region, x), "ibp" if name == "crown_ibp" else "crown")
    spec, _ = _spec(math.prod(graph.output_shape), y, x.dtype)
    least = lower_bounds(graph, ranges, spec.reshape(*spec.shape[:2], *graph.output_shape))
    if name == "alpha_crown":
        rows, which = (least <= 0).nonzero(as_tuple=True)
        if len(rows):
            functions = spec[rows, which].reshape(-1, *graph.output_shape)
            found = optimised(graph, ranges.take(rows), functions, steps=10, rate=0.3).lower
            least[rows, which] = torch.maximum(least[rows, which], found)
    return least.amin(dim=1), ranges


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
        order = work.graph(x).flatten(1).scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)
    for round_ in range(1 + min(rivals, order.shape[1] - 1)):
        rows = (~found).nonzero()[:, 0]
        if not len(rows):
            break
        rival = None if round_ == 0 else order[rows, round_ - 1]
        part = region.take(rows)
        streams = Streams(work.seed, ids[rows], f"certify {round_}")
        points, hit = _descended(work.graph, x[rows], y[rows], rival, part, streams, steps)
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


def _searched(work: _Work, x: Batch, y: Labels, until: float) -> tuple[str, Tensor | None]:
    """Branch and bound on one example, to the time `until`: `holds`, or `unknown` with or without a point that breaks it."""
    graph, region = work.graph, work.region
    inputs = Inputs.of(region, x)
    ranges = refined(graph, ranges_of(graph, inputs))
    spec, _ = _spec(math.prod(graph.output_shape), y, x.dtype)
    least = lower_bounds(graph, ranges, spec.reshape(1, -1, *graph.output_shape))[0]
    low, high = (side.double().flatten().numpy() for side in (inputs.low, inputs.high))
    cases = tuple(Case(low, high, row[None].double().numpy(), np.zeros(1)) for row in spec[0])

    def confirm(flat: NDArray[np.float32]) -> bool:
        point = torch.from_numpy(flat).to(x.dtype).reshape(x.shape)
        return bool(region.contains(point, x)[0]) and bool(work.wrong(point, y)[0])

    def late() -> bool:
        return work.late() or time.perf_counter() > until

    asked = Property(cases)
    stacked = asked.by_box()[0]
    witness = Witness(graph.to(dtype=torch.float32), asked, confirm)
    for place in least.argsort(descending=True).tolist():
        if float(least[place]) > 0:
            continue
        verdict = BranchAndBound()(graph, ranges, spec[0, place], 0.0, stacked, witness, late=late)
        if verdict.status == "violated" and verdict.witness is not None:
            return "violated", torch.from_numpy(verdict.witness).to(x.dtype).reshape(x.shape[1:])
        if verdict.status != "holds":
            return "unknown", None
    return "holds", None


def _bisected(work: _Work, x: Batch, y: Labels, right: Tensor, ids: Rows) -> Certificates:
    """Both ends, each example at its own radius."""
    began = time.perf_counter()
    lower, upper = none_yet(x)
    upper[~right] = 0.0
    witness = x.clone()
    norm, box = work.region.norm, work.region.box
    rows = right.nonzero()[:, 0]
    name = next((name for name in ("alpha_crown", "crown") if name in work.names), "crown_ibp")
    farthest = norm.size(torch.full_like(x[:1], box[1] - box[0])).double()

    def ball(radius: Tensor) -> Ball:
        return Ball(norm, radius.to(x.dtype), box)

    if len(rows):
        reach = farthest.expand(len(rows)).clone()
        high = reach.clone()
        for _ in range(_BISECTIONS):  # the attack: halve while it works, then between
            trial = torch.where(upper[rows].isinf(), high, (lower[rows] + upper[rows]) / 2)
            points, found = _attacked(work, x[rows], y[rows], ball(trial), ids[rows], steps=40, rivals=3)
            size = norm.size((points - x[rows]).double())
            better = found & (size < upper[rows])
            upper[rows[better]], witness[rows[better]] = size[better], points[better]
            lower[rows[~found]] = torch.maximum(lower[rows[~found]], torch.minimum(trial, upper[rows])[~found])
        lower.zero_()  # that was where the attack failed, which proves nothing
        # a little past what was broken: a proof there is a contradiction, which `Certificates` refuses
        low, high = torch.zeros_like(reach), torch.minimum(1.01 * upper[rows], reach)
        for _ in range(_BISECTIONS):
            trial = torch.where(low == 0, high / 2, (low + high) / 2)
            least, _ = _least(work, x[rows], y[rows], ball(trial), name)
            low, high = torch.where(least > 0, trial, low), torch.where(least > 0, high, trial)
        lower[rows] = low.to(x.dtype).double()  # the radius that was bounded
    status = [
        "misclassified" if not good else "broken" if math.isfinite(end) else "undecided"
        for good, end in zip(right.tolist(), upper.tolist(), strict=True)
    ]
    method = [name if good else "clean" for good in right.tolist()]
    exact = (upper - lower) <= 0.01 * upper
    share = (time.perf_counter() - began) / max(1, len(x))
    return Certificates(lower, upper, witness, status, method, exact, torch.full((len(x),), share, dtype=torch.float64))
