"""One chunk of examples through a suite: each attack on the survivors of those before it, every proposal judged.

Radii are tried in increasing order. A point broken within a radius lies within every larger one, so an example broken once
stays broken with that point, and only survivors are attacked again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Labels, Rows, flat
from hauberk.blocks.judge import Verdict, by_vote, judge
from hauberk.data import Chunk
from hauberk.evaluate.suites import Suite
from hauberk.evaluate.through import label_of
from hauberk.evaluate.witness import Witness, is_foreign
from hauberk.threat import Access, Ball, Goal, Norm, Region, Targeted, ThreatModel, goal_from
from hauberk.victims import Meter, Victim, Votes, posed, shown

__all__ = ["ChunkEvidence", "Clean", "Known", "Tally", "look_clean", "run_chunk"]


@dataclass
class Tally:
    """What one stage of a suite did in a chunk at one radius; the judge's forward of each proposal is in the counts.

    `refused` counts proposals that the judge did not accept because they are not finite or lie outside the region, `silent` the
    examples that are broken by a point the attack passed through and did not propose.
    """

    name: str
    radius: float
    attempted: int = 0
    broken: int = 0
    refused: int = 0
    silent: int = 0
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
    clean: Clean | None = None
    found: "_Found | None" = None
    voted: bool = False


def look_clean(meter: Meter, x: Tensor, y: Labels, rows: Rows | None = None) -> Clean:
    """Classify the clean examples, which are all that the meter speaks of or these rows: one query each."""
    rows = torch.arange(len(x), device=x.device) if rows is None else rows
    if meter.judge_samples:
        return _voted(meter.votes(x, rows), x, y)
    if meter.access < Access.SCORES:
        predicted = meter.labels(x, rows)
        return Clean(predicted, torch.full((len(x),), torch.nan, device=x.device), predicted == y, None)
    logits = meter.logits(x, rows)
    sane = logits.isfinite().all(dim=1)
    predicted = torch.where(sane, logits.argmax(dim=1), -1)
    return Clean(predicted, logits.softmax(dim=1).amax(dim=1), predicted == y, logits)


def _voted(votes: Votes, x: Tensor, y: Labels) -> Clean:
    """The majority of a randomised victim's answers."""
    predicted = votes.winner
    if votes.logits is None:
        return Clean(predicted, torch.full((len(x),), torch.nan, device=x.device), predicted == y, None)
    confidence = votes.logits.softmax(dim=2).mean(dim=0).gather(1, predicted.clamp_min(0)[:, None]).squeeze(1)
    return Clean(predicted, confidence, predicted == y, votes.logits.mean(dim=0))


def run_chunk(
    victim: Victim,
    chunk: Chunk,
    threat: ThreatModel,
    suite: Suite,
    *,
    seed: int,
    access: Access,
    known: Mapping[int, Known] | None = None,
    earlier: ChunkEvidence | None = None,
    advance: Callable[[str, int], None] | None = None,
) -> ChunkEvidence:
    """Evaluate one chunk.

    Args:
        chunk: examples inside the victim's bounds, on its device.
        access: the most that may be asked.
        known: for example ids, points that count at the largest radius where the suite leaves the example standing.
        earlier: what other attacks left of the same chunk under the same threat. What they broke stays broken; where this victim
            votes and the one before did not, only what the vote confirms.
        advance: called with the stage's name and the number of survivors whenever a stage ends.
    """
    x, y = chunk.x, chunk.y
    n, device = len(x), x.device
    everyone = torch.arange(n, device=device)
    total = Meter(victim, n, access=access)
    revote = total.judge_samples > 0 and not (earlier is not None and earlier.voted)
    known_clean = earlier.clean if earlier is not None and not revote else None
    clean = look_clean(total, x, y) if known_clean is None else known_clean
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
        if earlier is not None and earlier.found is not None:
            _carry_over(earlier.found, total, goal, open_, found, radius, revote=revote)
        for stage, attack in enumerate(suite.attacks):
            tally = Tally(label_of(attack), radius)
            tallies.append(tally)
            live = everyone[open_]
            if not len(live):
                continue
            began = time.perf_counter()
            meter = Meter(victim, len(live), access=access)
            streams = Streams(seed, chunk.ids.to(device)[live], f"{stage}:{label_of(attack)}@{radius!r}")
            wanted, space = goal.take(live), region.take(live)
            asked, start = posed(threat.chart, meter, x[live])
            witness = Witness(asked, start, wanted, space) if is_foreign(attack) else None
            points = attack(asked if witness is None else witness, start, wanted, space, streams=streams)
            asked, start = posed(threat.chart, meter, x[live])  # an attack may have written into its own
            verdict = judge(asked, points, start, wanted, space, torch.arange(len(live), device=device))
            if witness is not None:
                points, verdict, silent = _confirmed(witness, points, verdict, asked, start, wanted, space)
                tally.silent += silent
            parameters = threat.chart.values(points) if threat.chart is not None and threat.chart.names else None
            points = shown(threat.chart, points, x[live], victim.bounds)
            total.forwards[live] += meter.forwards
            total.backwards[live] += meter.backwards
            total.queries[live] += meter.queries
            broken = verdict.broken
            found.keep(live[broken], points[broken], verdict.take(broken), radius, tally.name)
            if parameters is not None:
                found.draw(live[broken], parameters[broken])
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
    return ChunkEvidence(
        columns,
        found.tensors(chunk.ids),
        tallies,
        statuses,
        classes,
        charged,
        broken_before,
        clean,
        found,
        total.judge_samples > 0,
    )


def _confirmed(
    witness: Witness, points: Tensor, verdict: Verdict, asked: Any, x: Tensor, goal: Goal, region: Region
) -> tuple[Tensor, Verdict, int]:
    """The proposals, with points that the attack passed through where those break what its own do not; and how many they are."""
    rows = (witness.seen & ~verdict.broken).nonzero()[:, 0]
    if not len(rows):
        return points, verdict, 0
    passed = witness.points[rows]
    second = judge(asked, passed, x[rows], goal.take(rows), region.take(rows), rows)
    rows, kept = rows[second.broken], second.broken
    points, labels = points.clone(), verdict.labels.clone()
    broken, confidence = verdict.broken.clone(), verdict.confidence.clone()
    points[rows], labels[rows] = passed[kept], second.labels[kept]
    broken[rows], confidence[rows] = True, second.confidence[kept].to(confidence)
    vote = verdict.vote
    if vote is not None and second.vote is not None:
        vote = tuple(old.index_put((rows,), new[kept].to(old)) for old, new in zip(vote, second.vote, strict=True))
    return points, replace(verdict, broken=broken, labels=labels, confidence=confidence, vote=vote), len(rows)


class _Found:
    """The adversarial point that the judge accepted for each example of a chunk."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.points = x, x.clone()
        self.labels = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        self.confidence = torch.full((len(x),), torch.nan, dtype=x.dtype, device=x.device)
        self.radius = torch.full((len(x),), torch.nan, dtype=torch.float64)
        self.method_index = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        self.vote = torch.full((3, len(x)), torch.nan, dtype=torch.float64)  # low, share, high; NaN where nobody voted
        self.methods: list[str] = []
        self.parameters: Tensor | None = None

    def draw(self, rows: Tensor, parameters: Tensor) -> None:
        """Remember which parameters drew the points of these rows."""
        if self.parameters is None:
            self.parameters = parameters.new_zeros(len(self.x), parameters.shape[1])
        self.parameters[rows] = parameters

    def keep(self, rows: Tensor, points: Tensor, verdict: Verdict, radius: float, method: str) -> None:
        """Remember these points, one for each of the rows, with what the judge said of them."""
        self.points[rows], self.labels[rows] = points, verdict.labels
        self.confidence[rows] = verdict.confidence.to(self.confidence)
        if verdict.vote is not None:
            self.vote[:, rows.cpu()] = torch.stack(verdict.vote).to("cpu", torch.float64)
        self.radius[rows.cpu()] = radius
        if method not in self.methods:
            self.methods.append(method)
        self.method_index[rows] = self.methods.index(method)

    def tensors(self, ids: Tensor) -> dict[str, Tensor]:
        """For the broken examples: `example`, `radius` they were first broken at, `adversarials`, `originals`; under a threat of a
        few parameters also the `parameters` of each adversarial, in their own units."""
        broken = self.method_index >= 0
        return {
            "example": ids[broken.to(ids.device)],
            "radius": self.radius[broken.cpu()],
            "adversarials": self.points[broken],
            "originals": self.x[broken],
        } | ({} if self.parameters is None else {"parameters": self.parameters[broken]})


def _carry_over(
    earlier: _Found, meter: Meter, goal: Goal, open_: Tensor, found: _Found, radius: float, *, revote: bool
) -> None:
    """Keep what was broken within this radius before; on a revote, only what the majority confirms."""
    within = (earlier.method_index >= 0) & (earlier.radius <= radius).to(open_.device)
    rows = (open_ & within).nonzero()[:, 0]
    if not len(rows):
        return
    if revote:
        verdict = by_vote(
            meter.votes(earlier.points[rows], rows), goal.take(rows), torch.ones_like(rows, dtype=torch.bool)
        )
        rows, verdict = rows[verdict.broken], verdict.take(verdict.broken)
    else:
        low, share, high = earlier.vote[:, rows.cpu()]
        held = torch.ones_like(rows, dtype=torch.bool)
        verdict = Verdict(held, held, earlier.labels[rows], earlier.confidence[rows], (low, share, high))
    for place, row in enumerate(rows.tolist()):
        method = earlier.methods[int(earlier.method_index[row])]
        one = torch.tensor([place], device=rows.device)
        found.keep(rows[one], earlier.points[row][None], verdict.take(one), radius, method)
    if earlier.parameters is not None and len(rows):
        found.draw(rows, earlier.parameters[rows])
    open_[rows] = False


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
        one = torch.tensor([k], device=place.device)
        found.keep(place[one], points[one], verdict.take(one), radius, brought[k].method)
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
        "vote": where_broken(found.vote[1].tolist()),
        "vote_low": where_broken(found.vote[0].tolist()),
        "vote_high": where_broken(found.vote[2].tolist()),
    }
    for name, values in new.items():
        columns.setdefault(name, []).extend(values)
