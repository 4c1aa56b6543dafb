"""The geometry of the radius curve."""

import math
from itertools import pairwise

import pytest

from hauberk.report.charts import Mark, curve


def marks(*pairs: tuple[float, float]) -> list[Mark]:
    return [Mark(radius, value, max(0.0, value - 0.1), min(1.0, value + 0.1), f"{radius:g}") for radius, value in pairs]


def test_shares_and_radii_stand_where_the_axes_say() -> None:
    drawn = curve([("upper", marks((0.0, 1.0), (0.1, 0.5), (0.2, 0.0)))], [(0.0, "0"), (0.1, "0.1"), (0.2, "0.2")])
    assert drawn is not None
    first, middle, last = drawn.series[0].dots
    assert (first.x, first.y) == (drawn.left, drawn.top)
    assert (last.x, last.y) == (drawn.right, drawn.bottom)
    assert middle.x == pytest.approx((drawn.left + drawn.right) / 2)
    assert middle.y == pytest.approx((drawn.top + drawn.bottom) / 2)
    assert [tick.at for tick in drawn.x] == [first.x, middle.x, last.x]
    assert {tick.label: tick.at for tick in drawn.y}["50"] == pytest.approx(middle.y)


def test_the_band_holds_the_line() -> None:
    drawn = curve([("upper", marks((0.0, 0.9), (0.1, 0.5)))], [])
    assert drawn is not None
    points = [tuple(map(float, point.split(","))) for point in drawn.series[0].band.split()]
    for dot in drawn.series[0].dots:
        heights = [y for x, y in points if x == dot.x]
        assert min(heights) <= dot.y <= max(heights)


def test_labels_that_would_touch_are_left_out_but_never_the_largest_radius() -> None:
    radii = [0.0, *(k / 100 for k in range(1, 21))]
    drawn = curve(
        [("upper", marks(*((radius, 0.5) for radius in radii)))], [(radius, f"{radius:g}") for radius in radii]
    )
    assert drawn is not None
    gaps = [b.at - a.at for a, b in pairwise(drawn.x)]
    assert drawn.x[-1].label == "0.2"
    assert min(gaps) >= 48
    assert drawn.series[0].dots == ()


def test_nothing_is_drawn_without_a_finite_radius() -> None:
    assert curve([("upper", [])], []) is None
    assert curve([("upper", marks((0.0, 0.9)))], []) is None
    assert curve([("upper", marks((0.0, 0.9), (math.inf, 0.0)))], []) is None
