"""Attacks with labels alone: the optimum of planes at a stated budget, starts, targets, and each paper's idea."""

import pytest
import torch

from hauberk._rng import Streams
from hauberk.attacks import Attack
from hauberk.attacks.boundary import Boundary, boundary
from hauberk.attacks.cgba import CGBA, cgba
from hauberk.attacks.geo_da import GeoDA, geo_da
from hauberk.attacks.hop_skip_jump import HopSkipJump, hop_skip_jump
from hauberk.attacks.opt import OPT, opt
from hauberk.attacks.ray_s import RayS, ray_s
from hauberk.attacks.sign_opt import SignOPT, sign_opt
from hauberk.attacks.sur_free import SurFree, sur_free
from hauberk.errors import HauberkError
from hauberk.testing import LinearVictim, linear_settings
from hauberk.testing.setting import pictures, run
from hauberk.threat import Access, Ball, Norm, Targeted, Untargeted
from hauberk.victims import Meter

L2, LINF = Norm.L2, Norm.LINF

# Of two classes and of five, where a walk may end at the boundary of a rival that is not the nearest.
BARS: list[tuple[Attack, int, dict[Norm, tuple[float, float]]]] = [
    (HopSkipJump(), 1500, {L2: (1.1, 1.5), LINF: (1.8, 1.8)}),
    (HopSkipJump(noise="white"), 1500, {L2: (1.04, 1.5), LINF: (1.3, 1.6)}),
    (SignOPT(), 1500, {L2: (1.1, 1.5)}),
    (OPT(), 1000, {L2: (2.2, 2.2)}),
    (Boundary(), 1000, {L2: (1.6, 2.4)}),
    (RayS(), 1000, {LINF: (1.01, 1.5)}),
    (CGBA(), 1500, {L2: (1.1, 1.9)}),
    (SurFree(), 1000, {L2: (1.4, 3.5)}),
    (GeoDA(), 1500, {L2: (1.8, 1.8), LINF: (1.7, 1.7)}),
    (GeoDA(noise="white"), 1500, {L2: (1.08, 1.8), LINF: (1.2, 1.6)}),
]
FRIENDLY = [hop_skip_jump, sign_opt, opt, boundary, cgba, sur_free, geo_da]
EVERY = [(attack, norm) for attack, _, bars in BARS if attack == type(attack)() for norm in bars]


@pytest.mark.parametrize(
    ("attack", "budget", "norm", "bars"),
    [
        pytest.param(attack, budget, norm, both, id=f"{attack}-{norm}")
        for attack, budget, bars in BARS
        for norm, both in bars.items()
    ],
)
def test_the_optimum_of_planes_is_approached_within_a_budget(
    attack: Attack, budget: int, norm: Norm, bars: tuple[float, float]
) -> None:
    for what, (victim, setting) in linear_settings().items():
        ball = Ball(norm, box=victim.bounds)
        outcome = run(attack, setting, ball, budget=budget)
        optimal = victim.optimal_distance(setting.x, setting.y, norm)
        possible = optimal.isfinite()
        ratio = (
            torch.where(outcome.broken, ball.size(outcome.points, setting.x), torch.inf)[possible] / optimal[possible]
        )
        bar = bars[0] if victim.classes == 2 else bars[1]
        assert float(ratio.min()) >= 1 - 1e-9, what
        assert float(ratio.max()) <= bar, (what, float(ratio.max()))
        assert int(outcome.queries.max()) <= budget


@pytest.mark.parametrize(("attack", "norm"), EVERY, ids=str)
def test_results_do_not_depend_on_the_batch(attack: Attack, norm: Norm) -> None:
    setting = pictures(64).row_by_row()
    whole = run(attack, setting, Ball(norm), budget=150)
    for rows in torch.arange(len(setting)).split(1)[::13]:
        alone = run(attack, setting.take(rows), Ball(norm), budget=150)
        torch.testing.assert_close(alone.points, whole.points[rows], rtol=0, atol=1e-9)
        assert torch.equal(alone.queries, whole.queries[rows])


@pytest.mark.parametrize(("attack", "norm"), EVERY, ids=str)
def test_every_query_of_a_budget_is_spent_and_no_more_and_is_worth_it(attack: Attack, norm: Norm) -> None:
    setting, before = pictures(), torch.full((9,), torch.inf, dtype=torch.float64)
    for budget in (40, 150, 400):
        outcome = run(attack, setting, Ball(norm), budget=budget)
        assert outcome.queries.tolist() == [budget] * 9
        size = torch.where(outcome.broken, Ball(norm).size(outcome.points, setting.x), torch.inf)
        assert bool((size <= before).all())
        before = size
    assert bool(before.isfinite().all())


def test_a_second_way_finds_rivals_that_the_first_misses_and_changes_nothing_before() -> None:
    victim, setting = linear_settings()["classes"]
    optimal = victim.optimal_distance(setting.x, setting.y, L2)
    ratio, early = {}, {}
    for again in (0, 6):
        attack, ball = HopSkipJump(noise="white", again=again), Ball(L2, box=victim.bounds)
        early[again] = run(attack, setting, ball, budget=350).points
        outcome = run(attack, setting, ball, budget=2500)
        assert outcome.queries.tolist() == [2500] * len(setting)
        ratio[again] = L2.size(outcome.points - setting.x) / optimal
        alone = run(attack, setting.take(torch.tensor([5])), ball, budget=2500)
        torch.testing.assert_close(alone.points, outcome.points[5:6])
    torch.testing.assert_close(early[0], early[6], rtol=0, atol=0)
    assert float(ratio[0].mean()) > 1.05 > float(ratio[6].mean()) >= 1


@pytest.mark.parametrize("attack", FRIENDLY, ids=lambda attack: attack.__name__)
def test_targets_are_reached_from_examples_of_them(attack: object) -> None:
    victim, setting = linear_settings()["classes"]
    targets = (setting.y + 1) % 5
    starts = torch.stack([setting.x[int((setting.y == target).nonzero()[0])] for target in targets])
    found = attack(  # type: ignore[operator]  # the friendly face of each
        victim, setting.x, setting.y, "l2@labels", goal=Targeted(targets), starts=starts, max_queries=600, seed=1
    )
    assert bool(found.broken.all())
    assert torch.equal(found.labels, targets)
    assert bool((found.sizes < 0.8 * L2.size(starts - setting.x)).all())
    assert bool((found.sizes >= victim.optimal_distance(setting.x, setting.y, L2) * (1 - 1e-9)).all())


def test_ray_s_reaches_targets_too() -> None:
    victim, setting = linear_settings()["classes"]
    found = ray_s(victim, setting.x, setting.y, "linf@labels", goal=Targeted((setting.y + 1) % 5), max_queries=600)
    assert float(found.broken.double().mean()) > 0.9


@pytest.mark.parametrize(("attack", "norm"), EVERY, ids=str)
def test_with_a_radius_an_example_leaves_with_its_first_success_inside(attack: Attack, norm: Norm) -> None:
    setting = pictures()
    outcome = run(attack, setting, Ball(norm, 20.0 if norm is L2 else 0.9), budget=500)
    assert bool(outcome.broken.all())
    assert int(outcome.queries.max()) < 100


@pytest.mark.parametrize("attack", [HopSkipJump(), CGBA(), SignOPT(), OPT(), SurFree(), Boundary(), GeoDA()], ids=str)
def test_probes_of_few_frequencies_find_a_smooth_normal_sooner(attack: Attack) -> None:
    side, ids = 16, torch.arange(8)
    wave = torch.outer(*2 * [torch.cos(torch.pi * (torch.arange(side).double() + 0.5) * 2 / side)]).reshape(-1)
    victim = LinearVictim(torch.stack((0 * wave, wave)), torch.tensor([0.0, -4.0], dtype=torch.float64))
    x = 0.35 + 0.3 * Streams(5, ids, "smooth").uniform(ids, (1, side, side), dtype=torch.float64)
    y = victim.labels(x, ids)
    optimal = victim.optimal_distance(x, y, L2)
    ratio = {}
    for noise in ("white", "dct:4"):
        chosen = type(attack)(noise=noise)  # type: ignore[call-arg]  # each of these has noise
        meter = Meter(victim, 8, budget=400, access=Access.LABELS)
        points = chosen(meter, x, Untargeted(y), Ball(L2), streams=Streams(0, ids, "test"))
        ratio[noise] = float((L2.size(points - x) / optimal).median())
    assert 1 <= ratio["dct:4"] < ratio["white"]


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in (
        lambda: HopSkipJump(noise="gray"),
        lambda: HopSkipJump(again=-1),
        lambda: HopSkipJump(tries=0),
        lambda: CGBA(samples=0),
        lambda: SignOPT(growth=-1.0),
        lambda: GeoDA(growth=0.5),
        lambda: SurFree(memory=-1),
        lambda: Boundary(pace=0.0),
        lambda: OPT(probe=0.0),
        lambda: RayS(tolerance=0.0),
    ):
        with pytest.raises(HauberkError):
            wrong()
