"""The geometry of the charts, in the units of an SVG's view box; the templates only draw it.

The charts are small, few and flat, so they are drawn by Jinja macros as inline SVG rather than by matplotlib: every
colour and font is then a CSS variable of the page (dark, light and print come for nothing), text stays text, a
drawing costs kilobytes instead of tens of them, and writing a report does not pay for importing a plotting library.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Curve", "Mark", "Series", "Span", "Spans", "Tick", "curve", "round_ticks", "spans"]

_WIDTH, _HEIGHT = 560.0, 340.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 28.0, 40.0, 52.0
_LABEL_GAP = 48.0  # nearer labels would touch when the text is enlarged for phones
_MOST_DOTS = 12


@dataclass(frozen=True)
class Mark:
    """One measured share: where it stands, its interval, and its words."""

    radius: float
    value: float
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Tick:
    """A label on an axis, at a place in view-box units."""

    at: float
    label: str


@dataclass(frozen=True)
class Dot:
    """A drawn mark."""

    x: float
    y: float
    label: str
    text: str


@dataclass(frozen=True)
class Series:
    """One drawn line with its band."""

    kind: str
    line: str
    band: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Curve:
    """A drawing of lines, as of robust accuracy against radius."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Span:
    """One example: how far it is proven, the smallest change that breaks it, an estimate between them, and the words for it.

    As given to `spans` in units of radius; as drawn, places down the picture, `upper` None where nothing breaks it.
    """

    lower: float
    upper: float | None
    estimate: float | None
    text: str
    x: float = 0.0


@dataclass(frozen=True)
class Spans:
    """A drawing of one upright span an example."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    y: tuple[Tick, ...]
    threats: tuple[Tick, ...]
    thickness: float
    spans: tuple[Span, ...]


def spans(given: Sequence[Span], radii: Sequence[tuple[float, str]]) -> Spans | None:
    """Lay out spans by increasing upper end, over the radii from 0 to the largest end; None where all of them are empty.

    Args:
        given: in any order.
        radii: (radius, label) of the threat, drawn across.
    """
    ends = [end for span in given for end in (span.lower, span.upper, span.estimate) if end is not None]
    far = 1.05 * max([*ends, *(radius for radius, _ in radii)], default=0.0)
    if not ends or max(ends) <= 0:
        return None

    def y(radius: float) -> float:
        return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - radius / far), 2)

    order = sorted(given, key=lambda span: (math.inf if span.upper is None else span.upper, span.lower))
    step = (_WIDTH - _LEFT - _RIGHT) / len(order)
    drawn = [
        Span(
            y(span.lower),
            None if span.upper is None else y(span.upper),
            None if span.estimate is None else y(span.estimate),
            span.text,
            round(_LEFT + step * (place + 0.5), 2),
        )
        for place, span in enumerate(order)
    ]
    ticks = tuple(Tick(y(radius), label) for radius, label in round_ticks(far))
    across = tuple(Tick(y(radius), label) for radius, label in radii)
    thickness = round(max(1.0, min(9.0, 0.7 * step)), 2)
    return Spans(
        _WIDTH, _HEIGHT, _LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM, ticks, across, thickness, tuple(drawn)
    )


def round_ticks(far: float) -> list[tuple[float, str]]:
    """Round radii from 0 to `far`, three to six of them, with their labels."""
    step = next(s for s in (m * 10.0**e for e in range(-12, 13) for m in (1, 2, 5)) if far / s <= 5)
    return [(k * step, f"{k * step:.6g}") for k in range(int(far / step * (1 + 1e-9)) + 1)]


_QUARTERS = tuple((share, f"{100 * share:.0f}") for share in (0.0, 0.25, 0.5, 0.75, 1.0))


def curve(
    lines: Sequence[tuple[str, Sequence[Mark]]],
    ticks: Sequence[tuple[float, str]],
    rungs: Sequence[tuple[float, str]] = _QUARTERS,
    *,
    far: float | None = None,
) -> Curve | None:
    """Lay out lines of marks, each line named by its kind, over the radii, or whatever is across, from 0 to the largest.

    Args:
        lines: (kind, marks by increasing radius).
        ticks: (radius, label) wanted on the x axis; those without room are left out, the last one never.
        rungs: (value, label) on the y axis, which ends at 1.
        far: where the x axis ends; at the largest radius where None.

    Returns:
        The drawing, or None where no mark has a radius above 0.
    """
    if far is None:
        far = max((mark.radius for _, marks in lines for mark in marks if math.isfinite(mark.radius)), default=0.0)
    if far <= 0:
        return None

    def x(radius: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * radius / far, 2)

    def y(share: float) -> float:
        return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - min(max(share, 0.0), 1.0)), 2)

    drawn = []
    for kind, marks in lines:
        shown = [mark for mark in marks if math.isfinite(mark.radius)]
        upper = [f"{x(m.radius)},{y(m.high)}" for m in shown]
        lower = [f"{x(m.radius)},{y(m.low)}" for m in reversed(shown)]
        dots = tuple(Dot(x(m.radius), y(m.value), m.label, f"{round(100 * m.value, 1):g}") for m in shown)
        drawn.append(
            Series(
                kind,
                " ".join(f"{x(m.radius)},{y(m.value)}" for m in shown),
                " ".join(upper + lower),
                dots if len(dots) <= _MOST_DOTS else (),
            )
        )
    return Curve(
        _WIDTH,
        _HEIGHT,
        _LEFT,
        _WIDTH - _RIGHT,
        _TOP,
        _HEIGHT - _BOTTOM,
        _spaced([Tick(x(radius), label) for radius, label in ticks]),
        tuple(Tick(y(value), label) for value, label in rungs),
        tuple(drawn),
    )


def _spaced(ticks: list[Tick]) -> tuple[Tick, ...]:
    """Those ticks that have room, taken from the right, because the headline speaks of the last."""
    kept: list[Tick] = []
    for tick in sorted(ticks, key=lambda tick: -tick.at):
        if not kept or kept[-1].at - tick.at >= _LABEL_GAP:
            kept.append(tick)
    return tuple(reversed(kept))
