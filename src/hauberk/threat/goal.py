"""What an attacker wants: a `Goal` owns the sign, so that `margin(logits) > 0` exactly where it is reached.

The predicted class is the first of the largest logits, as `argmax` has it. Where a tie makes the margin 0 although that
class reaches the goal, the margin is the smallest positive number of its dtype; where it does not, it stays 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hauberk._shapes import Labels, Logits, PerExample, Rows
from hauberk.errors import SettingError, ThreatError

__all__ = [
    "Classed",
    "Goal",
    "Predicate",
    "Rival",
    "Targeted",
    "TopK",
    "Untargeted",
    "goal_from",
    "least_likely",
    "parse_goal",
]


@runtime_checkable
class Goal(Protocol):
    """What is wanted of each example of a batch."""

    def margin(self, logits: Logits) -> PerExample:
        """(B,) > 0 exactly where the goal is reached; differentiable; rises towards the goal."""
        ...

    def reached(self, labels: Labels) -> Tensor:
        """(B,) bool: the goal is reached by an answer of these labels alone."""
        ...

    def take(self, rows: Rows) -> "Goal":
        """The goal of the examples `rows`, which become rows 0, 1, ... ."""
        ...


@runtime_checkable
class Classed(Goal, Protocol):
    """A goal about one class of each example: to leave it (`sign` -1) or to reach it (`sign` +1)."""

    @property
    def classes(self) -> Labels: ...
    @property
    def sign(self) -> int: ...


def _without(logits: Logits, classes: Labels) -> Logits:
    return logits.scatter(1, classes[:, None], -torch.inf)


def _settle_ties(margin: PerExample, reached: Tensor) -> PerExample:
    return torch.where((margin == 0) & reached, torch.full_like(margin, torch.finfo(margin.dtype).tiny), margin)


@dataclass(frozen=True, eq=False)
class Untargeted:
    """Any class but the true one. `classes`: (n,) int64 true labels."""

    classes: Labels
    sign: int = -1

    def margin(self, logits: Logits) -> PerExample:
        own = logits.gather(1, self.classes[:, None]).squeeze(1)
        return _settle_ties(_without(logits, self.classes).amax(dim=1) - own, self.reached(logits.argmax(dim=1)))

    def reached(self, labels: Labels) -> Tensor:
        return labels != self.classes

    def take(self, rows: Rows) -> "Untargeted":
        return Untargeted(self.classes[rows])


@dataclass(frozen=True, eq=False)
class Targeted:
    """One wanted class. `classes`: (n,) int64 targets."""

    classes: Labels
    sign: int = 1

    def margin(self, logits: Logits) -> PerExample:
        own = logits.gather(1, self.classes[:, None]).squeeze(1)
        return _settle_ties(own - _without(logits, self.classes).amax(dim=1), self.reached(logits.argmax(dim=1)))

    def reached(self, labels: Labels) -> Tensor:
        return labels == self.classes

    def take(self, rows: Rows) -> "Targeted":
        return Targeted(self.classes[rows])


@dataclass(frozen=True, eq=False)
class Rival:
    """One class above the true one; where it is reached, the true class is left.

    `classes`: (n,) int64 rivals, the classes to climb to; `own`: (n,) int64 true classes.
    """

    classes: Labels
    own: Labels
    sign: int = 1

    def margin(self, logits: Logits) -> PerExample:
        return (logits.gather(1, self.classes[:, None]) - logits.gather(1, self.own[:, None])).squeeze(1)

    def reached(self, labels: Labels) -> Tensor:
        return labels == self.classes

    def take(self, rows: Rows) -> "Rival":
        return Rival(self.classes[rows], self.own[rows])


@dataclass(frozen=True, eq=False)
class TopK:
    """The true class out of the k largest logits. `classes`: (n,) int64 true labels.

    A tie counts as inside; only at k = 1 does `argmax` decide it, so that this is `Untargeted`.
    """

    classes: Labels
    k: int
    sign: int = -1

    def margin(self, logits: Logits) -> PerExample:
        if not 1 <= self.k < logits.shape[1]:
            raise SettingError(
                f"top-k needs 1 <= k < the number of classes, got k={self.k} with {logits.shape[1]} classes"
            )
        own = logits.gather(1, self.classes[:, None]).squeeze(1)
        margin = _without(logits, self.classes).topk(self.k, dim=1).values[:, -1] - own
        return _settle_ties(margin, self.reached(logits.argmax(dim=1))) if self.k == 1 else margin

    def reached(self, labels: Labels) -> Tensor:
        if self.k != 1:
            raise SettingError(f"a top-{self.k} goal cannot be judged from one label; it needs a victim with scores")
        return labels != self.classes

    def take(self, rows: Rows) -> "TopK":
        return TopK(self.classes[rows], self.k)


@dataclass(frozen=True, eq=False)
class Predicate:
    """A user's own goal.

    Args:
        function: (logits (B, classes), context (B, ...)) -> (B,) float margins, > 0 exactly where reached; differentiable
            if gradient attacks are to follow it.
        context: (n, ...) whatever the function needs of each example, such as its label.
    """

    function: Callable[[Logits, Tensor], PerExample]
    context: Tensor

    def margin(self, logits: Logits) -> PerExample:
        return self.function(logits, self.context)

    def reached(self, labels: Labels) -> Tensor:
        raise SettingError("a predicate on logits cannot be judged from labels; it needs a victim with scores")

    def take(self, rows: Rows) -> "Predicate":
        return Predicate(self.function, self.context[rows])


def least_likely(logits: Logits) -> Targeted:
    """The class each clean example is least likely to be (Kurakin, Goodfellow, Bengio 2017, arXiv:1607.02533)."""
    return Targeted(logits.argmin(dim=1))


def parse_goal(text: str) -> str:
    """The canonical spelling of a goal: `untargeted`, `least-likely`, `target=K` or `topK`.

    Raises:
        ThreatError: it is none of these.
    """
    word = text.strip().lower().replace("_", "-")
    if word in {"untargeted", "least-likely"}:
        return word
    for prefix in ("target=", "top"):
        digits = word[len(prefix) :]
        if word.startswith(prefix) and digits.isdecimal() and len(digits) <= 9:  # labels are stored as int32
            number = int(digits)
            if prefix == "top" and number < 1:
                break
            return f"{prefix}{number}"
    raise ThreatError(f"a goal is one of untargeted, least-likely, target=K, topK; got {text!r}")


def goal_from(spec: str, labels: Labels, clean_logits: Logits | None = None) -> Goal:
    """The goal that a canonical spelling means for these examples; `least-likely` needs their clean logits."""
    if spec == "untargeted":
        return Untargeted(labels)
    if spec == "least-likely":
        if clean_logits is None:
            raise SettingError(
                "the least-likely goal needs the scores of the clean examples; this victim gives labels only"
            )
        return least_likely(clean_logits)
    if spec.startswith("target="):
        target = int(spec.removeprefix("target="))
        if clean_logits is not None and target >= clean_logits.shape[1]:
            raise ThreatError(
                f"the goal names class {target}, but the model has classes 0 to {clean_logits.shape[1] - 1}"
            )
        return Targeted(torch.full_like(labels, target))
    return TopK(labels, int(spec.removeprefix("top")))
