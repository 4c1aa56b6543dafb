"""A goal that is reached only with a margin to spare, for attacks with a confidence (kappa)."""

from dataclasses import dataclass

from torch import Tensor

from hauberk._shapes import Labels, Logits, PerExample, Rows
from hauberk.threat import Goal

__all__ = ["Confident", "with_confidence"]


@dataclass(frozen=True, eq=False)
class Confident:
    """The goal, by more than `confidence` on the logits. From labels alone it cannot be told apart from the goal itself."""

    goal: Goal
    confidence: float

    def margin(self, logits: Logits) -> PerExample:
        return self.goal.margin(logits) - self.confidence

    def reached(self, labels: Labels) -> Tensor:
        return self.goal.reached(labels)

    def take(self, rows: Rows) -> "Confident":
        return Confident(self.goal.take(rows), self.confidence)


def with_confidence(goal: Goal, confidence: float) -> Goal:
    """The goal itself where the confidence is 0."""
    return Confident(goal, confidence) if confidence else goal
