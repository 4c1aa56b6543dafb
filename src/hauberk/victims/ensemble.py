"""Several victims that answer as one: a weighted mean of their logits, of their probabilities, or of their losses.

    logits:          s(x) = sum_k w_k z_k(x)
    probabilities:   s(x) = log sum_k w_k softmax z_k(x)
    loss:            s(x) = sum_k w_k log softmax z_k(x)           sum_k w_k = 1

Source: Dong, Liao, Pang, Su, Zhu, Hu, Li 2018, "Boosting adversarial attacks with momentum", arXiv:1710.06081, section 3.4, which
compares the three as surrogates for transfer.

**Differs from the paper:**

- "loss" gives the mean of the log-probabilities as scores. Margins of it are the weighted mean of the members' log-probability
  margins; its cross-entropy is their mean cross-entropy plus log sum_c exp s_c, because any softmax over s is normalised anew.
- Of members that answer labels only, the heavier vote decides.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, final

import torch

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows
from hauberk.errors import ModelError, SettingError
from hauberk.threat import Access
from hauberk.victims.chance import private_chance
from hauberk.victims.check import probe
from hauberk.victims.fingerprint import digest
from hauberk.victims.victim import cost_of_pullback
from hauberk.victims.wrap import wrap

__all__ = ["EnsembleVictim", "ensemble"]


@final
class EnsembleVictim:
    """Victims that answer as one; see `ensemble`.

    Attributes:
        members, weights: the victims, and what each counts; the weights sum to 1.
    """

    def __init__(self, members: tuple[Any, ...], weights: tuple[float, ...], combine: str) -> None:
        first = members[0]
        self.members, self.weights, self.combine = members, weights, combine
        self.forwards_per_query: int = sum(member.forwards_per_query for member in members)
        costs = [cost_of_pullback(member) for member in members]
        self.cost_of_pullback = sum(forwards for forwards, _ in costs), sum(backwards for _, backwards in costs)
        self.bounds, self.device, self.dtype = first.bounds, first.device, first.dtype
        self.name = " + ".join(member.name for member in members)
        self.channels = getattr(first, "channels", None)
        self._settled = False

    @property
    def access(self) -> Access:
        """What every member gives."""
        return min(member.access for member in self.members)

    @property
    def classes(self) -> int | None:
        known = [member.classes for member in self.members if member.classes is not None]
        return known[0] if known else None

    @property
    def notes(self) -> tuple[str, ...]:
        theirs = tuple(f"{member.name}: {note}" for member in self.members for note in member.notes)
        return (*theirs, f"{len(self.members)} models answer as one: the weighted mean of their {self.combine}.")

    @property
    def description(self) -> dict[str, Any]:
        return {
            "kind": "ensemble",
            "bounds": list(self.bounds),
            "classes": self.classes,
            "combine": self.combine,
            "weights": list(self.weights),
            "members": [member.description for member in self.members],
        }

    def __repr__(self) -> str:
        return f"EnsembleVictim({list(self.members)!r}, weights={self.weights}, combine={self.combine!r})"

    def fingerprint(self) -> str:
        return digest("ensemble", [member.fingerprint() for member in self.members], self.weights, self.combine)

    def left(self, rows: Rows) -> PerExample:
        return torch.stack([member.left(rows) for member in self.members]).amin(dim=0)

    def probe(self, x: Batch) -> None:
        probe(self, x)
        known = {member.classes for member in self.members if member.classes is not None}
        if len(known) > 1:
            raise ModelError(
                f"the members of an ensemble must have the same classes, got {', '.join(map(str, sorted(known)))} classes"
            )

    def labels(self, x: Batch, rows: Rows) -> Labels:
        """(B,) predicted classes; -1 where an answer is not finite. One query of each member per row, and one row more at first."""
        if not self._settled and len(x):
            with private_chance("ensemble", device=self.device):
                for member in self.members:  # the first answer tells what a member gives
                    member.labels(x[:1], rows[:1])
            self._settled = True
        if self.access >= Access.SCORES:
            scores = self.logits(x, rows)
            return torch.where(scores.isfinite().all(dim=1), scores.argmax(dim=1), -1)
        answers = torch.stack([member.labels(x, rows) for member in self.members])
        votes = torch.zeros(len(x), max(1, int(answers.max()) + 1 if answers.numel() else 1), dtype=torch.float64)
        for weight, labels in zip(self.weights, answers.cpu(), strict=True):
            votes.scatter_add_(1, labels.clamp_min(0)[:, None], torch.where(labels < 0, 0.0, weight).double()[:, None])
        return torch.where((answers < 0).all(dim=0), -1, votes.argmax(dim=1).to(answers.device))

    def logits(self, x: Batch, rows: Rows) -> Logits:
        """(B, classes) scores. One query of each member per row.

        Raises:
            AccessError: a member answers labels only.
        """
        return self._combined([member.logits(x, rows) for member in self.members])

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        """The scores, and the function from a cotangent to their gradient. One query and backward of each member per row.

        Raises:
            AccessError: a member gives no gradients.
        """
        pulled = [member.pullback(x, rows) for member in self.members]
        with torch.enable_grad():
            leaves = [logits.detach().requires_grad_() for logits, _ in pulled]
            scores = self._combined(leaves)

        def vjp(cotangent: Logits) -> Batch:
            shares = torch.autograd.grad(scores, leaves, cotangent, retain_graph=True)
            result = torch.zeros_like(x)
            for (_, pull), share in zip(pulled, shares, strict=True):
                result += pull(share)
            return result

        return scores.detach(), vjp

    def _combined(self, scores: list[Logits]) -> Logits:
        if len({part.shape[1] for part in scores}) > 1:
            counts = ", ".join(str(part.shape[1]) for part in scores)
            raise ModelError(f"the members of an ensemble must have the same classes, got {counts} classes")
        pairs = list(zip(self.weights, scores, strict=True))
        if self.combine == "logits":
            return torch.stack([weight * part for weight, part in pairs]).sum(dim=0)
        if self.combine == "loss":
            return torch.stack([weight * part.log_softmax(dim=1) for weight, part in pairs]).sum(dim=0)
        logs = [part.log_softmax(dim=1) + math.log(weight) for weight, part in pairs if weight > 0]
        return torch.stack(logs).logsumexp(dim=0)


def ensemble(
    models: Sequence[Any],
    weights: Sequence[float] | None = None,
    combine: Literal["logits", "probabilities", "loss"] = "logits",
) -> EnsembleVictim:
    """A victim that answers as several models together; one query costs what one query of each costs.

    It gives what all members give: scores only where one member gives no gradients, labels only where one gives labels only.

    Args:
        models: victims, or anything that `hauberk.wrap` takes with its defaults; same bounds, device, dtype and classes.
        weights: one for each, >= 0, not all 0; scaled to sum to 1. Equal where None.
        combine: what is averaged; see the module's docstring.

    Raises:
        SettingError: no models, or weights or `combine` that mean nothing.
        ModelError: models that cannot answer together.
    """
    if not isinstance(models, Sequence) or isinstance(models, str) or not len(models):
        raise SettingError(f"an ensemble is a list of one model or more, got {models!r}")
    if combine not in ("logits", "probabilities", "loss"):
        raise SettingError(f"combine is 'logits', 'probabilities' or 'loss', got {combine!r}")
    given = [1.0] * len(models) if weights is None else [float(weight) for weight in weights]
    if (
        len(given) != len(models)
        or not all(math.isfinite(weight) and weight >= 0 for weight in given)
        or not sum(given)
    ):
        raise SettingError(
            f"weights are {len(models)} finite numbers >= 0, one for each model and not all 0, got {weights!r}"
        )
    members = tuple(wrap(model) for model in models)
    if any(getattr(member, "judge_samples", 0) for member in members):
        raise ModelError(
            "an ensemble judges by one answer of each member, and a member here is judged by a vote of many; "
            "average around it instead: eot(ensemble([...]))"
        )
    for name in ("bounds", "device", "dtype"):
        values = {str(getattr(member, name)) for member in members}
        if len(values) > 1:
            raise ModelError(
                f"the members of an ensemble must have the same {name}, got {' and '.join(sorted(values))}; wrap them alike"
            )
    return EnsembleVictim(members, tuple(weight / sum(given) for weight in given), combine)
