"""Free training against its algorithm written out, and its cost."""

import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import SettingError
from hauberk.train import AWP, SGD, Constant, Free, Moment, Recipe, fit, initialise


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 3)), seed=4
    ).double()


def _data(count: int = 6) -> tuple[Tensor, Tensor]:
    x = torch.rand((count, 1, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0, 0, 0] = 0.0
    x[1, 0, 0] = 1.0
    return x, torch.arange(count) % 3


def test_free_training_is_the_algorithm_of_the_paper_step_by_step() -> None:
    (x, y), radius, rate = _data(), 0.3, 0.5
    recipe = Recipe(epochs=2, batch_size=6, seed=1, optimiser=SGD(momentum=0.0), rate=Constant(rate))
    fitted = fit(_net(), (x, y), Free(threat="linf:0.3", replays=3, step=0.4), recipe)
    net = _net()
    delta = torch.zeros_like(x)
    seen: list[int] = []
    from hauberk.train._draws import order

    for epoch in range(2):
        rows = order(6, seed=1, epoch=epoch)
        seen.extend(rows.tolist())
        for _ in range(3):
            d = delta.clone().requires_grad_()
            logits = net((x[rows] + d).clamp(0, 1))
            loss = torch.stack([logits[i].exp().sum().log() - logits[i, y[rows][i]] for i in range(6)]).mean()
            weights = list(net.parameters())
            g, *gradients = torch.autograd.grad(loss, [d, *weights])
            delta = (delta + 0.4 * radius * g.sign()).clamp(-radius, radius)
            with torch.no_grad():
                for w, step in zip(weights, gradients, strict=True):
                    w -= rate * step
    for got, want in zip(fitted.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(got, want)


def test_free_training_costs_one_forward_and_one_backward_a_visit() -> None:
    fitted = fit(_net(), _data(8), Free(replays=4), Recipe(epochs=2, batch_size=3))
    assert [(epoch.forwards, epoch.backwards) for epoch in fitted.epochs] == [(4, 4), (4, 4)]
    assert fitted.epochs[-1].step == 2 * 3 * 4


def test_free_training_hands_the_perturbation_on_to_the_next_batch() -> None:
    net, (x, y) = _net(), _data()
    objective, at = Free(threat="linf:0.2", replays=1), Moment()
    objective(net, x, y, streams=Streams(0, torch.arange(6)), at=at).total.backward()
    handed = at.memory["free.delta"].clone()
    assert 0 < handed.abs().max() <= 0.2
    again = objective.perturb(net, x[:4], y[:4], streams=Streams(0, torch.arange(10, 14)), at=at)
    torch.testing.assert_close(again, (x[:4] + handed[:4]).clamp(0, 1))


@pytest.mark.parametrize("threat", ["l2:0.5", "l1:1.5", "linf:0.2"])
def test_the_perturbation_of_free_training_stays_within_the_radius_and_raises_the_loss(threat: str) -> None:
    net, (x, y) = _net(), _data()
    objective = Free(threat=threat, replays=6, start="uniform")
    losses, memory = [], {}
    for visit in range(6):
        at = Moment(visit=visit, memory=memory)
        found = objective(net, x, y, streams=Streams(0, torch.arange(6)), at=at)
        found.total.backward()
        losses.append(found.total.item())
        z = (x + memory["free.delta"]).clamp(0, 1)
        assert objective.ball.contains(z, x).all()
    assert losses[-1] > losses[0]


def test_a_uniform_start_makes_free_training_independent_of_the_batch() -> None:
    net, (x, y) = _net(), _data()
    objective, ids = Free(start="uniform"), torch.tensor([4, 9, 2, 0, 1, 30])
    whole = objective.perturb(net, x, y, streams=Streams(0, ids), at=Moment())
    part = torch.tensor([5, 1])
    cut = objective.perturb(net, x[part], y[part], streams=Streams(0, ids[part]), at=Moment())
    torch.testing.assert_close(cut, whole[part])


def test_free_training_can_be_sharpened() -> None:
    fitted = fit(_net(), _data(), AWP(objective=Free(replays=2)), Recipe(epochs=1, batch_size=6))
    assert fitted.epochs[-1].step == 2


def test_free_training_refuses_a_batch_that_changes_between_its_visits() -> None:
    net, (x, y) = _net(), _data()
    memory: dict[str, Tensor] = {}
    Free().perturb(net, x, y, streams=Streams(0, torch.arange(6)), at=Moment(memory=memory))
    with pytest.raises(SettingError, match="same batch"):
        Free().perturb(net, x, y, streams=Streams(0, torch.arange(1, 7)), at=Moment(visit=1, memory=memory))


@pytest.mark.parametrize("settings", [{"threat": "l0:3"}, {"replays": 0}, {"step": 0.0}, {"start": "clean"}])
def test_free_training_refuses_settings_that_mean_nothing(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="got"):
        Free(**settings)  # type: ignore[arg-type]
