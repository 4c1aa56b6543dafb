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
from hauberk._shapes import Labels
from hauberk.blocks.judge import Verdict, by_vote, judge
from hauberk.data import Chunk
from hauberk.errors import BudgetError
from hauberk.evaluate.clean import Clean, look_clean
from hauberk.evaluate.found import Found
from hauberk.evaluate.proving import Proofs, Proving
from hauberk.evaluate.queries import Spending, Trace, Traced
from hauberk.evaluate.rows import add_rows
from hauberk.evaluate.suites import Suite
from hauberk.evaluate.through import label_of
from hauberk.evaluate.witness import Witness, is_foreign
from hauberk.threat import Access, Ball, Goal, Region, Targeted, ThreatModel, goal_from
from hauberk.victims import Meter, Victim, posed, shown

__all__ = ["ChunkEvidence", "Known", "Tally", "run_chunk"]


@dataclass
class Tally:
    """What one stage of a suite did in a chunk at one radius; the judge's forward of each proposal is in the counts.

    `refused` counts proposals that the judge did not accept because they are not finite or lie outside the region, `silent` the
    examples that are broken by a point the attack passed through and did not propose. `fresh` are those of the attempted that the
    stage met at no smaller radius, `spared` those left out because they are proven, `withstood` the queries of those that it did not
    break.
    """

    name: str
    radius: float
    attempted: int = 0
    fresh: int = 0
    spared: int = 0
    withstood: int = 0
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
    found: Found | None = None
    voted: bool = False
    proofs: Proofs | None = None
    queries: dict[str, Any] | None = None


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
    proving: Proving | None = None,
    look: int = 0,
    spending: Spending | None = None,
    advance: Callable[[str, int], None] | None = None,
) -> ChunkEvidence:
    """Evaluate one chunk.

    Args:
        chunk: examples inside the victim's bounds, on its device.
        access: the most that may be asked.
        known: for example ids, points that count at the largest radius where the suite leaves the example standing.
        earlier: what other attacks left of the same chunk under the same threat. What they broke stays broken; where this victim
            votes and the one before did not, only what the vote confirms. What it proved stays proven.
        proving: how proofs are sought; none are where None.
        look: how many of the first examples get both ends at any radius, if proofs are sought.
        spending: what an example may cost; with it every query is traced.
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
    could = open_.clone()
    found = Found(x)
    proofs = earlier.proofs if earlier is not None else None
    if proofs is None and proving is not None:
        proofs = proving.before(x, y, clean.predicted, goal, open_)
    trace = None if spending is None else Trace(n, spending.marks)
    met: list[Tensor] = [torch.zeros_like(open_) for _ in suite.attacks]
    spent_at: list[Tensor] = []
    tallies: list[Tally] = []
    columns: dict[str, list[Any]] = {}
    statuses: list[dict[str, float | int]] = []
    broken_before = 0
    for radius in threat.radii:
        region = threat.ball(victim.bounds, radius)
        if earlier is not None and earlier.found is not None:
            _carry_over(earlier.found, total, goal, open_, found, radius, revote=revote)
        held = torch.zeros_like(open_) if proofs is None else proofs.hold(radius).to(device)
        for stage, attack in enumerate(suite.attacks):
            tally = Tally(label_of(attack), radius, spared=int((open_ & held).sum()))
            tallies.append(tally)
            foreign = is_foreign(attack)
            allowed = None if spending is None else spending.allowance(total.queries, suite.share(stage), 1 + foreign)
            live = everyone[open_ & ~held] if allowed is None else everyone[open_ & ~held & (allowed >= 1)]
            if not len(live):
                continue
            began = time.perf_counter()
            meter = Meter(victim, len(live), access=access, budget=None if allowed is None else allowed[live])
            look_again = Meter(victim, len(live), access=access)
            streams = Streams(seed, chunk.ids.to(device)[live], f"{stage}:{label_of(attack)}@{radius!r}")
            wanted, space = goal.take(live), region.take(live)
            asked, start = posed(threat.chart, meter, x[live])
            if trace is not None:
                asked = Traced(asked, trace, live, total.queries[live], start, wanted, space, threat.norm)
            witness = Witness(asked, start, wanted, space) if foreign else None
            points = _proposed(attack, asked, witness, start, wanted, space, streams)
            asked, start = posed(threat.chart, look_again, x[live])  # an attack may have written into its own
            verdict = judge(asked, points, start, wanted, space, torch.arange(len(live), device=device))
            if witness is not None:
                points, verdict, silent = _confirmed(witness, points, verdict, asked, start, wanted, space)
                tally.silent += silent
            parameters = threat.chart.values(points) if threat.chart is not None and threat.chart.names else None
            points = shown(threat.chart, points, x[live], victim.bounds)
            forwards, queries = meter.forwards + look_again.forwards, meter.queries + look_again.queries
            total.forwards[live] += forwards
            total.backwards[live] += meter.backwards
            total.queries[live] += queries
            broken = verdict.broken
            found.keep(live[broken], points[broken], verdict.take(broken), radius, tally.name)
            if parameters is not None:
                found.draw(live[broken], parameters[broken])
            open_[live[broken]] = False
            tally.attempted += len(live)
            tally.fresh += int((~met[stage][live]).sum())
            met[stage][live] = True
            tally.broken += int(broken.sum())
            tally.refused += int((~verdict.allowed).sum())
            tally.forwards += int(forwards.sum())
            tally.backwards += int(meter.backwards.sum())
            tally.queries += int(queries.sum())
            tally.withstood += int(queries[~broken].sum())
            tally.seconds += time.perf_counter() - began
            if advance is not None:
                advance(tally.name, int((open_ & ~held).sum()))
        if radius == threat.radii[-1]:
            broken_before = _adopt(known or {}, chunk, total, goal, region, open_, found, radius)
        spent_at.append(torch.stack((total.forwards, total.backwards, total.queries)))
    if proving is not None and proofs is not None and earlier is None:
        proving.after(proofs, found, total, chunk, goal, could, look, lambda left: _tell(advance, left))
        spent_at[-1] = torch.stack((total.forwards, total.backwards, total.queries))
    if proofs is not None:
        proofs.join(found, threat.norm, chunk.ids)
    before = torch.zeros_like(spent_at[0])
    for radius, spent in zip(threat.radii, spent_at, strict=True):
        add_rows(columns, chunk, clean, found, proofs, radius, spent - before)
        before = spent
        is_broken = found.within(radius)
        held = torch.zeros_like(is_broken) if proofs is None else proofs.hold(radius).to(device) & ~is_broken
        counts = {
            "misclassified": ~clean.correct,
            "broken": is_broken,
            "undecided": clean.correct & ~is_broken & ~held,
            "proven": held,
        }
        statuses.append({"radius": radius} | {status: int(rows.sum()) for status, rows in counts.items()})
    standing = clean.correct & ~(found.method_index >= 0)
    classes: dict[int, list[int]] = {}
    for label in y.unique().tolist():
        own = y == label
        held = 0 if proofs is None else int((proofs.hold(threat.radii[-1]).to(device) & own & standing).sum())
        classes[label] = [int(own.sum()), int((clean.correct & own).sum()), int((standing & own).sum()), held]
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
        proofs,
        None if trace is None else trace.to_json(found.method_index >= 0, could, total.queries),
    )


def _proposed(
    attack: Any, asked: Any, witness: Witness | None, x: Tensor, goal: Goal, region: Region, streams: Streams
) -> Tensor:
    """The attack's points; of one that is not hauberk's and asks past its budget, the last that were answered as wanted."""
    if witness is None:
        return attack(asked, x, goal, region, streams=streams)
    try:
        return attack(witness, x, goal, region, streams=streams)
    except BudgetError:
        return witness.points


def _tell(advance: Callable[[str, int], None] | None, left: int) -> None:
    if advance is not None:
        advance("branch and bound", left)


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


def _carry_over(
    earlier: Found, meter: Meter, goal: Goal, open_: Tensor, found: Found, radius: float, *, revote: bool
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
    found: Found,
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
