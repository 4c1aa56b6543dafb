"""CLEVER where the answer is known: linear victims, nets of two inputs searched finely, and draws of known distributions."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import kstest, weibull_max
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.certify.clever import Clever, CleverScores, fit_reverse_weibull
from hauberk.errors import AccessError, DataError, SettingError, ThreatError
from hauberk.testing.closed_form import LinearVictim
from hauberk.threat import Access, Norm, Rival, Targeted, TopK, Untargeted
from hauberk.victims import Meter, Victim, wrap

FAR = (-1e3, 1e3)
NORMS = [Norm.LINF, Norm.L2, Norm.L1]


def _streams(count: int, seed: int = 0) -> Streams:
    return Streams(seed, torch.arange(count), "test")


def _linear() -> tuple[LinearVictim, Tensor, Tensor]:
    """Four classes of twelve numbers, six examples with their predicted labels, in a box that is far away."""
    victim = LinearVictim.random(3, 12, classes=4, bounds=FAR)
    x = Streams(1, torch.arange(6)).normal(torch.arange(6), (3, 4), dtype=torch.float64)
    return victim, x, victim.labels(x, torch.arange(6))


def _net(seed: int = 5) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Two inputs, eight tanh units, three classes."""
    draws = Streams(seed, torch.arange(1))
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    for parameter in net.parameters():
        value = draws.normal(torch.arange(1), tuple(parameter.shape), dtype=torch.float64)[0]
        parameter.data.copy_(2 * value)
    x = Streams(seed, torch.arange(4), "x").uniform(torch.arange(4), (2,), dtype=torch.float64) - 0.5
    return net, x, net(x).argmax(1)


def _wrapped(net: nn.Module) -> Victim:
    return wrap(net, bounds=(-10.0, 10.0), dtype="float64")


def _same(a: CleverScores, b: CleverScores, rows: Tensor) -> None:
    for name in ("score", "scores", "targets", "gap", "largest", "lipschitz"):
        torch.testing.assert_close(getattr(a, name)[rows], getattr(b, name), rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("norm", NORMS)
def test_scores_of_a_linear_victim_are_its_distances(norm: Norm) -> None:
    victim, x, y = _linear()
    found = Clever(12, 5, radius=100.0)(victim, x, y, norm, streams=_streams(6))
    torch.testing.assert_close(found.score, victim.optimal_distance(x, y, norm), rtol=1e-9, atol=0.0)
    assert found.warnings == ()
    assert bool(found.fit.fitted.all())
    assert found.scores.shape == found.targets.shape == (6, 3)
    assert torch.equal(found.score, found.scores.amin(dim=1))


def test_no_score_exceeds_the_radius_and_a_warning_says_where_it_was_met() -> None:
    victim, x, y = _linear()
    least = float(victim.optimal_distance(x, y, Norm.L2).min())
    found = Clever(12, 5, radius=least / 2)(victim, x, y, "l2", streams=_streams(6))
    assert torch.equal(found.score, torch.full((6,), least / 2, dtype=torch.float64))
    assert len(found.warnings) == 1
    assert "radius" in found.warnings[0]
    assert Clever(10, 2)(victim, x, y, Norm.L2, streams=_streams(6)).radius == 3 * 2e3


@pytest.mark.parametrize("norm", NORMS)
def test_the_estimate_is_near_the_lipschitz_constant_of_a_net_that_was_searched_finely(norm: Norm) -> None:
    net, x, y = _net()
    radius = 0.3
    found = Clever(60, 400, radius)(_wrapped(net), x, y, norm, streams=_streams(4))
    line = torch.linspace(-radius, radius, 301, dtype=torch.float64)
    square = torch.cartesian_prod(line, line)
    square = square[norm.size(square) <= radius]
    for i in range(4):
        points = (x[i] + square).requires_grad_()
        scores = net(points)
        for column, target in enumerate(found.targets[i].tolist()):
            (slopes,) = torch.autograd.grad((scores[:, y[i]] - scores[:, target]).sum(), points, retain_graph=True)
            true = float(norm.dual.size(slopes).max())
            assert 0.99 * true <= float(found.lipschitz[i, column]) <= 1.02 * true
            assert float(found.largest[i, column]) <= true * (1 + 1e-3)
    assert bool((found.lipschitz >= found.largest).all())


def test_scores_do_not_depend_on_batches_order_or_chunks() -> None:
    net, x, y = _net()
    victim = _wrapped(net)
    estimate = Clever(12, 8, 0.5)
    whole = estimate(victim, x, y, "l2", streams=_streams(4))
    order = torch.tensor([2, 0, 3, 1])
    _same(whole, estimate(victim, x[order], y[order], "l2", streams=_streams(4).take(order)), order)
    for part in (torch.arange(1), torch.arange(1, 4)):
        _same(whole, estimate(victim, x[part], y[part], "l2", streams=_streams(4).take(part)), part)
    for chunk in (1, 7, 10_000):
        _same(whole, Clever(12, 8, 0.5, chunk)(victim, x, y, "l2", streams=_streams(4)), torch.arange(4))
    other = estimate(victim, x, y, "l2", streams=_streams(4, seed=1))
    assert not torch.equal(whole.largest, other.largest)


def test_more_batches_extend_the_same_draws() -> None:
    net, x, y = _net()
    few = Clever(10, 15, 0.5)(_wrapped(net), x, y, "linf", streams=_streams(4))
    many = Clever(40, 15, 0.5)(_wrapped(net), x, y, "linf", streams=_streams(4))
    assert bool((many.largest >= few.largest).all())


def test_inputs_modes_and_the_global_generator_are_untouched() -> None:
    net, x, y = _net()
    net.train()
    before, state = (x.clone(), y.clone()), torch.random.get_rng_state()
    Clever(10, 5, 0.5)(_wrapped(net), x, y, "l1", streams=_streams(4))
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert net.training
    assert torch.equal(state, torch.random.get_rng_state())


def test_points_stay_in_the_ball_and_in_the_bounds() -> None:
    victim, x, _ = _linear()
    seen: list[Tensor] = []

    class Watched(LinearVictim):  # type: ignore[misc]  # final for users
        def pullback(self, x: Tensor, rows: Tensor):  # noqa: ANN202
            seen.append(x.clone())
            return super().pullback(x, rows)

    box = (-0.7, 0.9)
    inside = x[:1].clamp(*box)
    watched = Watched(victim.weights, victim.bias, box)
    label = watched.labels(inside, torch.arange(1))
    for norm in NORMS:
        seen.clear()
        Clever(10, 30, 2.0)(watched, inside, label, norm, streams=_streams(1))
        points = torch.cat(seen)
        assert len(points) == 300
        assert len(points.flatten(1).unique(dim=0)) == 300  # every point is fresh
        assert bool((norm.size(points - inside) <= 2.0 + 1e-9).all())
        assert float(points.min()) >= box[0]
        assert float(points.max()) <= box[1]


def test_targets_are_columns_of_the_untargeted_scores() -> None:
    net, x, y = _net()
    victim, estimate = _wrapped(net), Clever(12, 10, 0.5)
    whole = estimate(victim, x, y, "l2", streams=_streams(4))
    torch.testing.assert_close(
        whole.score, estimate(victim, x, Untargeted(y), "l2", streams=_streams(4)).score, rtol=0, atol=0
    )
    wanted = whole.targets[:, 1]
    ways = [
        estimate(victim, x, Targeted(wanted), "l2", streams=_streams(4)),
        estimate(victim, x, Rival(wanted, y), "l2", streams=_streams(4)),
        estimate(victim, x, y, "l2", streams=_streams(4), targets=wanted),
        estimate(victim, x, y, "l2", streams=_streams(4), targets=wanted[:, None]),
    ]
    for found in ways:
        assert found.scores.shape == (4, 1)
        torch.testing.assert_close(found.score, whole.scores[:, 1], rtol=1e-9, atol=0)
    swapped = estimate(victim, x, y, "l2", streams=_streams(4), targets=whole.targets.flip(1))
    torch.testing.assert_close(swapped.scores, whole.scores.flip(1), rtol=1e-9, atol=0)


def test_the_meter_counts_exactly_and_misclassified_examples_cost_one_query_and_score_0() -> None:
    victim, x, y = _linear()
    y = y.clone()
    y[2] = (y[2] + 1) % 4
    meter = Meter(victim, 6)
    found = Clever(11, 7, 1.0, chunk=50)(meter, x, y, "linf", streams=_streams(6))
    points = torch.full((6,), 77)
    points[2] = 0
    assert meter.queries.tolist() == meter.forwards.tolist() == (points + 1).tolist()
    assert meter.backwards.tolist() == (3 * points).tolist()
    assert found.score[2] == 0
    assert bool((found.scores[2] == 0).all())
    assert bool(found.lipschitz[2].isnan().all())
    assert bool((found.score[[0, 1, 3, 4, 5]] > 0).all())
    reached = Clever(11, 7, 1.0)(victim, x, Targeted(victim.labels(x, torch.arange(6))), "l2", streams=_streams(6))
    assert reached.score.tolist() == [0.0] * 6
    assert reached.warnings == ()


@pytest.mark.parametrize("shape", [1.5, 3.0, 6.0])
def test_the_fit_recovers_the_parameters_of_reverse_weibull_draws(shape: float) -> None:
    draws = weibull_max.rvs(shape, loc=10.0, scale=2.0, size=(40, 1000), random_state=np.random.default_rng(0))
    fit = fit_reverse_weibull(torch.from_numpy(draws))
    assert bool(fit.fitted.all())
    assert float(fit.location.median()) == pytest.approx(10.0, abs=0.1)
    assert float(fit.scale.median()) == pytest.approx(2.0, rel=0.08)
    assert float(fit.shape.median()) == pytest.approx(shape, rel=0.08)
    assert float((fit.p_value < 0.05).double().mean()) <= 0.05
    assert bool((fit.location >= torch.from_numpy(draws).amax(dim=1)).all())


@pytest.mark.parametrize("shape", [1.3, 2.0, 4.0])
def test_the_fit_is_that_of_scipy(shape: float) -> None:
    draws = weibull_max.rvs(shape, loc=-3.0, scale=0.5, size=(5, 300), random_state=np.random.default_rng(1))
    fit = fit_reverse_weibull(torch.from_numpy(draws))
    for i, series in enumerate(np.asarray(draws)):
        theirs = weibull_max.fit(
            series, shape, loc=-3.0, scale=0.5
        )  # from the truth, where its search does not go astray
        ours = float(fit.shape[i]), float(fit.location[i]), float(fit.scale[i])
        assert ours == pytest.approx(theirs, rel=2e-3)
        assert weibull_max.logpdf(series, *ours).sum() >= weibull_max.logpdf(series, *theirs).sum() - 1e-6
        test = kstest(series, weibull_max(*ours).cdf)
        assert float(fit.ks[i]) == pytest.approx(test.statistic, abs=1e-9)
        assert float(fit.p_value[i]) == pytest.approx(test.pvalue, rel=1e-6)


def test_the_fit_moves_with_the_draws() -> None:
    draws = torch.from_numpy(weibull_max.rvs(2.5, size=(3, 200), random_state=np.random.default_rng(2)))
    a, b = fit_reverse_weibull(draws), fit_reverse_weibull(draws * 1e-4 + 7)
    torch.testing.assert_close(b.location, a.location * 1e-4 + 7, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(b.shape, a.shape, rtol=1e-4, atol=0)
    c = fit_reverse_weibull(draws.flip(1))
    torch.testing.assert_close(a.location, c.location, rtol=1e-10, atol=0)


def test_a_fit_of_draws_that_are_not_reverse_weibull_says_so() -> None:
    generator = np.random.default_rng(3)
    two_heaps = np.where(generator.random((6, 400)) < 0.5, 1.0, 5.0) + generator.normal(0, 0.05, (6, 400))
    assert bool((fit_reverse_weibull(torch.from_numpy(two_heaps)).p_value < 1e-6).all())
    heavy = torch.from_numpy(generator.exponential(1.0, (6, 400)))
    fit = fit_reverse_weibull(heavy)
    assert not bool(fit.fitted.any())
    assert torch.equal(fit.location, heavy.amax(dim=1))
    assert bool(fit.shape.isnan().all() & fit.p_value.isnan().all())


def test_draws_that_are_alike_or_few_or_not_finite_are_not_fitted() -> None:
    alike = fit_reverse_weibull(torch.full((1, 20), 0.3) * (1 + torch.arange(20) * 1e-8))
    assert bool(alike.fitted.all())
    assert float(alike.location) == pytest.approx(0.3, rel=1e-6)
    few = fit_reverse_weibull(torch.arange(9.0)[None])
    assert (few.fitted.tolist(), few.location.tolist()) == ([False], [8.0])
    infinite = fit_reverse_weibull(torch.cat((torch.arange(20.0), torch.tensor([math.inf])))[None])
    assert (infinite.fitted.tolist(), infinite.location.tolist()) == ([False], [math.inf])
    assert len(fit_reverse_weibull(torch.zeros(0, 20)).location) == 0


def test_poor_fits_warn_and_without_an_upper_end_the_largest_norm_stands() -> None:
    class Steep(nn.Module):
        """The slope of the margin is 1 / t**2, t from 1e-4 to 2: its upper end is far beyond what is sampled."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack((x[:, 0] * 0, -1 - 1 / (x[:, 0] + 1.0001)), dim=1)

    class Heaps(nn.Module):
        """Slope 5 in a corner of the ball, slope near 1 elsewhere: some batches meet the corner and some do not."""

        def forward(self, x: Tensor) -> Tensor:
            edge = (x[:, 0] - 0.9).relu()
            return torch.stack((torch.zeros_like(edge), -9 - x[:, 0] - 4 * edge), dim=1)

    x, y = torch.zeros(1, 6, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    found = Clever(200, 3, 1.0)(_wrapped(Steep()), x, y, "linf", streams=_streams(1))
    assert not bool(found.fit.fitted.any())
    assert torch.equal(found.lipschitz, found.largest)
    assert found.poor.tolist() == [[True]]
    assert "largest gradient norm seen" in found.warnings[0]
    found = Clever(200, 20, 1.0)(_wrapped(Heaps()), x, y, "linf", streams=_streams(1))
    assert found.poor.tolist() == [[True]]
    assert bool(found.fit.fitted.all())
    assert "Kolmogorov-Smirnov" in found.warnings[0]


def test_masked_and_infinite_gradients_warn() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack((1 + 0 * x[:, 0], 0 * x[:, 0]), dim=1)

    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack((2 + 0 * x[:, 0], (x[:, 0] - x[:, 0]).abs().sqrt()), dim=1)

    x, y = torch.zeros(1, 2, dtype=torch.float64) + 0.5, torch.zeros(1, dtype=torch.int64)
    found = Clever(10, 5, 0.1)(_wrapped(Flat()), x, y, "l2", streams=_streams(1))
    assert found.score.tolist() == [0.1]
    assert "masked" in found.warnings[0]
    found = Clever(10, 5, 0.1)(_wrapped(Root()), x, y, "l2", streams=_streams(1))
    assert found.score.tolist() == [0.0]
    assert "not finite" in found.warnings[0]


def test_masked_gradients_make_the_score_too_large_as_goodfellow_says() -> None:
    class Staircase(nn.Module):
        """A linear margin of slope 1, climbed in steps: nearly flat almost everywhere."""

        def forward(self, x: Tensor) -> Tensor:
            level = 100 * x[:, 0]
            step = (level - 0.5).round() + torch.sigmoid(4000 * (level - level.round())) + 1e-3 * level
            return torch.stack((0.2 - step / 100, 0 * level), dim=1)

    x, y = torch.full((1, 1), 0.005, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    victim = _wrapped(Staircase())
    assert victim.labels(torch.tensor([[0.25]], dtype=torch.float64), torch.arange(1)).tolist() == [1]
    assert float(Clever(10, 5, 2.0)(victim, x, y, "linf", streams=_streams(1)).score) > 0.25


def test_the_answer_says_that_it_is_an_estimate() -> None:
    victim, x, y = _linear()
    found = Clever(10, 2, 1.0)(victim, x, y, "l2", streams=_streams(6))
    assert "estimates, no proofs" in repr(found)
    assert len(found) == 6
    assert "Not a proof" in str(__import__("hauberk.certify.clever", fromlist=["__doc__"]).__doc__)


@pytest.mark.parametrize("norm", ["l0", Norm.L0, "l3"])
def test_a_norm_without_a_dual_is_refused(norm: Norm | str) -> None:
    victim, x, y = _linear()
    with pytest.raises(ThreatError, match="linf, l2 and l1"):
        Clever(10, 2)(victim, x, y, norm, streams=_streams(6))


def test_a_victim_without_gradients_is_refused() -> None:
    victim, x, y = _linear()
    with pytest.raises(AccessError, match="gradients"):
        Clever(10, 2)(Meter(victim, 6, access=Access.SCORES), x, y, "l2", streams=_streams(6))
    labels = wrap(lambda z: np.zeros(len(z), dtype=np.int64), bounds=FAR, dtype="float64")
    with pytest.raises(AccessError, match="labels"):
        Clever(10, 2)(labels, x, torch.zeros(6, dtype=torch.int64), "l2", streams=_streams(6))


@pytest.mark.parametrize(
    "settings",
    [
        {"batches": 0},
        {"samples": 0},
        {"samples": 2.5},
        {"chunk": 0},
        {"batches": True},
        {"radius": 0.0},
        {"radius": -1},
        {"radius": math.inf},
        {"radius": math.nan},
        {"radius": "far"},
        {"batches": 2**20, "samples": 2**20},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        Clever(**settings)  # type: ignore[arg-type]


def test_arguments_that_cannot_be_used_are_refused() -> None:
    victim, x, y = _linear()
    estimate, streams = Clever(10, 2, 1.0), _streams(6)
    with pytest.raises(SettingError, match="TopK"):
        estimate(victim, x, TopK(y, 2), "l2", streams=streams)
    with pytest.raises(SettingError, match="leave one"):
        estimate(victim, x, Targeted(y), "l2", streams=streams, targets=y)
    for targets in (y, (y + 1) % 4 + 4, y[:5], (y + 1.0) % 4, torch.zeros(6, 0, dtype=torch.int64)):
        with pytest.raises(SettingError, match="targets"):
            estimate(victim, x, y, "l2", streams=streams, targets=targets)
    with pytest.raises(SettingError, match="stream"):
        estimate(victim, x, y, "l2", streams=_streams(5))
    with pytest.raises(SettingError, match="ids"):
        estimate(victim, x, y, "l2", streams=Streams(0, torch.arange(6) + 2**32, "test"))
    with pytest.raises(SettingError, match="21 queries"):
        estimate(Meter(victim, 6, budget=20), x, y, "l2", streams=streams)
    with pytest.raises(DataError):
        estimate(victim, x, y + 10, "l2", streams=streams)


def test_float32_nets_score_without_warnings_of_their_own() -> None:
    net, x, y = _net()
    victim = wrap(net, bounds=(-10.0, 10.0), dtype="float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Clever(12, 10, 0.5)(victim, x.float(), y, "l2", streams=_streams(4))
    assert found.score.dtype == torch.float64
    exact = Clever(12, 10, 0.5)(_wrapped(net), x.float().double(), y, "l2", streams=_streams(4))
    torch.testing.assert_close(found.largest, exact.largest, rtol=1e-3, atol=0)
