"""The constants and formulas of the attacks, each against a few independent lines from its paper."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from hauberk.attacks import FGSM, PGD, AutoPGD, Square, auto_pgd, fgsm, pgd, square
from hauberk.attacks.auto_pgd import _sparse_sign
from hauberk.attacks.square import share_schedule
from hauberk.blocks import AdaptiveClimb, checkpoints
from hauberk.errors import AccessError, SettingError, ThreatError
from hauberk.testing.setting import pictures, run
from hauberk.threat import Access, Ball, Norm, Targeted

S = pictures()


def slope(x: torch.Tensor) -> torch.Tensor:
    logits, vjp = S.victim.pullback(x, torch.arange(len(x)))  # type: ignore[attr-defined]  # a TorchVictim
    with torch.enable_grad():
        leaf = logits.clone().requires_grad_()
        loss = -leaf.log_softmax(dim=1).gather(1, S.y[:, None]).sum()
    return vjp(torch.autograd.grad(loss, leaf)[0])


def test_fgsm_is_the_sign_of_the_gradient_of_cross_entropy() -> None:
    outcome = run(FGSM(), S, Ball(Norm.LINF, 0.06))
    expected = (S.x + 0.06 * slope(S.x).sign()).clamp(0, 1)
    rows = torch.arange(len(S))
    better = outcome.margin > (-S.victim.logits(S.x, rows)).gather(1, S.y[:, None])[:, 0]  # not the clean point
    moved = (outcome.points != S.x).flatten(1).any(dim=1)
    assert int(moved.sum()) >= 6
    assert bool(better.any())
    assert torch.allclose(outcome.points[moved], expected[moved], atol=1e-12)


def test_one_step_of_pgd_from_the_example_is_one_clipped_step() -> None:
    outcome = run(PGD(steps=1, step_size=0.02, start="clean"), S, Ball(Norm.LINF, 0.06))
    expected = (S.x + 0.02 * slope(S.x).sign()).clamp(0, 1)
    moved = (outcome.points != S.x).flatten(1).any(dim=1)
    assert int(moved.sum()) >= 6
    assert torch.allclose(outcome.points[moved], expected[moved], atol=1e-12)


@pytest.mark.parametrize(("steps", "expected"), [(100, [22, 41, 57, 70, 80, 87, 93, 99]), (20, [4, 7, 9, 10, 11, 12])])
def test_the_checkpoints_are_those_of_the_paper(steps: int, expected: list[int]) -> None:
    # windows of 22 % of the steps, each 3 % shorter than the last, 6 % at least: p_(j+1) = p_j + max(p_j - p_(j-1) - .03, .06)
    marks = checkpoints(steps)
    assert list(marks)[: len(expected)] == expected
    first, less, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    at, window = 0, first
    for mark, length in marks.items():
        at += window
        assert (mark, length) == (at, window)
        window = max(window - less, least)
    assert list(marks)[-1] <= steps


def test_a_step_is_halved_where_too_few_steps_rose_or_nothing_changed() -> None:
    z, zero = torch.zeros(4, 1), torch.zeros(4)
    state = AdaptiveClimb(z, zero, z, torch.ones(4))
    # over a window of 4: 4 rises, 3 rises (0.75 * 4 is not more), 1 rise, none
    for rises in ([1, 1, 1, 1], [2, 2, 2, 0.5], [3, 3, 1.5, 0.4], [4, 2.5, 1, 0.3]):
        state.move(z, torch.tensor([float(v) for v in rises]) - torch.tensor([0.0, 0.0, 0.0, 1.0]), z)
    state.check(0.75, 4)
    assert state.eta.tolist() == [1.0, 0.5, 0.5, 0.5]
    state.halved = torch.zeros(4, dtype=torch.bool)
    state.rises = torch.full((4,), 4)
    state.check(0.75, 4)  # enough rises, but neither the step nor the best loss changed since the last check
    assert state.eta.tolist() == [0.5, 0.25, 0.25, 0.25]
    state.check(0.0, 4)  # not twice in a row for the second reason; no rises is no more than 0
    assert state.eta.tolist() == [0.25, 0.125, 0.125, 0.125]


def test_a_halved_climb_goes_back_to_its_best_point() -> None:
    state = AdaptiveClimb(torch.zeros(2, 1), torch.zeros(2), torch.zeros(2, 1), torch.ones(2))
    state.move(torch.ones(2, 1), torch.ones(2), torch.full((2, 1), 5.0))
    state.move(torch.full((2, 1), 2.0), torch.tensor([0.5, 2.0]), torch.full((2, 1), 6.0))
    state.check(0.75, 2)
    assert state.z.flatten().tolist() == [1.0, 2.0]
    assert state.gradient.flatten().tolist() == [5.0, 6.0]


def test_the_second_point_of_auto_pgd_is_momentum_between_two_projected_steps() -> None:
    asked: list[torch.Tensor] = []
    real = S.victim.pullback  # type: ignore[attr-defined]

    class Spy:
        access = Access.GRADIENTS
        bounds, device, dtype = S.victim.bounds, S.victim.device, S.victim.dtype

        def left(self, rows: torch.Tensor) -> torch.Tensor:
            return torch.full_like(rows, 100)

        def pullback(self, x: torch.Tensor, rows: torch.Tensor) -> object:
            asked.append(x.clone())
            return real(x, rows)

        def logits(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            asked.append(x.clone())
            return S.victim.logits(x, rows)

    from hauberk._rng import Streams
    from hauberk.threat import Untargeted

    eps = 0.06
    AutoPGD(steps=2, early_stop=False)(
        Spy(),  # type: ignore[arg-type]
        S.x,
        Untargeted(S.y),
        Ball(Norm.LINF, eps),
        streams=Streams(0, S.ids),
    )

    def project(z: torch.Tensor) -> torch.Tensor:
        return torch.max(torch.min(z, S.x + eps), S.x - eps).clamp(0, 1)

    z0, z1, z2 = asked
    assert torch.allclose(
        (z0 - S.x).abs().flatten(1).amax(dim=1), torch.full((9,), eps, dtype=torch.float64), atol=0.03
    )
    assert torch.allclose(z1, project(z0 + 2 * eps * slope(z0).sign()), atol=1e-12)
    v = project(z1 + 2 * eps * slope(z1).sign())
    assert torch.allclose(z2, project(z1 + 0.75 * (v - z1) + 0.25 * (z1 - z0)), atol=1e-12)


def test_the_sparse_step_of_auto_pgd_has_l1_length_one_on_the_largest_entries() -> None:
    g = torch.tensor([[5.0, -4.0, 3.0, 2.0, -1.0, 0.5, 0.4, 0.3, 0.2, 0.1]])
    step = _sparse_sign(g, torch.tensor([0.2]))
    assert step.abs().sum().item() == pytest.approx(1)
    assert step[0, :2].tolist() == [0.5, -0.5]
    assert step[0, 2:].eq(0).all()


def test_projection_onto_the_l1_ball_inside_the_box_is_the_nearest_point() -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        x, delta, radius = generator.random(6), generator.normal(size=6), 0.8
        low, high = -x, 1 - x

        # split into positive and negative parts, where the ball is linear
        def distance(v: np.ndarray, delta: np.ndarray = delta) -> float:
            return float(((v[:6] - v[6:] - delta) ** 2).sum())

        found = minimize(
            distance,
            np.zeros(12),
            bounds=[(0, h) for h in high] + [(0, -v) for v in low],
            constraints={"type": "ineq", "fun": lambda v: radius - v.sum()},  # noqa: B023  # called within this turn
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        clean = torch.from_numpy(x)[None]
        ours = Ball(Norm.L1, radius).project(clean + torch.from_numpy(delta)[None], clean) - clean
        assert np.allclose(ours[0].numpy(), found.x[:6] - found.x[6:], atol=1e-5)


@pytest.mark.parametrize("steps", [10_000, 5000, 100])
def test_the_squares_shrink_as_the_paper_says(steps: int) -> None:
    marks = [(10, 1), (50, 2), (200, 4), (500, 8), (1000, 16), (2000, 32), (4000, 64), (6000, 128), (8000, 256)]
    for step in range(steps):
        place = int(step / steps * 10_000)
        expected = next((1 / divisor for mark, divisor in marks if place <= mark), 1 / 512)
        assert share_schedule(step, steps) == expected


def test_square_asks_once_for_its_stripes_and_once_a_proposal() -> None:
    outcome = run(Square(steps=7, early_stop=False), S, Ball(Norm.LINF, 0.05))
    assert outcome.queries.tolist() == [8] * len(S)
    inner = (S.x > 0.05) & (S.x < 0.95)
    change = (outcome.points - S.x)[inner]
    assert torch.allclose(
        change.abs(), torch.full_like(change, 0.05)
    )  # every value at +-eps, as stripes and squares are


def test_square_in_l2_spends_the_whole_radius() -> None:
    outcome = run(Square(steps=30), S, Ball(Norm.L2, 0.35))
    sizes = Norm.L2.size(outcome.points - S.x)
    assert float(sizes.min()) > 0.2
    assert float(sizes.max()) <= 0.35 * (1 + 1e-9)


def test_more_restarts_and_steps_cost_what_the_docstrings_say() -> None:
    region = Ball(Norm.LINF, 1e-6)
    for attack, forwards, backwards in (
        (FGSM(), 2, 1),
        (PGD(steps=4, restarts=3), 15, 12),
        (AutoPGD(steps=6), 7, 6),
        (AutoPGD(steps=6, targets=9), 1 + 3 * 7, 3 * 6),  # there are 4 classes
        (Square(steps=6, restarts=2), 14, 0),
    ):
        outcome = run(attack, S, region)
        assert outcome.forwards.tolist() == [forwards] * len(S)
        assert outcome.backwards.tolist() == [backwards] * len(S)


def test_the_friendly_call_gives_what_the_judge_saw_and_the_meter_counted() -> None:
    result = pgd(S.victim, S.x, S.y, "linf:0.06", steps=5, seed=3, batch_size=4)
    again = pgd(S.victim, S.x.numpy(), S.y.numpy(), "linf:0.06", steps=5, seed=3, batch_size=9)
    assert torch.equal(result.broken, again.broken)
    assert torch.allclose(result.adversarials, again.adversarials, atol=1e-9)
    labels = S.victim.labels(result.adversarials, torch.arange(len(S)))
    assert torch.equal(result.labels, labels)
    assert torch.equal(result.broken, labels != S.y)
    assert bool((result.sizes <= 0.06 + 1e-6).all())
    assert result.queries.max() <= 6
    assert result.success_rate == result.broken.double().mean().item()
    assert f"broken {int(result.broken.sum())} of 9" in repr(result)


def test_the_friendly_call_takes_goals_masks_ids_and_budgets() -> None:
    targets = (S.y + 1) % 4
    result = auto_pgd(S.victim, S.x, S.y, "linf:0.4", steps=10, goal=Targeted(targets))
    assert bool(result.broken.any())
    assert torch.equal(result.labels[result.broken], targets[result.broken])
    mask = torch.zeros(1, 2, 5, 6, dtype=torch.bool)
    mask[..., :3] = True
    result = square(S.victim, S.x, S.y, "l2:2", steps=10, mask=mask, max_queries=4)
    assert torch.equal(result.adversarials[..., 3:], S.x[..., 3:])
    assert int(result.queries.max()) <= 4
    least = fgsm(S.victim, S.x, S.y, "linf:0.4@least-likely")
    wanted = S.victim.logits(S.x, torch.arange(len(S))).argmin(dim=1)
    assert torch.equal(least.labels == wanted, least.broken)


def test_requests_that_cannot_be_served_are_refused_in_one_sentence() -> None:
    for call, kind, needle in (
        (lambda: pgd(S.victim, S.x, S.y, "linf"), ThreatError, "needs a finite radius"),
        (lambda: pgd(S.victim, S.x, S.y, "linf:0.1,0.2"), ThreatError, "one radius"),
        (lambda: square(S.victim, S.x, S.y, "l1:1"), ThreatError, "square works in l2, linf"),
        (lambda: pgd(S.victim, S.x, S.y, "linf:0.1@scores"), AccessError, "gives scores only"),
        (lambda: pgd(S.victim, S.x, S.y, "linf:0.1", step=3), SettingError, "no setting 'step'"),
        (lambda: pgd(S.victim, S.x, S.y, "linf:0.1", max_queries=0), SettingError, "at least one query"),
        (lambda: pgd(S.victim, S.x, S.y, "linf:0.1", ids=[1, 2]), SettingError, "one id for each"),
        (lambda: PGD(steps=0), SettingError, "steps > 0"),
        (lambda: PGD(momentum=-1), SettingError, "momentum >= 0"),
        (lambda: PGD(step_size=math.nan), SettingError, "step_size > 0"),
        (lambda: Square(p_init=1.5), SettingError, "p_init in"),
        (lambda: auto_pgd(S.victim, S.x, S.y, "linf:0.1@target=1", targets=2), SettingError, "use targets=0"),
    ):
        with pytest.raises(kind, match=needle) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_settings_counted_in_whole_numbers_are_refused_as_fractions() -> None:
    for make in (
        lambda: PGD(steps=2.5),  # type: ignore[arg-type]
        lambda: AutoPGD(targets=1.5),  # type: ignore[arg-type]
        lambda: Square(restarts=1.5),  # type: ignore[arg-type]
    ):
        with pytest.raises(SettingError, match="whole"):
            make()
