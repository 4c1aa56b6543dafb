"""Expectation over transformation: a victim that averages over draws, of a transformation or of a randomised model.

    s(x) = 1/m sum_j f_j(t_j(x)),      grad s(x) = 1/m sum_j grad f_j(t_j(x))

with m draws of the transformation t_j and of the model's own chance f_j. The average is over logits, or over probabilities,
whose logarithm is then the score: s(x) = log 1/m sum_j softmax f_j(t_j(x)). What such a victim *is* is decided by vote: a point
counts as broken only where, over `judge_samples` draws that the attack has not seen, the winning class reaches the goal and more
than half of the draws do.

Sources: Athalye, Engstrom, Ilyas, Kwok 2018, "Synthesizing robust adversarial examples", arXiv:1707.07397 (transformations);
Athalye, Carlini, Wagner 2018, "Obfuscated gradients give a false sense of security", arXiv:1802.00420, section 4.2 (randomised
models). The interval of a vote is that of Clopper and Pearson 1934.

**Differs from the papers:**

- The draws of a question are a function of the seed and of the numbers asked: new at every step of an attack, equal when the
  same batch is asked again, so that a run can be repeated. The draws of the vote are others, and begin at the same states for
  every batch; noise that the model draws for a whole batch differs from row to row.
- The vote replaces the mean success rate over draws; its share, with an interval, is what they report.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

import torch
from torch import Tensor

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows, double
from hauberk.errors import ModelError, SettingError
from hauberk.threat import Access, Goal
from hauberk.victims.chance import content_of, private_chance
from hauberk.victims.check import probe
from hauberk.victims.fingerprint import digest
from hauberk.victims.victim import UNLIMITED, cost_of_pullback, first_line
from hauberk.victims.wrap import wrap

__all__ = ["EotVictim", "Transform", "Votes", "eot"]

Transform: TypeAlias = Callable[[Batch, torch.Generator], Batch]
"""(x (B, *shape), generator on x's device) -> what the model is shown instead; differentiable, drawing from the generator only."""
Draw: TypeAlias = tuple[Logits, Callable[[Logits], Batch]]


@dataclass(frozen=True, eq=False)
class Votes:
    """What each of m draws answered to each of B points.

    Attributes:
        labels: (m, B) int64; -1 where an answer was not finite.
        logits: (m, B, classes), or None from a victim of labels only.
    """

    labels: Labels
    logits: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def winner(self) -> Labels:
        """(B,) the class with the most votes, the smaller one of two with as many."""
        most = max(2, int(self.labels.max()) + 1) if self.labels.numel() else 2
        counts = torch.zeros(self.labels.shape[1], most + 1, dtype=torch.int64, device=self.labels.device)
        counts.scatter_add_(1, self.labels.T + 1, torch.ones_like(self.labels.T))
        best = counts[:, 1:].argmax(dim=1)
        return torch.where(counts[:, 0] > counts[:, 1:].amax(dim=1), -1, best)

    def reached(self, goal: Goal) -> Tensor:
        """(m, B) bool: the draw's answer reaches the goal; an answer that is not finite never does."""
        if self.logits is None:
            return torch.stack([goal.reached(labels) & (labels >= 0) for labels in self.labels])
        return torch.stack([goal.margin(s) > 0 for s in self.logits]) & (self.labels >= 0)

    def share(self, goal: Goal) -> PerExample:
        """(B,) share of the draws that reach the goal, float64 where the device has it."""
        reached = self.reached(goal)
        return reached.to(double(reached)).mean(dim=0)

    def broken(self, goal: Goal) -> Tensor:
        """(B,) bool: more than half of the draws reach the goal, and where it speaks of one label, the winner does."""
        most = 2 * self.reached(goal).sum(dim=0) > len(self)
        try:
            return most & goal.reached(self.winner) & (self.winner >= 0)
        except SettingError:  # top-k goals and predicates cannot be read off a label
            return most

    def interval(self, goal: Goal, level: float = 0.95) -> tuple[PerExample, PerExample]:
        """(B,) and (B,): the ends of the Clopper-Pearson interval of the share of all draws that reach the goal.

        It covers the share of each point with probability >= level over the drawing of the votes. Where the lower end is
        above 1/2, the majority is no accident of the draws.

        Raises:
            SettingError: level outside (0, 1).
        """
        from scipy.special import betaincinv

        if not 0 < level < 1:
            raise SettingError(f"a level lies between 0 and 1, got {level}")
        hits = self.reached(goal).sum(dim=0)
        k, m, tail = hits.cpu().double().numpy(), len(self), (1 - level) / 2
        low = torch.from_numpy(betaincinv(k.clip(min=1), m - k + 1, tail))
        high = 1 - torch.from_numpy(betaincinv((m - k).clip(min=1), k + 1, tail))
        kept = hits.cpu()
        low, high = torch.where(kept == 0, 0.0, low), torch.where(kept == m, 1.0, high)
        return low.to(hits.device, double(hits)), high.to(hits.device, double(hits))


@final
class EotVictim:
    """The average of a victim over draws; see `eot`.

    Attributes:
        inner: the victim that is averaged.
        judge_samples: how many draws vote where a point is judged.
        forwards_per_vote: what they cost.
    """

    def __init__(
        self,
        victim: Any,  # a Victim; what it gives beyond labels depends on its access
        samples: int,
        judge_samples: int,
        transform: Transform | None,
        average: Literal["logits", "probabilities"],
        seed: int,
    ) -> None:
        self.inner, self.samples, self.judge_samples = victim, samples, judge_samples
        self.transform, self.seed = transform, seed
        self.average: Literal["logits", "probabilities"] = average
        self.forwards_per_query = samples * victim.forwards_per_query
        forwards, backwards = cost_of_pullback(victim)
        self.cost_of_pullback = samples * forwards, samples * backwards
        self.forwards_per_vote = judge_samples * victim.forwards_per_query
        self.name, self.bounds, self.device, self.dtype = victim.name, victim.bounds, victim.device, victim.dtype
        self.channels = getattr(victim, "channels", None)

    @property
    def access(self) -> Access:
        return self.inner.access

    @property
    def classes(self) -> int | None:
        return self.inner.classes

    @property
    def notes(self) -> tuple[str, ...]:
        what = "the model" if self.transform is None else "a transformation of the input"
        mine = (
            f"Scores and gradients are averages of {self.samples} draws of {what}; a point counts as broken where the majority "
            f"of {self.judge_samples} other draws says so."
        )
        return (*self.inner.notes, mine)

    @property
    def description(self) -> dict[str, Any]:
        eot = {"samples": self.samples, "judge_samples": self.judge_samples, "average": self.average, "seed": self.seed}
        if self.transform is not None:
            eot["transform"] = getattr(self.transform, "__qualname__", type(self.transform).__qualname__)
        return {**self.inner.description, "eot": eot}

    def __repr__(self) -> str:
        return f"EotVictim({self.inner!r}, samples={self.samples}, average={self.average!r}, seed={self.seed})"

    def fingerprint(self) -> str:
        own = (self.samples, self.judge_samples, self.transform, self.average, self.seed)
        return digest("eot", self.inner.fingerprint(), own)

    def around(self, victim: Any) -> "EotVictim":
        """The same averages and votes over another victim, such as a substitute of this one's."""
        return EotVictim(victim, self.samples, self.judge_samples, self.transform, self.average, self.seed)

    def left(self, rows: Rows) -> PerExample:
        inner = self.inner.left(rows)
        return torch.where(inner >= UNLIMITED, inner, inner // self.samples)

    def probe(self, x: Batch) -> None:
        probe(self, x)

    def votes(self, x: Batch, rows: Rows) -> Votes:
        """What each of `judge_samples` draws answers. `judge_samples` forwards per row of a victim of one forward a query."""
        return self._votes(x, rows, self.judge_samples, "judge")

    def labels(self, x: Batch, rows: Rows) -> Labels:
        """(B,) the class that most of `samples` draws give, -1 where most answers are not finite. `samples` forwards per row."""
        return self._votes(x, rows, self.samples, f"ask {content_of(x)}").winner

    def logits(self, x: Batch, rows: Rows) -> Logits:
        """(B, classes) the average. `samples` forwards per row.

        Raises:
            AccessError: the victim answers labels only.
        """
        asked = content_of(x)
        total: Tensor | None = None
        for draw in range(self.samples):
            scores = self._once(x, f"ask {asked}", draw, lambda z: self.inner.logits(z, rows))
            part = scores if self.average == "logits" else scores.log_softmax(dim=1)
            if total is None:
                total = part
            else:
                total = total + part if self.average == "logits" else torch.logaddexp(total, part)
        assert total is not None
        return total / self.samples if self.average == "logits" else total - torch.tensor(self.samples).log().to(total)

    def pullback(self, x: Batch, rows: Rows) -> tuple[Logits, Callable[[Logits], Batch]]:
        """The average, and the function from a cotangent to its gradient.

        `samples` forwards per row, `samples` backwards per row and call; the memory of all of them is held.

        Raises:
            AccessError: the victim gives no gradients.
        """
        asked = content_of(x)
        draws = [
            self._once(x, f"ask {asked}", draw, lambda z: self._pulled(z, rows), graph=True)
            for draw in range(self.samples)
        ]
        scores = torch.stack([logits for logits, _ in draws])
        if self.average == "logits":
            # added up in order, as `logits` does, so that both give the same bits
            mean, weights, chances = sum(scores[1:], scores[0]) / self.samples, None, None
        else:
            logs = scores.log_softmax(dim=2)
            total = logs[0]
            for part in logs[1:]:
                total = torch.logaddexp(total, part)
            mean = total - torch.tensor(self.samples).log().to(total)
            weights, chances = (logs - total[None]).exp(), logs.exp()  # p_jk / sum_i p_ik, in logarithms: no underflow

        def vjp(cotangent: Logits) -> Batch:
            result = torch.zeros_like(x)
            for draw, (_, pull) in enumerate(draws):
                if weights is None or chances is None:
                    result += pull(cotangent / self.samples)
                else:
                    part = weights[draw] * cotangent
                    result += pull(part - chances[draw] * part.sum(dim=1, keepdim=True))
            return result

        return mean, vjp

    def _votes(self, x: Batch, rows: Rows, count: int, purpose: str) -> Votes:
        if self.access < Access.SCORES:
            labels = [self._once(x, purpose, draw, lambda z: self.inner.labels(z, rows)) for draw in range(count)]
            return Votes(torch.stack(labels), None)
        scores = torch.stack(
            [self._once(x, purpose, draw, lambda z: self.inner.logits(z, rows)) for draw in range(count)]
        )
        labels = torch.where(scores.isfinite().all(dim=2), scores.argmax(dim=2), -1)
        return Votes(labels, scores)

    def _once(self, x: Batch, purpose: str, draw: int, ask: Callable[[Batch], Any], *, graph: bool = False) -> Any:
        """Ask about one draw of the transformation, with the chance of that draw."""
        with private_chance(self.seed, purpose, draw, device=self.device):
            if graph:
                return ask(x)
            with torch.no_grad():
                return ask(x if self.transform is None else self._transformed(x))

    def _pulled(self, x: Batch, rows: Rows) -> Draw:
        """One draw of the scores and of the gradient function, through the transformation."""
        if self.transform is None:
            return self.inner.pullback(x, rows)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            shown = self._transformed(leaf)
        logits, pull = self.inner.pullback(shown.detach(), rows)

        def vjp(cotangent: Logits) -> Batch:
            if not shown.requires_grad:
                return torch.zeros_like(x)
            found: Any = torch.autograd.grad(shown, leaf, pull(cotangent), retain_graph=True, allow_unused=True)
            return torch.zeros_like(x) if found[0] is None else found[0]

        return logits, vjp

    def _transformed(self, x: Batch) -> Batch:
        assert self.transform is not None
        # the state that `private_chance` set is the address of this draw: its first number seeds the transformation
        seed = int(torch.randint(2**62, ()))
        try:
            shown = self.transform(x, torch.Generator(x.device).manual_seed(seed))
        except Exception as error:  # the transformation is the user's code
            raise ModelError(
                f"the transformation failed on a batch of shape {tuple(x.shape)}: {type(error).__name__}: {first_line(error)}"
            ) from error
        if not isinstance(shown, Tensor) or len(shown) != len(x):
            got = f"shape {tuple(shown.shape)}" if isinstance(shown, Tensor) else type(shown).__name__
            raise ModelError(
                f"a transformation gives one input for each of {len(x)} examples, got {got}; mend the function"
            )
        return shown.to(self.dtype)


def eot(
    model: Any,
    samples: int = 20,
    *,
    transform: Transform | None = None,
    average: Literal["logits", "probabilities"] = "logits",
    seed: int = 0,
    judge_samples: int | None = None,
) -> EotVictim:
    """A victim that answers with the expectation of `model` over its own chance, or over a transformation, or both.

    Scores and gradients are averages of `samples` draws; labels are the vote of as many; a point is judged by the vote of
    `judge_samples` draws that no attack has seen (`Votes`, with its interval; `victim.votes(x, rows)` asks for one). Each query
    costs `samples` forwards and as many backwards, and is charged so. The global generators of torch, numpy and Python are left
    as they were.

    The draws of a question follow from the seed and the numbers asked. The rows of a batch share the draws of their places in
    it, so here, unlike everywhere else, a result may depend on how the data were cut into batches. A model that keeps a
    generator of its own cannot be made to repeat itself.

    Args:
        model: a victim, or anything that `hauberk.wrap` takes with its defaults.
        samples: draws a query.
        transform: from a batch and a generator to what the model is shown instead; see `Transform`.
        average: of the logits, or of the probabilities, whose logarithms are then the scores.
        seed: of all draws.
        judge_samples: draws a vote; five times `samples`, and at least 100, where None.

    Raises:
        SettingError: a setting that means nothing.
        ModelError: `model` is no classifier, or is averaged already.
    """
    judged = max(100, 5 * samples) if judge_samples is None and isinstance(samples, int) else judge_samples
    for name, value in (("samples", samples), ("judge_samples", judged)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SettingError(f"expected {name} to be a whole number >= 1, got {name}={value!r}")
    if average not in ("logits", "probabilities"):
        raise SettingError(f"average is 'logits' or 'probabilities', got {average!r}")
    if transform is not None and not callable(transform):
        raise SettingError(f"transform is a function of a batch and a generator, got {transform!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise SettingError(f"expected seed to be a whole number, got seed={seed!r}")
    assert isinstance(judged, int)
    victim = wrap(model)
    if getattr(victim, "judge_samples", 0):
        raise ModelError(
            f"eot averages a victim once, and {victim.name!r} is averaged already; give more samples instead"
        )
    return EotVictim(victim, samples, judged, transform, average, seed)
