"""DeepFool and its kin, Carlini and Wagner, EAD and L-BFGS: the step of each paper by hand, and what each promises."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from hauberk._rng import Streams
from hauberk._shapes import flat
from hauberk.attacks import (
    EAD,
    LBFGS,
    Attack,
    CarliniWagner,
    DeepFool,
    SuperDeepFool,
    TrustRegion,
    carlini_wagner,
    run_attack,
)
from hauberk.attacks.lbfgs import _Quasi
from hauberk.errors import SettingError, UnknownNameError
from hauberk.testing import LinearVictim, breaks_at, linear_settings
from hauberk.testing.setting import Setting, pictures, run
from hauberk.threat import Ball, Norm, Predicate, Targeted, TopK, Untargeted
from hauberk.victims import Meter

ATTACKS: list[Attack] = [DeepFool(), SuperDeepFool(), TrustRegion(), CarliniWagner(steps=50), EAD(steps=50), LBFGS()]


def without_walls(what: str) -> tuple[LinearVictim, Setting]:
    victim, setting = linear_settings()[what]
    wide = LinearVictim(victim.weights, victim.bias, bounds=(-50, 50))
    return wide, replace(setting, victim=wide)


@pytest.mark.parametrize("norm", sorted(DeepFool.norms, key=str), ids=str)
def test_one_step_of_deepfool_lands_its_overshoot_past_the_nearest_boundary(norm: Norm) -> None:
    for what in ("pictures", "classes"):
        victim, setting = without_walls(what)
        one = DeepFool(steps=1, approach=1, overshoot=0.1, first=9)
        assert breaks_at(one, victim, setting, norm, 1.09) == []  # the ball's slack is large in a box so wide
        assert breaks_at(one, victim, setting, norm, 1.11) == list(range(24))


def test_deepfool_approaches_the_boundary_in_equal_parts() -> None:
    victim, setting = without_walls("classes")
    optimal = victim.optimal_distance(setting.x, setting.y, Norm.L2)
    for steps, share in ((1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)):
        found = run_attack(
            DeepFool(steps=steps, approach=4, overshoot=0.0, first=9), victim, setting.x, setting.y, "l2"
        )
        moved = (found.adversarials - setting.x).flatten(1).norm(dim=1)
        assert torch.allclose(moved, share * optimal, rtol=1e-9)


def test_deepfool_linearises_every_rival_once_and_then_the_nearest() -> None:
    victim, setting = linear_settings()["classes"]
    meter = Meter(victim, 24)
    attack = DeepFool(steps=3, approach=9, first=3, refined=2)  # it does not cross in three steps of nine
    attack(meter, setting.x, Untargeted(setting.y), Ball(Norm.L2), streams=Streams(0, setting.ids))
    assert meter.forwards.tolist() == [4] * 24
    assert meter.backwards.tolist() == [3 + 2 * 2] * 24
    meter = Meter(victim, 24)
    attack(meter, setting.x, Targeted((setting.y + 1) % 5), Ball(Norm.L2), streams=Streams(0, setting.ids))
    assert set(meter.backwards.tolist()) <= {1, 2, 3}  # one plane, that of the margin


def test_super_deepfool_ends_at_right_angles_to_the_boundary() -> None:
    setting = pictures()
    far = Ball(Norm.L2)
    plain = run(DeepFool(approach=1), setting, far)
    better = run(SuperDeepFool(), setting, far)
    sizes = [Norm.L2.size(outcome.points - setting.x) for outcome in (plain, better)]
    assert bool(better.broken.all())
    assert bool((sizes[1] <= sizes[0]).all())
    assert float((sizes[0] / sizes[1]).max()) > 1.02
    logits, vjp = setting.victim.pullback(better.points, torch.arange(9))  # type: ignore[attr-defined]  # a TorchVictim
    cotangent = torch.zeros_like(logits).scatter_(1, logits.argmax(dim=1, keepdim=True), 1.0)
    gradient = flat(vjp(cotangent.scatter_(1, setting.y[:, None], -1.0)))
    change = flat(better.points - setting.x)
    inside = (flat(better.points) > 0) & (flat(better.points) < 1)
    cosine = torch.cosine_similarity(gradient * inside, change * inside, dim=1)
    assert float(cosine.min()) > 0.98


def test_the_radius_of_trust_grows_while_the_model_is_linear() -> None:
    victim, setting = without_walls("pictures")
    far = victim.optimal_distance(setting.x, setting.y, Norm.L2) > 0.5
    setting = setting.take(far.nonzero().flatten())
    outcome = run(TrustRegion(steps=3, step_size=0.001), setting, Ball(Norm.L2, box=(-50, 50)))
    steps = [0.1 * 1.2**k + 0.01 for k in range(3)]  # in a box 100 wide; 1e-4 of that is added to each
    assert len(setting) >= 5
    assert torch.allclose(
        Norm.L2.size(outcome.points - setting.x), torch.full((len(setting),), 1.02 * sum(steps), dtype=torch.float64)
    )


def test_the_trust_region_can_follow_the_furthest_rival() -> None:
    _, setting = without_walls("classes")
    near, far = (
        run(TrustRegion(worst_case=worst, step_size=0.001), setting, Ball(Norm.L2, box=(-50, 50)))
        for worst in (False, True)
    )
    labels = [setting.victim.labels(outcome.points, torch.arange(24)) for outcome in (near, far)]
    assert bool(near.broken.all() & far.broken.all())
    assert int((labels[0] != labels[1]).sum()) >= 12


def test_carlini_wagner_moves_values_that_stand_at_the_walls() -> None:
    victim, setting = linear_settings()["walls"]
    at_walls = ((setting.x == 0) | (setting.x == 1)).double().mean()
    found = run_attack(CarliniWagner(), victim, setting.x, setting.y, "l2")
    optimal = victim.optimal_distance(setting.x, setting.y, Norm.L2)
    assert float(at_walls) > 0.4
    assert bool(found.broken.all())
    assert float((found.sizes / optimal).max()) < 1.03
    assert float((found.sizes / optimal).min()) > 1 - 1e-9


@pytest.mark.parametrize("what", ["walls"])
def test_carlini_wagner_ends_within_a_tenth_of_the_optimum_in_linf(what: str) -> None:
    victim, setting = linear_settings()[what]
    found = run_attack(CarliniWagner(), victim, setting.x, setting.y, "linf")
    optimal = victim.optimal_distance(setting.x, setting.y, Norm.LINF)
    assert bool(found.broken.all())
    assert float((found.sizes / optimal).max()) < 1.1


@pytest.mark.parametrize("norm", ["l2", "linf", "l0"])
def test_carlini_wagner_keeps_the_margin_that_is_asked_for(norm: str) -> None:
    setting = pictures()
    sizes = []
    for confidence in (0.0, 0.5):
        found = carlini_wagner(setting.victim, setting.x, setting.y, norm, steps=60, confidence=confidence)
        margin = Untargeted(setting.y).margin(setting.victim.logits(found.adversarials, torch.arange(9)))
        assert bool(found.broken.all())
        assert float(margin.min()) > confidence
        sizes.append(found.sizes)
    assert float((sizes[1] - sizes[0]).mean()) > 0


def test_the_l0_attack_leaves_what_it_holds_at_its_very_bits() -> None:
    victim, setting = linear_settings()["walls"]
    found = run_attack(CarliniWagner(steps=60), victim, setting.x, setting.y, "l0")
    changed = (found.adversarials != setting.x).flatten(1).sum(dim=1)
    optimal = victim.optimal_distance(setting.x, setting.y, Norm.L0)
    assert torch.equal(changed.double(), found.sizes)
    assert float((found.sizes - optimal).max()) <= 2
    assert float((found.sizes - optimal).min()) >= 0


def test_a_step_of_ead_shrinks_every_change_by_beta() -> None:
    victim, setting = without_walls("pictures")
    beta, rate, c = 0.0001, 0.01, 0.1
    attack = EAD(steps=2, binary_search_steps=1, rivals=1, learning_rate=rate, beta=beta, initial_const=c)
    outcome = run(attack, setting, Ball(Norm.L1, box=(-50, 50)))
    slope = victim.weights[1 - setting.y] - victim.weights[setting.y]
    step = rate * 10 * c * slope  # the second run, after one without a success, has ten times the first c
    expected = step.sign() * (step.abs() - 100 * beta).clamp_min(0)  # in a box 100 wide
    held = (expected == 0).any(dim=1) & (expected != 0).any(dim=1)
    still = ~outcome.broken & held
    assert int(still.sum()) >= 5
    assert torch.allclose(flat(outcome.points - setting.x)[still], expected[still], atol=1e-12)
    assert torch.equal(flat(outcome.points)[still][expected[still] == 0], flat(setting.x)[still][expected[still] == 0])


def test_each_decision_rule_of_ead_finds_the_smaller_change_by_its_own_measure() -> None:
    setting, beta = pictures(), 0.05
    changes = []
    for rule in ("l1", "elastic"):
        outcome = run(EAD(steps=80, beta=beta, rule=rule), setting, Ball(Norm.L1))
        assert bool(outcome.broken.all())
        changes.append(flat(outcome.points - setting.x))
    l1, elastic = (change.abs().sum(dim=1) for change in changes)
    nets = [change.square().sum(dim=1) + beta * change.abs().sum(dim=1) for change in changes]
    assert bool((l1 <= elastic + 1e-12).all())
    assert bool((nets[1] <= nets[0] + 1e-12).all())
    assert float((elastic - l1).max()) > 0
    with pytest.raises(UnknownNameError, match="elastic"):
        EAD(rule="l2")


def test_projected_lbfgs_finds_the_minimum_that_scipy_finds() -> None:
    rows, size = torch.arange(6), 8
    streams = Streams(3, rows, "quadratics")
    factor = streams.normal(rows, (size, size), dtype=torch.float64)
    matrix = factor @ factor.transpose(1, 2) + 0.1 * torch.eye(size, dtype=torch.float64)
    centre = streams.normal(rows, (size,), dtype=torch.float64)

    def objective(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gradient = (matrix @ (z - centre)[:, :, None]).squeeze(2)
        return ((z - centre) * gradient).sum(dim=1) / 2, gradient

    z = torch.full((6, size), 0.5, dtype=torch.float64)
    state = _Quasi(z, *objective(z))
    ended = torch.zeros(6, dtype=torch.bool)
    for _ in range(120):
        ended |= state.judge(z, *objective(z))
        state.turn((0.0, 1.0), torch.ones(6))
        z = state.trial().clamp(0, 1)
    for row in range(6):
        a, m = matrix[row].numpy(), centre[row].numpy()
        best = minimize(
            lambda v, a=a, m=m: ((v - m) @ a @ (v - m) / 2, a @ (v - m)),
            np.full(size, 0.5),
            jac=True,
            bounds=[(0, 1)] * size,
            method="L-BFGS-B",
            options={"ftol": 1e-14, "gtol": 1e-10},
        )
        assert float(state.value[row]) <= best.fun + 1e-6 * abs(best.fun)
    assert bool(ended.all())


def test_lbfgs_settles_on_the_optimum_of_a_linear_victim() -> None:
    for what in ("vectors", "pictures", "walls"):
        victim, setting = linear_settings()[what]
        found = run_attack(LBFGS(), victim, setting.x, setting.y, "l2")
        ratio = found.sizes / victim.optimal_distance(setting.x, setting.y, Norm.L2)
        assert bool(found.broken.all())
        assert float(ratio.min()) > 1 - 1e-9
        assert float(ratio.max()) < 1.005


def test_lbfgs_refuses_a_goal_without_a_class() -> None:
    setting = pictures()
    goal = Predicate(lambda logits, context: logits[:, 0], setting.y)
    with pytest.raises(SettingError, match="needs a goal about classes"):
        run(LBFGS(), setting, Ball(Norm.L2), goal=goal)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_without_a_radius_every_target_is_reached(attack: Attack) -> None:
    setting = pictures()
    targets = (setting.y + 1) % 4
    for norm in sorted(attack.norms, key=str):
        outcome = run(attack, setting, Ball(norm), goal=Targeted(targets))
        assert bool(outcome.broken.all())
        labels = setting.victim.labels(outcome.points, torch.arange(9))
        assert torch.equal(labels, targets)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_a_top_two_goal_takes_a_larger_change_than_a_plain_one(attack: Attack) -> None:
    setting = pictures()
    norm = min(attack.norms, key=str)
    one, two = (run(attack, setting, Ball(norm), goal=goal) for goal in (Untargeted(setting.y), TopK(setting.y, 2)))
    assert bool(two.broken.all())
    sizes = [norm.size(outcome.points - setting.x) for outcome in (one, two)]
    assert float(sizes[1].mean()) > float(sizes[0].mean())


@pytest.mark.parametrize("kind", [DeepFool, SuperDeepFool])
def test_deepfool_refuses_to_look_at_no_rival(kind: type[DeepFool] | type[SuperDeepFool]) -> None:
    with pytest.raises(SettingError, match="at least one rival"):
        kind(candidates=1)
