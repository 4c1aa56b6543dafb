"""Smoothing on half-spaces, where the smoothed probability and the exact radius are known, and its statement by simulation."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest, norm
from torch import Tensor

from hauberk._rng import Streams
from hauberk.certify.smoothing import (
    ABSTAIN,
    SmoothedCertificates,
    Smoothing,
    _lower_bound,  # type: ignore[reportPrivateUsage]
    certified_accuracy,
)
from hauberk.errors import DataError, ModelError, SettingError
from hauberk.evaluate.statistics import clopper_pearson
from hauberk.testing.closed_form import LinearVictim
from hauberk.threat import Norm
from hauberk.victims import Meter, Victim, eot, wrap

WIDE = (-10.0, 10.0)


def _half_space() -> Victim:
    """Label 1 where (0.6, 0.8) @ x > 0, else 0, and nothing but labels."""
    return wrap(lambda x: (x @ np.array([0.6, 0.8]) > 0).astype(np.int64), bounds=WIDE, dtype="float64")


def _at(distance: float, count: int = 1) -> Tensor:
    """Points this far inside class 1."""
    return (torch.tensor([[0.6, 0.8]], dtype=torch.float64) * distance).repeat(count, 1)


def _streams(count: int, seed: int = 0) -> Streams:
    return Streams(seed, torch.arange(count), "test")


def _four_classes() -> tuple[LinearVictim, Tensor]:
    victim = LinearVictim.random(3, 12, classes=4)
    return victim, Streams(1, torch.arange(9)).uniform(torch.arange(9), (1, 3, 4), dtype=torch.float64)


def _same(a: SmoothedCertificates, b: SmoothedCertificates) -> None:
    for name in ("label", "radius", "p_lower", "n_used", "votes"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_all_of_100_000_votes_certify_3_81_sigma() -> None:
    always = wrap(lambda x: np.full(len(x), 2), bounds=(0, 1))
    found = Smoothing(sigma=0.5, batch=50_000).certify(always, torch.zeros(1, 1), streams=_streams(1))
    assert found.label.tolist() == [2]
    assert found.votes.tolist() == found.n_used.tolist() == [100_000]
    assert found.radius.dtype == torch.float64
    assert found.p_lower.item() == pytest.approx(0.001 ** (1 / 100_000), abs=1e-12)
    assert found.radius.item() == pytest.approx(0.5 * norm.ppf(0.001 ** (1 / 100_000)), abs=1e-6)
    assert found.radius.item() / 0.5 == pytest.approx(3.81146, abs=1e-5)


def test_the_bound_is_that_of_scipy_and_never_too_high_too_often() -> None:
    """The probability that it exceeds the truth, summed over all counts."""
    for n, alpha in [(1, 0.05), (37, 0.001), (200, 0.1)]:
        bound = _lower_bound(torch.arange(n + 1), n, alpha).numpy()
        for k in range(0, n + 1, 7):
            known = binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, method="exact")
            assert bound[k] == pytest.approx(known.low, abs=1e-9)
        for p in np.linspace(0.01, 0.999, 60):
            assert binom.pmf(np.arange(n + 1), n, p)[bound > p].sum() <= alpha + 1e-12


@pytest.mark.parametrize("distance", [0.1, 0.3, 0.6])
def test_votes_and_radius_are_those_of_the_half_space(distance: float) -> None:
    found = Smoothing(sigma=0.4, n=40_000, batch=40_000).certify(_half_space(), _at(distance), streams=_streams(1))
    p = norm.cdf(distance / 0.4)
    assert found.label.tolist() == [1]
    assert found.votes.item() / 40_000 == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 40_000))
    assert 0.9 * distance < found.radius.item() < distance


@pytest.mark.parametrize(("distance", "radius"), [(0.02, None), (0.3, None), (0.7, None), (0.3, 0.31), (0.5, 0.4)])
def test_the_radius_is_too_large_or_the_label_wrong_in_at_most_a_share_alpha_of_runs(
    distance: float, radius: float | None
) -> None:
    """Each of 4,000 streams is a run by itself. A wanted radius just above the truth is what tempts to stop too early."""
    runs, alpha = 4000, 0.1
    smoothing = Smoothing(sigma=0.5, n0=5, n=160, alpha=alpha, batch=50_000, radius=radius, looks=4)
    found = smoothing.certify(_half_space(), _at(distance, runs), streams=_streams(runs))
    wrong = (found.label == 0) | ((found.label == 1) & (found.radius > distance))
    assert wrong.double().mean().item() <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)
    if distance == 0.3:
        assert bool(wrong.any())  # the runs are many enough to see it happen
    if radius is None:
        assert bool((found.n_used == 160).all())
    else:
        assert len(found.n_used.unique()) > 1


def test_the_class_is_chosen_from_other_draws_than_those_that_vote() -> None:
    """On the boundary every certificate is wrong; a class that its own lucky draws chose would have twice the luck."""
    smoothing = Smoothing(sigma=0.5, n0=160, n=160, alpha=0.1, batch=50_000)
    found = smoothing.certify(_half_space(), _at(0.0, 4000), streams=_streams(4000))
    assert (found.label != ABSTAIN).double().mean().item() <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 4000)


def test_no_draw_is_used_twice() -> None:
    """Neither in two stages, nor to choose and to vote, nor to certify and to predict, nor for two examples."""
    seen: list[Any] = []

    def labels(x: Any) -> Any:
        seen.append(x.copy())
        return (x[:, 0] > 0).astype(np.int64)

    x, meter = _at(0.0, 2), Meter(wrap(labels, bounds=WIDE, dtype="float64"), 2)
    smoothing = Smoothing(sigma=0.5, n0=50, n=3000, radius=0.01)
    found = smoothing.certify(meter, x, streams=_streams(2))
    assert found.n_used.tolist() == [3000, 3000]
    smoothing.predict(meter, x, streams=_streams(2), n=300)
    points = np.concatenate(seen)
    noisy = points[points.any(axis=1)]  # the probe asks about the examples themselves, which stand at 0
    assert len(np.unique(noisy, axis=0)) == len(noisy) == int(meter.queries.sum()) == 2 * 3350


def test_stopping_early_without_sharing_alpha_would_break_the_statement() -> None:
    """What the simulation above must be able to see: five looks at a level of alpha each."""
    chance, sizes, p = np.random.default_rng(0), [1, 3, 10, 40, 160], norm.cdf(0.6)
    steps = np.diff([0, *sizes])
    votes = np.cumsum(np.stack([chance.binomial(step, p, 20_000) for step in steps]), axis=0)
    bounds = [_lower_bound(torch.from_numpy(k), size, 0.1).numpy() > p for k, size in zip(votes, sizes, strict=True)]
    assert np.any(bounds, axis=0).mean() > 0.15


def test_a_wanted_radius_saves_draws_where_it_is_easy_and_where_it_is_hopeless() -> None:
    smoothing = Smoothing(sigma=0.5, n=20_000, alpha=0.01, radius=0.25, batch=50_000)
    assert smoothing.sizes == (79, 313, 1250, 5000, 20_000)
    x = torch.cat((_at(2.0), _at(0.02), _at(0.26)))
    meter = Meter(_half_space(), 3)
    found = smoothing.certify(meter, x, streams=_streams(3))
    assert found.radius[0] > 0.25
    assert found.n_used.tolist()[:2] == [79, 313] or max(found.n_used.tolist()[:2]) <= 1250
    assert found.n_used[2] == 20_000
    assert meter.queries.tolist() == (found.n_used + 100).tolist()
    plain = dataclasses.replace(smoothing, radius=None).certify(_half_space(), x, streams=_streams(3))
    assert bool((plain.n_used == 20_000).all())


@pytest.mark.parametrize("radius", [None, 0.15])
def test_neither_batches_nor_their_cuts_nor_the_order_change_a_certificate(radius: float | None) -> None:
    victim, x = _four_classes()
    smoothing = Smoothing(sigma=0.3, n0=30, n=450, alpha=0.01, batch=1000, radius=radius)
    whole = smoothing.certify(victim, x, streams=_streams(9))
    labels = smoothing.predict(victim, x, streams=_streams(9))
    assert len(whole.label.unique()) > 1
    for batch in (1, 7, 450, 10_000):
        again = dataclasses.replace(smoothing, batch=batch)
        _same(again.certify(victim, x, streams=_streams(9)), whole)
        assert torch.equal(again.predict(victim, x, streams=_streams(9)), labels)
    for rows in (torch.arange(4), torch.arange(4, 9), torch.tensor([8, 0, 5, 3, 1, 7, 2, 6, 4])):
        part = smoothing.certify(victim, x[rows], streams=_streams(9).take(rows))
        for name in ("label", "radius", "p_lower", "n_used", "votes"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rows]), name
        assert torch.equal(smoothing.predict(victim, x[rows], streams=_streams(9).take(rows)), labels[rows])
    other = smoothing.certify(victim, x, streams=_streams(9, seed=1))
    assert not torch.equal(other.votes, whole.votes)


def test_large_inputs_are_drawn_in_smaller_blocks() -> None:
    victim = wrap(lambda x: (x.mean(axis=(1, 2)) > 0.5).astype(np.int64), bounds=(0, 1), dtype="float64")
    x = torch.full((2, 300, 300), 0.501, dtype=torch.float64)
    smoothing = Smoothing(sigma=0.3, n0=3, n=8, alpha=0.1)
    found = [dataclasses.replace(smoothing, batch=batch).certify(victim, x, streams=_streams(2)) for batch in (1, 5)]
    _same(*found)
    assert 0 < int(found[0].votes.sum()) <= 16


def test_prediction_is_the_binomial_test_of_the_two_most_voted() -> None:
    for distance in (0.0, 0.02, 0.08, 0.5):
        smoothing = Smoothing(sigma=0.5, alpha=0.05)
        x, seen = _at(distance, 20), Meter(_half_space(), 20)
        found = smoothing.predict(seen, x, streams=_streams(20), n=200)
        assert seen.queries.tolist() == [200] * 20
        noise = Streams(0, torch.arange(20), "test/predict")
        z = torch.cat([noise.normal(torch.arange(20), (100, 2), dtype=torch.float64) for _ in range(2)], dim=1)
        ones = ((x[:, None] + 0.5 * z) @ x.new_tensor([0.6, 0.8]) > 0).sum(dim=1)
        for k, label in zip(ones.tolist(), found.tolist(), strict=True):
            assert label == (int(k > 100) if binomtest(k, 200).pvalue <= 0.05 else ABSTAIN)
    assert found.tolist() == [1] * 20


def test_a_prediction_is_wrong_in_at_most_a_share_alpha_of_runs() -> None:
    found = Smoothing(sigma=0.5, alpha=0.1, batch=50_000).predict(
        _half_space(), _at(0.01, 4000), streams=_streams(4000), n=100
    )
    assert (found == 0).double().mean().item() <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 4000)
    assert bool((found == ABSTAIN).any())


def test_predictions_within_the_certified_radius_agree_with_the_certificate() -> None:
    victim, x = _four_classes()
    smoothing = Smoothing(sigma=0.2, n=4000, batch=20_000)
    found = smoothing.certify(victim, x, streams=_streams(9))
    sure = (found.label != ABSTAIN).nonzero()[:, 0]
    assert len(sure) >= 5
    rival = victim.weights[(found.label[sure] + 1) % 4] - victim.weights[found.label[sure]]
    step = rival / rival.norm(dim=1, keepdim=True) * found.radius[sure, None] * 0.999
    meter = Meter(LinearVictim(victim.weights, victim.bias, WIDE), len(sure))
    moved = smoothing.predict(meter, x[sure] + step.reshape(-1, 1, 3, 4), streams=_streams(9).take(sure))
    assert bool(((moved == found.label[sure]) | (moved == ABSTAIN)).all())


def test_without_a_majority_it_abstains() -> None:
    found = Smoothing(sigma=0.5, n=1000).certify(_half_space(), _at(0.0, 3), streams=_streams(3))
    assert found.label.tolist() == [ABSTAIN] * 3
    assert found.radius.tolist() == [0.0] * 3
    assert bool((found.p_lower <= 0.5).all())
    assert "certified 0 of 3" in repr(found)


def test_an_answer_that_is_not_finite_is_a_vote_for_no_class() -> None:
    def scores(x: Any) -> Any:
        found = np.stack((x[:, 0], -x[:, 0]), axis=1)
        found[x[:, 0] > 1] = np.nan
        return found

    victim, x = wrap(scores, bounds=(-1, 1), dtype="float64"), torch.ones(1, 1, dtype=torch.float64)
    smoothing = Smoothing(sigma=0.25, n=2000)
    found = smoothing.certify(victim, x, streams=_streams(1))
    assert found.label.tolist() == [ABSTAIN]
    assert 900 < found.votes.item() < 1100
    assert smoothing.predict(victim, x, streams=_streams(1)).tolist() == [ABSTAIN]
    clipped = dataclasses.replace(smoothing, clip=True)
    assert clipped.certify(victim, x, streams=_streams(1)).votes.tolist() == [2000]
    assert clipped.predict(victim, x, streams=_streams(1)).tolist() == [0]


def test_a_victim_is_shown_noise_outside_of_its_bounds_unless_it_is_clipped() -> None:
    seen: list[float] = []

    def labels(x: Any) -> Any:
        seen.append(float(np.abs(x - 0.5).max()))
        return (x[:, 0] > 0.5).astype(np.int64)

    victim = wrap(labels, bounds=(0, 1))
    Smoothing(sigma=0.5, n=500).certify(victim, torch.ones(1, 1), streams=_streams(1))
    assert max(seen) > 1
    seen.clear()
    Smoothing(sigma=0.5, n=500, clip=True).certify(victim, torch.ones(1, 1), streams=_streams(1))
    assert max(seen) == 0.5


def test_the_curve_counts_right_labels_with_larger_radii_and_has_exact_intervals() -> None:
    label = torch.tensor([0, 1, 2, ABSTAIN, 1])
    radius = torch.tensor([0.5, 0.25, 1.0, 0.0, 2.0], dtype=torch.float64)
    count = torch.zeros(5, dtype=torch.int64)
    found = SmoothedCertificates(label, radius, radius, count, count, 0.25, 0.001)
    curve = certified_accuracy(found, [0, 1, 0, 1, 1], [0, 0.25, 0.5, 2])
    assert curve.value == (0.6, 0.4, 0.2, 0.0)
    for value, low, high in zip(curve.value, curve.low, curve.high, strict=True):
        known = clopper_pearson(round(value * 5), 5)
        assert (low, high) == pytest.approx((known.low, known.high), abs=1e-9)
    assert curve.count == 5
    for y, radii, kind in [([0, 1], [0.5], DataError), ([0] * 5, [], SettingError), ([0] * 5, [-1], SettingError)]:
        with pytest.raises(kind, match="got"):
            certified_accuracy(found, y, radii)
    with pytest.raises(SettingError, match="level"):
        certified_accuracy(found, [0] * 5, [0.5], level=1)


@pytest.mark.parametrize(
    "settings",
    [
        *({"sigma": bad} for bad in (0, -1, math.nan, math.inf, "0.25", True)),
        *({"alpha": bad} for bad in (0, 1, -0.1, math.nan)),
        *({name: bad} for name in ("n", "n0", "batch", "looks") for bad in (0, -1, 2.5, True)),
        *({"radius": bad} for bad in (0, -1, math.nan)),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"{next(iter(settings))}.* got "):
        Smoothing(**{"sigma": 0.25, **settings})


def test_another_norm_and_a_radius_beyond_the_draws_are_refused() -> None:
    for name in (Norm.LINF, "linf", "l1", Norm.L0, 2):
        with pytest.raises(SettingError, match="certifies in l2 only, got norm="):
            Smoothing(0.25, norm=name)  # type: ignore[arg-type]
    assert Smoothing(0.25, norm="l2") == Smoothing(0.25)
    with pytest.raises(SettingError, match=r"certifies radii below 0\.\d+, got radius=1"):
        Smoothing(0.25, radius=1, n=1000)
    assert Smoothing(np.float64(0.25), n=np.int64(10)) == Smoothing(0.25, n=10)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (torch.zeros(0, 2), DataError, "at least one example, got none"),
        (torch.tensor([[math.nan, 0.0]]), DataError, "got NaN in example 0"),
        (torch.tensor([[math.inf, 0.0]]), DataError, "got infinity"),
        (torch.tensor([[99.0, 0.0]]), DataError, "expected values in"),
        (torch.tensor(1.0), DataError, "expected a batch of examples"),
        (3, DataError, "expected a batch of examples"),
        (torch.zeros(2, 2), SettingError, "one stream for each of 2 examples, got 1"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_examples_that_cannot_be_used_are_refused(x: Any, kind: type[Exception], words: str) -> None:
    smoothing = Smoothing(0.25, n=10)
    calls: list[Callable[..., Any]] = [smoothing.certify, smoothing.predict]
    for call in calls:
        with pytest.raises(kind, match=words):
            call(_half_space(), x, streams=_streams(1))


def test_a_small_budget_and_a_victim_that_averages_are_refused() -> None:
    meter = Meter(_half_space(), 1, budget=100)
    with pytest.raises(SettingError, match=r"may ask 110 queries .* allows 100 more"):
        Smoothing(0.25, n=10).certify(meter, _at(0.1), streams=_streams(1))
    assert meter.queries.tolist() == [0]
    averaged = eot(_four_classes()[0], 2)
    with pytest.raises(ModelError, match="independent answers"):
        Smoothing(0.25, n=10).certify(averaged, _four_classes()[1][:1], streams=_streams(1))
    with pytest.raises(SettingError, match="n to be a whole number"):
        Smoothing(0.25).predict(_half_space(), _at(0.1), streams=_streams(1), n=0)
