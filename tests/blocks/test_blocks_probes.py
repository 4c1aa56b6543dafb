"""Several points of each example in one batch: what is charged, what is kept, and who cannot pay."""

import torch

from hauberk.blocks import Closest, Frontier
from hauberk.testing import LinearVictim
from hauberk.threat import Access, Ball, Norm, Untargeted
from hauberk.victims import Meter

VICTIM = LinearVictim(torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tensor([0.5, 0.0], dtype=torch.float64))
X = torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64)  # class 1 begins at 0.5: the margin at z is z - 0.5
GOAL = Untargeted(torch.zeros(3, dtype=torch.int64))


def each(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)[:, :, None]


def test_every_point_is_charged_to_its_example_and_the_best_is_kept() -> None:
    meter = Meter(VICTIM, 3)
    work = Frontier(meter, X, GOAL, Ball(Norm.LINF, 1.0))
    margin = work.ask_each(each((0.1, 0.4), (0.45, 0.2), (0.3, 0.9)))
    torch.testing.assert_close(margin, each((-0.4, -0.1), (-0.05, -0.3), (-0.2, 0.4))[:, :, 0])
    assert meter.queries.tolist() == meter.forwards.tolist() == [2, 2, 2]
    assert work.best[:, 0].tolist() == [0.4, 0.45, 0.9]
    work.compact()
    assert work.rows.tolist() == [0, 1]  # the third is broken


def test_who_cannot_pay_for_all_is_asked_the_first_and_leaves() -> None:
    meter = Meter(VICTIM, 3, budget=3)
    work = Frontier(meter, X, GOAL, Ball(Norm.LINF, 1.0))
    meter.queries[1] = 2
    margin = work.ask_each(each((0.1, 0.2), (0.1, 0.9), (0.1, 0.2)))
    assert margin.isnan().tolist() == [[False, False], [False, True], [False, False]]
    assert meter.queries.tolist() == [2, 3, 2]
    work.compact()
    assert work.rows.tolist() == [0, 2]
    work.ask_each(each((0.1, 0.2, 0.2), (0.1, 0.2, 0.3)))
    work.compact()
    assert meter.queries.tolist() == [3, 3, 3]
    assert len(work) == 0


def test_probes_are_not_proposed_and_may_lie_anywhere() -> None:
    meter = Meter(VICTIM, 3)
    work = Frontier(meter, X, GOAL, Ball(Norm.LINF, 0.05))
    margin = work.ask_each(each((0.9,), (0.9,), (0.9,)), allowed=False)
    assert bool((margin > 0).all())
    work.compact()
    assert len(work) == 3
    assert torch.equal(work.best, X)


def test_the_smallest_success_of_several_is_kept() -> None:
    meter = Meter(VICTIM, 3)
    found = Closest(meter, X, GOAL, Ball(Norm.L2))
    found.ask_each(each((0.9, 0.6, 0.4), (0.3, 0.7, 0.8), (0.1, 0.2, 0.4)))
    assert found.best[:, 0].tolist() == [0.6, 0.7, 0.4]
    torch.testing.assert_close(found.size[:2], torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert bool(found.size[2].isinf())
    found.ask_each(each((0.51, 0.1), (0.1, 0.1), (0.1, 0.1)), allowed=False)
    torch.testing.assert_close(found.size[0], torch.tensor(0.5, dtype=torch.float64))
    assert meter.queries.tolist() == [5, 5, 5]


def test_labels_alone_give_signs() -> None:
    meter = Meter(VICTIM, 3, access=Access.LABELS)
    work = Frontier(meter, X, GOAL, Ball(Norm.LINF, 1.0), early_stop=False)
    assert work.ask_each(each((0.1, 0.9), (0.6, 0.2), (0.1, 0.2))).tolist() == [[-1, 1], [1, -1], [-1, -1]]
    found = Closest(Meter(VICTIM, 3, access=Access.LABELS), X, GOAL, Ball(Norm.L2))
    found.ask_each(each((0.9, 0.6), (0.9, 0.1), (0.1, 0.1)))
    assert found.best[:, 0].tolist() == [0.6, 0.9, 0.1]


def test_points_on_a_grid_are_asked_as_they_would_be_saved() -> None:
    meter = Meter(VICTIM, 3)
    work = Frontier(meter, X, GOAL, Ball(Norm.LINF, 0.5, grid=10))
    work.ask_each(each((0.1, 0.42), (0.44, 0.2), (0.3, 0.33)))
    torch.testing.assert_close(work.best, torch.tensor([[0.4], [0.4], [0.3]], dtype=torch.float64))
