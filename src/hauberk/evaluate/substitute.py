"""Substitutes: a net of one's own, trained on the labels that a victim answers, to craft points that fool the victim.

    jacobian    S <- S + {x + step * sign(d f_label(x) / dx)}, trained anew after each round; once S has doubled `full` times, only
                `reservoir` examples a round grow a point                        Papernot et al. 2017, arXiv:1602.02697, algorithm 1
    active      of the candidates (a pool, or the jacobian's points of all of S) those of which the substitute is least sure, and of
                these a spread-out subset by greedy k-centre on its scores       Li, Yi, Zhang 2018, arXiv:1809.04913; k-centre:
                                                                                 Sener, Savarese 2018, arXiv:1708.00489
    knockoff    random examples of a pool                                        Orekondy, Schiele, Fritz 2019, arXiv:1812.02766

The victim is asked for labels only, whatever it could give. What is reported after each round, agreement with the victim on inputs
held out and the share of them that points crafted on the substitute turn, asks the victim too; that is the measurement's, not the
attacker's, and is not in the queries.

**Differs from the papers:** a hard budget ends the queries, in the middle of a round where need be; each round trains a net with the
same initial weights; `jacobian` takes the derivative of the score, clips its points to the box, and steps 0.2 to one side and the
other in turn (paper: 0.1, some rounds to each side), which learned more on scikit-learn's digits; `knockoff` draws without the
reinforcement learner and trains on labels, not probabilities.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, flat
from hauberk.attacks import Attack, name_of, run_attack
from hauberk.attacks.transfer import Transfer
from hauberk.blocks.judge import judge
from hauberk.errors import DataError, ModelError, SettingError, UnknownNameError
from hauberk.evaluate.statistics import Proportion, clopper_pearson
from hauberk.threat import Access, ThreatModel, goal_from
from hauberk.train import Examples, Natural, Recipe, fit, initialise
from hauberk.victims import Meter, TorchVictim, Victim, check_inputs, wrap

__all__ = ["METHODS", "Round", "Substitute", "substitute"]

METHODS = ("jacobian", "active", "knockoff")


@dataclass(frozen=True)
class Round:
    """What a round came to.

    Attributes:
        queries: spent on the victim so far.
        agreement: share of the held-out inputs that substitute and victim give the same label; None where nothing is held out.
        transferred: share of the held-out inputs whose label by the victim the points crafted on the substitute turn; None where
            there is no threat.
    """

    queries: int
    agreement: Proportion | None
    transferred: Proportion | None

    @property
    def transferred_per_thousand_queries(self) -> float | None:
        """The success that a thousand queries bought."""
        return None if self.transferred is None else 1000 * self.transferred.value / self.queries

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "queries": self.queries,
            "agreement": None if self.agreement is None else self.agreement.to_json(),
            "transferred": None if self.transferred is None else self.transferred.to_json(),
            "transferred_per_thousand_queries": self.transferred_per_thousand_queries,
        }


@dataclass(frozen=True, eq=False)
class Substitute:
    """A trained substitute and what it cost.

    Attributes:
        net: the net, in evaluation mode.
        victim: the net as a victim, with the bounds of the one it stands for.
        method, threat, attack: how it was made, and what the transfer was measured with; threat and attack "" where it was not.
        rounds: what was reached after each round; the last one speaks of `net`.
        x, labels: every input that was asked, and what the victim answered; -1 where that was not finite.
    """

    net: nn.Module
    victim: TorchVictim
    method: str
    threat: str
    attack: str
    rounds: tuple[Round, ...]
    x: Batch
    labels: Labels

    @property
    def queries(self) -> int:
        """What was spent on the victim."""
        return len(self.x)

    @property
    def agreement(self) -> Proportion | None:
        """That of the last round."""
        return self.rounds[-1].agreement

    @property
    def transferred(self) -> Proportion | None:
        """That of the last round."""
        return self.rounds[-1].transferred

    def to_json(self) -> dict[str, Any]:
        """The ledger as JSON can hold it, schema `hauberk.substitute/1`."""
        return {
            "schema": "hauberk.substitute/1",
            "method": self.method,
            "threat": self.threat,
            "attack": self.attack,
            "queries": self.queries,
            "rounds": [one.to_json() for one in self.rounds],
        }


def substitute(
    victim: Any,
    seeds: Any,
    make_net: Callable[[], nn.Module],
    *,
    queries: int = 1000,
    method: str = "jacobian",
    pool: Any = None,
    held_out: Any = None,
    threat: str | ThreatModel | None = None,
    attack: Attack | None = None,
    recipe: Recipe | None = None,
    step: float = 0.2,
    turn: int = 1,
    full: int = 4,
    reservoir: int = 200,
    batch: int = 100,
    seed: int = 0,
    advance: Callable[[Round], None] | None = None,
) -> Substitute:
    """Train a substitute of `victim` on the labels it answers.

    Args:
        victim: a victim, or anything that `hauberk.wrap` takes with its defaults; only its labels are asked.
        seeds: (n, *shape) inputs to begin with, array or tensor; at most `queries` are asked, the first ones.
        make_net: builds a net that answers (B, classes) scores to inputs inside the victim's bounds; called once a round.
        queries: the most that are spent on the victim.
        method: `jacobian`, `active` or `knockoff`.
        pool: (m, *shape) inputs without labels to choose from; `knockoff` needs it, `active` takes it in the place of the jacobian's
            points.
        held_out: (k, *shape) inputs to measure on, disjoint from seeds and pool.
        threat: measures the transfer too, on `held_out`: one norm and radius.
        attack: what crafts for that; `Transfer()` where None.
        recipe: how each round is trained; 30 epochs in batches of 64 where None. Its seed is replaced by `seed`.
        step: of the jacobian's points, in widths of the box.
        turn: rounds after which that step changes its sign.
        full: rounds that double the set; later ones add `reservoir` points.
        batch: queries of a round of `active` and `knockoff`.
        seed: of weights, training and choices.
        advance: called with each round when it is done.

    Raises:
        UnknownNameError: no such method.
        SettingError, DataError, ModelError: an argument is not what it must be.

    Cost: at most `queries` labels of the victim; with measurements, of each round two labels an input held out.
    """
    asked = wrap(victim)
    if method not in METHODS:
        raise UnknownNameError.of("method of substitution", method, METHODS)
    for name, value in (
        ("queries", queries),
        ("turn", turn),
        ("full", full),
        ("reservoir", reservoir),
        ("batch", batch),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SettingError(f"a substitute needs {name} to be a whole number >= 1, got {name}={value!r}")
    if not 0 < step <= 1:
        raise SettingError(f"a substitute needs a step above 0 and at most 1, in widths of the box, got step={step!r}")
    if method == "knockoff" and pool is None:
        raise SettingError("knockoff asks about the inputs of a pool, got none; give pool=, or use method='jacobian'")
    if threat is not None and held_out is None:
        raise SettingError("the transfer under a threat is measured on inputs held out, got none; give held_out=")
    start = _inputs(asked, seeds)[:queries]
    task = _Task(
        asked,
        make_net,
        method,
        None if pool is None else _inputs(asked, pool),
        Recipe(30, 64, seed) if recipe is None else replace(recipe, seed=seed),
        step * (asked.bounds[1] - asked.bounds[0]),
        turn,
        full,
        reservoir,
        batch,
        seed,
    )
    measure = _Measure.of(asked, held_out, threat, attack, seed)
    meter = Meter(asked, 1, budget=queries, access=Access.LABELS)
    x, labels = start, _ask(meter, start)
    rounds: list[Round] = []
    while True:
        net = task.trained(x, labels)
        mine = wrap(net, bounds=asked.bounds, output="logits", name="substitute", dtype=str(asked.dtype)[6:])
        rounds.append(measure(mine, len(x)))
        if advance is not None:
            advance(rounds[-1])
        left = queries - len(x)
        more = task.next(mine, x, labels, len(rounds) - 1)[:left] if left else x[:0]
        if not len(more):
            named = ("", "") if measure.threat is None else (str(measure.threat), name_of(measure.attack))
            return Substitute(net, mine, method, *named, tuple(rounds), x, labels)
        x, labels = torch.cat([x, more]), torch.cat([labels, _ask(meter, more)])


@dataclass(frozen=True, eq=False)
class _Task:
    """How a substitute is trained, and what it asks next."""

    asked: Victim
    make_net: Callable[[], nn.Module]
    method: str
    pool: Batch | None
    recipe: Recipe
    step: float
    turn: int
    full: int
    reservoir: int
    batch: int
    seed: int

    def trained(self, x: Batch, labels: Labels) -> nn.Module:
        """A new net, trained on what was answered."""
        known = labels >= 0
        if not bool(known.any()):
            raise ModelError(
                f"{self.asked.name!r} answered no label to {len(x)} inputs, so there is nothing to learn from"
            )
        net = initialise(self.make_net, seed=self.seed).to(x.device, x.dtype)
        examples = Examples(x[known], labels[known], torch.arange(len(x))[known.cpu()])
        return fit(net, examples, Natural(), self.recipe).net

    def next(self, mine: TorchVictim, x: Batch, labels: Labels, done: int) -> Batch:
        """The inputs to ask about in the next round, the first ones first; none where there is nothing left."""
        if self.method == "jacobian":
            return self._grown(mine, x, labels, done)
        if self.pool is None:
            return self._chosen(mine, self._around(mine, x, labels), x)
        rest = self.pool[self._unasked(x)]
        if self.method == "active":
            return self._chosen(mine, rest, x)
        return rest[self._order(len(rest), f"knockoff {done}")[: self.batch]]

    def _grown(self, mine: TorchVictim, x: Batch, labels: Labels, done: int) -> Batch:
        """Papernot's points; after `full` rounds only those of a random reservoir."""
        step = self.step * (-1) ** (done // self.turn)
        if done < self.full:
            return self._moved(mine, x, labels, step)
        rows = self._order(len(x), f"reservoir {done}")[: self.reservoir].to(x.device)
        return self._moved(mine, x[rows], labels[rows], step)

    def _around(self, mine: TorchVictim, x: Batch, labels: Labels) -> Batch:
        """Points on both sides of every input that was asked."""
        return torch.cat([self._moved(mine, x, labels, step) for step in (self.step, -self.step)])

    def _moved(self, mine: TorchVictim, x: Batch, labels: Labels, step: float) -> Batch:
        rows = torch.arange(len(x), device=x.device)
        scores, vjp = mine.pullback(x, rows)
        own = torch.zeros_like(scores).scatter_(1, labels.clamp(0, scores.shape[1] - 1)[:, None], 1.0)
        moved = (x + step * vjp(own).nan_to_num_(0.0).sign()).clamp(*self.asked.bounds)
        return moved[labels >= 0]

    def _chosen(self, mine: TorchVictim, candidates: Batch, x: Batch) -> Batch:
        """Of the candidates five times the batch that the substitute is least sure of; of these a spread-out batch."""
        if not len(candidates):
            return candidates
        scores = mine.logits(candidates, torch.arange(len(candidates), device=x.device))
        best = scores.softmax(dim=1).topk(min(2, scores.shape[1]), dim=1).values
        unsure = (best[:, 0] - best[:, -1]).argsort(stable=True)[: 5 * self.batch]
        known = mine.logits(x, torch.arange(len(x), device=x.device))
        near = torch.cdist(scores[unsure], known).amin(dim=1)
        picked: list[int] = []
        for _ in range(min(self.batch, len(unsure))):
            place = int(near.argmax())
            picked.append(place)
            near = near.minimum((scores[unsure] - scores[unsure[place]]).norm(dim=1))
            near[place] = -1
        return candidates[unsure[torch.tensor(picked, device=x.device)]]

    def _unasked(self, x: Batch) -> Tensor:
        """(pool,) bool: the inputs that were not asked yet."""
        assert self.pool is not None
        known = {row.tobytes() for row in flat(x).cpu().numpy()}
        fresh = [row.tobytes() not in known for row in flat(self.pool).cpu().numpy()]
        return torch.tensor(fresh, dtype=torch.bool, device=x.device)

    def _order(self, count: int, purpose: str) -> Tensor:
        """(count,) the places in a random order."""
        ids = torch.arange(count)
        return (
            Streams(self.seed, ids, f"substitute/{purpose}").uniform(ids, (), dtype=torch.float64).argsort(stable=True)
        )


@dataclass(frozen=True, eq=False)
class _Measure:
    """What is measured of a substitute, on inputs held out."""

    asked: Victim
    x: Batch | None
    labels: Labels | None
    threat: ThreatModel | None
    attack: Attack
    seed: int

    @classmethod
    def of(cls, asked: Victim, held_out: Any, threat: Any, attack: Attack | None, seed: int) -> "_Measure":
        allowed = None if threat is None else ThreatModel.parse(threat)
        if allowed is not None and (
            allowed.goal != "untargeted" or allowed.chart is not None or len(allowed.radii) != 1
        ):
            raise SettingError(
                f"transfer is measured in a ball of one radius, of any wrong label, got {allowed}; write for example linf:0.1"
            )
        if held_out is None:
            return cls(asked, None, None, None, attack or Transfer(), seed)
        x = _inputs(asked, held_out)
        labels = asked.labels(x, torch.arange(len(x), device=x.device))
        return cls(asked, x[labels >= 0], labels[labels >= 0], allowed, attack or Transfer(), seed)

    def __call__(self, mine: TorchVictim, queries: int) -> Round:
        if self.x is None or self.labels is None or not len(self.x):
            return Round(queries, None, None)
        rows = torch.arange(len(self.x), device=self.x.device)
        same = int((mine.labels(self.x, rows) == self.labels).sum())
        agreement = clopper_pearson(same, len(self.x))
        if self.threat is None:
            return Round(queries, agreement, None)
        found = run_attack(self.attack, mine, self.x, self.labels, self.threat, seed=self.seed)
        goal, region = goal_from("untargeted", self.labels), self.threat.ball(self.asked.bounds)
        verdict = judge(self.asked, found.adversarials, self.x, goal, region, rows)
        return Round(queries, agreement, clopper_pearson(int(verdict.broken.sum()), len(self.x)))


def _inputs(asked: Victim, given: Any) -> Batch:
    """Inputs as the victim takes them, without labels."""
    if not hasattr(given, "__len__") or not len(given):
        raise DataError(f"a substitute is made of inputs (n, *shape), got {type(given).__name__} without any")
    return check_inputs(asked, given, torch.zeros(len(given), dtype=torch.int64))[0]


def _ask(meter: Meter, x: Batch) -> Labels:
    """The victim's labels, all charged to one account."""
    return meter.labels(x, torch.zeros(len(x), dtype=torch.int64, device=x.device))
