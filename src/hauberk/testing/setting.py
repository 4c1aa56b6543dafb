"""The small settings that the contract runs attacks in: pictures, vectors, victims that misbehave, and one way to run and judge."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, final

import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows
from hauberk.attacks import Attack, name_of
from hauberk.blocks.judge import judge
from hauberk.threat import Access, Ball, Goal, Norm, Untargeted
from hauberk.victims import UNLIMITED, Meter, Victim, wrap

__all__ = ["RADII", "Outcome", "RowByRow", "Setting", "constant", "pictures", "run", "vectors", "with_holes"]

RADII = {Norm.LINF: 0.06, Norm.L2: 0.35, Norm.L1: 1.2, Norm.L0: 3.0}
"""Where some of the examples of each setting can be broken and some cannot."""


@dataclass(frozen=True, eq=False)
class Setting:
    """A victim and examples that it classifies as `y`.

    Attributes:
        x: (n, *shape) in [0, 1], on the grid of 255 steps.
        ids: (n,) the addresses of the examples' randomness, not 0, 1, 2, ... .
    """

    victim: Victim
    x: Batch
    y: Labels
    ids: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def row_by_row(self) -> "Setting":
        """The same, but for rounding: the victim answers each row alone."""
        return replace(self, victim=RowByRow(self.victim))

    def take(self, rows: Rows) -> "Setting":
        """The setting of the examples `rows` alone."""
        return replace(self, x=self.x[rows], y=self.y[rows], ids=self.ids[rows])


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an attack proposed, what the judge says of it, and what it cost; one entry per example.

    `margin` is the goal's at the proposed point, as a victim of full access has it.
    """

    points: Batch
    broken: Tensor
    allowed: Tensor
    margin: PerExample
    queries: Tensor
    forwards: Tensor
    backwards: Tensor


def run(
    attack: Attack,
    setting: Setting,
    region: Ball,
    *,
    goal: Goal | None = None,
    seed: int = 0,
    budget: int | None = None,
    meter: Meter | None = None,
) -> Outcome:
    """Run an attack with exactly the access that it declares, and judge it."""
    n = len(setting)
    rows = torch.arange(n)
    goal = Untargeted(setting.y) if goal is None else goal
    meter = Meter(setting.victim, n, budget=budget, access=attack.access) if meter is None else meter
    streams = Streams(seed, setting.ids, name_of(attack))
    points = attack(meter, setting.x.clone(), goal, region, streams=streams)
    if not isinstance(points, Tensor) or points.shape != setting.x.shape or points.dtype != setting.x.dtype:
        found = f"{tuple(points.shape)} of {points.dtype}" if isinstance(points, Tensor) else type(points).__name__
        raise AssertionError(
            f"expected one point per example, {tuple(setting.x.shape)} of {setting.x.dtype}, got {found}"
        )
    verdict = judge(setting.victim, points, setting.x, goal, region, rows)
    logits = setting.victim.logits(points.nan_to_num(0.0), rows)
    return Outcome(
        points, verdict.broken, verdict.allowed, goal.margin(logits), meter.queries, meter.forwards, meter.backwards
    )


@final
class RowByRow:
    """A victim that answers each row alone, so that not even the rounding of its kernels depends on the batch.

    Args:
        victim: with scores and gradients.
    """

    forwards_per_query = 1

    def __init__(self, victim: Any) -> None:
        self.victim = victim
        self.name, self.bounds, self.device, self.dtype = victim.name, victim.bounds, victim.device, victim.dtype
        self.access: Access = victim.access
        self.notes: tuple[str, ...] = ()

    @property
    def classes(self) -> int | None:
        return self.victim.classes

    @property
    def description(self) -> dict[str, Any]:
        return {**self.victim.description, "rows": "one by one"}

    def fingerprint(self) -> str:
        return self.victim.fingerprint()

    def left(self, rows: Rows) -> PerExample:
        return torch.full_like(rows, UNLIMITED)

    def probe(self, x: Batch) -> None:
        self.victim.probe(x)

    def labels(self, x: Batch, rows: Rows) -> Labels:
        return torch.cat([self.victim.labels(x[i : i + 1], rows[i : i + 1]) for i in range(len(x))]) if len(x) else rows

    def logits(self, x: Batch, rows: Rows) -> Logits:
        if not len(x):
            return x.new_zeros(0, self.classes or 2)
        return torch.cat([self.victim.logits(x[i : i + 1], rows[i : i + 1]) for i in range(len(x))])

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        if not len(x):
            return self.logits(x, rows), lambda cotangent: x.clone()
        parts = [self.victim.pullback(x[i : i + 1], rows[i : i + 1]) for i in range(len(x))]

        def vjp(cotangent: Logits) -> Batch:
            return torch.cat([part(cotangent[i : i + 1]) for i, (_, part) in enumerate(parts)])

        return torch.cat([logits for logits, _ in parts]), vjp


@cache
def pictures(count: int = 9) -> Setting:
    """A two-layer tanh net in float64 on pictures of 2 channels, 5 by 6, with 4 classes."""
    return _setting(wrap(_net(60, 12, 4), name="tanh net"), (2, 5, 6), count)


@cache
def vectors(count: int = 7) -> Setting:
    """A two-layer tanh net in float64 on vectors of 11 numbers, with 3 classes."""
    return _setting(wrap(_net(11, 8, 3), name="tanh net on vectors"), (11,), count)


@cache
def constant() -> Setting:
    """A victim that answers the same everywhere, whose gradients are all zero."""
    return _setting(wrap(_Flat(), name="constant"), (2, 5, 6), 4)


@cache
def with_holes() -> Setting:
    """The net on pictures, with answers that are NaN where the first value is below one half."""
    net = _net(60, 12, 4)
    examples = pictures()
    x = examples.x.clone()
    x[:, 0, 0, 0] = torch.tensor([128, 129, 130, 140, 200, 255, 255, 128, 131], dtype=torch.float64) / 255
    setting = replace(examples, victim=wrap(_Holes(net), name="net with NaN"), x=x)
    return replace(setting, y=setting.victim.labels(x, torch.arange(len(x))))


def _setting(victim: Victim, shape: tuple[int, ...], count: int) -> Setting:
    ids = 5 + 3 * torch.arange(count)
    everyone = torch.arange(count)
    steps = Streams(0, ids, "contract examples").integers(everyone, 256, shape)
    x = steps.to(torch.float64) / 255
    x.view(count, -1)[:, 1], x.view(count, -1)[:, 2] = 0.0, 1.0  # on the walls of the box
    victim.probe(x)
    return Setting(victim, x, victim.labels(x, everyone), ids)


def _net(features: int, hidden: int, classes: int) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, classes)).double()
    for place, layer in enumerate(part for part in net if isinstance(part, nn.Linear)):
        out, fan_in = layer.weight.shape
        rows = torch.arange(out)
        streams = Streams(1, rows, f"contract layer {place}")
        weights = streams.normal(rows, (fan_in + 1,), dtype=torch.float64) / fan_in**0.5
        layer.weight.data.copy_(weights[:, :-1] * 1.7)
        layer.bias.data.copy_(weights[:, -1])
    return net


class _Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores[None] + 0.0 * x.flatten(1).sum(dim=1, keepdim=True)


class _Holes(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        hole = (x.flatten(1)[:, :1] < 0.5) & (x.flatten(1)[:, :1] > 0.0)
        return torch.where(hole, torch.full_like(x.flatten(1)[:, :1], torch.nan), self.net(x))
