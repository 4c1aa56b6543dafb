"""Curriculum training: lessons, mixing, and what it remembers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import SettingError
from hauberk.train import Adam, Constant, Curriculum, Moment, Recipe, fit, initialise


def _net() -> nn.Sequential:
    return initialise(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 2)), seed=4
    ).double()


def _data(count: int = 40) -> tuple[Tensor, Tensor]:
    x = torch.rand((count, 1, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = (x[:, 0, 0, 0] > 0.5).long()
    x[:, 0, 0, 0] = y.double()
    return x, y


def _streams(count: int) -> Streams:
    return Streams(2, torch.arange(count))


def _at(lesson: int, count: float = 0.0, hits: float = 0.0, best: float = -1.0, stale: float = 0.0) -> Moment:
    state = torch.tensor([lesson, 0, hits, count, best, stale], dtype=torch.float64)
    return Moment(step=10, steps=100, epochs=10, epoch=1, memory={"curriculum.state": state})


def test_each_example_takes_the_number_of_steps_that_it_drew() -> None:
    net, (x, y) = _net(), _data(24)
    objective = Curriculum(threat="linf:0.2", strongest=5, first=3, step_size=0.05)
    at = Moment()
    z = objective.perturb(net, x, y, streams=_streams(24), at=at)
    strength = _streams(24).integers(torch.arange(24), 4)
    assert set(strength.tolist()) == {0, 1, 2, 3}
    streams = _streams(24)
    streams.integers(torch.arange(24), 4)
    start = streams.uniform(torch.arange(24), (1, 3, 4), dtype=torch.float64)
    for i in range(24):
        u = (x[i] + (2 * start[i] - 1) * 0.2).clamp(0, 1) if strength[i] else x[i]
        for _ in range(int(strength[i])):
            leaf = u.clone().requires_grad_()
            (g,) = torch.autograd.grad(F.cross_entropy(net(leaf[None]), y[i : i + 1]), leaf)
            u = (u + 0.05 * g.sign()).maximum(x[i] - 0.2).minimum(x[i] + 0.2).clamp(0, 1)
        torch.testing.assert_close(z[i], u)
    found = objective.loss(net, x, z, y, at=at)
    torch.testing.assert_close(found.total, F.cross_entropy(net(z), y))
    assert found.measures == {"lesson": 3.0, "inner steps": strength.double().mean().item()}
    full = strength == 3
    hits = (net(z).argmax(1) == y)[full].sum().item()
    assert at.memory["curriculum.state"].tolist() == [3, 0, hits, full.sum().item(), -1, 0]


def test_without_mixing_every_example_is_attacked_in_full() -> None:
    net, (x, y) = _net(), _data(12)
    found = Curriculum(first=2, mixing=False)(net, x, y, streams=_streams(12), at=Moment())
    assert found.measures["inner steps"] == 2


@pytest.mark.parametrize(
    ("at", "lesson"),
    [
        (_at(2, count=20, hits=18), 3),  # enough
        (_at(2, count=20, hits=17), 2),  # not enough, but it rose
        (_at(2, count=20, hits=17, best=0.86, stale=0), 2),  # no rise, once
        (_at(2, count=20, hits=17, best=0.86, stale=1), 3),  # no rise, twice
        (_at(7, count=20, hits=20), 7),  # the last lesson stays
        (_at(2), 2),  # nothing was measured
    ],
)
def test_a_lesson_ends_when_it_is_learnt_or_learning_ends(at: Moment, lesson: int) -> None:
    net, (x, y) = _net(), _data(12)
    found = Curriculum(strongest=7)(net, x, y, streams=_streams(12), at=at)
    assert found.measures["lesson"] == lesson


def test_a_lesson_begins_when_it_is_due_within_a_single_epoch_too() -> None:
    net, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (torch.rand(12, 1, 2, 2), torch.arange(12) % 3)
    objective, memory = Curriculum(strongest=7, enough=1.0, patience=99, pace=0.5), {}
    lessons = [
        objective(net, x, y, streams=_streams(12), at=Moment(step, 20, 0, 1, memory=memory)).measures["lesson"]
        for step in range(20)
    ]
    assert lessons[0] == 1
    assert lessons[9] == 6
    assert lessons[10:] == [7] * 10


@pytest.mark.parametrize(
    ("step", "pace", "lesson"), [(10, 0.7, 1), (30, 0.7, 3), (70, 0.7, 7), (90, 0.7, 7), (90, 9.0, 1)]
)
def test_a_lesson_begins_at_the_latest_when_it_is_due(step: int, pace: float, lesson: int) -> None:
    net, (x, y) = _net(), _data(12)
    at = Moment(step=step, steps=100, epochs=10, memory=_at(1, count=20, hits=2).memory)
    found = Curriculum(strongest=7, pace=pace)(net, x, y, streams=_streams(12), at=at)
    assert found.measures["lesson"] == lesson


def test_within_an_epoch_the_lesson_stays() -> None:
    net, (x, y) = _net(), _data(12)
    at = _at(2, count=20, hits=20)
    same = Moment(step=9, steps=100, epochs=10, memory=at.memory)
    assert Curriculum()(net, x, y, streams=_streams(12), at=same).measures["lesson"] == 2
    assert Curriculum(window=5)(net, x, y, streams=_streams(12), at=same).measures["lesson"] == 3


def test_a_curriculum_rises_as_the_net_learns_and_resumes_where_it_was(tmp_path: object) -> None:
    recipe = Recipe(epochs=8, batch_size=10, optimiser=Adam(), rate=Constant(0.03))
    objective = Curriculum(threat="linf:0.1", strongest=4)
    whole = fit(_net(), _data(), objective, recipe)
    lessons = [epoch.measures["lesson"] for epoch in whole.epochs]
    assert lessons == sorted(lessons)
    assert lessons[0] == 1
    assert lessons[-1] == 4
    again = fit(_net(), _data(), objective, recipe, out=str(tmp_path))
    assert [epoch.measures for epoch in again.epochs] == [epoch.measures for epoch in whole.epochs]


def test_a_curriculum_perturbs_an_example_alike_in_every_batch() -> None:
    net, (x, y) = _net(), _data(12)
    part, ids = torch.tensor([4, 0, 2, 11]), torch.arange(12) * 3
    objective = Curriculum(first=3)
    whole = objective.perturb(net, x, y, streams=Streams(2, ids), at=Moment())
    cut = objective.perturb(net, x[part], y[part], streams=Streams(2, ids[part]), at=Moment())
    torch.testing.assert_close(cut, whole[part])


@pytest.mark.parametrize(
    "settings",
    [
        {"strongest": 0, "first": 0},
        {"first": 8},
        {"first": -1},
        {"enough": 0.0},
        {"patience": 0},
        {"pace": 0.0},
        {"window": 0},
        {"step_size": 0.0},
    ],
)
def test_a_curriculum_refuses_settings_that_mean_nothing(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="got"):
        Curriculum(**settings)  # type: ignore[arg-type]
