"""Dynamic training: the condition against brute force, and who goes on stepping."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import SettingError, UnknownNameError
from hauberk.threat import Ball, Norm
from hauberk.train import PGDAT, Dynamic, InnerPGD, Moment, Recipe, fit, initialise
from hauberk.train.dynamic import first_order_condition


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 3)), seed=4
    ).double()


def _batch(count: int = 6) -> tuple[Tensor, Tensor]:
    x = torch.rand((count, 1, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, torch.arange(count) % 3


def _streams(ids: Tensor | None = None) -> Streams:
    return Streams(2, torch.arange(6) if ids is None else ids)


def test_without_walls_the_condition_is_that_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(3)
    x, g, move = (torch.randn((5, 7), generator=generator, dtype=torch.float64) for _ in range(3))
    ball = Ball(Norm.LINF, 0.3, (-100.0, 100.0))
    z = x + 0.3 * move.clamp(-1, 1)
    want = 0.3 * g.abs().sum(1) - ((z - x) * g).sum(1)
    torch.testing.assert_close(first_order_condition(ball, x, z, g), want)


def test_with_walls_the_condition_is_the_best_corner_of_what_is_allowed() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand((4, 3), generator=generator, dtype=torch.float64)
    g = torch.randn((4, 3), generator=generator, dtype=torch.float64)
    z = (x + 0.1).clamp(0, 1)
    found = first_order_condition(Ball(Norm.LINF, 0.4), x, z, g)
    for i in range(4):
        best = max(
            sum((min(max(float(x[i, k]) + 0.4 * sign[k], 0), 1) - float(z[i, k])) * float(g[i, k]) for k in range(3))
            for sign in itertools.product((-1, 1), repeat=3)
        )
        assert found[i].item() == pytest.approx(best)


def test_the_condition_is_zero_at_the_maximum_of_a_linear_function_and_positive_elsewhere() -> None:
    x = torch.rand((5, 6), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    g = torch.randn((5, 6), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for norm in ("linf", "l2", "l1"):
        ball = Ball(Norm(norm), 0.3)
        torch.testing.assert_close(
            first_order_condition(ball, x, ball.linear_max(g, x), g), torch.zeros(5, dtype=torch.float64)
        )
        assert (first_order_condition(ball, x, x, g) > 0).all()


def test_examples_go_on_while_their_condition_exceeds_the_threshold() -> None:
    net, (x, y) = _net(), _batch()
    objective = Dynamic(threat="linf:0.2", c_max=0.004, steps=9, step_size=0.03)
    at = Moment()
    z = objective.perturb(net, x, y, streams=_streams(), at=at)
    start = _streams().uniform(torch.arange(6), (1, 3, 4), dtype=torch.float64)
    counts = []
    for i in range(6):  # one example at a time, by hand
        u, taken = (x[i] + (2 * start[i] - 1) * 0.2).clamp(0, 1), 0
        while taken < 9:
            leaf = u.clone().requires_grad_()
            (g,) = torch.autograd.grad(F.cross_entropy(net(leaf[None]), y[i : i + 1]), leaf)
            best = torch.where(g > 0, (x[i] + 0.2).clamp(max=1), (x[i] - 0.2).clamp(min=0))
            if taken and ((best - u) * g).sum() <= 0.004:
                break
            u = (u + 0.03 * g.sign()).maximum(x[i] - 0.2).minimum(x[i] + 0.2).clamp(0, 1)
            taken += 1
        counts.append(taken)
        torch.testing.assert_close(z[i], u)
    assert len(set(counts)) > 1
    found = objective.loss(net, x, z, y, at=at)
    assert found.measures["inner steps"] == pytest.approx(sum(counts) / 6)
    torch.testing.assert_close(found.total, F.cross_entropy(net(z), y))


def test_the_threshold_falls_in_a_straight_line_to_zero() -> None:
    objective = Dynamic(c_max=0.5, control=0.8)
    found = [objective.threshold(Moment(step=step, steps=100)) for step in (0, 20, 40, 80, 99)]
    assert found == pytest.approx([0.5, 0.375, 0.25, 0.0, 0.0])


def test_at_threshold_zero_dynamic_training_is_pgd_training() -> None:
    net, (x, y) = _net(), _batch()
    dynamic = Dynamic(threat="linf:0.2", c_max=0.0, steps=5, step_size=0.01)
    pgd = PGDAT(threat="linf:0.2", inner=InnerPGD(steps=5, step_size=0.01))
    first, second = (objective(net, x, y, streams=_streams(), at=Moment()) for objective in (dynamic, pgd))
    torch.testing.assert_close(first.logits, second.logits)
    assert first.measures["inner steps"] == 5


def test_dynamic_training_pays_for_fewer_passes() -> None:
    loose = fit(_net(), _batch(30), Dynamic(c_max=1000.0, control=1.0), Recipe(epochs=1, batch_size=10)).epochs[0]
    tight = fit(_net(), _batch(30), Dynamic(c_max=0.0, step_size=0.01), Recipe(epochs=1, batch_size=10)).epochs[0]
    assert loose.measures["inner steps"] == 1
    assert loose.forwards == 3
    assert tight.measures["inner steps"] == 10
    assert tight.backwards == 11


def test_dynamic_training_perturbs_an_example_alike_in_every_batch_and_writes_to_no_input() -> None:
    net, (x, y) = _net(), _batch()
    before, ids, part = x.clone(), torch.tensor([5, 3, 11, 2, 7, 0]), torch.tensor([4, 0, 2])
    for start in ("uniform", "clean"):
        objective = Dynamic(c_max=0.02, start=start)
        whole = objective.perturb(net, x, y, streams=_streams(ids), at=Moment())
        cut = objective.perturb(net, x[part], y[part], streams=_streams(ids[part]), at=Moment())
        torch.testing.assert_close(cut, whole[part])
        assert torch.equal(x, before)


@pytest.mark.parametrize(
    "settings", [{"c_max": -1.0}, {"control": 0.0}, {"control": 1.1}, {"steps": 0}, {"step_size": 0.0}]
)
def test_dynamic_training_refuses_settings_that_mean_nothing(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="got"):
        Dynamic(**settings)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="start"):
        Dynamic(start="somewhere")
