"""The frontier with several rows for each example: what is kept, who leaves, who pays, what is drawn."""

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, Rows
from hauberk.blocks import Frontier, ascend, best_start, loss_named, schedule_named
from hauberk.testing import LinearVictim
from hauberk.testing.setting import pictures
from hauberk.threat import Ball, Norm, Region, Untargeted
from hauberk.victims import Meter

VICTIM = LinearVictim(torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tensor([0.5, 0.0], dtype=torch.float64))
X = torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64)  # class 1 begins at 0.5: the margin at z is z - 0.5
S = pictures()


def frontier(budget: int | None = None, *, radius: float = 1.0) -> tuple[Frontier, Meter]:
    meter = Meter(VICTIM, 3, budget=budget)
    return Frontier(meter, X, Untargeted(torch.zeros(3, dtype=torch.int64)), Ball(Norm.LINF, radius)), meter


def points(*values: float) -> Batch:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_copies_stand_one_after_the_other_and_each_is_charged() -> None:
    work, meter = frontier()
    work.restart(copies=2)
    assert work.rows.tolist() == [0, 1, 2, 0, 1, 2]
    assert work.copy.tolist() == [0, 0, 0, 1, 1, 1]
    work.ask(points(0.1, 0.1, 0.1, 0.2, 0.2, 0.2))
    assert meter.queries.tolist() == [2, 2, 2]


def test_the_best_copy_is_kept_and_of_equals_the_first() -> None:
    work, _ = frontier()
    work.restart(copies=3)
    work.ask(points(0.4, 0.2, float("nan"), 0.3, 0.45, 0.1, 0.4, 0.2, 0.2))
    assert work.best[:, 0].tolist() == [0.4, 0.45, 0.2]
    assert torch.allclose(work.margin, torch.tensor([-0.1, -0.05, -0.3], dtype=torch.float64))


def test_all_copies_of_a_broken_example_leave() -> None:
    work, _ = frontier()
    work.restart(copies=2)
    (z,) = work.compact(points(0, 1, 2, 3, 4, 5))
    assert len(z) == 6
    work.ask(points(0.4, 0.2, 0.2, 0.2, 0.9, 0.1))
    (z,) = work.compact(z)
    assert work.rows.tolist() == [0, 2, 0, 2]
    assert work.copy.tolist() == [0, 0, 1, 1]
    assert z[:, 0].tolist() == [0, 2, 3, 5]
    work.restart()
    assert work.rows.tolist() == [0, 2]
    assert work.copy.tolist() == [0, 0]


def test_an_example_that_cannot_pay_for_all_copies_keeps_the_first() -> None:
    work, meter = frontier(budget=5)
    work.ask(X[:])
    meter.queries[1] += 2  # two left to the second example, four to the others
    work.restart(copies=3)
    assert work.rows.tolist() == [0, 1, 2, 0, 1, 2, 0, 2]
    work.ask(points(*[0.1] * 8))
    work.compact()
    assert work.rows.tolist() == [0, 2]
    assert work.copy.tolist() == [0, 0]
    work.ask(points(0.1, 0.1))
    work.compact()
    assert not len(work)
    assert meter.queries.tolist() == [5, 5, 5]


def test_only_the_examples_among_are_worked_on() -> None:
    work, _ = frontier()
    work.restart(copies=2, among=torch.tensor([True, False, True]))
    assert work.rows.tolist() == [0, 2, 0, 2]
    assert torch.equal(work.x, X[work.rows])


def test_as_many_rows_as_examples_are_still_the_rows_they_say() -> None:
    work, _ = frontier()
    work.restart(copies=3, among=torch.tensor([False, True, False]))
    assert torch.equal(work.x, X[[1, 1, 1]])


def test_copies_draw_numbers_of_their_own_whoever_else_is_there() -> None:
    def drawn(among: list[bool]) -> torch.Tensor:
        work, _ = frontier()
        streams = Streams(0, torch.tensor([7, 8, 9]), "copies")

        def draw(copy: int, x: Batch, rows: Rows, region: Region) -> Batch:
            return region.start(x, rows, streams) + 10 * copy

        work.restart(copies=2, among=torch.tensor(among))
        return work.each_copy(draw)[work.rows == 2]

    both = drawn([True, True, True])
    assert torch.equal(both, drawn([False, False, True]))
    assert both[1, 0] >= 10 > both[0, 0]
    assert both[1, 0] - 10 != both[0, 0]


def test_two_climbs_at_once_find_what_the_better_of_two_finds() -> None:
    region = Ball(Norm.LINF, 0.05)
    everyone = torch.arange(len(S))
    starts = [region.start(S.x, everyone, Streams(seed, everyone, "starts")) for seed in (0, 1)]
    alone = []
    for start in starts:
        work = Frontier(S.victim, S.x, Untargeted(S.y), region, early_stop=False)
        ascend(work, start, loss=loss_named("margin"), steps=3, step_size=0.02, schedule=schedule_named("linear"))
        alone.append(work.margin)
    work = Frontier(S.victim, S.x, Untargeted(S.y), region, early_stop=False)
    work.restart(copies=2)
    both = best_start(lambda: torch.cat(starts), work, 1)
    ascend(work, both, loss=loss_named("margin"), steps=3, step_size=0.02, schedule=schedule_named("linear"))
    assert torch.allclose(work.margin, torch.maximum(*alone), atol=1e-12)
