"""The one judge: an attack proposes points, and only what stands here is broken.

The judge clips nothing and trusts nothing. It asks the victim again, in eval mode and the victim's own precision, and
writes `broken` where the point is finite, inside the box and the region (slack stated there) and reaches the goal. A victim
that draws (`hauberk.victims.eot`) is asked for a vote: its majority must reach the goal.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hauberk._shapes import Batch, Labels, PerExample, Rows, flat, wide
from hauberk.errors import SettingError
from hauberk.threat import Access, Goal, Region

__all__ = ["Verdict", "by_vote", "judge"]


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the judge found, one entry per example.

    Attributes:
        broken: bool, the goal is reached at an allowed point.
        allowed: bool, the point is finite and inside the region.
        labels: int64, the class the victim gives the point; -1 where its answer is not finite.
        confidence: softmax probability of that class; NaN from a victim of labels only. From a victim that draws, its mean.
        vote: where the victim draws, (low, share, high) of the draws that reach the goal, with their 95 % interval of
            Clopper and Pearson; None for other victims.
    """

    broken: Tensor
    allowed: Tensor
    labels: Labels
    confidence: PerExample
    vote: tuple[PerExample, PerExample, PerExample] | None = None

    def take(self, rows: Tensor) -> "Verdict":
        """The verdict on these rows, given as places or as a mask."""
        vote = None
        if self.vote is not None:
            low, share, high = (part[rows.to(part.device)] for part in self.vote)
            vote = low, share, high
        return Verdict(self.broken[rows], self.allowed[rows], self.labels[rows], self.confidence[rows], vote)


def judge(victim: Any, points: Batch, x: Batch, goal: Goal, region: Region, rows: Rows) -> Verdict:
    """Judge one proposed point per example.

    Args:
        victim: who is asked; one query a row, which is `judge_samples` draws of a victim that draws.
        points: (B, *shape) as an attack returned them.
        x: (B, *shape) the clean examples.
        goal, region: of these examples, row by row.
        rows: which example each row is charged to.

    Raises:
        SettingError: the attack did not return one point per example in the examples' dtype.
    """
    if not isinstance(points, Tensor) or points.shape != x.shape or points.dtype != x.dtype:
        kind = f"{tuple(points.shape)} {points.dtype}" if isinstance(points, Tensor) else type(points).__name__
        raise SettingError(
            f"an attack returns one point per example, {tuple(x.shape)} {x.dtype}, got {kind}; mend the attack"
        )
    allowed = region.contains(points, x)
    shown = torch.where(wide(flat(points.isfinite()).all(dim=1), x), points, x)
    if getattr(victim, "judge_samples", 0):
        return by_vote(victim.votes(shown, rows), goal, allowed)
    if victim.access < Access.SCORES:
        labels = victim.labels(shown, rows)
        reached, confidence = goal.reached(labels) & (labels >= 0), torch.full((len(x),), torch.nan, device=x.device)
    else:
        logits = victim.logits(shown, rows)
        sane = logits.isfinite().all(dim=1)
        reached = (goal.margin(logits) > 0) & sane
        labels = torch.where(sane, logits.argmax(dim=1), -1)
        confidence = logits.softmax(dim=1).amax(dim=1)
    return Verdict(reached & allowed, allowed, labels, confidence)


def by_vote(votes: Any, goal: Goal, allowed: Tensor) -> Verdict:
    """What the majority of these votes says; `allowed`: of points that may count."""
    low, high = votes.interval(goal)
    labels = votes.winner
    if votes.logits is None:
        confidence = torch.full_like(low, torch.nan)
    else:
        chances = votes.logits.softmax(dim=2).mean(dim=0)
        confidence = chances.gather(1, labels.clamp_min(0)[:, None]).squeeze(1)
    return Verdict(votes.broken(goal) & allowed, allowed, labels, confidence, (low, votes.share(goal), high))
