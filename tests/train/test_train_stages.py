"""Stages: who is asked when, and what each sees of the training."""

from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import SettingError
from hauberk.train import PGDAT, AdvProp, Free, InnerPGD, Losses, Moment, Natural, Recipe, Stages, fit, initialise


def _net() -> nn.Sequential:
    return initialise(lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), seed=4).double()


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((6, 1, 3, 4), generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])


@dataclass(frozen=True)
class _Watch:
    name: str
    seen: list[tuple[str, int, int, int, int, list[str]]] = field(repr=False)

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, *, streams: Streams, at: Moment) -> Losses:
        self.seen.append((self.name, at.step, at.steps, at.epoch, at.epochs, sorted(at.memory)))
        at.memory[self.name] = torch.ones(1)
        return Natural()(net, x, y, streams=streams, at=at)


def test_each_stage_sees_a_training_of_its_own() -> None:
    seen: list[tuple[str, int, int, int, int, list[str]]] = []
    objective = Stages(objective=_Watch("a", seen), then=_Watch("b", seen), at=0.6)
    fit(_net(), _batch(), objective, Recipe(epochs=5, batch_size=3))
    first, second = [row for row in seen if row[0] == "a"], [row for row in seen if row[0] == "b"]
    assert seen == first + second
    assert [row[1] for row in first] == list(range(6))
    assert [row[1] for row in second] == list(range(4))
    assert {row[2] for row in first} == {6}
    assert {row[2] for row in second} == {4}
    assert [(row[3], row[4]) for row in first] == [(0, 3), (0, 3), (1, 3), (1, 3), (2, 3), (2, 3)]
    assert [(row[3], row[4]) for row in second] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert "a" not in second[0][5]
    assert "b" in second[1][5]


def test_fine_tuning_is_the_cross_entropy_of_clean_examples() -> None:
    net, (x, y) = _net(), _batch()
    objective = Stages(objective=PGDAT(threat="linf:0.3", inner=InnerPGD(steps=2)), at=0.5)
    streams = Streams(0, torch.arange(6))
    last = objective(net, x, y, streams=streams, at=Moment(step=5, steps=10))
    torch.testing.assert_close(last.total, F.cross_entropy(net(x), y))
    first = objective(net, x, y, streams=Streams(0, torch.arange(6)), at=Moment(step=4, steps=10))
    want = objective.objective(net, x, y, streams=Streams(0, torch.arange(6)), at=Moment(step=4, steps=5))
    torch.testing.assert_close(first.total, want.total)
    assert first.total > last.total


def test_both_objectives_prepare_and_finish_the_net() -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 3)).double()
    inner = InnerPGD(steps=1)
    for objective in (
        Stages(objective=AdvProp(threat="linf:0.1", inner=inner)),
        Stages(objective=PGDAT(threat="linf:0.1", inner=inner), then=AdvProp(threat="linf:0.1", inner=inner)),
    ):
        assert list(objective.prepare(net).state_dict()) != list(net.state_dict())
        fitted = fit(net, _batch(), objective, Recipe(epochs=5, batch_size=6))
        assert list(fitted.net.state_dict()) == list(net.state_dict())
    assert Stages(objective=Natural()).prepare(net) is net


def test_visits_are_those_of_the_first_stage_and_must_agree() -> None:
    free = Free(threat="linf:0.1")
    assert Stages(objective=free).visits == getattr(free, "visits", 1)
    assert Stages(objective=Natural()).visits == 1
    with pytest.raises(SettingError, match="equally often"):
        Stages(objective=free, then=Natural())


@pytest.mark.parametrize("at", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_leaves_a_stage_out_is_refused(at: float) -> None:
    with pytest.raises(SettingError, match="share"):
        Stages(objective=Natural(), at=at)
