"""Intervals and tests agree with textbooks, with scipy, and with sums over every outcome."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hauberk.errors import InputError, SettingError
from hauberk.evaluate.statistics import Proportion, clopper_pearson, mcnemar, smallest_detectable_difference, wilson


@pytest.mark.parametrize("n", [1, 2, 10, 97, 512, 10_000])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("ours", "method"), [(clopper_pearson, "exact"), (wilson, "wilson")])
def test_intervals_agree_with_scipy(ours: type, method: str, n: int, level: float) -> None:
    for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        theirs = stats.binomtest(k, n).proportion_ci(confidence_level=level, method=method)
        mine = ours(k, n, level)
        assert mine.value == k / n
        assert mine.count == n
        assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("n", [1, 10, 100, 10_000])
def test_the_exact_interval_of_no_and_of_all_successes_is_known_in_closed_form(n: int) -> None:
    end = 0.025 ** (1 / n)
    none, all_ = clopper_pearson(0, n), clopper_pearson(n, n)
    assert none == Proportion(0.0, 0.0, none.high, n)
    assert all_ == Proportion(1.0, all_.low, 1.0, n)
    assert (none.high, all_.low) == pytest.approx((1 - end, end))


def test_intervals_agree_with_the_textbook() -> None:
    # Brown, Cai, DasGupta 2001; Newcombe 1998, table I: 81 of 263 and 15 of 148
    exact, score = clopper_pearson(81, 263), wilson(81, 263)
    assert [round(v, 4) for v in (exact.low, exact.high)] == [0.2527, 0.3676]
    assert [round(v, 4) for v in (score.low, score.high)] == [0.2553, 0.3662]
    exact, score = clopper_pearson(15, 148), wilson(15, 148)
    assert [round(v, 4) for v in (exact.low, exact.high)] == [0.0578, 0.1617]
    assert [round(v, 4) for v in (score.low, score.high)] == [0.0624, 0.1605]


@pytest.mark.parametrize("n", [5, 20, 60])
def test_the_exact_interval_covers_whatever_the_truth(n: int) -> None:
    intervals = [clopper_pearson(k, n, 0.9) for k in range(n + 1)]
    for truth in np.linspace(0, 1, 101):
        covered = [i.low <= truth <= i.high for i in intervals]
        assert stats.binom.pmf(np.arange(n + 1), n, truth)[covered].sum() >= 0.9 - 1e-12


@given(n=st.integers(1, 10**7), share=st.floats(0, 1), level=st.floats(0.01, 0.999))
def test_intervals_hold_the_value_and_mirror(n: int, share: float, level: float) -> None:
    k = round(n * share)
    for interval in (clopper_pearson, wilson):
        mine, mirrored = interval(k, n, level), interval(n - k, n, level)
        assert 0 <= mine.low <= mine.value <= mine.high <= 1
        assert mine.low == pytest.approx(1 - mirrored.high, abs=1e-12)


@pytest.mark.parametrize("interval", [clopper_pearson, wilson])
def test_intervals_refuse_what_is_no_count(interval: type) -> None:
    for successes, n in ((0, 0), (0, -3), (-1, 5), (6, 5)):
        with pytest.raises(InputError):
            interval(successes, n)
    for level in (0.0, 1.0, 95.0, math.nan):
        with pytest.raises(SettingError):
            interval(1, 2, level)


def test_a_proportion_has_the_fields_of_the_contract() -> None:
    found = clopper_pearson(3, 4).to_json()
    assert list(found) == ["value", "low", "high", "count"]
    assert [type(value) for value in found.values()] == [float, float, float, int]


@pytest.mark.parametrize(("b", "c"), [(0, 1), (1, 1), (5, 0), (3, 9), (86, 150), (1000, 1100), (0, 400)])
def test_mcnemar_agrees_with_the_binomial_test(b: int, c: int) -> None:
    expected = stats.binomtest(b, b + c, 0.5).pvalue
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(c, b) == mcnemar(b, c)


def test_mcnemar_agrees_with_the_textbook() -> None:
    # Agresti 2002, table 10.1, approval of the prime minister: 150 and 86 changed their minds, z^2 = 17.36
    assert mcnemar(150, 86) == pytest.approx(3.7e-5, rel=0.02)
    assert mcnemar(0, 6) == 2 / 64  # all six coins fall the same way
    assert mcnemar(0, 0) == 1.0
    with pytest.raises(InputError, match="-1"):
        mcnemar(-1, 3)


def power_by_sum(n: int, rate: float, difference: float, level: float) -> float:
    """The power of the exact test, summed over every pair (b, c)."""
    better, worse, total = (rate + difference) / 2, (rate - difference) / 2, 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            if mcnemar(b, c) <= level:
                total += float(stats.multinomial.pmf([b, c, n - b - c], n, [better, worse, 1 - rate]))
    return total


@pytest.mark.parametrize(
    ("n", "rate", "level", "power"),
    [(12, 1.0, 0.05, 0.8), (25, 0.6, 0.05, 0.8), (30, 0.3, 0.1, 0.5), (20, 0.5, 0.3, 0.9)],
)
def test_the_smallest_detectable_difference_has_just_the_power_asked_for(
    n: int, rate: float, level: float, power: float
) -> None:
    found = smallest_detectable_difference(n, rate, level, power)
    assert found is not None
    assert 0 < found < rate
    assert power_by_sum(n, rate, found, level) == pytest.approx(power, abs=1e-6)
    assert power_by_sum(n, rate, 0.9 * found, level) < power


def test_the_smallest_detectable_difference_agrees_with_the_normal_approximation_where_that_holds() -> None:
    # Connor 1987: n = (z_level sqrt(psi) + z_power sqrt(psi - d^2))^2 / d^2; the exact test is a little more careful
    n, psi = 20_000, 0.1
    z, y = stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    grid = np.linspace(0.001, 0.05, 100_000)
    asymptotic = grid[(z * psi**0.5 + y * (psi - grid**2) ** 0.5) ** 2 / grid**2 <= n][0]
    found = smallest_detectable_difference(n, psi)
    assert found is not None
    assert 1.0 < found / asymptotic < 1.03


def test_what_cannot_be_shown_is_none() -> None:
    assert smallest_detectable_difference(100, 0.0) is None
    assert smallest_detectable_difference(5, 1.0) is None  # five of five is p = 1/16
    assert smallest_detectable_difference(6, 1.0) is not None
    assert smallest_detectable_difference(100, 0.02) is None


def test_more_examples_show_smaller_differences() -> None:
    found = [smallest_detectable_difference(n, 0.1) for n in (100, 1_000, 10_000, 1_000_000)]
    sizes = [size for size in found if size is not None]
    assert len(sizes) == 4
    assert sizes == sorted(sizes, reverse=True)


def test_a_comparison_without_examples_or_with_impossible_settings_is_refused() -> None:
    with pytest.raises(InputError, match="got 0"):
        smallest_detectable_difference(0, 0.1)
    for rate, level, power in (
        (1.1, 0.05, 0.8),
        (-0.1, 0.05, 0.8),
        (0.1, 0.0, 0.8),
        (0.1, 0.05, 1.0),
        (math.nan, 0.05, 0.8),
    ):
        with pytest.raises(SettingError):
            smallest_detectable_difference(10, rate, level, power)
