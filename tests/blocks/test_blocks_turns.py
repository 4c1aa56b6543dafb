"""Whose turn it is: passes visit every coordinate once, importance prefers large changes, and the batch does not matter."""

import torch

from hauberk._rng import Streams
from hauberk.blocks.turns import Turns

ROWS = torch.arange(3)


def turns(samples: int, free: torch.Tensor | None = None, ids: torch.Tensor = ROWS) -> Turns:
    if free is None:
        free = torch.ones(len(ids), 1, 4, 5, dtype=torch.bool)
    return Turns(Streams(0, ids, "turns"), free, samples)


def test_a_pass_visits_every_coordinate_once_in_orders_of_their_own() -> None:
    whose = turns(7)
    assert whose.each_pass == 3
    visits = [whose.next(ROWS, turn) for turn in range(6)]
    assert [visit.shape[1] for visit in visits] == [7, 7, 6, 7, 7, 6]
    first, second = torch.cat(visits[:3], dim=1), torch.cat(visits[3:], dim=1)
    for order in (first, second):
        assert torch.equal(order.sort(dim=1).values, torch.arange(20).expand(3, -1))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_what_may_not_change_comes_last() -> None:
    free = torch.ones(3, 1, 4, 5, dtype=torch.bool)
    free[:, 0, 1] = False
    whose = turns(5, free)
    order = torch.cat([whose.next(ROWS, turn) for turn in range(4)], dim=1)
    assert torch.equal(order[:, 15:].sort(dim=1).values, torch.arange(5, 10).expand(3, -1))


def test_an_example_draws_the_same_alone() -> None:
    whose, alone = turns(6), turns(6, ids=ROWS[2:])
    for turn in range(5):
        assert torch.equal(whose.next(ROWS, turn)[2], alone.next(ROWS[:1], turn)[0])
    change = torch.rand(3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(whose.next(ROWS, 5, change)[2], alone.next(ROWS[:1], 5, change[2:])[0])


def test_importance_prefers_what_is_next_to_large_changes_and_forgets_nothing() -> None:
    whose = turns(4)
    change = torch.zeros(3, 1, 4, 5)
    change[:, 0, 0, 0] = -1.0  # its neighbours are the places 0, 1, 5 and 6
    counts = torch.zeros(20)
    for turn in range(200):
        chosen = whose.next(ROWS, turn, change)
        assert all(len(row.unique()) == 4 for row in chosen)
        counts += torch.bincount(chosen.flatten(), minlength=20)
    near = torch.tensor([0, 1, 5, 6])
    far = torch.ones(20, dtype=torch.bool)
    far[near] = False
    assert float(counts[near].min()) > 3 * float(counts[far].max())
    assert float(counts[far].min()) > 0


def test_importance_leaves_out_what_may_not_change() -> None:
    free = torch.ones(3, 1, 4, 5, dtype=torch.bool)
    free[:, 0, 2:] = False
    whose = turns(10, free)
    chosen = whose.next(ROWS, 0, torch.rand(3, 1, 4, 5, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(chosen.sort(dim=1).values, torch.arange(10).expand(3, -1))


def test_vectors_have_neighbours_too() -> None:
    whose = turns(2, torch.ones(3, 9, dtype=torch.bool))
    change = torch.zeros(3, 9)
    change[:, 4] = 1.0
    counts = torch.zeros(9)
    for turn in range(100):
        counts += torch.bincount(whose.next(ROWS, turn, change).flatten(), minlength=9)
    assert set(counts.topk(3).indices.tolist()) == {3, 4, 5}
