"""Exchanges find the value whose slope does not name it, at the cost they say, each example for itself."""

import torch
from torch import Tensor, nn

import hauberk as hb
from hauberk.blocks import Closest
from hauberk.blocks.exchange import exchange
from hauberk.threat import Ball, Norm, Untargeted
from hauberk.victims import Meter

D, HIDDEN = 12, 9


class Bent(nn.Module):
    """Every value helps by a half at most and says so loudly; value 9 alone is enough, and its slope is the least of all."""

    def forward(self, x: Tensor) -> Tensor:
        loud = 0.5 * torch.tanh(10 * x)
        quiet = 1.2 * x[:, HIDDEN] ** 2 + 0.01 * x[:, HIDDEN]
        helped = loud.sum(dim=1) - loud[:, HIDDEN] + quiet
        return torch.stack([torch.ones_like(helped), helped], dim=1)


def searched(x: Tensor, moves: int, candidates: int, patience: int = 10) -> tuple[Closest, Meter]:
    victim = hb.wrap(Bent().double(), bounds=(0, 1), output="logits", classes=2)
    meter = Meter(victim, len(x))
    found = Closest(meter, x, Untargeted(torch.zeros(len(x), dtype=torch.int64)), Ball(Norm.L0))
    z = x.clone()
    z[:, :4] = 1.0
    found.ask(z)
    exchange(found, moves=moves, candidates=candidates, patience=patience, tenure=3)
    return found, meter


def test_asking_finds_what_slopes_hide() -> None:
    x = torch.zeros(2, D, dtype=torch.float64)
    by_slope = hb.attacks.sparse_swap(
        hb.wrap(Bent().double(), bounds=(0, 1), output="logits", classes=2), x, [0, 0], "l0", far=0, kicks=0
    )
    assert by_slope.sizes.tolist() == [3, 3]
    by_asking, _ = searched(x, 10, 2 * D)
    assert by_asking.size.tolist() == [1, 1]
    assert (by_asking.best != x).nonzero().tolist() == [[0, HIDDEN], [1, HIDDEN]]


def test_few_candidates_do_not_reach_it() -> None:
    found, _ = searched(torch.zeros(1, D, dtype=torch.float64), 3, 2)
    assert found.size.tolist() == [3]


def test_the_cost_is_what_it_says() -> None:
    for moves, candidates in ((1, 6), (4, 6), (5, 20)):
        _, meter = searched(torch.zeros(3, D, dtype=torch.float64), moves, candidates)
        assert int(meter.backwards.max()) <= moves
        assert int(meter.queries.max()) <= 1 + moves * (1 + candidates)  # the one before it


def test_patience_ends_it() -> None:
    x = torch.zeros(1, D, dtype=torch.float64)
    _, patient = searched(x, 50, 2, patience=20)
    _, hasty = searched(x, 50, 2, patience=5)
    assert int(hasty.backwards) < int(patient.backwards) <= 25


def test_examples_do_not_depend_on_each_other() -> None:
    x = torch.tensor([[0.0] * D, [0.3] * D, [0.0, 0.2] * (D // 2)], dtype=torch.float64)
    together, meter = searched(x, 8, 10)
    for row in range(len(x)):
        alone, own = searched(x[row : row + 1], 8, 10)
        assert torch.equal(alone.best[0], together.best[row])
        assert int(own.queries) == int(meter.queries[row])


def test_without_a_success_there_is_nothing_to_exchange() -> None:
    victim = hb.wrap(Bent().double(), bounds=(0, 1), output="logits", classes=2)
    x = torch.zeros(1, D, dtype=torch.float64)
    meter = Meter(victim, 1)
    exchange(
        Closest(meter, x, Untargeted(torch.zeros(1, dtype=torch.int64)), Ball(Norm.L0)),
        moves=5,
        candidates=5,
        patience=5,
        tenure=3,
    )
    assert int(meter.queries) == 0
