"""What a victim answers to the clean examples of a chunk."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hauberk._shapes import Labels, Rows
from hauberk.threat import Access
from hauberk.victims import Meter, Votes

__all__ = ["Clean", "look_clean"]


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
