"""Attacks of a fixed radius that repeat a step: each against a few independent lines from its paper."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.attacks import (
    FGSM,
    PGD,
    Attack,
    AutoConjugateGradient,
    FrankWolfe,
    IterativeLeastLikely,
    Momentum,
    MultiTargeted,
    frank_wolfe_gaps,
    iterative_least_likely,
    multi_targeted,
)
from hauberk.attacks.auto_conjugate_gradient import conjugate
from hauberk.blocks import pick_named
from hauberk.errors import SettingError, UnknownNameError
from hauberk.testing import LinearVictim, breaks_at, linear_settings
from hauberk.testing.setting import pictures, run
from hauberk.threat import Access, Ball, Differentiable, Norm, Region, Targeted, TopK, Untargeted
from hauberk.victims import wrap

S = pictures()
ROWS = torch.arange(len(S))
EPS = 0.06


def slope(victim: Differentiable, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient at x of a loss of the logits."""
    logits, vjp = victim.pullback(x, torch.arange(len(x)))
    with torch.enable_grad():
        leaf = logits.clone().requires_grad_()
        return vjp(torch.autograd.grad(loss(leaf).sum(), leaf)[0])


def away(logits: Tensor) -> Tensor:
    """Cross-entropy of the true class."""
    return -logits.log_softmax(dim=1).gather(1, S.y[:, None])


def towards(classes: Tensor) -> Callable[[Tensor], Tensor]:
    """Minus the cross-entropy of these classes."""
    return lambda logits: logits.log_softmax(dim=1).gather(1, classes[:, None])


def margin(logits: Tensor) -> Tensor:
    """The largest other logit minus the true one."""
    return logits.scatter(1, S.y[:, None], -torch.inf).amax(dim=1) - logits.gather(1, S.y[:, None]).squeeze(1)


def in_ball(z: Tensor, eps: float = EPS) -> Tensor:
    return torch.max(torch.min(z, S.x + eps), S.x - eps).clamp(0, 1)


class Spy:
    """A victim that remembers every point it was asked about."""

    access = Access.GRADIENTS
    name, classes, forwards_per_query = "spy", None, 1

    def __init__(self, victim: Differentiable) -> None:
        self.victim, self.asked = victim, list[Tensor]()
        self.bounds, self.device, self.dtype = victim.bounds, victim.device, victim.dtype

    def left(self, rows: Tensor) -> Tensor:
        return torch.full_like(rows, 10_000)

    def labels(self, x: Tensor, rows: Tensor) -> Tensor:
        return self.logits(x, rows).argmax(dim=1)

    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        self.asked.append(x.clone())
        return self.victim.logits(x, rows)

    def pullback(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        self.asked.append(x.clone())
        return self.victim.pullback(x, rows)


def asked_by(attack: Attack, region: Region) -> list[Tensor]:
    """The points that an attack asks about, in order."""
    spy = Spy(S.victim)  # type: ignore[arg-type]  # a TorchVictim
    attack(spy, S.x, Untargeted(S.y), region, streams=Streams(0, S.ids))
    return spy.asked


def victim() -> Differentiable:
    return S.victim  # type: ignore[return-value]  # a TorchVictim


def test_momentum_steps_along_the_sum_of_the_normalised_gradients() -> None:
    z0, z1, z2 = asked_by(Momentum(steps=2, step_size=0.02, decay=0.7, early_stop=False), Ball(Norm.LINF, EPS))
    g0, g1 = (slope(victim(), z, away) for z in (z0, z1))
    g0, g1 = (g / g.abs().flatten(1).sum(dim=1)[:, None, None, None] for g in (g0, g1))
    assert torch.equal(z0, S.x)
    assert torch.allclose(z1, in_ball(z0 + 0.02 * g0.sign()), atol=1e-12)
    assert torch.allclose(z2, in_ball(z1 + 0.02 * (0.7 * g0 + g1).sign()), atol=1e-12)
    assert not torch.equal((0.7 * g0 + g1).sign(), g1.sign())


def test_nesterov_takes_its_gradient_where_the_past_gradients_lead() -> None:
    z0, ahead, z2 = asked_by(
        Momentum(steps=2, step_size=0.02, decay=0.7, nesterov=True, early_stop=False), Ball(Norm.LINF, EPS)
    )
    g0 = slope(victim(), z0, away)
    g0 = g0 / g0.abs().flatten(1).mean(dim=1)[:, None, None, None]  # as in the authors' code
    z1 = in_ball(z0 + 0.02 * g0.sign())
    assert torch.allclose(ahead, in_ball(z1 + 0.02 * 0.7 * g0), atol=1e-12)
    g1 = slope(victim(), ahead, away)
    g1 = g1 / g1.abs().flatten(1).mean(dim=1)[:, None, None, None]
    assert torch.allclose(z2, in_ball(z1 + 0.02 * (0.7 * g0 + g1).sign()), atol=1e-12)


@pytest.mark.parametrize("norm", [Norm.L2, Norm.L1], ids=str)
def test_a_normalised_step_is_the_gradient_scaled_to_the_radius_and_clipped(norm: Norm) -> None:
    radius = {Norm.L2: 0.35, Norm.L1: 1.2}[norm]
    _, z = asked_by(FGSM(step="normalised"), Ball(norm, radius))
    left = [row for row in range(len(S)) if margin(S.victim.logits(S.x, ROWS))[row] <= 0]
    g = slope(victim(), S.x, away)[left]
    size = g.flatten(1).norm(p=norm.p, dim=1)[:, None, None, None]
    assert torch.allclose(z, (S.x[left] + radius * g / size).clamp(0, 1), atol=1e-12)


@pytest.mark.parametrize("norm", [Norm.L2, Norm.L1], ids=str)
def test_the_linear_step_gains_more_on_a_linear_model_than_the_normalised_one(norm: Norm) -> None:
    linear, setting = linear_settings()["walls"]
    region = Ball(norm, {Norm.L2: 0.5, Norm.L1: 1.0}[norm])
    best, plain = (run(FGSM(step=step, loss="margin"), setting, region) for step in ("linear", "normalised"))
    assert bool((best.margin >= plain.margin - 1e-12).all())
    assert float((best.margin - plain.margin).mean()) > 0.01
    assert linear.classes == 2


def test_one_step_towards_the_least_likely_class_lowers_its_cross_entropy() -> None:
    x, z = asked_by(FGSM(target="least-likely"), Ball(Norm.LINF, EPS))
    wanted = S.victim.logits(S.x, ROWS).argmin(dim=1)
    assert torch.equal(x, S.x)
    assert torch.allclose(z, in_ball(S.x + EPS * slope(victim(), S.x, towards(wanted)).sign()), atol=1e-12)
    outcome = run(FGSM(target="least-likely"), S, Ball(Norm.LINF, 1e-6))
    assert outcome.forwards.tolist() == [2] * len(S)  # the choice costs nothing
    assert outcome.backwards.tolist() == [1] * len(S)


def test_the_least_likely_class_is_never_the_one_to_leave() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    streams = Streams(0, torch.arange(2))
    pick = pick_named("least-likely")
    assert pick(logits, Untargeted(torch.tensor([0, 0])), streams, torch.arange(2)).tolist() == [1, 1]
    assert pick(logits, Untargeted(torch.tensor([2, 2])), streams, torch.arange(2)).tolist() == [0, 1]


def test_random_targets_are_every_class_but_the_one_to_leave_about_as_often() -> None:
    rows = torch.arange(3000)
    own = rows % 4
    drawn = pick_named("random")(torch.zeros(3000, 4), Untargeted(own), Streams(1, rows), rows)
    counts = torch.stack([torch.bincount(drawn[own == label], minlength=4) for label in range(4)])
    assert counts.diagonal().tolist() == [0] * 4
    assert int((counts + 1000 * torch.eye(4, dtype=torch.int64)).min()) > 200  # 250 expected, 13 the standard deviation
    assert int(counts.max()) < 300


def test_a_goal_that_names_a_class_is_climbed_to_whatever_the_target_setting_says() -> None:
    spies = [Spy(victim()) for _ in range(2)]
    wanted = Targeted((S.y + 1) % 4)
    for spy, attack in zip(spies, (FGSM(target="random"), FGSM()), strict=True):
        attack(spy, S.x, wanted, Ball(Norm.LINF, EPS), streams=Streams(0, S.ids))
    assert torch.equal(spies[0].asked[1], spies[1].asked[1])


def test_iterated_steps_climb_to_the_class_that_was_least_likely_at_the_example() -> None:
    asked = asked_by(IterativeLeastLikely(steps=3, step_size=0.05, early_stop=False), Ball(Norm.LINF, 0.2))
    wanted = S.victim.logits(S.x, ROWS).argmin(dim=1)
    for z, after in pairwise(asked):
        step = slope(victim(), z, towards(wanted)).sign()
        assert torch.allclose(after, in_ball(z + 0.05 * step, 0.2), atol=1e-12)


def test_the_least_likely_goal_of_the_threat_and_the_attack_agree_on_the_class() -> None:
    found = iterative_least_likely(S.victim, S.x, S.y, "linf:0.4@least-likely", steps=20)
    wanted = S.victim.logits(S.x, ROWS).argmin(dim=1)
    assert found.broken.any()
    assert torch.equal(found.labels == wanted, found.broken)


def test_top_k_can_be_the_goal_of_a_climb_to_the_least_likely_class() -> None:
    outcome = run(IterativeLeastLikely(steps=10), S, Ball(Norm.LINF, 0.4), goal=TopK(S.y, 2))
    logits = S.victim.logits(outcome.points, ROWS)
    out = (logits > logits.gather(1, S.y[:, None])).sum(dim=1) >= 2
    assert outcome.broken.any()
    assert torch.equal(out, outcome.broken)


def test_multi_targeted_finds_what_a_climb_to_the_nearest_rival_misses() -> None:
    linear, setting = linear_settings()["classes"]
    rows = linear.optimal_distance(setting.x, setting.y, Norm.LINF).isfinite().nonzero().flatten().tolist()
    one = breaks_at(PGD(steps=20, loss="margin", start="clean"), linear, setting, Norm.LINF, 1.001)
    each = breaks_at(MultiTargeted(steps=20, start="clean"), linear, setting, Norm.LINF, 1.001)
    assert each == rows
    assert len(one) < len(rows)


@pytest.mark.parametrize(("targets", "runs"), [(0, 3), (2, 2), (9, 3)])
def test_multi_targeted_climbs_to_as_many_classes_as_asked_for(targets: int, runs: int) -> None:
    outcome = run(MultiTargeted(steps=4, targets=targets, restarts=2), S, Ball(Norm.LINF, 1e-6))
    assert outcome.forwards.tolist() == [1 + 2 * runs * 5] * len(S)
    assert outcome.backwards.tolist() == [2 * runs * 4] * len(S)


def test_conjugate_directions_with_exact_line_searches_end_at_the_top_of_a_quadratic_after_as_many_steps_as_dimensions() -> (
    None
):
    rows, n = torch.arange(5), 6
    streams = Streams(3, rows)
    root = streams.normal(rows, (n, n), dtype=torch.float64)
    curvature = root @ root.transpose(1, 2) + torch.eye(n, dtype=torch.float64)
    z, linear = (streams.normal(rows, (n,), dtype=torch.float64) for _ in range(2))
    before = direction = torch.zeros_like(z)
    for step in range(n):  # of <linear, z> - <z, curvature z> / 2
        gradient = linear - (curvature @ z[:, :, None]).squeeze(2)
        direction = conjugate(gradient, before, direction) if step else gradient
        bend = (direction[:, None] @ curvature @ direction[:, :, None]).flatten()
        z = z + ((gradient * direction).sum(dim=1) / bend)[:, None] * direction
        before = gradient
    assert torch.allclose((curvature @ z[:, :, None]).squeeze(2), linear, atol=1e-9)


def test_a_gradient_that_changes_only_by_rounding_is_climbed_as_it_is() -> None:
    g = torch.tensor([[1.0, -2.0, 0.5]])
    nearly = g * (1 + 1e-7)
    assert torch.allclose(conjugate(nearly, g, torch.tensor([[5.0, 5.0, -5.0]])), g / 2, atol=1e-6)
    assert torch.allclose(conjugate(g, g, torch.tensor([[5.0, 5.0, -5.0]])), g / 2)
    # <g, y> / <s, y> > 0 makes beta negative: the gradient again
    assert torch.allclose(conjugate(g, torch.tensor([[2.0, -2.0, 0.5]]), torch.tensor([[1.0, 0.0, 0.0]])), g / 2)


def test_auto_conjugate_gradient_asks_for_the_points_of_the_papers_algorithm() -> None:
    eps, steps = 0.3, 24
    asked = asked_by(AutoConjugateGradient(steps=steps, early_stop=False), Ball(Norm.LINF, eps))
    assert len(asked) == steps + 1
    went_back = 0
    for row in range(len(S)):
        x, y = S.x[row], int(S.y[row])
        low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)

        def look(z: Tensor, y: int = y) -> tuple[float, Tensor]:
            def loss(logits: Tensor) -> Tensor:
                others = torch.cat((logits[0, :y], logits[0, y + 1 :]))
                return others.max() - logits[0, y]

            return float(loss(S.victim.logits(z[None], ROWS[:1]))), slope(victim(), z[None], loss)[0]

        z = (low + high) / 2
        assert torch.allclose(asked[0][row], z, atol=1e-12)
        value, g = look(z)
        eta, s, g_before = 2 * eps, g, g
        best, g_best, s_best, g_before_best, top = z, g, s, g, value
        rises, since, window, top_then, halved = 0, 0, int(0.22 * steps), value, True
        for step in range(steps):
            if step:
                change = g_before - g
                along = float((s * change).sum())
                beta = max(-float((g * change).sum()) / along, 0.0) if along else 0.0
                s = g + beta * s
            z = torch.max(torch.min(z + eta * s.sign(), high), low)
            g_before, previous = g, value
            assert torch.allclose(asked[step + 1][row], z, atol=1e-9), (row, step)
            value, g = look(z)
            rises, since = rises + (value > previous), since + 1
            if value > top:
                best, g_best, s_best, g_before_best, top = z, g, s, g_before, value
            if since == window:
                halved = rises <= 0.75 * window or (not halved and top_then >= top)
                if halved:
                    went_back += 1
                    eta, z, g, s, g_before = eta / 2, best, g_best, s_best, g_before_best
                top_then, rises, since = top, 0, 0
                window = max(window - max(int(0.03 * steps), 1), int(0.06 * steps))
    assert went_back > len(S)


def test_a_constant_share_of_the_way_leaves_the_gap_of_a_linear_model_falling_by_that_share() -> None:
    linear = LinearVictim.random(7, 20)
    x = torch.full((3, 20), 0.4, dtype=torch.float64)
    y = linear.labels(x, torch.arange(3))
    for threat, norm in (("linf:0.05", Norm.L1), ("l2:0.05", Norm.L2), ("l1:0.05", Norm.LINF)):  # norm: the dual
        gaps = frank_wolfe_gaps(linear, x, y, threat, steps=5, step_size=0.3, loss="margin")
        whole = 0.05 * norm.size((linear.weights[1] - linear.weights[0])[None])
        expected = whole * 0.7 ** torch.arange(5, dtype=torch.float64)
        assert torch.allclose(gaps, expected.expand(3, 5), rtol=1e-9)
    at_once = frank_wolfe_gaps(
        linear, x, y, "linf:0.05", steps=3, loss="margin"
    )  # the first of 2 / (t + 2) is the whole way
    assert float(at_once[:, 0].min()) > 0.1
    assert float(at_once[:, 1:].abs().max()) < 1e-9


def test_the_gap_has_the_scale_of_the_loss_also_where_the_model_is_sure() -> None:
    linear = LinearVictim.random(7, 20)
    x = torch.full((1, 20), 0.4, dtype=torch.float64)
    y = linear.labels(x, torch.arange(1))
    sure = LinearVictim(linear.weights * 30, linear.bias * 30)
    gap = frank_wolfe_gaps(sure, x, y, "linf:0.01", steps=1, loss="ce").item()
    # minus the derivative of log p is 1 - p, times the slope of the difference of the logits
    missing = 1 - sure.logits(x, torch.arange(1)).softmax(dim=1)[0, y[0]].item()
    assert gap == pytest.approx(missing * 0.01 * 30 * float((linear.weights[1] - linear.weights[0]).abs().sum()))
    assert 0 < missing < 0.1


def test_gaps_end_where_an_example_leaves() -> None:
    gaps = frank_wolfe_gaps(S.victim, S.x, S.y, f"linf:{EPS}", steps=8, early_stop=True, batch_size=4)
    assert gaps.shape == (len(S), 8)
    broken = run(FrankWolfe(steps=8), S, Ball(Norm.LINF, EPS)).broken
    assert broken.any()
    assert torch.equal(gaps[:, -1].isnan(), broken)
    assert bool((gaps.isnan() | (gaps >= 0)).all())


def curved(seed: int) -> tuple[Differentiable, float]:
    """A two-class tanh net, and a bound on the curvature of its margin, from its weights."""
    rows = torch.arange(12)
    streams = Streams(seed, rows, "curved")
    first = streams.normal(rows, (8,), dtype=torch.float64)
    shift, last = (streams.normal(rows, (), dtype=torch.float64) for _ in range(2))
    net = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 2)).double()
    with torch.no_grad():
        net[0].weight.copy_(first)  # type: ignore[operator]
        net[0].bias.copy_(shift - first.sum(dim=1) / 2)  # type: ignore[operator]
        net[2].weight.copy_(torch.stack((-last, last)) / 2)  # type: ignore[operator]
        net[2].bias.zero_()  # type: ignore[operator]
    bend = 4 / 27**0.5  # the largest second derivative of tanh
    curvature = float(torch.linalg.matrix_norm(first, 2) ** 2 * last.abs().max() * bend)
    return wrap(net, name="curved"), curvature  # type: ignore[return-value]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_smallest_frank_wolfe_gap_falls_as_one_over_the_root_of_the_steps_on_a_curved_loss(momentum: float) -> None:
    model, curvature = curved(5)
    rows = torch.arange(16)
    x = Streams(6, rows).uniform(rows, (8,), dtype=torch.float64) * 0.2 + 0.4
    y = model.labels(x, rows)
    radius = 0.2
    width = 2 * radius
    factor = (1 + momentum) / (1 - momentum)  # what a step loses to the lag of the mean gradient
    smallest: dict[int, Tensor] = {}
    for steps in (16, 64, 256):
        # the most that the margin can rise from x: its slope there, and its curvature
        first = frank_wolfe_gaps(model, x, y, f"l2:{radius}", steps=1, loss="margin")[:, 0]
        rise = float(first.max()) + curvature * radius**2 / 2
        gamma = min(math.sqrt(2 * rise / (factor * curvature * width**2 * steps)), 1.0)
        gaps = frank_wolfe_gaps(
            model, x, y, f"l2:{radius}", steps=steps, step_size=gamma, momentum=momentum, loss="margin"
        )
        bound = math.sqrt(2 * rise * factor * curvature * width**2 / steps)
        smallest[steps] = gaps.amin(dim=1)
        assert float(smallest[steps].max()) <= bound
        assert bool((gaps >= -1e-12).all())
    assert bound < float(first.median())  # the bound says something
    assert float(smallest[256].max()) < float(smallest[16].max()) / math.sqrt(256 / 16)


def test_settings_that_mean_nothing_are_refused() -> None:
    for make, kind, needle in (
        (lambda: FrankWolfe(momentum=1.0), SettingError, "momentum in"),
        (lambda: FrankWolfe(step_size=1.5), SettingError, "share of the way"),
        (lambda: FGSM(target="nearest"), UnknownNameError, "nearest"),
        (lambda: FGSM(step="clipped"), UnknownNameError, "clipped"),
        (lambda: MultiTargeted(start="clean", restarts=2), SettingError, "the same way"),
        (lambda: multi_targeted(S.victim, S.x, S.y, "linf:0.1@target=1"), SettingError, "untargeted goal"),
        (lambda: Momentum(decay=-1.0), SettingError, "decay >= 0"),
        (lambda: AutoConjugateGradient(rho=0.0), SettingError, "rho > 0"),
    ):
        with pytest.raises(kind, match=needle):
            make()
