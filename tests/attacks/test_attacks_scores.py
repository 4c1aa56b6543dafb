"""Attacks with scores alone: what each does on closed-form victims, and what it costs to the query."""

import pytest
import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk.attacks import Attack, GenAttack, InputFree, RandomGrouping, SignHunter, SimBA, Square, name_of
from hauberk.attacks.local_search import LocalSearch, _cyclic
from hauberk.attacks.sparse_rs import SparseRS, alpha_at
from hauberk.blocks.subspaces import LowFrequencies
from hauberk.errors import HauberkError, SettingError
from hauberk.testing import LinearVictim
from hauberk.threat import Ball, Norm, Targeted, Untargeted
from hauberk.victims import Meter


def one_line(slope: Tensor, n: int = 3) -> tuple[LinearVictim, Tensor, Untargeted]:
    """Class 1 scores <slope, z>, class 0 scores 1,000: never broken, and the margin is linear."""
    weights = torch.stack((torch.zeros_like(slope), slope)).double()
    victim = LinearVictim(weights, torch.tensor([1000.0, 0.0], dtype=torch.float64))
    return victim, torch.full((n, len(slope)), 0.5, dtype=torch.float64), Untargeted(torch.zeros(n, dtype=torch.int64))


def attacked(attack: Attack, victim: LinearVictim, x: Tensor, goal: Untargeted, ball: Ball) -> tuple[Tensor, list[int]]:
    """The points, and what each example cost; a forward a query and no backward."""
    meter = Meter(victim, len(x), access=attack.access)
    points = attack(meter, x, goal, ball, streams=Streams(3, torch.arange(len(x)), name_of(attack)))
    assert meter.forwards.tolist() == meter.queries.tolist()
    assert not bool(meter.backwards.any())
    return points, meter.queries.tolist()


def slopes(count: int) -> Tensor:
    return torch.linspace(-1, 1.3, count).double().sin() * torch.tensor([1.0, -1, -1]).repeat(count)[:count]


def test_sign_hunter_stops_after_a_pass_that_flips_nothing() -> None:
    victim, x, goal = one_line(torch.arange(1, 13).double())
    points, queries = attacked(SignHunter(), victim, x, goal, Ball(Norm.LINF, 0.1))
    assert queries == [1 + 1 + 2 + 4 + 6 + 12] * 3  # chunks of 12, 6, 3, 2, 1
    torch.testing.assert_close(points, x + 0.1)


def test_sign_hunter_finds_every_sign_in_one_pass() -> None:
    slope = slopes(13)
    victim, x, goal = one_line(slope)
    one_pass = 1 + 2 + 4 + 7 + 13  # chunks of 13, 7, 4, 2, 1
    points, queries = attacked(SignHunter(steps=one_pass), victim, x, goal, Ball(Norm.LINF, 0.1))
    torch.testing.assert_close(points, x + 0.1 * slope.sign())
    assert queries == [one_pass + 1] * 3
    _, queries = attacked(SignHunter(), victim, x, goal, Ball(Norm.LINF, 0.1))
    assert queries == [2 * one_pass + 1] * 3


def test_sign_hunter_spends_the_whole_radius_in_l2() -> None:
    victim, x, goal = one_line(torch.ones(9))
    points, _ = attacked(SignHunter(steps=1), victim, x, goal, Ball(Norm.L2, 0.3))
    torch.testing.assert_close((points - x).norm(dim=1), torch.full((3,), 0.3, dtype=torch.float64))


def test_simba_asks_once_or_twice_for_each_direction() -> None:
    up = torch.tensor([1.0, 2, 3, 4, 5, 6])
    for slope, each in ((up, 1), (-up, 2)):
        victim, x, goal = one_line(slope)
        points, queries = attacked(SimBA(steps=6 * each, step_size=0.02), victim, x, goal, Ball(Norm.L2, 0.4))
        torch.testing.assert_close(points, x + 0.02 * slope.sign().double())
        assert queries == [6 * each + 1] * 3


def test_simba_adds_orthonormal_waves() -> None:
    every_wave = LowFrequencies(8).lift(torch.ones(1, 8, 8, dtype=torch.float64), (8, 8)).flatten()  # each helps, added
    victim, x, goal = one_line(every_wave)
    x = x.reshape(3, 1, 8, 8)
    attack = SimBA(steps=64, basis="dct", step_size=0.01)
    points, queries = attacked(attack, victim, x, goal, Ball(Norm.L2, 2.0))
    assert queries == [65] * 3
    torch.testing.assert_close((points - x).flatten(1), (0.01 * every_wave).expand(3, -1))
    points, _ = attacked(SimBA(steps=1, basis="dct", order="low", step_size=0.01), victim, x, goal, Ball(Norm.L2, 2.0))
    change = (points - x).flatten(1)
    torch.testing.assert_close(change, change[:, :1].expand_as(change))  # the lowest frequency first
    points, _ = attacked(SimBA(steps=2, basis="dct"), victim, x, goal, Ball(Norm.LINF, 0.1))
    torch.testing.assert_close((points - x).abs().flatten(1).amax(dim=1), torch.full((3,), 0.1, dtype=torch.float64))


def test_sparse_rs_exchanges_fewer_cells_as_the_reference_code_does() -> None:
    for steps in (9999, 4999, 499):
        for step in range(1, steps + 1, 7):
            place = int(step / (steps + 1) * 10_000)
            bounds = ((0, 2), (50, 4), (200, 5), (500, 6), (1000, 8), (2000, 10), (4000, 12), (6000, 15), (8000, 20))
            divisor = next((d for mark, d in reversed(bounds) if place > mark), 1)
            assert alpha_at(0.3, step, steps) == 0.3 / divisor


@pytest.mark.parametrize(("cells", "radius", "places"), [("pixels", 6, 2), ("pixels", 7, 3), ("values", 7, 7)])
def test_sparse_rs_changes_as_many_cells_as_the_radius_has(cells: str, radius: int, places: int) -> None:
    victim, x, goal = one_line(slopes(75))
    x = x.reshape(3, 3, 5, 5)
    points, queries = attacked(SparseRS(steps=40, cells=cells), victim, x, goal, Ball(Norm.L0, radius))
    assert queries == [41] * 3
    changed = points != x
    assert bool((changed.flatten(1).sum(dim=1) == radius).all())
    seen = changed.any(dim=1) if cells == "pixels" else changed
    assert bool((seen.flatten(1).sum(dim=1) == places).all())
    assert set(points[changed].tolist()) == {0.0, 1.0}


def test_gen_attack_does_not_ask_its_elite_again() -> None:
    victim, x, goal = one_line(slopes(10))
    _, queries = attacked(GenAttack(generations=7, population=5), victim, x, goal, Ball(Norm.LINF, 0.1))
    assert queries == [5 + 7 * 4] * 3


def test_gen_attack_on_one_coarse_value_moves_each_channel_as_a_whole() -> None:
    victim, x, goal = one_line(slopes(48))
    x = x.reshape(3, 3, 4, 4)
    points, _ = attacked(GenAttack(generations=20, side=1), victim, x, goal, Ball(Norm.LINF, 0.1))
    change = (points - x).flatten(2)
    torch.testing.assert_close(change, change[:, :, :1].expand_as(change))
    assert float(change.abs().amax()) > 0.05


def test_local_search_takes_the_best_values_and_ends_when_the_radius_is_full() -> None:
    slope = torch.tensor([5.0, 1, -4, 0.5, 2, -3, 0.1, 1.5])
    victim, x, goal = one_line(slope)
    attack = LocalSearch(cells="values", at_once=2, candidates=8)
    points, queries = attacked(attack, victim, x, goal, Ball(Norm.L0, 3.0))
    best = x.clone()
    best[:, [0, 2, 5]] = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.equal(points, best)
    assert queries == [1 + 2 * (2 * 8 + 1)] * 3  # two values, then the third


def test_local_search_looks_next_to_what_it_changed() -> None:
    slope = torch.zeros(20)
    slope[3], slope[5] = 2.0, 1.0
    victim, x, goal = one_line(slope, 1)
    attack = LocalSearch(rounds=2, cells="values", at_once=1, candidates=20, reach=2)
    points, _ = attacked(attack, victim, x, goal, Ball(Norm.L0, 2.0))
    assert (points != x).nonzero()[:, 1].tolist() == [3, 5]
    few = LocalSearch(rounds=1, candidates=3, moves="cyclic")
    _, queries = attacked(few, victim, x, goal, Ball(Norm.L0, 2.0))
    assert queries == [1 + 3 + 1]


def test_cyclic_moves_stretch_and_wrap_round() -> None:
    values = torch.tensor([0.5, 0.6, 0.9, 0.1, 0.3], dtype=torch.float64)
    torch.testing.assert_close(_cyclic(values, (0.0, 1.0)), torch.tensor([0.5, 0.65, 0.1, 0.9, 0.2]).double())


@pytest.mark.parametrize(("size", "groups"), [(1, 13), (4, 4), (13, 1)])
def test_random_grouping_asks_twice_a_group_and_once_a_step(size: int, groups: int) -> None:
    slope = slopes(13)
    victim, x, goal = one_line(slope)
    points, queries = attacked(RandomGrouping(steps=3, group_size=size), victim, x, goal, Ball(Norm.LINF, 0.1))
    assert queries == [3 * (2 * groups + 1)] * 3
    if size == 1:
        torch.testing.assert_close(points, x + 0.1 * slope.sign())


def test_input_free_starts_from_grey_and_repeats_a_region() -> None:
    victim, x, goal = one_line(slopes(64))
    x = torch.full_like(x, 0.2).reshape(3, 1, 8, 8)
    points, queries = attacked(InputFree(steps=5, samples=10, side=3), victim, x, goal, Ball(Norm.LINF, 1.0))
    assert queries == [1 + 5 * 11] * 3
    torch.testing.assert_close(points[:, :, 3:], points[:, :, :5])
    torch.testing.assert_close(points[..., 3:], points[..., :5])
    assert len(points[0].unique()) > 1
    points, _ = attacked(InputFree(steps=1, samples=2, step_size=1e-9), victim, x, goal, Ball(Norm.LINF, 0.1))
    torch.testing.assert_close(points, torch.full_like(x, 0.3))  # as near to grey as the ball has it


def test_input_free_goes_on_with_the_size_that_came_furthest() -> None:
    slope = torch.tensor([1.0, -1]).repeat(32)  # in columns: small regions find it, the whole picture hardly does
    victim, x, goal = one_line(slope)
    x = x.reshape(3, 1, 8, 8)
    attack = InputFree(steps=4, samples=4, side=None, trials=3, trial_steps=2)
    points, queries = attacked(attack, victim, x, goal, Ball(Norm.LINF, 0.5))
    assert queries == [1 + (3 * 2 + 4) * 5] * 3
    assert torch.equal(points[..., 4:], points[..., :4])


def test_square_with_early_squares_does_not_depend_on_how_many_proposals_there_will_be() -> None:
    victim, x, goal = one_line(slopes(192))
    x = x.reshape(3, 3, 8, 8)
    ball = Ball(Norm.LINF, 0.1)

    def after(steps: int, budget: int | None, shrink: str) -> Tensor:
        meter = Meter(victim, 3, budget=budget)
        attack = Square(steps=steps, p_init=0.2, shrink=shrink)
        return attack(meter, x, goal, ball, streams=Streams(0, torch.arange(3), "square"))

    assert torch.equal(after(30, None, "early"), after(3000, 31, "early"))
    assert not torch.equal(after(30, None, "paper"), after(3000, 31, "paper"))


def test_a_target_is_reached_and_ends_the_search() -> None:
    victim = LinearVictim(torch.eye(3, dtype=torch.float64))
    x = torch.tensor([[0.9, 0.5, 0.6]], dtype=torch.float64).repeat(2, 1)
    goal = Targeted(torch.tensor([1, 2]))
    for attack in (
        SignHunter(),
        SimBA(),
        GenAttack(generations=200),
        RandomGrouping(group_size=1),
        InputFree(),
        SparseRS(cells="values"),
        LocalSearch(cells="values"),
    ):
        ball = Ball(Norm.L0, 2.0) if Norm.L0 in attack.norms else Ball(Norm.LINF, 0.35)
        meter = Meter(victim, 2, access=attack.access)
        points = attack(meter, x, goal, ball, streams=Streams(0, torch.arange(2), name_of(attack)))
        assert victim.labels(points, torch.arange(2)).tolist() == [1, 2], attack
        assert int(meter.queries.max()) < 1200, attack


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: SignHunter(start="zeros"), "zeros"),
        (lambda: SimBA(basis="wavelets"), "wavelets"),
        (lambda: SimBA(order="low"), "dct"),
        (lambda: SparseRS(cells="rows"), "rows"),
        (lambda: SparseRS(alpha=1.5), "alpha"),
        (lambda: GenAttack(population=1), "population"),
        (lambda: GenAttack(rho=2.0), "rho"),
        (lambda: LocalSearch(moves="up"), "up"),
        (lambda: LocalSearch(cells="rows"), "rows"),
        (lambda: RandomGrouping(loss="hinge"), "hinge"),
        (lambda: RandomGrouping(group_size=0), "group_size"),
        (lambda: InputFree(samples=3), "pairs"),
        (lambda: InputFree(start="black"), "black"),
        (lambda: Square(shrink="late"), "late"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make: object, word: str) -> None:
    with pytest.raises(HauberkError, match=word):
        make()  # type: ignore[operator]
    assert issubclass(SettingError, HauberkError)
