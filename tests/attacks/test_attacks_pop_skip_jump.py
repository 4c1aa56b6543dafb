"""PopSkipJump finds the boundary of victims that answer by chance, where attacks that believe each answer do not."""

import math

import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels, Logits, Rows
from hauberk.attacks.hop_skip_jump import HopSkipJump
from hauberk.attacks.pop_skip_jump import PopSkipJump, _far, _majority, _search, _spread, _told, _way, pop_skip_jump
from hauberk.blocks import Closest
from hauberk.errors import HauberkError
from hauberk.testing import LinearVictim, linear_settings
from hauberk.testing.setting import pictures, run
from hauberk.threat import Access, Ball, Norm, Targeted, Untargeted
from hauberk.victims import Meter
from hauberk.victims.eot import eot

L2, LINF = Norm.L2, Norm.LINF


class ByChance:
    """A victim whose label is another one with probability `flip`, and that of its scores with normal noise added to them."""

    forwards_per_query, notes, access, device, dtype = 1, (), Access.LABELS, torch.device("cpu"), torch.float64

    def __init__(self, inner: LinearVictim, flip: float = 0.0, spread: float = 0.0) -> None:
        self.inner, self.flip, self.spread, self.chance = inner, flip, spread, torch.Generator().manual_seed(0)
        self.name, self.bounds, self.classes = "by chance", inner.bounds, inner.classes

    def left(self, rows: Rows) -> Tensor:
        return self.inner.left(rows)

    def labels(self, x: Batch, rows: Rows) -> Labels:
        scores = self.inner.logits(x, rows)
        noise = torch.randn(scores.shape, generator=self.chance, dtype=scores.dtype)
        labels = (scores + self.spread * noise).argmax(dim=1)
        other = (labels + torch.randint(1, self.classes, labels.shape, generator=self.chance)) % self.classes
        return torch.where(torch.rand(labels.shape, generator=self.chance) < self.flip, other, labels)


def ratios(attack: object, what: str, norm: Norm, budget: int, flip: float = 0.0, spread: float = 0.0) -> Tensor:
    """Found / optimal; infinite where the victim without its noise does not agree."""
    inner, setting = linear_settings()[what]
    meter = Meter(ByChance(inner, flip, spread), len(setting), budget=budget)
    streams = Streams(0, setting.ids, "test")
    points = attack(meter, setting.x, Untargeted(setting.y), Ball(norm), streams=streams)  # type: ignore[operator]
    broken = inner.labels(points, setting.ids) != setting.y
    assert int(meter.queries.max()) <= budget
    optimal = inner.optimal_distance(setting.x, setting.y, norm)
    return (torch.where(broken, norm.size(points - setting.x), torch.inf) / optimal)[optimal.isfinite()]


@pytest.mark.parametrize(
    ("what", "norm", "noise", "median"),
    [
        ("vectors", L2, {"flip": 0.1}, 1.1),
        ("classes", L2, {"flip": 0.1}, 1.6),
        ("vectors", L2, {"spread": 0.1}, 1.2),
        ("vectors", LINF, {"flip": 0.1}, 1.25),
    ],
    ids=str,
)
def test_answers_by_chance_hide_the_boundary_from_hop_skip_jump_only(
    what: str, norm: Norm, noise: dict[str, float], median: float
) -> None:
    fooled = ratios(HopSkipJump(noise="white"), what, norm, 400, **noise)
    assert float(fooled.isinf().double().mean()) > 0.6
    found = ratios(PopSkipJump(noise="white"), what, norm, 1000, **noise)
    assert float(found.isfinite().double().mean()) > 0.95
    assert float(found.median()) < median
    assert float(found.min()) >= 1 - 1e-9


@pytest.mark.parametrize(("norm", "bars"), [(L2, (1.2, 2.0)), (LINF, (1.7, 2.6))], ids=str)
def test_without_chance_the_optimum_of_planes_is_approached(norm: Norm, bars: tuple[float, float]) -> None:
    for what in ("vectors", "classes"):
        ratio = ratios(PopSkipJump(noise="white"), what, norm, 1000)
        assert float(ratio.min()) >= 1 - 1e-9
        assert float(ratio.max()) <= bars[what == "classes"], (what, float(ratio.max()))


def test_the_search_learns_place_slope_and_flips() -> None:
    victim = LinearVictim(torch.tensor([[0.0], [1.0]]).double(), torch.tensor([0.0, -0.37]).double())
    rows = torch.arange(60)
    x = torch.zeros(60, 1, dtype=torch.float64)
    goal, streams = Untargeted(torch.zeros(60, dtype=torch.int64)), Streams(0, rows, "test")
    slopes = {}
    for flip, spread, asks in ((0.0, 0.0, 20), (0.1, 0.0, 60), (0.0, 0.1, 100)):
        meter = Meter(ByChance(victim, flip, spread), 60)
        found = Closest(meter, x, goal, Ball(L2))
        belief = _search(found, _way(found, x + 1, 0.0, 1.0), _spread(torch.full((60, 5), 0.2).double()), asks, streams)
        torch.testing.assert_close(belief.sum(dim=1), torch.ones(60).double())
        cube = belief.reshape(60, 65, 5, 5)
        centre = cube.sum(dim=(2, 3)) @ torch.linspace(0, 1, 65).double()
        flips = cube.sum(dim=(1, 2)) @ torch.tensor([0.0, 0.05, 0.1, 0.2, 0.3]).double()
        assert abs(float(centre.mean()) - 0.37) < 0.015
        assert float((centre - 0.37).abs().median()) < (0.016 if not spread else 0.05)
        if not spread:
            assert abs(float(flips.mean()) - flip) < 0.06
        assert int(meter.queries.max()) <= asks
        slopes[flip, spread] = float((cube.sum(dim=(1, 3)) @ torch.tensor([2.0, 6, 16, 32, 64]).double()).mean())
    assert slopes[0.0, 0.1] < slopes[0.0, 0.0]


def test_more_noise_and_gentler_slopes_take_more_probes() -> None:
    scale = torch.full((1,), 0.02).double()

    def told(slope: int, flip: int) -> float:
        belief = torch.zeros(1, 65, 5, 5, dtype=torch.float64)
        belief[:, 30, slope, flip] = 1
        return float(_told(belief.flatten(1), scale)[0])

    assert told(4, 0) == pytest.approx(0.93, abs=0.05)  # a step as wide as a cell is nearly sharp at this scale
    assert told(4, 2) == pytest.approx(0.8 * told(4, 0))
    assert told(0, 0) < told(2, 0) < told(4, 0)
    x = torch.randn(10**6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ramp = (0.5 + 6.0 * 0.02 * x).clamp(0, 1)  # the chance as the formula takes it
    assert told(1, 0) == pytest.approx(float(((2 * ramp - 1) * x).mean()) / math.sqrt(2 / math.pi), rel=1e-2)


def test_a_majority_is_one_that_a_fair_coin_seldom_gives() -> None:
    for count in (6, 15):
        chances = [sum(math.comb(count, k) for k in range(hits, count + 1)) / 2**count for hits in range(count + 1)]
        assert chances[_majority(count)] <= 1 / 40 < chances[_majority(count) - 1]


def test_starts_are_points_that_reach_the_goal_most_of_the_time() -> None:
    inner, setting = linear_settings()["pictures"]
    meter = Meter(ByChance(inner, 0.15), len(setting))
    found = Closest(meter, setting.x, Untargeted(setting.y), Ball(L2))
    z = _far(found, Streams(0, setting.ids, "test"), None)
    right = inner.labels(z, found.rows) != setting.y[found.rows]
    assert len(found) >= 20
    assert float(right.double().mean()) > 0.95


def test_targets_are_reached_from_examples_of_them_through_noise() -> None:
    inner, setting = linear_settings()["classes"]
    targets = (setting.y + 1) % 5
    starts = torch.stack([setting.x[int((setting.y == target).nonzero()[0])] for target in targets])
    meter = Meter(ByChance(inner, 0.1), len(setting), budget=1000)
    streams = Streams(0, setting.ids, "test")
    points = PopSkipJump()(meter, setting.x, Targeted(targets), Ball(L2), streams=streams, starts=starts)
    reached = inner.labels(points, setting.ids) == targets
    assert float(reached.double().mean()) > 0.9
    shrunk = L2.size(points - setting.x) / L2.size(starts - setting.x)
    assert float(shrunk[reached].median()) < 0.7


def test_a_victim_that_votes_is_asked_for_its_vote() -> None:
    class Blurred(nn.Module):
        def forward(self, x: Tensor) -> Logits:
            shown = x + 0.3 * torch.randn_like(x)
            return torch.stack((torch.zeros(len(x)), shown.flatten(1).sum(dim=1) - 2), dim=1)

    victim = eot(Blurred(), samples=3, judge_samples=60)
    x = torch.full((4, 6), 0.1)
    found = pop_skip_jump(victim, x, torch.zeros(4, dtype=torch.int64), "l2@labels", max_queries=600, noise="white")
    assert bool(found.broken.all())
    nearest = (2 - 0.6) / math.sqrt(6)
    assert bool((found.sizes > 0.95 * nearest).all())
    assert float(found.sizes.median()) < 1.6 * nearest


@pytest.mark.parametrize("norm", [L2, LINF], ids=str)
def test_results_do_not_depend_on_the_batch_and_budgets_are_prefixes(norm: Norm) -> None:
    setting, attack = pictures(12).row_by_row(), PopSkipJump()
    whole = run(attack, setting, Ball(norm), budget=200)
    assert whole.queries.tolist() == [200] * 12
    for rows in torch.arange(len(setting)).split(1)[::5]:
        alone = run(attack, setting.take(rows), Ball(norm), budget=200)
        torch.testing.assert_close(alone.points, whole.points[rows], rtol=0, atol=1e-9)
    more = run(attack, setting, Ball(norm), budget=400)
    size = [torch.where(one.broken, norm.size(one.points - setting.x), torch.inf) for one in (whole, more)]
    assert bool((size[1] <= size[0]).all())


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in (
        lambda: PopSkipJump(sure=0.5),
        lambda: PopSkipJump(sure=1.0),
        lambda: PopSkipJump(most=0.5),
        lambda: PopSkipJump(asks=0),
        lambda: PopSkipJump(noise="gray"),
    ):
        with pytest.raises(HauberkError):
            wrong()
