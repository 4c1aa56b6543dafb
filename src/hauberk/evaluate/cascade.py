"""One chunk of examples through a suite: each attack on the survivors of those before it, every proposal judged.

Radii are tried in increasing order. A point broken within a radius lies within every larger one, so an example broken once
stays broken with that point, and only survivors are attacked again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Labels, flat
from hauberk.attacks import name_of
from hauberk.blocks.judge import judge
from hauberk.data import Chunk
from hauberk.evaluate.suites import Suite
from hauberk.threat import Access, Ball, Goal, Norm, Targeted, ThreatModel, goal_from
from hauberk.victims import Meter, Victim

__all__ = ["ChunkEvidence", "Clean", "Known", "Tally", "look_clean", "run_chunk"]


@dataclass
class Tally:
    """What one stage of a suite did in a chunk at one radius; the judge's forward of each proposal is in the counts.

    `refused` counts proposals that the judge did not accept because they are not finite or lie outside the region.
    """

    name: str
    radius: float
    attempted: int = 0
    broken: int = 0
    refused: int = 0
    forwards: int = 0
    backwards: int = 0
    queries: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Known:
    """A point within the largest radius that the judge accepted before the suite began, and who found it."""

    point: Tensor
    method: str


@dataclass(frozen=True, eq=False)
class Clean:
    """The victim's answers to the clean examples of a chunk.

    Attributes:
        predicted: (n,) int64; -1 where the answer is not finite.
        confidence: (n,) softmax probability of the predicted class; NaN from a victim of labels only.
        correct: (n,) bool.
        logits: (n, classes), or None from a victim of labels only.
    """

    predicted: Labels
    confidence: Tensor
    correct: Tensor
    logits: Tensor | None


@dataclass(eq=False)
class ChunkEvidence:
    """All that a chunk leaves: columns of rows, adversarial tensors, tallies and counts."""

    columns: dict[str, list[Any]]
    tensors: dict[str, Tensor]
    tallies: list[Tally]
    statuses: list[dict[str, float | int]]
    classes: dict[int, list[int]] = field(default_factory=dict)
    charged: dict[str, int] = field(default_factory=dict)
    broken_before: int = 0


def look_clean(meter: Meter, x: Tensor, y: Labels) -> Clean:
    """Classify the clean examples: one query each."""
    rows = torch.arange(len(x), device=x.device)
    if meter.access < Access.SCORES:
        predicted = meter.labels(x, rows)
        return Clean(predicted, torch.full((len(x),), torch.nan, device=x.device), predicted == y, None)
    logits = meter.logits(x, rows)
    sane = logits.isfinite().all(dim=1)
    predicted = torch.where(sane, logits.argmax(dim=1), -1)
    return Clean(predicted, logits.softmax(dim=1).amax(dim=1), predicted == y, logits)


def run_chunk(
    victim: Victim,
    chunk: Chunk,
    threat: ThreatModel,
    suite: Suite,
    *,
    seed: int,
    access: Access,
    known: Mapping[int, Known] | None = None,
    advance: Callable[[str, int], None] | None = None,
) -> ChunkEvidence:
    """Evaluate one chunk.

    Args:
        chunk: examples inside the victim's bounds, on its device.
        access: the most that may be asked.
        known: for example ids, points that count at the largest radius where the suite leaves the example standing.
        advance: called with the stage's name and the number of survivors whenever a stage ends.
    """
    x, y = chunk.x, chunk.y
    n, device = len(x), x.device
    everyone = torch.arange(n, device=device)
    total = Meter(victim, n, access=access)
    clean = look_clean(total, x, y)
    goal = goal_from(threat.goal, y, clean.logits)
    goal_met = _met(goal, y)
    open_ = clean.correct & ~goal_met
    found = _Found(x)
    tallies: list[Tally] = []
    columns: dict[str, list[Any]] = {}
    statuses: list[dict[str, float | int]] = []
    broken_before = 0
    before = torch.zeros(3, n, dtype=torch.int64, device=device)
    for radius in threat.radii:
        region = threat.ball(victim.bounds, radius)
        for stage, attack in enumerate(suite.attacks):
            tally = Tally(name_of(attack), radius)
            tallies.append(tally)
            live = everyone[open_]
            if not len(live):
                continue
            began = time.perf_counter()
            meter = Meter(victim, len(live), access=access)
            streams = Streams(seed, chunk.ids.to(device)[live], f"{stage}:{name_of(attack)}@{radius!r}")
            wanted, space = goal.take(live), region.take(live)
            points = attack(meter, x[live], wanted, space, streams=streams)
            verdict = judge(meter, points, x[live], wanted, space, torch.arange(len(live), device=device))
            total.forwards[live] += meter.forwards
            total.backwards[live] += meter.backwards
            total.queries[live] += meter.queries
            broken = verdict.broken
            found.keep(
                live[broken], points[broken], verdict.labels[broken], verdict.confidence[broken], radius, tally.name
            )
            open_[live[broken]] = False
            tally.attempted += len(live)
            tally.broken += int(broken.sum())
            tally.refused += int((~verdict.allowed).sum())
            tally.forwards += int(meter.forwards.sum())
            tally.backwards += int(meter.backwards.sum())
            tally.queries += int(meter.queries.sum())
            tally.seconds += time.perf_counter() - began
            if advance is not None:
                advance(tally.name, int(open_.sum()))
        if radius == threat.radii[-1]:
            broken_before = _adopt(known or {}, chunk, total, goal, region, open_, found, radius)
        spent = torch.stack((total.forwards, total.backwards, total.queries))
        _add_rows(columns, chunk, clean, found, radius, spent - before)
        before = spent
        is_broken = found.method_index >= 0
        statuses.append(
            {
                "radius": radius,
                "misclassified": int((~clean.correct).sum()),
                "broken": int(is_broken.sum()),
                "undecided": int((clean.correct & ~is_broken).sum()),
                "proven": 0,
            }
        )
    standing = clean.correct & ~(found.method_index >= 0)
    classes: dict[int, list[int]] = {}
    for label in y.unique().tolist():
        own = y == label
        classes[label] = [int(own.sum()), int((clean.correct & own).sum()), int((standing & own).sum())]
    charged = {
        "forwards": int(total.forwards.sum()),
        "backwards": int(total.backwards.sum()),
        "queries": int(total.queries.sum()),
    }
    return ChunkEvidence(columns, found.tensors(chunk.ids), tallies, statuses, classes, charged, broken_before)


class _Found:
    """The adversarial point that the judge accepted for each example of a chunk."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.points = x, x.clone()
        self.labels = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        self.confidence = torch.full((len(x),), torch.nan, dtype=x.dtype, device=x.device)
        self.radius = torch.full((len(x),), torch.nan, dtype=torch.float64)
        self.method_index = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        self.methods: list[str] = []

    def keep(
        self, rows: Tensor, points: Tensor, labels: Tensor, confidence: Tensor, radius: float, method: str
    ) -> None:
        self.points[rows], self.labels[rows], self.confidence[rows] = points, labels, confidence.to(self.confidence)
        self.radius[rows.cpu()] = radius
        if method not in self.methods:
            self.methods.append(method)
        self.method_index[rows] = self.methods.index(method)

    def tensors(self, ids: Tensor) -> dict[str, Tensor]:
        """For the broken examples: `example`, `radius` they were first broken at, `adversarials`, `originals`."""
        broken = self.method_index >= 0
        return {
            "example": ids[broken.to(ids.device)],
            "radius": self.radius[broken.cpu()],
            "adversarials": self.points[broken],
            "originals": self.x[broken],
        }


def _adopt(
    known: Mapping[int, Known],
    chunk: Chunk,
    meter: Meter,
    goal: Goal,
    region: Ball,
    open_: Tensor,
    found: _Found,
    radius: float,
) -> int:
    """Judge the known points of examples that still stand, against the examples as they are here; how many are broken."""
    rows = [row for row in open_.nonzero()[:, 0].tolist() if int(chunk.ids[row]) in known]
    if not rows:
        return 0
    brought = [known[int(chunk.ids[row])] for row in rows]
    place, points = torch.tensor(rows, device=chunk.x.device), torch.stack([point.point for point in brought])
    verdict = judge(meter, points, chunk.x[place], goal.take(place), region.take(place), place)
    for k in verdict.broken.nonzero()[:, 0].tolist():
        one = slice(k, k + 1)
        found.keep(place[one], points[one], verdict.labels[one], verdict.confidence[one], radius, brought[k].method)
    return int(verdict.broken.sum())


def _met(goal: Goal, y: Labels) -> Tensor:
    """(n,) bool: the true class is the target itself, so that there is nothing to reach."""
    if isinstance(goal, Targeted):
        return goal.classes == y
    return torch.zeros_like(y, dtype=torch.bool)


def _add_rows(
    columns: dict[str, list[Any]], chunk: Chunk, clean: Clean, found: _Found, radius: float, spent: Tensor
) -> None:
    broken = (found.method_index >= 0).tolist()
    delta = (found.points - found.x).to(torch.float64 if found.x.device.type != "mps" else found.x.dtype)
    sizes = {norm: norm.size(delta).tolist() for norm in Norm} if flat(delta).shape[1] else {}
    status = [
        "misclassified" if not right else "broken" if fell else "undecided"
        for right, fell in zip(clean.correct.tolist(), broken, strict=True)
    ]

    def where_broken(values: list[Any]) -> list[Any]:
        return [value if fell else None for value, fell in zip(values, broken, strict=True)]

    new: dict[str, list[Any]] = {
        "example": chunk.ids.tolist(),
        "label": chunk.y.tolist(),
        "predicted": clean.predicted.tolist(),
        "status": status,
        "method": [found.methods[index] if index >= 0 else None for index in found.method_index.tolist()],
        "radius": [radius] * len(status),
        **{norm.value: where_broken(sizes[norm]) for norm in (Norm.LINF, Norm.L2, Norm.L1)},
        "l0": where_broken([int(size) for size in sizes[Norm.L0]]),
        "adversarial_label": where_broken(found.labels.tolist()),
        "confidence": where_broken(found.confidence.tolist()),
        "clean_confidence": clean.confidence.tolist(),
        "forwards": spent[0].tolist(),
        "backwards": spent[1].tolist(),
        "queries": spent[2].tolist(),
    }
    for name, values in new.items():
        columns.setdefault(name, []).extend(values)
