"""The binarisation test: an attack that cannot find an adversarial example that is known to be there proves nothing by failing.

For each example x, with phi(x) what the model's last linear layer reads:

    inner points     x and uniform points of 0.95 times the region          class 0
    boundary point   one random corner of the region (L2: of its sphere)    class 1
    h(x') = <w, phi(x')> + b     separates them linearly, b such that the boundary point is just inside class 1

h has an adversarial example within the region, the boundary point. PGD and hopping PGD, as they attack the model, must find one.

Source: Zimmermann, Brendel, Tramer, Carlini 2022, "Increasing confidence in adversarial robustness evaluations",
arXiv:2206.13991, whose 0.95, single boundary point and 0.999 of the margin these are.
**Differs from the paper:** half as many inner points as there are features, at most 200 and at least 16, instead of 999; examples
whose points no plane separates are left out; the separating plane is that of ridge regression, moved. A random search of as many
steps is reported beside them, as there. The test fails where the exact 95 % interval of their successes lies below 0.95.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows, flat
from hauberk.attacks import PGD, HoppingPGD, Noise, name_of
from hauberk.errors import AccessError
from hauberk.evaluate.audit.finding import Finding
from hauberk.evaluate.audit.part import Part
from hauberk.evaluate.statistics import clopper_pearson
from hauberk.threat import Access, Norm, Untargeted
from hauberk.victims import Meter, TorchVictim
from hauberk.victims.before_softmax import leaf_of

__all__ = ["binarisation_test"]

PASSES = 0.95
"""The share of the examples where an attack that is to be trusted must find what is there."""
_STEPS = 40


def binarisation_test(part: Part) -> Finding | None:
    """Build the test for each audited example, and let the climbs take it.

    Cost: at most 242 forwards an example to build it, at most 220 forwards and 140 backwards to take it.

    Raises:
        AccessError: the model is no PyTorch module with a linear last layer, or gives no gradients.
    """
    victim = part.meter.victim
    if not isinstance(victim, TorchVictim) or part.meter.access < Access.GRADIENTS or not _fits(part):
        raise AccessError(
            "the binarisation test needs a PyTorch module that gives gradients and a threat in linf or l2, got "
            f"{victim.name!r} under {part.threat}; leave --binarisation out"
        )
    features = _Features(victim, part)
    weight, bias, kept = _planes(part, features)
    rows = kept.nonzero()[:, 0]
    if not len(rows):
        return Finding(
            "binarisation-test-fails",
            "info",
            f"in the features of {features.layer!r} no plane separates the boundary point from the inner ones on any of {len(part)} "
            "examples, so that the test could not be made",
            "read the other findings",
        )
    test = _Binary(features, weight[rows], bias[rows])
    region, zeros = part.region.take(rows), torch.zeros(len(rows), dtype=torch.int64, device=part.x.device)
    goal = Untargeted(zeros)
    found = _found(
        part, test, PGD(steps=_STEPS, loss="margin", start=part.start, schedule="linear"), rows, region, goal
    )
    found |= _found(part, test, HoppingPGD(restarts=5), rows, region, goal)
    by_chance = _found(part, test, Noise(tries=_STEPS), rows, region, goal)
    if clopper_pearson(int(found.sum()), len(rows)).high >= PASSES:
        return None
    return Finding(
        "binarisation-test-fails",
        "error",
        f"with a last layer that is known to have an adversarial example around each of {len(rows)} examples, PGD and "
        f"hopping PGD found {float(found.double().mean()):.0%} of them and random search {float(by_chance.double().mean()):.0%}; "
        f"{PASSES:.0%} are asked for",
        "this attack would miss adversarial examples of the model as well: adapt it until it passes (BPDA, EOT, smoothed gradients, "
        "more steps)",
        ("smooth", "score-attacks", "more-steps"),
    )


def _fits(part: Part) -> bool:
    return part.threat.chart is None and part.region.norm in {Norm.LINF, Norm.L2}


class _Features:
    """What the last linear layer of a PyTorch victim reads."""

    def __init__(self, victim: TorchVictim, part: Part) -> None:
        self.victim, self.meter, self.rows = victim, part.meter, part.rows
        self.layer = self._last_linear(part.x[:4])

    def _last_linear(self, x: Batch) -> str:
        found: list[tuple[str, Tensor]] = []
        rows = torch.arange(len(x), device=x.device)
        with self.victim.opened(x) as net:
            hooks = [
                module.register_forward_hook(_noting(found, name))
                for name, module in net.named_modules()
                if isinstance(module, nn.Linear)
            ]
            try:
                answer = self.victim.logits(x, rows)
            finally:
                for hook in hooks:
                    hook.remove()
        for name, out in reversed(found):
            if out.shape == answer.shape:
                return name
        raise AccessError(
            f"the binarisation test needs a linear layer that gives the scores, and {self.victim.name!r} has none; leave "
            "--binarisation out"
        )

    def read(self, x: Batch, rows: Rows, *, graph: bool = False) -> Tensor:
        """(B, features): one forward, charged; with `graph` part of the graph of the input."""
        seen: list[Tensor] = []
        with self.victim.opened(x) as net:
            hook = net.get_submodule(self.layer).register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
            try:
                if graph:
                    self.meter.pullback(x, self.rows[rows])
                else:
                    self.meter.logits(x, self.rows[rows])
            finally:
                hook.remove()
        return flat(seen[-1])


def _noting(found: list[tuple[str, Tensor]], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def note(module: nn.Module, given: Any, made: Any) -> None:
        if isinstance(made, Tensor):
            found.append((name, made))

    return note


class _Binary:
    """A victim of two classes for each example: inner and boundary."""

    access, classes, forwards_per_query, judge_samples = Access.GRADIENTS, 2, 1, 0

    def __init__(self, features: _Features, weight: Tensor, bias: Tensor) -> None:
        self.features, self.weight, self.bias = features, weight, bias
        victim = features.victim
        self.name, self.bounds, self.device, self.dtype = "binarised", victim.bounds, victim.device, victim.dtype
        self.places: Rows = torch.arange(len(bias), device=victim.device)

    def left(self, rows: Rows) -> PerExample:
        return self.features.meter.left(rows)

    def labels(self, x: Batch, rows: Rows) -> Labels:
        return self.logits(x, rows).argmax(dim=1)

    def logits(self, x: Batch, rows: Rows) -> Logits:
        return self._scores(self.features.read(x, self.places[rows]), rows).detach()

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        read = self.features.read(x, self.places[rows], graph=True)
        with torch.enable_grad():
            scores = self._scores(read, rows)
        leaf = leaf_of(scores, x) if scores.requires_grad else None

        def vjp(cotangent: Logits) -> Batch:
            if leaf is None:
                return torch.zeros_like(x)
            found: Any = torch.autograd.grad(scores, leaf, cotangent.to(scores), retain_graph=True, allow_unused=True)
            return torch.zeros_like(x) if found[0] is None else found[0]

        return scores.detach(), vjp

    def _scores(self, read: Tensor, rows: Rows) -> Logits:
        score = (read.to(self.weight) * self.weight[rows]).sum(dim=1) + self.bias[rows]
        return torch.stack((torch.zeros_like(score), score), dim=1).to(self.dtype)


def _planes(part: Part, features: _Features) -> tuple[Tensor, Tensor, Tensor]:
    """(n, D) weights, (n,) offsets, and (n,) bool: the points of this example can be separated."""
    streams = part.streams("binarisation")
    inner = part.region.with_radius(part.share_of_radius(0.95))
    everyone = part.everyone
    first = features.read(part.x, everyone).double()
    count = max(16, min(200, first.shape[1] // 2))
    reads = [first] + [
        features.read(inner.start(part.x, everyone, streams), everyone).double() for _ in range(count - 1)
    ]
    inside = torch.stack(reads, dim=1)  # (n, count, D)
    outside = features.read(_boundary_points(part), everyone).double()  # (n, D)
    centre = inside.mean(dim=1, keepdim=True)
    spread = inside - centre
    gap = outside - centre.squeeze(1)
    # the direction of largest distance over spread: (S + ridge) w = gap, solved in the span of the points
    gram = spread @ spread.transpose(1, 2)
    ridge = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-12)
    eye = torch.eye(count, dtype=gram.dtype, device=gram.device)
    inner_part = torch.linalg.solve(gram + ridge[:, None, None] * eye, (spread @ gap[:, :, None]))
    weight = gap - (spread.transpose(1, 2) @ inner_part).squeeze(2)
    weight = weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-300)
    high = (inside @ weight[:, :, None]).squeeze(2).amax(dim=1)
    reached = (outside * weight).sum(dim=1)
    scale = outside.norm(dim=1) + inside.norm(dim=2).amax(dim=1)
    kept = (reached - high > 1e-4 * scale) & weight.isfinite().all(dim=1)
    return weight, -(high + 0.999 * (reached - high)), kept


def _boundary_points(part: Part) -> Batch:
    """One random point of each example as far away as the region allows."""
    signs = part.streams("boundary").signs(part.everyone, part.x.shape[1:], dtype=part.x.dtype)
    return part.region.linear_max(signs, part.x)


def _found(
    part: Part, test: _Binary, attack: PGD | HoppingPGD | Noise, rows: Tensor, region: Any, goal: Untargeted
) -> Tensor:
    """(len(rows),) bool: the attack finds what is there."""
    test.places = rows
    x = part.x[rows]
    streams = part.streams(f"binarised {name_of(attack)}").take(rows)
    points = attack(Meter(test, len(rows)), x, goal, region, streams=streams)
    place = torch.arange(len(rows), device=x.device)
    return (test.labels(points, place) == 1) & region.contains(points, x)
