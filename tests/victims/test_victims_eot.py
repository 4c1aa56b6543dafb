"""Expectation over chance: averages, votes, costs, and nobody else's random numbers touched."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hauberk as hb
from hauberk.blocks.judge import judge
from hauberk.errors import AccessError, HauberkError, ModelError, SettingError
from hauberk.evaluate import clopper_pearson
from hauberk.threat import Access, Ball, Norm, Predicate, Targeted, TopK, Untargeted
from hauberk.victims import Meter, Votes, eot, wrap

ROWS = torch.arange(5)


def linear() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).double().eval()


def inputs(n: int = 5) -> Tensor:
    return torch.rand(n, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Shaken(nn.Module):
    """A net behind a draw from one of the global generators."""

    def __init__(self, net: nn.Module, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.draw = net, draw

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.draw(x))


class Coin(nn.Module):
    """Answers class 1 with chance p, the same for the whole batch, and class 0 otherwise."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        one = (torch.rand(()) < self.p).to(x)
        return torch.stack((1 - one, one)).expand(len(x), 2) + 0.0 * x.sum(dim=1, keepdim=True)


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch": lambda x: 0.1 * torch.randn_like(x),
    "numpy": lambda x: 0.1 * torch.from_numpy(np.random.normal(size=x.shape)),  # noqa: NPY002
    "python": lambda x: torch.full_like(x, 0.1 * random.random()),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_repeat_with_the_seed_and_leave_the_global_generators_alone(draw: Callable[[Tensor], Tensor]) -> None:
    x, net = inputs(), Shaken(linear(), draw)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    first = eot(net, 3).logits(x, ROWS)
    assert torch.equal(eot(net, 3).logits(x, ROWS), first)
    assert not torch.equal(eot(net, 3, seed=1).logits(x, ROWS), first)
    again = eot(net, 3)
    again.votes(x, ROWS)
    again.pullback(x + 0.01, ROWS)
    assert torch.equal(again.logits(x, ROWS), first)  # what was asked before does not matter
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    assert before[2] == random.getstate()


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_logits_are_those_of_the_pullback_and_the_gradient_is_that_of_the_average(average: Any) -> None:
    net, x = linear(), inputs()
    factors: list[Tensor] = []

    def scaled(z: Tensor, generator: torch.Generator) -> Tensor:
        factors.append(torch.rand((), generator=generator, dtype=z.dtype) + 0.5)
        return z * factors[-1]

    victim = eot(net, 4, transform=scaled, average=average)
    scores = victim.logits(x, ROWS)
    drawn = list(factors)
    found, vjp = victim.pullback(x, ROWS)
    assert torch.equal(found, scores)
    assert [float(a) for a in factors[4:]] == [float(a) for a in drawn]
    assert len({float(a) for a in drawn}) == 4
    leaf = x.clone().requires_grad_()
    each = torch.stack([net(leaf * factor) for factor in drawn])
    expected = each.mean(dim=0) if average == "logits" else each.softmax(dim=2).mean(dim=0).log()
    assert torch.allclose(expected, scores, atol=1e-12)
    cotangent = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(expected, leaf, cotangent)
    assert torch.allclose(vjp(cotangent), gradient, atol=1e-12)
    assert torch.equal(vjp(cotangent), vjp(cotangent))


def test_the_average_over_many_draws_is_the_expectation() -> None:
    net, x = linear(), inputs()
    shaken = Shaken(net, lambda z: 0.5 * torch.randn_like(z))
    one, many = eot(shaken, 1).logits(x, ROWS), eot(shaken, 2000).logits(x, ROWS)
    assert float((many - net(x)).detach().abs().max()) < 0.05 < float((one - net(x)).detach().abs().max())


def test_a_saturated_mixture_keeps_its_gradient() -> None:
    net = linear()
    nn.init.constant_(net[1].bias, 0.0)  # type: ignore[arg-type]
    sure = Shaken(nn.Sequential(net, Times(1e4)), lambda z: 0.1 * torch.randn_like(z))
    scores, vjp = eot(sure, 8, average="probabilities").pullback(inputs(), ROWS)
    cotangent = torch.zeros_like(scores).scatter_(1, scores.argmin(dim=1, keepdim=True), 1.0)
    assert bool(scores.isfinite().all())
    assert bool((vjp(cotangent).abs().sum(dim=1) > 0).all())


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_the_meter_charges_every_draw() -> None:
    victim = eot(Shaken(linear(), DRAWS["torch"]), 7, judge_samples=30)
    meter = Meter(victim, 5)
    x, rows = inputs(), torch.tensor([0, 1, 1, 3, 4])
    _, vjp = meter.pullback(x, rows)
    vjp(torch.ones(5, 3, dtype=torch.float64))
    meter.labels(x, rows)
    assert meter.forwards.tolist() == [14, 28, 0, 14, 14]
    assert meter.backwards.tolist() == [7, 14, 0, 7, 7]
    assert meter.queries.tolist() == [2, 4, 0, 2, 2]
    judge(meter, x[:1], x[:1], Untargeted(torch.tensor([0])), Ball(Norm.LINF, 0.1), rows[:1])
    assert meter.forwards[0] == 14 + 30
    assert meter.queries[0] == 3


def test_a_victim_is_averaged_once_and_a_refusal_says_so() -> None:
    with pytest.raises(ModelError, match="averaged already"):
        eot(eot(linear(), 2), 3)


@pytest.mark.parametrize(("p", "broken"), [(0.3, False), (0.7, True)])
def test_a_point_is_broken_where_the_majority_says_so(p: float, broken: bool) -> None:
    victim, x = eot(Coin(p), 5, judge_samples=200), inputs()
    goal = Untargeted(torch.zeros(5, dtype=torch.int64))
    verdict = judge(victim, x, x, goal, Ball(Norm.LINF, 0.1), ROWS)
    assert verdict.broken.tolist() == [broken] * 5
    assert verdict.labels.tolist() == [int(broken)] * 5
    assert verdict.vote is not None
    low, share, high = verdict.vote
    assert bool((low < p).all())
    assert bool((high > p).all())
    assert torch.equal(share, victim.votes(x, ROWS).share(goal))
    assert judge(wrap(linear()), x, x, goal, Ball(Norm.LINF, 0.1), ROWS).vote is None


def test_the_interval_of_a_vote_is_that_of_clopper_and_pearson() -> None:
    hits = torch.tensor([0, 1, 6, 11, 12])
    labels = (torch.arange(12)[:, None] < hits[None]).long()
    low, high = Votes(labels, None).interval(Untargeted(torch.zeros(5, dtype=torch.int64)), level=0.9)
    for k, a, b in zip(hits.tolist(), low.tolist(), high.tolist(), strict=True):
        expected = clopper_pearson(k, 12, level=0.9)
        assert (a, b) == pytest.approx((expected.low, expected.high), abs=1e-12)
    with pytest.raises(SettingError, match="level"):
        Votes(labels, None).interval(Untargeted(hits), level=1.0)


def test_a_vote_that_the_true_class_wins_is_not_broken_although_most_draws_are_wrong() -> None:
    labels = torch.tensor([0] * 9 + [1] * 6 + [2] * 5)[:, None]
    votes = Votes(labels, None)
    own = torch.tensor([0])
    assert votes.winner.tolist() == [0]
    assert float(votes.share(Untargeted(own))) == 11 / 20
    assert not bool(votes.broken(Untargeted(own)))
    assert not bool(votes.broken(Targeted(own)))  # it wins, without a majority
    assert bool(Votes(labels[4:16], None).broken(Untargeted(own)))


def test_answers_that_are_not_finite_never_win_for_the_attacker() -> None:
    votes = Votes(torch.tensor([[-1, 1], [-1, -1], [1, 1]]), None)
    assert votes.winner.tolist() == [-1, 1]
    assert votes.broken(Untargeted(torch.tensor([0, 0]))).tolist() == [False, True]


def test_goals_beyond_one_label_are_judged_draw_by_draw() -> None:
    victim, x = eot(Shaken(linear(), DRAWS["torch"]), 3, judge_samples=20), inputs()
    votes = victim.votes(x, ROWS)
    assert votes.logits is not None
    goal = TopK(torch.zeros(5, dtype=torch.int64), 2)
    each = torch.stack([goal.margin(scores) > 0 for scores in votes.logits])
    assert torch.equal(votes.broken(goal), each.double().mean(dim=0) > 0.5)
    always = Predicate(lambda logits, context: context, torch.ones(5))
    assert bool(votes.broken(always).all())


def test_a_victim_of_labels_only_is_asked_for_votes() -> None:
    calls: list[int] = []

    def noisy(array: Any) -> Any:
        calls.append(len(array))
        return (array.sum(axis=1) + np.random.normal(size=len(array)) > 3).astype(np.int64)  # noqa: NPY002

    victim, x = eot(hb.wrap(noisy, output="labels"), 9, judge_samples=11), inputs()
    assert victim.access is Access.LABELS
    assert victim.labels(x, ROWS).shape == (5,)
    assert calls == [5] * 9
    assert victim.votes(x, ROWS).logits is None
    with pytest.raises(AccessError):
        victim.logits(x, ROWS)


def test_an_attack_on_a_victim_that_draws_goes_on_past_the_first_lucky_draw() -> None:
    x, y = inputs(), torch.zeros(5, dtype=torch.int64)
    victim = eot(Shaken(linear(), DRAWS["torch"]), 2, judge_samples=10)
    found = hb.attacks.pgd(victim, x, y, "linf:0.3", steps=4, seed=0)
    assert found.backwards.tolist() == [8] * 5
    again = hb.attacks.pgd(
        eot(Shaken(linear(), DRAWS["torch"]), 2, judge_samples=10), x, y, "linf:0.3", steps=4, seed=0
    )
    assert torch.equal(found.adversarials, again.adversarials)


def test_the_averaged_victim_says_what_it_is() -> None:
    net = linear()
    victim = eot(net, 4)
    assert victim.fingerprint() == eot(net, 4).fingerprint()
    others = [eot(net, 5), eot(net, 4, seed=1), eot(net, 4, average="probabilities"), eot(net, 4, judge_samples=101)]
    assert len({victim.fingerprint(), wrap(net).fingerprint(), *(other.fingerprint() for other in others)}) == 6
    victim.probe(inputs())
    assert victim.classes == 3
    assert victim.description["eot"] == {"samples": 4, "judge_samples": 100, "average": "logits", "seed": 0}
    assert any("averages of 4 draws" in note for note in victim.notes)
    assert victim.left(ROWS).tolist() == [2**62] * 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 0}, "samples"),
        ({"samples": 2.0}, "samples"),
        ({"judge_samples": 0}, "judge_samples"),
        ({"average": "labels"}, "average"),
        ({"transform": 3}, "transform"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        eot(linear(), **settings)


@pytest.mark.parametrize("transform", [lambda z, g: z[:1], lambda z, g: None, lambda z, g: z / "a"])
def test_a_transformation_that_fails_is_one_sentence(transform: Any) -> None:
    with pytest.raises(ModelError, match="transformation"):
        eot(linear(), 2, transform=transform).logits(inputs(), ROWS)


def test_a_transformation_without_gradient_gives_a_zero_gradient() -> None:
    victim = eot(linear(), 2, transform=lambda z, g: z.detach().round())
    _, vjp = victim.pullback(inputs(), ROWS)
    assert not bool(vjp(torch.ones(5, 3, dtype=torch.float64)).any())


def test_an_empty_batch_costs_nothing_and_fails_nowhere() -> None:
    victim = eot(linear(), 2)
    victim.probe(inputs())
    none = torch.arange(0)
    try:
        assert victim.logits(inputs()[:0], none).shape == (0, 3)
        assert victim.votes(inputs()[:0], none).winner.shape == (0,)
    except HauberkError as error:  # pragma: no cover
        pytest.fail(str(error))


def test_wrapping_a_model_that_draws_without_its_input_leaves_the_generators_alone() -> None:
    class Switch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Softmax(dim=1)).eval()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) if bool(torch.rand(()) < 2) else x

    net, x = Switch(), inputs().float()
    before = torch.get_rng_state()
    first = eot(net, 3).votes(x, ROWS).labels
    victim = eot(net, 3)
    victim.votes(x, ROWS)  # the first answer settles more than those after it
    assert torch.equal(victim.votes(x, ROWS).labels, first)
    assert torch.equal(before, torch.get_rng_state())
