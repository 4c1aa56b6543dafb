"""Defensive distillation against its formula."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import SettingError
from hauberk.train import Constant, Distillation, Moment, Natural, Recipe, Teacher, fit, initialise


def _net(seed: int = 4) -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4)), seed=seed
    ).double()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((6, 1, 3, 4), generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1, 2])


def _probabilities(
    net: nn.Module, x: Tensor, temperature: float
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    scores = np.exp(net(x).detach().numpy() / temperature)
    return scores / scores.sum(1, keepdims=True)


def _loss(objective: Distillation, net: nn.Module) -> Tensor:
    x, y = _batch()
    return objective(net, x, y, streams=Streams(0, torch.arange(6)), at=Moment()).total


def test_the_teacher_learns_labels_at_its_temperature() -> None:
    net, (x, y) = _net(), _batch()
    p = _probabilities(net, x, 7.0)
    want = -np.mean([math.log(p[i, int(y[i])]) for i in range(6)])
    np.testing.assert_allclose(_loss(Distillation(temperature=7.0), net).item(), want, rtol=1e-12)


def test_the_student_learns_the_teachers_probabilities_at_the_same_temperature() -> None:
    net, teacher, (x, _) = _net(), _net(9), _batch()
    p, q = _probabilities(net, x, 7.0), _probabilities(teacher, x, 7.0)
    want = -np.mean([sum(q[i, k] * math.log(p[i, k]) for k in range(4)) for i in range(6)])
    found = _loss(Distillation(temperature=7.0, teacher=Teacher(teacher)), net)
    np.testing.assert_allclose(found.item(), want, rtol=1e-12)
    weights = list(net.parameters())
    scores, soft = net(x) / 7.0, torch.from_numpy(q)
    by_hand = (scores.exp().sum(1).log() - (soft * scores).sum(1)).mean()
    for got, expected in zip(torch.autograd.grad(found, weights), torch.autograd.grad(by_hand, weights), strict=True):
        torch.testing.assert_close(got, expected)
    assert all(value.grad is None for value in teacher.parameters())


def test_at_temperature_one_the_teacher_is_an_ordinary_net() -> None:
    net, (x, y) = _net(), _batch()
    want = Natural()(net, x, y, streams=Streams(0, torch.arange(6)), at=Moment()).total
    torch.testing.assert_close(_loss(Distillation(temperature=1.0), net), want)


def test_a_student_of_a_hot_teacher_spreads_its_scores_and_its_gradients_vanish() -> None:
    spread, slope = [], []
    x, y = _batch()
    recipe = Recipe(epochs=200, batch_size=6, rate=Constant(0.05))
    for temperature in (1.0, 10.0):
        teacher = fit(_net(), (x, y), Distillation(temperature=temperature), recipe).net
        student = fit(_net(), (x, y), Distillation(temperature=temperature, teacher=Teacher(teacher)), recipe).net
        leaf = x.clone().requires_grad_()
        scores = student(leaf)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(scores, y), leaf)
        spread.append(scores.detach().std(dim=1).mean().item())
        slope.append(float(gradient.norm()))
    assert spread[1] > 3 * spread[0]
    assert slope[1] < slope[0] / 1000


def test_settings_that_mean_nothing_are_refused() -> None:
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(SettingError, match="temperature"):
            Distillation(temperature=temperature)
    with pytest.raises(SettingError, match="Teacher"):
        Distillation(teacher=_net())  # type: ignore[arg-type]
    named = repr(Distillation(teacher=Teacher(_net())))
    assert named == repr(Distillation(teacher=Teacher(_net())))
    assert named != repr(Distillation(teacher=Teacher(_net(9))))
